"""A linear function of the inputs as a callable pytree; a network may replace it."""

import jax.numpy as jnp

from .._math.algebra import matmul
from .._types import Any, Array, Float
from ..posteriors import Network


def design(inputs: Float[Array, " P"]) -> Float[Array, " width"]:
    """Returns (1, inputs)."""
    return jnp.concatenate([jnp.ones((1,), inputs.dtype), inputs])


def linear(coefficients: Float[Array, "K width"]) -> Network:
    """Returns the function inputs ↦ coefficients · (1, inputs), with K outputs."""
    return Network(_apply, {"coefficients": coefficients})


def _apply(weights, inputs):
    coefficients = weights["coefficients"]
    return matmul(coefficients, design(inputs.astype(coefficients.dtype)))


def described(predictor: Any) -> dict:
    """Returns a predictor's readable form: the coefficients of a linear one, the weights of another."""
    weights = getattr(predictor, "weights", predictor)
    if isinstance(weights, dict) and set(weights) == {"coefficients"}:
        return {"coefficients": weights["coefficients"]}
    return {"weights": weights}
