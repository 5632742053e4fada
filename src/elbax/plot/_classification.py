"""Rows in the colours of their most probable components."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from .._arguments import kind_of
from .._model import AbstractModel
from .._rows import probabilities
from .._types import PyTree
from ._axes import axes_of, chosen_of, grid_of, table_of
from ._ellipses import ellipses
from ._points import draw_points


def classification(
    model: AbstractModel,
    params: PyTree,
    x: Any,
    *,
    columns: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    deviations: float = 2.0,
    ax: Any = None,
) -> Any:
    r"""Draws rows in the colours of their most probable components, and larger where this is uncertain.

    A point's area grows with $1 - \max_k p(z = k \mid x)$. Components that have means and covariances are drawn as
    ellipses. Two columns make one scatter plot, more columns a grid of all pairs.

    **Arguments:**

    - `model`, `params`: a mixture, `result.model` and `result.params`.
    - `x`: rows, a table of numbers; NaN where a value is missing.
    - `columns`: which columns to draw; all by default.
    - `names`: the names of all columns; by default those of a data frame, or numbers.
    - `deviations`: the radius of the ellipses in standard deviations.
    - `ax`: matplotlib axes, for n > 2 columns an array of them of shape `(n - 1, n - 1)`; those of a new figure by
        default.

    **Returns** the axes, or the array of them.

    **Raises** `TypeError` for a model whose rows do not have one label each, `ValueError` for a table without two
    columns.

    ```python
    >>> import elbax.plot, jax
    >>> x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(2)
    >>> params = model.init(jax.random.key(0), x)
    >>> ax = elbax.plot.classification(model, params, x, names=["eruption", "waiting"])
    >>> ax.get_ylabel()
    'waiting'

    ```
    """
    who = "classification"
    table, names = table_of(who, x, names)
    chosen = chosen_of(who, columns, table.shape[1])
    if len(chosen) < 2:
        raise ValueError(
            f"{who}: expected at least two columns, got {len(chosen)}. For one column use elbax.plot.density."
        )
    shares = probabilities(model, params, x)
    if getattr(shares, "ndim", 0) != 2:
        raise TypeError(
            f"{who}: expected a mixture, whose rows have one label each; got {kind_of(model)}."
        )
    shares = np.asarray(shares)
    labels = np.where(np.isnan(shares).any(1), -1, shares.argmax(1))
    sizes = 8 + 80 * np.nan_to_num(1 - shares.max(1))
    described = model.describe(params)
    parts = [described.get(name) for name in ("means", "covariances")]

    def draw(ax: Axes, first: int, second: int) -> None:
        draw_points(ax, table[:, [first, second]], labels, sizes=sizes)
        if all(part is not None for part in parts):
            ellipses(*parts, columns=(first, second), deviations=deviations, ax=ax)

    number = len(chosen) - 1
    if number == 1:
        first, second = chosen
        ax = axes_of(who, ax)
        draw(ax, first, second)
        ax.set(xlabel=names[first], ylabel=names[second])
        ax.legend(title="component")
        return ax
    size = (2.4 * number, 2.1 * number)
    grid = grid_of(who, ax, number, number, sharex="col", sharey="row", figsize=size)
    for i, j in np.ndindex(number, number):
        cell: Any = grid[i, j]
        if j > i:
            cell.set_axis_off()
            continue
        draw(cell, chosen[j], chosen[i + 1])
        if i == number - 1:
            cell.set_xlabel(names[chosen[j]])
        if j == 0:
            cell.set_ylabel(names[chosen[i + 1]])
    grid[0, 1].legend(*grid[0, 0].get_legend_handles_labels(), title="component", loc="center")
    return grid
