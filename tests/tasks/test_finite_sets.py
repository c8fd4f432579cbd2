"""Tests of tasks with a finite training set: one's own series, and those of archives."""

import jax
import numpy as np
import pytest

from jacobian_rnn import tasks

GENERATOR = np.random.default_rng(0)
SERIES = [
    np.full((length, 2), 1.0 + number) for number, length in enumerate(GENERATOR.integers(3, 8, 30))
]
LABELS = np.repeat(["b", "a", "c"], 10)


def whole_split(task, split):
    size = task.num_held_out
    return task.sample_held_out(jax.random.key(0), size, split)


def test_series_end_together_before_the_delay_and_keep_their_labels():
    task = tasks.labelled_series(SERIES, LABELS, delay=4)
    assert (task.num_steps, task.horizon, task.input_size, task.output_size) == (11, 4, 2, 3)
    for split in ("validation", "test"):
        xs, targets = whole_split(task, split)
        for series, target in zip(np.asarray(xs), np.asarray(targets)[:, 0], strict=True):
            number = int(series.max()) - 1
            np.testing.assert_array_equal(
                series[:-4], np.pad(SERIES[number], ((7 - len(SERIES[number]), 0), (0, 0)))
            )
            assert not series[-4:].any()
            assert "abc"[target] == LABELS[number]


def test_a_horizon_that_is_known_is_that_of_the_task():
    assert tasks.labelled_series(SERIES, LABELS, delay=4, horizon=10).horizon == 10
    with pytest.raises(ValueError, match="horizon: received 11"):
        tasks.labelled_series(SERIES, LABELS, delay=4, horizon=11)


def test_no_series_is_in_two_splits():
    task = tasks.labelled_series(SERIES, LABELS)
    seen = set(np.asarray(task.sample(jax.random.key(0), 2000).xs).max(axis=(1, 2)).tolist())
    held_out = [
        set(np.asarray(whole_split(task, s).xs).max(axis=(1, 2)).tolist())
        for s in ("validation", "test")
    ]
    assert [len(seen), *map(len, held_out)] == [18, 6, 6]
    assert len(seen.union(*held_out)) == 30


def test_the_baseline_is_that_of_class_frequencies():
    task = tasks.labelled_series(SERIES, LABELS)
    assert task.baseline_loss == pytest.approx(np.log(3))
    assert task.baseline_accuracy == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("series", "labels", "said"),
    [
        (np.zeros((10, 5)), np.repeat([0, 1], 5), r"series: received .*series\[\.\.\., None\]"),
        ([np.zeros((3, 2)), np.zeros((3, 1))] * 5, np.repeat([0, 1], 5), "same channels"),
        (np.full((10, 5, 1), np.nan), np.repeat([0, 1], 5), "NaN or infinity in series 0"),
        (np.zeros((10, 5, 1)), np.repeat([0, 1], 4), r"labels: received shape \(8,\)"),
        (np.zeros((10, 5, 1)), np.zeros(10), "at least two classes"),
        (np.zeros((10, 5, 1)), [0] * 7 + [1] * 3, "3 series of class 1"),
    ],
)
def test_what_is_no_labelled_series_is_refused(series, labels, said):
    with pytest.raises(ValueError, match=said):
        tasks.labelled_series(series, labels)


def test_archived_series_come_scaled_with_their_classes():
    pytest.importorskip("aeon")
    task = tasks.archived_series("JapaneseVowels", 5)
    assert (task.num_steps, task.input_size, task.output_size) == (34, 12, 9)
    xs = np.asarray(task.sample(jax.random.key(0), 2000).xs)[:, :-5]
    steps = xs[np.abs(xs).sum(2) > 0]
    np.testing.assert_allclose(steps.mean(0), 0, atol=0.1)
    np.testing.assert_allclose(steps.std(0), 1, atol=0.1)


def test_unknown_archives_are_refused():
    with pytest.raises(ValueError, match="'Vowels'"):
        tasks.archived_series("Vowels")
