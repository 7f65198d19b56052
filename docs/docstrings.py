"""Docstrings as the site has them: examples of the interpreter stand in blocks of code."""

from __future__ import annotations

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^( *)>>> .*(?:\n\1(?!>>>)\S.*|\n\1>>> .*|\n\1\.\.\. .*)*", re.MULTILINE)


class Examples(griffe.Extension):
    """Fence lines that begin with `>>>`, and the output below them."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Change the docstring of a module, class, function or attribute."""
        del kwargs
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    r"""The text with each example of the interpreter in a block of code.

    >>> fenced("so:\n>>> 1 + 1\n2\n\nand on")
    'so:\n\n```pycon\n>>> 1 + 1\n2\n```\n\nand on'
    """

    def one(match: re.Match[str]) -> str:
        lead = match[1]
        return f"\n{lead}```pycon\n{match[0]}\n{lead}```"

    return _EXAMPLE.sub(one, text)
