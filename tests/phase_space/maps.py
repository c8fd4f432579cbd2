"""Maps whose fixed points are known."""

import jax.numpy as jnp
import mpmath
import numpy as np
from scipy.linalg import hadamard

from jacobian_rnn import Recurrence


def affine(params, carry, x):
    return params @ carry + x


def tanh_units(params, carry, x):
    return jnp.tanh(params @ carry + x)


def logistic(params, carry, x):
    del x
    return params * carry * (1 - carry)


def ghost(params, carry, x):
    """Move by at least the parameter, least at zero: a saddle-node after its fixed points met."""
    del x
    return carry + params + carry**2


def magnetization(slope):
    """Return the positive solution of h = tanh(slope h)."""
    with mpmath.workdps(30):
        return float(mpmath.findroot(lambda h: h - mpmath.tanh(slope * h), 0.99))


def hopfield(num_units=16, num_patterns=3, slope=2.0):
    """Return a network that stores orthogonal patterns, and the patterns as rows."""
    patterns = hadamard(num_units)[1 : num_patterns + 1].astype(float)
    weights = slope / num_units * patterns.T @ patterns
    return Recurrence(tanh_units, jnp.asarray(weights)), patterns


def sorted_rows(rows):
    rows = np.round(np.asarray(rows), 9) + 0.0
    return rows[np.lexsort(rows.T[::-1])]
