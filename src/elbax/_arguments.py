"""Arguments of which one sees at once that they cannot be."""

import jax
import jax.numpy as jnp
import numpy as np

from ._types import Any


def check_count(who: str, **numbers: Any) -> None:
    """Raises `TypeError` for what is no whole number, `ValueError` for one below 1."""
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int | np.integer):
            raise TypeError(f"{who}: {name} must be a whole number, got {number!r}.")
        if number < 1:
            raise ValueError(f"{who}: {name} must be at least 1, got {number}.")


def check_key(key: Any, who: str) -> None:
    """Raises `TypeError` for what is no random key."""
    dtype = getattr(key, "dtype", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not (typed or (dtype == jnp.uint32 and jnp.shape(key)[-1:] == (2,))):
        raise TypeError(f"{who}: key must be a random key such as jax.random.key(0); got {key!r}.")


def check_shapes(who: str, **arrays: tuple[Any, tuple[int, ...]]) -> None:
    """Raises `ValueError` for the first `name=(array, shape)` that has another shape."""
    for name, (array, shape) in arrays.items():
        if np.shape(array) != shape:
            raise ValueError(f"{who}: {name} must have shape {shape}, got {np.shape(array)}.")
