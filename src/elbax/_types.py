"""The words that every file shares. Imports nothing of ours."""

from collections.abc import Callable
from typing import Any, TypeAlias

from jaxtyping import Array, Bool, Float, Int, PyTree


Scalar: TypeAlias = Float[Array, ""]
"""A real number on the device."""

Key: TypeAlias = Any
"""A JAX random key, typed (`jax.random.key`) or raw (`jax.random.PRNGKey`)."""

__all__ = [
    "Any",
    "Array",
    "Bool",
    "Callable",
    "Float",
    "Int",
    "Key",
    "PyTree",
    "Scalar",
]
