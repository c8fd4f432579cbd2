import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jacobian_rnn import tasks, training
from jacobian_rnn.training.network import add_readout
from tests.training.trainings import network


@pytest.mark.parametrize("cell_class", [nn.GRUCell, nn.LSTMCell])
def test_predictions_are_the_readout_of_the_last_outputs_of_a_loop_in_python(cell_class):
    task = tasks.copying_memory(5, dtype=jnp.float64)
    recurrence, carry = network(cell_class, task)
    net = add_readout(recurrence, carry, task.output_size, key=jax.random.key(1))
    net = net._replace(bias=jnp.arange(task.output_size, dtype=float))
    xs = task.sample(jax.random.key(2), 3).xs
    predicted = training.apply(net, carry, task, xs)
    for of_sequence, inputs in zip(predicted, xs, strict=True):
        state, outputs = carry, []
        for x in inputs:
            state = recurrence.step(recurrence.params, state, x)
            outputs.append(np.asarray(jax.tree.leaves(state)[-1]) @ net.kernel + net.bias)
        expected = np.array(outputs[-task.num_scored_steps :])
        np.testing.assert_allclose(of_sequence, expected, rtol=1e-12)


def test_few_sequences_at_once_give_the_same_predictions_and_take_less_memory():
    task = tasks.delayed_recall(50, dtype=jnp.float64)
    recurrence, carry = network(nn.GRUCell, task)
    net = add_readout(recurrence, carry, task.output_size, key=jax.random.key(1))
    batch = task.sample(jax.random.key(2), 65)  # 8 goes into it with a rest

    def memory_and_scores(num_at_once):
        run = jax.jit(
            lambda net: training.evaluate(net, carry, task, batch, num_at_once=num_at_once)
        )
        compiled = run.lower(net).compile()
        return compiled.memory_analysis().temp_size_in_bytes, compiled(net)

    memory, scores = memory_and_scores(None)
    less, same = memory_and_scores(8)
    np.testing.assert_allclose(same, scores, rtol=1e-12)
    assert less < memory / 3
