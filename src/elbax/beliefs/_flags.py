"""What may move in a belief."""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np

from .._free import choose
from .._types import Any, PyTree
from ..data._check import is_concrete


def whole(free: Any, shape: tuple[int, ...], what: str) -> Any:
    """Returns the flags of a block whose rows (the last axis) have one belief each, so that a row moves together.

    **Raises** `ValueError` for a mask that frees a part of a row.
    """
    if isinstance(free, bool):
        return free
    mask = jnp.broadcast_to(free, shape)
    if is_concrete(mask) and np.any(np.any(mask, -1) != np.all(mask, -1)):
        raise ValueError(
            f"free: got a mask that frees some {what} of a row and not the others, but a row has one belief. "
            "Free or freeze whole rows."
        )
    return jnp.all(mask, -1, keepdims=True)


def together(free: PyTree, moved: PyTree, q: PyTree) -> PyTree:
    """Returns the block `moved` where it is free, else the block `q`: a point moves with its count."""
    flag = functools.reduce(operator.and_, jax.tree.leaves(free))
    return jax.tree.map(lambda new, old: choose(flag, new, old), moved, q)
