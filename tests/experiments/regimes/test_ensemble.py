import pytest

from experiments.regimes import _ensemble as ensemble


@pytest.mark.parametrize("name", ensemble.LONGEST_SERIES)
def test_the_lengths_of_archived_series_are_those_of_their_tasks(name):
    pytest.importorskip("aeon")
    shape = ensemble.Shape("GRUCell", name, "10", "16", "adam", "orthogonal")
    assert ensemble.task_of(shape, "float32").num_steps == ensemble.LONGEST_SERIES[name] + 10
