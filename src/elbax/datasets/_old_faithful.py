"""Eruptions of the Old Faithful geyser."""

import importlib.resources

import jax.numpy as jnp
import numpy as np

from .._types import Array, Float


def old_faithful() -> Float[Array, "272 2"]:
    """Returns 272 eruptions of the Old Faithful geyser, Yellowstone, in October 1980.

    The columns are the duration of the eruption and the waiting time to the next, both in minutes. It is the same
    table as R's `datasets::faithful`.

    Source: W. Härdle (1991), Smoothing Techniques with Implementation in S, Springer; A. Azzalini and A. W. Bowman
    (1990), A look at some data on the Old Faithful geyser, Applied Statistics 39, 357-365.
    """
    file = importlib.resources.files("elbax.datasets") / "old_faithful.csv"
    with file.open() as lines:
        return jnp.asarray(np.loadtxt(lines, delimiter=",", skiprows=1), dtype=float)
