"""Tests that every synthetic task can be solved from its inputs, by someone who remembers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobian_rnn import tasks
from tests.networks import mostly_slow
from tests.tasks.small_tasks import F32, MAIN_TASKS, MAKERS, SYNTHETIC, logits, sampled

# From the inputs alone, in NumPy, as a network with a perfect memory would answer.


def solve_delayed_recall(xs, task):
    return logits(xs[:, 0].argmax(-1)[:, None], task.output_size)


def solve_adding(xs, task):
    assert task.output_size == 1
    sums = [values[marks == 1].sum() for values, marks in np.moveaxis(xs, 2, 1)]
    return jnp.asarray(sums, F32)[:, None, None]


def solve_copying_memory(xs, task):
    blank, delimiter = task.output_size - 1, task.output_size
    answers = []
    for shown in xs.argmax(-1).tolist():
        word, answer = [], []
        told = False
        for symbol in shown:
            answer.append(word.pop(0) if told else blank)
            told |= symbol == delimiter
            word += [symbol] if symbol < blank else []
        answers.append(answer)
    return logits(np.array(answers), task.output_size)


def solve_selective_copying(xs, task):
    """Push what is shown into a queue, and take one out at every delimiter."""
    answers = []
    for shown in xs.argmax(-1).tolist():
        word = [symbol for symbol in shown if symbol < task.output_size]
        answers.append([word.pop(0) for symbol in shown if symbol == task.output_size + 1])
    return logits(np.array(answers), task.output_size)


def solve_parity(xs, task):
    """Switch a state at every one."""
    state, answers = np.zeros(len(xs), int), []
    for bits in np.moveaxis(xs[..., 0], 1, 0):
        state = np.where(bits == 1, 1 - state, state)
        answers.append(state)
    return logits(np.stack(answers[-task.num_scored_steps :], axis=1), task.output_size)


def solve_temporal_order(xs, task):
    order = ["".join("XY"[s - 4] for s in shown if s >= 4) for shown in xs.argmax(-1).tolist()]
    classes = [[int(word.replace("X", "0").replace("Y", "1"), 2)] for word in order]
    return logits(np.array(classes), task.output_size)


def solve_delayed_xor(xs, task):
    delay, steps = task.horizon // 2, range(task.horizon, task.num_steps)
    answers = [[int(bits[t - delay] != bits[t - 2 * delay]) for t in steps] for bits in xs[..., 0]]
    return logits(np.array(answers), task.output_size)


def solve_flip_flop(xs, task):
    held = np.zeros((len(xs), task.output_size))
    answers = []
    for shown in np.moveaxis(xs, 1, 0):
        held = np.where(shown != 0, shown, held)
        answers.append(held)
    return jnp.asarray(np.stack(answers, axis=1), F32)


SOLVERS = {
    "flip_flop": solve_flip_flop,
    "delayed_recall": solve_delayed_recall,
    "adding": solve_adding,
    "copying_memory": solve_copying_memory,
    "selective_copying": solve_selective_copying,
    "parity": solve_parity,
    "temporal_order_2": solve_temporal_order,
    "temporal_order_3": solve_temporal_order,
    "delayed_xor": solve_delayed_xor,
}


@pytest.mark.parametrize("split", ["training", "validation", "test"])
@pytest.mark.parametrize("name", mostly_slow(SYNTHETIC, MAIN_TASKS))
def test_a_perfect_memory_has_skill_one(name, split):
    task = MAKERS[name](dtype=F32)
    xs, targets = sampled(task, split, jax.random.key(1))
    answers = SOLVERS[name](np.asarray(xs), task)
    assert float(tasks.skill(task, answers, targets)) == pytest.approx(1, abs=1e-6)
    assert float(tasks.accuracy(task, answers, targets)) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(tasks.loss(task, answers, targets), 0, atol=1e-6)
