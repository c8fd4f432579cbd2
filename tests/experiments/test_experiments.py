import builtins
import dataclasses
import io
from typing import NamedTuple

import numpy as np
import pytest
import xarray as xr
from rich.console import Console

from experiments import results, units


class Unit(NamedTuple):
    name: str


@dataclasses.dataclass(frozen=True)
class Config:
    log: str
    offset: float = 0.0
    fail: str = ""
    error: str = "RuntimeError"
    dtype: str = "float64"


def work(config, unit, report):
    report("working", 0.5)
    if unit.name == config.fail:
        msg = "no such luck"
        raise getattr(builtins, config.error)(msg)
    with open(config.log, "a") as log:
        log.write(unit.name)
    return xr.Dataset({"value": ("x", np.arange(3) + config.offset)})


def run(config, folder, num_workers=0):
    text = io.StringIO()
    console = Console(file=text, width=200)
    done, failures = units.run_units(
        work, config, [Unit("a"), Unit("b")], folder, num_workers=num_workers, console=console
    )
    return done, failures, text.getvalue()


def test_finished_units_are_not_done_again_and_a_new_configuration_is_not_mixed_in(tmp_path):
    log = tmp_path / "log"
    config = Config(str(log))
    first, failures, _ = run(config, tmp_path)
    assert not failures
    assert log.read_text() == "ab"
    again, _, text = run(config, tmp_path)
    assert log.read_text() == "ab"
    assert "2 of 2 units were already done" in text
    xr.testing.assert_identical(again[Unit("a")], first[Unit("a")])
    other, _, _ = run(dataclasses.replace(config, offset=1.0), tmp_path)
    assert log.read_text() == "abab"
    assert float(other[Unit("a")].value[0]) == 1.0


@pytest.mark.parametrize(
    ("num_workers", "error"), [(0, "RuntimeError"), (0, "SystemExit"), (2, "RuntimeError")]
)
def test_one_failing_unit_is_named_and_does_not_stop_the_others(tmp_path, num_workers, error):
    config = Config(str(tmp_path / "log"), fail="a", error=error)
    done, failures, text = run(config, tmp_path, num_workers)
    assert list(done) == [Unit("b")]
    assert failures == {Unit("a"): f"{error}: no such luck"}
    assert "a: failed" in text


def test_a_damaged_unit_is_made_again(tmp_path):
    config = Config(str(tmp_path / "log"))
    run(config, tmp_path)
    part = next((tmp_path / "parts").glob("a-*.nc"))
    part.write_bytes(part.read_bytes()[:100])
    done, _, text = run(config, tmp_path)
    assert "is damaged and is made again" in text
    assert (tmp_path / "log").read_text() == "aba"
    assert float(done[Unit("a")].value[2]) == 2.0


def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "x.nc"
    results.write(xr.Dataset({"a": 1}), path)
    with pytest.raises((TypeError, ValueError)):
        results.write(xr.Dataset({"a": ("x", np.array([object()]))}), path)
    assert int(results.read(path).a) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["x.nc"]


def test_missing_and_damaged_results_name_the_command_that_makes_them(tmp_path):
    path = tmp_path / "calibrate_threshold" / "quick-float64.nc"
    command = "python -m experiments calibrate_threshold --preset quick --dtype float64"
    with pytest.raises(FileNotFoundError, match=command):
        results.read(path)
    path.parent.mkdir()
    path.write_bytes(b"not netcdf")
    with pytest.raises(ValueError, match=command):
        results.read(path)


def test_a_changed_configuration_is_named_field_by_field(tmp_path):
    config = Config("log", offset=1.0)
    stored = results.described(xr.Dataset({"a": 1}), config, device="cpu", seconds=1.0)
    stored = results.read(results.write(stored, tmp_path / "x.nc"))
    assert results.differences(stored, config) == []
    (said,) = results.differences(stored, dataclasses.replace(config, offset=2.0))
    assert said == "offset 1.0 instead of 2.0"
    with pytest.raises(ValueError, match="no configuration is stored"):
        results.differences(xr.Dataset(), config)


def test_what_a_preset_leaves_open_is_no_difference():
    @dataclasses.dataclass(frozen=True)
    class Open:
        size: int | None = None
        dtype: str = "float32"

    stored = results.described(xr.Dataset(), Open(size=8), device="cpu", seconds=1.0)
    assert results.differences(stored, Open()) == []
    assert results.differences(stored, Open(size=4)) == ["size 8 instead of 4"]
