"""The shapes and types in annotations are checked while tests run."""

import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from jacobian_rnn.linalg.graded_svd import row_norms
from tests import annotations


def test_a_shape_that_an_annotation_forbids_is_caught():
    annotations.switch(on=True)
    with pytest.raises(TypeCheckError, match="matrix"):
        row_norms(jnp.ones(3))
    annotations.switch(on=False)
    with pytest.raises(ValueError, match="axis"):
        row_norms(jnp.ones(3))


def test_numpy_arrays_stand_for_jax_ones():
    np.testing.assert_array_equal(row_norms(np.ones((3, 4))), 2 * np.ones(3))


def test_only_tests_of_refusals_go_unchecked():
    assert annotations.refuses(test_a_shape_that_an_annotation_forbids_is_caught)
    assert not annotations.refuses(test_numpy_arrays_stand_for_jax_ones)
