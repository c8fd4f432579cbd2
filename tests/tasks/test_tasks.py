"""Tests of the tasks: what is shown, what is asked, and what is refused."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobian_rnn import tasks
from tests.networks import mostly_slow
from tests.tasks.small_tasks import (
    F32,
    MAIN_TASKS,
    MAKERS,
    NUM_SEQUENCES,
    SYNTHETIC,
    sampled,
)

EVERY_TASK = mostly_slow(MAKERS, MAIN_TASKS)
EVERY_SYNTHETIC_TASK = mostly_slow(SYNTHETIC, MAIN_TASKS)


@pytest.fixture(scope="module", params=EVERY_TASK)
def task(request):
    return MAKERS[request.param](dtype=F32)


@pytest.fixture(params=EVERY_SYNTHETIC_TASK)
def synthetic_task(request):
    return MAKERS[request.param](dtype=F32)


@pytest.mark.parametrize("split", ["training", "validation", "test"])
def test_shapes_and_dtypes_are_those_that_the_task_declares(task, split):
    xs, targets = sampled(task, split, jax.random.key(2))
    assert xs.shape == (NUM_SEQUENCES, task.num_steps, task.input_size)
    assert xs.dtype == F32
    if task.loss == "squared_error":
        assert targets.shape == (NUM_SEQUENCES, task.num_scored_steps, task.output_size)
        assert targets.dtype == F32
    else:
        assert targets.shape == (NUM_SEQUENCES, task.num_scored_steps)
        assert targets.dtype == jnp.int32
        assert targets.min() >= 0
        assert targets.max() < task.output_size


@pytest.mark.parametrize("name", EVERY_TASK)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_the_dtype_is_kept_when_x64_is_on(name, dtype):
    with jax.enable_x64(True):
        task = MAKERS[name](dtype=dtype)
        xs, targets = sampled(task, "training", jax.random.key(0))
        regression = task.loss == "squared_error"
        outputs = targets if regression else jnp.zeros((*targets.shape, task.output_size), dtype)
        scores = [score(task, outputs, targets) for score in (tasks.loss, tasks.skill)]
        assert xs.dtype == dtype
        assert targets.dtype == (dtype if regression else jnp.int32)
        assert {score.dtype for score in scores} == {np.dtype(dtype)}


def test_a_numpy_float64_noise_level_does_not_promote_the_inputs():
    with jax.enable_x64(True):
        task = tasks.delayed_recall(3, noise_std=np.float64(0.5), dtype=F32)
        assert task.sample(jax.random.key(0), 2).xs.dtype == F32


@pytest.mark.parametrize("name", EVERY_TASK)
def test_float32_data_do_not_depend_on_x64(name):
    batches = []
    for enabled in (True, False):
        with jax.enable_x64(enabled):
            task = MAKERS[name](dtype=F32)
            draws = [sampled(task, s, jax.random.key(3)) for s in ("training", "test")]
            batches.append(jax.tree.leaves(jax.tree.map(np.asarray, draws)))
    for on, off in zip(*batches, strict=True):
        np.testing.assert_array_equal(on, off)


def test_jit_and_vmap_give_the_data_of_plain_calls(task):
    def draw(key):
        return [sampled(task, split, key) for split in ("training", "test")]

    keys = jax.random.split(jax.random.key(4), 3)
    mapped = jax.jit(jax.vmap(draw))(keys)
    for i, key in enumerate(keys):
        for plain, compiled in zip(
            jax.tree.leaves(draw(key)), jax.tree.leaves(mapped), strict=True
        ):
            np.testing.assert_allclose(compiled[i], plain, rtol=1e-6)


def test_a_key_gives_the_same_data_twice_and_another_key_gives_others(task):
    key, other = jax.random.split(jax.random.key(5))
    first, again, others = (sampled(task, "training", k).xs for k in (key, key, other))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, others)


# Horizons


@pytest.mark.parametrize(
    ("task", "num_steps", "horizon"),
    [
        (tasks.delayed_recall(9), 10, 9),
        (tasks.adding(100), 100, 99),
        (tasks.copying_memory(50), 70, 60),
        (tasks.copying_memory(5, length=2), 9, 7),
        (tasks.temporal_order(100), 100, 89),
        (tasks.temporal_order(57, num_triggers=3), 57, 51),
        (tasks.delayed_xor(40, 5), 40, 10),
        (tasks.selective_copying(50, length=4), 54, 50),
        (tasks.selective_copying(4, length=4), 8, 4),
        (tasks.parity(40), 40, 39),
        (tasks.parity(40, num_scored=1), 40, 39),
        (tasks.flip_flop(20), 20, 19),
        (tasks.sequential_digits(36), 100, 36),
    ],
)
def test_lengths_and_horizons(task, num_steps, horizon):
    assert (task.num_steps, task.horizon) == (num_steps, horizon)
    xs = jax.eval_shape(lambda key: task.sample(key, 5).xs, jax.random.key(0))
    assert xs.shape[1] == num_steps


@pytest.mark.parametrize(
    ("name", "informative_input"),
    [("delayed_recall", 0), ("adding", 1), ("temporal_order_2", 4), ("temporal_order_3", 4)],
)
def test_the_horizon_is_the_longest_lag_of_an_informative_input(name, informative_input):
    task = MAKERS[name](dtype=F32)
    xs, _ = sampled(task, "training", jax.random.key(6))
    if name == "delayed_recall":
        xs = xs[:, :1]
    informative = np.any(np.asarray(xs)[..., informative_input:] == 1, axis=(0, 2))
    assert task.num_steps - 1 - np.flatnonzero(informative)[0] == task.horizon


def test_every_symbol_of_the_copied_word_is_carried_for_the_horizon():
    task = tasks.copying_memory(5, length=4)
    xs, targets = task.sample(jax.random.key(7), 20)
    shown = np.asarray(xs).argmax(-1)
    np.testing.assert_array_equal(shown[:, : -task.horizon], np.asarray(targets)[:, task.horizon :])


# Structure of the sequences


def test_delayed_recall_shows_a_one_hot_symbol_then_white_noise_of_the_given_level():
    n, noise_std = 4000, 0.3
    xs, targets = tasks.delayed_recall(5, noise_std=noise_std).sample(jax.random.key(8), n)
    np.testing.assert_array_equal(xs[:, 0], np.eye(4)[targets[:, 0]])
    noise = np.asarray(xs[:, 1:], np.float64).reshape(n, -1)
    second_moments = noise.T @ noise / n / noise_std**2
    # Var(x²) = 2 and Var(xy) = 1 for standard normal x and y.
    bound = 5 * np.sqrt((1 + np.eye(20)) / n)
    assert np.all(np.abs(second_moments - np.eye(20)) < bound)
    assert np.all(np.abs(noise.mean(0)) < 5 * noise_std / np.sqrt(n))


def test_without_noise_the_delay_is_silent():
    xs, _ = tasks.delayed_recall(5, noise_std=0.0).sample(jax.random.key(8), 10)
    assert not np.any(xs[:, 1:])


@pytest.mark.parametrize("num_steps", [2, 3, 15])
def test_adding_has_one_mark_in_each_half_at_every_possible_step(num_steps):
    xs, _ = tasks.adding(num_steps).sample(jax.random.key(9), 300)
    values, marks = np.asarray(xs)[..., 0], np.asarray(xs)[..., 1]
    half = num_steps // 2
    np.testing.assert_array_equal(marks[:, :half].sum(1), 1)
    np.testing.assert_array_equal(marks[:, half:].sum(1), 1)
    assert set(np.unique(marks)) <= {0, 1}
    assert np.all(marks.any(0))
    assert np.all((values >= 0) & (values < 1))
    assert abs(values.mean() - 1 / 2) < 5 * np.sqrt(1 / 12 / values.size)


def test_copying_memory_has_its_parts_in_place():
    delay, length, num_symbols = 6, 3, 5
    task = tasks.copying_memory(delay, num_symbols=num_symbols, length=length)
    xs, targets = jax.tree.map(np.asarray, task.sample(jax.random.key(10), 500))
    np.testing.assert_array_equal(
        np.sort(xs, axis=-1)[..., -2:], np.broadcast_to([0, 1], (500, 12, 2))
    )
    word, wait, cue, recall = np.split(
        xs.argmax(-1), [length, length + delay - 1, length + delay], 1
    )
    np.testing.assert_array_equal(np.unique(word), np.arange(num_symbols))
    assert wait.shape == (500, delay - 1)
    assert np.all(wait == num_symbols)
    assert np.all(cue == num_symbols + 1)
    assert recall.shape == (500, length)
    assert np.all(recall == num_symbols)
    assert np.all(targets[:, :-length] == num_symbols)
    np.testing.assert_array_equal(targets[:, -length:], word)


def test_selective_copying_scatters_its_word_evenly_and_asks_for_it_in_order():
    delay, length, num_symbols, num = 7, 3, 5, 3000
    task = tasks.selective_copying(delay, num_symbols=num_symbols, length=length)
    xs, targets = jax.tree.map(np.asarray, task.sample(jax.random.key(13), num))
    np.testing.assert_array_equal(xs.sum(-1), 1)
    shown = xs.argmax(-1)
    np.testing.assert_array_equal(shown[:, delay:], num_symbols + 1)
    is_symbol = shown[:, :delay] < num_symbols
    np.testing.assert_array_equal(is_symbol.sum(1), length)
    assert np.all(shown[:, :delay][~is_symbol] == num_symbols)
    np.testing.assert_array_equal(shown[:, :delay][is_symbol].reshape(num, length), targets)
    np.testing.assert_array_equal(np.unique(targets), np.arange(num_symbols))
    # Each choice of three steps out of seven is one of 35, and no two steps are dealt out apart.
    _, counts = np.unique(is_symbol, axis=0, return_counts=True)
    assert len(counts) == 35
    assert np.abs(counts - num / 35).max() < 5 * np.sqrt(num / 35)
    # The k-th symbol is asked for at step `delay + k`, and stands at step k at the earliest.
    earliest = np.argmax(np.cumsum(is_symbol, axis=1) == 1, axis=1)
    assert delay - earliest.min() == task.horizon


def test_the_last_parities_are_those_of_all_bits_and_every_bit_switches_them():
    whole, last = tasks.parity(9), tasks.parity(9, num_scored=2)
    key = jax.random.key(14)
    (xs, targets), (again, scored) = whole.sample(key, 400), last.sample(key, 400)
    np.testing.assert_array_equal(xs, again)
    np.testing.assert_array_equal(targets[:, -2:], scored)
    bits = np.asarray(xs)[..., 0]
    np.testing.assert_array_equal(np.unique(bits), [0, 1])
    assert abs(bits.mean() - 1 / 2) < 5 / 2 / np.sqrt(bits.size)
    # Alone, each bit agrees with the answer half of the time.
    agree = (bits == np.asarray(targets)[:, -1:]).mean(0)
    assert np.all(np.abs(agree - 1 / 2) < 5 / 2 / np.sqrt(len(bits)))


@pytest.mark.parametrize(
    ("num_steps", "windows"),
    [
        (57, [(5, 11), (22, 28)]),
        (10, [(1, 2), (4, 5)]),
        (100, [(10, 20), (33, 43), (66, 76)]),
    ],
)
def test_temporal_order_has_its_triggers_in_their_windows(num_steps, windows):
    task = tasks.temporal_order(num_steps, num_triggers=len(windows))
    xs, targets = jax.tree.map(np.asarray, task.sample(jax.random.key(11), 300))
    np.testing.assert_array_equal(xs.sum(-1), 1)
    is_trigger = xs.argmax(-1) >= 4
    np.testing.assert_array_equal(is_trigger.sum(1), len(windows))
    steps = np.nonzero(is_trigger)[1].reshape(300, -1)
    assert [(int(s.min()), int(s.max())) for s in steps.T] == windows
    np.testing.assert_array_equal(np.unique(xs.argmax(-1)), np.arange(6))
    np.testing.assert_array_equal(np.unique(targets), np.arange(2 ** len(windows)))


def test_flip_flop_shows_a_pulse_at_first_and_then_at_the_given_rate():
    task = tasks.flip_flop(40, num_bits=2, pulse_probability=0.25)
    xs, targets = jax.tree.map(np.asarray, task.sample(jax.random.key(12), 500))
    assert xs.shape == targets.shape == (500, 40, 2)
    np.testing.assert_array_equal(np.abs(targets), 1)
    np.testing.assert_array_equal(xs[:, 0], targets[:, 0])
    later = xs[:, 1:]
    size = later.size
    assert abs(np.mean(later != 0) - 0.25) < 5 * np.sqrt(0.25 * 0.75 / size)
    assert abs(later.mean()) < 5 * np.sqrt(0.25 / size)
    # Zero is the best constant, and its loss is the baseline.
    assert float(tasks.skill(task, jnp.zeros_like(targets), targets)) == 0
    assert (
        not tasks.flip_flop(5, pulse_probability=0.0).sample(jax.random.key(0), 3).xs[:, 1:].any()
    )


# Held-out data


@pytest.mark.parametrize("key", [jax.random.key(0), jax.random.fold_in(jax.random.key(0), 1)])
def test_one_key_gives_different_sequences_in_every_split(synthetic_task, key):
    splits = ("training", "validation", "test")
    draws = [np.asarray(sampled(synthetic_task, split, key).xs) for split in splits]
    seen = [{sequence.tobytes() for sequence in draw} for draw in draws]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]


# Errors


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tasks.delayed_recall(0), "delay: received 0, .*at least 1"),
        (lambda: tasks.delayed_recall(5, num_classes=1), "num_classes: received 1, .*at least 2"),
        (lambda: tasks.delayed_recall(5, noise_std=-0.1), "noise_std: received -0.1, .*at least 0"),
        (lambda: tasks.delayed_recall(5, noise_std=math.nan), "noise_std: received nan"),
        (lambda: tasks.adding(1), "num_steps: received 1, .*at least 2"),
        (lambda: tasks.copying_memory(0), "delay: received 0, .*at least 1"),
        (lambda: tasks.copying_memory(5, num_symbols=1), "num_symbols: received 1, .*at least 2"),
        (lambda: tasks.copying_memory(5, length=0), "length: received 0, .*at least 1"),
        (lambda: tasks.temporal_order(9), "num_steps: received 9, .*at least 10"),
        (
            lambda: tasks.temporal_order(50, num_triggers=4),
            "num_triggers: received 4, expected one of 2, 3",
        ),
        (lambda: tasks.delayed_xor(20, 0), "delay: received 0, .*at least 1"),
        (lambda: tasks.delayed_xor(20, 10), "num_steps: received 20, .*at least 21"),
        (lambda: tasks.selective_copying(5), "delay: received 5, .*at least 10"),
        (lambda: tasks.selective_copying(5, length=0), "length: received 0, .*at least 1"),
        (
            lambda: tasks.selective_copying(20, num_symbols=1),
            "num_symbols: received 1, .*at least 2",
        ),
        (lambda: tasks.parity(1), "num_steps: received 1, .*at least 2"),
        (lambda: tasks.parity(5, num_scored=6), "num_scored: received 6"),
        (lambda: tasks.flip_flop(1), "num_steps: received 1, .*at least 2"),
        (lambda: tasks.flip_flop(9, num_bits=0), "num_bits: received 0, .*at least 1"),
        (lambda: tasks.flip_flop(9, pulse_probability=1.5), "pulse_probability: received 1.5"),
        (lambda: tasks.sequential_digits(-1), "delay: received -1, .*at least 0"),
    ],
)
def test_arguments_out_of_range_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", EVERY_TASK)
def test_dtypes_that_would_not_be_kept_are_refused(name):
    with pytest.raises(TypeError, match="dtype: received dtype int32, expected float32"):
        MAKERS[name](dtype=jnp.int32)
    with jax.enable_x64(False), pytest.raises(TypeError, match=r"float64.*jax_enable_x64"):
        MAKERS[name](dtype=jnp.float64)


def test_bad_batch_sizes_and_splits_are_named(task):
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"batch_size: received 0, .*at least 1"):
        task.sample(key, 0)
    with pytest.raises(ValueError, match=r"batch_size: received 0, .*at least 1"):
        task.sample_held_out(key, 0, "test")
    with pytest.raises(ValueError, match=r"split: received 'training', expected .*task\.sample"):
        task.sample_held_out(key, 1, "training")
