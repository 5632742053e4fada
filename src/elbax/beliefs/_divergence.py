r"""Kullback-Leibler divergences within a family, without differences of large numbers.

Textbook forms subtract values of log Γ, which grow with the number of data while the divergence does not. Here log
Γ(a) is (a − ½) log a − a + ½ log 2π + r(a) with r(a) = `stirling_error(a)`, and ψ(a) is log a −
`log_minus_digamma(a)`. The terms in a log a are cancelled in the derivation.
"""

import math

import jax.numpy as jnp
from jax.scipy.special import gammaln

from .._math.special import log_minus_digamma, stirling_error
from .._types import Any, Array


def gamma_divergence(mean: Array, shape: Array, prior_shape: Any, prior_rate: Any) -> Array:
    """Returns KL(q ‖ p) of a gamma q of this mean and shape, and a gamma p of a shape and rate.

    With a, a₀ the shapes, b₀ the rate of p and r the mean of q: (a₀ − a) (log a − ψ(a)) − h(a) + log Γ(a₀) − a₀
    log b₀r + b₀r, where h(a) = r(a) − ½ log a/2π.
    """
    start = prior_rate * mean
    constant = gammaln(prior_shape) - prior_shape * jnp.log(start) + start
    return _shape_terms(shape, prior_shape) + constant


def dirichlet_divergence(
    log_mean: Array, concentration: Array, prior: Any, possible: Any = True
) -> Array:
    """Returns KL(q ‖ p) of Dirichlets, over the last axis.

    `log_mean` is the logarithm of q's mean, `concentration` and `prior` are α and α₀. Impossible entries must have
    α = α₀ = 1 and `log_mean` 0. A Dirichlet is K independent gammas given their sum, so the divergence is that of
    the gammas (of rate 1) less that of the sums.
    """
    possible = jnp.broadcast_to(possible, concentration.shape)
    one = jnp.where(possible, concentration, 0)
    before = jnp.where(possible, prior, 0)
    some = jnp.sum(possible, -1) > 0
    total, total_before = (
        jnp.where(some, jnp.sum(part, -1), 1) for part in (one, jnp.broadcast_to(before, one.shape))
    )
    each = _shape_terms(concentration, prior) + gammaln(prior) - prior * log_mean
    whole = _shape_terms(total, total_before) + gammaln(total_before)
    return jnp.where(some, jnp.sum(jnp.where(possible, each, 0), -1) - whole, 0)


def wishart_divergence(
    dof: Array,
    log_determinant: Array,
    trace: Array,
    prior_dof: float,
    prior_log_determinant: float,
    dim: int,
) -> Array:
    """Returns KL(q ‖ p) of Wisharts W(ν, Ψ⁻¹) and W(ν₀, Ψ₀⁻¹), with Σ̄ = Ψ/ν.

    It has the terms of D gammas, those of the diagonal of a Bartlett factor. `log_determinant` is log |Σ̄|, `trace`
    is tr(Ψ₀ Σ̄⁻¹), `prior_log_determinant` is log |Ψ₀|.
    """
    i = jnp.arange(dim, dtype=log_determinant.dtype)
    shape, prior_shape = 0.5 * (dof[..., None] - i), 0.5 * (prior_dof - i)
    each = _shape_terms(shape, prior_shape) + gammaln(prior_shape)
    # Shapes are ν/2 less i/2: their logarithms differ from that of ν/2 by log(1 − i/ν).
    each -= prior_shape * jnp.log1p(-i / dof[..., None])
    ratio = dim * math.log(2) + log_determinant - prior_log_determinant
    corner = 0.25 * dim * (dim - 1) * (jnp.log(0.5 * dof) - 1)
    return jnp.sum(each, -1) + corner + 0.5 * (prior_dof * ratio + trace)


def _shape_terms(shape: Array, prior_shape: Any) -> Array:
    """Returns (a₀ − a) (log a − ψ(a)) + ½ log a/2π − r(a)."""
    gap = (prior_shape - shape) * log_minus_digamma(shape)
    return gap + 0.5 * jnp.log(shape / (2 * math.pi)) - stirling_error(shape)
