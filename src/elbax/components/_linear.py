"""A linear function of the inputs, as a callable pytree: what a network may stand in for."""

import jax.numpy as jnp

from .._algebra import matmul
from .._types import Any, Array, Float
from ..posteriors import Network


def design(inputs: Float[Array, " P"]) -> Float[Array, " width"]:
    """(1, inputs)."""
    return jnp.concatenate([jnp.ones((1,), inputs.dtype), inputs])


def linear(coefficients: Float[Array, "K width"]) -> Network:
    """inputs ↦ coefficients · (1, inputs), for K outputs."""
    return Network(_apply, {"coefficients": coefficients})


def _apply(weights, inputs):
    coefficients = weights["coefficients"]
    return matmul(coefficients, design(inputs.astype(coefficients.dtype)))


def described(predictor: Any) -> dict:
    """What people read of a predictor: a linear one's coefficients, another's weights."""
    weights = getattr(predictor, "weights", predictor)
    if isinstance(weights, dict) and set(weights) == {"coefficients"}:
        return {"coefficients": weights["coefficients"]}
    return {"weights": weights}
