import json
import math

import numpy as np
import pytest

from paper_figures import claims
from paper_figures.claims import Claim


def claim(relation="within", expected=1.0, tolerance=0.1, measured=1.0, uncertainty=math.nan):
    return Claim("s", "t", "q", relation, expected, tolerance, measured, uncertainty)


@pytest.mark.parametrize(
    ("relation", "tolerance", "holding", "failing"),
    [
        ("within", 0.25, (0.75, 1.0, 1.25), (0.74, 1.26, math.inf)),
        ("at least", 0.25, (0.75, 9.0, math.inf), (0.74, -math.inf)),
        ("at most", 0.25, (1.25, -9.0), (1.26, math.inf)),
        ("at least", 0, (1.0,), (0.999,)),
    ],
)
def test_a_claim_holds_up_to_and_with_its_tolerance(relation, tolerance, holding, failing):
    for measured in holding:
        assert claim(relation, 1.0, tolerance, measured).verdict == "holds"
    for measured in failing:
        assert claim(relation, 1.0, tolerance, measured).verdict == "fails"
    assert claim(relation, 1.0, tolerance, math.nan).verdict == "not measured"


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [(1.0, "holds"), (1.05, "holds"), (1.07, "not decided"), (1.13, "not decided"), (1.2, "fails")],
)
def test_a_claim_is_decided_beyond_two_standard_errors_alone(measured, verdict):
    assert claim("within", 1.0, 0.1, measured, 0.025).verdict == verdict
    assert claim("at most", 1.1, 0.0, measured, 0.025).verdict == verdict
    assert claim("at least", -1.1, 0.0, -measured, 0.025).verdict == verdict


def test_what_fails_is_said_with_its_reason(tmp_path):
    failing = claim(measured=3.0)._replace(reason="The width is too small.")
    claims.write_table({"one": [failing, claim()]}, tmp_path / "page", "Claims")
    text = (tmp_path / "page.md").read_text()
    assert text.endswith("- one: s. Measured 3, expected 1 ± 0.1. The width is too small.\n")


def test_findings_are_written_to_two_digits_of_their_error():
    assert claim(measured=0.80213, uncertainty=0.0569).finding == "0.802 ± 0.057"
    assert claim(measured=123.456, uncertainty=12.3).finding == "123 ± 12"
    assert claim(measured=3.0).finding == "3"
    assert claim(measured=5e-6).finding == "5e-06"
    assert claim(measured=1.0, uncertainty=1e-12).finding == "1 ± 1.0e-12"
    assert claim(measured=math.nan, uncertainty=0.1).finding == "—"
    assert claim("within", 0.5, 0.02).expectation == "0.5 ± 0.02"
    assert claim("at least", 0.9, 0).expectation == "≥ 0.9"
    assert claim("at most", 5, 0.5).expectation == "≤ 5 + 0.5"
    assert claim("at most", 0, 1e-9).expectation == "≤ 1e-09"
    assert claim("at least", 0, 0.1).expectation == "≥ −0.1"


def test_the_files_cover_the_figures_of_this_run_alone(tmp_path):
    stem = tmp_path / "out" / "claims-quick"
    claims.write({"outdated": [claim()]}, stem, "Claims")
    made = {
        "new": [
            claim()._replace(statement="log|det J| is\nright"),
            claim(measured=np.float32(3.0), expected=np.int64(1)),
            claim(measured=math.nan),
        ],
        "without": [],
    }
    claims.write(made, stem, "Claims, preset quick")
    text = (tmp_path / "out" / "claims-quick.md").read_text()
    assert "Covers the figures new, without, and no others" in text
    assert "outdated" not in text
    rows = [line for line in text.splitlines() if line.startswith("| new")]
    assert len(rows) == 3
    # Every row has the columns of the header, whatever its text holds.
    assert all(row.replace("\\|", "").count("|") == len(claims.COLUMNS) + 4 for row in rows)
    assert "1 of 3 claims hold, 1 fail, 1 were not measured." in text
    data = json.loads((tmp_path / "out" / "claims-quick.json").read_text())
    assert data["figures"] == ["new", "without"]
    assert [one["verdict"] for one in data["claims"]] == ["holds", "fails", "not measured"]
    assert data["claims"][1]["measured"] == 3.0
    assert data["claims"][2]["measured"] is None
    # Statements that stand more than once are told apart by their quantities.
    assert [line.endswith("s: q") for line in claims.lines(made)[1:4]] == [False, True, True]
    assert claims.lines(made)[-1] == "1 of 3 claims hold, 1 fail, 1 were not measured"


def test_half_the_width_of_an_interval_is_1_96_standard_errors():
    assert claims.standard_error(-1.959964, 1.959964) == pytest.approx(1.0)
