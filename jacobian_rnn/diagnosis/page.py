"""A diagnosis in words, on a page of 80 columns."""

import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from jacobian_rnn.diagnosis import words

if TYPE_CHECKING:
    from jacobian_rnn.diagnosis.result import Diagnosis, LayerDiagnosis

WIDTH = 80
LABEL = 16  # columns of the labels


def write_page(diagnosis: "Diagnosis") -> str:
    """Say what was found of each layer, and what would help."""
    blocks = [words.headline(diagnosis)]
    blocks += ["\n".join(_layer(layer)) for layer in diagnosis.layers]
    return "\n\n".join([*blocks, textwrap.fill(words.FOOT, WIDTH)])


def _layer(layer: "LayerDiagnosis") -> Iterator[str]:
    head, verdict = f"{layer.name}: {layer.kind}", words.verdict(layer)
    if len(head) + len(verdict) + 2 > WIDTH:
        yield from textwrap.wrap(head, WIDTH)
        head = ""
    yield head + verdict.rjust(WIDTH - len(head))
    for label, text in words.statements(layer):
        yield from _lines(label, text)
        if label == "gradient":
            yield from _table(("at lag", "factor"), words.growth_at_lags(layer))
        elif label == "learning":
            names = ("at lag", "share", "signal / noise")
            yield from _table(names, words.shares_at_lags(layer))
    if layer.advice:
        yield "  what helps"
        if layer.network:
            yield f"    {layer.network}"
        for advice in layer.advice:
            yield from _wrap(f"{words.in_words(advice)}.", "  - ", "    ")
            yield f"    {advice.code}"
        yield from _wrap(words.changed(layer), "    ", "    ")


def _table(names: Sequence[str], columns: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in columns]
    for name, *row in zip(names, *columns, strict=True) if columns else ():
        text = "  ".join(one.rjust(width) for one, width in zip(row, widths, strict=True))
        yield f"  {name}".ljust(LABEL + 2) + text


def _lines(label: str, text: str) -> list[str]:
    return _wrap(text, f"  {label}".ljust(LABEL + 2), " " * (LABEL + 2))


def _wrap(text: str, first: str, later: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=later)
