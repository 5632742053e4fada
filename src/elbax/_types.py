"""Types that all files share. It imports no other module of this library."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree


AnyArray: TypeAlias = Array | np.ndarray
"""An array on the device or on the host."""

Scalar: TypeAlias = Float[Array, ""]
"""A real number on the device."""

Key: TypeAlias = Any
"""A JAX random key, typed (`jax.random.key`) or raw (`jax.random.PRNGKey`)."""

__all__ = [
    "Any",
    "AnyArray",
    "Array",
    "Bool",
    "Callable",
    "Float",
    "Int",
    "Key",
    "PyTree",
    "Scalar",
]
