"""Labels, probabilities and log-densities of rows, in their own order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import elbax


X = np.asarray(elbax.datasets.old_faithful(), float)
MODEL = elbax.GaussianMixture(2)
PARAMS = MODEL.init(jax.random.key(0), X)
DESCRIBED = {name: np.asarray(value) for name, value in MODEL.describe(PARAMS).items()}


def joint(rows):
    """log p(x, z = k) by SciPy, missing columns left out."""
    total = np.zeros((len(rows), 2))
    for i, row in enumerate(rows):
        seen = ~np.isnan(row)
        for k in range(2):
            mean, covariance = DESCRIBED["means"][k][seen], DESCRIBED["covariances"][k]
            density = scipy.stats.multivariate_normal(mean, covariance[np.ix_(seen, seen)])
            total[i, k] = np.log(DESCRIBED["weights"][k]) + density.logpdf(row[seen])
    return total


def gapped(rows):
    rows = rows.copy()
    rows[::3, 0], rows[1::5, 1] = np.nan, np.nan
    return rows[~np.isnan(rows).all(1)]


@pytest.mark.parametrize("chunk_size", [None, 50])
@pytest.mark.parametrize("rows", [X, gapped(X), X[:1]], ids=["complete", "gaps", "one"])
def test_of_a_mixture(rows, chunk_size):
    expected = joint(rows)
    ask = lambda function: function(MODEL, PARAMS, rows, chunk_size=chunk_size)
    density = np.logaddexp(*expected.T)
    np.testing.assert_allclose(ask(elbax.log_densities), density, rtol=1e-9)
    q = np.exp(expected - density[:, None])
    np.testing.assert_allclose(ask(elbax.probabilities), q, rtol=1e-7, atol=1e-12)
    np.testing.assert_array_equal(ask(elbax.labels), q.argmax(1))


def test_rows_of_a_batch_keep_their_places():
    rows = gapped(X)
    batch = elbax.incomplete(rows)
    np.testing.assert_array_equal(
        elbax.log_densities(MODEL, PARAMS, batch), elbax.log_densities(MODEL, PARAMS, rows)
    )


def test_answers_are_in_the_order_of_the_rows_whatever_their_places():
    rows = gapped(X)[:4]
    expected = elbax.log_densities(MODEL, PARAMS, rows)
    for index in ([3, 2, 1, 0], [50, 9, 7, 1], [0, 0, 0, 0]):
        batch = elbax.Batch(rows, index=np.array(index))
        np.testing.assert_array_equal(elbax.log_densities(MODEL, PARAMS, batch), expected)


def test_a_row_that_is_left_out_has_no_answer():
    rows = gapped(X)[:4]
    batch = elbax.Batch(rows, weight=np.array([1.0, 0.0, 2.0, 1.0]))
    found = elbax.log_densities(MODEL, PARAMS, batch)
    assert np.isnan(found[1]) and np.isfinite(found[jnp.array([0, 2, 3])]).all()
    assert elbax.labels(MODEL, PARAMS, batch)[1] == -1


def test_the_mean_is_the_evidence():
    found = elbax.log_densities(MODEL, PARAMS, X).mean()
    np.testing.assert_allclose(found, elbax.evidence(MODEL, PARAMS, X), rtol=1e-12)


def test_sequences_of_different_lengths():
    model = elbax.HiddenMarkovModel(elbax.components.Poisson(), 2)
    counts = [np.array([[1.0], [9.0], [8.0]]), np.array([[0.0]])]
    batch = elbax.sequences(counts)
    params = model.init(jax.random.key(0), batch)
    path = elbax.labels(model, params, batch)
    assert path.shape == (2, 3) and np.all(path[1, 1:] == -1) and np.all(path[0] >= 0)
    each = [elbax.evidence(model, params, elbax.sequences([one])) for one in counts]
    np.testing.assert_allclose(elbax.log_densities(model, params, batch), each, rtol=1e-10)


def test_what_is_refused():
    factors = elbax.FactorAnalysis(1)
    params = factors.init(jax.random.key(0), X)
    with pytest.raises(
        TypeError, match=r"labels: the latent of FactorAnalysis, a Gaussian, is contin"
    ):
        elbax.labels(factors, params, X)
    with pytest.raises(TypeError, match="without a latent family"):
        elbax.labels(elbax.Model(lambda p, x, z: 0.0), (), X)
    with pytest.raises(TypeError, match="Bayes' rule is not known"):
        plain = elbax.Model(lambda p, x, z: -jnp.sum((x - z) ** 2), elbax.Gaussian(2))
        elbax.log_densities(plain, (), X)
    with pytest.raises(ValueError, match=r"one datum must have shape \(2,\), got \(1,\)"):
        elbax.log_densities(MODEL, PARAMS, X[:, :1])
