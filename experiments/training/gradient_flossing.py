"""Push Lyapunov exponents of untrained networks towards zero, then train on delayed XOR.

After R. Engelken, "Gradient flossing: improving gradient descent through dynamic control of
Jacobians", NeurIPS 2023. Before training, gradient descent makes the sum of the first k squared
Lyapunov exponents small, by way of `treatments.squared_exponents`. Then products of step
Jacobians have a smaller condition number, and gradients reach the past from more directions. The
same networks are trained as they were drawn, too.

The condition number is that of the first k directions, σ₁/σ_k: the others are not flossed, and keep
the product as a whole ill conditioned.

The default is smaller than the paper: fewer units and exponents, shorter sequences, fewer updates
of training; the delay is the paper's. Unlike there, networks are flossed before training alone and
not again within it, for twice as many updates in the default; the initial state is zero and is not
trained; the readout reads tanh of the pre-activations and has variance 1/N; and gradients are
clipped at a larger norm, all parameters together.

The same seed draws the same network and sees the same data in both arms.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from flax import linen as nn
from jaxtyping import Array, Float

import jacobian_rnn as jrnn
from experiments.runner.experiment import Count, Positive, Range, Report
from experiments.training import _arms
from experiments.training._arms import Training, Unit
from jacobian_rnn import initializers, tasks, treatments

FLOSSED, UNFLOSSED = "flossed", "unflossed"
DRIVE, SEQUENCES = 6, 7  # of keys, besides those of `_arms`
TRAINED = "_trained"  # what a variable is called after training
MEANINGS = {
    "exponents": ("Lyapunov exponents, driven by random bits", "nats per step"),
    "log_condition": (
        "log σ₁ − log σ_k of the product over the horizon, median of sequences",
        "nats",
    ),
    "whole_log_condition": (
        "log σ₁ − log σ_N of the product over the horizon, median of sequences",
        "nats",
    ),
}
show = _arms.show


@dataclasses.dataclass(frozen=True)
class Flossing(Training):
    """Delayed XOR on sequences of `num_steps` steps; the rest is `Training`.

    Attributes:
        delay: d of the task, whose horizon is 2d.
        num_exponents: k, how many of the largest exponents are pushed towards zero.
        num_flossings: updates of flossing, each along one fresh sequence of random bits.
        flossing_rate: learning rate of Adam in flossing.
        flossing_steps: length of each of these sequences.
        num_warmup: first steps along which no exponent is counted, here and when they are measured.
        spectrum_steps: length of the sequence along which exponents are measured.
        num_looks: how often flossing is looked at; divides `num_flossings`.
    """

    width: Count = 32
    num_steps: Count = 100
    delay: Count = 10
    num_seeds: _arms.Seeds = 10
    num_updates: Count = 4000
    learning_rate: Positive = 0.001
    batch_size: Count = 16
    num_records: Count = 40
    held_out_size: Count = 256
    plateau: Range = (1000, 3000)
    num_exponents: Count = 30
    num_flossings: Count = 1000
    flossing_rate: Positive = 0.001
    flossing_steps: Count = 55
    num_warmup: Count = 15
    spectrum_steps: Count = 335
    num_looks: Count = 20

    def __post_init__(self):
        """Refuse fields that do not fit each other."""
        super().__post_init__()
        _arms.refuse_below(
            self,
            num_steps=2 * self.delay + 1,
            width=self.num_exponents,
            flossing_steps=self.num_warmup + 1,
            spectrum_steps=self.num_warmup + 1,
        )
        if self.num_flossings % self.num_looks:
            msg = f"--num-looks: received {self.num_looks}, expected a divisor of --num-flossings"
            raise ValueError(msg)


PRESETS = {
    "quick": Flossing(
        width=8,
        num_steps=12,
        delay=2,
        num_seeds=2,
        num_updates=60,
        batch_size=8,
        num_records=3,
        num_sequences=2,
        held_out_size=32,
        window=10,
        plateau=(20, 60),
        num_exponents=6,
        num_flossings=30,
        flossing_rate=0.01,
        flossing_steps=20,
        num_warmup=5,
        spectrum_steps=37,
        num_looks=3,
    ),
    "default": Flossing(),
    "full": Flossing(
        width=80,
        num_steps=300,
        num_updates=10_000,
        num_exponents=75,
        num_flossings=500,
    ),
}


def units(config: Flossing) -> list[Unit]:
    """List the two arms, the one that takes longer first."""
    del config
    return [Unit(FLOSSED), Unit(UNFLOSSED)]


def work(config: Flossing, unit: Unit, report: Report) -> xr.Dataset:
    """Draw all networks, floss them or not, and train them."""
    task = tasks.delayed_xor(config.num_steps, config.delay, dtype=jnp.dtype(config.dtype))
    networks = draw(config)
    looks = [spectra(networks, task, config)]
    if unit.arm == FLOSSED:
        optimizer_state = _start(networks, config)
        for look in range(config.num_looks):
            report("flossing", look / config.num_looks)
            networks, optimizer_state = _floss(networks, optimizer_state, look, config)
            looks.append(spectra(networks, task, config))
    else:
        looks *= config.num_looks + 1  # nothing is done to them
    updates = np.linspace(0, config.num_flossings, config.num_looks + 1).astype(int)
    before = xr.concat(looks, "flossing").assign_coords(flossing=updates)
    trained, curves = _arms.learning_curves(config, task, networks, report)
    after = spectra(trained.recurrence, task, config)
    return curves.merge(before).merge(after.rename({name: name + TRAINED for name in MEANINGS}))


def combine(config: Flossing, parts: Mapping[Unit, xr.Dataset]) -> xr.Dataset:
    """Join the two arms."""
    dataset = _arms.combine(config, parts)
    for name, (meaning, unit) in MEANINGS.items():
        dataset[name].attrs = {"long_name": f"{meaning}, before training", "units": unit}
        dataset[name + TRAINED].attrs = {"long_name": f"{meaning}, after it", "units": unit}
    return dataset


def draw(config: Flossing) -> jrnn.Recurrence:
    """Draw a tanh network for each seed: W ~ N(0, 1/N), V ~ N(0, 1), biases uniform to 0.1."""
    cell = nn.SimpleCell(
        config.width,
        kernel_init=jax.nn.initializers.normal(1.0),
        recurrent_kernel_init=initializers.gaussian(1.0),
        bias_init=jax.nn.initializers.uniform(0.1),
        param_dtype=jnp.dtype(config.dtype),
    )
    return _arms.draw_networks(cell, 1, config.num_seeds)


def squared_exponents(
    network: jrnn.Recurrence, xs: Float[Array, "steps 1"], config: Flossing
) -> Float[Array, ""]:
    """Return what flossing makes small: the sum of the first k squared Lyapunov exponents."""
    return treatments.squared_exponents(
        network,
        jrnn.zero_carry(network),
        xs,
        num_exponents=config.num_exponents,
        num_warmup=config.num_warmup,
    )


def spectra(networks: jrnn.Recurrence, task: tasks.Task, config: Flossing) -> xr.Dataset:
    """Measure Lyapunov exponents, and how ill conditioned the product over the horizon is."""
    measured = _spectra(networks, task, config)
    dims = ("seed", "exponent")
    return xr.Dataset(
        {name: (dims[: values.ndim], np.asarray(values)) for name, values in measured.items()}
    )


@partial(jax.jit, static_argnames=("task", "config"))
def _spectra(networks, task, config):
    drive = _bits(jax.random.key(DRIVE), config.spectrum_steps, config)
    sequences = task.sample_held_out(jax.random.key(SEQUENCES), config.num_sequences, "test").xs

    def of_one(network):
        carry = jrnn.zero_carry(network)

        def of_sequence(xs):
            start = jrnn.trajectory(network, carry, xs)[-1 - task.horizon]
            product = jrnn.jacobian_product(
                network, start, xs[-task.horizon :], estimate_error=False
            )
            logs = product.log_singular_values()
            flossed = logs[0] - logs[config.num_exponents - 1]
            return {"log_condition": flossed, "whole_log_condition": logs[0] - logs[-1]}

        conditions = jax.tree.map(jnp.median, jax.vmap(of_sequence)(sequences))
        spectrum = jrnn.lyapunov_spectrum(
            network,
            carry,
            drive,
            num_warmup=config.num_warmup,
            qr_every=1,
            factorization="householder",
        )
        return conditions | {"exponents": spectrum.exponents}

    return jax.vmap(of_one)(networks)


def _start(networks, config):
    return jax.vmap(optax.adam(config.flossing_rate).init)(networks)


@partial(jax.jit, static_argnames="config")
def _floss(networks, optimizer_state, look, config):
    """Make the updates between two looks."""
    optimizer = optax.adam(config.flossing_rate)

    def update(state, key):
        network, optimizer_state = state
        xs = _bits(key, config.flossing_steps, config)
        gradient = jax.grad(squared_exponents)(network, xs, config)
        # Adam raises a float to an integer power, which strict promotion would forbid.
        with jax.numpy_dtype_promotion("standard"):
            changes, optimizer_state = optimizer.update(gradient, optimizer_state)
        return (jax.tree.map(jnp.add, network, changes), optimizer_state), None

    def of_one(network, optimizer_state, key):
        keys = jax.random.split(
            jax.random.fold_in(key, look), config.num_flossings // config.num_looks
        )
        return jax.lax.scan(update, (network, optimizer_state), keys)[0]

    keys = _arms.keys_of(_arms.TREATMENT, config.num_seeds)
    return jax.vmap(of_one)(networks, optimizer_state, keys)


def _bits(key, num_steps, config):
    bits = jax.random.bernoulli(key, 0.5, (num_steps, 1))
    return bits.astype(jnp.dtype(config.dtype))
