"""Residuals in units of their deviation: their change of units, and how far a variance may shrink."""

import jax.numpy as jnp

from .._types import Any, Array, PyTree


# The smallest standard deviation of noise, in units of its column's. The condition number of the factors'
# precision is the square of signal over noise, and must stay below 1 / eps. Hence the square root of eps in
# float32 (of 36 tables of low rank some fell by more than their size at 1e-5, by 1e-2 at 1e-4, none at this), and
# more in float64, where an ELBO must not fall by 1e-10 (it fell by 2e-9 at 1e-7).
_SMALLEST = {4: 3.5e-4, 8: 3e-7}


def insert_residual(natural: PyTree, ratio: Array, shift: Array) -> dict[str, Array]:
    """Returns the coordinates of −½ τ e² + e c·ũ − ½ ũᵀGũ in terms of e', where e = ratio e' + shift·ũ.

    τ (`precision`) and the ratio have some batch axes; c (`cross`) and the shift have one more, G (`gram`) two.
    """
    precision, cross, gram = (natural[name] for name in ("precision", "cross", "gram"))
    pull = cross - precision[..., None] * shift
    mixed = shift[..., :, None] * (0.5 * (cross + pull))[..., None, :]
    return {
        "precision": ratio**2 * precision,
        "cross": ratio[..., None] * pull,
        "gram": gram - mixed - mixed.mT,
    }


def with_prior(
    statistics: PyTree, row: Array, variance: Array, precisions: Array, count: Any, square: Any
) -> PyTree:
    """Returns the statistics of regressions plus those of a prior −½ w·λw / σ² − ½ square / σ² on `row` and σ².

    The prior acts as extra rows of data: λⱼ rows for the coefficient j with a target of 0, and `count` rows of
    noise whose squares have the sum `square`. `row` is w and `variance` σ², with the batch axes of the statistics.
    """
    residual = -row / jnp.sqrt(variance)[..., None]
    pull = precisions * residual
    eye = jnp.eye(row.shape[-1], dtype=row.dtype)
    own = jnp.sum(residual * pull, -1) + square / variance
    return statistics | {
        "count": statistics["count"] + count,
        "precision": statistics["precision"] - 0.5 * own,
        "cross": statistics["cross"] + pull,
        "gram": statistics["gram"] - 0.5 * precisions[..., None] * eye,
    }


def least_share(variance: Array, offset: Array, rounding: Array) -> Array:
    """Returns the smallest factor by which a noise variance may shrink, if its residual is known up to `rounding`.

    All is in units of the previous noise variance. `variance` is the column's; `offset` are the squares of the
    numbers whose differences are the residuals. What rounding hides cannot be told from noise, so the variance
    shrinks only as far as is certain. This ascends too, and the next sweep resolves more. The factor never exceeds
    1.
    """
    dtype = variance.dtype
    hidden = _SMALLEST[dtype.itemsize] ** 2 * variance + rounding_of_residuals(offset)
    return jnp.clip(jnp.maximum(hidden, rounding), jnp.finfo(dtype).tiny, 1)


def rounding_of_residuals(square: Array) -> Array:
    """Returns the squared rounding error of differences of numbers with this mean square."""
    return (4 * jnp.finfo(square.dtype).eps) ** 2 * square
