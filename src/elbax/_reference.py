"""Constants in a tree, and their separation from its coordinates."""

import equinox as eqx
import jax

from ._types import Any, Callable, PyTree


class Reference(eqx.Module):
    """Marks constants in a tree of params or natural parameters, which no update moves.

    In params they are, for example, the scale of the data; in natural parameters, the point about which these are
    taken. They are not coordinates: they have no statistics and no gradients, and optimizers do not see them.

    **Fields:**

    - `value`: a pytree of arrays.
    """

    value: PyTree


def is_reference(node: Any) -> bool:
    return isinstance(node, Reference)


def without_reference(natural: PyTree, who: str) -> PyTree:
    """Returns natural parameters unchanged if they are about no point, and so the same about any.

    **Raises** `TypeError` if they hold a `Reference`.
    """
    nodes = jax.tree.leaves(natural, is_leaf=is_reference)
    if any(map(is_reference, nodes)):
        raise TypeError(
            f"{who}: its natural parameters hold a Reference, so statistics computed at different params cannot "
            f"be added. To add the statistics of different steps, define {who}.rebase(natural, params)."
        )
    return natural


def split_coordinates(
    tree: PyTree, is_constant: Callable[[Any], bool] = is_reference
) -> tuple[PyTree, PyTree]:
    """Returns (the inexact arrays outside of any `Reference`, the rest); `equinox.combine` joins them again.

    `is_constant` decides which nodes are constants. It must be true of a `Reference`.
    """

    def which(node):
        if is_constant(node):
            return jax.tree.map(lambda _: False, node)
        return eqx.is_inexact_array(node)

    return eqx.partition(tree, jax.tree.map(which, tree, is_leaf=is_constant))
