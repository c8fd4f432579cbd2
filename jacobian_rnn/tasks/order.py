"""The temporal order problem: which trigger came first."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jacobian_rnn.checks import check_at_least, check_choice, check_dtype
from jacobian_rnn.tasks.task import Batch, Task, streams_of

# First and last step of each trigger, in hundredths of the length.
TRIGGER_WINDOWS = {2: ((10, 20), (40, 50)), 3: ((10, 20), (33, 43), (66, 76))}


def temporal_order(
    num_steps: int, *, num_triggers: int = 2, dtype: type | np.dtype = jnp.float32
) -> Task:
    """Build the temporal order problem: in which order did the triggers X and Y come?

    The inputs are one-hot: at each step a random distractor (channels 0 to 3), but at two or three
    steps X or Y (channels 4 and 5). With length L, the triggers come at uniform steps of [10, 20]
    and [40, 50] hundredths of L, or, for three, of [10, 20], [33, 43] and [66, 76] hundredths. Ends
    are rounded down and included. The class, asked at the last step, is the binary number of the
    triggers, X = 0 and Y = 1, the first one on the left. Baseline for k triggers: loss k ln 2,
    accuracy 2^−k.

    Horizon: L − 1 − ⌊L/10⌋, for the earliest first trigger. The latest has a lag shorter by at most
    ⌈L/10⌉. There are at least 4^(L − 3) sequences, so that held-out ones are as good as certain to
    be new for L ≥ 30, and not for L = 10.

    The form is that of experiments 6a and 6b of Hochreiter and Schmidhuber (1997), with the fixed
    length, the proportional positions and the six symbols of Pascanu et al. (2013), who have two
    triggers. The positions of three are the original ones, scaled.

    Args:
        num_steps: L, at least 10.
        num_triggers: 2 or 3.
        dtype: of the inputs.

    Returns:
        A task with six inputs and `2**num_triggers` outputs.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> import jax
        >>> xs, targets = temporal_order(50).sample(jax.random.key(0), 32)
        >>> print(xs.shape, targets.shape)
        (32, 50, 6) (32, 1)
    """
    check_at_least(10, num_steps=num_steps)
    check_choice("num_triggers", num_triggers, TRIGGER_WINDOWS)
    check_dtype("dtype", dtype)
    first, last = np.array(TRIGGER_WINDOWS[num_triggers]).T * num_steps // 100
    num_classes = 2**num_triggers

    def generate(key: Key[Array, ""], batch_size: int) -> Batch:
        class_key, step_key, distractor_key = jax.random.split(key, 3)
        classes = jax.random.randint(class_key, (batch_size, 1), 0, num_classes, jnp.int32)
        bits = classes >> jnp.arange(num_triggers, dtype=jnp.int32)[None, ::-1] & 1
        window_shape = (batch_size, num_triggers)
        steps = jax.random.randint(step_key, window_shape, first[None], last[None] + 1, jnp.int32)
        shown = jax.random.randint(distractor_key, (batch_size, num_steps), 0, 4, jnp.int32)
        shown = shown.at[jnp.arange(batch_size)[:, None], steps].set(4 + bits)
        return Batch(jax.nn.one_hot(shown, 6, dtype=dtype), classes)

    sample, sample_held_out = streams_of(generate)
    return Task(
        name="temporal_order",
        num_steps=num_steps,
        horizon=num_steps - 1 - int(first[0]),
        input_size=6,
        output_size=num_classes,
        num_scored_steps=1,
        loss="cross_entropy",
        baseline_loss=math.log(num_classes),
        baseline_accuracy=1 / num_classes,
        sample=sample,
        sample_held_out=sample_held_out,
    )
