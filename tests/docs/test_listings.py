"""Code in README and pages runs as it stands, and prints what they say."""

import json
import os
import re
import subprocess
import sys

import pytest

from experiments.runner import command_line
from tests.docs.pages import PAGES, ROOT, commands, listings

# Pages that other tests run, with models and files that these make.
ELSEWHERE = {"docs/monitoring.md": "tests/monitoring/test_page.py"}
# Marks of listings of docs/your_network.md that tests/diagnosis/test_docs.py runs.
FRAMEWORKS = {"linen", "nnx", "torch", "keras", "equinox", "advice"}
RUNNABLE = {
    source: [listing for listing in listings(source) if listing.mark not in FRAMEWORKS]
    for source in PAGES
    if source not in ELSEWHERE
}
WITH_CODE = [source for source, found in RUNNABLE.items() if found]
SLOW = [source for source in WITH_CODE if any(one.mark == "slow" for one in RUNNABLE[source])]
# Pages share an interpreter, and what one says of 64 bits ends with it.
RUNNER = """
import contextlib, io, json, sys, traceback
import jax
for source, codes in json.load(sys.stdin).items():
    names, printed = {}, []
    for code in codes:
        text = io.StringIO()
        try:
            with contextlib.redirect_stdout(text):
                exec(compile(code, source, "exec"), names)
        except Exception:
            print(json.dumps([source, printed, traceback.format_exc()]))
            break
        printed.append(text.getvalue())
    else:
        print(json.dumps([source, printed, ""]))
    jax.config.update("jax_enable_x64", False)
"""
NUMBER = re.compile(r"[-−+]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?")


def run(sources, marks):
    """Run the listings of pages in a new interpreter; return what each printed, and errors."""
    codes = {s: [one.code for one in RUNNABLE[s] if one.mark in marks] for s in sources}
    settings = {
        "JAX_PLATFORMS": "cpu",
        "MPLBACKEND": "Agg",
        "NPROC": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps(codes),
        cwd=ROOT,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {source: (printed, error) for source, printed, error in rows}


def numbers_agree(said, found):
    """Compare two numbers as they are written: to the last digit shown, or to a thousandth."""
    one, other = (float(text.replace("−", "-").replace(",", "")) for text in (said, found))
    mantissa, _, exponent = said.replace("−", "-").replace(",", "").partition("e")
    if exponent and "." not in mantissa and abs(other) > 0:  # an order of magnitude, of an error
        return 0.2 <= abs(one / other) <= 5
    unit = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    return abs(one - other) <= max(1.01 * unit, 1e-3 * abs(one))


def check_printed(said, found):
    """Assert that two texts are the same words, with numbers that agree."""
    words = [NUMBER.sub("#", text).split() for text in (said, found)]
    assert words[0] == words[1], found
    for one, other in zip(NUMBER.findall(said), NUMBER.findall(found), strict=True):
        assert numbers_agree(one, other), f"{one} is said, {other} found in\n{found}"


def check_pages(sources, marks):
    """Run pages, and compare what they print with what they say."""
    done = run(sources, marks)
    for source in sources:
        printed, error = done[source]
        assert not error, error
        listed = [one for one in RUNNABLE[source] if one.mark in marks]
        for listing, found in zip(listed, printed, strict=True):
            if listing.printed is not None:
                check_printed(listing.printed, found)


@pytest.fixture(scope="module")
def fast():
    """What all listings print that are not slow."""
    return run(WITH_CODE, {None})


@pytest.mark.parametrize("source", WITH_CODE)
def test_listings_run_and_print_what_the_page_says(source, fast):
    printed, error = fast[source]
    assert not error, error
    listed = [listing for listing in RUNNABLE[source] if listing.mark is None]
    for listing, found in zip(listed, printed, strict=True):
        if listing.printed is not None:
            check_printed(listing.printed, found)


@pytest.mark.slow
@pytest.mark.parametrize("source", SLOW)
def test_slow_listings_run_and_print_what_the_page_says(source):
    check_pages([source], {None, "slow"})


def test_every_listing_is_run_by_some_test():
    for source, test in ELSEWHERE.items():
        assert source.rpartition("/")[2] in (ROOT / test).read_text(encoding="utf-8")
    marks = {one.mark for source in PAGES for one in listings(source)} - {None, "slow"}
    assert marks == FRAMEWORKS
    assert sum(text.count("```python\n") for text in PAGES.values()) == sum(
        len(listings(source)) for source in PAGES
    )


def test_outputs_are_compared_word_by_word_and_number_by_number():
    said = "vanishing: e^-35.0, error 2e-04 of 16 sequences"
    check_printed(said, "vanishing: e^-35.1, error 4e-04 of 16 sequences")
    for found in (
        "exploding: e^-35.0, error 2e-04 of 16 sequences",
        "vanishing: e^-35.3, error 2e-04 of 16 sequences",
        "vanishing: e^-35.0, error 2e-03 of 16 sequences",
        "vanishing: e^-35.0, error 2e-04 of 18 sequences",
    ):
        with pytest.raises(AssertionError):
            check_printed(said, found)


EXPERIMENTS = [
    line
    for source in PAGES
    for line in commands(source)
    if line.startswith("python -m experiments ")
]


@pytest.mark.parametrize("line", EXPERIMENTS)
def test_command_lines_of_experiments_are_understood(line):
    name, *arguments = line.split()[3:]
    if name in ("NAME", "all", "show", "--help") or "--help" in arguments:
        return
    assert command_line.parse(name, arguments).config is not None
