"""Optional dependencies: what only some users need is an extra of the package."""

from __future__ import annotations

import importlib.util


def require(module: str, extra: str) -> None:
    """Raise where an optional package is missing, before it is imported.

    Args:
      module: the package's import name, such as "grain".
      extra: the extra of jaxticket that installs it, such as "stream".

    Raises:
      ImportError: with the command that installs it.

    >>> require("numpy", "data")
    """
    if importlib.util.find_spec(module) is None:
        raise ImportError(
            f"this needs the package {module!r}, which is not installed; install it with\n"
            f"  pip install 'jaxticket[{extra}]'",
            name=module,
        )
