"""A criterion against the size of models."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from .._arguments import check_choice, check_kind
from ..diagnostics import Selection
from ..diagnostics._selection import Criterion, LABELS
from ._axes import axes_of


def selection(
    selection: Selection, criterion: Criterion | None = None, *, ax: Axes | None = None
) -> Axes:
    """Draws a criterion against the size of the models, one line for each kind of model, and marks the best.

    The size is the first entry of `model.summary()`, as the number of components; what else distinguishes the
    models, as the structure of covariances, names the lines.

    **Arguments:**

    - `selection`: the result of `elbax.diagnostics.select`. A model without a usable restart is left out.
    - `criterion`: `"bic"`, `"aic"`, `"aicc"`, `"icl"`, `"held_out"` or `"elbo"`; by default the one that selected.
    - `ax`: matplotlib axes; those of a new figure by default.

    **Returns** the axes.

    **Raises** `ValueError` for a criterion that was not computed.

    ```python
    >>> import elbax.plot, jax
    >>> x = elbax.datasets.old_faithful()
    >>> models = {f"{k}": elbax.GaussianMixture(k, "tied") for k in (1, 2)}
    >>> table = elbax.diagnostics.select(models, x, key=jax.random.key(0), num_restarts=1)
    >>> ax = elbax.plot.selection(table)
    >>> print(ax.lines[0].get_xdata())
    [1 2]

    ```
    """
    who = "selection"
    check_kind(who, Selection, selection=selection)
    by = selection.by if criterion is None else criterion
    check_choice(who, LABELS, criterion=by)
    values = _values(selection, by)
    if not values:
        missing = "held_out data" if by == "held_out" else "models with a finite latent"
        raise ValueError(
            f"{who}: the selection has no {LABELS[by]}, which select computes for {missing}."
        )
    summaries = {name: list(selection.models[name].summary().values()) for name in values}
    told = [len(set(entries)) > 1 for entries in zip(*summaries.values())]
    lines: dict[str, list[str]] = {}
    for name, (_, *kind) in summaries.items():
        kind = [str(entry) for entry, varies in zip(kind, told[1:]) if varies]
        lines.setdefault(", ".join(kind), []).append(name)
    ax = axes_of(who, ax)
    for kind, names in lines.items():
        names = sorted(names, key=lambda name: summaries[name][0])
        sizes = np.array([summaries[name][0] for name in names])
        ax.plot(sizes, [values[name] for name in names], "o-", markersize=4, label=kind)
    highest = by in ("held_out", "elbo")
    best = (max if highest else min)(values, key=values.__getitem__)
    ax.scatter(
        summaries[best][0], values[best], 120, "none", edgecolor="black", label=f"best: {best}"
    )
    size = next(iter(selection.models[best].summary()))
    which = "highest" if highest else "lowest"
    ax.set(xlabel=size, ylabel=f"{LABELS[by]} (the {which} is best)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend()
    return ax


def _values(selection: Selection, by: Criterion) -> dict[str, float]:
    """Returns the criterion of every model that has it."""
    if by == "held_out":
        return {name: float(value) for name, value in selection.held_out.items()}
    if by == "elbo":
        return {name: value for name, value in selection.bounds.items() if value is not None}
    found = {name: getattr(row, by) for name, row in selection.rows.items() if row is not None}
    return {name: float(value) for name, value in found.items() if value is not None}
