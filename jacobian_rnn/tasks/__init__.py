"""Tasks whose gradients have to survive a known number of steps.

**Horizon**: the longest lag, in steps, over which a solution has to carry information, the maximum
being over sequences and scored steps. What is shown at step s and needed at step t has lag t − s:
between the state that first holds it, `states[s + 1]`, and the state that is read, `states[t + 1]`,
lie t − s Jacobians.

**Baseline**: the best predictor that knows the step number and sees no inputs, so one constant for
each scored step.

**Held out**: a synthetic task has a generator and no finite training set. Training, validation and
test draw from it with three keys that `jax.random.fold_in` makes from the caller's one and that
never coincide. That no held-out *sequence* was seen in training is a matter of probability. Each
constructor says how many sequences there are.

References:
    S. Hochreiter and J. Schmidhuber, "Long short-term memory", Neural Computation 9 (1997).
    R. Pascanu, T. Mikolov and Y. Bengio, "On the difficulty of training recurrent neural networks",
    ICML (2013).
    Q. V. Le, N. Jaitly and G. E. Hinton, "A simple way to initialize recurrent networks of
    rectified linear units", arXiv:1504.00941 (2015).
    M. Arjovsky, A. Shah and Y. Bengio, "Unitary evolution recurrent neural networks", ICML (2016).
    R. Engelken, "Gradient flossing: improving gradient descent through dynamic control of
    Jacobians", NeurIPS (2023).
    A. Gu and T. Dao, "Mamba: linear-time sequence modeling with selective state spaces" (2023).
    R. Grazzi et al., "Unlocking state-tracking in linear RNNs through negative eigenvalues", ICLR
    (2025).
"""

from jacobian_rnn.tasks.adding_problem import adding
from jacobian_rnn.tasks.archive import archived_series
from jacobian_rnn.tasks.bits import flip_flop
from jacobian_rnn.tasks.copying import copying_memory
from jacobian_rnn.tasks.digits import sequential_digits
from jacobian_rnn.tasks.finite_sets import labelled_series
from jacobian_rnn.tasks.given_batch import task_of
from jacobian_rnn.tasks.odd_bits import parity
from jacobian_rnn.tasks.order import temporal_order
from jacobian_rnn.tasks.recall import delayed_recall
from jacobian_rnn.tasks.scattered_copying import selective_copying
from jacobian_rnn.tasks.task import Batch, Predictions, Targets, Task, accuracy, loss, skill
from jacobian_rnn.tasks.xor import delayed_xor

__all__ = [
    "Batch",
    "Predictions",
    "Targets",
    "Task",
    "accuracy",
    "adding",
    "archived_series",
    "copying_memory",
    "delayed_recall",
    "delayed_xor",
    "flip_flop",
    "labelled_series",
    "loss",
    "parity",
    "selective_copying",
    "sequential_digits",
    "skill",
    "task_of",
    "temporal_order",
]
