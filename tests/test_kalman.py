"""Filters and smoothers beside exact arithmetic: noise from nothing to much, far origins, both dtypes."""

import decimal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from laws import equations, LAPACK

from elbax import GaussianChain


LOG_2PI = decimal.Decimal("1.8378770664093454835606594728112352797227949472755668")


# --- the dense Gaussian, to 60 digits --------------------------------------------------------------


def exact(a):
    """The same numbers as decimals."""
    return np.vectorize(lambda x: decimal.Decimal(float(x)), otypes=[object])(np.asarray(a))


def factor(a):
    """Cholesky's, by rows."""
    root = exact(np.zeros(a.shape))
    for i in range(len(a)):
        for j in range(i + 1):
            left = a[i, j] - root[i, :j] @ root[j, :j] if j else a[i, j]
            root[i, j] = left.sqrt() if i == j else left / root[j, j]
    return root


def forward(root, right):
    found = right.copy()
    for i in range(len(root)):
        found[i] = (right[i] - (root[i, :i] @ found[:i] if i else 0)) / root[i, i]
    return found


def dense(eta):
    """(log p(target), E z (T, d), Cov z_t (T, d, d), the smallest deviation of what is seen given what was)."""
    with decimal.localcontext(prec=60):
        initial, transition, unary = (
            {name: exact(leaf) for name, leaf in eta[part].items()}
            for part in ("initial", "transition", "unary")
        )
        number, d = len(unary["target"]), len(initial["mean"])
        square = lambda root: root @ root.T
        A, noise = transition["matrix"], square(transition["root"])
        means, marginal = [initial["mean"]], [square(initial["root"])]
        for _ in range(number - 1):
            means.append(A @ means[-1] + transition["offset"])
            marginal.append(A @ marginal[-1] @ A.T + noise)
        states = exact(np.zeros((number * d, number * d)))
        for t, block in enumerate(marginal):
            for s in range(t, number):
                states[s * d : s * d + d, t * d : t * d + d] = block
                states[t * d : t * d + d, s * d : s * d + d] = block.T
                block = A @ block
        rows = exact(np.kron(np.eye(number), np.asarray(eta["unary"]["rows"], float)))
        seen = states @ rows.T
        whole = rows @ seen
        width = unary["target"].shape[1]
        for t in range(number):
            part = slice(t * width, t * width + width)
            whole[part, part] += square(unary["root"])
        root = factor(whole)
        residual = unary["target"].reshape(-1) - rows @ np.concatenate(means)
        white, gain = forward(root, residual), forward(root, seen.T)
        pivots = np.diagonal(root)
        value = -sum(p.ln() for p in pivots) - (white @ white + LOG_2PI * len(white)) / 2
        mean = np.concatenate(means) + gain.T @ white
        covariance = (states - gain.T @ gain).astype(float)
        blocks = [covariance[t * d : t * d + d, t * d : t * d + d] for t in range(number)]
        return (
            float(value),
            mean.astype(float).reshape(number, d),
            np.array(blocks),
            float(min(pivots)),
        )


# --- chains of all kinds ---------------------------------------------------------------------------


def draw(rng, d, p, number, state_noise, noise, offset, singular):
    """A stable chain seen through p rows; some of its states have no noise of their own if `singular`."""
    matrix = 0.9 * np.linalg.qr(rng.normal(size=(d, d)))[0]
    root = np.tril(0.3 * rng.normal(size=(d, d)), -1) + np.eye(d)
    if singular:
        # What has no noise follows, as in autoregressions and integrated trends.
        root[:, 1:] = 0
    rows = rng.normal(size=(p, d))
    rows[:, 0] += 1
    eta = {
        "initial": {
            "mean": np.full(d, offset),
            "root": np.tril(rng.normal(size=(d, d)), -1) + np.eye(d),
        },
        "transition": {
            "matrix": matrix,
            "offset": (np.eye(d) - matrix) @ np.full(d, offset),
            "root": state_noise * root,
        },
        "unary": {"rows": rows, "root": noise * np.eye(p)},
        "length": np.array(number),
    }
    z, x = eta["initial"]["mean"] + eta["initial"]["root"] @ rng.normal(size=d), []
    for _ in range(number):
        x.append(rows @ z + noise * rng.normal(size=p))
        z = matrix @ z + eta["transition"]["offset"] + state_noise * root @ rng.normal(size=d)
    eta["unary"]["target"] = np.array(x)
    return eta


@eqx.filter_jit
def found(family, eta):
    return family.log_normalizer(eta), *family.moments(eta)[:2], family.bound(eta, eta)


def as_dtype(eta, dtype):
    """(the chain in that dtype, the same numbers in float64)."""
    cast = lambda leaf: leaf if leaf.dtype.kind == "i" else leaf.astype(dtype)
    narrow = jax.tree.map(cast, eta)
    wide = jax.tree.map(lambda leaf: leaf if leaf.dtype.kind == "i" else leaf.astype(float), narrow)
    return jax.tree.map(jnp.asarray, narrow), wide


SIZES = [(3, 1, 8), (2, 2, 5), (4, 2, 1)]


@pytest.mark.parametrize("order", ["sequential", "pairwise"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    "size", [SIZES[0], *(pytest.param(size, marks=pytest.mark.slow) for size in SIZES[1:])]
)
def test_exact_arithmetic(size, dtype, order):
    """Value and smoother, whatever the noise: off by no more than rounding the data would put them.

    What is seen is rounded by eps times its size, and so is each state on the way; against the least deviation of
    what is seen this moves each of the standardized innovations.
    """
    family = GaussianChain(size[0], order=order)

    @settings(max_examples=12, deadline=None)
    @given(
        st.integers(0, 10**6),
        st.sampled_from([1e-12, 1e-6, 1e-3, 1.0, 1e2]),
        st.sampled_from([0.0, 1e-12, 1e-6, 1e-5, 1e-3, 1.0, 1e2]),
        st.sampled_from([0.0, 30.0, 300.0, 1e4]),
        st.booleans(),
    )
    def check(seed, state_noise, noise, offset, singular):
        rng = np.random.default_rng(seed)
        eta = draw(rng, *size, state_noise, noise, offset, singular)
        narrow, wide = as_dtype(eta, dtype)
        eps, (_, p, number) = np.finfo(dtype).eps, size
        try:
            value, means, covariances, least = dense(wide)
        except decimal.DecimalException:
            # What is seen without noise is determined by what was seen before.
            return
        scale = np.max(np.abs(wide["unary"]["target"])) + np.max(np.abs(means))
        slip = 8 * eps * scale / least
        if slip > 0.1:
            return
        ours, mean, covariance, bound = found(family, narrow)
        allowed = number * p * slip * (5 + slip) + 20 * eps * (abs(value) + number)
        np.testing.assert_allclose(ours, value, atol=allowed, rtol=0)
        np.testing.assert_allclose(bound, value, atol=2 * allowed, rtol=0)
        deviation = np.sqrt(np.max(covariances))
        # States are found from few rows, each of which says little of some directions.
        unsure = 2000 * eps * scale + slip * deviation
        np.testing.assert_allclose(mean, means, atol=unsure, rtol=0)
        unsure = 64 * eps * (1 + state_noise)
        np.testing.assert_allclose(
            covariance, covariances, atol=deviation * unsure + unsure**2, rtol=0
        )

    check()


def test_a_chain_of_one_step_has_moments():
    """Those of its only state, though nothing comes from the next one."""
    eta = draw(np.random.default_rng(1), 4, 2, 1, 1.0, 1.0, 30.0, False)
    narrow, wide = as_dtype(eta, np.float64)
    means, covariances = GaussianChain(4).moments(narrow)[:2]
    assert means.shape == (1, 4)
    _, expected, blocks, _ = dense(wide)
    np.testing.assert_allclose(means, expected, rtol=1e-12)
    np.testing.assert_allclose(covariances, blocks, rtol=1e-10, atol=1e-12)


# --- the program -----------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["sequential", "pairwise"])
def test_the_program_does_not_grow_with_the_chain(order):
    """So that it compiles in the same time at any length; and none of it is LAPACK's."""
    family = GaussianChain(3, order=order)

    def program(number):
        eta = draw(np.random.default_rng(0), 3, 1, number, 1.0, 1.0, 0.0, False)
        narrow, _ = as_dtype(eta, np.float64)
        slope = jax.grad(lambda x: family.log_normalizer(narrow | {"initial": x}))
        jaxpr = jax.make_jaxpr(slope)(narrow["initial"]).jaxpr
        return [equation.primitive.name for equation in equations(jaxpr)]

    short, long = program(100), program(400)
    assert len(short) == len(long)
    assert not LAPACK & {*long}
