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
from elbax.families._gaussian_slopes import draw


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


# --- derivatives -----------------------------------------------------------------------------------


def exponent(eta, z):
    """The formula in the family's docstring, for a whole chain, by autodiff: value, slope and curvature at 0."""
    initial, transition, unary = eta["initial"], eta["transition"], eta["unary"]

    def at(terms, name, t, axes):
        leaf = terms.get(name, jnp.zeros((D,) * axes))
        return leaf[t] if leaf.ndim > axes else leaf

    def normal(residual, root):
        white = jnp.linalg.solve(root, residual)
        volume = jnp.sum(jnp.log(jnp.abs(jnp.diagonal(root))))
        return -0.5 * white @ white - volume - 0.5 * len(root) * LOG_2PI

    def tilt(terms, t):
        linear, precision = at(terms, "linear", t, 1), at(terms, "precision", t, 2)
        return at(terms, "constant", t, 0) + linear @ z[t] - 0.5 * z[t] @ precision @ z[t]

    total = normal(z[0] - initial["mean"], initial["root"]) + tilt(initial, 0)
    for t in range(len(z)):
        residual = unary["target"][t] - at(unary, "rows", t, 2) @ z[t]
        total += normal(residual, unary["root"]) if "root" in unary else -0.5 * residual @ residual
        total += tilt(unary, t)
        if t + 1 < len(z):
            mean = at(transition, "matrix", t, 2) @ z[t] + at(transition, "offset", t, 1)
            total += normal(z[t + 1] - mean, at(transition, "root", t, 2)) + tilt(transition, t)
    return total


def of_dense(eta, other, noise):
    """(log-normalizer, bound of another chain, means, covariances, those of neighbors, a draw)."""
    zero = jnp.zeros_like(noise)
    of = lambda eta: lambda z: exponent(eta, z)
    linear, curvature = jax.grad(of(eta))(zero).ravel(), jax.hessian(of(eta))(zero)
    covariance = jnp.linalg.inv(-curvature.reshape(noise.size, noise.size))
    mean = (covariance @ linear).reshape(noise.shape)
    volume = 0.5 * (noise.size * LOG_2PI + jnp.linalg.slogdet(covariance)[1])
    theirs = jax.hessian(of(other))(zero).reshape(noise.size, noise.size)
    bound = of(other)(mean) + 0.5 * jnp.vdot(theirs, covariance) + 0.5 * noise.size + volume
    blocks = covariance.reshape(*noise.shape, *noise.shape)
    steps = jnp.arange(len(noise))
    # Each state given the next one: the Cholesky factor of the states in reversed order.
    turned = blocks[::-1, :, ::-1].reshape(noise.size, noise.size)
    moved = (jnp.linalg.cholesky(turned) @ noise[::-1].ravel()).reshape(noise.shape)[::-1]
    value = of(eta)(mean) + volume
    own, cross = blocks[steps, :, steps], blocks[steps[:-1], :, steps[1:]]
    return value, bound, mean, own, cross, mean + moved


def of_family(family, eta, other, noise):
    number = len(noise)
    means, covariances, cross = family.moments(eta)
    z = draw(eta, jnp.zeros((T, D)).at[:number].set(noise), family.order == "pairwise")
    value, bound = family.log_normalizer(eta), family.bound(eta, other)
    return value, bound, means[:number], covariances[:number], cross[: number - 1], z[:number]


def both_ways(function, arguments, change, weights):
    """All results, their change, and the gradient of their weighted sum."""
    found, moved = jax.jvp(function, arguments, change)
    _, back = jax.vjp(function, *arguments)
    return found, moved, back(weights)


CHAINS = [
    pytest.param("sequential", False, 4),
    pytest.param("sequential", True, T, marks=pytest.mark.slow),
    pytest.param("pairwise", True, 3, marks=pytest.mark.slow),
    pytest.param("sequential", False, 1, marks=pytest.mark.slow),
]


def derivable(varying, length):
    """(numbers, other numbers, labels, noise, directions that keep triangles and symmetric matrices)."""
    rng = np.random.default_rng(4)
    root = {"root": jnp.asarray(np.tril(0.3 * rng.normal(size=(P, P))) + np.eye(P))}
    chains = [natural(seed, varying, True, length) for seed in (2, 3)]
    chains = [eta | {"unary": eta["unary"] | root} for eta in chains]
    (eta, labels), (other, _) = (eqx.partition(chain, eqx.is_inexact_array) for chain in chains)

    def direction(path, leaf):
        move = rng.normal(size=leaf.shape)
        name = path[-1].key
        if name == "precision":
            move = move + np.swapaxes(move, -1, -2)
        return jnp.asarray(np.tril(move) if name == "root" else move)

    noise = jnp.asarray(rng.normal(size=(length, D)))
    moved = jnp.asarray(rng.normal(size=noise.shape))
    change = (*jax.tree.map_with_path(direction, (eta, other)), moved)
    return (eta, other, noise), labels, change


@pytest.mark.parametrize(("order", "varying", "length"), CHAINS)
def test_derivatives_are_those_of_the_dense_gaussian(order, varying, length):
    """In all parameters, forwards and backwards: of value, bound, moments and a draw at fixed noise."""
    arguments, labels, change = derivable(varying, length)
    family = GaussianChain(D, order=order)

    def ours(eta, other, noise):
        return of_family(family, eqx.combine(eta, labels), eqx.combine(other, labels), noise)

    rng = np.random.default_rng(5)
    weight = lambda leaf: jnp.asarray(rng.normal(size=leaf.shape))
    weights = jax.tree.map(weight, jax.eval_shape(of_dense, *arguments))
    run = jax.jit(both_ways, static_argnums=0)
    found, expected = (run(one, arguments, change, weights) for one in (ours, of_dense))
    for (path, left), right in zip(
        jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True
    ):
        if "root" in jax.tree_util.keystr(path):
            left, right = jnp.tril(left), jnp.tril(right)
        if "precision" in jax.tree_util.keystr(path):
            left, right = (leaf + jnp.swapaxes(leaf, -1, -2) for leaf in (left, right))
        np.testing.assert_allclose(left, right, atol=1e-8, err_msg=jax.tree_util.keystr(path))


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_second_derivatives(which):
    """Of log-normalizer and bound, forwards over backwards, as Newton's method and the information take them."""
    arguments, labels, change = derivable(True, 4)
    family = GaussianChain(D, order="sequential")

    def ours(eta, other, noise):
        return of_family(family, eqx.combine(eta, labels), eqx.combine(other, labels), noise)

    def curvature(function):
        slope = jax.grad(lambda *arguments: function(*arguments)[which])
        return jax.jit(lambda: jax.jvp(slope, arguments, change)[1])()

    found, expected = curvature(ours), curvature(of_dense)
    total = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, found, change[0])))
    theirs = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, expected, change[0])))
    np.testing.assert_allclose(total, theirs, rtol=1e-8)


def companion(case):
    """Chains of which some noise is zero: an AR(2) process seen with noise, or without; a known first state."""
    rng = np.random.default_rng(7)
    triangle = np.array([[0.7, 0.0], [-0.2, 0.5]])
    process = case != "known start"
    eta = {
        "initial": {"mean": rng.normal(size=D), "root": triangle * process},
        "transition": {
            "matrix": np.array([[0.5, -0.3], [1.0, 0.0]]),
            "offset": rng.normal(size=D),
            "root": np.diag([0.7, 0.0]) if process else triangle,
        },
        "unary": {
            "rows": np.array([[1.0, 0.4 * (not process)]]),
            "target": rng.normal(size=(4, 1)),
            "root": np.full((1, 1), 0.5 * (case != "seen exactly")),
        },
    }
    triangles = lambda path, leaf: np.tril(leaf) if path[-1].key == "root" else leaf
    change = jax.tree.map_with_path(
        triangles, jax.tree.map(lambda x: rng.normal(size=x.shape), eta)
    )
    if case == "seen exactly":
        # The next state's second value is known. What would add noise to it is left out.
        change["transition"]["matrix"][1, 1] = 0
        change["transition"]["root"][1] = 0
        change["unary"] |= {"rows": np.zeros((1, D)), "root": np.zeros((1, 1))}
    return jax.tree.map(jnp.asarray, eta), jax.tree.map(jnp.asarray, change)


def of_noises(eta):
    """(means, covariances, those of neighbors): the states, a linear function of all noise, given what is seen."""
    initial, transition, unary = eta["initial"], eta["transition"], eta["unary"]
    target = unary["target"]
    number = len(target)
    mean, by_noise = [initial["mean"]], [jnp.zeros((D, number, D)).at[:, 0].set(initial["root"])]
    for t in range(1, number):
        mean.append(transition["matrix"] @ mean[-1] + transition["offset"])
        moved = jnp.einsum("ij,jtk->itk", transition["matrix"], by_noise[-1])
        by_noise.append(moved.at[:, t].set(transition["root"]))
    mean, by_noise = jnp.stack(mean), jnp.stack(by_noise).reshape(number * D, number * D)
    rows = jnp.kron(jnp.eye(number), unary["rows"])
    prior = by_noise @ by_noise.T
    seen = rows @ prior @ rows.T + jnp.kron(jnp.eye(number), unary["root"] @ unary["root"].T)
    gain = jnp.linalg.solve(seen, rows @ prior).T
    mean = mean.ravel() + gain @ (target.ravel() - rows @ mean.ravel())
    blocks = (prior - gain @ rows @ prior).reshape(number, D, number, D)
    steps = jnp.arange(number)
    own, cross = blocks[steps, :, steps], blocks[steps[:-1], :, steps[1:]]
    return mean.reshape(number, D), own, cross


@pytest.mark.parametrize("case", ["seen with noise", "seen exactly", "known start"])
def test_derivatives_without_noise(case):
    """Of the moments, in all parameters, also those that move only what has no noise; and of draws, whose means
    and covariances are those moments at every change."""
    eta, change = companion(case)
    family, length = GaussianChain(D, order="sequential"), {"length": jnp.array(4)}

    def ours(eta):
        found = draw(eta | length, jnp.zeros((4, D)), False)
        each = jnp.eye(4 * D).reshape(-1, 4, D)
        spread = jax.vmap(lambda noise: draw(eta | length, noise, False) - found)(each)
        spread = jnp.einsum("ntk,nsl->tksl", spread, spread)
        steps = jnp.arange(4)
        drawn = found, spread[steps, :, steps], spread[steps[:-1], :, steps[1:]]
        return family.moments(eta | length), drawn

    twice = lambda eta: (of_noises(eta), of_noises(eta))
    slope = lambda function: jax.jit(lambda: jax.jvp(function, (eta,), (change,)))()
    for left, right in zip(*(jax.tree.leaves(slope(f)) for f in (ours, twice)), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-9)


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


def test_float32_derivatives_beside_small_noise():
    """Of moments in units of the noise, relative to the largest of a parameter: as far off as a state is by
    rounding. Of the entropy, in nats for a relative change of a parameter: likewise."""
    noise, size, rng = 1e-3, 10.0, np.random.default_rng(0)
    eta, slip = precise(noise, size), np.finfo(np.float32).eps * size / noise
    weights = rng.normal(size=(60, D)) / noise, rng.normal(size=(60, D, D)) / noise**2
    family = GaussianChain(D, order="sequential")

    def of_moments(eta):
        found = zip(family.moments(eta), weights, strict=False)
        return sum(jnp.sum(leaf * weight.astype(leaf.dtype)) for leaf, weight in found)

    @jax.jit
    def slopes(numbers, labels):
        of = lambda function: jax.grad(lambda numbers: function(eqx.combine(numbers, labels)))(
            numbers
        )
        return of(of_moments), of(family.entropy)

    narrow, labels = eqx.partition(jax.tree.map(jnp.asarray, eta), eqx.is_inexact_array)
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), narrow)
    wide = jax.tree.map(lambda leaf: leaf.astype(float), narrow)
    found, expected = slopes(narrow, labels), slopes(wide, labels)
    for left, right in zip(*map(jax.tree.leaves, (found[0], expected[0])), strict=True):
        np.testing.assert_allclose(left, right, rtol=0, atol=slip * np.max(np.abs(right)))
    for at, left, right in zip(*map(jax.tree.leaves, (wide, found[1], expected[1])), strict=True):
        at, left, right = map(np.asarray, (at, left, right))
        np.testing.assert_allclose(left * at, right * at, rtol=0, atol=slip)


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
