"""Tests of the sequential digits: which images, in which split, in which order."""

import math
import sys
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobian_rnn import tasks
from tests.tasks.small_tasks import F32, logits, sampled


@pytest.fixture(scope="module")
def digit_images():
    """Map the bytes of each image to its class, straight from scikit-learn."""
    from sklearn.datasets import load_digits

    images, classes = load_digits(return_X_y=True)
    return {image.astype(np.uint8).tobytes(): c for image, c in zip(images, classes, strict=True)}


def as_bytes(xs):
    """Undo the scaling of a batch of digits, blanks dropped."""
    grey = np.asarray(xs)[:, :64, 0] * 16
    return [image.astype(np.uint8).tobytes() for image in grey]


def test_digits_are_the_labelled_images_of_scikit_learn(digit_images):
    task = tasks.sequential_digits(3)
    for split in ("training", "validation", "test"):
        xs, targets = sampled(task, split, jax.random.key(1), 300)
        classes = [[digit_images[image]] for image in as_bytes(xs)]
        answers = logits(np.array(classes), 10)
        assert float(tasks.skill(task, answers, targets)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("split", ["training", "validation", "test"])
def test_digits_are_followed_by_exactly_the_delay_in_zeros(split):
    xs = np.asarray(sampled(tasks.sequential_digits(20), split, jax.random.key(12), 300).xs)
    assert not xs[:, 64:].any()
    assert xs[:, :64].min() == 0
    assert xs[:, :64].max() == 1
    without_delay = sampled(tasks.sequential_digits(0), split, jax.random.key(12), 300).xs
    np.testing.assert_array_equal(without_delay, xs[:, :64])


def test_the_pixel_permutation_is_one_and_the_same_for_all_images_and_splits():
    plain, permuted = (tasks.sequential_digits(2, permuted=p) for p in (False, True))
    orders = []
    for split, size in (("training", 3000), ("validation", 359), ("test", 359)):
        xs = np.asarray(sampled(plain, split, jax.random.key(13), size).xs)[:, :64, 0]
        ys = np.asarray(sampled(permuted, split, jax.random.key(13), size).xs)[:, :64, 0]
        columns = {column.tobytes(): i for i, column in enumerate(xs.T) if column.any()}
        # Pixels that are blank in every image cannot be told apart.
        orders.append([columns.get(c.tobytes()) if c.any() else None for c in ys.T])
        seen = [i for i in orders[-1] if i is not None]
        assert len(seen) == len(set(seen)) == len(columns) > 55
    known = [{i for i in sources if i is not None} for sources in zip(*orders, strict=True)]
    assert all(len(sources) <= 1 for sources in known)
    order = [i for sources in known for i in sources]
    assert len(order) == len(set(order))
    assert order != sorted(order)


def test_digit_splits_are_disjoint_and_together_are_all_images(digit_images):
    task = tasks.sequential_digits(0)
    training = set(as_bytes(task.sample(jax.random.key(14), 30_000).xs))
    held_out = [
        as_bytes(task.sample_held_out(jax.random.key(14), 359, s).xs)
        for s in ("validation", "test")
    ]
    validation, test = map(set, held_out)
    assert (len(training), len(validation), len(test)) == (1079, 359, 359)
    assert not training & validation
    assert not training & test
    assert not validation & test
    assert training | validation | test == set(digit_images)
    assert len(digit_images) == 1797


@pytest.mark.parametrize("split", ["validation", "test"])
def test_digit_splits_are_stratified(split):
    targets = tasks.sequential_digits(0).sample_held_out(jax.random.key(0), 359, split).targets
    counts = np.bincount(targets[:, 0], minlength=10)
    totals = np.array([178, 182, 177, 183, 181, 182, 181, 179, 174, 180])
    np.testing.assert_allclose(counts, totals / 5, atol=1)


def test_the_digit_split_and_the_permutation_never_change():
    """Published numbers depend on them: a new NumPy or scikit-learn must not move an image."""
    checksums = []
    for permuted in (False, True):
        task = tasks.sequential_digits(0, permuted=permuted)
        for split in ("validation", "test"):
            images = as_bytes(task.sample_held_out(jax.random.key(0), 359, split).xs)
            checksums.append(zlib.crc32(b"".join(sorted(images))))
    assert checksums == [2993357263, 1257185490, 689872701, 4191042377]


@pytest.mark.parametrize("split", ["validation", "test"])
def test_held_out_digits_come_without_replacement_and_in_an_order_set_by_the_key(split):
    task = tasks.sequential_digits(0)
    draws = [as_bytes(task.sample_held_out(jax.random.key(k), 100, split).xs) for k in (0, 1)]
    assert [len(set(draw)) for draw in draws] == [100, 100]
    assert draws[0] != draws[1]


def test_digit_baseline_is_that_of_class_frequencies_learned_in_training(digit_images):
    task = tasks.sequential_digits(0)
    held_out = [
        np.asarray(task.sample_held_out(jax.random.key(0), 359, s).targets)[:, 0]
        for s in ("validation", "test")
    ]
    all_counts = np.bincount(list(digit_images.values()))
    counts = all_counts - np.bincount(np.concatenate(held_out))
    frequencies = counts / counts.sum()
    constant = np.broadcast_to(np.log(frequencies), (718, 1, 10))
    targets = jnp.asarray(np.concatenate(held_out))[:, None]
    accuracy = tasks.accuracy(task, jnp.asarray(constant, F32), targets)
    assert float(accuracy) == pytest.approx(task.baseline_accuracy, rel=1e-6)
    assert task.baseline_loss == pytest.approx(-frequencies @ np.log(frequencies))
    assert math.log(10) - 1e-3 < task.baseline_loss < math.log(10)


def test_more_held_out_digits_than_there_are_is_an_error():
    task = tasks.sequential_digits(0)
    with pytest.raises(
        ValueError, match=r"batch_size: received 360, .* the test split has 359 series"
    ):
        task.sample_held_out(jax.random.key(0), 360, "test")


def test_a_missing_scikit_learn_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'jacobian_rnn\[experiments\]'"):
        tasks.sequential_digits(0)
