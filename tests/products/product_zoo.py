"""Products whose singular values are known, by construction or from arbitrary precision.

Half of them are uncoupled or weakly coupled: their directions overtake each other without mixing.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import mpmath
import numpy as np

from tests.chains import haar, known_chain

EVERYWHERE = np.ones((5, 5))
BELOW = np.tril(EVERYWHERE, -1)


class Kind(NamedTuple):
    """A kind of product.

    Attributes:
        name: for messages.
        right_to: bound on the errors of forward products in float64, nats; infinite where digits
            may be lost, as they are when growth is undone or strong coupling goes one way.
        draw: `draw(generator) -> jacobians (T, n, n), exact log singular values (n,)`.
    """

    name: str
    right_to: float
    draw: Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]


def kinds() -> Iterator[Kind]:
    """List all kinds. The first ten are uncoupled, or coupled weakly or one way."""
    yield Kind("gates", 1e-9, lambda g: diagonal(gates(g, 1500, 8)))
    yield Kind("random walks", 1e-9, lambda g: diagonal(g.normal(0, 1, (1500, 8))))
    yield Kind("walks apart and back", 1e-9, lambda g: diagonal(there_and_back(g, 1500, 8)))
    yield Kind("permuted gates", 1e-9, permuted)
    yield Kind("blocks of two", 1e-9, blocks)
    yield Kind("gates coupled by 1e-3", 1e-9, lambda g: coupled(g, 1e-3))
    yield Kind("gates coupled by 1e-12", 1e-9, lambda g: coupled(g, 1e-12))
    yield Kind("triangular gates, 1e-6", 1e-9, lambda g: coupled(g, 1e-6, BELOW))
    yield Kind("two layers of gates", np.inf, two_layers)
    yield Kind("gated units of small recurrent gain", 1e-9, gated_units)
    yield Kind("dense", 1e-9, lambda g: exactly(g.normal(size=(150, 5, 5)) / 2))
    yield Kind("kept", 1e-9, lambda g: exactly(np.tile(g.normal(size=(5, 5)), (80, 1, 1))))
    yield Kind("saturated", np.inf, saturated)
    yield Kind("graded", 1e-9, lambda g: known(g, np.linspace(1, -1, 6), 0.1))
    yield Kind("flat", 1e-9, lambda g: known(g, np.zeros(6), 0.02))
    yield Kind("degenerate", 1e-9, lambda g: known(g, np.repeat([1.0, -1.0], 3), 0.0))
    yield Kind("wandering", np.inf, lambda g: known(g, np.zeros(6), 0.2 + 0.5 * g.random()))
    yield Kind("growth undone", np.inf, undone)
    yield Kind("triangular, strong", np.inf, lambda g: coupled(g, 1.0, BELOW))
    yield Kind("triangular gates, 0.1", np.inf, lambda g: coupled(g, 0.1, BELOW.T))


def exactly(jacobians):
    """Multiply in arbitrary precision, with as many digits as the steps' ranges add up to."""
    n = jacobians.shape[1]
    # Rows that differ in size hide small values from numpy; without their sizes it sees them.
    sizes = np.abs(jacobians).max(axis=2)
    values = np.linalg.svd(jacobians / sizes[:, :, None], compute_uv=False)
    ranges = np.log10(sizes.max(axis=1) / sizes.min(axis=1)) + np.log10(
        values[:, 0] / values[:, -1]
    )
    digits = int(np.sum(ranges)) + 60
    with mpmath.workdps(digits):
        product = mpmath.eye(n)
        for jacobian in jacobians:
            product = mpmath.matrix(jacobian.tolist()) * product
        logs = [float(mpmath.log(value)) for value in mpmath.svd_r(product, compute_uv=False)]
    return jacobians, np.sort(logs)[::-1]


def gates(generator, num_steps, n):
    """Log factors 1 − sigmoid(W x) of gates that see the input alone."""
    inputs = generator.normal(size=(num_steps, 3))
    return -np.logaddexp(0, inputs @ generator.normal(size=(3, n)))


def there_and_back(generator, num_steps, n):
    there = generator.normal(0, 1, (num_steps // 2, n))
    return np.concatenate([there, -there + 0.01 * generator.normal(size=there.shape)])


def diagonal(logs):
    factors = np.exp(logs)
    return factors[:, :, None] * np.eye(factors.shape[1]), sums(np.log(factors))


def sums(logs):
    """Add up over time without rounding, and sort."""
    return np.sort([math.fsum(column) for column in logs.T])[::-1]


def permuted(generator):
    logs = gates(generator, 1500, 8)
    factors, jacobians, place = np.exp(logs), np.zeros((1500, 8, 8)), np.arange(8)
    along = np.empty_like(logs)
    for t in range(1500):
        order = generator.permutation(8) if generator.random() < 0.1 else np.arange(8)
        jacobians[t, order, np.arange(8)] = factors[t]
        along[t] = np.log(factors[t, place])
        place = order[place]
    return jacobians, sums(along)


def blocks(generator):
    jacobians, logs = np.zeros((400, 8, 8)), []
    for first in range(0, 8, 2):
        scales = np.exp(generator.normal(-0.3, 0.8, (400, 1, 1)))
        block, exact = exactly(scales * generator.normal(size=(400, 2, 2)))
        jacobians[:, first : first + 2, first : first + 2] = block
        logs.extend(exact)
    return jacobians, np.sort(logs)[::-1]


def coupled(generator, strength, where=EVERYWHERE):
    jacobians, _ = diagonal(gates(generator, 200, 5))
    return exactly(jacobians + strength * where * generator.normal(size=jacobians.shape))


def two_layers(generator):
    """Gates that see the input alone, and above them gates that see the layer below."""
    jacobians, _ = diagonal(gates(generator, 200, 6))
    jacobians[:, 3:, :3] = 0.5 * generator.normal(size=(200, 3, 3))
    return exactly(jacobians)


def gated_units(generator):
    """h' = (1 − z) h + z tanh(W x + 1e-2 U h), with gates z that see the input alone."""
    inputs = generator.normal(size=(200, 3)) @ generator.normal(size=(3, 5))
    recurrent, state, jacobians = 1e-2 * generator.normal(size=(5, 5)), np.zeros(5), []
    for x in inputs:
        gate, candidate = 1 / (1 + np.exp(-x)), np.tanh(x + recurrent @ state)
        jacobians.append(np.diag(1 - gate) + (gate * (1 - candidate**2))[:, None] * recurrent)
        state = (1 - gate) * state + gate * candidate
    return exactly(np.stack(jacobians))


def saturated(generator):
    """A tanh network of large gain."""
    weights = generator.uniform(3, 15) * generator.normal(size=(5, 5)) / np.sqrt(5)
    state, jacobians = generator.normal(size=5), []
    for _ in range(80):
        pre = np.clip(weights @ state, -30, 30)
        jacobians.append(weights / np.cosh(pre)[:, None] ** 2)
        state = np.tanh(pre)
    return exactly(np.stack(jacobians))


def known(generator, rates, noise):
    seed = int(generator.integers(2**31))
    return known_chain(seed, 6, 400, lambda g: rates + noise * g.normal(size=6))


def undone(generator):
    """Grow and shrink again, by as much or nearly, over a random number of steps."""
    half = int(generator.integers(4, 31))
    frame, rates = haar(generator, 5), generator.uniform(-1, 1, 5)
    there = (frame * np.exp(rates)) @ frame.T
    back = (frame * np.exp(-rates + 0.01 * generator.normal(size=5))) @ frame.T
    rest = np.eye(5)
    return exactly(np.array([there] * half + [back] * half + [rest] * (60 - 2 * half)))
