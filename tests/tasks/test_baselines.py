"""Baselines of the tasks: what is reached without memory."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobian_rnn import tasks
from tests.networks import mostly_slow
from tests.tasks.small_tasks import F32, MAIN_TASKS, MAKERS, SYNTHETIC, logits


@pytest.mark.parametrize(
    "name",
    mostly_slow([name for name in SYNTHETIC if name not in ("adding", "flip_flop")], MAIN_TASKS),
)
def test_the_best_constant_classes_score_the_baseline(name):
    task = MAKERS[name](dtype=F32)
    n = 100_000
    targets = np.concatenate(
        [task.sample(key, n // 20).targets for key in jax.random.split(jax.random.key(15), 20)]
    )
    counts = np.array([np.bincount(t, minlength=task.output_size) for t in targets.T])
    frequencies = counts / n
    entropy = -np.sum(frequencies * np.log(np.where(counts > 0, frequencies, 1)), axis=1)
    # 2n (true − empirical entropy) of a step is χ², one degree of freedom for each class but one.
    freedom = np.sum(np.sum(counts > 0, axis=1) - 1)
    shortfall = 2 * n * task.num_scored_steps * (task.baseline_loss - entropy.mean())
    assert abs(shortfall - freedom) < 4 * math.sqrt(2 * freedom)
    best = frequencies.max(1)
    standard_error = np.sqrt(np.mean(best * (1 - best)) / n)
    # The best of K equal classes is the maximum of K counts: on average above 1/K, by little.
    assert abs(best.mean() - task.baseline_accuracy) < 4 * standard_error


def test_the_best_constant_sum_scores_one_sixth():
    n = 100_000
    task = tasks.adding(4)
    targets = task.sample(jax.random.key(16), n).targets
    sums = np.asarray(targets, np.float64).ravel()
    # The sum of two uniform numbers has variance 1/6 and fourth central moment 1/15.
    assert abs(sums.mean() - 1) < 4 * math.sqrt(1 / 6 / n)
    assert abs(sums.var() - task.baseline_loss) < 4 * math.sqrt((1 / 15 - 1 / 36) / n)
    assert task.baseline_loss == 1 / 6
    assert math.isnan(task.baseline_accuracy)
    assert abs(float(tasks.skill(task, jnp.ones_like(targets), targets))) < 0.02


@pytest.mark.parametrize(
    ("delay", "table"),
    [(50, 0.297063), (100, 0.173287), (200, 0.094520), (500, 0.039989), (1000, 0.020387)],
)
def test_copying_baseline_is_that_of_the_literature(delay, table):
    task = tasks.copying_memory(delay)
    assert task.baseline_loss == pytest.approx(10 * math.log(8) / (delay + 20))
    assert round(task.baseline_loss, 6) == table


def test_copying_baseline_loss_is_that_of_blanks_then_uniform_symbols():
    task = tasks.copying_memory(6, length=3, num_symbols=5)
    targets = task.sample(jax.random.key(17), 50).targets
    answer = np.zeros((50, 12, 6))
    answer[:, :9, 5] = 100
    answer[:, 9:, 5] = -100
    answers = jnp.asarray(answer, F32)
    np.testing.assert_allclose(tasks.loss(task, answers, targets), task.baseline_loss, rtol=1e-5)


def test_copying_skill_is_that_of_the_word_when_the_blanks_are_right():
    task = tasks.copying_memory(6)
    targets = np.array(task.sample(jax.random.key(18), 40).targets)
    answers = targets.copy()
    answers[:, -10:-7] = (answers[:, -10:-7] + 1) % 8
    skill = tasks.skill(task, logits(answers, 9), jnp.asarray(targets))
    assert float(skill) == pytest.approx((0.7 - 1 / 8) / (1 - 1 / 8), rel=1e-5)


def test_baselines_where_all_classes_are_equally_likely():
    for task, num_classes in (
        (tasks.temporal_order(50), 4),
        (tasks.temporal_order(50, num_triggers=3), 8),
        (tasks.delayed_recall(5, num_classes=3), 3),
        (tasks.delayed_xor(9, 2), 2),
        (tasks.selective_copying(9, num_symbols=5, length=3), 5),
        (tasks.parity(9), 2),
    ):
        assert task.baseline_loss == pytest.approx(math.log(num_classes))
        assert task.baseline_accuracy == 1 / num_classes
