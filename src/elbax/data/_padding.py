"""Padding of batches, so that data of similar size share compiled programs."""

import jax
import numpy as np

from .._types import PyTree
from ._batch import as_batch, Batch, effective_weight
from ._ragged import num_rows, Ragged


# With more rows a fit takes longer than its compilation, so sharing a program saves little.
_MOST = 1 << 16


def padded(batch: PyTree) -> Batch:
    """Returns the batch with rows of weight 0 appended, up to the next of eight sizes per power of two.

    A cross-validation fold or a table with one row less then runs the same compiled programs. Padding is done on
    the host. Blocks of incomplete rows, whose shapes follow from the patterns, ragged rows, and large data are
    returned unpadded.
    """
    batch = as_batch(batch)
    n = num_rows(batch.x)
    step = 1 << max(n.bit_length() - 4, 0)
    more = -n % step
    if batch.blocked or isinstance(batch.x, Ragged) or n == 0 or n > _MOST:
        return batch

    def pad(leaf):
        leaf = np.asarray(leaf)
        return np.concatenate([leaf, np.repeat(leaf[:1], more, 0)])

    weight = effective_weight(jax.tree.map(np.asarray, batch), np)
    weight = np.concatenate([weight, np.zeros(more, weight.dtype)])
    index = None if batch.index is None else pad(batch.index)
    return Batch(jax.tree.map(pad, batch.x), weight=weight, index=index)
