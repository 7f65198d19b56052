"""What functions compute, as a short text: how run folders tell code from other code of its name.

Functions of jaxticket and of installed libraries are known by their names and versions. Code of the
user's own is known by what it does: its bytecode (without comments, docstrings, names of local
variables and lines), default arguments, the values in its closure, and all that it names:
functions, classes with their bases, constants, arrays by their content, in their turn. Of modules
that it imports when it runs, and of those that it passes on, the files count, with those that they
import. The same code gives the same text in every process.

What is not seen:

- what a library does differently in another version: `environment.json` records the versions of
  those that jaxticket needs; the versions of others count, and where they were installed from a
  folder or a repository, their files; edits of installed files are not seen, nor those of jaxticket
- what code does to libraries: functions put in place of theirs, what is registered with them
  (pytrees, primitives), their settings
- files and environment variables that a function reads when it runs
- attributes that are looked up by a computed name, and code that is made of a text
- values that are set from outside in a module that a function imports when it runs, and that such a
  module was loaded before its file was edited
- the state of objects that neither have fields nor can be pickled, such as generators, compiled
  programs and functions of `ctypes` or `np.frompyfunc`, and arrays spread over processes

A folder is refused though results are the same where values change that code names and does not
use, such as another field of a global object, or a cache that it fills; where other names give
variables of a closure another order; and between minor versions of Python (3.11, 3.12), whose
bytecode differs. Code that names some hundred and fifty parts one inside the other is too deep for
Python's recursion limit.
"""

from jaxticket._identity.digest import besides_fields
from jaxticket._identity.owner import VERSIONS, name_of, of_users_class, version
from jaxticket._identity.settings import (
    Code,
    canonical,
    code_of,
    first_difference,
    network,
    plain,
    run,
    run_name,
)

__all__ = [
    "VERSIONS", "Code", "besides_fields", "canonical", "code_of", "first_difference", "name_of",
    "network", "of_users_class", "plain", "run", "run_name", "version",
]  # fmt: skip
