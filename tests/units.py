"""Data in other units of measurement, and the params translated to them."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import elbax
from elbax._reference import split_coordinates


# How the columns of a system may be scaled: each by its own factor, all alike, or without a shift.
SCALINGS = {
    **dict.fromkeys(
        [
            "mixture-full-auto",
            "mixture-full-difference",
            "mixture-tied-auto",
            "mixture-tied-difference",
            "mixture-diagonal-auto",
            "mixture-tied_diagonal-auto",
            "mixture-student",
            "mixture-factors",
            "mixture-product",
            "mixture-regression",
            "experts",
            "factors-diagonal",
            "factors-pattern",
            "hidden-markov",
            "state-space",
            "factorial-hidden-markov",
            "switching",
        ],
        "columns",
    ),
    "mixture-spherical-auto": "alike",
    "factors-isotropic": "alike",
    "mixture-gamma": "positive",
}


@dataclasses.dataclass
class There:
    """The data in other units, and the function that translates params."""

    x: Any
    params: Callable[[Any], Any]


def change_of_units(system):
    """Maps x to a x + b in every column, with a from 1e-6 to 1e6 and b up to about 20 deviations."""
    scaling, model = SCALINGS[system.name], system.model
    x = jax.tree.map(np.asarray, system.x)
    if isinstance(x, tuple):
        return regression(system)
    inner = x["size"] if isinstance(x, dict) else x
    values = inner.values if isinstance(inner, elbax.Sequence) else inner
    dim = values.shape[-1]
    a = np.full(dim, 1e5) if scaling == "alike" else 10.0 ** np.linspace(-6, 6, dim)
    b = 0 * a if scaling == "positive" else a * np.linspace(-20, 20, dim)
    if isinstance(x, dict):
        there = x | {"size": a * x["size"] + b}
    elif isinstance(x, elbax.Sequence):
        there = eqx.tree_at(lambda x: x.values, x, a * values + b)
    else:
        there = a * values + b

    def means(name, value):
        """Returns an entry of a model's description in the other units."""
        value = np.asarray(value)
        squared = lambda: value * a[:, None] * a
        rules = {
            # Of a factorial model, what each state of each chain adds to the offset.
            "means": lambda: a * value + (b if value.ndim < 3 else 0),
            "offset": lambda: a * value + b,
            "mean": lambda: a * value + b,
            "emission_offset": lambda: a * value + b,
            "covariance": squared,
            "covariances": squared,
            "scales": squared,
            "emission_covariance": squared,
            "loadings": lambda: a[:, None] * value,
            "emission": lambda: a[:, None] * value,
            "noise": lambda: a**2 * value,
            "rates": lambda: value / a,
        }
        return rules.get(name, lambda: value)()

    def translate(described):
        if isinstance(described, list):
            return [translate(each) for each in described]
        return {
            name: translate(value) if isinstance(value, dict | list) else means(name, value)
            for name, value in described.items()
        }

    def params(params):
        described = model.describe(params)
        if isinstance(x, dict):
            described["size"] = translate(described["size"])
        else:
            described = translate(described)
        fresh = model.from_description(**described)
        if "emission" in params:
            # The other parts are of the states, which have no columns.
            same = {name: in_unit(fresh[name], params[name], lambda unit: unit) for name in fresh}
            own = in_unit(fresh["emission"], params["emission"], lambda unit: a * unit)
            return same | {"emission": own}
        return in_unit(fresh, params, lambda unit: in_columns(unit, a))

    return There(there, params)


def in_columns(unit, a):
    return a * unit if unit.shape == a.shape else unit


def regression(system):
    """Maps inputs and target to other units, each with its own."""
    inputs, target = map(np.asarray, system.x)
    a, b = 1e-6, 2e-5
    c, d = 1e6, -3e7
    model = system.model

    def slopes(coefficients):
        first = coefficients[:, :1] - b / a * coefficients[:, 1:]
        return np.concatenate([first, coefficients[:, 1:] / a], 1)

    def params(params):
        described = {name: np.asarray(value) for name, value in model.describe(params).items()}
        coefficients = c * slopes(described["coefficients"])
        coefficients[:, 0] += d
        described["coefficients"] = coefficients
        described["deviations"] = c * described["deviations"]
        if "gate" in described:
            described["gate"] = slopes(described["gate"])
        # The inputs' center is transformed like the inputs, the scalar unit like the target.
        units = lambda leaf: c * leaf if leaf.ndim == 0 else a * leaf + b
        return in_unit(model.from_description(**described), params, units)

    return There((a * inputs + b, c * target + d), params)


def in_unit(fresh, params, change):
    """Returns `fresh` with the constants of `params`, such as the unit, in other units."""
    constants = split_coordinates(params)[1]
    constants = jax.tree.map(lambda leaf: np.asarray(change(np.asarray(leaf))), constants)
    constants = jax.tree.map(jnp.asarray, constants)
    return eqx.combine(split_coordinates(fresh)[0], constants)
