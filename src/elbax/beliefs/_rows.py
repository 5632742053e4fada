"""Normal-gamma beliefs over rows of coefficients and the variance of their noise."""

import math

import jax
import jax.numpy as jnp

from .._math.algebra import diagonal, matmul
from .._math.linear_algebra import cholesky, invert_triangle
from .._math.special import log_minus_digamma
from .._types import Any, Array, Float, Key, PyTree
from ..components._covariance import Full
from ..priors import Gamma, NormalInverseGamma
from ._divergence import gamma_divergence


EXAMPLE = "elbax.priors.NormalInverseGamma(1.0, 1.0, 1.0)"
"""A prior of rows, for errors."""


class RowPrior:
    r"""The prior $N(w; 0, \sigma^2 / \lambda)\, \mathrm{IG}(\sigma^2; a, b)$ of rows, and q of the same form.

    $q(w, \sigma^2) = N(w; m, \sigma^2 \Lambda^{-1})\, \mathrm{IG}(\sigma^2; a', a' \bar\sigma^2)$. Λ is the
    prior's λ plus the expected sum of ũũᵀ, kept as its Cholesky factor with a logarithmic diagonal. If λ has a
    Gamma prior, q holds `"relevance"`, log E[λ] of each input or factor, and λ stands for E[λ].
    """

    def __init__(self, prior: NormalInverseGamma):
        self.prior = prior
        self.hyperprior = prior.precision if isinstance(prior.precision, Gamma) else None

    def precisions(
        self, q: PyTree, rows: Float[Array, "rows width"], num_rows: int
    ) -> tuple[Float[Array, "rows width"], Float[Array, "rows width"]]:
        """Returns E[λ] and E[log λ] of each row, of which `num_rows` share a λ."""
        width, dtype = rows.shape[1], rows.dtype
        if self.hyperprior is None:
            found = jnp.broadcast_to(self.prior.precisions(width, dtype), rows.shape)
            return found, jnp.log(found)
        log_mean = q["relevance"]
        first = jnp.full((*log_mean.shape[:-1], 1), jnp.log(self.prior.intercept_precision), dtype)
        gap = jnp.full_like(first, log_minus_digamma(jnp.asarray(self._shape(num_rows), dtype)))
        found = jnp.exp(jnp.concatenate([first, log_mean], -1))
        expected = jnp.concatenate([first, log_mean - gap], -1)
        return jnp.broadcast_to(found, rows.shape), jnp.broadcast_to(expected, rows.shape)

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


def packed(precisions: Float[Array, "rows width width"]) -> Float[Array, "rows size"]:
    """Returns Λ of each row as its Cholesky factor, in unconstrained numbers."""
    return jax.vmap(lambda precision: Full().pack(cholesky(precision)))(precisions)


def root_of_covariance(raw: Array, width: int) -> Float[Array, "width width"]:
    """Returns R with R Rᵀ = Λ⁻¹, in units of the noise."""
    return invert_triangle(Full().factor(raw, width)).T


def expected_natural(
    natural: PyTree,
    raw: Float[Array, "rows size"],
    log_count: Float[Array, "..."],
    own: slice = slice(None),
) -> PyTree:
    """Returns E_q[η] from η at the point: a gram of Λ⁻¹ for each row, and a count less ½ (log a − ψ(a)).

    `own` are the entries of a row that Λ is of; the others are known.
    """
    width = len(range(natural["gram"].shape[-1])[own])

    def covariance(raw):
        root = root_of_covariance(raw, width)
        return matmul(root, root.T)

    gap = log_minus_digamma(0.5 * jnp.exp(log_count))
    return natural | {
        "count": natural["count"] - 0.5 * gap,
        "gram": jnp.zeros_like(natural["gram"]).at[:, own, own].set(jax.vmap(covariance)(raw)),
    }


def squares(
    rows: Float[Array, "rows width"],
    deviation: Float[Array, " rows"],
    raw: Float[Array, "rows size"],
) -> Float[Array, "rows width"]:
    """Returns E[w² / σ²] of each coefficient."""
    roots = jax.vmap(lambda raw: root_of_covariance(raw, rows.shape[1]))(raw)
    return jnp.sum(roots**2, -1) + (rows / deviation[:, None]) ** 2


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
    determinant = 2 * jnp.sum(jnp.log(diagonal(factor)))
    square = jnp.sum(precision * (row**2 / variance + spread)) - width
    return 0.5 * (square + determinant - jnp.sum(log_precision))


def draw_rows(
    rows: Float[Array, "rows width"],
    deviation: Float[Array, " rows"],
    raw: Float[Array, "rows size"],
    key: Key,
) -> Float[Array, "rows width"]:
    """Returns rows drawn from N(m, σ²/Λ)."""

    def draw(row, deviation, raw, key):
        noise = jax.random.normal(key, row.shape, row.dtype)
        return row + deviation * matmul(root_of_covariance(raw, row.size), noise)

    return jax.vmap(draw)(rows, deviation, raw, jax.random.split(key, len(rows)))


def draw_log_deviation(log_deviation: Array, log_count: Array, key: Key) -> Array:
    """Returns log σ drawn from q(σ²)."""
    shape = 0.5 * jnp.exp(log_count)
    return log_deviation - 0.5 * (jax.random.loggamma(key, shape) - jnp.log(shape))
