"""Tests of tasks that are made of one's own arrays: labelled series, and one batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobian_rnn import tasks
from jacobian_rnn.tasks import Batch

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


def test_a_task_of_a_batch_draws_its_sequences_with_their_answers():
    xs = jnp.arange(40.0).reshape(8, 5, 1)
    values = tasks.task_of(Batch(xs, xs[:, -2:] + 0.5), horizon=3)
    classes = tasks.task_of(Batch(xs, jnp.arange(8)[:, None] % 3), horizon=5)
    drawn = values.sample(jax.random.key(0), 50)
    np.testing.assert_array_equal(drawn.targets, drawn.xs[:, -2:] + 0.5)
    assert values.baseline_loss == pytest.approx(np.asarray(xs[:, 0]).var())
    drawn = classes.sample_held_out(jax.random.key(0), 8, "test")
    np.testing.assert_array_equal(np.sort(drawn.xs[:, 0, 0]), xs[:, 0, 0])
    np.testing.assert_array_equal(drawn.targets[:, 0], drawn.xs[:, 0, 0] // 5 % 3)
    assert classes.baseline_accuracy == pytest.approx(3 / 8)


@pytest.mark.parametrize(
    ("targets", "horizon", "said"),
    [
        (np.zeros((8, 1, 1)), 2, "the same answer for all sequences"),
        (np.zeros(8), 2, r"batch: received shapes"),
        (np.eye(8)[:, None], 6, "horizon: received 6"),
        (np.ones((8, 6, 1)) * np.arange(8)[:, None, None], 2, "number of scored steps"),
    ],
)
def test_a_batch_that_is_no_task_is_refused(targets, horizon, said):
    with pytest.raises(ValueError, match=said):
        tasks.task_of(Batch(jnp.zeros((8, 5, 1)), jnp.asarray(targets)), horizon=horizon)
