"""The product of several stretches of time at once, on as many devices as there are."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

from jacobian_rnn.cells.padding import with_padding
from jacobian_rnn.jacobians.system import System
from jacobian_rnn.jacobians.time_loop import states_of
from jacobian_rnn.products.along import product_along
from jacobian_rnn.products.product import JacobianProduct

AXIS = "time"


def product_in_blocks(
    system: System, frames: Float[Array, "passes n n"], num_blocks: int
) -> JacobianProduct:
    """Multiply the Jacobians of each block of steps, and compose the blocks as a tree.

    The blocks go to the largest number of devices that divides theirs. Later blocks wait at their
    ends, so that all are of one length.
    """
    devices = jax.devices()
    num_devices = max(d for d in range(1, len(devices) + 1) if num_blocks % d == 0)
    return _product_in_blocks(system, frames, num_blocks, tuple(devices[:num_devices]))


@partial(jax.jit, static_argnames=("num_blocks", "devices"))
def _product_in_blocks(system, frames, num_blocks, devices):
    length = -(-system.num_steps // num_blocks)
    padded = length * num_blocks
    states = states_of(system)
    starts = states[jnp.minimum(length * jnp.arange(num_blocks), system.num_steps)]
    active = jnp.arange(padded) < system.num_steps

    def cut(x):
        last = jnp.broadcast_to(x[-1:], (padded - len(x), *x.shape[1:]))
        return jnp.concatenate([x, last]).reshape(num_blocks, length, *x.shape[1:])

    waiting = with_padding(system.recurrence)
    xs = jax.tree.map(cut, system.xs), active.reshape(num_blocks, length)

    def multiply(waiting, frames, starts, xs):
        def of_block(start, xs):
            block = dataclasses.replace(
                system, recurrence=waiting, state=start, xs=xs, num_steps=length
            )
            return product_along(block, frames)

        return jax.vmap(of_block)(starts, xs)

    over_time, everywhere = PartitionSpec(AXIS), PartitionSpec()
    on_devices = jax.shard_map(
        multiply,
        mesh=Mesh(np.array(devices), (AXIS,)),
        in_specs=(everywhere, everywhere, over_time, over_time),
        out_specs=over_time,
        check_vma=False,
    )
    products = on_devices(waiting, frames, starts, xs)
    blocks = [jax.tree.map(lambda a, i=i: a[i], products) for i in range(num_blocks)]
    while len(blocks) > 1:
        pairs = [later @ earlier for earlier, later in zip(blocks[::2], blocks[1::2], strict=False)]
        blocks = pairs + blocks[2 * len(pairs) :]
    # Steps that wait were counted, and nothing can go wrong in them.
    return blocks[0]._replace(num_steps=jnp.full((), system.num_steps, jnp.int32))
