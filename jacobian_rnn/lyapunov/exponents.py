"""Lyapunov spectra: the rates, in nats per step, at which tangent vectors grow on a trajectory."""

from functools import partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.checks import (
    check_choice,
    check_count,
    check_matrices,
    check_precision,
    check_type,
    check_warmup,
    refuse,
)
from jacobian_rnn.jacobians.system import bind
from jacobian_rnn.jacobians.traced_steps import refuse_coarse_step
from jacobian_rnn.linalg.batch_means import running_means, time_average
from jacobian_rnn.linalg.frames import Factorization, check_frame, generic_columns
from jacobian_rnn.linalg.graded_svd import matmul
from jacobian_rnn.lyapunov._blocks import advance
from jacobian_rnn.lyapunov._interval import Tangents
from jacobian_rnn.lyapunov._run import count_anew, new_run
from jacobian_rnn.lyapunov._units import run_units
from jacobian_rnn.lyapunov.result import LyapunovSpectrum


def lyapunov_spectrum(
    recurrence: Recurrence,
    carry: PyTree,
    xs: PyTree,
    *,
    num_steps: int | None = None,
    num_exponents: int | None = None,
    num_warmup: int = 0,
    qr_every: int | Literal["auto"] = "auto",
    factorization: Factorization = "elimination",
    frame: Float[Array, "n k"] | None = None,
    resume: LyapunovSpectrum | None = None,
) -> LyapunovSpectrum:
    """Compute the k largest Lyapunov exponents along one trajectory.

    A frame of k tangent vectors is pushed through every step, and factored whenever its directions
    grow too unequal. The exponents are the mean log growth of its nested volumes, exactly those of
    Benettin's method with QR at every step and the same starting frame. Elimination keeps the frame
    well conditioned at a third of the cost of QR, which follows only after each block of steps. A
    Jacobian is formed only for checks, where it is cheaper, or where forward mode is missing.

    Args:
        recurrence: the system.
        carry: initial carry, without batch axis, or None with `resume`.
        xs: one sequence, `(time, ...)`, or None for a system without input.
        num_steps: number of steps where `xs` is None, including the warm-up.
        num_exponents: k, from 1 to n, by default n. Static.
        num_warmup: number of first steps that settle state and frame and are not counted.
            Directions that are lost there start anew. Static.
        qr_every: number of steps between factorisations. "auto" adapts it so that at most a third
            of the digits cancel. Where that fails, a block of steps is repeated with one after each
            step. Under `jax.vmap` give an integer, because "auto" runs all alternatives. Static.
        factorization: "elimination", "householder" or "cholesky", as in
            `linalg.frames.factor_columns`. Static.
        frame: starting frame `(n, k)` with orthonormal columns, by default a fixed generic one.
        resume: an earlier result of the same system. Its run goes on, with its k and its warm-up.
            The exponents are those of one run. Batches for the error bars may be cut elsewhere.

    Returns:
        The spectrum with its errors and checks, which `print` shows.

    Raises:
        ValueError: nothing left to count after the warm-up, k, interval or frame out of range,
            shapes that do not fit, values that are not finite, or arguments that `resume` excludes.
        TypeError: float dtypes that differ, a step that computes in fewer bits than its state has,
            or counts that are not integers.

    Where the recurrence declares its `unit_jacobians`, and all exponents are asked for, every unit
    has a small frame of its own. It is orthonormalised at each step, and a step costs O(n). A stack
    of such layers has a block-triangular Jacobian, whose exponents are those of the blocks on its
    diagonal (Oseledets 1968; Furstenberg and Kifer 1983, lemma 3.6). Over a finite time they are
    those of a frame that starts with columns in the highest layer, and goes down layer by layer.
    Other frames come to the same in the limit. The singular values of a product over a finite time
    may be far from both.

    Cost: each step takes the step itself, k tangents and a share of a factorisation of `(n, k)`.
    Memory is O(n k) for any T. It works under `jit`, `vmap` and `grad`, where reverse mode stores
    O(T n k). The derivative is that of the finite-time exponents along this trajectory. Standard
    errors carry none. In a chaotic system the derivative grows like the tangent vectors and means
    little beyond a few Lyapunov times.

    References:
        G. Benettin, L. Galgani, A. Giorgilli and J.-M. Strelcyn, "Lyapunov characteristic
        exponents for smooth dynamical systems and for Hamiltonian systems", Meccanica 15 (1980).
        L. Dieci and E. S. Van Vleck, "Lyapunov spectral intervals: theory and computation", SIAM
        J. Numer. Anal. 40 (2002).
        V. I. Oseledets, "A multiplicative ergodic theorem. Lyapunov characteristic numbers for
        dynamical systems", Trans. Moscow Math. Soc. 19 (1968).
        H. Furstenberg and Y. Kifer, "Random matrix products and measures on projective spaces",
        Israel J. Math. 46 (1983).

    Example:
        >>> import jax.numpy as jnp
        >>> def henon(params, carry, x):
        ...     return jnp.array([1 - 1.4 * carry[0] ** 2 + carry[1], 0.3 * carry[0]])
        >>> system = Recurrence(henon, ())
        >>> spectrum = lyapunov_spectrum(
        ...     system, jnp.array([0.1, 0.1]), None, num_steps=20_000, num_warmup=100
        ... )
        >>> print([round(float(rate), 2) for rate in spectrum.exponents])
        [0.42, -1.62]
    """
    given = carry
    if resume is not None:
        _check_resume(resume)
        carry = resume.carry
    system = bind(recurrence, carry, xs, num_steps)
    n, dtype = system.num_states, system.state.dtype
    _check_options(system.num_steps, num_warmup, qr_every, factorization)
    if system.has_unit_layers and (num_exponents, frame, resume) == (None, None, None):
        return _finish(*_run_units(system, num_warmup))
    if resume is None:
        run = new_run(system.state, _starting_frame(n, num_exponents, dtype, frame))
    else:
        excluded = {
            "carry": given,
            "num_exponents": num_exponents,
            "num_warmup": num_warmup,
            "frame": frame,
        }
        run = _resumed_run(resume, n, n, dtype, excluded)
    run, carry = _run_along(system, run, num_warmup, qr_every, factorization)
    return _finish(run, carry)


def lyapunov_spectrum_of(
    jacobians: Float[Array, "steps n n"],
    *,
    num_exponents: int | None = None,
    num_warmup: int = 0,
    qr_every: int | Literal["auto"] = "auto",
    factorization: Factorization = "elimination",
    frame: Float[Array, "n k"] | None = None,
    resume: LyapunovSpectrum | None = None,
) -> LyapunovSpectrum:
    """Compute the k largest Lyapunov exponents of given matrices.

    Args:
        jacobians: shape `(T, n, n)`, rows as outputs, earliest first.
        num_exponents: k, from 1 to n, by default n. Static.
        num_warmup: number of first matrices that settle the frame and are not counted. Static.
        qr_every: as in `lyapunov_spectrum`.
        factorization: as in `lyapunov_spectrum`.
        frame: as in `lyapunov_spectrum`.
        resume: as in `lyapunov_spectrum`.

    Returns:
        The spectrum with its errors and checks, as `lyapunov_spectrum` returns it.

    Raises:
        ValueError: as in `lyapunov_spectrum`.
        TypeError: as in `lyapunov_spectrum`.

    Example:
        >>> import jax.numpy as jnp
        >>> spectrum = lyapunov_spectrum_of(jnp.tile(jnp.diag(jnp.array([2.0, 0.5])), (100, 1, 1)),
        ...                                 num_warmup=50)
        >>> print(spectrum.exponents.round(4))
        [ 0.6931 -0.6931]
    """
    jacobians = check_matrices("jacobians", jacobians)
    num_steps, n, _ = jacobians.shape
    _check_options(num_steps, num_warmup, qr_every, factorization)
    if resume is None:
        frame = _starting_frame(n, num_exponents, jacobians.dtype, frame)
        run = new_run(jnp.zeros(0, jacobians.dtype), frame)
    else:
        _check_resume(resume)
        excluded = {"num_exponents": num_exponents, "num_warmup": num_warmup, "frame": frame}
        run = _resumed_run(resume, n, 0, jacobians.dtype, excluded)
    run = _run_through(jacobians, run, num_warmup, qr_every, factorization)
    return _finish(run, ())


STATIC = ("num_warmup", "qr_every", "factorization")


@partial(jax.jit, static_argnames=STATIC)
def _run_along(system, run, num_warmup, qr_every, factorization):
    refuse_coarse_step(system)
    n, k = run.frame.shape

    def push_by_jacobian(state, rows, x):
        return system.step(state, x), matmul(rows, system.jacobian(state, x).T)

    def push_by_parts(state, rows, x):
        return system.step(state, x), system.parts(state, x).push(rows)

    # Closed forms have digits of slopes that differentiated steps lose, and the determinants that
    # volumes are compared with come from them. Measurements say that their matrix pays where a step
    # has many more weights than its Jacobian has entries. That is so for a GRU with its three
    # kernels (N = 64, from n/4 tangents on), and not for SimpleCell and LSTM.
    push = push_by_parts if system.has_parts else system.push
    num_weights = sum(leaf.size for leaf in jax.tree.leaves(system.recurrence.params))
    pays = num_weights > 2 * n**2 or not system.has_parts
    if system.recurrence.jacobian is not None and 4 * k >= n and pays:
        push = push_by_jacobian
    tangents = Tangents(push, system.log_abs_det)
    run = _count(tangents, run, system.xs, system.num_steps, num_warmup, qr_every, factorization)
    return run, system.unravel(run.state)


@partial(jax.jit, static_argnames="num_warmup")
def _run_units(system, num_warmup):
    refuse_coarse_step(system)
    run = run_units(system, num_warmup)
    return run, system.unravel(run.state)


@partial(jax.jit, static_argnames=STATIC)
def _run_through(jacobians, run, num_warmup, qr_every, factorization):
    tangents = Tangents(
        lambda state, rows, jacobian: (state, matmul(rows, jacobian.T)),
        lambda _, jacobian: jnp.linalg.slogdet(jacobian)[1],
    )
    num_steps = jacobians.shape[0]
    return _count(tangents, run, jacobians, num_steps, num_warmup, qr_every, factorization)


def _count(tangents, run, xs, num_steps, num_warmup, qr_every, factorization):
    if num_warmup:
        # A warm-up needs no precision, and a second adaptive loop would take long to compile.
        often = 1 if qr_every == "auto" else qr_every
        run = advance(tangents, run, xs, 0, num_warmup, often, factorization, settling=True)
        run = count_anew(run)
    return advance(tangents, run, xs, num_warmup, num_steps, qr_every, factorization)


@jax.jit
def _finish(run, carry):
    # This is compiled by itself, because it is the same for all systems and sequences of a size.
    n, k = run.frame.shape[-2:]
    sums = jnp.where(run.alive, run.batches.sums, 0)
    average = time_average(run.batches._replace(sums=sums))
    # Nothing is known after the first step that is not finite, which can be one of the warm-up.
    broken = run.faults.nonfinite >= 0
    exponents = jnp.where(broken, jnp.nan, jnp.where(run.alive, average.mean, -jnp.inf))
    known = run.alive & ~broken
    history, history_steps = running_means(run.batches)
    order = jnp.argsort(-exponents)

    check = run.check
    num = jnp.maximum(check.num_steps, 1).astype(check.log_det.dtype)
    mean_log_det = check.log_det / num
    if k == n:
        residual = check.log_det_error / num
    else:
        # A sample of steps stands for all, so its own error is allowed for.
        spread = jnp.sqrt(jnp.maximum(check.log_det_squares / num - mean_log_det**2, 0) / num)
        bound = jnp.where(jnp.isneginf(mean_log_det), -jnp.inf, (mean_log_det - 4 * spread) / n)
        # A mean of −inf falls short of every bound, so it says nothing.
        mean = jnp.where(jnp.all(run.alive), jnp.mean(exponents), jnp.nan)
        residual = jnp.maximum(bound - mean, 0)
    return LyapunovSpectrum(
        exponents=exponents[order],
        standard_errors=jnp.where(known, average.standard_error, jnp.nan)[order],
        deviations=jnp.where(known[None], average.deviations, jnp.nan)[:, order],
        num_batches=average.num_batches[order],
        long_enough=average.long_enough[order],
        drift=average.drift[order],
        history=history[:, order],
        history_steps=history_steps,
        num_steps=jnp.sum(run.batches.steps),
        sum_rule_residual=jnp.where(check.num_steps > 0, residual, jnp.nan),
        num_checked=check.num_steps,
        digits_lost=run.cancellation / jnp.log(jnp.asarray(10, run.cancellation.dtype)),
        first_lost_step=run.faults.lost,
        first_zero_step=run.faults.zero,
        first_nonfinite_step=run.faults.nonfinite,
        carry=carry,
        run=run,
    )


def _starting_frame(n, num_exponents, dtype, frame):
    check_precision(dtype)
    k = n if num_exponents is None else num_exponents
    check_count("num_exponents", k, least=1, most=n, advice="n is the size of the state")
    if frame is None:
        return jnp.asarray(generic_columns(n, int(k)), dtype)
    return check_frame(frame, (n, int(k)), dtype)


def _check_options(num_steps, num_warmup, qr_every, factorization):
    check_warmup(num_warmup, num_steps)
    if not (isinstance(qr_every, str) and qr_every == "auto"):
        check_count("qr_every", qr_every, least=1, advice="or 'auto'")
    check_choice("factorization", factorization, get_args(Factorization))


def _check_resume(resume):
    check_type("resume", resume, LyapunovSpectrum, "a LyapunovSpectrum")
    if resume.run.frame.ndim == 3 and resume.exponents.ndim == 1:
        received = "a run of units that see themselves alone"
        advice = "give dataclasses.replace(recurrence, unit_jacobians=None) to both runs"
        refuse("resume", received, "one over whole Jacobians", advice)
    if resume.run.frame.ndim != 2:
        received = f"a batch of runs, frames {resume.run.frame.shape}"
        refuse("resume", received, "one", "use jax.vmap over both")


def _resumed_run(resume, n, state_size, dtype, excluded):
    given = [
        name
        for name, value in excluded.items()
        if not (value is None or (name == "num_warmup" and value == 0))
    ]
    if given:
        expected = "it without what it holds itself"
        refuse("resume", f"it with {', '.join(given)}", expected, "leave them out (carry=None)")
    run = resume.run
    if (run.frame.shape[0], run.state.size, run.frame.dtype) != (n, state_size, dtype):
        kind = "given matrices" if run.state.size == 0 else "a recurrence"
        received = f"a run of {kind} with {run.frame.shape[0]} states in {run.frame.dtype}"
        refuse("resume", received, f"one of the same function with {n} states in {dtype}")
    return run
