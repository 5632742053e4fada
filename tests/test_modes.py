"""What holds of any function and pytree in JAX holds of updates and states: copies in other processes, exports."""

import pickle

import jax
import pytest
from cases import find
from laws import assert_close, assert_equal

import elbax


def test_plain_pickle():
    """Where no function of others is inside, there is nothing to look out for."""
    case = find("mixture-full-auto:accelerate")
    update, state = pickle.loads(pickle.dumps((case.update, case.state)))
    assert_equal(update(state, case.system.x), case.step(case.state, case.system.x))


def test_cloudpickle_takes_what_optax_and_users_write():
    cloudpickle = pytest.importorskip("cloudpickle")
    case = find("plain-categorical:exact/gradient")
    with pytest.raises((AttributeError, pickle.PicklingError)):
        pickle.dumps(case.update)
    update, state = pickle.loads(cloudpickle.dumps((case.update, case.state)))
    assert_equal(update(state, case.system.x), case.step(case.state, case.system.x))


@pytest.mark.parametrize(
    "name",
    [
        "mixture-full-auto:exact/closed",
        pytest.param("mixture-full-auto:accelerate", marks=pytest.mark.slow),
        pytest.param("hidden-markov:exact/closed", marks=pytest.mark.slow),
    ],
)
def test_an_exported_sweep(name):
    """Written and read, for any number of rows, it is the sweep."""
    pytest.importorskip("flatbuffers")
    case = find(name)
    state, x = case.state, case.system.x
    (n,) = jax.export.symbolic_shape("n")
    rows = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((n, *leaf.shape[1:]), leaf.dtype), x)
    sweep = jax.jit(lambda state, x: case.update(state, x))
    elbax.exportable(state, x)
    written = jax.export.export(sweep)(state, rows).serialize()
    read = jax.export.deserialize(written)
    for number in (20, 24):
        some = jax.tree.map(lambda leaf, number=number: leaf[:number], x)
        assert_close(read.call(state, some), case.step(state, some), 1e-8)


def test_exportable_says_it_twice():
    state = find("mixture-full-auto:averaged").state
    elbax.exportable(state)
    elbax.exportable(state, {"more": [state.memory]})
