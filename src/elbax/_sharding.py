"""Data with explicit sharding, which is the default of `jax.make_mesh`."""

import functools

import equinox as eqx
import jax
from jax.sharding import (
    AxisType,
    get_abstract_mesh,
    NamedSharding,
    PartitionSpec,
    reshard,
    use_abstract_mesh,
)

from ._state import ELBOState
from ._types import Any, Callable


def automatic(function: Callable) -> Callable:
    """Returns the function with automatic sharding inside, also for arguments on a mesh with explicit axes.

    On explicit axes JAX asks for the sharding of each operation's result. In a pass over data there is only one
    choice: rows stay on their devices, and sums over them are replicated. So results are replicated on every
    device, except a state, which is sharded like the given one.
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        given = jax.tree.leaves((args, kwargs))
        meshes = (_sharding(leaf).mesh for leaf in given if eqx.is_array(leaf))
        mesh = next((mesh for mesh in (get_abstract_mesh(), *meshes) if mesh.explicit_axes), None)
        if mesh is None:
            return function(*args, **kwargs)
        state = next(filter(_is_state, jax.tree.leaves((args, kwargs), is_leaf=_is_state)), None)
        # Arguments that are returned unchanged are not resharded: a program of nothing else has no known devices.
        untouched = {id(leaf) for leaf in given}

        def enter(leaf):
            placed = eqx.is_array(leaf) and _sharding(leaf).mesh.explicit_axes
            return reshard(leaf, PartitionSpec()) if placed else leaf

        def leave(leaf, before=None):
            if not eqx.is_array(leaf) or id(leaf) in untouched:
                return leaf
            same = before is not None and jax.numpy.shape(before) == leaf.shape
            spec = _sharding(before).spec if same else PartitionSpec()
            return reshard(leaf, NamedSharding(mesh, spec))

        def leave_state(node):
            if _is_state(node) and jax.tree.structure(node) == jax.tree.structure(state):
                return jax.tree.map(leave, node, state)
            return jax.tree.map(leave, node)

        with use_abstract_mesh(
            mesh.update_axis_types(dict.fromkeys(mesh.explicit_axes, AxisType.Auto))
        ):
            args, kwargs = jax.tree.map(enter, (args, kwargs))
            found = function(*args, **kwargs)
        return jax.tree.map(leave_state, found, is_leaf=_is_state)

    return call


def _is_state(node: Any) -> bool:
    return isinstance(node, ELBOState)


def _sharding(leaf: Any) -> Any:
    return jax.typeof(leaf).sharding
