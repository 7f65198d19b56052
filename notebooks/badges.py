"""Let the notebooks open on Colab from your repository: `python -m notebooks.badges OWNER/NAME`.

Writes the badge below the title of each notebook, and the address that its first cell installs
jaxticket from, into both files of the pair; outputs stay. Commit and push what it changed.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat

from notebooks.run import FOLDER, NAMES, text

COLAB = "https://colab.research.google.com"
BADGE = re.compile(r"\[!\[Open in Colab\]\([^)]*\)\]\([^)]*\)\n\n")
ADDRESS = re.compile(r'(os\.environ\.get\("JAXTICKET_REPOSITORY", )"[^"]*"\)')
REPOSITORY = re.compile(r"[A-Za-z0-9-]+/[A-Za-z0-9._-]+")


def write(repository: str, *, branch: str = "main", folder: Path = FOLDER) -> None:
    """Write badge and address into both files of every notebook.

    Args:
      repository: "OWNER/NAME" on GitHub.
      branch: whose notebooks Colab opens.
      folder: where the notebooks are.

    Raises:
      ValueError: for a repository that is no "OWNER/NAME", and notebooks without a title or an
        address to replace.
    """
    if not REPOSITORY.fullmatch(repository):
        raise ValueError(f"`repository` is {repository!r}: give OWNER/NAME, as GitHub shows them")
    for name in NAMES:
        notebook = nbformat.read(folder / f"{name}.ipynb", as_version=4)
        page = f"{COLAB}/github/{repository}/blob/{branch}/notebooks/{name}.ipynb"
        badge = f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({page})\n\n"
        title, _, rest = BADGE.sub("", notebook.cells[0].source).partition("\n\n")
        if not (title.startswith("# ") and rest):
            raise ValueError(f"the first cell of {name} does not begin with a title and a text")
        notebook.cells[0].source = f"{title}\n\n{badge}{rest}"
        address = rf'\g<1>"https://github.com/{repository}")'
        code = notebook.cells[1]
        code.source, found = ADDRESS.subn(address, code.source)
        if found != 1:
            raise ValueError(f"the second cell of {name} has no address of the repository")
        nbformat.write(notebook, folder / f"{name}.ipynb")
        (folder / f"{name}.py").write_text(text(notebook), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write what the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("repository", metavar="OWNER/NAME", help="on GitHub, such as of your fork")
    parser.add_argument("--branch", default="main", help="whose notebooks Colab opens")
    given = parser.parse_args(arguments)
    write(given.repository, branch=given.branch)
    print(f"{len(NAMES)} notebooks open on Colab from {given.repository}, branch {given.branch}")


if __name__ == "__main__":
    main(sys.argv[1:])
