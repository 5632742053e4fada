"""One sequence as a batch and as a series of numbers."""

import jax
import jax.numpy as jnp
import numpy as np

from .._arguments import check_shapes
from .._types import Any
from ..data._incomplete_rows import host_known, is_incomplete
from ..data._sequence import Sequence, sequences


def series_of(
    who: str, sequence: Any, column: int, times: Any
) -> tuple[Sequence, np.ndarray, np.ndarray]:
    """Returns (a batch of this one sequence, a column of it with NaN where a number is missing, its times)."""
    if isinstance(sequence, Sequence):
        batch = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], sequence)
    else:
        # A batch of one is the shape of a fit's data.
        one = getattr(sequence, "ndim", 0) == 3 and len(sequence) == 1
        batch = sequences([sequence[0] if one else sequence])
    single = isinstance(batch.values, jax.Array | np.ndarray) or is_incomplete(batch.values)
    values, observed = host_known(batch.values) if single else (np.empty(0), np.empty(0))
    if values.ndim != 3:
        raise ValueError(
            f"{who}: expected one sequence, an array of shape (T, dim) or an elbax.Sequence. Take one of a batch: "
            "jax.tree.map(lambda leaf: leaf[0], batch)."
        )
    dim = values.shape[-1]
    if not 0 <= column < dim:
        raise ValueError(f"{who}: column must be one of 0, ..., {dim - 1}; got {column}.")
    length = int(np.asarray(batch.length)[0])
    series = np.where(observed, values, np.nan)[0, :length, column]
    times = np.arange(length) if times is None else np.asarray(times)
    if np.issubdtype(times.dtype, np.datetime64):
        times = times.astype("datetime64[s]")  # Half of a day is a time too.
    check_shapes(who, times=(times, (length,)))
    return batch, series, times
