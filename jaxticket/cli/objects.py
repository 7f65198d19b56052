"""Objects as texts of the command line: "plateau(patience=3)", "my_code:Distance(every=50)".

A text is a name, with what it is made with in parentheses. Names are those of the table of their
setting; "MODULE:NAME" is code of the user's own, in the current folder or installed.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import pkgutil
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from jaxticket._check import nearest
from jaxticket.data.augment import AUGMENTATIONS
from jaxticket.engine.adversarial import FGSM, PGD
from jaxticket.losses import Focal
from jaxticket.metrics import TopK
from jaxticket.sparsify.dynamic import RULES
from jaxticket.stopping import Plateau, Target

MADE: dict[str, Mapping[str, Callable[..., object]]] = {
    "attack": {"pgd": PGD, "fgsm": FGSM},
    "stop_when": {"plateau": Plateau, "target": Target},
    "monitors": {},
    "teacher": {},
    "augment": AUGMENTATIONS,
    "loss": {"focal": Focal},
    "metrics": {"top": TopK},
    "rule": {
        name: functools.partial(dataclasses.replace, rule)  # type: ignore[type-var]
        for name, rule in RULES.items()
    },
}
"""By setting: what is made with options, by name."""
_ALONE = ("attack", "stop_when", "monitors", "teacher")
"""Settings that take nothing but objects."""
_TEXT = re.compile(
    r"(?:(?P<module>[A-Za-z_][\w.]*):)?(?P<name>[A-Za-z_][\w.]*)(?P<call>\(.*\))?", re.DOTALL
)


def example(setting: str) -> str:
    """What its help says of the texts of a setting."""
    names = [f"{name}(...)" for name in MADE.get(setting, {})]
    return f"As text: {', '.join([*names, 'MODULE:NAME or MODULE:NAME(...) of your own code'])}."


def made(setting: str, given: object) -> object:
    """The object that a text stands for; what is no such text is left to the setting itself.

    >>> made("stop_when", "plateau(patience=3)").patience, made("optimizer", "adam")
    (3, 'adam')

    Args:
      setting: its name, for errors.
      given: a text, or several; anything else is given back.

    Raises:
      ValueError: for names that there are not, and options that are not taken.
    """
    if isinstance(given, tuple):
        return tuple(made(setting, one) for one in given)
    if not isinstance(given, str):
        return given
    found = _TEXT.fullmatch(given)
    if found is None:
        if setting in _ALONE:
            raise _misspelled(setting, given)
        return given
    table, module, name, call = MADE.get(setting, {}), found["module"], found["name"], found["call"]
    if module is not None:
        value = _imported(setting, module, name)
        if call is None and not isinstance(value, type):
            return value
    elif name in table and (call is not None or setting in _ALONE):
        value = table[name]
    elif call is not None or setting in _ALONE:
        known = f"{nearest(name, table)}, or " if table else "write "
        raise ValueError(
            f"`{setting}` is unknown: {given!r}; {known}MODULE:NAME for code of your own"
        )
    else:
        return given
    if not callable(value):
        raise ValueError(f"`{setting}` {given!r} is no function or class; leave out {call}")
    args, options = _options(setting, str(given), call or "()")
    try:
        return value(*args, **options)
    except TypeError as error:
        raise ValueError(f"`{setting}` {given!r} cannot be made: {error}") from error


def _imported(setting: str, module: str, name: str) -> object:
    here = str(Path.cwd())
    if here not in sys.path:
        # as `python -m` has it, also for the installed command
        sys.path.insert(0, here)
    try:
        return pkgutil.resolve_name(f"{module}:{name}")
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"`{setting}` {f'{module}:{name}'!r} is not found in {here} or what is installed: "
            f"{error}"
        ) from error


def _options(setting: str, text: str, call: str) -> tuple[list[object], dict[str, object]]:
    """What stands in parentheses: Python values, and words, which are texts."""
    try:
        parsed = ast.parse(f"f{call}", mode="eval").body
        if isinstance(parsed, ast.Call):
            args = [_value(node) for node in parsed.args]
            named = {str(node.arg): _value(node.value) for node in parsed.keywords}
            if "None" not in named:
                return args, named
    except (SyntaxError, ValueError):
        pass
    raise _misspelled(setting, text)


def _misspelled(setting: str, text: str) -> ValueError:
    return ValueError(
        f"`{setting}` must be NAME(OPTION=VALUE, ...) with numbers, words or tuples as values, got "
        f"{text!r}"
    )


def _value(node: ast.expr) -> object:
    return node.id if isinstance(node, ast.Name) else ast.literal_eval(node)
