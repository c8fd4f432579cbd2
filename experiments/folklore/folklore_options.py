"""What is measured for each statement of the folklore, and at which sizes."""

import dataclasses

import jax

# Each statement as it is usually told.
STATEMENTS = {
    "a": "n derivatives are multiplied, so gradients grow or shrink exponentially with depth",
    "b": "the factor multiplied through the network is W_rec",
    "c": "weights larger than 1 explode, smaller than 1 vanish",
    "d": "a gradient measures how much the output changes when the input changes a little",
    "e": "with zero slope the model stops learning",
    "f": "exploding gradients make very large updates and unstable training",
    "g": "LSTMs do not vanish but can explode",
}


@dataclasses.dataclass(frozen=True)
class Folklore:
    """What is measured.

    Networks are Flax linen cells whose recurrent kernels are Gaussian with standard deviation
    gain/√N, unless their default initialisation is what is asked about; inputs are white noise.

    Attributes:
        gains: of the chains and networks of statements a and b, ascending.
        width: N, hidden units of statements a, b, d and g.
        num_inputs: channels of white input.
        input_std: its standard deviation; also that of the biases of feed-forward chains.
        num_networks: drawn afresh at each point, at least 2.
        num_steps: steps, or layers, over which λ₁ is measured.
        num_warmup: steps before them.
        depth: steps, or layers, that gradients pass in statement a.
        skipped: first of these, in which the gradient turns into the direction that grows most,
            left out of the slope.
        rule_kinds: cell and width of the networks that the rules of statement c are tried on.
        rule_gains: lowest and highest gain there; gains are spread evenly in the logarithm.
        num_rule_networks: networks of each kind.
        difference_gains: of a stable and of a chaotic network, statement d.
        lags: between the changed input and the last state, statement d.
        step_exponents: decimal exponents of the step sizes: first, last and number.
        delay: steps between symbol and answer in statements e and f, delayed recall.
        short_lag: the same within reach, statement e, in sequences of the same length.
        slope_gains: of statement e's networks with orthogonal kernels, ascending.
        update_gains: of statement f's networks, orthogonal too, ascending.
        optimizers: of statement e, a key of `folklore_training.OPTIMIZERS` each.
        train_width: hidden units of what is trained.
        num_seeds: networks trained at each point, at least 2.
        num_updates: updates of each.
        batch_size: sequences per update.
        learning_rate: of gradient descent; Adam's is a tenth.
        horizon: steps that gradients pass in statement g.
        large_gain: of the LSTM that is meant to explode, statement g.
        seed: of all draws.
        dtype: "float64"; measured gradients span more than float32 holds.
    """

    gains: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
    width: int = 32
    num_inputs: int = 8
    input_std: float = 0.5
    num_networks: int = 16
    num_steps: int = 1000
    num_warmup: int = 200
    depth: int = 100
    skipped: int = 20
    rule_kinds: tuple[tuple[str, int], ...] = (
        ("SimpleCell", 16),
        ("SimpleCell", 128),
        ("GRUCell", 32),
        ("LSTMCell", 32),
    )
    rule_gains: tuple[float, float] = (0.25, 8.0)
    num_rule_networks: int = 60
    difference_gains: tuple[float, float] = (1.0, 4.0)
    lags: tuple[int, ...] = (1, 5, 10, 20, 40)
    step_exponents: tuple[int, int, int] = (-14, 0, 29)
    delay: int = 30
    short_lag: int = 2
    slope_gains: tuple[float, ...] = (0.4, 0.65, 1.0, 1.2, 1.4)
    update_gains: tuple[float, ...] = (1.3, 2.0, 4.0)
    optimizers: tuple[str, ...] = ("gradient descent", "Adam")
    train_width: int = 32
    num_seeds: int = 6
    num_updates: int = 600
    batch_size: int = 32
    learning_rate: float = 0.1
    horizon: int = 100
    large_gain: float = 6.0
    seed: int = 0
    dtype: str = "float64"

    def precision(self):
        """Return a context in which JAX computes in the precision of the configuration."""
        return jax.enable_x64(self.dtype == "float64")


PRESETS = {
    "quick": Folklore(
        gains=(0.5, 3.0),
        width=16,
        num_inputs=4,
        num_networks=2,
        num_steps=200,
        num_warmup=20,
        depth=60,
        rule_kinds=(("SimpleCell", 16),),
        num_rule_networks=2,
        lags=(1, 20),
        step_exponents=(-8, 0, 5),
        delay=10,
        slope_gains=(0.1, 1.0),
        update_gains=(1.0, 4.0),
        optimizers=("gradient descent",),
        train_width=8,
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
        train_width=64,
    ),
}
