r"""Covariance structures of one Gaussian: full, diagonal, spherical.

A structure stores the covariance $\Sigma = C C^\top$ as an unconstrained array that holds the logarithms of C's
diagonal. Its coordinate J is the precision *in units of C*: with $z = C^{-1}(x - \mu)$ the log-density contains
$-\tfrac12 z^\top J z$, at J = I. In these units statistics are of order one, however large, small or correlated
the columns are. The new factor is the old one times a factor near I.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._arguments import Shape
from .._math.algebra import diagonal, matmul, vdot
from .._math.linear_algebra import cholesky, invert_triangle
from .._types import Array, Float, Scalar


# From so many columns on, the products of pairs are most of a pass over normals.
MANY_COLUMNS = 12


class AbstractCovariance(eqx.Module):
    """Stores, applies and estimates one covariance. `C` and `J` are arrays of the structure's own shape."""

    @abc.abstractmethod
    def shape(self, dim: int | str) -> Shape:
        """Returns the shape of the unconstrained array."""

    @abc.abstractmethod
    def pack(self, factor: Float[Array, "D D"]) -> Array:
        """Returns the unconstrained array for C Cᵀ; other structures than `Full` keep its variances only."""

    @abc.abstractmethod
    def factor(self, raw: Array, dim: int) -> Array:
        """Returns C, in the structure's shape."""

    @abc.abstractmethod
    def inverse(self, factor: Array) -> Array:
        """Returns W = C⁻¹, in the structure's shape."""

    @abc.abstractmethod
    def apply(self, factor: Array, vector: Float[Array, " D"]) -> Float[Array, " D"]:
        """Returns C v (or W v)."""

    @abc.abstractmethod
    def apply_transposed(self, factor: Array, vector: Float[Array, " D"]) -> Float[Array, " D"]:
        """Returns Cᵀ v (or Wᵀ v)."""

    @abc.abstractmethod
    def identity(self, factor: Array) -> Array:
        """Returns J = I."""

    @abc.abstractmethod
    def outer(self, a: Float[Array, " D"], b: Float[Array, " D"]) -> Array:
        """Returns S(a, b) with aᵀ A b = ⟨A, S(a, b)⟩ for every A of the structure."""

    def square(self, vector: Float[Array, " D"]) -> Array:
        """Returns S(v, v)."""
        return self.outer(vector, vector)

    @abc.abstractmethod
    def dense(self, form: Array, dim: int) -> Float[Array, "D D"]:
        """Returns J as a matrix."""

    def monomials(self, vector: Float[Array, " D"]) -> Array:
        """Returns S(v) with every product once; see `coefficients`."""
        return self.square(vector)

    def coefficients(self, form: Array) -> Array:
        """Returns the coefficients with vᵀ A v = ⟨coefficients(A), monomials(v)⟩."""
        return form

    @abc.abstractmethod
    def quadratic(self, form: Array, vector: Float[Array, " D"]) -> Scalar:
        """Returns vᵀ A v."""

    @abc.abstractmethod
    def congruence(self, inverse: Array, form: Array) -> Array:
        """Returns Wᵀ J W."""

    @abc.abstractmethod
    def average(self, factors: Array) -> Array | None:
        """Returns a root of the average of K covariances, in units of which columns are nearly uncorrelated.

        Returns `None` where these units do not pay: for scalings, whose columns are uncorrelated in any units,
        and for few columns.
        """

    @abc.abstractmethod
    def log_determinant(self, factor: Array, dim: int) -> Scalar:
        """Returns log |C|."""

    def scatter(self, inverse: Array, root: Float[Array, "D D"]) -> Array:
        """Returns the statistic of tr(L Lᵀ Σ⁻¹) in units of C: S(W l) summed over the columns l of L."""
        return jnp.sum(jax.vmap(lambda column: self.square(self.apply(inverse, column)))(root.T), 0)

    @abc.abstractmethod
    def rescale(self, raw: Array, moment: Array, dim: int, rounding: Array | float = 0.0) -> Array:
        """Returns the unconstrained array of the maximum-likelihood covariance C M Cᵀ, where M is a mean of S(z).

        M is near I unless a covariance shrinks a lot at once. The part of M below `rounding`, the error of the
        squares whose difference it is, is unknown. Such a direction shrinks only as far as is certain. This
        ascends too, and the next sweep, in the new units, resolves more.
        """

    @abc.abstractmethod
    def matrix(self, factor: Array, dim: int) -> Float[Array, "D D"]:
        """Returns Σ."""

    @abc.abstractmethod
    def tangent(self, factor: np.ndarray, change: np.ndarray) -> np.ndarray:
        """Returns the change of the unconstrained array as the factor C changes to C (I + change)."""


class Full(AbstractCovariance):
    """Any covariance: C is lower triangular, stored packed, with a logarithmic diagonal."""

    def shape(self, dim):
        number = lambda dim: dim * (dim + 1) // 2
        return (number(dim) if isinstance(dim, int) else lambda sizes: number(sizes.get(dim, 1)),)

    def pack(self, factor):
        dim = factor.shape[-1]
        on = np.eye(dim, dtype=bool)
        return jnp.where(on, jnp.log(jnp.where(on, factor, 1)), factor)[np.tril_indices(dim)]

    def factor(self, raw, dim):
        # One gather: a scatter, and reading and writing diagonals, take longer to compile than all else here.
        place, on = np.zeros((dim, dim), int), np.eye(dim, dtype=bool)
        place[np.tril_indices(dim)] = np.arange(raw.size)
        matrix = raw[place]
        below = jnp.where(np.tri(dim, k=-1, dtype=bool), matrix, 0)
        return jnp.where(on, jnp.exp(jnp.where(on, matrix, 0)), below)

    def inverse(self, factor):
        return invert_triangle(factor)

    def apply(self, factor, vector):
        return matmul(factor, vector)

    def apply_transposed(self, factor, vector):
        return matmul(vector, factor)

    def identity(self, factor):
        return jnp.eye(factor.shape[-1], dtype=factor.dtype)

    def outer(self, a, b):
        product = jnp.outer(a, b)
        return 0.5 * (product + product.T)

    def square(self, vector):
        return jnp.outer(vector, vector)

    def dense(self, form, dim):
        return form

    # Every product once or twice, as v ∘ (v rotated by 0, 1, …, D / 2): half the numbers of an outer product, in
    # slices of full width, which vectorize (4 times as fast as the outer product on CPU).
    def monomials(self, vector):
        dim = vector.size
        twice = jnp.concatenate([vector, vector])
        return jnp.concatenate([vector * twice[s : s + dim] for s in range(dim // 2 + 1)])

    def coefficients(self, form):
        # Both triangles enter, so that the gradient in A is symmetric, as the statistic is.
        dim = form.shape[-1]
        shift, rows = np.divmod(np.arange(dim * (dim // 2 + 1)), dim)
        columns = (rows + shift) % dim
        # On the diagonal the two triangles coincide; a rotation by half of an even D meets each pair twice.
        seen_twice = (shift == 0) | (2 * shift == dim)
        once = np.where(seen_twice, 0.5, 1.0).astype(form.dtype)
        return once * (form[rows, columns] + form[columns, rows])

    def quadratic(self, form, vector):
        return vdot(matmul(form, vector), vector)

    def congruence(self, inverse, form):
        return matmul(inverse.T, matmul(form, inverse))

    def average(self, factors):
        # A product per row would take as long as that of the squares: a quarter of a sweep at 4 columns.
        if factors.shape[-1] < MANY_COLUMNS:
            return None
        covariance = jnp.mean(matmul(factors, factors.mT), 0)
        deviation = jnp.sqrt(diagonal(covariance))
        correlation = covariance / jnp.outer(deviation, deviation)
        ridge = len(deviation) * jnp.finfo(correlation.dtype).eps
        eye = jnp.eye(len(deviation), dtype=correlation.dtype)
        return deviation[:, None] * cholesky(correlation + ridge * eye)

    def log_determinant(self, factor, dim):
        return jnp.sum(jnp.log(diagonal(factor)))

    def rescale(self, raw, moment, dim, rounding=0.0):
        own = 4 * dim * jnp.finfo(moment.dtype).eps * jnp.max(diagonal(moment))
        least = jax.lax.stop_gradient(jnp.maximum(own, rounding))
        eye = jnp.eye(dim, dtype=moment.dtype)
        ridge = 2 * least * eye
        # Where a pivot is below rounding, or NaN, M gets a ridge. If that is not enough either, as for
        # statistics of params so far away that little is left of M but rounding, the covariance is kept.
        tried = jax.lax.stop_gradient(jnp.stack([moment, moment + ridge]))
        pivots = diagonal(cholesky(tried))
        sure = jnp.min(pivots[0]) ** 2 >= least
        known = sure | jnp.all(jnp.isfinite(pivots[1])) | ~jnp.all(jnp.isfinite(moment))
        moment = jnp.where(known, moment + jnp.where(sure, 0, ridge), eye)
        return self.pack(matmul(self.factor(raw, dim), cholesky(moment)))

    def matrix(self, factor, dim):
        return matmul(factor, factor.T)

    def tangent(self, factor, change):
        logs = np.diag(np.diagonal(change))
        return (np.tril(factor @ change, -1) + logs)[np.tril_indices(len(factor))]


class AbstractScaling(AbstractCovariance):
    """C multiplies each column by a number; the numbers are stored as logarithms."""

    def factor(self, raw, dim):
        return jnp.exp(raw)

    def inverse(self, factor):
        return 1 / factor

    def apply(self, factor, vector):
        return factor * vector

    def apply_transposed(self, factor, vector):
        return factor * vector

    def identity(self, factor):
        return jnp.ones_like(factor)

    def congruence(self, inverse, form):
        return form * inverse**2

    def average(self, factors):
        return None


class Diagonal(AbstractScaling):
    """Independent columns: C is a vector of standard deviations."""

    def shape(self, dim):
        return (dim,)

    def pack(self, factor):
        return jnp.log(jnp.linalg.norm(factor, axis=-1))

    def outer(self, a, b):
        return a * b

    def dense(self, form, dim):
        return jnp.diag(form)

    def quadratic(self, form, vector):
        return vdot(form, vector**2)

    def log_determinant(self, factor, dim):
        return jnp.sum(jnp.log(factor))

    def rescale(self, raw, moment, dim, rounding=0.0):
        least = jnp.maximum(jnp.finfo(moment.dtype).tiny, rounding)
        return raw + 0.5 * jnp.log(jnp.maximum(moment, least))

    def matrix(self, factor, dim):
        return jnp.diag(factor**2)

    def tangent(self, factor, change):
        return np.diagonal(change)


class Spherical(AbstractScaling):
    """One standard deviation for all columns: C is a number."""

    def shape(self, dim):
        return ()

    def pack(self, factor):
        return 0.5 * jnp.log(jnp.mean(jnp.sum(factor**2, -1)))

    def outer(self, a, b):
        return vdot(a, b)

    def dense(self, form, dim):
        return form * jnp.eye(dim, dtype=form.dtype)

    def quadratic(self, form, vector):
        return form * vdot(vector, vector)

    def log_determinant(self, factor, dim):
        return dim * jnp.log(factor)

    def rescale(self, raw, moment, dim, rounding=0.0):
        least = jnp.maximum(jnp.finfo(moment.dtype).tiny, rounding)
        return raw + 0.5 * jnp.log(jnp.maximum(moment / dim, least))

    def matrix(self, factor, dim):
        return factor**2 * jnp.eye(dim, dtype=factor.dtype)

    def tangent(self, factor, change):
        return np.mean(np.diagonal(change))
