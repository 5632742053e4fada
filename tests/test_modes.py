"""What holds of any function and pytree in JAX holds of updates and states: copies in other processes, exports."""

import pathlib
import pickle
import re

import equinox as eqx
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


def test_a_state_begins_inside_of_a_program():
    """Some of what it begins with is known, the key for one, and some is traced."""
    case = find("mixture-full-auto:accelerate")
    params, key = case.system.params, jax.random.key(3)
    begin = lambda params: case.update.init(params, key=key)
    plain = begin(params)
    assert_equal(jax.jit(begin)(params), plain)
    assert_equal(jax.jit(lambda: begin(params))(), plain)
    several = jax.vmap(begin)(jax.tree.map(lambda leaf: leaf[None], params))
    assert_equal(jax.tree.map(lambda leaf: leaf[0], several), plain)


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


def test_an_update_as_an_argument():
    """`equinox.filter_jit` takes it, also where it holds numbers to trace; `jax.jit` is told why it cannot."""
    case = find("mixture-full-auto:exact/gradient")
    x, step = case.system.x, lambda update, state, x: update(state, x)
    assert_close(eqx.filter_jit(step)(case.update, case.state, x), case.step(case.state, x))
    em, first = find("mixture-full-auto:exact/closed"), find("factors-diagonal:ecme")
    for one in (em, first):
        with pytest.raises(TypeError, match=r"use equinox\.filter_jit"):
            jax.jit(step).trace(one.update, one.state, one.system.x)


def test_shard_map_sees_a_shard():
    """Each device by itself: right for posteriors of its rows; a step would be of these alone, and is refused."""
    case = find("mixture-full-auto:exact/closed")
    x, posterior = case.system.x, elbax.Exact(case.system.model, case.system.params)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows, whole = jax.P("data"), jax.P()
    of_rows = jax.shard_map(
        lambda x: jax.vmap(posterior)(x).mean(), mesh=mesh, in_specs=rows, out_specs=rows
    )
    assert_close(jax.jit(of_rows)(x), jax.vmap(posterior)(x).mean())
    step = lambda state, x: case.update(state, x)
    of_shards = jax.shard_map(step, mesh=mesh, in_specs=(whole, rows), out_specs=whole)
    with pytest.raises(ValueError, match="replicated"):
        jax.jit(of_shards).trace(case.state, x)


@pytest.mark.slow
def test_the_page_runs(tmp_path, monkeypatch):
    """The page's code on two devices, one block after the other."""
    pytest.importorskip("flatbuffers")
    pytest.importorskip("cloudpickle")
    page = pathlib.Path(__file__).parent.parent / "docs" / "modes_of_jax.md"
    monkeypatch.chdir(tmp_path)
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    try:
        exec("\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)), {})
    finally:
        jax.config.update("jax_numpy_dtype_promotion", "strict")
