"""`converge` is `fit` as a pure function: the same ends, under any transform."""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_broken import Falling

import elbax


KEY = jax.random.key(0)
SYSTEM = cases.of("counts", elbax.Mixture(elbax.components.Poisson(), 2), cases.counts)
MODEL, PARAMS, X = SYSTEM.model, SYSTEM.params, SYSTEM.x
EM = elbax.em(MODEL)
STATE = EM.init(PARAMS, key=KEY)


@jax.jit
def ended(state, x, tolerance):
    return elbax.converge(EM, state, x, max_steps=200, tolerance=tolerance)


def assert_ends(ours, theirs, rtol=1e-12):
    steps = int(ours.num_steps)
    assert steps == theirs.num_steps
    assert ours.codes[int(ours.code)] == theirs.code
    np.testing.assert_allclose(ours.elbo, theirs.elbo, rtol=rtol)
    np.testing.assert_allclose(ours.trace[:steps], theirs.trace, rtol=rtol)
    assert np.all(np.isneginf(ours.trace[steps:]))
    for one, other in zip(
        jax.tree.leaves(ours.state.params), jax.tree.leaves(theirs.state.params), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("max_steps", "tolerance"), [(200, 1e-7), (5, 0.0), (1, 1e-7)])
def test_it_ends_where_fit_does(max_steps, tolerance):
    theirs = elbax.fit(EM, STATE, X, max_steps=max_steps, tolerance=tolerance)
    ours = elbax.converge(EM, STATE, X, max_steps=max_steps, tolerance=tolerance)
    assert_ends(ours, theirs)
    assert ours.trace.shape == (max_steps,)


def test_inside_of_jit_and_with_a_traced_tolerance():
    assert_ends(ended(STATE, X, 1e-5), elbax.fit(EM, STATE, X, max_steps=200, tolerance=1e-5))


def test_many_data_sets_at_once():
    """Each lane stops by itself."""
    several = jnp.stack([X, X + 1, jnp.flip(X) * 2])
    ends = jax.vmap(ended, (None, 0, None))(STATE, several, 1e-7)
    for lane, x in enumerate(several):
        alone = elbax.fit(EM, STATE, x, max_steps=200)
        assert_ends(jax.tree.map(lambda leaf, at=lane: leaf[at], ends), alone, rtol=1e-10)
    assert len(set(ends.num_steps.tolist())) > 1


def test_in_a_scan_of_ones_own():
    """Each data set starts where the one before ended."""

    def one(params, x):
        end = elbax.converge(EM, EM.init(params, key=KEY), x, max_steps=100)
        return end.state.params, end.elbo

    several = jnp.stack([X, X + 1])
    _, elbos = jax.jit(lambda x: jax.lax.scan(one, PARAMS, x))(several)
    first = elbax.fit(EM, STATE, X, max_steps=100)
    second = elbax.fit(EM, EM.init(first.state.params, key=KEY), X + 1, max_steps=100)
    np.testing.assert_allclose(elbos, [first.elbo, second.elbo], rtol=1e-10)


def test_derivatives_of_forward_mode():
    """Of the evidence at the optimum with respect to a shift of the data, against differences."""
    normal = elbax.GaussianMixture(1)
    x = jax.random.normal(KEY, (20, 1)) + jnp.linspace(0, 3, 20)[:, None]
    em = elbax.em(normal)
    state = em.init(normal.init(KEY, x), key=KEY)
    end = jax.jit(lambda scale: elbax.converge(em, state, x * scale, max_steps=20).elbo)
    _, slope = jax.jvp(end, (1.2,), (1.0,))
    step = 1e-5
    np.testing.assert_allclose(slope, (end(1.2 + step) - end(1.2 - step)) / (2 * step), rtol=1e-6)


def test_a_fall_and_what_is_not_finite():
    down = elbax.Chain(elbax.ExactEStep(MODEL), Falling(elbax.ClosedFormMStep(MODEL)))
    fell = elbax.converge(down, down.init(PARAMS, key=KEY), X, max_steps=50)
    assert fell.codes[int(fell.code)] == "decreased"
    lost = elbax.converge(EM, STATE, X * jnp.nan, max_steps=50)
    assert lost.codes[int(lost.code)] == "nonfinite"


def test_what_it_cannot_watch_or_take(as_users_run):
    blind = elbax.Chain(elbax.ExactEStep(MODEL))
    with pytest.raises(
        TypeError, match="does not measure the ELBO, which a fit needs. Chain it with"
    ):
        elbax.converge(blind, STATE.replace(memory=((),)), X)
    with pytest.raises(TypeError, match="converge: expected an update such as"):
        elbax.converge(optax.sgd(0.1), STATE, X)
    with pytest.raises(TypeError, match="converge: expected the state that"):
        elbax.converge(EM, PARAMS, X)
    with pytest.raises((TypeError, ValueError), match="max_steps"):
        elbax.converge(EM, STATE, X, max_steps=0)
    with pytest.raises(ValueError, match="converge: tolerance"):
        elbax.converge(EM, STATE, X, tolerance=-1.0)
    with pytest.raises(TypeError, match="converge: expected one batch, got an iterator"):
        elbax.converge(EM, STATE, iter([X]))
    several = jax.vmap(lambda key: EM.init(PARAMS, key=key))(jax.random.split(KEY, 3))
    with pytest.raises(TypeError, match="converge: expected one state, got 3"):
        elbax.converge(EM, several, X)


def test_numbers_of_numpy_and_tables_of_pandas(as_users_run):
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(np.asarray(X))
    ours = elbax.converge(EM, STATE, table, max_steps=np.int64(20), tolerance=np.float32(0))
    assert_ends(ours, elbax.fit(EM, STATE, X, max_steps=np.int64(20), tolerance=0.0))


def test_against_a_loop_written_by_hand():
    """The stated rule: the last gain and what is to come by Aitken are below tolerance · (1 + |ELBO|)."""
    state, elbos, quiet = STATE, [], False
    while not quiet:
        state, info = EM(state, X)
        elbos.append(float(info.elbo))
        if len(elbos) > 2:
            last, gain = elbos[-2] - elbos[-3], elbos[-1] - elbos[-2]
            to_come = gain * (gain / last) / (1 - gain / last)
            quiet = max(gain, to_come) <= 1e-6 * (1 + abs(elbos[-1]))
    ours = elbax.converge(EM, STATE, X, max_steps=500, tolerance=1e-6)
    assert int(ours.num_steps) == len(elbos)
    np.testing.assert_allclose(ours.trace[: len(elbos)], elbos, rtol=1e-12)
    settled = elbax.evidence(MODEL, state.params, X)
    np.testing.assert_allclose(ours.elbo, settled, rtol=1e-12)


def test_fit_in_a_trace_names_it():
    with pytest.raises(TypeError, match=r"fit: got traced arguments.*elbax.converge\(update"):
        jax.jit(lambda state: elbax.fit(EM, state, X))(STATE)
