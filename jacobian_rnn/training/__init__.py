"""Training with optax, recording what gradients do: norms before clipping, and norms at every lag.

`train` does one network. Its parts (`start`, `advance`, `lag_norms`, `evaluate`) are pure
functions to which `jax.vmap` and `jax.jit` apply, for many networks at once.
"""

from jacobian_rnn.training.loop import (
    Network,
    TrainingHistory,
    TrainingState,
    Updates,
    advance,
    apply,
    evaluate,
    lag_norms,
    predictions,
    start,
    train,
)

__all__ = [
    "Network",
    "TrainingHistory",
    "TrainingState",
    "Updates",
    "advance",
    "apply",
    "evaluate",
    "lag_norms",
    "predictions",
    "start",
    "train",
]
