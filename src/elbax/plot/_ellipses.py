"""Gaussian components as ellipses over the data."""

from typing import Any

import numpy as np

from .._types import Array, Float


def plot_ellipses(
    axes: Any,
    means: Float[Array, "K dim"],
    covariances: Float[Array, "K dim dim"],
    *,
    columns: tuple[int, int] = (0, 1),
    deviations: float = 2.0,
    **style: Any,
) -> None:
    """Draws the ellipse of each Gaussian component in two of the columns.

    **Arguments:**

    - `axes`: matplotlib axes.
    - `means`: shape `(K, dim)`.
    - `covariances`: shape `(K, dim, dim)`.
    - `columns`: the two columns to draw.
    - `deviations`: the radius in standard deviations.
    - `style`: keyword arguments for `axes.plot`.
    """
    angle = np.linspace(0, 2 * np.pi, 100)
    circle = deviations * np.stack([np.cos(angle), np.sin(angle)])
    chosen = list(columns)
    for mean, covariance in zip(np.asarray(means), np.asarray(covariances), strict=True):
        values, vectors = np.linalg.eigh(covariance[np.ix_(chosen, chosen)])
        radii = np.sqrt(np.maximum(values, 0))
        axes.plot(*(mean[chosen, None] + vectors @ (radii[:, None] * circle)), **style)
