import jax.numpy as jnp
import numpy as np
import pytest

import jacobian_rnn as jrnn
from jacobian_rnn.diagnosis import CreditByLag
from jacobian_rnn.plotting import credit_by_lag, growth_by_lag
from tests.plotting.drawings import labels, marked

XS = np.random.default_rng(0).normal(size=(2, 30, 3))


def decay(params, carry, x):
    return params * carry + x


@pytest.fixture(scope="module")
def diagnosis():
    return jrnn.diagnose(jrnn.Recurrence(decay, jnp.full(3, 0.9)), XS, carry=jnp.zeros(3))


def test_growth_is_drawn_at_every_lag_for_each_layer(axes, diagnosis):
    (layer,) = diagnosis.layers
    lost = layer._replace(name="dead", growth=np.array([-1.0, -np.inf, -np.inf]))
    growth_by_lag(axes, diagnosis._replace(layers=(layer, lost)))
    assert labels(axes) == ["layer", "dead", "dead: nothing is left"]
    lags, growth = marked(axes, "layer").get_data()
    np.testing.assert_array_equal(lags, np.arange(1, 31))
    np.testing.assert_allclose(growth, lags * np.log(0.9), rtol=1e-6)
    assert list(marked(axes, "dead: nothing").get_xdata()) == [2]
    assert [text.get_text() for text in axes.texts] == ["vanishing", "stable", "exploding"]


def test_shares_are_drawn_with_their_noise(axes):
    credit = CreditByLag(np.array([0.0, -1.0, -np.inf]), np.array([4.0, 1.0, np.nan]))
    credit_by_lag(axes, credit)
    np.testing.assert_allclose(marked(axes, "share").get_ydata(), [0.0, -1.0, np.nan])
    np.testing.assert_allclose(marked(axes, "its noise").get_ydata()[:2], [-np.log(4), -1.0])


def test_what_is_no_diagnosis_is_refused(axes):
    with pytest.raises(TypeError, match="expected a Diagnosis"):
        growth_by_lag(axes, "stable")
    with pytest.raises(TypeError, match="expected one CreditByLag"):
        credit_by_lag(axes, "stable")
