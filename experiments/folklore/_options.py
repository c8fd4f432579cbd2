"""What is measured for the folklore, and at which sizes."""

import dataclasses
from typing import Annotated, Literal

from annotated_types import Ge

from experiments.runner.experiment import Axis, Count, Dtype, Positive, Range, Seed

Cell = Literal["SimpleCell", "GRUCell", "LSTMCell"]
Several = Annotated[int, Ge(2)]


@dataclasses.dataclass(frozen=True)
class Folklore:
    """What is measured.

    Networks are Flax linen cells whose recurrent kernels are Gaussian with standard deviation
    gain/√N, unless their default initialisation is what is asked about. Inputs are white noise.

    Attributes:
        gains: of the chains and networks of statements a and b, ascending.
        width: N, hidden units, but for statement c.
        num_inputs: channels of white input.
        input_std: its standard deviation; also that of the biases of feed-forward chains.
        num_networks: drawn afresh at each point.
        num_steps: steps, or layers, over which λ₁ is measured.
        num_warmup: steps before them.
        horizon: steps, or layers, that gradients pass in statements a and g.
        num_probes: random gradients of the backward profile.
        rule_kinds: cell and width of the networks that the rules of statement c are tried on.
        rule_gains: lowest and highest gain there; gains are spread evenly in the logarithm.
        num_rule_networks: networks of each kind.
        difference_gains: of a stable and of a chaotic network, statement d.
        lags: between the changed input and the last state, statement d; with the horizon those at
            which the backward profile is laid beside the exact product.
        delay: steps between symbol and answer in statements e and f, delayed recall.
        short_delay: the same within reach, statement e.
        recall_gains: of statement e's networks with orthogonal kernels, ascending.
        update_gains: of statement f's networks, orthogonal too, ascending.
        optimizers: of statement e.
        learning_rate: of gradient descent; Adam's is a tenth.
        clip_norm: global norm to which gradients are clipped, but where that is asked about.
        num_seeds: networks trained at each point.
        num_updates: updates of each.
        batch_size: sequences per update.
        held_out_size: sequences on which skill is measured.
        large_gain: of the LSTM that is meant to explode, statement g.
        seed: of all draws.
        dtype: precision; measured gradients span more than float32 holds.
    """

    gains: Axis[Positive] = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
    width: Count = 32
    num_inputs: Count = 8
    input_std: Positive = 0.5
    num_networks: Several = 16
    num_steps: Count = 1000
    num_warmup: Count = 200
    horizon: Count = 100
    num_probes: Count = 8
    rule_kinds: Axis[tuple[Cell, Count]] = (
        ("SimpleCell", 16),
        ("SimpleCell", 128),
        ("GRUCell", 32),
        ("LSTMCell", 32),
    )
    rule_gains: Range = (0.25, 8.0)
    num_rule_networks: Several = 60
    difference_gains: tuple[Positive, Positive] = (1.0, 4.0)
    lags: Axis[Count] = (1, 5, 10, 20, 40)
    delay: Count = 30
    short_delay: Count = 2
    recall_gains: Axis[Positive] = (0.4, 0.65, 1.0, 1.2, 1.4)
    update_gains: Axis[Positive] = (1.3, 2.0, 4.0)
    optimizers: Axis[Literal["sgd", "adam"]] = ("sgd", "adam")
    learning_rate: Positive = 0.1
    clip_norm: Positive = 1.0
    num_seeds: Several = 6
    num_updates: Count = 600
    batch_size: Count = 32
    held_out_size: Count = 512
    large_gain: Positive = 6.0
    seed: Seed = 0
    dtype: Dtype = "float64"

    def __post_init__(self):
        """Refuse lags and stretches that do not fit into each other."""
        for option, value, most, other in (
            ("horizon", self.horizon, self.num_steps, "num_steps"),
            ("lags", max(self.lags), self.horizon - 1, "horizon − 1"),
            ("short-delay", self.short_delay, self.delay - 1, "delay − 1"),
        ):
            if value > most:
                msg = f"--{option}: received {value}, expected at most {other}, which is {most}"
                raise ValueError(msg)


PRESETS = {
    "quick": Folklore(
        gains=(0.5, 3.0),
        width=16,
        num_inputs=4,
        num_networks=2,
        num_steps=200,
        num_warmup=20,
        horizon=60,
        rule_kinds=(("SimpleCell", 16),),
        num_rule_networks=2,
        lags=(1, 20),
        delay=10,
        recall_gains=(0.1, 1.0),
        update_gains=(1.0, 4.0),
        optimizers=("sgd",),
        num_seeds=2,
        num_updates=20,
        batch_size=4,
    ),
    "default": Folklore(),
    # A chain keeps all its layers: num_networks · (num_warmup + num_steps) · width² numbers.
    "full": Folklore(
        gains=(0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0),
        width=64,
        num_steps=2000,
        rule_kinds=(
            ("SimpleCell", 16),
            ("SimpleCell", 64),
            ("SimpleCell", 256),
            ("GRUCell", 64),
            ("LSTMCell", 64),
        ),
        num_rule_networks=100,
        num_seeds=20,
        num_updates=3000,
    ),
}
