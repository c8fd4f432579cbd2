import dataclasses
import doctest
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jacobian_rnn import Outcome, observe_regime, tasks, training
from tests.test_contracts import compilations
from tests.training.trainings import assert_close, ensemble, network, one_of, recall

KEYS = jax.random.split(jax.random.key(5), 3)
ADAM = optax.adam(0.01)
OPTIONS: dict[str, Any] = {
    "num_updates": 6,
    "batch_size": 4,
    "held_out_size": 10,
    "records": (2, 3),
}


def clipped(hyperparameters):
    rate, clip_norm = hyperparameters["rate"], hyperparameters["clip"]
    return optax.chain(optax.clip_by_global_norm(clip_norm), optax.sgd(rate))


def test_an_ensemble_of_one_is_the_one_bit_for_bit():
    recurrences, carry = ensemble(recall(3), [1.0])
    options = OPTIONS | {"optimizer": ADAM}
    alone = training.train(recall(3), one_of(recurrences, 0), carry, key=KEYS[0], **options)
    together = training.train(recall(3), recurrences, carry, key=KEYS[:1], **options)
    assert_close(one_of(together, 0), alone, 0)
    assert alone[1].test_skill.shape == ()


def test_each_of_an_ensemble_is_trained_as_if_alone():
    recurrences, carry = ensemble(recall(3), [[0.5, 1.0, 2.0], [0.1, 0.2, 0.3]])
    keys = jnp.stack([KEYS, KEYS[::-1]])
    options = OPTIONS | {"optimizer": ADAM, "gradients_by_lag": True}
    together = training.train(recall(3), recurrences, carry, key=keys, **options)
    for index in np.ndindex(2, 3):
        alone = training.train(
            recall(3), one_of(recurrences, *index), carry, key=keys[index], **options
        )
        assert_close(one_of(together, *index), alone, 1e-10)
    assert together[1].loss.shape == (2, 3, 6)
    assert together[1].records.gradient_norm_by_lag.shape == (2, 3, 4, 5)
    assert together[1].records.num_updates[1, 2].tolist() == [0, 2, 3, 6]


def test_hyperparameters_of_their_own_cross_with_networks():
    recurrences, carry = ensemble(recall(3), [0.5, 1.0, 2.0])
    rates, clips = np.array([[0.1], [0.01]]), np.array([0.1, np.inf, 0.3])
    options = OPTIONS | {"optimizer": clipped}
    together = training.train(
        recall(3),
        recurrences,
        carry,
        key=KEYS,
        hyperparameters={"rate": rates, "clip": clips},
        **options,
    )
    for i, j in np.ndindex(2, 3):
        own = {"rate": rates[i, 0], "clip": clips[j]}
        alone = training.train(
            recall(3),
            one_of(recurrences, j),
            carry,
            key=KEYS[j],
            hyperparameters=own,
            **options,
        )
        assert_close(one_of(together, i, j), alone, 1e-10)
    made = OPTIONS | {"optimizer": clipped({"rate": 0.01, "clip": 0.3})}
    alone = training.train(recall(3), one_of(recurrences, 2), carry, key=KEYS[2], **made)
    assert_close(one_of(together, 1, 2), alone, 1e-10)


def test_one_network_and_many_keys_see_other_data_and_the_same_held_out_data():
    recurrence, carry = ensemble(recall(3), [1.0])
    options = OPTIONS | {"optimizer": optax.sgd(0.0)}
    networks, history = training.train(recall(3), recurrence, carry, key=KEYS, **options)
    kernels = networks.recurrence.params["params"]["h"]["kernel"]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert np.ptp(history.loss[:, 0]) > 0
    # What is never updated scores the same in every record.
    assert np.ptp(history.records.test_loss, axis=1).max() == 0
    expected = [
        training.evaluate(
            one_of(networks, i),
            carry,
            recall(3),
            recall(3).sample_held_out(jax.random.key(0), 10, "test"),
        )[1]
        for i in range(3)
    ]
    np.testing.assert_allclose(history.test_loss, expected, rtol=1e-12)
    other = training.train(
        recall(3), recurrence, carry, key=KEYS, held_out_key=jax.random.key(9), **options
    )[1]
    assert np.all(other.test_loss != history.test_loss)
    np.testing.assert_array_equal(other.loss, history.loss)


def test_what_is_recorded_at_a_budget_is_a_training_of_that_budget():
    recurrences, carry = ensemble(recall(3), [0.5, 2.0])
    options = OPTIONS | {"optimizer": ADAM, "key": KEYS[:2], "gradients_by_lag": True}
    long = training.train(recall(3), recurrences, carry, **options)[1]
    options |= {"num_updates": 3}
    short = training.train(recall(3), recurrences, carry, **options)[1]
    assert_close(long.until(3), short, 1e-12)
    assert_close(observe_regime(long.until(3)), observe_regime(short), 1e-12)
    assert long.until(2).loss.shape == (2, 2)
    np.testing.assert_array_equal(long.until(2).test_skill, long.records.test_skill[:, 1])
    with pytest.raises(ValueError, match=r"received 5, expected one of .*\[0, 2, 3, 6\]"):
        long.until(5)


def test_even_intervals_end_with_the_last_update():
    recurrence, carry = network(nn.SimpleCell, recall(3))
    options = OPTIONS | {"records": 4, "optimizer": ADAM, "key": KEYS[0]}
    history = training.train(recall(3), recurrence, carry, **options)[1]
    assert history.records.num_updates.tolist() == [0, 1, 3, 4, 6]


def test_inside_a_compiled_program_over_networks_it_gives_what_plain_calls_give():
    recurrences, carry = ensemble(recall(3), [0.5, 1.0, 2.0])
    rates = jnp.array([0.1, 0.01])
    options = OPTIONS | {"optimizer": optax.sgd}

    def program(recurrence, key):
        recurrence = jax.tree.map(lambda leaf: leaf[None], recurrence)
        _, history = training.train(
            recall(3), recurrence, carry, key=key[None], hyperparameters=rates, **options
        )
        observed = observe_regime(history.until(3))
        return history, observed, training.best_index(history, axis=-1)

    history, observed, best = jax.jit(jax.vmap(program))(recurrences, KEYS)
    plain = training.train(
        recall(3), recurrences, carry, key=KEYS, hyperparameters=rates[:, None], **options
    )[1]
    plain = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), plain)
    assert_close(history, plain, 1e-10)
    assert_close(observed, observe_regime(plain.until(3)), 1e-10)
    np.testing.assert_array_equal(best, training.best_index(plain, axis=1))


def test_a_task_may_depend_on_a_number_that_is_traced():
    task = recall(3)
    recurrences, carry = ensemble(task, [1.0, 1.0])
    options = OPTIONS | {"optimizer": ADAM, "key": KEYS[0]}

    def program(recurrence, factor):
        def sample(*given):
            batch = task.sample(*given)
            return batch._replace(xs=factor * batch.xs)

        scaled = dataclasses.replace(task, sample=sample)
        return training.train(scaled, recurrence, carry, **options)[1]

    history = jax.jit(jax.vmap(program))(recurrences, jnp.array([1.0, 0.0]))
    plain = training.train(task, one_of(recurrences, 0), carry, **options)[1]
    assert_close(one_of(history, 0), plain, 1e-10)
    assert history.loss[1, 0] != history.loss[0, 0]


def test_other_numbers_and_other_records_compile_nothing_anew():
    def once(factors, key, records):
        recurrences, carry = ensemble(recall(3), factors)
        options = OPTIONS | {"records": records, "optimizer": ADAM}
        return training.train(recall(3), recurrences, carry, key=key, **options)[1]

    first = once([0.5, 1.0, 2.0], KEYS, (2, 3))
    with compilations() as compiled:
        other = once([0.7, 1.1, 2.1], KEYS[::-1], (1, 4))
        again = once([0.5, 1.0, 2.0], KEYS, (2, 3))
    assert not compiled
    assert_close(again, first, 0)
    assert np.all(other.loss != first.loss)


def test_progress_is_told_after_each_record_and_changes_nothing():
    recurrences, carry = ensemble(recall(3), [0.5, 1.0, 2.0])
    calls, options = [], OPTIONS | {"optimizer": ADAM, "key": KEYS}

    def watch(*now):
        calls.append(now)

    watched = training.train(recall(3), recurrences, carry, on_progress=watch, **options)
    assert calls == [(0, 6), (2, 6), (3, 6), (6, 6)]
    assert_close(watched, training.train(recall(3), recurrences, carry, **options), 1e-12)
    with pytest.raises(TypeError, match=r"on_progress: .* expected None in a traced call"):
        jax.jit(lambda r: training.train(recall(3), r, carry, on_progress=watch, **options))(
            recurrences
        )


def test_tests_of_an_ensemble_need_little_memory_beside_its_updates():
    recurrences, carry = ensemble(recall(60), np.ones(64))
    options = {"num_updates": 2, "records": 1, "batch_size": 8, "optimizer": ADAM}

    def memory(held_out_size):
        def run(recurrences):
            return training.train(
                recall(60),
                recurrences,
                carry,
                key=jax.random.split(jax.random.key(0), 64),
                held_out_size=held_out_size,
                **options,
            )

        return jax.jit(run).lower(recurrences).compile().memory_analysis().temp_size_in_bytes

    # The states of 64 networks over 256 sequences would take 64 · 256 · 61 · 6 · 8 bytes, 48 MB.
    assert memory(256) < 2 * memory(8)


def test_a_network_that_diverges_spoils_no_other_and_raises_nothing():
    task = tasks.adding(4, dtype=jnp.float64)
    recurrences, carry = ensemble(task, [1.0])
    options = OPTIONS | {"optimizer": optax.sgd, "num_updates": 10, "key": KEYS[:1]}
    rates = np.array([0.01, 1e200])
    history = training.train(task, recurrences, carry, hyperparameters=rates, **options)[1]
    assert np.isfinite(history.loss[0]).all()
    assert not np.isfinite(history.loss[1]).all()
    assert observe_regime(history).outcome.tolist()[1] == Outcome.DIVERGED
    assert training.best_index(history, axis=0) == 0


@pytest.mark.parametrize("name", ["num_updates", "batch_size", "records", "held_out_size"])
def test_counts_below_one_are_refused(name):
    recurrence, carry = network(nn.SimpleCell, recall(3))
    options: dict[str, Any] = OPTIONS | {name: 0, "optimizer": ADAM, "key": KEYS[0]}
    with pytest.raises(ValueError, match=f"{name}: received 0"):
        training.train(recall(3), recurrence, carry, **options)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"records": 7}, ValueError, "records: received 7, expected 1 to 6"),
        ({"records": (2, 7)}, ValueError, "records: received 7, expected 0 to 6"),
        ({"key": KEYS[:2]}, ValueError, r"recurrence.*: received axes \(3,\), expected .*\(2,\)"),
        ({"key": KEYS[0]}, ValueError, "step: failed for carry"),
        ({"key": KEYS[:0]}, ValueError, "received axes"),
        ({"key": 3}, TypeError, "key: received a int"),
        ({"held_out_key": 3}, TypeError, "held_out_key: received a int"),
        ({"hyperparameters": np.ones(2)}, ValueError, r"hyperparameters: received axes \(2,\)"),
        ({"hyperparameters": np.ones(3)}, TypeError, "expected a function from hyperparameters"),
        ({"optimizer": optax.adam}, TypeError, "a function to one goes with hyperparameters"),
        (
            {"optimizer": jnp.sin, "hyperparameters": np.ones(3)},
            TypeError,
            r"optimizer\(hyperparameters\): received",
        ),
        ({"carry": np.full(6, np.nan)}, ValueError, "carry: received 6 of 6 values"),
        ({"carry": np.zeros(5)}, ValueError, r"carry: received \(5,\), expected \(6,\)"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(changes, error, match):
    recurrences, carry = ensemble(recall(3), [0.5, 1.0, 2.0])
    given = OPTIONS | {"carry": carry, "optimizer": ADAM, "key": KEYS} | changes
    with pytest.raises(error, match=match):
        training.train(recall(3), recurrences, **given)


def test_networks_that_are_not_finite_and_scalars_for_many_are_refused():
    recurrences, carry = ensemble(recall(3), [0.5, np.nan, 2.0])
    given = OPTIONS | {"optimizer": ADAM, "key": KEYS}
    with pytest.raises(ValueError, match=r"recurrence.*NaN or infinite"):
        training.train(recall(3), recurrences, carry, **given)
    one, _ = network(nn.SimpleCell, tasks.adding(8, dtype=jnp.float64))
    with pytest.raises(ValueError, match="xs: received 4 inputs a step, expected 2"):
        training.train(recall(3), one, carry, **(given | {"key": KEYS[0]}))
    scalars = jax.tree.map(jnp.sum, one)
    with pytest.raises(ValueError, match=r"received shape \(\), expected the 1 axes of key first"):
        training.train(recall(3), scalars, carry, **given)


def test_the_readme_shows_the_example_that_runs_as_a_doctest():
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    example, _, shown = readme.partition("## From a cell to a score")[2].partition("```text\n")
    blocks = doctest.DocTestParser().get_examples(training.__doc__)
    assert "".join(one.source for one in blocks) in example.replace("\n\n", "\n")
    assert shown.startswith(f"{blocks[-1].want}```")
