"""Tests of a task that is made of one batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobian_rnn import tasks
from jacobian_rnn.tasks import Batch


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
