"""Constants that stand in a tree beside its coordinates, and how the two are told apart."""

import equinox as eqx
import jax

from ._types import Any, Callable, PyTree


class Reference(eqx.Module):
    """Constants of a tree: among natural parameters what these are taken about, among params what no update
    moves, such as the scale of the data.

    They are no coordinates: no statistic and no gradient is theirs, and no optimizer sees them.
    """

    value: PyTree


def is_reference(node: Any) -> bool:
    return isinstance(node, Reference)


def split_coordinates(
    tree: PyTree, is_constant: Callable[[Any], bool] = is_reference
) -> tuple[PyTree, PyTree]:
    """(the inexact arrays outside of any `Reference`, the rest), to be joined again by `equinox.combine`.

    `is_constant` says what else is none, and must say so of a `Reference`.
    """

    def which(node):
        if is_constant(node):
            return jax.tree.map(lambda _: False, node)
        return eqx.is_inexact_array(node)

    return eqx.partition(tree, jax.tree.map(which, tree, is_leaf=is_constant))
