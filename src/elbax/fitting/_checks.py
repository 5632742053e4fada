"""Checks before a fit."""

import jax
import jax.numpy as jnp

from .._arguments import check_count, check_not_negative, told
from .._state import ELBOState
from .._types import Any, PyTree
from .._update import AbstractUpdate
from ..data._batch import as_batch, read
from ..data._check import check_known, is_concrete
from ..data._ragged import num_rows


def check_update(who: str, update: Any) -> None:
    if not isinstance(update, AbstractUpdate):
        raise TypeError(f"{who}: expected an update such as Chain(...), got {told(update)}.")


def check_start(who: str, update: Any, state: Any) -> None:
    """Raises `TypeError` for what is not an update or not a state."""
    check_update(who, update)
    if not isinstance(state, ELBOState):
        raise TypeError(
            f"{who}: expected the state that update.init(params, key=key) makes, got {told(state)}."
        )


def check_one(who: str, state: ELBOState) -> None:
    """Raises `TypeError` for several states in one, which only `fit_restarts` takes."""
    # A key of the older kind is two numbers.
    one = 0 if jnp.issubdtype(state.key.dtype, jax.dtypes.prng_key) else 1
    if jnp.ndim(state.key) > one:
        raise TypeError(
            f"{who}: expected one state, got {len(state.key)} states with a leading axis. Call "
            "fit_restarts(update, states, batch), or map elbax.converge over the states with jax.vmap."
        )


def check_outside(who: str, given: PyTree) -> None:
    """Raises `TypeError` inside of `jit`, `vmap` and `grad`."""
    check_known(who, given, "Inside of them, use elbax.converge(update, state, batch).")


def check_limits(who: str, max_steps: int, tolerance: float) -> None:
    check_count(who, max_steps=max_steps)
    check_not_negative(who, tolerance=tolerance)


def checked(update: AbstractUpdate, batch: PyTree, who: str = "fit") -> PyTree:
    """Returns the batch with its tables made arrays, checked if its values are known."""
    check_outside(who, batch)
    batch = read(batch)
    if num_rows(as_batch(batch).x) == 0:
        raise ValueError(f"{who}: the batch is empty.")
    if is_concrete(batch):
        update.check(batch)
    return batch
