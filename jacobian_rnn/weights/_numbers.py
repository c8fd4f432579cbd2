"""Numbers of other programs as finite float32 or float64 arrays of numpy."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jacobian_rnn.checks import check_dtype, check_finite, refuse
from jacobian_rnn.weights._files import StoredArray


def shape_of(array: Any) -> tuple[int, ...]:
    """Return the shape of an array or a tensor."""
    return tuple(array.shape)


def dtype_of(array: Any) -> str:
    """Return the name of the dtype of an array or a tensor."""
    return str(array.dtype).removeprefix("torch.")


def to_numpy(name: str, array: Any) -> np.ndarray:
    """Turn an array or a PyTorch tensor, recognised by its methods, into a numpy array."""
    if isinstance(array, StoredArray):
        return array.read()
    if getattr(array, "is_meta", False):
        received, advice = (
            "a tensor of the device 'meta', which holds no numbers",
            "load them first",
        )
        refuse(name, received, "a tensor with numbers", advice, error=TypeError)
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        if hasattr(array, "untyped_storage"):
            _check_storage(name, array)
        if str(array.dtype) == "torch.bfloat16":  # numpy lacks this dtype
            return array.float().numpy().astype(jnp.bfloat16)
    try:
        return np.asarray(array)
    except (TypeError, ValueError, RuntimeError) as error:
        msg = f"{name}: received {type(array).__name__}, expected an array ({error})"
        raise TypeError(msg) from error


def _check_storage(name: str, tensor: Any) -> None:
    """Raise for a sparse tensor, or one that repeats few numbers and could have any size."""
    if str(tensor.layout) != "torch.strided":
        received, advice = f"a tensor of layout {tensor.layout}", "pass tensor.to_dense()"
        refuse(name, received, "a dense one", advice, error=TypeError)
    wanted, stored = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
    if wanted > stored:
        received = f"a tensor of {wanted} bytes that repeats {stored}"
        refuse(name, received, "one that holds all its numbers", "pass tensor.contiguous()")


def widen(array: np.ndarray) -> np.ndarray:
    """Return numbers of half precision in float32, which holds all of them exactly."""
    half = array.dtype in (np.float16, jnp.bfloat16)
    return array.astype(np.float32) if half else array


def to_floats(name: str, array: np.ndarray, dtype: Any) -> np.ndarray:
    """Return finite float32 or float64 numbers, cast only as `dtype` asks, or widened to float32.

    Raises:
        TypeError: numbers that are no floats, or float64 without x64.
        ValueError: numbers that are not finite.
    """
    if not jnp.issubdtype(array.dtype, jnp.floating):
        refuse(name, f"dtype {array.dtype}", "floating-point numbers", error=TypeError)
    array = widen(array)
    wanted = array.dtype if dtype is None else dtype
    check_dtype(name if dtype is None else "dtype", wanted)
    check_finite(name, array)
    with np.errstate(over="ignore"):
        array = array.astype(wanted)
    check_finite(name, array, f"they are beyond the range of {np.dtype(wanted)}")
    return array
