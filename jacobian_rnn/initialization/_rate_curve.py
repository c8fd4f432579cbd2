"""The rate of growth as a function of a parameter, and where it meets a target."""

import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jacobian_rnn.linalg.batch_means import student_quantile

LEVEL = 0.95
MOST_EVALUATIONS = 60


class RateCurve:
    """Mean λ₁ of the same networks under the same inputs at every value, with its error.

    It keeps what was measured, because a search comes back to the same values.
    """

    def __init__(
        self, measure: Callable[[float], ArrayLike], target: float, tolerance: float
    ) -> None:
        """Take `measure(value) -> rates`, one per network, and target and tolerance of the mean."""
        self.measure, self.target, self.tolerance = measure, target, tolerance
        self.known: dict[float, tuple[float, float]] = {}
        self.quantile = math.nan

    def at(self, value: float) -> tuple[float, float]:
        """Return mean and standard error over networks."""
        value = float(value)
        if value not in self.known:
            rates = np.asarray(self.measure(value), float)
            self.quantile = float(student_quantile(LEVEL, jnp.asarray(len(rates) - 1.0)))
            # −inf, of a network without memory, is a rate; its error is not known.
            with np.errstate(invalid="ignore"):
                error = np.std(rates, ddof=1) / math.sqrt(len(rates))
            self.known[value] = float(np.mean(rates)), float(error)
        return self.known[value]

    def excess(self, value: float, side: int = 0) -> float:
        """Return mean − target, or + side · doubt: Student's bound and what the search leaves."""
        mean, error = self.at(value)
        doubt = self.tolerance + (0.0 if math.isnan(error) else self.quantile * error)
        return mean - self.target + (side * doubt if side else 0.0)

    def root(self, low: float, high: float, side: int = 0) -> float:
        """Close in on excess = 0 between two values at which its sign differs."""
        a, b = float(low), float(high)
        at_a, at_b = self.excess(a, side), self.excess(b, side)
        for count in range(MOST_EVALUATIONS):
            # Every third time in the middle: regula falsi alone can keep one end for long.
            c = (a + b) / 2
            if count % 3 < 2 and math.isfinite(at_a) and math.isfinite(at_b):
                c = (a * at_b - b * at_a) / (at_b - at_a)
            at_c = self.excess(c, side)
            if abs(at_c) <= self.tolerance:
                return c
            if (at_c < 0) == (at_a < 0):
                a, at_a = c, at_c
            else:
                b, at_b = c, at_c
        return a if abs(at_a) < abs(at_b) else b

    def crosses_at(self, value: float) -> bool:
        """Say whether the target is met there, up to the error: in chaos λ₁ is rough."""
        return abs(self.excess(value)) <= max(self.tolerance, self.at(value)[1])

    def interval(self, value: float, grid: np.ndarray, *, rising: bool) -> tuple[float, float]:
        """Return the nearest values on both sides at which a t-test rejects the target.

        `grid` ascends: where to look first, outwards from the value.
        """
        ends = []
        below, above = grid[grid < value][::-1], grid[grid > value]
        for end, outwards in ((-math.inf, below), (math.inf, above)):
            # Where the mean lies below the target its upper bound decides, else its lower.
            side = 1 if (end < 0) == rising else -1
            inner = value
            for outer in outwards:
                left = side * self.excess(outer, side)
                if left < 0:
                    end = self.root(inner, outer, side)
                if not left >= 0:
                    break
                inner = outer
            ends.append(end)
        return tuple(ends)
