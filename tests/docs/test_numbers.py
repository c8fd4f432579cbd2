"""Numbers in the prose of pages are those of stored results, or follow from theory."""

import csv
import json
import math
import re

import numpy as np
import pytest

import jacobian_rnn as jrnn
from jacobian_rnn import mean_field
from jacobian_rnn.regimes.prediction import LOST_DIGITS
from tests.docs.pages import PAGES, ROOT
from tests.docs.test_listings import numbers_agree

REGIMES = ROOT / "jacobian_rnn" / "regimes"
ROW = re.compile(
    r"^\| (\w+) \| \w+ \| (.*) \| .*? \| (.*) \| .*? \| (\S+)(?: ± \S+)? \| [a-z ]+ \|$"
)
ROWS = [found for line in PAGES["docs/claims.md"].splitlines() if (found := ROW.match(line))]


def prose(page):
    """Return the text of a page in one line."""
    return " ".join(PAGES[f"docs/{page}.md"].split())


def said(page, words):
    """Return the numbers that stand in place of # in words of a page."""
    pattern = re.escape(words).replace(r"\#", r"([-−+]?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?)")
    found = re.search(pattern, prose(page))
    assert found, f"{page}: received no sentence like {words!r}"
    return found.groups()


def measured(figure, words):
    """Return what claims.md says that was measured, where a claim has these words."""
    values = [row[4] for row in ROWS if row[1] == figure and words in f"{row[2]} | {row[3]}"]
    assert len(values) == 1, (figure, words, values)
    return float(values[0])


# A page, a sentence in it with # for numbers, the figure, and words of the claim of each number.
QUOTED = [
    (
        "concepts/growth",
        "gradients on it are # times the median",
        "error_wall",
        ["norm of the gradi"],
    ),
    ("gallery", "gradients # times the median", "error_wall", ["norm of the gradient across"]),
    (
        "questions",
        "W alone misjudges the rate by # nats per step",
        "folklore",
        ["log spectral radius of W minus"],
    ),
    (
        "gallery",
        "W alone misjudges the rate by # nats",
        "folklore",
        ["log spectral radius of W mi"],
    ),
    ("questions", "the gain from clipping was # ±", "folklore", ["with clipping minus without"]),
    ("gallery", "some stable networks need up to #", "newton_iterations", ["largest number of"]),
    (
        "gallery",
        "least well (# ±",
        "jacobian_eigenvalues",
        ["LSTM's Jacobian end at the edge that"],
    ),
    ("how_well", "|predicted log growth| #,", "phase_diagram", ["growth is to zero: all cells |"]),
    ("how_well", "among networks of one horizon it is #", "phase_diagram", ["of equal horizon"]),
    (
        "how_well",
        "(SimpleCell #, GRU #, LSTM #)",
        "phase_diagram",
        ["linen SimpleCell", "linen GRUCell", "linen OptimizedLSTMCell"],
    ),
    (
        "forecast",
        "copying is forecast worst, with a balanced accuracy of #",
        "learning_forecast",
        ["balanced accuracy of the worst, copying_memory"],
    ),
    (
        "forecast",
        "The area is # ± 0.059 and the calibration error #",
        "unseen_cells",
        ["| area over", "| calibration error over"],
    ),
    ("forecast", "the forecast's differ by #", "unseen_cells", ["beyond that of the best rule"]),
    (
        "forecast",
        "its mean probability lies # ± 0.051 above the share that learned",
        "unseen_cells",
        ["too high for cells that it has never seen"],
    ),
    ("forecast", "lies above by # ±", "unseen_cells", ["too high for the cells that it was fi"]),
    ("forecast", "the skill there is # ±", "unseen_cells", ["eigenvalues in [0, 1] does not"]),
    ("cells", "an area under the curve of # ±", "unseen_cells", ["| area over"]),
    ("forecast", "The model was fitted to # networks", "learning_ensemble", ["| networks"]),
]


@pytest.mark.parametrize(("page", "words", "figure", "claims"), QUOTED)
def test_numbers_that_pages_quote_are_measured(page, words, figure, claims):
    for number, claim in zip(said(page, words), claims, strict=True):
        value = measured(figure, claim)
        if number.endswith("000"):  # thousands are rounded ones
            value = 1000 * round(value / 1000)
        assert numbers_agree(number, str(value)), (page, number, claim)


@pytest.mark.parametrize("page", ["concepts/products", "gallery"])
def test_pages_say_how_far_products_reach(page):
    (percent,) = said(page, "Newman's exponent says, to # %")
    worst = [
        abs(measured("product_overflow", f"Plain products in {dtype}") - 1)
        for dtype in ("float32", "float64")
    ]
    assert max(worst) <= float(percent) / 100
    (error,) = said(page, "float32 product is right to # nats")
    assert numbers_agree(error, str(measured("product_overflow", "product in float32")))


def test_the_tables_of_the_forecast_are_those_of_the_claims_and_of_the_package():
    table = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in PAGES["docs/forecast.md"].splitlines()
        if line.startswith("| ")
    ]
    for row in table:
        kind = re.match(r"a (cell with a task|cell|task|width)(:| that)", row[0])
        if kind is None:
            continue
        left_out = "shape" if "with a task" in kind[1] else kind[1]
        claim = f"With a {left_out} left out, forecasts are good enough to act on | "
        for cell, quantity in zip(
            row[1:], ("area", "balanced accuracy", "calibration error"), strict=False
        ):
            value = measured("learning_forecast", claim + quantity)
            assert numbers_agree(cell.split()[0], str(value)), (row, quantity)
    weights = json.loads((REGIMES / "forecast_model.json").read_text())["weights"]
    shown = {row[0]: row[2] for row in table if row[0] in weights}
    assert set(shown) == set(weights)
    for name, cell in shown.items():
        assert (cell == "left out") == (weights[name] == 0), name
        if weights[name]:
            assert np.sign(float(cell.split()[0])) == np.sign(weights[name]), name
    with (REGIMES / "learning_ensemble.csv").open() as file:
        file.readline()  # a comment
        seeds = [row["data_seed"] for row in csv.DictReader(file)]
    # Some were trained again on other draws of data.
    assert measured("learning_ensemble", "| networks") == seeds.count(min(seeds))


def test_the_thresholds_and_where_they_come_from():
    (high,) = said(
        "concepts/regimes", "EXPLODING the peak, the largest growth at any lag, is above #"
    )
    (low,) = said(
        "concepts/regimes", "VANISHING it is not, and the growth over the horizon is below #"
    )
    thresholds = (float(low.replace("−", "-")), float(high))
    assert thresholds == tuple(jrnn.THRESHOLDS)
    for figure_words, number in zip(("vanishing", "exploding"), thresholds, strict=True):
        found = measured("calibrate_threshold", f"{figure_words} threshold is the one")
        assert found == pytest.approx(number, abs=0.05)
    assert said("concepts/growth", "Beyond # nats digits are lost") == (f"{LOST_DIGITS:g}",)


def test_what_floats_hold():
    single, double = (-math.log(np.finfo(dtype).eps) for dtype in (np.float32, np.float64))
    shown = said("choosing", "Float32 has # nats between")[0], said("choosing", "float64 has #")[0]
    assert [round(single), round(double)] == [int(number) for number in shown]
    assert said("concepts/spectra", "and float64 has # of them")[0] == shown[1]
    (largest,) = said("monitoring", "they are right beyond #, where squares overflow")
    assert numbers_agree(largest, str(np.sqrt(float(np.finfo(np.float32).max))))


@pytest.mark.parametrize("page", ["concepts/growth", "questions"])
def test_the_typical_gradient_at_chi_one(page):
    """Newman's λ₁ at N = 16: weights of χ = 1 at fixed slopes are Gaussian with σ = 1."""
    (size,) = said(page, "gradient is e^# of its size after 200 steps")
    assert numbers_agree(size, str(200 * float(mean_field.newman_exponents(16).exponents[0])))


def test_critical_scales():
    for number, width in zip(
        said("concepts/spectra", "λ₁ = 0 at σ = # for N = 4, and at # for N = 64"),
        (4, 64),
        strict=True,
    ):
        scale = math.exp(-float(mean_field.newman_exponents(width).exponents[0]))
        assert numbers_agree(number, str(scale))
    (critical,) = said("concepts/theory", "With s² = 0.05 it lies at σ_w = #")
    theory = float(mean_field.critical_weight_std(bias_std=math.sqrt(0.05)))
    assert numbers_agree(critical, str(theory))


def test_the_unit_with_weight_two():
    height, slope = said("questions", "settles at h = #, where the slope is #:")
    h = 0.5
    for _ in range(200):
        h = math.tanh(2 * h)
    assert numbers_agree(height, str(h))
    assert numbers_agree(slope, str(1 - h**2))


def test_one_direction_of_eight_probes():
    """Of log χ²₈ / 2, whose variance is ψ'(4) / 4."""
    trigamma = math.pi**2 / 6 - sum(1 / k**2 for k in range(1, 4))
    for page in ("choosing", "concepts/growth"):
        words = "at most # nats for each" if page == "choosing" else "were drawn: # nats for k = 8"
        assert numbers_agree(said(page, words)[0], str(math.sqrt(trigamma) / 2))
