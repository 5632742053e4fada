"""The scale of the data, to which floors are relative."""

import jax
import jax.numpy as jnp
import numpy as np

from .._reference import is_reference, Reference
from .._types import Any, Array, Float, PyTree
from ..data._check import is_concrete


def positive_variance(variance: Float[Array, "*dim"]) -> Float[Array, "*dim"]:
    """Returns the variances of columns; a constant column gets the mean of all, or 1 if all are constant."""
    others = jnp.mean(variance)
    return jnp.where(variance > 0, variance, jnp.where(others > 0, others, 1))


def with_unit(params: dict, floor: float, variance: Float[Array, "*dim"]) -> dict:
    """Adds the columns' standard deviations to the params, if there is a floor."""
    if not floor:
        return params
    return params | {"unit": Reference(jnp.sqrt(positive_variance(variance)))}


def with_given_unit(
    params: dict, floor: float, unit: Any, variance: Float[Array, "*dim"], who: str
) -> dict:
    """Runs `with_unit` for a description: with the given standard deviations, else with those it implies.

    **Raises** `ValueError` for invalid standard deviations, or those of other columns.
    """
    if unit is None:
        return with_unit(params, floor, variance)
    deviation = jnp.asarray(unit, variance.dtype)
    values = np.asarray(deviation) if is_concrete(deviation) else np.ones(())
    fits = deviation.shape in ((), variance.shape)
    if not (fits and np.all(np.isfinite(values) & (values > 0))):
        raise ValueError(
            f"{who}: unit must hold standard deviations of the data, positive numbers of shape {variance.shape}; "
            f"got {unit!r}."
        )
    return with_unit(params, floor, jnp.broadcast_to(deviation, variance.shape) ** 2)


def floors(params: PyTree, floor: float, who: str) -> Float[Array, "*dim"]:
    """Returns √floor times the unit; the floor adds its square to a scatter.

    **Raises** `ValueError` for params without a unit.
    """
    unit = params.get("unit")
    if not is_reference(unit):
        raise ValueError(
            f"{who}: floor={floor} is relative to the data's scale, but these params do not hold that scale. "
            'Make the params with model.init or model.from_description, or add "unit": elbax.Reference(the '
            "columns' standard deviations). A floor of 0 needs no unit."
        )
    return floor**0.5 * jax.lax.stop_gradient(unit.value)
