"""Real series from the archives of series classification, as the package aeon ships them."""

from typing import Literal, get_args

import jax.numpy as jnp
import numpy as np

from jacobian_rnn.checks import check_choice
from jacobian_rnn.tasks.finite_sets import labelled_series
from jacobian_rnn.tasks.task import Task

ArchiveName = Literal["BasicMotions", "GunPoint", "ItalyPowerDemand", "JapaneseVowels"]


def archived_series(
    name: ArchiveName, delay: int = 0, *, dtype: type | np.dtype = jnp.float32
) -> Task:
    """Build the task of naming the class of a series of a public archive, after `delay` zeros.

    The data come with the package aeon, and nothing is fetched: BasicMotions (80 series of 100
    steps and 6 channels of a smart watch, 4 activities), GunPoint (200 of 150 steps, whether a hand
    holds a gun), ItalyPowerDemand (1096 of 24 hours, winter or summer) and JapaneseVowels (640 of 7
    to 29 steps and 12 channels, 9 speakers). Each channel is scaled to mean 0 and variance 1 over
    all steps of all series. The parts of the archive, training and test, are joined and dealt out
    anew, as `labelled_series` says.

    Horizon: `delay`, a lower bound.

    Args:
        name: of the data set.
        delay: at least 0.
        dtype: of the inputs.

    Returns:
        A task with an input for each channel and an output for each class.

    Raises:
        ValueError: an unknown name, or a negative delay.
        ImportError: if aeon is missing.

    References:
        A. Bagnall et al., "The UEA multivariate time series classification archive, 2018",
        arXiv:1811.00075; H. A. Dau et al., "The UCR time series archive", IEEE/CAA J. Autom. Sinica
        6 (2019).

    Example:
        >>> import jax
        >>> task = archived_series("JapaneseVowels", 10)  # doctest: +SKIP
        >>> task.sample(jax.random.key(0), 32).xs.shape  # doctest: +SKIP
        (32, 39, 12)
    """
    check_choice("name", name, get_args(ArchiveName))
    try:
        from aeon.datasets import load_classification
    except ImportError as error:
        msg = "archived_series needs aeon: pip install 'jacobian_rnn[series]'"
        raise ImportError(msg) from error

    loaded = load_classification(name)
    series, labels = [np.asarray(one).T for one in loaded[0]], loaded[1]
    steps = np.concatenate(series)
    mean, std = steps.mean(0, keepdims=True), steps.std(0, keepdims=True)
    scaled = [(one - mean) / std for one in series]
    return labelled_series(scaled, labels, delay=delay, name=name, dtype=dtype)
