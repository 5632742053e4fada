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
    if is_concrete(free):
        known = np.broadcast_to(np.asarray(free), shape)
        if np.any(known.any(-1) != known.all(-1)):
            raise ValueError(
                f"free: got a mask that frees some {what} of a row and not the others, but a row has one belief. "
                "Free or freeze whole rows."
            )
    return jnp.all(jnp.broadcast_to(free, shape), -1, keepdims=True)


def columns_free(mean: Any, loadings: Any, shape: tuple[int, int]) -> Any:
    """Returns which columns of a factor model are free, as one flag or a mask (dim, 1).

    **Raises** `ValueError` for flags that free only one of a column's mean and loadings.
    """
    if isinstance(mean, bool) and isinstance(loadings, bool):
        if mean is not loadings:
            raise ValueError(
                f"free: got {mean} for the mean and {loadings} for the loadings, but the mean and the loadings of "
                "a column have one belief. Free or freeze both."
            )
        return mean
    each = (
        mean if isinstance(mean, bool) else jnp.reshape(jnp.broadcast_to(mean, shape[:1]), (-1, 1))
    )
    if is_concrete((mean, loadings)):
        each = np.reshape(np.broadcast_to(np.asarray(mean), shape[:1]), (-1, 1))
        each = np.broadcast_to(each, (shape[0], 1))
        rest = np.broadcast_to(np.asarray(loadings), shape)
        return whole(
            np.concatenate([each, rest], 1), (shape[0], shape[1] + 1), "of the mean and loadings"
        )
    return each & whole(loadings, shape, "loadings")


def together(free: PyTree, moved: PyTree, q: PyTree) -> PyTree:
    """Returns the block `moved` where it is free, else the block `q`: a point moves with its count."""
    flag = functools.reduce(operator.and_, jax.tree.leaves(free))
    return jax.tree.map(lambda new, old: choose(flag, new, old), moved, q)
