"""States in programs that `jax.export` writes to files."""

import contextlib
import pickle

import equinox as eqx
import jax

from ._state import ELBOState, Info
from ._types import Any, PyTree


_known: set[type] = set()


def exportable(*trees: PyTree) -> None:
    """Has `jax.export` know what such trees are made of, so that functions of them can be written and read.

    Give it what goes in and comes out, the state and data that are more than arrays, before `serialize`, and where
    the program is read before `deserialize`. Classes are then known by their names: states and infos, equinox's
    modules, the named tuples of optax. What a module holds beside arrays goes through `pickle`, so read no file
    that you do not trust.

    **Raises**, when serialized, what `pickle` does for functions that it cannot take: local ones, and the
    activations of a network in the posterior. Export a function of `jax.tree.leaves(state)` then.

    ```python
    >>> import elbax, jax
    >>> x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(2)
    >>> params = model.init(jax.random.key(0), x)
    >>> em = elbax.em(model)
    >>> state = em.init(params, key=jax.random.key(1))
    >>> elbax.exportable(state)
    >>> (n,) = jax.export.symbolic_shape("n")  # any number of rows
    >>> rows = jax.ShapeDtypeStruct((n, 2), x.dtype)
    >>> sweep = jax.export.export(jax.jit(lambda state, x: em(state, x)))(state, rows)
    >>> state, info = sweep.call(state, x)  # or what `jax.export.deserialize(sweep.serialize())` is

    ```
    """
    kinds = {ELBOState, Info}.union(*map(_kinds, map(jax.tree.structure, trees)))
    for kind in sorted(kinds - _known, key=_name):
        with contextlib.suppress(ValueError):  # One's user has registered it already.
            _register(kind)
        _known.add(kind)


def _kinds(tree: Any) -> set[type]:
    """The classes of a tree's nodes."""
    node = tree.node_data()
    return set() if node is None else {node[0]}.union(*map(_kinds, tree.children()))


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _register(kind: type) -> None:
    # Not needed by those who export nothing, and not imported with JAX.
    from jax import export

    if issubclass(kind, eqx.Module):
        export.register_pytree_node_serialization(
            kind,
            serialized_name=_name(kind),
            serialize_auxdata=pickle.dumps,
            deserialize_auxdata=_loads,
        )
    elif issubclass(kind, tuple) and hasattr(kind, "_fields"):
        export.register_namedtuple_serialization(kind, serialized_name=_name(kind))


def _loads(data: bytes) -> Any:
    # Equinox marks what a module does not have by one object, itself a kind of node: building the tree finds it.
    return jax.tree.map(lambda leaf: leaf, pickle.loads(data))
