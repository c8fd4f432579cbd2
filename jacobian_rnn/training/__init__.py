r"""Training with optax: one network, or an ensemble of them as one program.

`train` starts networks, updates them, and tests them on held-out data after chosen numbers of
updates. Its history holds losses, gradient norms before clipping and, if they are asked for, at
every lag. `history.until(num_updates)` is that of a smaller budget. `best_index` and `take_along`
choose the best learning rate of each network. The parts (`start`, `advance`, `lag_norms`,
`evaluate`) are pure functions of one network to which `jax.vmap` and `jax.jit` apply.

From a cell to a score:
    >>> import jax, jax.numpy as jnp, optax
    >>> from flax import linen as nn
    >>> import jacobian_rnn as jrnn
    >>> from jacobian_rnn import tasks, training
    >>> task, cell, carry = tasks.delayed_recall(20), nn.SimpleCell(32), jnp.zeros(32)
    >>> gains = jnp.repeat(jnp.array([0.1, 1.2, 8.0]), 4)  # four networks at each gain
    >>> keys = jax.random.split(jax.random.key(0), 12)
    >>> nets = jax.vmap(lambda g, k: jrnn.draw(cell, gain=g, key=k, num_inputs=4))(gains, keys)
    >>> xs = task.sample(jax.random.key(1), 8).xs
    >>> predicted = jax.vmap(lambda n: jrnn.predict_regime(n, carry, xs, horizon=20))(nets)
    >>> adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.01))
    >>> _, history = training.train(task, nets, carry, optimizer=adam, key=keys, num_updates=500)
    >>> observed = jrnn.observe_regime(history)
    >>> options = {"groups": gains, "borderline": predicted.borderline, "rules": {}, "key": keys[0]}
    >>> print(jrnn.score_regimes(predicted.regime, observed.outcome, **options))
    predicted \ observed     stuck   learned  diverged
    vanishing                    4         0         0
    stable                       0         4         0
    exploding                    4         0         0
    all      balanced accuracy 1.000 [1.000, 1.000], accuracy 1.000, 12 networks
    decided  balanced accuracy 1.000 [1.000, 1.000], accuracy 1.000, 12 networks
    rule: majority class         0.500; prediction better by +0.500 [+0.500, +0.500]
    never occurs: diverged
"""

from jacobian_rnn.training.ensemble import train
from jacobian_rnn.training.network import (
    Network,
    add_readout,
    apply,
    evaluate,
    loss_of_states,
)
from jacobian_rnn.training.records import (
    Records,
    TrainingHistory,
    best_index,
    lag_norms,
    take_along,
)
from jacobian_rnn.training.updates import (
    Penalty,
    TrainingState,
    Updates,
    advance,
    network_of,
    start,
)

__all__ = [
    "Network",
    "Penalty",
    "Records",
    "TrainingHistory",
    "TrainingState",
    "Updates",
    "add_readout",
    "advance",
    "apply",
    "best_index",
    "evaluate",
    "lag_norms",
    "loss_of_states",
    "network_of",
    "start",
    "take_along",
    "train",
]
