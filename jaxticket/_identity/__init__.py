"""Identity of code: how run folders distinguish functions and classes of the same name.

Functions of jaxticket and of installed libraries are identified by their names and versions. The
user's code is identified by what it does: its bytecode (without comments, docstrings, line numbers
and names of local variables), default arguments, closure values, and, recursively, everything that
it names: functions, classes with their bases, constants, and arrays by their contents. Modules that
it imports at run time or passes on are identified by their source files and those that these
import. The same code gives the same text in every process.

Not detected are:

- changes within a library: `environment.json` records the versions of those that jaxticket needs;
  for others the version counts, and their files too if they were installed from a folder or a
  repository; edits of installed files, and of jaxticket's, are not detected
- modifications of libraries: replaced functions, registrations (pytrees, primitives), settings
- files and environment variables that a function reads when it runs
- attributes that are looked up by a computed name, and code that is compiled from text
- values that are set from outside in a module that a function imports at run time, and edits of
  such a module's file after it was loaded
- the state of objects that neither have fields nor can be pickled, such as generators, compiled
  programs and functions of `ctypes` or `np.frompyfunc`, and arrays spread over processes

A folder is refused, although results are the same, if values change that code names but does not
use, such as another field of a global object or a cache that it fills; if renaming reorders the
variables of a closure; and between minor versions of Python (3.11, 3.12), whose bytecode differs.
Code with some hundred and fifty levels of nested objects exceeds Python's recursion limit.
"""

from jaxticket._identity.digest import besides_fields
from jaxticket._identity.owner import VERSIONS, name_of, of_users_class, version
from jaxticket._identity.record import OwnCodeError, rebuilt, recorded
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
    "VERSIONS", "Code", "OwnCodeError", "besides_fields", "canonical", "code_of",
    "first_difference", "name_of", "network", "of_users_class", "plain", "rebuilt", "recorded",
    "run", "run_name", "version",
]  # fmt: skip
