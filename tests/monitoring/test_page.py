"""The page about monitoring runs as it is written, and what it writes can be read back."""

import csv
import importlib.util
import re
from pathlib import Path

import jax
import numpy as np
import pytest

PAGE = Path(__file__).parents[2] / "docs" / "monitoring.md"
NAMES = {
    f"gradients/{name}"
    for name in (
        "log_growth_nats",
        "peak_log_growth_nats",
        "peak_lag_steps",
        "largest_exponent_nats_per_step",
        "share_from_horizon",
        "saturated_share",
        "norm_before_clipping",
        "clipped_share",
        "num_nonfinite",
        "num_updates",
    )
}


def blocks():
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


# Columns of the table of what was written, and how far another machine's rounding may lead.
SHOWN = {"log_growth_nats": 0.6, "share_from_horizon": 0.1, "clipped_share": 0.1, "loss": 0.2}


def table():
    """Return the table of what the page says that its code wrote, by column."""
    lines = re.findall(r"^\| (?:update|\d+) \|.*\|$", PAGE.read_text(), re.MULTILINE)
    cells = [line.replace("−", "-").replace("`", "").strip("| ").split(" | ") for line in lines]
    return dict(zip(cells[0], np.array(cells[1:], float).T, strict=True))


def test_all_names_are_in_the_tables_of_the_page():
    assert set(re.findall(r"^\| `(gradients/\w+)` \|", PAGE.read_text(), re.MULTILINE)) == NAMES


@pytest.mark.usefixtures("standard_promotion")
def test_its_code_runs_and_writes_what_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    has_tensorboard = importlib.util.find_spec("tensorboardX") is not None
    namespace = {}
    with jax.enable_x64(False):
        for block in blocks():
            if "tensorboardX" not in block or has_tensorboard:
                exec(compile(block, str(PAGE), "exec"), namespace)
    assert capsys.readouterr().out.count("one of your updates") == 1
    with open("gradients.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["update"]) for row in rows] == list(range(50, 401, 50))
    assert set(rows[0]) == NAMES | {"update", "loss"}
    values = np.array([[float(value) for value in row.values()] for row in rows])
    assert np.isfinite(values).all()
    by_name = {name: values[:, i] for i, name in enumerate(rows[0])}
    np.testing.assert_array_equal(by_name["gradients/num_updates"], by_name["update"])
    for name in ("share_from_horizon", "saturated_share", "clipped_share"):
        assert ((by_name[f"gradients/{name}"] >= 0) & (by_name[f"gradients/{name}"] <= 1)).all()
    assert np.ptp(by_name["gradients/log_growth_nats"]) > 1  # training moves it
    said = table()
    which = np.isin(by_name["update"], said["update"])
    assert which.sum() == len(said["update"]) == 5
    for name, tolerance in SHOWN.items():
        found = by_name[name if name == "loss" else f"gradients/{name}"][which]
        np.testing.assert_allclose(found, said[name], atol=tolerance, err_msg=name)
    if has_tensorboard:
        assert list(Path("runs/gradients").glob("events.out.tfevents.*"))
