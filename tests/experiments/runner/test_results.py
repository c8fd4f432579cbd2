import dataclasses

import numpy as np
import pytest
import xarray as xr

from experiments.runner import results
from tests.experiments.runner.toy_units import MADE_WITH, PRESETS, Toy


def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "x.nc"
    results.write(xr.Dataset({"a": 1}), path)
    with pytest.raises((TypeError, ValueError)):
        results.write(xr.Dataset({"a": ("x", np.array([object()]))}), path)
    assert int(results.read(path).a) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["x.nc"]


def test_labels_of_different_lengths_survive_being_stored_joined_and_stored_again(tmp_path):
    parts = []
    for label in ("short", "much longer"):
        path = results.write(xr.Dataset({"a": ("x", [1])}, {"x": [label]}), tmp_path / "part.nc")
        parts.append(results.read(path))
    joined = xr.concat(parts, "x")
    stored = results.read(results.write(joined, tmp_path / "whole.nc"))
    assert stored["x"].to_numpy().tolist() == ["short", "much longer"]


def test_missing_and_damaged_results_name_the_command_that_makes_them(tmp_path):
    path = tmp_path / "phase_diagram" / "quick-float64.nc"
    command = "python -m experiments phase_diagram --preset quick --dtype float64"
    with pytest.raises(FileNotFoundError, match=command):
        results.read(path)
    path.parent.mkdir()
    path.write_bytes(b"not netcdf")
    with pytest.raises(ValueError, match=command):
        results.read(path)


def test_a_changed_configuration_is_named_field_by_field(tmp_path):
    config = Toy(offset=1.0)
    stored = results.described(xr.Dataset({"a": 1}), config, MADE_WITH, seconds=1.0)
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

    stored = results.described(xr.Dataset(), Open(size=8), MADE_WITH, seconds=1.0)
    assert results.differences(stored, Open()) == []
    assert results.differences(stored, Open(size=4)) == ["size 8 instead of 4"]


def test_a_configuration_has_the_name_of_its_preset_whatever_its_precision():
    assert results.name_of(dataclasses.replace(PRESETS["full"], dtype="float32"), PRESETS) == "full"
    names = {results.name_of(Toy(offset=number), PRESETS) for number in (7.0, 8.0)}
    assert len(names) == 2
    assert all(name.startswith("custom_") for name in names)
