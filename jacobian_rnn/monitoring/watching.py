"""A network watched while it is trained: how gradients grow in it now, every few updates."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jacobian_rnn import tasks
from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.checks import check_at_least, check_count, check_number, check_type, refuse
from jacobian_rnn.jacobians.gradients import parameter_gradients
from jacobian_rnn.jacobians.system import bind
from jacobian_rnn.jacobians.time_loop import states_of
from jacobian_rnn.regimes.prediction import predict_regime
from jacobian_rnn.regimes.quantiles import quantile
from jacobian_rnn.training.network import Network, loss_of_states

NUM_TIMED = 3  # calls, of which the fastest counts

Loss = Callable[[Any, Array, Any], Array]


def watch(
    network: Recurrence | Network | Callable[[Any], Recurrence],
    carry: PyTree,
    batch: PyTree,
    *,
    horizon: int,
    every: int,
    task: tasks.Task | None = None,
    loss: Loss | None = None,
    saturation: float | None = 0.95,
    num_probes: int = 8,
    prefix: str = "gradients",
    update: Callable[[], Any] | None = None,
    report: Callable[[str], None] | None = print,
) -> Callable[[Any, int], dict[str, float]]:
    """Make a function that measures a network every few updates of your own training loop.

    It pulls a few random gradients back through the sequences of a probe batch, as `predict_regime`
    does, and forms no Jacobian. The batch stays the same, so that what changes is the network.

    Args:
        network: what is trained, as it is now: a `Recurrence`, or a `training.Network`. Or a
            function that makes the `Recurrence` out of all parameters of a model of yours, such as
            `lambda params: from_linen(cell, {"params": params["rnn"]})`.
        carry: initial carry of every sequence, without batch axis.
        batch: sequences `(B, T, ...)` with B ≥ 2, or a `tasks.Batch` of sequences and targets,
            which a loss needs. A few sequences do.
        horizon: steps over which a gradient has to survive, from 1 to T, or to T − 1 with a loss.
        every: number of updates between measurements.
        task: with a `training.Network` and a `tasks.Batch`, for the share of lags in the gradient.
        loss: the same for a loss of your own: `loss(params, states, targets)`, a scalar, of all
            states `(T + 1, n)` of one sequence. `params` is what the function is called with.
        saturation: size from which on an entry of the output counts as saturated. At 0.95 the slope
            of tanh is below a tenth. None leaves the share out, as for ReLU units.
        num_probes: number of random gradients of each sequence.
        prefix: of all names.
        update: makes one update of yours and throws it away, without arguments. The cost of a
            measurement is then compared with it, and else with that of one `jax.value_and_grad`
            over the same sequences.
        report: is told the cost in one line, once, at the first measurement; None for silence.

    Returns:
        `measure(params, number)`, to be called after each update with what is trained and the
        number of updates. `params` is a `Recurrence`, its parameters, a `Network`, or what
        the function `network` takes. It gives an empty dict unless `number` is a multiple of
        `every`, and then a flat dict of floats, each name behind `prefix/`:

        - `log_growth_nats`: of a gradient of the output over the horizon, median of sequences.
        - `peak_log_growth_nats`, `peak_lag_steps`: the largest growth of a gradient of the carry at
          any lag, and that lag, medians.
        - `largest_exponent_nats_per_step`: λ₁, mean over sequences.
        - `share_from_horizon`: of ∂loss/∂θ, the part that comes from steps at least `horizon` back:
          the sum of their norms over that of all lags, from 0 to 1. NaN where the gradient is zero.
        - `saturated_share`: of all entries of the output, at all steps, from 0 to 1.

    Raises:
        ValueError: no updates in between, a horizon or a batch that does not fit, a loss without
            targets, or a network without its task.
        TypeError: parameters of another kind than the network's, or float dtypes that differ.

    Cost: one compilation, and a few backpropagations over the batch for each measurement.
    Parameters that are not finite give NaN and raise nothing.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jacobian_rnn import minimal_rnn, with_gain
        >>> network = with_gain(minimal_rnn(3, 16, key=jax.random.key(0)), 2.0)
        >>> xs = jax.random.normal(jax.random.key(1), (4, 20, 3))
        >>> options = {"horizon": 10, "every": 100, "report": None}
        >>> measure = watch(network, jnp.zeros(16), xs, **options)
        >>> measure(network, 99)
        {}
        >>> for name, value in measure(network, 100).items():
        ...     print(name, round(value, 2))
        gradients/largest_exponent_nats_per_step -0.45
        gradients/log_growth_nats -4.03
        gradients/peak_lag_steps 1.0
        gradients/peak_log_growth_nats -0.43
        gradients/saturated_share 0.01
    """
    check_at_least(1, every=every, horizon=horizon, num_probes=num_probes)
    if saturation is not None:
        check_number("saturation", saturation, above=0)
    expected = "a Recurrence, a training.Network, or a function from parameters to a Recurrence"
    check_type("network", network, Recurrence | Network | Callable, expected)
    has_targets = isinstance(batch, tasks.Batch)
    xs, targets = batch if has_targets else (batch, None)
    of_loss = _loss_of(network, carry, task, loss, has_targets)
    if of_loss is not None:
        longest = jax.tree.leaves(xs)[0].shape[1] - 1
        advice = "the first step has lag T − 1; leave the loss out, or give longer sequences"
        check_count("horizon", horizon, least=1, most=longest, advice=advice)
    recurrence_of = partial(_recurrence_of, network)

    @jax.jit
    def measure_now(params, carry, xs, targets):
        recurrence = recurrence_of(params)
        said = predict_regime(recurrence, carry, xs, horizon=horizon, num_probes=num_probes)
        metrics = {
            "log_growth_nats": quantile(said.log_growth_of_output, 0.5),
            "peak_log_growth_nats": quantile(said.peak, 0.5),
            "peak_lag_steps": quantile(said.peak_lag.astype(said.peak.dtype), 0.5),
            "largest_exponent_nats_per_step": said.exponent,
        }
        if of_loss is not None:
            metrics["share_from_horizon"] = _share(
                recurrence, carry, xs, targets, partial(of_loss, params), horizon
            )
        if saturation is not None:
            sizes = jnp.abs(_outputs(recurrence, carry, xs))
            metrics["saturated_share"] = jnp.mean(sizes >= saturation, dtype=sizes.dtype)
        return metrics

    data = carry, xs, targets
    if not isinstance(network, Callable):
        jax.eval_shape(measure_now, network, *data)  # what does not fit is said before training
    is_told = report is None

    def measure(params: Any, number: int = 0) -> dict[str, float]:
        nonlocal is_told
        if number % every:
            return {}
        recurrence_of(params)
        found = jax.device_get(measure_now(params, *data))
        if not is_told and report is not None:
            is_told = True
            own = _seconds(lambda: measure_now(params, *data))
            other = update or _gradient_of(recurrence_of(params), data, of_loss, params)
            report(_cost(own, _seconds(other), every, is_update=update is not None))
        return {f"{prefix}/{name}": float(value) for name, value in found.items()}

    return measure


def _loss_of(network, carry, task, loss, has_targets) -> Loss | None:
    """Return `loss(params, states, targets)`, or None where there is none."""
    if task is None and loss is None:
        return None
    if not has_targets:
        refuse("batch", "sequences without targets", "a tasks.Batch(xs, targets)", "for the loss")
    if loss is not None:
        return loss
    if not isinstance(network, Network) or task is None:
        advice = "or pass loss(params, states, targets)"
        refuse("task", f"one with a {type(network).__name__}", "a training.Network", advice)

    def of_task(params, states, targets):
        return loss_of_states(params, carry, task, targets)(states)

    return of_task


def _recurrence_of(network: Any, params: Any) -> Recurrence:
    if not isinstance(network, Recurrence | Network):
        made = network(params)
        check_type("network(params)", made, Recurrence, "a Recurrence", "such as by from_linen")
        return made
    if isinstance(network, Network):
        check_type("params", params, Network, "a training.Network, as the one to be watched")
        return params.recurrence
    if isinstance(params, Recurrence):
        return params
    own, given = (jax.tree.structure(tree) for tree in (network.params, params))
    if own != given:
        refuse("params", given, f"a Recurrence, or its parameters {own}", error=TypeError)
    return Recurrence(
        network.step, params, network.jacobian, network.output, network.unit_jacobians
    )


def _share(recurrence, carry, xs, targets, loss, horizon):
    def of_sequence(xs, targets):
        def of_states(states):
            return loss(states, targets)

        return parameter_gradients(recurrence, carry, xs, of_states).norms

    norms = jnp.sum(jax.vmap(of_sequence)(xs, targets), axis=0)
    return jnp.sum(norms[horizon:]) / jnp.sum(norms)


def _outputs(recurrence, carry, xs):
    def of_sequence(xs):
        system = bind(recurrence, carry, xs)
        return jax.vmap(system.output)(states_of(system)[1:])

    return jax.vmap(of_sequence)(xs)


def _gradient_of(recurrence, data, of_loss, params):
    """Return a function that differentiates a loss over the same sequences."""

    @jax.jit
    @partial(jax.value_and_grad, allow_int=True)
    def differentiate(recurrence, carry, xs, targets):
        def of_sequence(xs, targets):
            states = states_of(bind(recurrence, carry, xs))
            return jnp.mean(states**2) if of_loss is None else of_loss(params, states, targets)

        return jnp.mean(jax.vmap(of_sequence)(xs, targets))

    return lambda: differentiate(recurrence, *data)


def _seconds(call: Callable[[], Any]) -> float:
    """Return how long the fastest of a few calls takes, after one that compiles."""
    jax.block_until_ready(call())
    taken = []
    for _ in range(NUM_TIMED):
        start = time.perf_counter()
        jax.block_until_ready(call())
        taken.append(time.perf_counter() - start)
    return min(taken)


def _cost(own: float, other: float, every: int, *, is_update: bool) -> str:
    name = "one of your updates" if is_update else "one value_and_grad over the same sequences"
    return (
        f"a measurement takes {1e3 * own:.2g} ms every {every} updates, {own / other:.2g} times as "
        f"long as {name}: {100 * own / (every * other):.2g} % of its time"
    )
