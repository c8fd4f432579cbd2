"""Time against plain JAX, against other programs, and against what the cell itself costs.

Every comparison has a reference that anyone would write first: a scan with QR at each step, or the
cell's own step applied to as many states as there are tangent vectors.
"""

import warnings
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import jacobian_rnn as jrnn
from experiments import drawing
from experiments.benchmarks.timing import Row, compare, timed_row
from experiments.benchmarks.workloads import (
    INPUT_SIZE,
    Sizes,
    autonomous,
    driven_jacobians,
    frame_of,
    own_steps,
    peer,
    qr_of_jacobians,
    qr_of_system,
)

SCAN = "scan of QR at each step"
OWN_STEP = "the cell's step on k states"
PEERS = {"lyapax": ("lyapax, jitted", "lyapax, plain"), "chaotax": ("chaotax, plain",)}
NOT_INSTALLED = "not installed"


def cases(sizes: Sizes) -> list[tuple[str, Callable[[], list[Row]]]]:
    """List what can be run: `(label, function that returns rows)`."""
    listed = [(f"W1: k={k}", partial(shared, k, sizes)) for k in sizes.shared_k]
    listed += [(f"W3: k={k}", partial(against_peers, k, sizes)) for k in sizes.autonomous_k]
    listed += [
        (f"floor: {cell} N={width} k=N/{fraction}", partial(floor, cell, width, fraction, sizes))
        for cell in sizes.floor_cells
        for width in sizes.floor_widths
        for fraction in sizes.floor_fractions
    ]
    listed += [(f"W4: T={steps}", partial(by_length, steps, sizes)) for steps in sizes.lengths]
    listed += [(f"W4: n={width}", partial(by_width, width, sizes)) for width in sizes.widths]
    return listed + [
        (f"W4: batch {size}", partial(by_batch, size, sizes)) for size in sizes.batches
    ]


def shared(k: int, sizes: Sizes) -> list[Row]:
    """W1: the same Jacobians for all, k exponents, and the whole product where k is n.

    Everything is jitted: called plainly, the package also looks for NaN in the matrices, one more
    pass over 32 MB.
    """
    jacobians = jnp.asarray(driven_jacobians(sizes.shared_steps), sizes.dtype)
    num_steps, n, _ = jacobians.shape
    functions: dict[str, Callable] = {
        SCAN: partial(qr_of_jacobians, jacobians, frame_of(n, k, sizes.dtype))
    }
    for label, qr_every in {"auto": "auto", "qr_every=1": 1, "qr_every=2": 2}.items():
        spectrum = partial(jrnn.lyapunov_spectrum_of, num_exponents=k, qr_every=qr_every)
        functions[f"lyapunov_spectrum_of, {label}"] = partial(jax.jit(spectrum), jacobians)
    if k == n:
        for label, estimate in {"one pass": False, "with its error": True}.items():
            product = partial(jrnn.product_of, estimate_error=estimate)
            functions[f"product_of, {label}"] = partial(jax.jit(product), jacobians)
    return _rows(functions, Row("W1", f"k={k}", "", n, k, num_steps), sizes)


def against_peers(k: int, sizes: Sizes) -> list[Row]:
    """W3: k exponents of an autonomous network, by each program in each way it can be called.

    The network is chaotic, so programs that round differently follow different orbits: exponents
    agree like averages over time do, not to the last digits.
    """
    n, num_steps = 32, sizes.autonomous_steps
    network, state = autonomous(n, sizes.dtype)
    frame = frame_of(n, k, sizes.dtype)
    functions: dict[str, Callable] = {
        SCAN: partial(qr_of_system, network, state, None, frame, num_steps)
    }
    for label, qr_every in {"auto": "auto", "qr_every=1": 1}.items():
        plain = partial(
            jrnn.lyapunov_spectrum,
            network,
            state,
            None,
            num_steps=num_steps,
            num_exponents=k,
            qr_every=qr_every,
        )
        jitted = jax.jit(_exponents_of(num_steps, k, qr_every))
        functions[f"lyapunov_spectrum, {label}, jitted"] = partial(jitted, network, state)
        functions[f"lyapunov_spectrum, {label}, plain"] = plain
    functions |= peer_functions(network, state, frame, num_steps)
    row = Row("W3", f"k={k}", "", n, k, num_steps)
    missing = [
        row._replace(name=name, note=NOT_INSTALLED)
        for name in sum(PEERS.values(), ())
        if name not in functions
    ]
    return _rows(functions, row, sizes) + missing


def peer_functions(network: jrnn.Recurrence, state, frame, num_steps: int) -> dict[str, Callable]:
    """Return what can be called of those other programs that are installed."""
    k, functions = frame.shape[1], {}

    def step(state):
        return network.step(network.params, state, None)

    if (lyapax := peer("lyapax")) is not None:

        def by_lyapax(state):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="lyapax")  # that float32 is not float64
                return lyapax.lyapunov_spectrum(step, state, 1.0, num_steps, k=k).exponents

        jitted, plain = PEERS["lyapax"]
        functions |= {jitted: partial(jax.jit(by_lyapax), state), plain: partial(by_lyapax, state)}
    if (chaotax := peer("chaotax")) is not None:
        # It turns sizes into arrays on the way, and therefore cannot be jitted by its caller.
        spectrum = chaotax.lyapunov_spectrum(
            step, rollout_steps=num_steps, warmup_steps=0, discard_steps=0, num_exponents=k
        )
        functions[PEERS["chaotax"][0]] = partial(spectrum, state, frame.T)
    return functions


def floor(cell: str, width: int, fraction: int, sizes: Sizes) -> list[Row]:
    """Compare k exponents of a driven cell with the cell's own step on k states."""
    k = width // fraction
    network, carry, xs = _driven(cell, width, sizes.floor_steps, sizes.dtype)
    carries = jax.tree.map(
        lambda leaf: leaf + jnp.linspace(0, 1, k, dtype=leaf.dtype)[:, None], carry
    )
    functions: dict[str, Callable] = {
        OWN_STEP: partial(own_steps, network, carries, xs),
        "lyapunov_spectrum, auto": partial(
            jax.jit(partial(jrnn.lyapunov_spectrum, num_exponents=k)), network, carry, xs
        ),
    }
    n = sum(leaf.size for leaf in jax.tree.leaves(carry))
    return _rows(functions, Row("floor", f"{cell} {width}", "", n, k, sizes.floor_steps), sizes)


def by_length(num_steps: int, sizes: Sizes) -> list[Row]:
    """W4: time against T, few exponents."""
    n, k = 32, 4
    network, state = autonomous(n, sizes.dtype)
    frame = frame_of(n, k, sizes.dtype)
    functions: dict[str, Callable] = {
        SCAN: partial(qr_of_system, network, state, None, frame, num_steps),
        "lyapunov_spectrum, auto": partial(
            jrnn.lyapunov_spectrum, network, state, None, num_steps=num_steps, num_exponents=k
        ),
    }
    return _rows(functions, Row("W4", "length", "", n, k, num_steps), sizes)


def by_width(n: int, sizes: Sizes) -> list[Row]:
    """W4: time against n, all exponents and the whole product."""
    jacobians = jnp.asarray(driven_jacobians(sizes.width_steps, n=n), sizes.dtype)
    functions: dict[str, Callable] = {
        SCAN: partial(qr_of_jacobians, jacobians, frame_of(n, n, sizes.dtype)),
        "lyapunov_spectrum_of, auto": partial(jrnn.lyapunov_spectrum_of, jacobians),
        "product_of, one pass": partial(jrnn.product_of, jacobians, estimate_error=False),
    }
    return _rows(functions, Row("W4", "width", "", n, n, sizes.width_steps), sizes)


def by_batch(batch: int, sizes: Sizes) -> list[Row]:
    """W4: time against the number of sequences, under `jax.vmap` with a fixed interval."""
    n, k, num_steps = 32, 4, sizes.batch_steps
    network, carry, xs = _driven("SimpleCell", n, num_steps, sizes.dtype, batch)
    frame = frame_of(n, k, sizes.dtype)

    def by_scan(network, carry, xs):
        return qr_of_system(network, carry, xs, frame, num_steps)

    def by_package(network, carry, xs):
        return jrnn.lyapunov_spectrum(network, carry, xs, num_exponents=k, qr_every=4)

    functions: dict[str, Callable] = {
        name: partial(jax.jit(jax.vmap(one, in_axes=(None, None, 0))), network, carry, xs)
        for name, one in {SCAN: by_scan, "lyapunov_spectrum, qr_every=4": by_package}.items()
    }
    return _rows(functions, Row("W4 batch", "batch", "", n, k, num_steps, batch), sizes)


def _driven(cell, width, num_steps, dtype, *batch):
    """Draw a cell, its carry of zeros, and sequences of normal numbers."""
    network = drawing.draw(cell, width, 1.5, INPUT_SIZE, dtype=dtype, key=jax.random.key(width))
    xs = np.random.default_rng(width).standard_normal((*batch, num_steps, INPUT_SIZE))
    return network, drawing.zero_carry(cell, width, dtype), jnp.asarray(xs, dtype)


def _exponents_of(num_steps, k, qr_every):
    def exponents(network, state):
        return jrnn.lyapunov_spectrum(
            network, state, None, num_steps=num_steps, num_exponents=k, qr_every=qr_every
        ).exponents

    return exponents


def _rows(functions: dict[str, Callable], row: Row, sizes: Sizes) -> list[Row]:
    """Time functions against the first one; compare exponents with its exponents."""
    timings = compare(functions, sizes.repeats, max_seconds=sizes.max_seconds)
    return [
        timed_row(row._replace(name=name), timings, error=_error(timings.outputs, name))
        for name in functions
    ]


def _error(outputs: dict, name: str) -> float:
    """Return the largest difference of exponents from the reference's; NaN if one has none."""
    reference = next(iter(outputs))
    if name == reference or OWN_STEP in outputs or isinstance(outputs[name], jrnn.JacobianProduct):
        return float("nan")
    exponents = getattr(outputs[name], "exponents", outputs[name])
    return float(np.abs(_descending(exponents) - _descending(outputs[reference])).max())


def _descending(exponents) -> np.ndarray:
    return np.sort(np.asarray(exponents, np.float64), axis=-1)[..., ::-1]
