"""A run along a trajectory: what it has measured so far, and what it needs to go on."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jacobian_rnn.linalg.batch_means import BatchMeans, no_batches
from jacobian_rnn.lyapunov._volume_check import VolumeCheck, no_check


class Faults(NamedTuple):
    """First steps at which something went wrong, int32 scalars, −1 if none.

    Attributes:
        lost: rounding took a direction.
        zero: a direction was mapped to an exact zero.
        nonfinite: the Jacobian or the new state held NaN or inf.
        nonfinite_state: the new state held NaN or inf.
    """

    lost: Int[Array, ""]
    zero: Int[Array, ""]
    nonfinite: Int[Array, ""]
    nonfinite_state: Int[Array, ""]

    def then(self, later: "Faults", offset: Int[Array, ""]) -> "Faults":
        """Return the first steps of both, where the later ones are counted from `offset`.

        Faults after a step that was not finite do not count.
        """

        def first(earlier, later):
            is_new = (earlier < 0) & (later >= 0) & (self.nonfinite < 0)
            return jnp.where(is_new, offset + later, earlier)

        return Faults(*map(first, self, later))


def no_faults() -> Faults:
    """Return −1 for every kind of fault."""
    return Faults(*(jnp.int32(-1) for _ in Faults._fields))


class TangentRun(NamedTuple):
    """Everything that a run along a trajectory needs to go on.

    Attributes:
        state: of the system, ravelled `(n,)`, or of size zero where matrices are given.
        frame: tangent vectors, orthonormal columns, `(n, k)`.
        batches: log growth of each direction, nats, summed over batches of steps.
        alive: directions that no counted step has lost, to zero or to rounding, `(k,)`.
        log_interval: log₂ of the number of steps between factorisations, for "auto", int32 scalar.
        num_steps: steps taken, including those before the count began, int32 scalar.
        cancellation: log of the worst cancellation before a pivot, which multiplies rounding, nats.
        faults: first steps at which something went wrong.
        check: comparison of the frame's volume with log|det J|.
    """

    state: Float[Array, " size"]
    frame: Float[Array, "n k"]
    batches: BatchMeans
    alive: Bool[Array, " k"]
    log_interval: Int[Array, ""]
    num_steps: Int[Array, ""]
    cancellation: Float[Array, ""]
    faults: Faults
    check: VolumeCheck


def new_run(state: Float[Array, " size"], frame: Float[Array, "n k"]) -> TangentRun:
    """Return a run before its first step. Given matrices need no state, so its size is zero."""
    k, dtype = frame.shape[1], frame.dtype
    return TangentRun(
        state=state,
        frame=frame,
        batches=no_batches(k, 1, dtype),
        alive=jnp.ones(k, bool),
        log_interval=jnp.int32(0),
        num_steps=jnp.int32(0),
        cancellation=jnp.zeros((), dtype),
        faults=no_faults(),
        check=no_check(dtype),
    )


def count_anew(run: TangentRun) -> TangentRun:
    """Forget the growth so far, as after a warm-up, but remember a step that was not finite."""
    known = {name: getattr(run.faults, name) for name in ("nonfinite", "nonfinite_state")}
    faults = no_faults()._replace(**known)
    return new_run(run.state, run.frame)._replace(num_steps=run.num_steps, faults=faults)
