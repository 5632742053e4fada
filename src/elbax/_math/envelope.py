"""The value at a maximum and its derivative, by the envelope theorem."""

import equinox as eqx

from .._types import Any, Callable, PyTree


@eqx.filter_custom_jvp
def at_maximum(value: Callable, argmax: Callable, point: PyTree) -> Any:
    """Returns value(point, argmax(point)), where `argmax(point)` maximizes `value` over its second argument.

    The derivative in that argument is 0 there (the envelope theorem). It is omitted, since computing it would only
    give rounding. Higher derivatives include it.
    """
    return value(point, argmax(point))


@at_maximum.def_jvp
def _(primals, tangents):
    value, argmax, point = primals
    best = argmax(point)
    return eqx.filter_jvp(lambda point: value(point, best), (point,), (tangents[2],))
