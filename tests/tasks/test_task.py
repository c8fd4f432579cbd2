"""Tests of how answers to a task are scored."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobian_rnn import tasks
from tests.networks import mostly_slow
from tests.tasks.small_tasks import F32, MAKERS, logits


def test_cross_entropy_is_the_mean_negative_log_softmax_over_scored_steps():
    task = tasks.copying_memory(2, length=2, num_symbols=3)
    targets = task.sample(jax.random.key(19), 7).targets
    predictions = np.random.default_rng(0).normal(size=(7, 6, 4))
    expected = []
    for sequence, classes in zip(predictions, np.asarray(targets), strict=True):
        softmax = np.exp(sequence) / np.exp(sequence).sum(1, keepdims=True)
        expected.append(-np.log([p[c] for p, c in zip(softmax, classes, strict=True)]).mean())
    result = tasks.loss(task, jnp.asarray(predictions, F32), targets)
    np.testing.assert_allclose(result, expected, rtol=1e-5)


def test_squared_error_and_its_accuracy_and_skill_by_hand():
    task = tasks.adding(10)
    targets = jnp.ones((4, 1, 1), F32)
    predictions = targets + jnp.array([0.0, 0.039, -0.041, 1.0], F32)[:, None, None]
    squares = [0, 0.039**2, 0.041**2, 1]
    np.testing.assert_allclose(tasks.loss(task, predictions, targets), squares, rtol=1e-4)
    assert float(tasks.accuracy(task, predictions, targets)) == 0.5
    skill = float(tasks.skill(task, predictions, targets))
    assert skill == pytest.approx(1 - 6 * np.mean(squares), rel=1e-4)


def test_classification_accuracy_and_skill_by_hand():
    task = tasks.delayed_recall(3)
    predictions = logits(np.array([[0], [1], [2], [0]]), 4)
    targets = jnp.array([[0], [1], [3], [3]], jnp.int32)
    assert float(tasks.accuracy(task, predictions, targets)) == 0.5
    assert float(tasks.skill(task, predictions, targets)) == pytest.approx(1 / 3)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", mostly_slow(MAKERS, ["adding", "copying_memory"]))
def test_non_finite_predictions_are_never_correct(name, value):
    task = MAKERS[name](dtype=F32)
    targets = task.sample(jax.random.key(20), 5).targets
    shape = (5, task.num_scored_steps, task.output_size)
    predictions = jnp.full(shape, value, F32)
    assert float(tasks.accuracy(task, predictions, targets)) == 0
    assert not float(tasks.skill(task, predictions, targets)) >= 0
    assert not np.any(np.isfinite(tasks.loss(task, predictions, targets)))


@pytest.mark.parametrize("name", ["adding", "copying_memory"])
def test_scores_are_the_same_under_jit_and_the_loss_has_a_gradient(name):
    task = MAKERS[name](dtype=F32)
    targets = task.sample(jax.random.key(21), 5).targets
    shape = (5, task.num_scored_steps, task.output_size)
    predictions = jax.random.normal(jax.random.key(22), shape, F32)

    def scores(predictions):
        return [
            score(task, predictions, targets) for score in (tasks.loss, tasks.accuracy, tasks.skill)
        ]

    for plain, compiled in zip(scores(predictions), jax.jit(scores)(predictions), strict=True):
        np.testing.assert_allclose(compiled, plain, rtol=1e-5, atol=1e-6)
    gradient = jax.grad(lambda p: tasks.loss(task, p, targets).sum())(predictions)
    assert np.all(np.any(np.asarray(gradient) != 0, axis=(1, 2)))


@pytest.mark.parametrize("score", [tasks.loss, tasks.accuracy, tasks.skill])
def test_shapes_that_are_not_those_of_the_task_are_refused(score):
    task = tasks.adding(10)
    good = jnp.ones((3, 1, 1), F32)
    for bad in (jnp.ones((3, 10, 1), F32), jnp.ones((3, 1, 2), F32)):
        with pytest.raises(ValueError, match=r"predictions: .* expected \(3, 1, 1\)"):
            score(task, bad, bad)
    with pytest.raises(ValueError, match=r"targets: received shape \(3, 1\), expected \(3, 1, 1\)"):
        score(task, good, jnp.ones((3, 1), jnp.int32))
    one_hot = jnp.ones((3, 1, 4), F32)
    with pytest.raises(ValueError, match=r"targets: .* expected \(3, 1\)"):
        score(tasks.delayed_recall(3), one_hot, one_hot)
