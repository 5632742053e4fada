"""The value at a maximum, and its derivative there."""

import equinox as eqx

from .._types import Any, Callable, PyTree


@eqx.filter_custom_jvp
def at_maximum(value: Callable, argmax: Callable, point: PyTree) -> Any:
    """value(point, argmax(point)), where `argmax` is where `value` is highest in its second argument.

    There the derivative in that argument is 0 (the envelope theorem), so it is left out rather than computed as
    the rounding that is left of it. Derivatives of the derivative take it in.
    """
    return value(point, argmax(point))


@at_maximum.def_jvp
def _(primals, tangents):
    value, argmax, point = primals
    best = argmax(point)
    return eqx.filter_jvp(lambda point: value(point, best), (point,), (tangents[2],))
