"""Serialization of states in programs written by `jax.export`."""

import contextlib
import pickle

import equinox as eqx
import jax

from ._state import ELBOState, Info
from ._types import Any, PyTree


_known: set[type] = set()


def exportable(*trees: PyTree) -> None:
    """Registers the classes in these trees with `jax.export`, so that functions of such trees can be serialized.

    Call it on the inputs and outputs that are not arrays, such as the state, before `serialize`, and in the
    process that reads the program before `deserialize`. It registers states and infos, Equinox modules and the
    named tuples of optax, each by its name. Parts of a module that are not arrays go through `pickle`, so do not
    read files that you do not trust.

    **Arguments:**

    - `trees`: pytrees of the same classes as the function's inputs and outputs.

    **Raises**, when serialized, the error of `pickle` for functions that it does not support: local functions, and
    the activations of a network in the posterior. In that case export a function of `jax.tree.leaves(state)`.

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
        with contextlib.suppress(ValueError):  # Already registered by the user.
            _register(kind)
        _known.add(kind)


def _kinds(tree: Any) -> set[type]:
    """Returns the classes of a tree's nodes."""
    node = tree.node_data()
    return set() if node is None else {node[0]}.union(*map(_kinds, tree.children()))


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _register(kind: type) -> None:
    # Imported here, since most programs do not need it and JAX does not import it itself.
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
    # Equinox marks missing fields by a sentinel that is itself a node; rebuilding the tree restores it.
    return jax.tree.map(lambda leaf: leaf, pickle.loads(data))
