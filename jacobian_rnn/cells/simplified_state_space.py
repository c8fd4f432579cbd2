"""S5: a complex diagonal state space with many inputs, held as pairs of reals."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jacobian_rnn.cells._own_cells import (
    StepUnitJacobians,
    check_sizes,
    normal_kernel,
    of_complex_units,
    recurrence_of,
)
from jacobian_rnn.cells.recurrence import Recurrence, whole_carry
from jacobian_rnn.checks import check_bounds, check_count, refuse


def s5(
    num_inputs: int,
    num_units: int,
    *,
    key: Key[Array, ""],
    num_blocks: int = 1,
    step_sizes: tuple[float, float] = (0.001, 0.1),
    dtype: Any = jnp.float32,
) -> Recurrence:
    """Draw an S5 state space: h' = exp(ΛΔ) h + Λ⁻¹ (exp(ΛΔ) − 1) B x with complex h.

    This is dh/dt = Λ h + B x, held for a time Δ of each unit (zero-order hold). Λ are the
    eigenvalues of HiPPO-N, −1/2 + iω, of `num_blocks` blocks. They come in conjugate pairs, and
    one of each pair is kept, so N units stand for 2N states of the real system. Entries of B have
    variance 1 / inputs, and the real part has half of it. That is V* B₀ for the eigenvectors V and
    real entries of B₀ of this variance, because V is unitary. Δ is log-uniform.

    h is held as (real, imaginary). The output is the whole carry, because the complex readout of
    h is a linear readout of both parts.

    Args:
        num_inputs: size of x.
        num_units: number N of complex units. The state has 2N entries.
        key: a `jax.random.key`.
        num_blocks: blocks of the HiPPO matrix. It divides `num_units`.
        step_sizes: bounds of Δ, 0 < lower < upper.
        dtype: dtype of the parameters, float32 or float64.

    Returns:
        The recurrence. Its J is diagonal in complex numbers and the same at every step, with the
        exponents Re(ΛΔ), each of them twice.

    Raises:
        TypeError: sizes that are not integers, another dtype, or float64 without x64.
        ValueError: sizes below one, blocks that do not divide the units, or step sizes out of
            range.

    References:
        J. T. H. Smith, A. Warrington and S. W. Linderman, "Simplified state space layers for
        sequence modeling", ICLR 2023, section 3 and appendix B.

    Example:
        >>> import jax
        >>> network = s5(3, 4, key=jax.random.key(0))
        >>> carry = (jnp.zeros(4), jnp.zeros(4))
        >>> jax.tree.map(jnp.shape, network.step(network.params, carry, jnp.ones(3)))
        ((4,), (4,))
    """
    check_sizes(num_inputs, num_units, dtype)
    check_count("num_blocks", num_blocks, 1, num_units)
    if num_units % num_blocks:
        refuse("num_blocks", num_blocks, f"a divisor of the {num_units} units")
    step_sizes = check_bounds("step_sizes", step_sizes)
    frequencies = _frequencies_of_hippo(2 * num_units // num_blocks)
    real, imaginary, step_size = jax.random.split(key, 3)
    scale = jnp.sqrt(jnp.asarray(0.5, dtype))
    log_lower, log_upper = np.log(step_sizes)
    params = {
        "eigenvalues": {
            "real": jnp.full(num_units, -0.5, dtype),
            "imaginary": jnp.tile(jnp.asarray(frequencies, dtype), num_blocks),
        },
        "log_step": jax.random.uniform(step_size, (num_units,), dtype, log_lower, log_upper),
        "real": {"kernel": scale * normal_kernel(real, num_inputs, num_units, dtype)},
        "imaginary": {"kernel": scale * normal_kernel(imaginary, num_inputs, num_units, dtype)},
    }
    return recurrence_of(S5Step(), params, whole_carry, StepUnitJacobians(S5Step()))


@dataclass(frozen=True)
class S5Step:
    """The step of `s5`."""

    num_feature_axes: ClassVar[int] = 1

    def __call__(self, params, carry, x):
        """Return the new carry."""
        eigenvalues, gains = self._held(params)
        read = jax.lax.complex(*(x @ params[part]["kernel"] for part in ("real", "imaginary")))
        new = eigenvalues * jax.lax.complex(*carry) + gains * read
        return new.real, new.imag

    def parts(self, params, carry, x):
        """Return the parts of the Jacobian of one step."""
        del carry, x
        kernels = params["real"]["kernel"], params["imaginary"]["kernel"]
        return of_complex_units(*self._held(params), kernels)

    def carry_like(self, params):
        """Return a carry of the right shape."""
        return params["log_step"], params["log_step"]

    def _held(self, params):
        """Return exp(ΛΔ) and Λ⁻¹ (exp(ΛΔ) − 1)."""
        parts = params["eigenvalues"]
        eigenvalues = jax.lax.complex(parts["real"], parts["imaginary"])
        step = jnp.exp(params["log_step"])
        turned = jax.lax.complex(step * parts["real"], step * parts["imaginary"])
        return jnp.exp(turned), jnp.expm1(turned) / eigenvalues


def _frequencies_of_hippo(size: int) -> np.ndarray:
    """Return ω > 0 of HiPPO-N of an even size, ascending.

    HiPPO-LegS plus a matrix of rank one is −1/2 plus a skew-symmetric matrix, whose eigenvalues
    are ±iω.
    """
    odd = np.sqrt(2 * np.arange(size) + 1)
    lower = np.tril(np.outer(odd, odd), -1) / 2
    return np.linalg.eigvalsh(1j * (lower.T - lower))[size // 2 :]
