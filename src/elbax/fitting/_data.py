"""Fits that start from the data."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from .._arguments import check_count, check_key, told
from .._model import models_of
from .._types import Key, PyTree
from ..starts import initial_states
from ._checks import check_limits, check_update, checked
from ._restarts import best_of
from ._result import Result


def fit_data(
    update: Any,
    batch: PyTree | Iterator[PyTree],
    key: Key | None,
    restarts: int | None,
    max_steps: int,
    tolerance: float,
    progress: bool,
) -> Result:
    """Returns the best of several fits, as `fit_restarts` does; its message describes all of them."""
    check_update("fit", update)
    if key is None:
        raise TypeError(
            f"fit: got {told(batch)} and neither a state nor a key. To start from the data, call fit(update, "
            "batch, key=jax.random.key(0)). To start from a state, call fit(update, state, batch)."
        )
    check_key(key, "fit")
    check_limits("fit", max_steps, tolerance)
    restarts = 8 if restarts is None else restarts
    check_count("fit", restarts=restarts)
    if isinstance(batch, Iterator):
        raise TypeError(
            "fit: got an iterator and no state, but a start from the data needs a single batch. Make a state "
            "from some of the data, and call fit(update, state, batches)."
        )
    if progress:
        raise TypeError(
            "fit: progress=True is available only for a fit from a state. Call fit(update, state, batch, "
            "progress=True)."
        )
    batch = checked(update, batch)
    states = initial_states(update, batch, key=key, num_restarts=restarts)
    reject = models_of(update)[0].collapsed
    ends = best_of(update, states, batch, max_steps, tolerance, reject)
    if len(ends.codes) == 1:
        return ends.best
    message = f"{ends.best.message} {ends.message}"
    return dataclasses.replace(ends.best, message=message)
