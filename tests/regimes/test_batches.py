"""What a batch of sequences may hold: flags beside features, and anything in its padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jacobian_rnn import from_linen, predict_regime
from tests.networks import make_network
from tests.systems import batch


class ResettingCell(nn.RNNCellBase):
    """A GRU that zeroes its carry where it is told to."""

    @nn.compact
    def __call__(self, carry, x):
        features, done = x
        return nn.GRUCell(4, param_dtype=jnp.float64)(jnp.where(done, 0.0, carry), features)

    @property
    def num_feature_axes(self):
        return 1


def test_sequences_may_come_with_flags_and_be_tokens():
    features = jnp.asarray(batch(30))
    done = jnp.zeros((4, 30), bool).at[:, 0].set(True)
    cell = ResettingCell()
    variables = cell.init(jax.random.key(0), jnp.zeros(4), (features[0, 0], done[0, 0]))
    network = from_linen(cell, variables)
    found = predict_regime(network, jnp.zeros(4), (features, done), horizon=20)
    plain = from_linen(
        nn.GRUCell(4, param_dtype=jnp.float64), {"params": variables["params"]["GRUCell_0"]}
    )
    expected = predict_regime(plain, jnp.zeros(4), features, horizon=20)
    np.testing.assert_allclose(found.log_growth, expected.log_growth, rtol=1e-9)
    # A float array without its batch axis is still told so.
    with pytest.raises(ValueError, match="expected a batch of sequences"):
        predict_regime(network, jnp.zeros(4), (features[0], done[0]), horizon=20)


def test_padding_may_hold_anything_and_what_is_not_padding_may_not():
    lengths = [30, 22, 25, 21]
    within = np.arange(30) < np.array(lengths)[:, None]
    recurrence, carry, _ = make_network("GRUCell", 4)
    options = {"horizon": 15, "seq_lengths": lengths}
    by_padding = [
        predict_regime(recurrence, carry, np.where(within[..., None], batch(30), one), **options)
        for one in (0.0, np.nan, np.inf)
    ]
    for found in by_padding[1:]:
        np.testing.assert_array_equal(found.log_growth, by_padding[0].log_growth)
        np.testing.assert_array_equal(found.first_nonfinite_step, -1)
    xs = np.where(within[..., None], batch(30), np.nan)
    xs[2, 24, 1] = np.nan
    said = r"xs: received NaN or inf in sequence 2 at step 24, expected .* its length of 25"
    with pytest.raises(ValueError, match=said):
        predict_regime(recurrence, carry, xs, **options)
