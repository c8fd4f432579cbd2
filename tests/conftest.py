"""Settings under which all tests run, and fixtures."""

import gc
import os

from experiments.runner import environment

# XLA's CPU pool of two threads can wait for itself forever when two batched LAPACK calls meet in
# it; one thread cannot.
os.environ.setdefault("NPROC", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# Tests compile more than they compute.
environment.compile_fast(optimize=False)

import jax
import pytest
from jaxtyping import install_import_hook

from tests import annotations

install_import_hook("jacobian_rnn", "tests.annotations.checked")

from tests.networks import make_network


def pytest_collection_finish():
    """Let the garbage collector pass over all that is imported, and come less often to the rest.

    JAX makes many small objects when it traces; up to a tenth of the time would go to it otherwise.
    """
    gc.freeze()
    gc.set_threshold(50_000, 50, 50)


@pytest.fixture(autouse=True)
def strict_and_in_float64():
    """Run in double precision, and let no array change its dtype or its rank silently."""
    with (
        jax.enable_x64(True),
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
    ):
        yield


@pytest.fixture(autouse=True)
def annotations_hold(request):
    """Check annotations, except in a test that passes what they forbid."""
    annotations.switch(on=not annotations.refuses(request.function))
    yield
    annotations.switch(on=False)


@pytest.fixture
def standard_promotion():
    """Promote dtypes and ranks as users have it: for Flax cells in two dtypes, and other peers."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def optimized():
    """Compile with optimisation, for a test that computes for longer than it compiles."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(autouse=True, scope="module")
def without_what_other_modules_compiled():
    """Free compiled programs: each keeps memory maps, and Linux allows a process 65,530."""
    yield
    jax.clear_caches()


@pytest.fixture
def network():
    """Give `make_network(name, width, seed=0)`."""
    return make_network


@pytest.fixture
def axes():
    """Give an Axes, and draw what the test left on it."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots()
    yield axes
    figure.canvas.draw()  # what was drawn can be drawn
    plt.close(figure)
