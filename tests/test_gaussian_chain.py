"""Chains of Gaussian states against the one dense Gaussian that they are."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings, strategies as st

from elbax import GaussianChain


D, P, T = 2, 3, 5
LOG_2PI = np.log(2 * np.pi)


def natural(seed, varying, tilted, length=T):
    """Numbers of order one."""
    rng = np.random.default_rng(seed)
    steps = (T - 1,) if varying else ()

    def triangles(*shape):
        return 0.3 * np.tril(rng.normal(size=(*shape, D, D))) + np.eye(D)

    def positive(*shape):
        root = rng.normal(size=(*shape, D, D))
        return 0.2 * root @ np.swapaxes(root, -1, -2)

    initial = dict(mean=rng.normal(size=D), root=triangles())
    transition = dict(
        matrix=0.5 * rng.normal(size=(*steps, D, D)),
        offset=rng.normal(size=(*steps, D)),
        root=triangles(*steps),
    )
    rows = rng.normal(size=(*((T,) if varying else ()), P, D))
    unary = dict(rows=rows, target=rng.normal(size=(T, P)))
    if tilted:
        initial |= dict(linear=rng.normal(size=D), precision=positive(), constant=np.array(0.3))
        transition |= dict(
            linear=rng.normal(size=(*steps, D)),
            precision=positive(*steps),
            constant=rng.normal(size=steps),
        )
        unary |= dict(
            linear=rng.normal(size=(T, D)), precision=positive(), constant=rng.normal(size=T)
        )
    eta = dict(initial=initial, transition=transition, unary=unary, length=np.array(length))
    return jax.tree.map(jnp.asarray, eta)


def dense(eta):
    """(log ∫ exp(exponent), mean (L, d), covariance (L d, L d)): the joint precision, block by block, by
    the formula in the family's docstring."""
    eta = jax.tree.map(np.asarray, eta)
    length = int(eta["length"])
    initial, transition, unary = eta["initial"], eta["transition"], eta["unary"]
    size = length * D
    precision, linear, constant = np.zeros((size, size)), np.zeros(size), 0.0

    def at(terms, name, t, base):
        leaf = terms.get(name, np.zeros({0: (), 1: D, 2: (D, D)}[base]))
        return leaf[t] if np.ndim(leaf) > base else leaf

    def residual(design, target, root):
        """−½ |S⁻¹(M z − target)|² − log |S| − ½ d log 2π."""
        nonlocal precision, linear, constant
        design, target = np.linalg.solve(root, design), np.linalg.solve(root, target)
        precision += design.T @ design
        linear += design.T @ target
        constant += -0.5 * target @ target - np.linalg.slogdet(root)[1] - 0.5 * D * LOG_2PI

    def tilt(terms, which, t):
        nonlocal constant
        block = slice(which * D, which * D + D)
        precision[block, block] += at(terms, "precision", t, 2)
        linear[block] += at(terms, "linear", t, 1)
        constant += at(terms, "constant", t, 0)

    pick = lambda t: np.eye(size)[t * D : t * D + D]
    residual(pick(0), initial["mean"], initial["root"])
    tilt(initial, 0, 0)
    for t in range(length):
        rows, target = at(unary, "rows", t, 2), unary["target"][t]
        design = rows @ pick(t)
        precision += design.T @ design
        linear += design.T @ target
        constant -= 0.5 * target @ target
        tilt(unary, t, t)
        if t + 1 < length:
            matrix = at(transition, "matrix", t, 2)
            offset, root = at(transition, "offset", t, 1), at(transition, "root", t, 2)
            residual(pick(t + 1) - matrix @ pick(t), offset, root)
            tilt(transition, t, t)
    covariance = np.linalg.inv(precision)
    mean = covariance @ linear
    value = constant + 0.5 * linear @ mean + 0.5 * size * LOG_2PI
    value -= 0.5 * np.linalg.slogdet(precision)[1]
    return value, mean.reshape(length, D), covariance


@eqx.filter_jit
def everything(family, eta):
    """(log-normalizer, moments, statistics, entropy, bound at itself)."""
    return (
        family.log_normalizer(eta),
        family.moments(eta),
        family.mean(eta),
        family.entropy(eta),
        family.bound(eta, eta),
    )


@eqx.filter_jit
def slope(family, eta):
    numbers, length = eqx.partition(eta, eqx.is_inexact_array)
    return jax.value_and_grad(lambda numbers: family.log_normalizer(eqx.combine(numbers, length)))(
        numbers
    )


@eqx.filter_jit
def samples(family, eta, keys):
    return jax.vmap(family.sample, (None, 0))(eta, keys)


def settings_of_chains():
    for order in ("sequential", "pairwise"):
        for varying in (False, True):
            for tilted in (False, True):
                quick = (order, varying, tilted) in [
                    ("sequential", True, True),
                ]
                marks = () if quick else (pytest.mark.slow,)
                yield pytest.param(order, varying, tilted, marks=marks)


@pytest.mark.parametrize(("order", "varying", "tilted"), list(settings_of_chains()))
def test_the_dense_gaussian(order, varying, tilted):
    """Value, means, covariances, those of neighbors and entropy; for the whole length, a part, one step."""
    family = GaussianChain(
        D,
        order=order,
    )
    for seed, length in enumerate((5, 3, 1)):
        eta = natural(seed, varying, tilted, length)
        value, (means, covariances, cross), statistics, entropy, bound = everything(family, eta)
        expected, mean, covariance = dense(eta)
        block = lambda s, t: covariance[s * D : s * D + D, t * D : t * D + D]  # noqa: B023
        np.testing.assert_allclose(value, expected, rtol=1e-11)
        np.testing.assert_allclose(bound, expected, rtol=1e-11)
        np.testing.assert_allclose(means[:length], mean, atol=1e-10)
        for t in range(length):
            np.testing.assert_allclose(covariances[t], block(t, t), atol=1e-10)
            second = block(t, t) + np.outer(mean[t], mean[t])
            np.testing.assert_allclose(statistics["square"][t], second, atol=1e-10)
        for t in range(length - 1):
            np.testing.assert_allclose(cross[t], block(t, t + 1), atol=1e-10)
            second = block(t, t + 1) + np.outer(mean[t], mean[t + 1])
            np.testing.assert_allclose(statistics["cross"][t], second, atol=1e-10)
        for leaf, first in ((means, length), (covariances, length), (cross, length - 1)):
            np.testing.assert_array_equal(leaf[first:], 0)
        peer = scipy.stats.multivariate_normal(mean.ravel(), covariance)
        np.testing.assert_allclose(entropy, peer.entropy(), rtol=1e-9, atol=1e-9)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, T))
def test_densities_at_any_point(seed, length):
    """log q(z) is SciPy's, whatever the padding of z holds."""
    family, eta = GaussianChain(D), natural(seed, True, True, length)
    z = np.random.default_rng(seed).normal(size=(T, D))
    _, mean, covariance = dense(eta)
    peer = scipy.stats.multivariate_normal(mean.ravel(), covariance)
    ours = log_prob(family, eta, jnp.asarray(z))
    np.testing.assert_allclose(ours, peer.logpdf(z[:length].ravel()), rtol=1e-8, atol=1e-8)


@eqx.filter_jit
def log_prob(family, eta, z):
    return family(eta).log_prob(z)


@pytest.mark.slow
@pytest.mark.parametrize("length", [T, 3])
def test_samples(length):
    """Mean and covariance of 10000 draws within five of their standard deviations."""
    family, eta = GaussianChain(D), natural(3, True, True, length)
    number = 10_000
    z = np.asarray(samples(family, eta, jax.random.split(jax.random.key(0), number)))
    np.testing.assert_array_equal(z[:, length:], 0)
    z = z[:, :length].reshape(number, -1)
    _, mean, covariance = dense(eta)
    variance = np.diagonal(covariance)
    assert (np.abs(z.mean(0) - mean.ravel()) < 5 * np.sqrt(variance / number)).all()
    error = np.sqrt((np.outer(variance, variance) + covariance**2) / number)
    assert (np.abs(np.cov(z.T) - covariance) < 5 * error).all()


@pytest.mark.slow
def test_the_bound_of_another_chain():
    """E_q[exponent of λ] + H(q) by the dense Gaussians: A(λ) − KL(q ‖ p)."""
    family = GaussianChain(D)
    q, p = natural(5, False, True, 3), natural(6, False, True, 3)
    _, mean, covariance = dense(q)
    value, center, spread = dense(p)
    gap = (center - mean).ravel()
    kl = np.trace(np.linalg.solve(spread, covariance)) + gap @ np.linalg.solve(spread, gap)
    kl += np.linalg.slogdet(spread)[1] - np.linalg.slogdet(covariance)[1] - len(gap)
    np.testing.assert_allclose(jax.jit(family.bound)(q, p), value - 0.5 * kl, rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("length", [23, 150])
def test_orders_agree(length):
    """The filter, whose covariances settle on the way, and the tree: value and all slopes."""
    rng = np.random.default_rng(length)
    eta = {
        "initial": {"mean": np.zeros(D), "root": np.eye(D)},
        "transition": {
            "matrix": np.array([[0.9, 0.2], [-0.2, 0.9]]),
            "offset": np.zeros(D),
            "root": np.array([[0.5, 0.0], [0.1, 0.3]]),
        },
        "unary": {"rows": rng.normal(size=(P, D)), "target": rng.normal(size=(150, P))},
        "length": np.array(length),
    }
    eta = jax.tree.map(jnp.asarray, eta)
    ways = [dict(order="sequential"), dict(order="pairwise")]
    first, *others = (slope(GaussianChain(D, **way), eta) for way in ways)
    for other in others:
        for (path, left), right in zip(
            jax.tree.leaves_with_path(first), jax.tree.leaves(other), strict=True
        ):
            if "root" in jax.tree_util.keystr(path):
                left, right = jnp.tril(left), jnp.tril(right)
            np.testing.assert_allclose(left, right, rtol=1e-10, atol=1e-10)


# --- float32 ---------------------------------------------------------------------------------------


@functools.cache
def precise(noise, size):
    """A walk of `size` seen through noise, both small against it: 60 steps of a level and its slope."""
    rng = np.random.default_rng(1)
    matrix = np.array([[1.0, 0.5], [0.0, 0.9]])
    z = [np.array([size, 0.1 * size])]
    for _ in range(59):
        z.append(matrix @ z[-1] + noise * rng.normal(size=D))
    z = np.array(z)
    emission = np.array([[1.0, 0.0], [0.3, 1.0]])
    x = z @ emission.T + noise * rng.normal(size=(60, D))
    return {
        "initial": {"mean": np.zeros(D), "root": size * np.eye(D)},
        "transition": {"matrix": matrix, "offset": np.zeros(D), "root": noise * np.eye(D)},
        "unary": {"rows": emission / noise, "target": x / noise},
        "length": np.array(60),
    }


@pytest.mark.parametrize("noise", [1e-3, 1e-4])
@pytest.mark.parametrize("size", [10.0, 100.0])
def test_float32_beside_small_noise(noise, size):
    """Rounding of x, eps · size, is the error that nobody can avoid: in units of the noise it moves each
    of the 60 residuals by up to eps · size / noise (a tenth, for the worst case here)."""
    eta = precise(noise, size)
    wide = jax.tree.map(jnp.asarray, eta)
    narrow = jax.tree.map(
        lambda x: jnp.asarray(x, jnp.float32) if x.dtype == float else jnp.asarray(x), eta
    )
    # The same numbers, in float64: what float32 was given.
    given = jax.tree.map(lambda x: x.astype(float) if x.dtype == jnp.float32 else x, narrow)
    family = GaussianChain(D, order="sequential")
    value, (means, covariances, cross), *_ = everything(family, narrow)
    expected, (mean, covariance, between), *_ = everything(family, given)
    _, _, truth = everything(family, wide)[1]
    np.testing.assert_allclose(between, truth, rtol=1e-3, atol=1e-3 * noise**2)
    rounding = np.finfo(np.float32).eps * size
    np.testing.assert_allclose(means, mean, atol=8 * rounding + 1e-3 * noise, rtol=0)
    unit = noise**2
    np.testing.assert_allclose(covariances / unit, covariance / unit, rtol=2e-3, atol=2e-4)
    np.testing.assert_allclose(cross / unit, between / unit, rtol=2e-3, atol=2e-4)
    slip = rounding / noise
    assert abs(float(value) - float(expected)) < 1e-5 * abs(float(expected)) + 60 * slip * (
        2 + slip
    )


# --- errors ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_from_network():
    """Independent states of the means and deviations given."""
    family = GaussianChain(D)
    output = jax.random.normal(jax.random.key(0), (T, 2 * D))
    q = family(family.from_network(output))
    deviation = jnp.exp(output[:, D:])
    np.testing.assert_allclose(q.mode(), output[:, :D], rtol=1e-10)
    expected = scipy.stats.norm(output[:, :D], deviation).entropy().sum()
    np.testing.assert_allclose(q.entropy(), expected, rtol=1e-10)
    _, covariances, cross = family.moments(q.natural)
    np.testing.assert_allclose(jax.vmap(jnp.diagonal)(covariances), deviation**2, rtol=1e-9)
    np.testing.assert_allclose(cross, 0, atol=1e-12)
    with pytest.raises(ValueError, match=r"shape \(T, 4\)"):
        family.from_network(jnp.zeros((T, 3)))


def test_what_is_no_chain_is_refused():
    with pytest.raises(ValueError, match="dim must be at least 1"):
        GaussianChain(0)
    with pytest.raises(TypeError, match="LinearGaussianStateSpace"):
        GaussianChain(2).read(lambda z: jnp.sum(z))
