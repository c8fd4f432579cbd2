"""Layers that compute in few bits, measured with the same weights in float32."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jacobian_rnn.checks import check_finite
from jacobian_rnn.diagnosis.recorded_layers import RecordedLayer

FEWEST_BITS = 32


def is_coarse(dtype: Any) -> bool:
    """Say whether a dtype has fewer bits than float32."""
    return dtype is not None and jnp.finfo(dtype).bits < FEWEST_BITS


def in_full_precision(layer: RecordedLayer, computed_in: Any = None) -> RecordedLayer:
    """Return a layer with weights, carries and inputs in one dtype, of float32 or more.

    A step of few bits has no digits to measure a Jacobian with. What is added says so.

    Args:
        layer: whose step itself casts to no coarse dtype.
        computed_in: the dtype in which the model computes the layer, if it is another.

    Raises:
        ValueError: weights that are not finite.
    """
    params = layer.recurrence.params
    check_finite(f"weights of layer {layer.name!r}", params)
    floats = [leaf.dtype for leaf in jax.tree.leaves(params) if _is_float(leaf)]
    floats = floats or [leaf.dtype for leaf in jax.tree.leaves(layer.carry)]
    own = max(floats, key=lambda dtype: jnp.finfo(dtype).bits)
    dtype = jnp.float32 if is_coarse(own) else own

    def cast(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: leaf.astype(dtype) if _is_float(leaf) else leaf, tree)

    recurrence = dataclasses.replace(layer.recurrence, params=cast(params))
    computed_in, notes = computed_in or own, layer.notes
    if is_coarse(computed_in):
        name = np.dtype(computed_in).name
        notes += (f"The model computes this layer in {name}. It is measured in float32.",)
    return layer._replace(
        recurrence=recurrence, carry=cast(layer.carry), xs=cast(layer.xs), notes=notes
    )


def _is_float(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)
