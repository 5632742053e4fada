"""Families against SciPy: log-densities, entropies, means, bounds, reading a function's structure."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from hypothesis import given, settings, strategies as st

import elbax


def gaussian(dim, seed=0):
    mean = jax.random.normal(jax.random.key(seed), (dim,))
    root = jax.random.normal(jax.random.key(seed + 1), (dim, dim)) + 2 * jnp.eye(dim)
    precision = root @ root.T
    return elbax.Gaussian(dim)((precision @ mean, precision)), mean, jnp.linalg.inv(precision)


def diagonal(dim, seed=0):
    mean = jax.random.normal(jax.random.key(seed), (dim,))
    precision = jnp.exp(jax.random.normal(jax.random.key(seed + 1), (dim,)))
    return elbax.DiagonalGaussian(dim)((precision * mean, precision)), mean, jnp.diag(1 / precision)


@pytest.mark.parametrize("make", [gaussian, diagonal])
@pytest.mark.parametrize("dim", [1, 3])
def test_gaussians(make, dim):
    q, mean, covariance = make(dim)
    peer = scipy.stats.multivariate_normal(np.asarray(mean), np.asarray(covariance))
    z = mean + 0.7
    np.testing.assert_allclose(q.log_prob(z), peer.logpdf(np.asarray(z)), rtol=1e-12)
    np.testing.assert_allclose(q.entropy(), peer.entropy(), rtol=1e-12)
    np.testing.assert_allclose(q.mode(), mean, rtol=1e-12)
    by_autodiff = jax.jit(jax.grad(q.family.log_normalizer))(q.natural)
    for ours, theirs in zip(q.mean(), by_autodiff, strict=True):
        theirs = 0.5 * (theirs + theirs.T) if theirs.ndim == 2 else theirs
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)
    draws = jax.jit(jax.vmap(q.sample))(jax.random.split(jax.random.key(2), 4000))
    error = jnp.sqrt(jnp.diagonal(covariance) / 4000)
    assert bool(jnp.all(jnp.abs(draws.mean(0) - mean) < 5 * error))


def test_bound_is_tight_where_the_naive_form_cancels():
    """sd 0.1 at 300 in float32: A − ⟨η, μ⟩ loses everything, A at λ = η nothing more than its rounding."""
    mean, deviation = jnp.float32(300.0), jnp.float32(0.1)
    precision = jnp.array([1 / deviation**2], jnp.float32)
    q = elbax.DiagonalGaussian(1)((precision * mean, precision))
    np.testing.assert_allclose(q.entropy(), scipy.stats.norm(0, 0.1).entropy(), rtol=1e-5)
    assert q.bound(q.natural) == q.family.log_normalizer(q.natural)


@pytest.mark.parametrize("size", ["diagonal", "full"])
def test_gaussian_from_network(size):
    family = elbax.Gaussian(2)
    mean = jnp.array([1.0, -2.0])
    if size == "diagonal":
        q = family.distribution(jnp.concatenate([mean, jnp.log(jnp.array([0.5, 3.0]))]))
        expected = jnp.diag(jnp.array([4.0, 1 / 9]))
    else:
        q = family.distribution(jnp.concatenate([mean, jnp.array([0.1, 0.4, -0.2])]))
        root = jnp.array([[jnp.exp(0.1), 0.0], [0.4, jnp.exp(-0.2)]])
        expected = jnp.linalg.inv(root @ root.T)
    np.testing.assert_allclose(q.natural[1], expected, rtol=1e-12)
    np.testing.assert_allclose(q.mode(), mean, rtol=1e-12)
    # What it says from mean and factor is what its natural parameters say.
    plain, z = family(q.natural), jnp.array([0.3, 0.1])
    potentials = jnp.array([0.2, -0.4]), jnp.array([[2.0, 0.3], [0.3, 1.0]])
    key = jax.random.key(0)
    assert_close = functools.partial(
        jax.tree.map, functools.partial(np.testing.assert_allclose, rtol=1e-12)
    )
    assert_close(q.mean(), plain.mean())
    assert_close(q.entropy(), plain.entropy())
    assert_close(q.log_prob(z), plain.log_prob(z))
    assert_close(q.bound(potentials), plain.bound(potentials))
    draws = jax.jit(jax.vmap(q.sample))(jax.random.split(key, 4000))
    np.testing.assert_allclose(jnp.cov(draws.T), jnp.linalg.inv(expected), rtol=0.1, atol=0.1)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.floats(-700, 700) | st.just(-np.inf), min_size=1, max_size=5))
def test_categorical(logits):
    if not np.isfinite(max(logits)):
        return
    family = elbax.Categorical(len(logits))
    natural = jnp.array(logits)
    q = family(natural)
    peer = scipy.special.softmax(logits)
    np.testing.assert_allclose(q.mean(), peer, rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(q.entropy(), scipy.stats.entropy(peer), atol=1e-10)
    np.testing.assert_allclose(
        q.bound(natural), scipy.special.logsumexp(logits), rtol=1e-12, atol=1e-15
    )
    for gradient in (
        jax.grad(lambda potentials: family.bound(natural, potentials))(natural),
        jax.grad(lambda natural: family.bound(natural, jnp.zeros_like(natural)))(natural),
    ):
        assert bool(jnp.all(jnp.isfinite(gradient)))
    exact = q.expect(lambda z: z.astype(float))
    np.testing.assert_allclose(exact, peer @ np.arange(len(logits)), rtol=1e-10, atol=1e-12)


def test_categorical_allows_what_only_the_posterior_excludes():
    q = elbax.Categorical(3)(jnp.array([0.0, -jnp.inf, 0.0]))
    potentials = jnp.array([-1.0, -jnp.inf, -2.0])
    np.testing.assert_allclose(q.bound(potentials), np.log(2) - 1.5, rtol=1e-12)
    assert q.log_prob(jnp.array(1)) == -jnp.inf


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_categorical_draws_come_as_often_as_they_should(dtype):
    """Values without a share, first, last and between, never come."""
    share = jnp.array([0.0, 0.1, 0.0, 0.6, 0.05, 0.25, 0.0], dtype)
    q = elbax.Categorical(7)(jnp.log(share) + 3)
    draws = jax.jit(jax.vmap(q.sample))(jax.random.split(jax.random.key(0), 20000))
    count = np.bincount(np.asarray(draws), minlength=8)
    assert count[[0, 2, 6, 7]].sum() == 0
    expected = 20000 * np.array([0.1, 0.6, 0.05, 0.25])
    assert scipy.stats.chisquare(count[[1, 3, 4, 5]], expected).pvalue > 1e-3


@pytest.mark.parametrize("make", [gaussian, diagonal])
def test_read_finds_the_natural_parameters(make):
    q, *_ = make(3)
    potentials, constant = q.family.read(lambda z: q.log_prob(z) + 1.5)
    for ours, theirs in zip(potentials, q.natural, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(constant, 1.5 - q.family.log_normalizer(q.natural), rtol=1e-9)


@pytest.mark.parametrize(
    ("family", "size", "message"),
    [
        (elbax.Categorical(3), 2, "must return 3 logits"),
        (elbax.Gaussian(2), 3, "must return 4 numbers .* or 5"),
        (elbax.DiagonalGaussian(2), 3, "must return 4 numbers"),
    ],
)
def test_from_network_says_how_many_outputs_it_wants(family, size, message):
    with pytest.raises(ValueError, match=message):
        family.from_network(jnp.zeros(size))


@pytest.mark.parametrize("family", [elbax.Categorical, elbax.Gaussian, elbax.DiagonalGaussian])
def test_empty_families_are_refused(family):
    with pytest.raises(ValueError, match="at least 1, got 0"):
        family(0)


def test_polya_gamma():
    """Its log-normalizer is the Laplace transform of PG(1, 0), E[exp(−t ω)] = 1 / cosh √(t / 2)."""
    family, t = elbax.families.PolyaGamma(), np.array([0.0, 1e-9, 0.3, 1.9, 2.1, 50.0])
    natural = jnp.asarray(-t)
    expected = -np.log(np.cosh(np.sqrt(t / 2)))
    np.testing.assert_allclose(family.log_normalizer(natural), expected, rtol=1e-12, atol=1e-15)
    tilt = np.sqrt(2 * t[1:])
    mean = np.concatenate([[0.25], np.tanh(tilt / 2) / (2 * tilt)])
    np.testing.assert_allclose(family.mean(natural), mean, rtol=1e-12)
    slope = jax.jit(jax.vmap(jax.grad(family.log_normalizer)))(natural)
    np.testing.assert_allclose(slope, mean, rtol=1e-12)
    # The variance of PG(1, 0) is 1 / 24.
    curvature = jax.jit(jax.grad(jax.grad(family.log_normalizer)))(jnp.array(0.0))
    np.testing.assert_allclose(curvature, 1 / 24, rtol=1e-12)
    q = family.from_description(tilt=np.array([0.0, 1.3]))
    prior = family.from_description(tilt=0.0)
    divergence = prior.family.log_normalizer(prior.natural) - q.bound(jnp.zeros(2))
    np.testing.assert_allclose(q.entropy(), -divergence, atol=1e-15)
    function = lambda z: 2.0 - 0.7 * z
    np.testing.assert_allclose(jax.tree.leaves(family.read(function)), [-0.7, 2.0], rtol=1e-15)


def test_polya_gamma_in_float32():
    family = elbax.families.PolyaGamma()
    tilt = np.float32([0, 1e-20, 1e-3, 1, 30, 1e3])
    natural = jnp.asarray(-0.5 * tilt**2)
    with np.errstate(invalid="ignore"):
        mean = np.where(tilt > 1e-10, np.tanh(np.float64(tilt) / 2) / (2 * np.float64(tilt)), 0.25)
    assert family.mean(natural).dtype == jnp.float32
    np.testing.assert_allclose(family.mean(natural), mean, rtol=2e-6)
    slope = jax.jit(jax.vmap(jax.value_and_grad(family.log_normalizer)))(natural)
    np.testing.assert_allclose(slope[1], mean, rtol=2e-6)
    np.testing.assert_allclose(slope[0][-1], np.log(2) - 500, rtol=1e-6)
    assert np.isnan(family.mean(jnp.array(1.0)))


def test_polya_gamma_has_no_draws():
    q = elbax.families.PolyaGamma().from_description(tilt=1.0)
    with pytest.raises(TypeError, match="draws of a Polya-gamma latent.*use ExactEStep"):
        q.sample(jax.random.key(0))
    with pytest.raises(TypeError, match="most probable value of a Polya-gamma"):
        q.mode()


MEANS = np.array([-30.0, -5.0, -2.5, -0.1, 0.0, 2.0, 30.0])


def test_truncated_normal():
    family, precision = elbax.families.TruncatedNormal(), 4.0
    q = family.from_description(mean=MEANS, precision=precision)
    peer = scipy.stats.truncnorm(-2 * MEANS, np.inf, MEANS, 0.5)
    z = np.exp(np.linspace(-4, 1, 7))
    np.testing.assert_allclose(q.log_prob(jnp.asarray(z)), peer.logpdf(z), rtol=1e-9)
    moments = [
        scipy.integrate.quad(
            lambda r, m, k: r**k * np.exp(2 * m * r - r**2 / 2), 0, np.inf, (m, k)
        )[0]
        for m in MEANS[:-1]
        for k in range(3)
    ]
    mass, first, second = np.array(moments).reshape(-1, 3).T
    np.testing.assert_allclose(q.mean()[0][:-1], 0.5 * first / mass, rtol=1e-8)
    np.testing.assert_allclose(q.mean()[1][:-1], -0.125 * second / mass, rtol=1e-8)
    # In units of the deviation: log ∫ − a E[r] + ½ E[r²].
    unit = np.log(mass) + (0.5 * second - 2 * MEANS[:-1] * first) / mass
    np.testing.assert_allclose(q.entropy()[:-1], unit + np.log(0.5), rtol=1e-7)
    np.testing.assert_allclose(q.entropy()[-1], scipy.stats.norm(0, 0.5).entropy(), rtol=1e-12)
    np.testing.assert_allclose(q.mode(), np.maximum(MEANS, 0))
    assert q.log_prob(jnp.full(7, -0.1)).max() == -np.inf
    slope = jax.jit(jax.vmap(jax.grad(family.log_normalizer)))(q.natural)
    for ours, theirs in zip(q.mean(), slope, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    np.testing.assert_allclose(q.bound((0.0 * MEANS, 0.0 * MEANS)), q.entropy(), atol=1e-9)
    read, constant = family.read(lambda z: 3 + 2 * z - 0.6 * z**2)
    np.testing.assert_allclose((*read, constant), (2, 1.2, 3), rtol=1e-14)


def test_truncated_normal_draws():
    family = elbax.families.TruncatedNormal()
    q = family.from_description(mean=MEANS, precision=4.0)
    keys = jax.random.split(jax.random.key(0), 2000)
    draws = np.asarray(jax.jit(jax.vmap(q.sample))(keys))
    assert draws.min() > 0
    for one, mean in zip(draws.T, MEANS, strict=True):
        peer = scipy.stats.truncnorm(-2 * mean, np.inf, mean, 0.5)
        assert scipy.stats.kstest(one, peer.cdf).pvalue > 1e-3
    # Reparameterized: the derivative of a draw is that of the quantile.
    one = lambda mean: family((4 * mean, 4.0)).sample(keys[0])
    both = jax.jit(jax.vmap(jax.value_and_grad(one)))
    values, slopes = both(jnp.array([-3.0, 1.0, -3 + 1e-5, 1 + 1e-5, -3 - 1e-5, 1 - 1e-5]))
    np.testing.assert_allclose(slopes[:2], (values[2:4] - values[4:]) / 2e-5, rtol=1e-6)


def test_truncated_normal_in_float32():
    """Far below 0 the mean is 1/|m| (1 − 2/m²), which m + φ(m)/Φ(m) would round away."""
    family, means = elbax.families.TruncatedNormal(), np.float32([-1e3, -100, -5, 0, 5, 1e3])
    natural = jnp.asarray(means), jnp.ones(6, jnp.float32)
    exact = elbax.families.TruncatedNormal().mean((np.float64(means), np.ones(6)))[0]
    found = family.mean(natural)[0]
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, exact, rtol=1e-5)
    np.testing.assert_allclose(exact[0], 1e-3 * (1 - 2e-6), rtol=1e-9)
