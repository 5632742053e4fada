"""Tables with NaN for missing values, grouped by the pattern of missing columns."""

import jax
import jax.numpy as jnp
import numpy as np

from .._arguments import check_count
from .._math.algebra import num_rows
from .._types import PyTree
from ._batch import as_batch, Batch, effective_weight
from ._check import check_weights
from ._incomplete_rows import IncompleteRows


def incomplete(x: PyTree, *, block_size: int | None = None) -> Batch:
    """Returns a batch of data in which NaN means missing, at random given what is observed (Rubin 1976).

    Rows are grouped by their missing columns, in blocks of equal size whose last rows may be padding of weight 0.
    A model thus prepares each pattern once per block (a Gaussian: which part of its precision to invert) and
    multiplies matrices as for complete data. It runs on the host, once.

    **Arguments:**

    - `x`: an array of shape `(num_data, dim)`, a pytree of such arrays (mixed-type columns), or a `Batch` of
        either.
    - `block_size`: the number of rows in a block; by default the largest power of two up to 512 that pads by a
        quarter or less.

    **Returns:** a blocked `Batch` with values `(num_blocks, block_size, dim)` and `observed` `(num_blocks, dim)`.

    **Raises** `ValueError` if a row of positive weight is missing in all columns: it says nothing.

    ```python
    >>> import elbax, jax.numpy as jnp
    >>> x = jnp.array([[1.0, 2.0], [jnp.nan, 3.0], [2.0, 1.0], [0.0, jnp.nan]])
    >>> batch = elbax.incomplete(x, block_size=2)
    >>> batch.x.values.shape, batch.x.observed.shape
    ((3, 2, 2), (3, 2))

    ```
    """
    batch = as_batch(x)
    if batch.blocked:
        raise ValueError(
            "incomplete: got a batch that is already grouped by its missing columns. Use this batch as it is."
        )
    leaves, structure = jax.tree.flatten(batch.x)
    leaves = [np.asarray(leaf) for leaf in leaves]
    n = num_rows(leaves)
    observed = [
        ~np.isnan(leaf) if leaf.dtype.kind == "f" else np.ones(leaf.shape, bool) for leaf in leaves
    ]
    missing = [not seen.all() for seen in observed]
    # Complete arrays stay as they are; if all are complete, all are put in blocks.
    wrapped = missing if any(missing) else [True for _ in leaves]
    if not all(leaf.ndim == 2 for leaf, wrap in zip(leaves, wrapped) if wrap):
        raise ValueError(
            "incomplete: expected tables of shape (num_data, dim); got shapes "
            f"{[leaf.shape for leaf in leaves]}. Pass one column as x[:, None]. Pass sequences with missing "
            "values as elbax.sequences([...])."
        )
    weight = np.asarray(effective_weight(batch))
    check_weights(weight, "incomplete")
    index = np.arange(n) if batch.index is None else np.asarray(batch.index)
    together = np.concatenate([seen.reshape(n, -1) for seen in observed], axis=1)
    if block_size is not None:
        check_count("incomplete", block_size=block_size)
    empty = ~together.any(1) & (weight > 0)
    if empty.any():
        raise ValueError(
            f"incomplete: row {int(np.flatnonzero(empty)[0])} is missing in all columns. Drop it, or give it "
            "weight 0."
        )
    # Rows of weight 0 are left out, whatever they hold.
    real_rows = np.flatnonzero(weight > 0)
    _, of_row, counts = np.unique(
        together[real_rows], axis=0, return_inverse=True, return_counts=True
    )
    of_row = of_row.reshape(-1)
    size = _block_size(counts) if block_size is None else block_size

    # Each pattern's rows in order, padded with its last row at weight 0.
    order = real_rows[np.argsort(of_row, kind="stable")]
    starts = np.concatenate([[0], np.cumsum(counts)])
    places, real = [], []
    for start, count in zip(starts[:-1], counts):
        padded = -(-count // size) * size
        places.append(order[start + np.minimum(np.arange(padded), count - 1)])
        real.append(np.arange(padded) < count)
    rows = np.concatenate(places).reshape(-1, size)
    counts_for_something = np.concatenate(real).reshape(-1, size)

    def block(leaf, seen, wrap):
        if not wrap:
            return jnp.asarray(leaf[rows])
        values = np.where(seen, leaf, 0) if leaf.dtype.kind == "f" else leaf
        return IncompleteRows(jnp.asarray(values[rows]), jnp.asarray(seen[rows[:, 0]]))

    return Batch(
        jax.tree.unflatten(structure, list(map(block, leaves, observed, wrapped))),
        weight=np.where(counts_for_something, weight[rows], 0),
        index=index[rows],
        blocked=True,
    )


def _block_size(counts: np.ndarray) -> int:
    total = counts.sum()
    sizes = [512, 256, 128, 64, 32, 16, 8, 4, 2, 1]
    return next(size for size in sizes if np.sum(-(-counts // size) * size) <= 1.25 * total)
