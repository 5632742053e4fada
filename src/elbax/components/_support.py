"""The supports of densities."""

import jax.numpy as jnp
from jax.scipy.special import gammaln

from .._types import Any, Array, Bool, Callable, PyTree, Scalar
from ..data._incomplete_rows import known


# The largest sum of terms in a product form: its rounding then stays below 3e-4 nats in float32, 1e-12 in float64.
LARGEST_EXPANDED = 4096.0


def log_indicator(values: Array, observed: Any, inside: Bool[Array, "..."]) -> Scalar:
    """Returns the number to add to a row's log-densities: 0 if all observed values are `inside`, −∞ if one is not.

    It is NaN if one of them is NaN. It is a constant of the data, as factorials are: no gradient goes through it,
    and compiled sweeps over the same data can compute it once.
    """
    terms = jnp.where(inside, 0.0, -jnp.inf)
    if jnp.issubdtype(values.dtype, jnp.inexact):
        terms = jnp.where(jnp.isnan(values), jnp.nan, terms).astype(values.dtype)
    return jnp.sum(jnp.where(observed, terms, 0))


def is_bit(values: Array) -> Array:
    """Returns which values are 0 or 1."""
    if values.dtype == bool:
        return jnp.ones_like(values)
    return (values == 0) | (values == 1)


def is_count(values: Array) -> Array:
    """Returns which values are 0, 1, 2, …"""
    if values.dtype == bool:
        return jnp.ones_like(values)
    if not jnp.issubdtype(values.dtype, jnp.inexact):
        return values >= 0
    # Infinity is not a count: ∞ − ∞ is not 0.
    return (values >= 0) & (values - jnp.floor(values) == 0)


def is_positive(values: Array) -> Array:
    """Returns which values are positive and finite."""
    return (values > 0) & jnp.isfinite(values)


def known_within(
    x: PyTree, is_inside: Callable, dtype: Any, otherwise: float = 0.0
) -> tuple[Array, Array, Scalar]:
    """Returns (the values of a row, or `otherwise` where missing or outside of the support; which are observed;
    `log_indicator` of the row)."""
    values, observed = known(x)
    inside = is_inside(values)
    possible = log_indicator(values, observed, inside).astype(dtype)
    return jnp.where(observed & inside, values.astype(dtype), otherwise), observed, possible


def log_reciprocal_factorials(x: PyTree, dtype: Any) -> Scalar:
    """Returns −Σⱼ log xⱼ! of a row of counts, −∞ if a value is not a count."""
    count, _, possible = known_within(x, is_count, dtype)
    return possible - jnp.sum(gammaln(count + 1))
