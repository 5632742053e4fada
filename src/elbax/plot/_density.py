"""The density of a model over one or two columns."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from .._model import AbstractModel
from .._rows import log_densities, probabilities
from .._types import Any, PyTree
from ._axes import axes_of, chosen_of, names_of, table_of


# The regions of highest density that contours enclose, by their probability.
_CONTENTS = (0.99, 0.9, 0.75, 0.5, 0.25)
_POINTS = {1: 400, 2: 100}


def density(
    model: AbstractModel,
    params: PyTree,
    x: Any = None,
    *,
    columns: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    limits: Any = None,
    ax: Axes | None = None,
) -> Axes:
    r"""Draws $p_\theta(x)$: contours over two columns, or a curve over one with the histogram of the data.

    Contours of $\log p_\theta(x)$ enclose the regions of highest density of a given probability (Hyndman 1996).
    Other columns are integrated out. In one dimension every component of a mixture is drawn too, as $p(x, z = k)$.

    **Arguments:**

    - `model`, `params`: a model of rows, `result.model` and `result.params`.
    - `x`: rows, drawn as points or as a histogram. The window is their range, for two columns with a margin.
    - `columns`: one or two columns; by default all, if there are no more.
    - `names`: the names of all columns; by default those of a data frame, or numbers.
    - `limits`: the window, (lowest, highest) of each drawn column. Without `x` and `limits` it is three standard
        deviations around the means of the description.
    - `ax`: matplotlib axes; those of a new figure by default.

    **Returns** the axes.

    **Raises** `ValueError` for another number of columns, or without anything that tells the window.

    ```python
    >>> import elbax.plot, jax
    >>> x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(2)
    >>> params = model.init(jax.random.key(0), x)
    >>> ax = elbax.plot.density(model, params, x, columns=[1])
    >>> [line.get_label() for line in ax.lines]
    ['p(x)', 'component 0', 'component 1']

    ```
    """
    who = "density"
    table = None
    if x is not None:
        table, names = table_of(who, x, names)
        corners = np.nanmin(table, 0), np.nanmax(table, 0)
    else:
        corners = _around_means(model, params)
        names = names_of(who, names, len(corners[0]), "column ")
    dim = len(names)
    chosen = list(chosen_of(who, columns, dim))
    if len(chosen) not in _POINTS:
        raise ValueError(
            f"{who}: expected one or two columns, got {len(chosen)}. Pass columns=(0, 1); the others are "
            "integrated out."
        )
    window = np.stack([corner[chosen] for corner in corners], 1)
    if limits is not None:
        window = np.reshape(np.asarray(limits, float), window.shape)
    elif table is not None and len(chosen) == 2:
        window = _widened(*window.T)
    whole = table is not None and table.dtype.kind in "iu"
    lines = [_places(low, high, whole, _POINTS[len(chosen)]) for low, high in window]
    grid = np.stack(np.meshgrid(*lines), -1)
    rows = np.full((grid[..., 0].size, dim), np.nan)
    rows[:, chosen] = grid.reshape(-1, len(chosen))
    rows = rows.astype(table.dtype if table is not None and dim == len(chosen) else float)
    found = np.asarray(log_densities(model, params, rows)).reshape(grid.shape[:-1])
    ax = axes_of(who, ax)
    ax.set_xlabel(names[chosen[0]])
    if len(chosen) == 2:
        if table is not None:
            first, second = table[:, chosen].T
            ax.scatter(first, second, s=8, color="0.6", linewidth=0, zorder=0)
        ax.set_ylabel(names[chosen[1]])
        _contours(ax, lines, found)
        return ax
    if table is not None:
        edges: Any = np.append(lines[0], lines[0][-1] + 1) - 0.5 if whole else 30
        column = table[:, chosen[0]]
        column = column[~np.isnan(column)]
        ax.hist(column, edges, density=True, color="0.85", zorder=0)
    look: dict[str, Any] = {"marker": "o", "markersize": 3} if whole else {}
    ax.plot(lines[0], np.exp(found), color="0.2", label="p(x)", **look)
    if model.latent.finite:
        shares = np.asarray(probabilities(model, params, rows))
        for k, share in enumerate(shares.T):
            ax.plot(lines[0], share * np.exp(found), "--", color=f"C{k}", label=f"component {k}")
    ax.set(ylabel="density", ylim=(0, None))
    ax.legend()
    return ax


def _places(low: Any, high: Any, whole: bool, number: int) -> np.ndarray:
    return np.arange(round(low), round(high) + 1) if whole else np.linspace(low, high, number)


def _widened(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Returns the window with a margin; what is positive stays positive."""
    margin = 0.1 * (high - low)
    return np.stack(
        [low - np.where(low > 0, np.minimum(margin, low / 2), margin), high + margin], 1
    )


def _around_means(model: AbstractModel, params: PyTree) -> tuple[np.ndarray, np.ndarray]:
    described = model.describe(params)
    if not {"means", "covariances"} <= set(described):
        raise ValueError(
            f"density: the description of {type(model).__name__} has no means and covariances to choose a window "
            "by. Pass the data, density(model, params, x)."
        )
    means, covariances = (np.asarray(described[name]) for name in ("means", "covariances"))
    reach = 3 * np.sqrt(np.diagonal(covariances, axis1=1, axis2=2))
    return (means - reach).min(0), (means + reach).max(0)


def _contours(ax: Axes, lines: list[np.ndarray], found: np.ndarray) -> None:
    """Draws the borders of the regions of highest density, with their probabilities within the window."""
    sorted_values = np.sort(found.ravel())[::-1]
    content = np.cumsum(np.exp(sorted_values - sorted_values[0]))
    places = np.searchsorted(content, np.array(_CONTENTS) * content[-1])
    levels = dict(zip(sorted_values[places].tolist(), _CONTENTS))
    drawn = ax.contour(
        *lines, found, levels=list(levels), colors="C0", linewidths=1, linestyles="-"
    )
    ax.clabel(drawn, fmt={level: f"{share:.0%}" for level, share in levels.items()}, fontsize=7)
