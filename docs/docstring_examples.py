"""Show the examples of docstrings as code, under whatever heading they stand."""

import re
from typing import Any

import griffe

EXAMPLE = re.compile(
    r"^(?P<indent> *)>>> .*(?:\n(?P=indent)\S.*|\n(?P=indent) +\S.*)*", re.MULTILINE
)


def fence(text: str) -> str:
    """Put a fence around each block of lines that begins with `>>>`."""

    def fenced(found: re.Match[str]) -> str:
        indent = found["indent"]
        return f"{indent}```pycon\n{found[0]}\n{indent}```"

    return EXAMPLE.sub(fenced, text)


class DocstringExamples(griffe.Extension):
    """An extension of griffe, which mkdocstrings loads."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of a module, class, function or attribute."""
        if obj.docstring:
            obj.docstring.value = fence(obj.docstring.value)
