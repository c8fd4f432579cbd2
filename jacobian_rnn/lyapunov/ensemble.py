"""Averages of spectra over members: input sequences, or newly drawn networks."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jacobian_rnn.checks import check_type, refuse
from jacobian_rnn.lyapunov.result import LyapunovSpectrum


class EnsembleSpectrum(NamedTuple):
    """Exponents averaged over members: input sequences, or newly drawn networks.

    Attributes:
        exponents: mean over members, nats per step, `(k,)`.
        standard_errors: of that mean, over members, nats per step, `(k,)`.
        spread: standard deviation between members, nats per step, `(k,)`.
        spread_over_time: root mean square of the members' standard errors over time, nats per step,
            `(k,)`. Members that differ only by chance over time have this spread.
    """

    exponents: Float[Array, " k"]
    standard_errors: Float[Array, " k"]
    spread: Float[Array, " k"]
    spread_over_time: Float[Array, " k"]


def ensemble_spectrum(spectra: LyapunovSpectrum) -> EnsembleSpectrum:
    """Average Lyapunov spectra over members, with errors over members.

    Three error bars answer three questions. `LyapunovSpectrum.standard_errors` says how well the
    exponents of one trajectory are known (over time). Where members differ only in their input
    sequence, the errors here are those of one network (over sequences). Where members are newly
    drawn networks, they are those of the ensemble (over networks).

    Args:
        spectra: a batch along the first axis, as `jax.vmap(lyapunov_spectrum)` returns it.

    Returns:
        Mean, standard error and spread over the members.

    Raises:
        ValueError: not a batch of at least two spectra.
        TypeError: not a `LyapunovSpectrum`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jacobian_rnn import lyapunov_spectrum_of
        >>> jacobians = jax.random.normal(jax.random.key(0), (8, 500, 2, 2))
        >>> spectra = jax.vmap(lambda j: lyapunov_spectrum_of(j, qr_every=1))(jacobians)
        >>> average = ensemble_spectrum(spectra)
        >>> bool(jnp.all(jnp.abs(average.spread / average.spread_over_time - 1) < 0.6))
        True
    """
    expected = "a batch of LyapunovSpectrum, as jax.vmap returns it"
    check_type("spectra", spectra, LyapunovSpectrum, expected)
    if spectra.exponents.ndim != 2 or len(spectra.exponents) < 2:
        received = f"exponents of shape {spectra.exponents.shape}"
        advice = "use jax.vmap over sequences or networks"
        refuse("spectra", received, "(members, k) with at least 2 members", advice)
    spread = jnp.std(spectra.exponents, axis=0, ddof=1)
    return EnsembleSpectrum(
        exponents=jnp.mean(spectra.exponents, axis=0),
        standard_errors=spread / jnp.sqrt(len(spectra.exponents)),
        spread=spread,
        spread_over_time=jnp.sqrt(jnp.mean(spectra.standard_errors**2, axis=0)),
    )
