"""Sums of log-weights and their derivatives: all terms, the largest, or one drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings, strategies as st

from elbax.families._semiring import LOG, MAX, Sampling


NOTHING = -jnp.inf
WEIGHTS = st.lists(st.floats(-700, 700) | st.just(-np.inf), min_size=4, max_size=4)


@jax.jit
def log_sum(x):
    return jax.value_and_grad(lambda x: LOG.sum(x, 0))(x)


@jax.jit
def maximum(x):
    return jax.value_and_grad(lambda x: MAX.sum(x, 0))(x)


@jax.jit
def draws(x, keys):
    def one(key):
        return jax.value_and_grad(lambda x: Sampling(key).sum(x, 0))(x)

    return jax.vmap(one)(keys)


@settings(max_examples=12, deadline=None)
@given(WEIGHTS)
def test_log_sum(weights):
    """SciPy's logsumexp and softmax; a sum of nothing is nothing, and flat."""
    x = np.array(weights)
    value, slope = log_sum(x)
    if np.isneginf(x).all():
        assert value == -np.inf
        np.testing.assert_array_equal(slope, 0)
    else:
        np.testing.assert_allclose(value, scipy.special.logsumexp(x), rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(slope, scipy.special.softmax(x), rtol=1e-10, atol=1e-300)


@settings(max_examples=12, deadline=None)
@given(WEIGHTS)
def test_max(weights):
    """One of the largest gets the whole derivative, ties or not."""
    x = np.array(weights)
    value, slope = maximum(x)
    assert value == x.max()
    there = np.isfinite(x.max())
    np.testing.assert_array_equal(np.sort(slope), [0, 0, 0, 1 if there else 0])
    if there:
        assert x[np.argmax(slope)] == x.max()


@pytest.mark.parametrize("semiring", [LOG, MAX, Sampling(jax.random.key(0))])
def test_a_sum_of_nothing_is_flat_in_every_direction(semiring):
    x = jnp.array([[NOTHING, NOTHING], [NOTHING, 1.0]])
    value, slope = jax.vmap(jax.value_and_grad(lambda x: semiring.sum(x, 0)))(x)
    np.testing.assert_array_equal(value, [-np.inf, 1])
    np.testing.assert_array_equal(slope, [[0, 0], [0, 1]])


def test_ties_have_one_winner():
    np.testing.assert_array_equal(jnp.sort(maximum(jnp.zeros(4))[1]), [0, 0, 0, 1])


def test_draws_are_in_proportion():
    """Frequencies of 4000 draws within five standard deviations, and nothing that is not there."""
    share = np.array([0.5, 0.0, 0.2, 0.3])
    x = jnp.array([np.log(0.5), NOTHING, np.log(0.2), np.log(0.3)])
    values, slopes = draws(x, jax.random.split(jax.random.key(3), 4000))
    np.testing.assert_allclose(values, 0, atol=1e-12)
    np.testing.assert_array_equal(jnp.sum(slopes, 1), 1)
    assert set(np.unique(slopes)) == {0.0, 1.0}
    error = np.sqrt(share * (1 - share) / 4000)
    assert (np.abs(np.mean(slopes, 0) - share) <= 5 * error).all()


@pytest.mark.slow
def test_second_derivative_is_the_covariance():
    x = jnp.array([0.3, -1.0, NOTHING, 2.0])
    p = scipy.special.softmax(np.asarray(x))
    hessian = jax.hessian(lambda x: LOG.sum(x, 0))(x)
    np.testing.assert_allclose(hessian, np.diag(p) - np.outer(p, p), atol=1e-14)


@pytest.mark.parametrize("semiring", [LOG, MAX])
def test_lists_are_stacks(semiring):
    """Entry by entry, with an entry that has no terms."""
    terms = [jnp.array([1.0, NOTHING, 0.0]), jnp.array([2.0, NOTHING, NOTHING])]
    stacked = jnp.stack(terms)
    total = semiring.total_of(terms)
    np.testing.assert_allclose(total, semiring.total(stacked, 0), rtol=1e-14)
    shares = jnp.stack(semiring.shares_of(terms, total))
    np.testing.assert_allclose(shares, semiring.shares(stacked, total, 0), rtol=1e-14)
    np.testing.assert_array_equal(shares[:, 1], 0)
