"""Experiments computed and shown in this process, without files and workers."""

import io

from rich.console import Console

from experiments.runner import chunks, results


def result_of(experiment, config):
    """Do all units, check that every variable says what it is, and return what would be written."""
    dataset = done(experiment, config)
    for name in dataset:
        assert dataset[name].attrs.keys() == {"long_name", "units"}, name
    return dataset


def done(experiment, config):
    """Do all units of an experiment, and return what would be written."""
    parts = {
        unit: experiment.work(config, unit, lambda *_: None) for unit in experiment.units(config)
    }
    return described(experiment.combine(config, parts), config)


def described(dataset, config):
    """Give a dataset the configuration that figures read."""
    return results.described(dataset, config, chunks.origin(), seconds=0.0)


def text_of(experiment, dataset):
    """Return what an experiment prints on a narrow terminal, in which no column is cut."""
    text = io.StringIO()
    experiment.show(dataset, Console(file=text, width=80))
    assert "…" not in text.getvalue()
    return text.getvalue()


def check_drawing(drawing, folder):
    """Draw a figure, and check that there is something on it."""
    drawing.savefig(folder / "figure.png")
    assert (folder / "figure.png").stat().st_size > 10_000
