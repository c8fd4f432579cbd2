"""Claims: what a paper or a theory says, what was measured here, and whether it holds."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

Relation = Literal["within", "at least", "at most"]
Kind = Literal["reproduction", "finding", "aim"]
Verdict = Literal["holds", "fails", "not decided", "not measured"]
COLUMNS = ("figure", "kind", "statement", "source", "quantity")


class Claim(NamedTuple):
    """One statement, checked by a number.

    Attributes:
        statement: what is said to hold, in a sentence.
        source: who said so: authors and year, "theory", or "this package".
        quantity: what was measured, with its unit.
        relation: how the measured number has to lie: "within" `tolerance` of `expected`, "at least"
            `expected − tolerance`, or "at most" `expected + tolerance`.
        expected: what it should be.
        tolerance: how far off it may be; zero or above.
        measured: what was found; NaN if it could not be measured.
        uncertainty: standard error of the difference between measured and expected; NaN where
            there is none, or it is not known.
        kind: "reproduction" of what a paper or a theory says, "finding" of this package, stated as
            it was found, or "aim" that this package sets itself.
        reason: why it fails, as far as that is known, in a sentence. Shown only where it does.
    """

    statement: str
    source: str
    quantity: str
    relation: Relation
    expected: float
    tolerance: float
    measured: float
    uncertainty: float = math.nan
    kind: Kind = "reproduction"
    reason: str = ""

    @property
    def verdict(self) -> Verdict:
        """Compare what was measured with what was expected, beyond 1.96 standard errors."""
        if math.isnan(self.measured):
            return "not measured"
        above = self.measured - self.expected
        off = {"within": abs(above), "at least": -above, "at most": above}[self.relation]
        excess = off - self.tolerance
        margin = 0.0 if math.isnan(self.uncertainty) else 1.959964 * self.uncertainty
        if abs(excess) <= margin and margin > 0:
            return "not decided"
        return "holds" if excess <= 0 else "fails"

    @property
    def expectation(self) -> str:
        """Write what was expected, and how far off it may be."""
        expected, tolerance = f"{self.expected:.4g}", f"{self.tolerance:.2g}"
        if self.relation == "within":
            return f"{expected} ± {tolerance}"
        sign, off = ("≥", "−") if self.relation == "at least" else ("≤", "+")
        if self.expected == 0 and self.tolerance:
            return f"{sign} {off if off == '−' else ''}{tolerance}"
        return f"{sign} {expected}" + (f" {off} {tolerance}" if self.tolerance else "")

    @property
    def finding(self) -> str:
        """Write what was measured, with its standard error if it has one."""
        if math.isnan(self.measured):
            return "—"
        if not (math.isfinite(self.uncertainty) and self.uncertainty > 0):
            return f"{self.measured:.4g}"
        # To two digits of the error; plain powers of ten only where those would be long.
        digits = 1 - math.floor(math.log10(self.uncertainty))
        if not -3 < digits < 8:
            return f"{self.measured:.3g} ± {self.uncertainty:.1e}"
        digits = max(digits, 0)
        return f"{self.measured:.{digits}f} ± {self.uncertainty:.{digits}f}"


def standard_error(low: float, high: float) -> float:
    """Return the standard error of which a 95 % interval is ± 1.96."""
    return (high - low) / (2 * 1.959964)


def summary(claims: Mapping[str, Sequence[Claim]]) -> str:
    """Count the claims of all figures by verdict."""
    verdicts = [claim.verdict for of_figure in claims.values() for claim in of_figure]
    others = [
        f"{verdicts.count(verdict)} {said}"
        for verdict, said in {
            "fails": "fail",
            "not decided": "are not decided at this size",
            "not measured": "were not measured",
        }.items()
        if verdict in verdicts
    ]
    return ", ".join([f"{verdicts.count('holds')} of {len(verdicts)} claims hold", *others])


def lines(claims: Mapping[str, Sequence[Claim]]) -> list[str]:
    """Write a line for each claim under the name of its figure, and count those that hold."""
    written = []
    for figure, of_figure in claims.items():
        if of_figure:
            written.append(figure)
        statements = [claim.statement for claim in of_figure]
        for claim in of_figure:
            found = f"{claim.finding} ({claim.expectation})"
            said = _cell(claim.statement)
            if statements.count(claim.statement) > 1:  # one statement, several numbers
                said += f": {_cell(claim.quantity)}"
            written.append(f"  {claim.verdict:<12}  {found:<32}  {said}")
    return [*written, summary(claims)]


def write(claims: Mapping[str, Sequence[Claim]], stem: Path, heading: str) -> None:
    """Write the claims of all figures as a table (Markdown) and as data (JSON).

    Args:
        claims: of each figure that was drawn; figures without claims are named too.
        stem: path of both files without their suffix.
        heading: of the table.
    """
    write_table(claims, stem, heading)
    data = {
        "heading": heading,
        "figures": list(claims),
        "claims": [{name: _plain(value) for name, value in row.items()} for row in _rows(claims)],
    }
    (stem.parent / f"{stem.name}.json").write_text(
        json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
    )


def write_table(claims: Mapping[str, Sequence[Claim]], stem: Path, heading: str) -> None:
    """Write the claims of all figures as a table (Markdown), and why some of them fail."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    columns = (*COLUMNS, "expectation", "finding", "verdict")
    header = (*COLUMNS, "expected", "measured", "verdict")
    cells = [[_cell(row[name]).replace("|", "\\|") for name in columns] for row in _rows(claims)]
    text = [
        f"# {heading}",
        "",
        f"Covers the figures {', '.join(claims) or '(none)'}, and no others. Expected: a value and "
        "how far off it may be, or a bound; measured ± standard error where it has one. A claim "
        "holds or fails where it does so by more than 1.96 standard errors, and is not decided at "
        "this size otherwise. A reproduction is what a paper or a theory says, a finding is this "
        "package's own, stated as it was found, and an aim is what this package sets itself.",
        "",
        *("| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *cells)),
        "",
        f"{summary(claims)}.",
        *_reasons(claims),
    ]
    (stem.parent / f"{stem.name}.md").write_text("\n".join(text) + "\n", encoding="utf-8")


def _rows(claims):
    return [
        {"figure": figure}
        | claim._asdict()
        | {"verdict": claim.verdict, "finding": claim.finding, "expectation": claim.expectation}
        for figure, of_figure in claims.items()
        for claim in of_figure
    ]


def _reasons(claims):
    """Write a sentence for each claim that fails."""
    failed = [
        f"- {figure}: {_cell(claim.statement)}. Measured {claim.finding}, expected "
        f"{claim.expectation}. {claim.reason or 'Why is not known.'}"
        for figure, of_figure in claims.items()
        for claim in of_figure
        if claim.verdict == "fails"
    ]
    return ["", "## What fails, and why", "", *failed] if failed else []


def _cell(text):
    """Keep a text on one line, without a full stop."""
    return " ".join(str(text).split()).removesuffix(".")


def _plain(value):
    """Return what JSON can hold: numbers of NumPy as Python's, NaN and infinity as null."""
    if isinstance(value, str):
        return value
    number = float(value)
    return number if math.isfinite(number) else None
