"""Directions in the params along which a model does not change, and which data therefore cannot determine."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from ._free import spread
from ._types import Any, PyTree


class Invariances(NamedTuple):
    """Directions in the params that leave the model unchanged, in groups of disjoint blocks.

    **Fields:**

    - `size`: the number of entries of the params.
    - `groups`: pairs `(places (B, m), tangents (B, g, m))`: B blocks of m entries each, at these places of
        `jax.flatten_util.ravel_pytree(params)`, with g directions in each. They may be linearly dependent.
    """

    size: int
    groups: tuple[tuple[np.ndarray, np.ndarray], ...] = ()

    def dense(self) -> np.ndarray:
        """Returns all directions, shape `(G, size)`."""
        found = [np.zeros((0, self.size))]
        for places, tangents in self.groups:
            blocks, number, _ = tangents.shape
            rows = np.zeros((blocks, number, self.size))
            np.put_along_axis(rows, np.broadcast_to(places[:, None], tangents.shape), tangents, -1)
            found.append(rows.reshape(blocks * number, self.size))
        return np.concatenate(found)

    def dimension(self, free: np.ndarray) -> int:
        """Returns the number of independent directions that leave the entries that are not free unchanged."""
        total = 0
        for places, tangents in self.groups:
            balanced = _balanced(tangents)
            kept = ~free[places][:, None]
            total += int(np.sum(_rank(balanced) - _rank(np.where(kept, balanced, 0))))
        return total


def size_of(params: PyTree) -> int:
    return sum(np.size(leaf) for leaf in jax.tree.leaves(params))


def nothing(params: PyTree) -> Invariances:
    """Returns no directions: every entry of the params changes the model."""
    return Invariances(size_of(params))


def beside(parts: Sequence[Invariances]) -> Invariances:
    """Returns the invariances of params made of these parts, in the order in which JAX flattens them."""
    groups, start = [], 0
    for part in parts:
        groups += [(places + start, tangents) for places, tangents in part.groups]
        start += part.size
    return Invariances(start, tuple(groups))


def beside_by_name(parts: dict[str, Invariances]) -> Invariances:
    """Returns the invariances of a dictionary of params."""
    return beside([parts[name] for name in sorted(parts)])


def shifts(shape: tuple[int, ...], possible: Any = True, axis: int = -1) -> Invariances:
    """Returns the invariances of logits: shifts of all possible ones along `axis`, any change of the others."""
    size = int(np.prod(shape))
    places = np.moveaxis(np.arange(size).reshape(shape), axis, -1).reshape(-1, shape[axis])
    possible = np.moveaxis(np.broadcast_to(possible, shape), axis, -1).reshape(places.shape)
    together = (places, possible.astype(float)[:, None])
    return Invariances(size, (together, *unused(size, places[~possible]).groups))


def unused(size: int, places: np.ndarray) -> Invariances:
    """Returns the invariances of entries that are not used at all."""
    places = np.reshape(places, (-1, 1))
    return Invariances(size, ((places, np.ones((len(places), 1, 1))),))


def of_blocks(tangents: np.ndarray) -> Invariances:
    """Returns the invariances of consecutive blocks, from their tangents `(B, g, m)`."""
    blocks, _, width = tangents.shape
    return Invariances(
        blocks * width, ((np.arange(blocks * width).reshape(blocks, width), tangents),)
    )


def free_entries(free: PyTree, params: PyTree) -> np.ndarray:
    """Returns for each entry of the raveled params whether it may move.

    **Raises** `ValueError` for a tree that is not a prefix of the params.
    """
    flags = jax.tree.map(
        lambda flag, leaf: np.broadcast_to(np.asarray(flag), np.shape(leaf)).reshape(-1),
        spread(free, params),
        params,
    )
    return np.concatenate([np.zeros(0, bool), *jax.tree.leaves(flags)])


def somewhere_near(params: PyTree, free: np.ndarray) -> PyTree:
    """Returns generic params: these with noise on the free entries.

    At a special point, as when a factor has lost its loadings in a fit, the number of directions differs.
    """
    leaves, structure = jax.tree.flatten(params)
    generator, start, moved = np.random.default_rng(0), 0, []
    for leaf in leaves:
        values = np.array(leaf, float)
        here = free[start : start + values.size].reshape(values.shape)
        # Logits of impossible values are infinite: they stay so, and must not set the scale.
        scale = 0.1 * float(np.abs(values[np.isfinite(values)]).sum() / max(values.size, 1)) or 0.1
        noise = scale * generator.normal(size=values.shape)
        moved.append(np.where(here, values + noise, values))
        start += values.size
    return jax.tree.unflatten(structure, moved)


def as_invariances(directions: PyTree, params: PyTree) -> Invariances:
    """Returns invariances from directions in the structure of the params, with one more leading axis.

    **Raises** `ValueError` for arrays of other shapes.
    """
    if jax.tree.structure(directions) != jax.tree.structure(params):
        raise ValueError(
            "invariances: expected directions with the same tree structure as the params, "
            f"{jax.tree.structure(params)}; got {jax.tree.structure(directions)}."
        )
    leaves = [np.asarray(leaf, float) for leaf in jax.tree.leaves(directions)]
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(params)]
    numbers = {leaf.shape[:1] for leaf in leaves}
    if len(numbers) > 1 or any(leaf.shape[1:] != shape for leaf, shape in zip(leaves, shapes)):
        raise ValueError(
            "invariances: expected arrays of the params' shapes with one additional leading axis, "
            f"{[('number', *shape) for shape in shapes]}; got {[leaf.shape for leaf in leaves]}."
        )
    rows = np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], 1)
    return of_blocks(rows[None])


def directions_within(tangents: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Returns a basis of the directions in the span of `tangents` `(G, P)` that leave fixed entries unchanged."""
    size = np.linalg.norm(tangents, axis=0)
    _, values, basis = np.linalg.svd(_balanced(tangents), full_matrices=False)
    basis = basis[: int(np.sum(values > _SMALL))]
    if len(basis) and not free.all():
        basis = null_space(basis[:, ~free].T) @ basis
    # The fixed entries are 0 up to rounding; make them exactly 0.
    return np.where(free, basis * size, 0)


def null_space(matrix: np.ndarray) -> np.ndarray:
    """Returns a basis of the null space of a matrix, as rows. The matrix has columns of length about 1."""
    _, values, right = np.linalg.svd(matrix)
    return right[int(np.sum(values > _SMALL)) :]


def unravel(numbers: np.ndarray, params: PyTree) -> PyTree:
    """Returns these numbers, of any dtype, in the structure of `params`."""
    leaves, structure = jax.tree.flatten(params)
    ends = np.cumsum([np.size(leaf) for leaf in leaves])
    parts = np.split(numbers, ends[:-1])
    return jax.tree.unflatten(
        structure, [p.reshape(np.shape(leaf)) for p, leaf in zip(parts, leaves)]
    )


# For directions of length 1, a smaller singular value is rounding: the direction depends on the others.
_SMALL = 1e-8


def _rank(tangents: np.ndarray) -> np.ndarray:
    return np.sum(np.linalg.svd(tangents, compute_uv=False) > _SMALL, -1)


def _balanced(tangents: np.ndarray) -> np.ndarray:
    """Returns the tangents with entries scaled to one unit, then directions to length 1. The rank is unchanged."""
    size = np.linalg.norm(tangents, axis=-2, keepdims=True)
    return _balanced_rows(tangents / np.where(size > 0, size, 1))


def _balanced_rows(tangents: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(tangents, axis=-1, keepdims=True)
    return tangents / np.where(length > 0, length, 1)
