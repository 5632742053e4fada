"""Maps methods written for one datum over the leading axes of a batch."""

import functools
import inspect

import jax
import jax.numpy as jnp

from .._types import Any, Callable, PyTree


def rowwise(*kinds: str) -> Callable[[Callable], Callable]:
    """Decorates a method of a family or of a distribution whose arguments are of these kinds.

    `"natural"` and `"potentials"` are natural parameters (of the family, and of the family that its bound takes),
    `"z"` is a latent, `"key"` a random key, `"function"` a function and `"q"` the distribution itself. The method
    is mapped over leading axes. An argument without leading axes is shared by all rows, and the key is split into
    one per row. If no argument has leading axes, the method is called directly.

    **Raises** `ValueError` for arguments with different leading axes, with fewer axes than one datum has, or of
    other sizes than the family's.
    """

    def decorate(method):
        signature = inspect.signature(method)

        @functools.wraps(method)
        def mapped(self, *arguments, **named):
            arguments = list(signature.bind(self, *arguments, **named).args)
            who = f"{type(self).__name__}.{method.__name__}"
            family, first = (self.family, 0) if kinds[0] == "q" else (self, 1)
            given = dict(zip(kinds, arguments[first:]))
            depths = {kind: _depth(who, family, kind, value) for kind, value in given.items()}
            if not any(depths.values()):
                return method(*arguments)
            batch = _batch(who, given, depths)
            if given.get("key") is not None:
                given["key"], depths["key"] = jax.random.split(given["key"], batch), len(batch)
            mapped = {kind: value for kind, value in given.items() if depths[kind]}

            def one(mapped):
                return method(*arguments[:first], *(given | mapped).values())

            for _ in batch:
                one = jax.vmap(one)
            return one(mapped)

        return mapped

    return decorate


def map_over_rows(cls: type, kinds: dict[str, tuple[str, ...]]) -> None:
    """Applies `rowwise` to all methods with these names that a class defines itself."""
    for name in kinds.keys() & vars(cls).keys():
        setattr(cls, name, rowwise(*kinds[name])(vars(cls)[name]))


def _depth(who: str, family: Any, kind: str, argument: PyTree) -> int:
    """Returns the number of leading axes of an argument."""
    if kind in ("key", "function"):
        return 0
    if kind == "q":
        return argument.batch_ndim
    of = family.of_potentials if kind == "potentials" else family
    if kind == "z":
        # Of several arrays the first one tells.
        depth = jnp.ndim(jax.tree.leaves(argument)[0]) - of.event_ndim
    else:
        depth = of.batch_ndim(argument)
    if depth < 0:
        raise ValueError(
            f"{who}: got {_NAMES[kind]} of shapes {_shapes(argument)}, which have fewer axes than those of one "
            "datum."
        )
    if kind != "z" and of.natural_shapes is not None:
        _check_shapes(who, _NAMES[kind], argument, of.natural_shapes)
    return depth


def _check_shapes(who: str, name: str, argument: PyTree, expected: tuple) -> None:
    """Raises an error if the last axes of the arrays have other sizes, which would be broadcast."""
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(argument)]
    pairs = zip(shapes, expected, strict=False)
    last = (shape[max(len(shape) - len(own), 0) :] for shape, own in pairs)
    if len(shapes) != len(expected) or tuple(last) != expected:
        raise ValueError(
            f"{who}: got {name} of shapes {_shapes(argument)}; those of one datum have shapes {expected}."
        )


_NAMES = {
    "natural": "natural parameters",
    "potentials": "potentials",
    "z": "values of z",
    "q": "arrays of q",
}


def _batch(who, given, depths):
    """Returns the leading axes shared by all arguments that have any."""
    leading = {}
    for kind, argument in given.items():
        if depths[kind]:
            found = {jnp.shape(leaf)[: depths[kind]] for leaf in jax.tree.leaves(argument)}
            if len(found) > 1:
                raise ValueError(
                    f"{who}: all {_NAMES[kind]} of a batch must have the same leading axes; got shapes "
                    f"{_shapes(argument)}."
                )
            leading[_NAMES[kind]] = found.pop()
    if len({*leading.values()}) > 1:
        raise ValueError(
            f"{who}: the arguments must have the same leading axes or none, because the rows are matched one by "
            f"one; got {leading}. For several values of each row use jax.vmap: jax.vmap(q.log_prob)(z)."
        )
    return next(iter(leading.values()))


def _shapes(tree: PyTree) -> PyTree:
    return jax.tree.map(jnp.shape, tree)
