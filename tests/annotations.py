"""Types and shapes in annotations, checked at every call while tests run."""

import functools
from types import CodeType

import jax.numpy as jnp
import numpy as np
from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import config


def switch(*, on):
    """Let calls be checked or not."""
    config.update("jaxtyping_disable", not on)


def refuses(function):
    """Say whether a test passes on purpose what annotations forbid."""
    code = getattr(function, "__code__", function)
    if "raises" in getattr(code, "co_names", ()):
        return True
    return any(
        isinstance(inner, CodeType) and refuses(inner) for inner in getattr(code, "co_consts", ())
    )


def checked(function):
    """Check the types of a call as beartype does; numpy arrays stand for jax ones, as for users."""
    # An int is a float to those who call, as it is to PEP 484.
    check = beartype(function, conf=BeartypeConf(is_pep484_tower=True))

    @functools.wraps(function)
    def call(*args, **kwargs):
        try:
            return check(*args, **kwargs)
        except BeartypeCallHintViolation:
            named = {name: _as_jax(value) for name, value in kwargs.items()}
            return check(*map(_as_jax, args), **named)

    return call


def _as_jax(value):
    # What JAX makes of a numpy array that a traced function closes over is no numpy array.
    if isinstance(value, np.ndarray) or type(value).__name__ == "TypedNdArray":
        return jnp.asarray(np.asarray(value))
    return value
