import dataclasses
import io

import h5py
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from rich.console import Console

from experiments import catalogue
from experiments.runner import results, show
from paper_figures import style
from paper_figures.spectra import full_spectrum
from tests.experiments.runner.toy_units import MADE_WITH


@dataclasses.dataclass(frozen=True)
class Config:
    steps: int = 7
    dtype: str = "float64"


@pytest.fixture(autouse=True)
def out(tmp_path, monkeypatch):
    monkeypatch.setattr(style, "OUT", tmp_path / "out")
    return tmp_path / "out"


def shown(path):
    text = io.StringIO()
    code = show.show(path, Console(file=text, width=80))
    return code, text.getvalue()


def stored(path, config=None, **attributes):
    rng = np.random.default_rng(0)
    dataset = xr.Dataset(
        {
            "first": ("name", [1.0, np.nan]),
            "decay": (("t", "seed"), rng.normal(size=(30, 60))),
        },
        {"name": ["a", "b"], "t": np.linspace(0, 1, 30)},
    )
    dataset["decay"].attrs = {"long_name": "how much is left", "units": "nats"}
    dataset = results.described(dataset, config or Config(), MADE_WITH, seconds=1.5)
    return results.write(dataset.assign_attrs(attributes), path)


def test_a_result_is_described_with_its_variables_configuration_and_provenance(tmp_path, out):
    code, text = shown(stored(tmp_path / "elsewhere" / "mine.nc"))
    assert code == 0
    for part in (
        "decay (t, seed): how much is left",
        "unit: nats",
        "1 … 1, 1 not finite",
        "steps: 7",
        "device: cpu",
        "wall_seconds: 1.5",
        "written: ",
        "jax ",
        "drawn plainly, decay against t",
    ):
        assert part in text
    assert (out / "show-elsewhere-mine.png").stat().st_size > 5000


def test_the_figure_is_found_by_the_folder_or_by_the_configuration(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(full_spectrum, "draw", lambda one: drawn.append(one) or plt.figure())
    config = catalogue.configuration("full_spectrum", "quick", "float64")
    for folder, wanted in (("full_spectrum", Config()), ("moved", config)):
        _, text = shown(stored(tmp_path / folder / "quick-float64.nc", wanted))
        assert "drawn as paper_figures.spectra.full_spectrum does" in text
    assert len(drawn) == 2
    # A unit of work lacks what the figure needs.
    _, text = shown(stored(tmp_path / "chunks" / "abc" / "quick-float64.nc", config))
    assert "drawn plainly" in text


def test_a_result_of_another_configuration_than_its_preset_says_in_what(tmp_path):
    config = catalogue.configuration("full_spectrum", "quick", "float64")
    path = tmp_path / "full_spectrum" / "quick-float64.nc"
    assert "configuration of the preset quick" in shown(stored(path, config))[1]
    code, text = shown(stored(path, dataclasses.replace(config, num_steps=3)))
    assert code == 0
    assert "not that of the preset quick now: num_steps 3 instead of" in text
    # Its figure cannot draw it; it is shown all the same.
    assert "not drawn as full_spectrum" in text
    assert "drawn plainly" in text


def test_a_missing_or_damaged_file_says_so_and_what_to_do(tmp_path, capsys):
    path = tmp_path / "full_spectrum" / "quick-float64.nc"
    assert show.main([str(path)]) == 1
    said = capsys.readouterr().err
    assert "not there; make it with `python -m experiments full_spectrum --preset quick`" in said
    stored(path)
    path.write_bytes(path.read_bytes()[:1000])
    assert show.main([str(path)]) == 1
    assert "damaged" in (said := capsys.readouterr().err)
    assert "delete it and make it again with `python -m experiments full_spectrum" in said
    assert show.main([str(tmp_path / "nothing.nc")]) == 1
    assert "make it" not in capsys.readouterr().err


def test_what_has_nothing_to_draw_is_described(tmp_path):
    path = results.write(xr.Dataset({"label": ("x", ["a", "b"])}), tmp_path / "x.nc")
    code, text = shown(path)
    assert code == 0
    assert "nothing to draw" in text


def test_a_foreign_file_is_described_as_such_and_an_empty_one_refused(tmp_path, capsys):
    path = tmp_path / "full_spectrum" / "quick-float64.nc"
    path.parent.mkdir()
    foreign = xr.Dataset(
        {"rain": (("place", "year"), np.ones((2, 3)))},
        {"year": [1, 10, 100]},
        attrs={"title": "rain", "configuration": "not ours"},
    )
    foreign.to_netcdf(path, engine="h5netcdf")
    code, text = shown(path)
    assert code == 0
    assert "no configuration is stored in it" in text
    assert "title: rain" in text
    assert "drawn plainly, rain against year" in text
    with h5py.File(path, "w") as file:
        file.create_group("weights").create_dataset("kernel", data=np.ones(3))
    assert show.show(path, Console(file=io.StringIO())) == 1
    assert "holds no variables: not a result file" in capsys.readouterr().err
    assert show.main([str(tmp_path)]) == 1
    assert "a folder; expected a file" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        show.main([str(path), "--no-such-option"])
    assert "--no-such-option" in capsys.readouterr().err


def test_a_plain_plot_names_few_lines_and_takes_the_scale_of_its_coordinate():
    dataset = xr.Dataset(
        {
            "flag": (("size",), np.ones(4, bool), {"long_name": "no real number"}),
            "rate": (("size", "kind"), np.arange(8.0).reshape(4, 2), {"units": "nats per step"}),
        },
        {"size": ("size", [1, 10, 100, 1000], {"units": "units"}), "kind": ["a", "b"]},
    )
    figure, how = show.plain(dataset)
    (axes,) = figure.axes
    assert how == "plainly, rate against size"
    np.testing.assert_array_equal(axes.lines[1].get_ydata(), [1, 3, 5, 7])
    assert (axes.get_xscale(), axes.get_xlabel()) == ("log", "size [units]")
    assert axes.get_ylabel() == "rate [nats per step]"
    assert len(axes.get_legend().get_texts()) == 2
    plt.close(figure)
    figure, _ = show.plain(dataset.assign_coords(size=[1, 2, 3, 4]))
    assert figure.axes[0].get_xscale() == "linear"
    plt.close(figure)
