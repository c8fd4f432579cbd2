"""Small tasks to test on, their data by the name of the split, and answers to them."""

import jax.numpy as jnp
import numpy as np

from jacobian_rnn import tasks

F32 = jnp.float32
NUM_SEQUENCES = 300  # the same for most tests, so that what draws them is compiled once
MAKERS = {
    "delayed_recall": lambda **options: tasks.delayed_recall(7, num_classes=3, **options),
    "adding": lambda **options: tasks.adding(15, **options),
    "copying_memory": lambda **options: tasks.copying_memory(6, **options),
    "selective_copying": lambda **options: tasks.selective_copying(12, length=6, **options),
    "parity": lambda **options: tasks.parity(30, **options),
    "temporal_order_2": lambda **options: tasks.temporal_order(40, **options),
    "temporal_order_3": lambda **options: tasks.temporal_order(40, num_triggers=3, **options),
    "delayed_xor": lambda **options: tasks.delayed_xor(30, 4, **options),
    "flip_flop": lambda **options: tasks.flip_flop(12, pulse_probability=0.3, **options),
    "sequential_digits": lambda **options: tasks.sequential_digits(3, **options),
    "permuted_digits": lambda **options: tasks.sequential_digits(3, permuted=True, **options),
}
SYNTHETIC = [name for name in MAKERS if "digits" not in name]
# Each of the two others is like one of these.
MAIN_TASKS = [name for name in MAKERS if name not in ("temporal_order_2", "sequential_digits")]


def sampled(task, split, key, batch_size=NUM_SEQUENCES):
    if split == "training":
        return task.sample(key, batch_size)
    return task.sample_held_out(key, batch_size, split)


def logits(classes, num_classes):
    return jnp.asarray(100 * np.eye(num_classes)[classes], F32)
