"""Regimes, and the growths at which one gives way to another."""

from enum import IntEnum
from typing import NamedTuple


class Regime(IntEnum):
    """What happens to a gradient on its way back over the horizon."""

    VANISHING = -1
    STABLE = 0
    EXPLODING = 1


class Thresholds(NamedTuple):
    """Log growths over the horizon, nats, between which gradients survive well enough to learn."""

    vanishing: float
    exploding: float


# Frozen before any other training: `python -m experiments calibrate_threshold`, default preset,
# float32 on CPU, jax 0.10.2 (96 SimpleCell networks of width 32 at 24 gains, delayed recall over 40
# steps, 500 updates of Adam with clipping at the better of two learning rates). Intervals of 95 %
# over gains: vanishing −21.5 to −6.5, exploding +5.3 to +10.7.
THRESHOLDS = Thresholds(vanishing=-17.1, exploding=6.6)
