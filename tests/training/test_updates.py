import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.flatten_util import ravel_pytree

from jacobian_rnn import Outcome, lyapunov_spectrum, observe_regime, training, zero_carry
from tests.networks import mostly_slow
from tests.training.trainings import assert_close, network, recall

OPTIMIZERS = {
    "adam": optax.adam(0.01),
    "adamw": optax.adamw(0.01, weight_decay=1e-3),
    "reduce_on_plateau": optax.chain(
        optax.adam(0.01), optax.contrib.reduce_on_plateau(accumulation_size=20)
    ),
    "polyak_sgd": optax.polyak_sgd(max_learning_rate=0.5),
    "lbfgs": optax.lbfgs(),
    "backtracking": optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(15)),
    "sam": optax.contrib.sam(
        optax.adam(0.02), optax.chain(optax.contrib.normalize(), optax.sgd(0.05))
    ),
    "MultiSteps": optax.MultiSteps(optax.adam(0.02), every_k_schedule=2),
    "MultiSteps with value": optax.MultiSteps(optax.polyak_sgd(0.5), every_k_schedule=2),
    "apply_if_finite": optax.apply_if_finite(optax.adam(0.01), 3),
    "inject_hyperparams": optax.inject_hyperparams(optax.adam)(learning_rate=0.01),
    "schedule_free": optax.contrib.schedule_free_adamw(0.02),
    "momentum": optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1, 0.9)),
    "schedule": optax.adam(optax.cosine_decay_schedule(0.02, 400)),
}


@pytest.mark.parametrize(
    "name",
    mostly_slow(list(OPTIMIZERS), ["reduce_on_plateau", "polyak_sgd", "sam", "schedule_free"]),
)
def test_every_optimiser_learns_to_recall_and_is_observed_to(name):
    task = recall(3)
    recurrence, carry = network(nn.GRUCell, task, width=12)
    _, history = training.train(
        task,
        recurrence,
        carry,
        optimizer=OPTIMIZERS[name],
        key=jax.random.key(0),
        num_updates=300,
        records=1,
    )
    assert history.records.validation_skill[0] < 0.3
    assert observe_regime(history).outcome == Outcome.LEARNED
    assert np.isfinite(history.gradient_norm).all()


def test_an_optimiser_is_told_value_gradient_and_function_of_the_batch():
    def check(updates, state, params, *, value, grad, value_fn, **_):
        same = [
            jnp.all(a == b) for a, b in zip(*map(jax.tree.leaves, (updates, grad)), strict=True)
        ]
        seen = jnp.stack([value, value_fn(params), jnp.all(jnp.stack(same)).astype(float)])
        return jax.tree.map(jnp.zeros_like, updates), (*state[1:], seen)

    spy = optax.GradientTransformationExtraArgs(lambda _: (jnp.zeros(3),) * 2, check)
    task = recall(3)
    recurrence, carry = network(nn.SimpleCell, task)
    state = training.start(task, recurrence, carry, spy, key=jax.random.key(5))
    new, record = training.advance(state, carry, task, spy, num_updates=2, batch_size=7)
    for seen, loss in zip(new.optimizer_state, record.loss, strict=True):
        np.testing.assert_allclose(seen, [loss, loss, 1.0], rtol=1e-12)


def test_schedule_free_networks_are_tested_and_kept_where_they_are_averaged():
    task, optimizer = recall(3), optax.chain(
        optax.clip_by_global_norm(1.0), optax.contrib.schedule_free_sgd(0.5)
    )  # fmt: skip
    recurrence, carry = network(nn.SimpleCell, task)
    options = {"num_updates": 5, "batch_size": 4}
    kept, history = training.train(
        task, recurrence, carry, optimizer=optimizer, key=jax.random.key(1), records=1, **options
    )
    state = training.start(task, recurrence, carry, optimizer, key=jax.random.key(1))
    state, _ = training.advance(state, carry, task, optimizer, **options)
    averaged = optax.contrib.schedule_free_eval_params(state.optimizer_state[1], state.network)
    assert_close(kept, averaged, 1e-12)
    held_out = task.sample_held_out(jax.random.key(0), 256, "test")
    expected = training.evaluate(averaged, carry, task, held_out)
    np.testing.assert_allclose([history.test_skill, history.test_loss], expected, rtol=1e-12)
    assert not np.allclose(kept.kernel, state.network.kernel)


def decay(net, _):
    return 0.05 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(net))


def test_a_penalty_of_squares_is_weight_decay_and_is_not_in_the_recorded_loss():
    task = recall(3)
    recurrence, carry = network(nn.SimpleCell, task)
    options = {"key": jax.random.key(0), "num_updates": 8, "batch_size": 4, "records": 1}
    penalised = training.train(
        task, recurrence, carry, optimizer=optax.sgd(0.1), penalty=decay, **options
    )
    decayed = training.train(
        task,
        recurrence,
        carry,
        optimizer=optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1)),
        **options,
    )
    assert_close(penalised[0], decayed[0], 1e-11)
    np.testing.assert_allclose(penalised[1].loss, decayed[1].loss, rtol=1e-11)
    plain = training.train(task, recurrence, carry, optimizer=optax.sgd(0.1), **options)
    assert penalised[1].loss[0] == plain[1].loss[0]
    assert np.all(penalised[1].loss[1:] != plain[1].loss[1:])


def squared_exponents(net, batch):
    carry = zero_carry(net.recurrence)
    spectrum = lyapunov_spectrum(
        net.recurrence, carry, batch.xs[0], num_exponents=2, qr_every=1, factorization="householder"
    )
    return jnp.sum(spectrum.exponents**2)


@pytest.mark.slow
def test_gradient_flossing_is_a_penalty():
    task = recall(12)
    recurrence, carry = network(nn.SimpleCell, task)
    small = jax.tree.map(lambda leaf: 0.3 * leaf, recurrence)
    trained, history = training.train(
        task,
        small,
        carry,
        optimizer=optax.adam(0.01),
        key=jax.random.key(0),
        num_updates=150,
        records=1,
        penalty=squared_exponents,
    )
    batch = task.sample(jax.random.key(1), 1)
    before = training.start(task, small, carry, optax.sgd(0.0), key=jax.random.key(0)).network
    assert squared_exponents(trained, batch) < 0.2 * squared_exponents(before, batch)
    assert np.isfinite(history.loss).all()


def test_gradient_norms_are_recorded_before_clipping_and_updates_after():
    task = recall(3)
    recurrence, carry = network(nn.SimpleCell, task)
    clipped = optax.chain(optax.clip_by_global_norm(1e-3), optax.sgd(1.0))
    _, history = training.train(
        task,
        recurrence,
        carry,
        optimizer=clipped,
        key=jax.random.key(0),
        num_updates=3,
        records=1,
        held_out_size=4,
    )
    assert np.all(history.gradient_norm > 0.01)
    np.testing.assert_allclose(history.update_norm, 1e-3, rtol=1e-9)


@pytest.mark.slow
def test_first_recorded_gradient_is_that_of_the_mean_loss_by_finite_differences():
    task = recall(3)
    recurrence, carry = network(nn.GRUCell, task, width=3)
    state = training.start(task, recurrence, carry, optax.sgd(1.0), key=jax.random.key(5))
    batch_key = jax.random.split(state.key)[1]
    batch = task.sample(batch_key, 7)
    new, record = training.advance(state, carry, task, optax.sgd(1.0), num_updates=1, batch_size=7)
    flat, unravel = ravel_pytree(state.network)

    def mean_loss(vector):
        return training.evaluate(unravel(vector), carry, task, batch)[1]

    moved = ravel_pytree(new.network)[0] - flat  # minus the gradient
    direction = jnp.cos(jnp.arange(flat.size))
    slope = (mean_loss(flat + 1e-6 * direction) - mean_loss(flat - 1e-6 * direction)) / 2e-6
    np.testing.assert_allclose(-moved @ direction, slope, rtol=1e-7)
    np.testing.assert_allclose(record.gradient_norm[0], jnp.linalg.norm(moved), rtol=1e-12)


def test_updates_of_many_networks_are_one_program_under_vmap():
    task, optimizer = recall(3), optax.sgd(0.1)
    recurrence, carry = network(nn.SimpleCell, task)
    both = jax.tree.map(lambda a: jnp.stack([a, 1.1 * a]), recurrence)

    def run(one):
        state = training.start(task, one, carry, optimizer, key=jax.random.key(3))
        return training.advance(state, carry, task, optimizer, num_updates=3, batch_size=4)[1].loss

    together = jax.vmap(run)(both)
    alone = run(recurrence)
    np.testing.assert_allclose(together[0], alone, rtol=1e-12)
