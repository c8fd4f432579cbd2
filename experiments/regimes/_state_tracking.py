"""Train a delta rule on parity, with transitions whose eigenvalues can be negative and without."""

import jax.numpy as jnp
import numpy as np
import xarray as xr

import jacobian_rnn as jrnn
from experiments import protocol
from experiments.regimes import _ensemble as ensemble
from experiments.regimes._modern_cells import NUM_KEYS
from experiments.runner.experiment import Networks
from jacobian_rnn import tasks, training

# The bound of β in I − β k kᵀ, whose eigenvalues are then in [0, 1] or in [−1, 1].
LARGEST_RATES = {"positive": 1.0, "signed": 2.0}
LEARNING_RATES = (0.01, 0.03)
SKILLS = ("skill", "longer_skill")
LONGER = 4  # times as long as in training
PILOT_UPDATES = 4
HELD_OUT_SIZE = 256


def parity_networks(
    eigenvalues: str, *, num_steps: int, width: int, num_networks: int, num_updates: int, dtype: str
) -> Networks:
    """Return networks of Gated DeltaNet that learn parity with Adam, each with each learning rate.

    They are tested on sequences as long as in training, all steps scored, and on longer ones, whose
    last steps are scored, as many as there were in training.

    Args:
        eigenvalues: a key of `LARGEST_RATES`.
        num_steps: of sequences in training.
        width: values of the memory.
        num_networks: seeds.
        num_updates: of each training.
        dtype: of all.
    """
    kind = jnp.dtype(dtype)
    task = tasks.parity(num_steps, dtype=kind)
    longer = tasks.parity(LONGER * num_steps, num_scored=num_steps, dtype=kind)

    def trained(row, num_updates):
        network = jrnn.gated_delta_net(
            1,
            width,
            num_keys=NUM_KEYS,
            largest_rate=LARGEST_RATES[eigenvalues],
            key=protocol.key_of(protocol.DRAWING, row["seed"]),
            dtype=kind,
        )
        carry = jrnn.zero_carry(network)
        network, history = training.train(
            task,
            network,
            carry,
            optimizer=ensemble.optimizer_of("adam"),
            hyperparameters=row["learning_rate"],
            key=protocol.key_of(protocol.TRAINING, row["seed"]),
            num_updates=num_updates,
            held_out_size=HELD_OUT_SIZE,
            records=1,
        )
        batch = longer.sample_held_out(
            protocol.key_of(protocol.SEQUENCES, row["seed"]), HELD_OUT_SIZE, "test"
        )
        return {
            "skill": history.test_skill,
            "longer_skill": training.evaluate(network, carry, longer, batch)[0],
        }

    rows = {
        "seed": np.repeat(np.arange(num_networks, dtype=np.int32), len(LEARNING_RATES)),
        "learning_rate": np.tile(np.array(LEARNING_RATES, dtype), num_networks),
    }
    cost = num_steps * width * NUM_KEYS
    return Networks(
        rows,
        lambda row: trained(row, num_updates),
        _record,
        lambda row: trained(row, PILOT_UPDATES),
        cost,
    )


def _record(numbers):
    return xr.Dataset({name: ("network", values) for name, values in numbers.items()})
