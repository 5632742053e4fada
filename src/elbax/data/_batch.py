"""A batch of data, and the reduction over it."""

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._arguments import check_count
from .._math.algebra import add, where
from .._program import is_concrete, program
from .._shortcut import rows_at_once
from .._types import Any, AnyArray, Array, Callable, Key, PyTree
from ._incomplete_rows import has_blocks, IncompleteRows, is_incomplete, row_axes
from ._ragged import as_one_table, num_rows, over_groups, Ragged, split_rows
from ._table import as_arrays


class Batch(eqx.Module):
    """Data with weights, a mask or indices of its rows. A plain array (or pytree) `x` means `Batch(x)`.

    **Arguments:**

    - `x`: the data, a pytree of arrays with one leading axis. Data frames and lists of numbers are made arrays.
    - `weight`: how often each row counts, shape `(num_data,)`, or one number for all rows. A minibatch of B rows
        out of N is `Batch(x, weight=N / B)`.
    - `mask`: `False` marks padding, which may hold anything, NaN included. Weight 0 has the same effect.
    - `index`: the rows' positions in the whole data, integers of shape `(num_data,)`. Random draws depend on it,
        so that a row gets the same draws in every batch.
    - `blocked`: whether every array has two leading axes, blocks and the rows in a block, which share the
        `observed` of an `IncompleteRows`; `elbax.incomplete` makes such batches.

    ```python
    >>> import elbax, jax.numpy as jnp
    >>> batch = elbax.Batch(jnp.ones((3, 2)), weight=jnp.array([1.0, 2.0, 0.0]))

    ```
    """

    x: PyTree
    weights: Array | None = None
    mask: Array | None = None
    index: Array | None = None
    scale: float | None = eqx.field(static=True, default=None)
    blocked: bool = eqx.field(static=True, default=False)

    def __init__(
        self,
        x: PyTree,
        weight: Any = None,
        mask: Any = None,
        index: Any = None,
        blocked: bool = False,
    ):
        self.x = as_arrays(x)
        # A number is the same for every batch of a scan: it has no leading axis to scan over.
        constant = isinstance(weight, int | float | np.number)
        if constant and not 0 < weight < math.inf:
            raise ValueError(f"Batch: weight must be positive and finite, got {weight}.")
        self.scale = float(weight) if constant else None
        self.weights = None if constant else _of_rows(weight, "weight", "numbers", "biuf")
        self.mask = _of_rows(mask, "mask", "truth values", "b")
        self.index = _of_rows(index, "index", "whole numbers", "iu")
        self.blocked = blocked

    @property
    def weight(self) -> Array | float | None:
        """The weight as given: an array, one number for all rows, or `None`."""
        return self.scale if self.weights is None else self.weights

    @property
    def padded(self) -> bool:
        """Whether some rows may have weight 0."""
        return self.weights is not None or self.mask is not None


def _of_rows(given: Any, name: str, expected: str, kinds: str) -> Array | None:
    if given is None:
        return None
    array = jnp.asarray(as_arrays(given))
    if array.dtype.kind not in kinds:
        raise TypeError(f"Batch: {name} must hold {expected}, got {array.dtype}.")
    return array


def as_batch(batch: PyTree) -> Batch:
    return batch if isinstance(batch, Batch) else Batch(batch)


def read(batch: PyTree) -> PyTree:
    """Returns the batch, of whatever kind, with its tables made arrays."""
    return batch if isinstance(batch, Batch) else as_arrays(batch)


def reduce_data(
    function: Callable[[PyTree, Array, "Places"], PyTree],
    batch: PyTree,
    key: Key,
    chunk_size: int | None = None,
) -> tuple[PyTree, Array]:
    """Returns (Σᵢ function(xᵢ, wᵢ, placeᵢ), Σᵢ wᵢ). Every pass over data in elbax uses it.

    `function` takes several rows, `(x, weight, places)` with one leading axis (two, blocks and rows, for a blocked
    batch: see `over_rows`), and returns a pytree of sums over them. With `chunk_size` it gets at most that many
    rows at a time, and at least half of that, so that memory does not grow with the number of data. The rows of a
    chunk are strided over the batch: a batch sharded over devices stays so in every chunk.

    A datum's keys are folded from its row, so chunks, shards and padding give the same draws.
    """
    if chunk_size is not None:
        check_count("A pass over data", chunk_size=chunk_size)
    batch = as_batch(batch)
    n = num_rows(batch.x)
    if n == 0:
        raise ValueError("Batch: got no rows; expected at least one.")
    weight, x = effective_weight(batch), jax.tree.map(jnp.asarray, batch.x)
    if batch.blocked and chunk_size is not None:
        chunk_size = max(1, chunk_size // weight.shape[1])
    x = without_padding(batch, x, weight)
    rows = row_numbers(batch)

    total_weight = jnp.sum(weight)

    def run(x, weight, rows):
        found = function(x, weight, places(rows, key))
        if not batch.padded or batch.blocked:
            return found
        # If all rows are padding, no row can replace them, and they may hold anything.
        return jax.tree.map(lambda leaf: jnp.where(total_weight > 0, leaf, 0), found)

    if isinstance(x, Ragged):
        # The rows of a group are as long as its longest: each group has a number of rows at a time of its own.
        totals = [
            _sum_over_chunks(run, part, own, places, _rows_of_group(part, chunk_size))
            for part, own, places in split_rows(x, weight, rows)
        ]
        return functools.reduce(add, totals), total_weight
    return _sum_over_chunks(run, x, weight, rows, chunk_size), total_weight


def _sum_over_chunks(
    run: Callable, x: PyTree, weight: Any, rows: Array, chunk_size: int | None
) -> PyTree:
    n = weight.shape[0]
    if chunk_size is None or chunk_size >= n:
        return run(x, weight, rows)
    take, num_chunks = _chunks(n, chunk_size)
    # Traced once, for its shapes and for the loop.
    run = jax.jit(run, inline=True)

    def step(total, j):
        chunk, valid = take((x, weight, rows), j)
        x_j, weight_j, rows_j = chunk
        valid = jnp.reshape(valid, jnp.shape(valid) + (1,) * (weight.ndim - jnp.ndim(valid)))
        return add(total, run(x_j, jnp.where(valid, weight_j, 0), rows_j)), None

    shapes = jax.eval_shape(lambda: run(*take((x, weight, rows), jnp.zeros((), int))[0]))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    # Differentiating the sum from outside recomputes each chunk instead of storing all of them.
    step = jax.checkpoint(step, prevent_cse=False)
    total, _ = jax.lax.scan(step, zeros, jnp.arange(num_chunks))
    return total


# About how many bytes a pass holds for each number of a ragged row: a few arrays of some values each.
_BYTES = 256


def _rows_of_group(x: PyTree, chunk_size: int | None) -> int:
    """Returns how many rows of a group to process at a time, by default as many as stay in a CPU's cache."""
    if chunk_size is not None:
        return chunk_size
    each = _BYTES * sum(leaf[0].size for leaf in jax.tree.leaves(x))
    return rows_at_once(each, each) or num_rows(x)


class Places(eqx.Module):
    """The positions of rows in the whole data, and two random keys for each: to make q, and to expect under it."""

    row: Array
    keys: tuple[Array, Array]


def places(rows: Array, key: Key) -> Places:
    """Returns the places of these rows; a datum's keys are folded from its row."""
    fold = jax.vmap(jax.random.fold_in, (None, 0))
    fold = jax.vmap(fold, (None, 0)) if rows.ndim == 2 else fold
    # Each by itself: most passes use one of them, and the compiler leaves the other out.
    key_q, key_expectation = jax.random.split(key)
    return Places(rows, (fold(key_q, rows), fold(key_expectation, rows)))


def row_numbers(batch: PyTree) -> Array:
    """Returns the `index` of every row, as given or counted from 0; padding has that of a real row."""
    batch = as_batch(batch)
    weight = effective_weight(batch)
    number = batch.index
    if number is None:
        number = jnp.arange(weight.size).reshape(weight.shape)
    if not batch.padded:
        return number
    return jnp.where(weight > 0, number, number.reshape(-1)[jnp.argmax(weight > 0)])


def effective_weight(batch: Batch, numpy: Any = jnp) -> AnyArray:
    """Returns the weight of every row, shape `(num_data,)`, or `(num_blocks, rows)` for a blocked batch."""
    shape = (num_rows(batch.x),)
    if batch.blocked:
        if batch.weights is None:
            raise ValueError(
                "Batch: a blocked batch must have weights. Make it with elbax.incomplete."
            )
        shape = batch.weights.shape
    for name, leaf in dict(weight=batch.weights, mask=batch.mask, index=batch.index).items():
        one = () if name != "index" else shape
        if leaf is not None and leaf.shape not in (one, shape):
            raise ValueError(
                f"Batch: {name} has shape {leaf.shape}; expected {shape}, one entry for each row of the data."
            )
    scale = 1.0 if batch.scale is None else batch.scale
    weight = numpy.full(shape, scale, jnp.result_type(float))
    if batch.weights is not None:
        weight = weight * numpy.broadcast_to(batch.weights, shape).astype(weight.dtype)
    if batch.mask is not None:
        weight = numpy.where(batch.mask, weight, 0)
    return weight


def where_seen(batch: PyTree, new: PyTree, old: PyTree) -> PyTree:
    """Returns `new`, or `old` if the batch is all padding, from which nothing can be learned."""
    batch = as_batch(batch)
    if not batch.padded:
        return new
    return where(jnp.any(effective_weight(batch) > 0), new, old)


def over_rows(function: Callable, x: PyTree, *others: PyTree) -> PyTree:
    """Returns function(row of x, row of each other array), over all rows (and blocks, if `x` has them).

    The axis has the name `"rows"` inside of the function, for `jax.lax.pmean` in a network that normalizes by the
    batch. Of blocks, or with `chunk_size`, it is the rows that are seen at a time; padding is among them.
    """
    if isinstance(x, Ragged):
        return over_groups(functools.partial(_over_chunks, function), x, *others)
    inside = jax.vmap(function, (row_axes(x), *(0 for _ in others)), axis_name="rows")
    return (jax.vmap(inside) if has_blocks(x) else inside)(x, *others)


def _over_chunks(function: Callable, x: PyTree, *others: PyTree) -> PyTree:
    """Returns the same for the rows of one group, some at a time."""
    n = num_rows(x)
    num_chunks = -(-n // _rows_of_group(x, None))
    if num_chunks <= 1:
        return over_rows(function, x, *others)
    # Chunks of equal size, the last with copies of rows, so that one program serves them all.
    size = -(-n // num_chunks)
    place = (jnp.arange(num_chunks * size) % n).reshape(num_chunks, size)
    some = lambda place: jax.tree.map(lambda leaf: leaf[place], (x, *others))
    found = jax.lax.map(lambda place: over_rows(function, *some(place)), place)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:n], found)


def rows(batch: PyTree) -> tuple[PyTree, Array]:
    """Returns (x, weight) with one leading axis, blocks flattened; padding holds copies of a real row."""
    batch = as_batch(batch)
    if is_concrete(batch) and not (batch.padded or batch.blocked or isinstance(batch.x, Ragged)):
        # Return the data in whatever container they are: there is nothing to compute.
        return batch.x, jax.device_put(effective_weight(batch, np))
    return _device_rows(batch)


@program
def _device_rows(batch: Batch) -> tuple[PyTree, Array]:
    return _rows(eqx.tree_at(lambda batch: batch.x, batch, jax.tree.map(jnp.asarray, batch.x)), jnp)


def host_rows(batch: PyTree) -> tuple[PyTree, np.ndarray]:
    """Returns `rows` in NumPy, for checks: on the device each single operation would compile a program."""
    return _rows(jax.tree.map(np.asanyarray, as_batch(batch)), np)


def _rows(batch: Batch, numpy: Any) -> tuple[PyTree, Any]:
    weight, x = effective_weight(batch, numpy), batch.x
    if isinstance(x, Ragged):
        return as_one_table(x, numpy), weight
    if not batch.blocked:
        return without_padding(batch, x, weight, numpy), weight

    def flat(leaf):
        if is_incomplete(leaf):
            observed = numpy.broadcast_to(leaf.observed[:, None], leaf.values.shape)
            dim = leaf.values.shape[-1]
            return IncompleteRows(leaf.values.reshape(-1, dim), observed.reshape(-1, dim))
        return leaf.reshape((-1, *leaf.shape[2:]))

    return jax.tree.map(flat, x, is_leaf=is_incomplete), weight.reshape(-1)


def without_padding(batch: Batch, x: PyTree, weight: AnyArray, numpy: Any = jnp) -> PyTree:
    """Replaces rows of weight 0 by a real row, so that their contents enter no arithmetic.

    0 · NaN is NaN, and so is its gradient. A blocked or ragged batch is finite everywhere by construction.
    """
    if not batch.padded or batch.blocked or isinstance(x, Ragged):
        return x
    counts, first = weight > 0, numpy.argmax(weight > 0)

    def replace(leaf):
        here = counts.reshape(counts.shape + (1,) * (leaf.ndim - 1))
        return numpy.where(here, leaf, leaf[first])

    return jax.tree.map(replace, x)


def _chunks(n: int, chunk_size: int) -> tuple[Callable, int]:
    """Returns (take, number of chunks), where `take(tree, j)` gives the rows j, j + count, j + 2 count, …"""
    least = -(-n // chunk_size)
    exact = next((count for count in range(least, 2 * least + 1) if n % count == 0), None)
    if exact is not None:
        # A free reshape and a strided slice: nothing is copied, and no row changes its device.
        def take(tree, j):
            def pick(leaf):
                grid = leaf.reshape((n // exact, exact, *leaf.shape[1:]))
                return jax.lax.dynamic_index_in_dim(grid, j, axis=1, keepdims=False)

            return jax.tree.map(pick, tree), True

        return take, exact

    size = -(-n // least)

    def gather(tree, j):
        places = j + least * jnp.arange(size)
        inside = jnp.minimum(places, n - 1)
        return jax.tree.map(lambda leaf: leaf[inside], tree), places < n

    return gather, least
