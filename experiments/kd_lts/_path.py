"""Makes the helpers of the folder above importable: `import _path` comes before theirs."""

import sys
from pathlib import Path

# at the end: no file of ours may hide one of the standard library
sys.path.append(str(Path(__file__).resolve().parents[1]))
