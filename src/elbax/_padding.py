"""Room for some rows more, so that data of about the same size share their programs."""

import jax
import numpy as np

from ._algebra import num_rows
from ._batch import as_batch, Batch, effective_weight
from ._types import PyTree


# Where a fit of more rows takes longer than to compile it.
_MOST = 1 << 16


def padded(batch: PyTree) -> Batch:
    """The batch with rows of weight 0 at its end, which count for nothing, up to the next of eight sizes in every
    power of two.

    A fold or a table with a row less then runs the same compiled programs. It is done on the host, and not to
    blocks of incomplete rows, whose shapes are of the patterns' making, nor to large data.
    """
    batch = as_batch(batch)
    n = num_rows(batch.x)
    step = 1 << max(n.bit_length() - 4, 0)
    more = -n % step
    if batch.blocked or n == 0 or n > _MOST:
        return batch

    def pad(leaf):
        leaf = np.asarray(leaf)
        return np.concatenate([leaf, np.repeat(leaf[:1], more, 0)])

    weight = effective_weight(jax.tree.map(np.asarray, batch), np)
    weight = np.concatenate([weight, np.zeros(more, weight.dtype)])
    index = None if batch.index is None else pad(batch.index)
    return Batch(jax.tree.map(pad, batch.x), weight=weight, index=index)
