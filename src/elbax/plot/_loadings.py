"""Loadings as a heat map."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from .._arguments import check_shapes
from .._types import Any
from ._axes import axes_of, names_of


def loadings(loadings: Any, *, names: Sequence[str] | None = None, ax: Axes | None = None) -> Axes:
    """Draws loadings as a table of numbers in colours, red for positive and blue for negative ones.

    **Arguments:**

    - `loadings`: shape `(dim, num_factors)`, as in `model.describe(params)["loadings"]`. Divided by the columns'
        standard deviations they are correlations of columns with factors.
    - `names`: the names of the columns; numbers by default.
    - `ax`: matplotlib axes; those of a new figure by default.

    **Returns** the axes.

    **Raises** `ValueError` for another shape.

    ```python
    >>> import elbax.plot
    >>> ax = elbax.plot.loadings([[0.9, 0.0], [0.8, -0.1]], names=["height", "weight"])
    >>> [text.get_text() for text in ax.texts]
    ['0.90', '0.00', '0.80', '-0.10']

    ```
    """
    loadings = np.asarray(loadings, float)
    check_shapes("loadings", loadings=(loadings, ("dim", "num_factors")))
    dim, number = loadings.shape
    names = names_of("loadings", names, dim, "column ")
    ax = axes_of("loadings", ax, figsize=(2.4 + 0.6 * number, 0.8 + 0.28 * dim))
    largest = np.abs(loadings).max(initial=1e-12)
    ax.imshow(loadings, cmap="RdBu_r", vmin=-largest, vmax=largest, aspect="auto")
    for (i, j), value in np.ndenumerate(loadings):
        color = "white" if abs(value) > 0.6 * largest else "black"
        ax.text(j, i, f"{value:.2f}", ha="center", va="center", color=color, fontsize=8)
    ax.set_xticks(range(number))
    ax.set_yticks(range(dim), names)
    ax.set_xlabel("factor")
    return ax
