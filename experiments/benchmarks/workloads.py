"""What the benchmarks run on: sizes, matrices with known singular values, systems, references."""

import dataclasses
import importlib
import math
from functools import partial
from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

import jacobian_rnn as jrnn
from jacobian_rnn.linalg.frames import generic_columns

INPUT_SIZE = 8


class ChainCase(NamedTuple):
    """Which chain of matrices: its size, its length, and how its singular values lie."""

    kind: str
    n: int
    num_steps: int

    @property
    def name(self) -> str:
        """The case as tables and figures name it."""
        return f"{self.kind}, n={self.n}, T={self.num_steps}"


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Configuration of a run; lengths are numbers of steps."""

    dtype: str = "float64"
    repeats: int = 11
    max_seconds: float = 2.0  # per comparison, compilation apart
    chains: tuple[ChainCase, ...] = (
        ChainCase("distinct", 8, 200),
        ChainCase("distinct", 16, 2000),
        ChainCase("distinct", 64, 2000),
        ChainCase("distinct", 64, 20_000),
        ChainCase("degenerate", 6, 3000),
        ChainCase("wandering", 6, 3000),
        ChainCase("narrow", 16, 2000),
    )
    jacobian_cells: tuple[str, ...] = ("SimpleCell", "GRUCell", "MGUCell", "OptimizedLSTMCell")
    jacobian_widths: tuple[int, ...] = (32, 128)
    jacobian_steps: int = 32
    shared_steps: int = 1000
    shared_k: tuple[int, ...] = (64, 8)
    autonomous_steps: int = 5000
    autonomous_k: tuple[int, ...] = (4, 32)
    floor_steps: int = 5000
    floor_cells: tuple[str, ...] = ("SimpleCell", "GRUCell", "LSTMCell")
    floor_widths: tuple[int, ...] = (64, 128)
    floor_fractions: tuple[int, ...] = (16, 8)
    lengths: tuple[int, ...] = (1000, 10_000, 100_000)
    widths: tuple[int, ...] = (32, 64, 128, 256)
    width_steps: int = 200
    batches: tuple[int, ...] = (1, 8, 32)
    batch_steps: int = 500
    verdict_cells: tuple[str, ...] = ("GRUCell", "LSTMCell")
    verdict_widths: tuple[int, ...] = (64, 128, 256, 512)
    verdict_steps: tuple[int, ...] = (200, 784)
    exact_states: int = 64  # beyond, exact products are not timed
    forecast_cells: tuple[str, ...] = ("SimpleCell", "GRUCell", "LSTMCell")
    forecast_widths: tuple[int, ...] = (64,)
    forecast_horizons: tuple[int, ...] = (40, 160)
    leading_widths: tuple[int, ...] = (64, 256)
    unit_cells: tuple[str, ...] = ("lru", "min_gru", "s6")
    unit_states: tuple[int, ...] = (64, 10_000)
    sweep_horizons: tuple[int, ...] = (100, 200)
    sweep_seeds: int = 6
    sweep_updates: int = 100
    sweep_rounds: int = 3


PRESETS = {
    "quick": Sizes(
        repeats=5,
        max_seconds=0.7,
        chains=(ChainCase("distinct", 8, 200), ChainCase("degenerate", 6, 1000)),
        jacobian_cells=("OptimizedLSTMCell",),
        jacobian_widths=(32,),
        shared_steps=100,
        shared_k=(8,),
        autonomous_steps=1000,
        autonomous_k=(4,),
        floor_steps=200,
        floor_cells=("SimpleCell",),
        floor_widths=(64,),
        floor_fractions=(16,),
        lengths=(3000,),
        widths=(32,),
        width_steps=50,
        batches=(8,),
        batch_steps=100,
        verdict_cells=("GRUCell",),
        verdict_widths=(16,),
        verdict_steps=(50,),
        forecast_cells=("SimpleCell",),
        forecast_widths=(16,),
        forecast_horizons=(10,),
        leading_widths=(16,),
        unit_cells=("s6",),
        unit_states=(64,),
        sweep_horizons=(),
    ),
    "default": Sizes(),
    "full": Sizes(
        repeats=25,
        max_seconds=60.0,
        lengths=(1000, 10_000, 100_000, 1_000_000),
        widths=(32, 64, 128, 256, 512),
        verdict_widths=(64, 128, 256, 512, 1024),
        exact_states=256,
        leading_widths=(64, 256, 1024),
        unit_states=(64, 10_000, 100_000),
        sweep_horizons=(90, 100),
        sweep_seeds=12,
        sweep_updates=500,
    ),
}


class Chain(NamedTuple):
    """Matrices whose product has known singular values.

    Attributes:
        jacobians: `(T, n, n)`, float64, earliest first.
        log_singular_values: of their product, nats, descending, `(n,)`.
    """

    jacobians: Float[np.ndarray, "steps n n"]
    log_singular_values: Float[np.ndarray, " n"]


def rates_of(case: ChainCase) -> Float[np.ndarray, " n"]:
    """Return the mean log singular values of a chain's steps, nats per step."""
    if case.kind in ("degenerate", "wandering"):
        return np.repeat([2.0, -2.0], case.n // 2)
    reach = 5 / case.num_steps if case.kind == "narrow" else 1.0
    return np.linspace(reach, -reach, case.n)


def chain_of(case: ChainCase, *, seed: int = 0) -> Chain:
    """Draw J[t] = U[t] D[t] U[t-1]ᵀ with Haar U, so that log σ of the product is Σ log D[t].

    Each step's log D differs from the rates by normal numbers whose sum over time is zero: single
    steps look random, and rates that are equal stay equal in the product. Degenerate chains have
    none of this; wandering ones, with the same rates, are ill conditioned because of it: directions
    of equal rate part by tens of nats and meet again.
    """
    rates = rates_of(case)
    generator = np.random.default_rng(seed)
    spread = generator.standard_normal((case.num_steps, case.n))
    spread *= 0 if case.kind == "degenerate" else 0.3
    scales = np.exp(rates + spread - spread.mean(axis=0))
    jacobians = np.empty((case.num_steps, case.n, case.n))
    before = haar(generator, case.n)
    # One by one: a stack of all U would double the memory of the longest chains.
    for jacobian, scale in zip(jacobians, scales, strict=True):
        after = haar(generator, case.n)
        jacobian[:] = (after * scale) @ before.T
        before = after
    # Exactly rounded: a plain sum of this many logs would err more than what is to be tested.
    exact = [math.fsum(logs) for logs in np.log(scales).T]
    return Chain(jacobians, np.sort(exact)[::-1])


def haar(generator: np.random.Generator, n: int) -> Float[np.ndarray, "n n"]:
    """Draw an orthogonal matrix from the uniform distribution."""
    q, r = np.linalg.qr(generator.standard_normal((n, n)))
    return q * np.sign(np.diagonal(r))


def tanh_step(weights: Array, state: Array, x: None) -> Array:
    """Advance the autonomous network h' = tanh(W h)."""
    del x
    return jnp.tanh(weights @ state)


def autonomous(n: int, dtype: str, *, gain: float = 3.0) -> tuple[jrnn.Recurrence, Array]:
    """Return the chaotic network h' = tanh(W h), entries of variance gain²/n, and a state."""
    generator = np.random.default_rng(n)
    weights = gain * generator.standard_normal((n, n)) / np.sqrt(n)
    state = 0.5 * generator.standard_normal(n)
    return jrnn.Recurrence(tanh_step, jnp.asarray(weights, dtype)), jnp.asarray(state, dtype)


def driven_jacobians(num_steps: int, *, n: int = 64, gain: float = 1.5) -> np.ndarray:
    """Return the step Jacobians `(T, n, n)` of a tanh network with random input."""
    generator = np.random.default_rng(n)
    weights = gain * generator.standard_normal((n, n)) / np.sqrt(n)
    input_weights = generator.standard_normal((n, INPUT_SIZE)) / np.sqrt(INPUT_SIZE)
    state, jacobians = np.zeros(n), []
    for x in 0.5 * generator.standard_normal((num_steps, INPUT_SIZE)):
        state = np.tanh(weights @ state + input_weights @ x)
        jacobians.append((1 - state**2)[:, None] * weights)
    return np.stack(jacobians)


def frame_of(n: int, k: int, dtype: str) -> Array:
    """Return the starting frame that the package itself uses, so that exponents can agree."""
    return jnp.asarray(generic_columns(n, k), dtype)


@jax.jit
def qr_of_jacobians(
    jacobians: Float[Array, "steps n n"], frame: Float[Array, "n k"]
) -> Float[Array, " k"]:
    """Compute exponents as anyone would first write it: a scan with QR at every step."""

    def one_step(carried, jacobian):
        q, logs = carried
        q, r = jnp.linalg.qr(jacobian @ q)
        return (q, logs + jnp.log(jnp.abs(jnp.diagonal(r)))), None

    start = (frame, jnp.zeros(frame.shape[1], frame.dtype))
    return jax.lax.scan(one_step, start, jacobians)[0][1] / jacobians.shape[0]


@partial(jax.jit, static_argnames="num_steps")
def qr_of_system(
    recurrence: jrnn.Recurrence, carry, xs, frame: Float[Array, "n k"], num_steps: int
) -> Float[Array, " k"]:
    """Compute exponents of a system by tangents and QR at every step."""
    state, unravel = ravel_pytree(carry)

    def one_step(carried, x):
        state, q, logs = carried
        state, push = jax.linearize(
            lambda state: ravel_pytree(recurrence.step(recurrence.params, unravel(state), x))[0],
            state,
        )
        q, r = jnp.linalg.qr(jax.vmap(push, in_axes=1, out_axes=1)(q))
        return (state, q, logs + jnp.log(jnp.abs(jnp.diagonal(r)))), None

    start = (state, frame, jnp.zeros(frame.shape[1], frame.dtype))
    return jax.lax.scan(one_step, start, xs, length=num_steps)[0][2] / num_steps


@jax.jit
def own_steps(recurrence: jrnn.Recurrence, carries, xs):
    """Apply the cell's own step to a batch of carries, again and again: what nothing can beat."""

    def one_step(carries, x):
        return jax.vmap(recurrence.step, in_axes=(None, 0, None))(
            recurrence.params, carries, x
        ), None

    return jax.lax.scan(one_step, carries, xs)[0]


def peer(name: str) -> ModuleType | None:
    """Import another program that computes Lyapunov spectra; None if it is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return None
