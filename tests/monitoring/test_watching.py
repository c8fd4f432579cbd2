import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import jacobian_rnn as jrnn
from jacobian_rnn import tasks, training
from jacobian_rnn.monitoring import watch
from tests.networks import make_network, normal
from tests.test_contracts import compilations
from tests.training.trainings import network, recall

QUIET = {"report": None}


def test_every_few_updates_it_says_what_predictions_and_trajectories_say():
    recurrence, carry, _ = make_network("LSTMCell", 4)
    xs = jnp.asarray(normal(5, (3, 20, 3)))
    measure = watch(recurrence, carry, xs, horizon=8, every=10, saturation=0.3, **QUIET)
    assert [measure(recurrence, number) for number in (1, 9, 11)] == [{}, {}, {}]
    metrics = measure(recurrence, 20)
    assert all(type(value) is float for value in metrics.values())
    # Exact growth of what the output shows, from plainly multiplied Jacobians.
    growths, peaks, shown = [], [], []
    for x in xs:
        product, by_lag = np.eye(8), []
        for jacobian in np.asarray(jrnn.step_jacobians(recurrence, carry, x))[::-1]:
            product = product @ jacobian
            by_lag.append(np.log(np.linalg.norm(product) / 8**0.5))
            if len(by_lag) == 8:
                growths.append(np.log(np.linalg.norm(product[4:]) / 4**0.5))
        peaks.append((max(by_lag), 1 + np.argmax(by_lag)))
        shown.append(np.asarray(jrnn.trajectory(recurrence, carry, x))[1:, 4:])
    # As many probes as there are directions measure exactly.
    exact = watch(recurrence, carry, xs, horizon=8, every=1, num_probes=8, saturation=0.3, **QUIET)
    metrics = exact(recurrence, 3)
    np.testing.assert_allclose(metrics["gradients/log_growth_nats"], np.median(growths), rtol=1e-6)
    peak, lag = np.median(peaks, axis=0)
    np.testing.assert_allclose(metrics["gradients/peak_log_growth_nats"], peak, rtol=1e-6)
    np.testing.assert_allclose(metrics["gradients/peak_lag_steps"], lag)
    exponents = [jrnn.largest_exponent(recurrence, carry, x, num_warmup=5) for x in xs]
    np.testing.assert_allclose(
        metrics["gradients/largest_exponent_nats_per_step"], np.mean(exponents), rtol=1e-9
    )
    share = np.mean(np.abs(shown) >= 0.3)
    assert 0 < share < 1
    np.testing.assert_allclose(metrics["gradients/saturated_share"], share)


def test_the_share_of_far_lags_is_that_of_the_gradient_of_training():
    task = recall(6)
    recurrence, carry = network(nn.GRUCell, task)
    net = training.start(task, recurrence, carry, optax.sgd(0.1), key=jax.random.key(0)).network
    batch = task.sample(jax.random.key(1), 3)
    measure = watch(net, carry, batch, horizon=task.horizon, every=1, task=task, **QUIET)
    near = far = 0.0
    for x, target in zip(*batch, strict=True):

        def loss(copies, x=x, target=target):
            """Give every step parameters of its own."""
            state = carry
            for one, params in zip(x, copies, strict=True):
                state = recurrence.step(params, state, one)
            predicted = state @ net.kernel + net.bias
            return tasks.loss(task, predicted[None, None], target[None])[0]

        gradients = jax.grad(loss)([recurrence.params] * len(x))
        norms = np.array([float(optax.tree.norm(one)) for one in gradients[::-1]])  # by lag
        near, far = near + norms[: task.horizon].sum(), far + norms[task.horizon :].sum()
    np.testing.assert_allclose(
        measure(net)["gradients/share_from_horizon"], far / (near + far), rtol=1e-9
    )


def step(params, h, x):
    return jnp.tanh(params["recurrent"] @ h + params["read"] @ x)


def own_model():
    params = {
        "rnn": {
            "recurrent": jnp.asarray(0.5 * normal(0, (4, 4))),
            "read": jnp.asarray(normal(1, (4, 2))),
        },
        "head": jnp.asarray(normal(2, 4)),
    }
    batch = tasks.Batch(jnp.asarray(normal(3, (5, 12, 2))), jnp.asarray(normal(4, 5)))
    return params, batch


def recurrence_of(params):
    return jrnn.Recurrence(step, params["rnn"])


def own_loss(params, states, target):
    return (states[-1] @ params["head"] - target) ** 2


def test_a_model_of_ones_own_is_watched_by_a_function_of_its_parameters():
    params, batch = own_model()
    measure = watch(
        recurrence_of, jnp.zeros(4), batch, horizon=5, every=1, loss=own_loss, prefix="rnn", **QUIET
    )
    metrics = measure(params)
    plain = watch(recurrence_of(params), jnp.zeros(4), batch.xs, horizon=5, every=1, **QUIET)
    for same in (recurrence_of(params), params["rnn"]):
        for name, value in plain(same).items():
            assert metrics[name.replace("gradients/", "rnn/")] == value
    # The head counts as it is now, and not as it was when the function was compiled.
    before = metrics["rnn/share_from_horizon"]
    params["head"] = params["head"] * jnp.array([1.0, 0.0, 0.0, 0.0])
    after = measure(params)
    assert after["rnn/share_from_horizon"] != before
    assert after["rnn/log_growth_nats"] == metrics["rnn/log_growth_nats"]


def test_it_compiles_once_and_tells_its_cost_once():
    params, batch = own_model()
    told, updates = [], []
    measure = watch(
        recurrence_of,
        jnp.zeros(4),
        batch,
        horizon=5,
        every=7,
        loss=own_loss,
        update=lambda: updates.append(1),
        report=told.append,
    )
    measure(params, 7)
    assert len(told) == 1
    assert "every 7 updates" in told[0]
    assert "one of your updates" in told[0]
    assert len(updates) == 4  # one compiles, three are timed
    other = jax.tree.map(lambda leaf: 1.1 * leaf, params)
    with compilations() as compiled:
        measure(other, 14)
    assert not compiled
    assert len(told) == 1


def test_without_an_update_its_cost_is_told_against_a_gradient(capsys):
    recurrence, carry, xs = make_network("GRUCell", 4)
    batch = jnp.stack([xs, xs[::-1]])
    measure = watch(recurrence, carry, batch, horizon=5, every=1)
    measure(recurrence, 0)
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "one value_and_grad over the same sequences" in said


def test_a_diverged_network_gives_nan_and_raises_nothing():
    recurrence, carry, xs = make_network("GRUCell", 4)
    batch = jnp.stack([xs, xs[::-1]])
    measure = watch(recurrence, carry, batch, horizon=5, every=1, **QUIET)
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, recurrence)
    metrics = measure(broken)
    assert np.isnan(metrics["gradients/log_growth_nats"])
    assert np.isnan(metrics["gradients/largest_exponent_nats_per_step"])


def test_what_does_not_fit_is_refused_before_training():
    params, batch = own_model()
    recurrence, carry = recurrence_of(params), jnp.zeros(4)
    options = {"horizon": 5, "every": 10, **QUIET}
    with pytest.raises(ValueError, match="horizon: received 13"):
        watch(recurrence, carry, batch, **options | {"horizon": 13})
    with pytest.raises(ValueError, match="horizon: received 12, expected 1 to 11: the first step"):
        watch(recurrence_of, carry, batch, **options | {"horizon": 12}, loss=own_loss)
    with pytest.raises(ValueError, match="every: received 0"):
        watch(recurrence, carry, batch, **options | {"every": 0})
    with pytest.raises(ValueError, match="batch: received sequences without targets"):
        watch(recurrence_of, carry, batch.xs, **options, loss=own_loss)
    with pytest.raises(ValueError, match="task: received one with a Recurrence, expected a train"):
        watch(recurrence, carry, batch, **options, task=recall(3))
    with pytest.raises(TypeError, match="network: received a dict, expected a Recurrence, a train"):
        watch(params, carry, batch, **options)
    with pytest.raises(ValueError, match="saturation: received 0"):
        watch(recurrence, carry, batch, **options, saturation=0)
    measure = watch(recurrence, carry, batch.xs, **options)
    with pytest.raises(TypeError, match=r"params: received .* expected a Recurrence, or its param"):
        measure(params, 10)
    net = training.Network(recurrence, jnp.zeros((4, 1)), jnp.zeros(1))
    with pytest.raises(TypeError, match=r"params: received a Recurrence, expected a training.Net"):
        watch(net, carry, batch.xs, **options)(recurrence, 10)
    with pytest.raises(TypeError, match=r"network\(params\): received a dict, expected a Recurr"):
        watch(lambda params: params, carry, batch.xs, **options)(params, 10)
