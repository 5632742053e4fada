"""Gaussian components as ellipses."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from .._arguments import check_positive, check_shapes
from ._axes import axes_of, chosen_of


def ellipses(
    means: Any,
    covariances: Any,
    *,
    columns: tuple[int, int] = (0, 1),
    deviations: float = 2.0,
    ax: Axes | None = None,
    **line: Any,
) -> Axes:
    r"""Draws the ellipse of each Gaussian component in two of the columns, $(x - \mu)^\top \Sigma^{-1} (x - \mu) =
    r^2$.

    **Arguments:**

    - `means`: shape `(K, dim)`.
    - `covariances`: shape `(K, dim, dim)`.
    - `columns`: the two columns to draw.
    - `deviations`: the radius r in standard deviations.
    - `ax`: matplotlib axes; those of a new figure by default.
    - `line`: keyword arguments for `ax.plot`; without a color component k has the color `"Ck"`.

    **Returns** the axes.

    ```python
    >>> import elbax.plot, numpy as np
    >>> ax = elbax.plot.ellipses(np.zeros((1, 2)), np.eye(2)[None])
    >>> print(f"{ax.lines[0].get_xdata().max():.1f}")
    2.0

    ```
    """
    who = "ellipses"
    means, covariances = np.asarray(means), np.asarray(covariances)
    check_shapes(who, means=(means, ("K", "dim")), covariances=(covariances, ("K", "dim", "dim")))
    check_positive(who, deviations=deviations)
    chosen = list(chosen_of(who, columns, means.shape[1]))
    if len(chosen) != 2:
        raise ValueError(f"{who}: columns must be two, such as (0, 1); got {columns}.")
    ax = axes_of(who, ax)
    angle = np.linspace(0, 2 * np.pi, 101)
    circle = deviations * np.stack([np.cos(angle), np.sin(angle)])
    for k, (mean, covariance) in enumerate(zip(means, covariances, strict=True)):
        values, vectors = np.linalg.eigh(covariance[np.ix_(chosen, chosen)])
        radii = np.sqrt(np.maximum(values, 0))
        curve = mean[chosen, None] + vectors @ (radii[:, None] * circle)
        ax.plot(*curve, **{"color": f"C{k}", **line})
    return ax
