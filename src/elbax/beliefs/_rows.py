"""Normal-gamma beliefs over rows of coefficients and the variance of their noise."""

import math

import jax
import jax.numpy as jnp

from .._math.algebra import matmul
from .._math.linear_algebra import cholesky, invert_triangle
from .._math.special import log_minus_digamma
from .._types import Any, Array, Float, Key, PyTree
from ..components._covariance import Full
from ..priors import Gamma, NormalInverseGamma
from ._divergence import gamma_divergence


class RowPrior:
    r"""The prior $N(w; 0, \sigma^2 / \lambda)\, \mathrm{IG}(\sigma^2; a, b)$ of rows, and q of the same form.

    $q(w, \sigma^2) = N(w; m, \sigma^2 \Lambda^{-1})\, \mathrm{IG}(\sigma^2; a', a' \bar\sigma^2)$. Λ is the
    prior's λ plus the expected sum of ũũᵀ, kept as its Cholesky factor with a logarithmic diagonal. If λ has a
    Gamma prior, q holds `"relevance"`, log E[λ] of each input or factor, and λ stands for E[λ].
    """

    def __init__(self, prior: NormalInverseGamma):
        self.prior = prior
        self.hyperprior = prior.precision if isinstance(prior.precision, Gamma) else None

    def precisions(self, q: PyTree, width: int, num_rows: int, dtype: Any) -> tuple[Array, Array]:
        """Returns E[λ] and E[log λ], of the intercept first, shape `(..., width)`."""
        if self.hyperprior is None:
            found = self.prior.precisions(width, dtype)
            return found, jnp.log(found)
        log_mean = q["relevance"]
        first = jnp.full((*log_mean.shape[:-1], 1), jnp.log(self.prior.intercept_precision), dtype)
        gap = jnp.full_like(first, log_minus_digamma(jnp.asarray(self._shape(num_rows), dtype)))
        logs = jnp.concatenate([first, log_mean], -1)
        expected = jnp.concatenate([first, log_mean - gap], -1)
        return jnp.exp(logs), expected

    def _shape(self, num_rows: int) -> float:
        assert self.hyperprior is not None
        return self.hyperprior.shape + 0.5 * num_rows

    def first_relevance(self, shape: tuple[int, ...], dtype: Any) -> dict[str, Array]:
        """Returns what q holds of λ at the start, E[λ] = 0.1: a prior that is worth a tenth of a datum."""
        return (
            {} if self.hyperprior is None else {"relevance": jnp.full(shape, math.log(0.1), dtype)}
        )

    def relevance(self, square: Array, num_rows: int) -> dict[str, Array]:
        """Returns the best q(λ), given E[w² / σ²] summed over `num_rows` rows; nothing if λ is known."""
        if self.hyperprior is None:
            return {}
        shape = self._shape(num_rows)
        return {"relevance": jnp.log(shape) - jnp.log(self.hyperprior.rate + 0.5 * square)}

    def relevance_divergence(self, q: PyTree, num_rows: int) -> dict[str, Array]:
        """Returns KL(q(λ) ‖ p(λ)), by the name of its block."""
        if self.hyperprior is None:
            return {}
        prior, shape = self.hyperprior, jnp.asarray(self._shape(num_rows), q["relevance"].dtype)
        each = gamma_divergence(jnp.exp(q["relevance"]), shape, prior.shape, prior.rate)
        return {"relevance": jnp.sum(each)}

    def noise_divergence(self, log_deviation: Array, log_count: Array) -> Array:
        """Returns KL(q(σ²) ‖ p(σ²)) of each variance."""
        shape = 0.5 * jnp.exp(log_count)
        return gamma_divergence(
            jnp.exp(-2 * log_deviation), shape, self.prior.shape, self.prior.rate
        )

    def noise_count(self, count: Array) -> Array:
        """Returns log 2a', given the number of data."""
        return jnp.log(2 * self.prior.shape + count)


def pack(precision: Float[Array, "width width"]) -> Array:
    """Returns Λ as its Cholesky factor, in unconstrained numbers."""
    return Full().pack(cholesky(precision))


def packed(matrices: Float[Array, "*rows width width"]) -> Array:
    """Runs `pack` for all rows."""
    width = matrices.shape[-1]
    found = jax.vmap(pack)(matrices.reshape(-1, width, width))
    return found.reshape(*matrices.shape[:-2], -1)


def root_of_covariance(raw: Array, width: int) -> Float[Array, "width width"]:
    """Returns R with R Rᵀ = Λ⁻¹, in units of the noise."""
    return invert_triangle(Full().factor(raw, width)).T


def covariances(raw: Float[Array, "rows size"], width: int) -> Float[Array, "rows width width"]:
    """Returns Λ⁻¹ of each row."""

    def one(raw):
        root = root_of_covariance(raw, width)
        return matmul(root, root.T)

    return jax.vmap(one)(raw)


def row_divergence(
    row: Float[Array, " width"],
    variance: Array,
    raw: Array,
    precision: Float[Array, " width"],
    log_precision: Float[Array, " width"],
) -> Array:
    """Returns E KL(N(m, σ²/Λ) ‖ N(0, σ²/λ)) of one row, under q(σ²) and q(λ) with E[λ] and E[log λ]."""
    width = row.shape[-1]
    factor = Full().factor(raw, width)
    spread = jnp.sum(jnp.square(invert_triangle(factor)), 0)
    determinant = 2 * jnp.sum(jnp.log(jnp.diagonal(factor)))
    square = jnp.sum(precision * (row**2 / variance + spread)) - width
    return 0.5 * (square + determinant - jnp.sum(log_precision))


def draw_row(row: Array, variance: Array, raw: Array, key: Key) -> Array:
    """Returns a row drawn from N(m, σ²/Λ)."""
    noise = jax.random.normal(key, row.shape, row.dtype)
    return row + jnp.sqrt(variance) * matmul(root_of_covariance(raw, row.size), noise)


def draw_log_deviation(log_deviation: Array, log_count: Array, key: Key) -> Array:
    """Returns log σ drawn from q(σ²)."""
    shape = 0.5 * jnp.exp(log_count)
    return log_deviation - 0.5 * (jax.random.loggamma(key, shape) - jnp.log(shape))
