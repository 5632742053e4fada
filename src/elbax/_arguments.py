"""Checks of arguments."""

import inspect
import math
import operator
import re
from collections.abc import Callable, Collection, Hashable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ._reference import is_reference
from ._types import Any, PyTree


Shape = tuple[Any, ...]
"""Sizes: each is a number, the name of a size that the arrays determine, or a function of the named sizes."""


class Apart(NamedTuple):
    """Shapes with their own named sizes: a size of the same name elsewhere may differ."""

    shapes: PyTree


def check_count(who: str, *, least: int = 1, **numbers: Any) -> None:
    """Raises `TypeError` for a value that is not a whole number, `ValueError` for a number below `least`."""
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int | np.integer):
            raise TypeError(f"{who}: {name} must be a whole number, got {number!r}.")
        if number < least:
            raise ValueError(f"{who}: {name} must be at least {least}, got {number}.")


def whole_numbers(what: str, given: Any) -> tuple[int, ...]:
    """Returns a tuple of whole numbers; raises `TypeError` for anything else."""
    try:
        return tuple(map(operator.index, given))
    except TypeError:
        raise TypeError(f"{what} must be whole numbers, such as (2, 3); got {given!r}.") from None


def tables_of_whole_numbers(what: str, given: Any) -> tuple[tuple[int, ...], ...]:
    """Returns a tuple of tuples of whole numbers; raises `TypeError` for anything else."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"{what} must be a tuple of tuples of whole numbers, got {given!r}.")
    return tuple(whole_numbers(what, those) for those in given)


def check_not_negative(who: str, **numbers: Any) -> None:
    """Raises `TypeError` for a value that is not a number, `ValueError` if it is negative or not finite."""
    for name, number in numbers.items():
        if not _is_number(number):
            raise TypeError(f"{who}: {name} must be a number, got {number!r}.")
        if not 0 <= number < math.inf:
            raise ValueError(f"{who}: {name} must be finite and not negative, got {number}.")


def check_positive(who: str, **numbers: Any) -> None:
    """Raises `TypeError` for a value that is not a number, `ValueError` unless it is positive and finite."""
    for name, number in numbers.items():
        if not _is_number(number):
            raise TypeError(f"{who}: {name} must be a number, got {number!r}.")
        if not 0 < number < math.inf:
            raise ValueError(f"{who}: {name} must be positive and finite, got {number}.")


def _is_number(number: Any) -> bool:
    return isinstance(number, int | float | np.number) and not isinstance(number, bool)


def check_choice(who: str, choices: Collection[Any], **given: Any) -> None:
    """Raises `ValueError` for a value that is not one of the choices."""
    for name, choice in given.items():
        if not isinstance(choice, Hashable) or choice not in choices:
            *most, last = map(repr, choices)
            raise ValueError(f"{who}: {name} must be {', '.join(most)} or {last}; got {choice!r}.")


def in_full(structure: Any) -> Any:
    """Returns the name of a covariance's structure, given as here or as in scikit-learn (`"diag"`)."""
    return "diagonal" if isinstance(structure, str) and structure == "diag" else structure


def check_flag(who: str, **given: Any) -> None:
    """Raises `TypeError` for a value that is not a boolean."""
    for name, flag in given.items():
        if not isinstance(flag, bool | np.bool_):
            raise TypeError(f"{who}: {name} must be True or False, got {flag!r}.")


def check_kind(who: str, kind: type, **given: Any) -> None:
    """Raises `TypeError` for a value that is neither `None` nor an instance of `kind`."""
    for name, one in given.items():
        if one is not None and not isinstance(one, kind):
            public = re.sub(r"\._\w+", "", kind.__module__)
            raise TypeError(f"{who}: {name} must be an {public}.{kind.__name__}, got {one!r}.")


def check_optimizer(who: str, optimizer: Any) -> None:
    """Raises `TypeError` for a value that is not an optax optimizer."""
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(
            f"{who}: optimizer must be an optax optimizer such as optax.adam(1e-3), got {optimizer!r}."
        )


def check_function(who: str, what: str, **given: Any) -> None:
    """Raises `TypeError` for a value that is not callable; `what` is an example for the error."""
    for name, one in given.items():
        if not callable(one):
            raise TypeError(f"{who}: {name} must be a function, such as {what}; got {one!r}.")


def check_schedule(who: str, schedule: Any, dtype: Any = int) -> None:
    """Raises `TypeError` for a function that does not return one number for a step of this dtype."""
    if not callable(schedule):
        return
    try:
        with jax.numpy_dtype_promotion("standard"):
            found = jax.eval_shape(lambda step: jnp.asarray(schedule(step)), jnp.zeros((), dtype))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{who}: the schedule must accept a step number such as 0, but the call raised an error: {error}"
        ) from error
    if found.shape != () or not jnp.issubdtype(found.dtype, jnp.number):
        raise TypeError(
            f"{who}: the schedule must return a single number for each step, got shape {found.shape} and dtype "
            f"{found.dtype}."
        )


def check_key(key: Any, who: str) -> None:
    """Raises `TypeError` for a value that is not a random key."""
    dtype = getattr(key, "dtype", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not (typed or (dtype == jnp.uint32 and jnp.shape(key)[-1:] == (2,))):
        raise TypeError(f"{who}: key must be a random key such as jax.random.key(0); got {key!r}.")


def check_shapes(who: str, **arrays: tuple[Any, Shape]) -> dict[str, int]:
    """Raises `ValueError` for the first `name=(array, shape)` with another shape; returns the named sizes.

    A name stands for a size that the arrays determine; it is the same number everywhere.
    """
    sizes: dict[str, int] = {}
    for name, (array, shape) in arrays.items():
        check_shape(f"{who}: {name}", np.shape(array), shape, sizes)
    return sizes


def check_shape(what: str, found: tuple[int, ...], shape: Shape, sizes: dict[str, int]) -> None:
    """Raises `ValueError` unless `found` is the shape, given the named `sizes`; adds the new ones to `sizes`."""
    new = dict(sizes)
    if len(found) == len(shape):
        for size, seen in zip(shape, found):
            if isinstance(size, str):
                new.setdefault(size, seen)

    def number(size: Any, known: dict[str, int]) -> Any:
        return size(known) if callable(size) else known.get(size, size)

    if found != tuple(number(size, new) for size in shape):
        written = [str(number(size, sizes)) for size in shape]
        raise ValueError(
            f"{what} must have shape ({', '.join(written)}{',' * (len(written) == 1)}), got {found}."
        )
    sizes.update(new)


def check_tree(params: PyTree, shapes: PyTree, who: str, advice: str) -> None:
    """Raises `ValueError` or `TypeError` for params of another structure or other shapes than `shapes`.

    The leaves of `shapes` are shapes as in `check_shapes`, `callable` for a function such as a network, and `None`
    for anything. A `Reference` of a shape is optional: a `Reference` of an array of that shape. Shapes are known
    under a trace too.
    """

    def walk(expected: Any, found: Any, path: str, sizes: dict[str, int]) -> None:
        if expected is None:
            return
        if isinstance(expected, Apart):
            walk(expected.shapes, found, path, {})
        elif expected is callable:
            if not callable(found):
                raise TypeError(
                    f"{who}: params{path} must be a function, such as elbax.Network(network); got {_shown(found)}."
                )
        elif isinstance(expected, dict):
            # A dictionary of params may also hold constants.
            names = found.items() if isinstance(found, dict) else ()
            params = {name for name, inside in expected.items() if not is_reference(inside)}
            if {name for name, node in names if not is_reference(node)} != params:
                raise ValueError(
                    f"{who}: params{path} must be a dictionary with keys {sorted(params)}, got {_shown(found)}. "
                    f"{advice}"
                )
            for name, inside in expected.items():
                if name in params:
                    walk(inside, found[name], f"{path}[{name!r}]", sizes)
                elif name in found:
                    walk(inside.value, found[name].value, f"{path}[{name!r}].value", sizes)
        elif isinstance(expected, list):
            if not isinstance(found, tuple | list) or len(found) != len(expected):
                raise ValueError(
                    f"{who}: params{path} must be a tuple of {len(expected)} arrays, got {_shown(found)}. {advice}"
                )
            for i, (inside, one) in enumerate(zip(expected, found, strict=True)):
                walk(inside, one, f"{path}[{i}]", sizes)
        elif not hasattr(found, "shape"):
            raise TypeError(f"{who}: params{path} must be an array, got {_shown(found)}. {advice}")
        else:
            try:
                check_shape(f"{who}: params{path}", found.shape, expected, sizes)
            except ValueError as error:
                raise ValueError(f"{error} {advice}") from None

    walk(shapes, params, "", {})


def _shown(found: Any) -> str:
    return (
        f"a dictionary with keys {sorted(map(str, found))}"
        if isinstance(found, dict)
        else type(found).__name__
    )


def told(given: Any) -> str:
    """Returns a description of an argument for an error: the shape of an array, the `repr` of anything else."""
    shape = getattr(given, "shape", None)
    return repr(given) if shape is None else f"an array of shape {shape}"


def guide(heading: str) -> str:
    """Returns where the guide on debugging says more, the end of an error."""
    return f" More in docs/guides/debugging.md#{heading}."


def kind_of(given: Any) -> str:
    """Returns the class of an argument for an error, such as "a Local" or "an Exact"."""
    name = type(given).__name__
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"


def takes_key(function: Callable) -> bool:
    """Returns whether a function has an argument `key`, for which a pass over data provides a random key."""
    try:
        found = inspect.signature(function).parameters
    except (TypeError, ValueError):  # A function written in C has no signature.
        return False
    kinds = inspect.Parameter
    if "key" in found:
        return found["key"].kind is not kinds.POSITIONAL_ONLY
    return any(each.kind is kinds.VAR_KEYWORD for each in found.values())


def takes(function: Callable, number: int) -> bool:
    """Returns whether a function can be called with so many arguments; of one without a signature, True."""
    try:
        inspect.signature(function).bind(*range(number))
    except ValueError:
        return True
    except TypeError:
        return False
    return True
