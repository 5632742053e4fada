"""Batches of sequences of different lengths."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._math.algebra import num_rows
from .._types import Any, AnyArray, Array, PyTree
from ._check import first_not_finite
from ._incomplete_rows import IncompleteRows, is_incomplete
from ._table import as_arrays


class Sequence(eqx.Module):
    """A sequence, or a batch of sequences, in which steps from `length` on are padding.

    **Fields:**

    - `values`: shape `(T, ...)` (or a pytree of such, or `IncompleteRows`), anything finite in the padding.
    - `length`: a whole number.

    Models of sequences also take a plain array `(T, ...)` as a sequence of full length. `elbax.sequences` makes a
    batch from a list.

    ```python
    >>> import elbax, jax.numpy as jnp
    >>> one = elbax.Sequence(jnp.zeros((5, 2)), jnp.array(3))

    ```
    """

    values: PyTree
    length: Array


def values_of(x: Any) -> PyTree:
    """Returns the steps of a sequence, including padding."""
    return x.values if isinstance(x, Sequence) else x


def as_sequence(x: Any) -> tuple[PyTree, Array, int]:
    """Returns (values, length, number of steps with padding) of one datum, a sequence."""
    values = values_of(x)
    steps = num_rows(values)
    return values, x.length if isinstance(x, Sequence) else jnp.asarray(steps), steps


def without_steps_after(length: Array, found: PyTree) -> PyTree:
    """Returns results of each step of one sequence with NaN in the padding, −1 if they are whole numbers."""

    def one(leaf):
        nothing = jnp.nan if jnp.issubdtype(leaf.dtype, jnp.inexact) else -1
        inside = jnp.arange(len(leaf)) < length
        return jnp.where(inside.reshape((-1,) + (1,) * (leaf.ndim - 1)), leaf, nothing)

    return jax.tree.map(one, found)


def sequences(data: Any, *, lengths: Any = None) -> Sequence:
    """Returns a batch of sequences of different lengths and with gaps, where NaN means missing at random.

    Padding repeats a sequence's last step. Without NaN the result has plain arrays, else `IncompleteRows`, whose
    missing values models of sequences integrate out. It runs on the host, once.

    **Arguments:**

    - `data`: a list of arrays `(length, ...)`, or of pytrees of such; a vector is one column. With `lengths`,
        their concatenation.
    - `lengths`: the number of rows of each sequence, in order, if `data` is one long table.

    **Returns:** a `Sequence` with values of shape `(num_sequences, longest, ...)`.

    **Raises** `ValueError` for sequences without steps or of different kinds, or for lengths that do not add up;
    `TypeError` for a data frame without `lengths`.

    ```python
    >>> import elbax, jax.numpy as jnp
    >>> batch = elbax.sequences([jnp.zeros((5, 2)), jnp.ones((3, 2))])
    >>> batch.values.shape, batch.length
    ((2, 5, 2), Array([5, 3], dtype=int32))

    ```
    """
    if lengths is not None:
        data = as_arrays(data)
        lengths = np.asarray(lengths)
        total = num_rows(data)
        if lengths.ndim != 1 or lengths.sum() != total:
            raise ValueError(
                f"sequences: lengths add up to {lengths.sum()}, but the data have {total} rows."
            )
        ends = np.cumsum(lengths)[:-1]
        leaves, structure = jax.tree.flatten(data)
        parts = zip(*(np.split(np.asarray(leaf), ends) for leaf in leaves))
        data = [jax.tree.unflatten(structure, part) for part in parts]
    elif hasattr(data, "columns"):
        raise TypeError(
            "sequences: got a data frame, which is a single table. Pass the number of rows of each sequence: "
            "lengths=[...]."
        )
    data = list(data)
    if not data:
        raise ValueError("sequences: expected a list of at least one sequence.")
    data = [jax.tree.map(_columns, as_arrays(one)) for one in data]
    counts = [num_rows(one) for one in data]
    if min(counts) < 1:
        raise ValueError(f"sequences: sequence {counts.index(0)} has no steps.")
    shapes = [jax.tree.map(lambda leaf: leaf.shape[1:], one) for one in data]
    for i, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise ValueError(
                f"sequences: sequence {i} has steps of shape {shape}, but sequence 0 has steps of shape "
                f"{shapes[0]}."
            )
    longest = max(counts)

    def pad(*leaves):
        places = [np.minimum(np.arange(longest), len(leaf) - 1) for leaf in leaves]
        values = np.stack([leaf[place] for leaf, place in zip(leaves, places)])
        observed = ~np.isnan(values) if values.dtype.kind == "f" else np.ones(values.shape, bool)
        if observed.all():
            return jnp.asarray(values)
        return IncompleteRows(jnp.asarray(np.where(observed, values, 0)), jnp.asarray(observed))

    return Sequence(jax.tree.map(pad, *data), jnp.asarray(counts))


def _columns(leaf: Any) -> np.ndarray:
    leaf = np.asarray(leaf)
    return leaf[:, None] if leaf.ndim == 1 else leaf


def all_steps(x: Any, weight: AnyArray) -> tuple[PyTree, Any]:
    """Returns (steps, weights): the steps of all sequences as rows, padding with weight 0; NumPy in, NumPy out."""
    numpy: Any = np if isinstance(weight, np.ndarray) else jnp
    values = values_of(x)
    leaf = jax.tree.leaves(values)[0]
    count, steps = leaf.shape[:2]
    length = x.length if isinstance(x, Sequence) else numpy.full(count, steps)
    inside = numpy.arange(steps) < length[:, None]
    flat = jax.tree.map(lambda leaf: leaf.reshape((count * steps, *leaf.shape[2:])), values)
    return flat, numpy.where(inside, weight[:, None], 0).reshape(-1)


def num_observed(steps: PyTree, weight: AnyArray) -> float:
    """Returns the sum of weights of the steps in which something is observed."""
    weight = np.asarray(weight)
    seen = np.zeros(weight.shape, bool)
    for leaf in jax.tree.leaves(steps, is_leaf=is_incomplete):
        if is_incomplete(leaf):
            seen |= np.asarray(leaf.observed).reshape(len(weight), -1).any(1)
        else:
            return float(np.sum(weight))
    return float(np.sum(np.where(seen, weight, 0)))


def _advice(shape: tuple[int, ...], least: int) -> str:
    """Returns advice for an array with too few axes."""
    if 0 in shape or len(shape) not in (1, 2) or len(shape) >= least:
        return ""
    if len(shape) == 1:
        return f"Pass one sequence as x[None{', :, None' * (least > 2)}]. "
    number, steps = shape
    return (
        f"Pass {number} sequences of {steps} steps and one column as x[:, :, None]. Pass one sequence of "
        f"{number} steps and {steps} columns as x[None]. "
    )


def check_sequences(x: Any, weight: AnyArray, who: str, least: int = 2) -> None:
    """Raises `ValueError` for invalid sequences.

    Valid data have at least `least` axes and one step per sequence, and all numbers with positive weight are
    finite.
    """
    values = values_of(x)
    for leaf in jax.tree.leaves(values):
        if leaf.ndim < least or leaf.shape[1] < 1:
            raise ValueError(
                f"{who}: expected sequences of shape (num_sequences, num_steps{', dim' * (least > 2)}); got "
                f"{leaf.shape}. {_advice(leaf.shape, least)}For sequences of different lengths use "
                "elbax.sequences([...])."
            )
    if isinstance(x, Sequence):
        steps = jax.tree.leaves(values)[0].shape[1]
        length = np.asarray(x.length)
        bad = np.flatnonzero((length < 1) | (length > steps))
        if bad.size:
            raise ValueError(
                f"{who}: lengths must be between 1 and {steps}; sequence {bad[0]} has length {length[bad[0]]}."
            )
    found = first_not_finite(*all_steps(x, weight))
    if found is not None:
        row, column, value = found
        sequence, step = divmod(row, jax.tree.leaves(values)[0].shape[1])
        advice = (
            "If it marks a missing value, make the batch with elbax.sequences([...]). Otherwise drop the "
            "sequence"
            if np.isnan(value)
            else "Drop the sequence"
        )
        raise ValueError(
            f"{who}: sequence {sequence}, step {step}, {column} is {value}. {advice}, or give it weight 0 or "
            "mask False in an elbax.Batch."
        )
