"""Small factorizations against NumPy's, their derivatives, and that no step passes a batch to LAPACK."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elbax._math.linear_algebra import (
    cholesky,
    eigh,
    invert_positive,
    invert_triangle,
    solve_positive,
)


def positive(dim, batch=(), seed=0, condition=1e4):
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(*batch, dim, dim)))
    values = np.exp(rng.uniform(-np.log(condition), 0, size=(*batch, dim)))
    return (basis * values[..., None, :]) @ basis.swapaxes(-1, -2)


@pytest.mark.parametrize("dim", [1, 2, 5, 12])
@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_they_agree_with_numpy(dim, batch):
    matrix = positive(dim, batch)
    factor = cholesky(jnp.asarray(matrix))
    peer = np.linalg.cholesky(matrix)
    np.testing.assert_allclose(factor, peer, atol=1e-12)
    np.testing.assert_allclose(
        invert_triangle(factor) @ peer, np.broadcast_to(np.eye(dim), matrix.shape), atol=1e-10
    )
    np.testing.assert_allclose(
        invert_positive(jnp.asarray(matrix)) @ matrix, matrix @ np.linalg.inv(matrix), atol=1e-9
    )
    right = np.ones((*batch, dim))
    np.testing.assert_allclose(
        solve_positive(jnp.asarray(matrix), jnp.asarray(right)),
        np.linalg.solve(matrix, right[..., None])[..., 0],
        rtol=1e-9,
    )
    values, vectors = eigh(jnp.asarray(matrix))
    np.testing.assert_allclose(values, np.linalg.eigvalsh(matrix), atol=1e-14)
    np.testing.assert_allclose((vectors * values[..., None, :]) @ vectors.mT, matrix, atol=1e-14)
    np.testing.assert_allclose(
        vectors.mT @ vectors, np.broadcast_to(np.eye(dim), matrix.shape), atol=1e-13
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_they_hold_their_digits_at_any_scale(dtype, scale):
    """Columns of other units: what rounding leaves of a correlation matrix it leaves of this one too."""
    unit = np.geomspace(1, scale, 5)
    matrix = positive(5, seed=1, condition=10) * np.outer(unit, unit)
    eps = np.finfo(dtype).eps
    factor = cholesky(jnp.asarray(matrix, dtype))
    np.testing.assert_allclose(
        factor / unit[:, None].astype(dtype),
        np.linalg.cholesky(matrix) / unit[:, None],
        atol=50 * eps,
    )
    inverse = invert_positive(jnp.asarray(matrix, dtype)) * np.outer(unit, unit).astype(dtype)
    np.testing.assert_allclose(
        inverse, np.linalg.inv(positive(5, seed=1, condition=10)), rtol=1000 * eps
    )
    values, _ = eigh(jnp.asarray(matrix, dtype))
    np.testing.assert_allclose(values, np.linalg.eigvalsh(matrix), atol=50 * eps * matrix.max())


def test_small_eigenvalues_keep_their_digits():
    """A graded matrix, of which a method that reduces to three diagonals loses the small ones."""
    unit = np.geomspace(1, 1e-6, 4)
    matrix = (np.eye(4) + 0.3) * np.outer(unit, unit)
    values, _ = eigh(jnp.asarray(matrix, jnp.float32))
    np.testing.assert_allclose(values, np.linalg.eigvalsh(matrix), rtol=1e-5)


linalg = jnp.linalg
PAIRS = {
    "cholesky": (cholesky, linalg.cholesky),
    "invert_triangle": (
        lambda a: invert_triangle(cholesky(a)),
        lambda a: linalg.inv(linalg.cholesky(a)),
    ),
    "solve_positive": (
        lambda a: solve_positive(a, a[0]),
        lambda a: linalg.solve(0.5 * (a + a.T), a[0]),
    ),
    "eigenvalues": (lambda a: eigh(a)[0], linalg.eigvalsh),
    # Eigenvectors up to their signs.
    "projection": (lambda a: project(eigh(a)[1]), lambda a: project(linalg.eigh(a)[1])),
}


def project(vectors):
    return vectors[:, :2] @ vectors[:, :2].T


@pytest.mark.parametrize("name", PAIRS)
def test_first_and_second_derivatives_are_those_of_lapack(name):
    matrix = jnp.asarray(positive(3, condition=20.0))

    def derivatives(function):
        total = lambda a: jnp.sum(jnp.sin(function(a)))
        return jax.jit(lambda a: (jax.grad(total)(a), jax.hessian(total)(a)))(matrix)

    for ours, theirs in zip(*map(derivatives, PAIRS[name]), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


def test_what_is_not_positive_is_nan():
    indefinite = jnp.array([[1.0, 2.0], [2.0, 1.0]])
    assert jnp.isnan(cholesky(indefinite)[1, 1])
    assert jnp.isnan(cholesky(jnp.zeros((2, 2)))[1, 1])
    values, vectors = eigh(jnp.array([[[1.0, jnp.nan], [jnp.nan, 1.0]], [[1.0, 0.0], [0.0, 2.0]]]))
    assert jnp.isnan(values[0]).all() and jnp.isnan(vectors[0]).all()
    np.testing.assert_array_equal(values[1], [1.0, 2.0])
    np.testing.assert_array_equal(eigh(jnp.zeros((3, 3)))[0], np.zeros(3))


def test_vmap_is_the_leading_axis():
    matrix = jnp.asarray(positive(6, (3,)))
    for function in (cholesky, invert_positive, lambda a: eigh(a)[0]):
        np.testing.assert_allclose(jax.vmap(function)(matrix), function(matrix), rtol=1e-13)
