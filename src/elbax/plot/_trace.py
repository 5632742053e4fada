"""The bound of a fit against its steps."""

from collections import Counter

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from .._arguments import kind_of
from .._types import Any
from ..fitting import Restarts, Result
from ._axes import axes_of


def trace(result: Result | Restarts, *, ax: Axes | None = None) -> Axes:
    """Draws the ELBO against the steps of a fit, or of all restarts, with a point at each end.

    The title says how fits ended. Of restarts the best is drawn in colour and the others in grey, those that
    were rejected (collapsed components) or ended nonfinite as dashed lines with a cross.

    **Arguments:**

    - `result`: what `elbax.fit` or `elbax.fit_restarts` returned.
    - `ax`: matplotlib axes; those of a new figure by default.

    **Returns** the axes.

    **Raises** `TypeError` for anything else.

    ```python
    >>> import elbax.plot, jax
    >>> x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(2)
    >>> result = elbax.fit(elbax.em(model), x, key=jax.random.key(0))
    >>> ax = elbax.plot.trace(result)
    >>> ax.get_title(), len(ax.lines[0].get_xdata()) == result.num_steps + 1
    ('converged', True)

    ```
    """
    if not isinstance(result, Result | Restarts):
        raise TypeError(
            "trace: expected the result of elbax.fit or elbax.fit_restarts, got "
            f"{kind_of(result)}. A trace of your own is drawn by elbax.plot.bound."
        )
    ax = axes_of("trace", ax)
    ax.set(xlabel="step", ylabel="ELBO (nats per datum)")
    if isinstance(result, Result):
        _draw(ax, result.trace, result.elbo, color="C0", label="ELBO")
        if result.evidence is not None:
            level = ax.axhline(float(result.evidence), color="0.4", linestyle=":", linewidth=1)
            level.set_label("evidence at the end")
            ax.legend()
        ax.set_title(result.code)
        return ax
    ends = np.asarray(result.elbo)
    lost = np.asarray(result.rejected) | ~np.isfinite(ends)
    for trace, end, elsewhere in zip(result.traces, ends, lost, strict=True):
        label = "rejected" if elsewhere else "others"
        look = {"linestyle": "--", "marker": "x"} if elsewhere else {}
        _draw(ax, trace[np.isfinite(trace)], end, label=label, color="0.65", linewidth=1, **look)
    _draw(ax, result.best.trace, result.best.elbo, color="C0", label="best")
    ax.legend(*_once(*ax.get_legend_handles_labels()), loc="lower right")
    ax.set_title(", ".join(f"{number} {code}" for code, number in Counter(result.codes).items()))
    return ax


def _once(handles: list[Any], labels: list[str]) -> tuple[list[Any], list[str]]:
    """Returns each label with its first handle, the best's first."""
    first = dict(zip(labels[::-1], handles[::-1]))
    return list(first.values()), list(first)


def _draw(ax: Axes, trace: np.ndarray, end: Any, **line: Any) -> Line2D:
    """Draws the ELBO before each step and at the end, which is marked."""
    values = np.append(trace, np.asarray(end))
    return ax.plot(values, **{"marker": "o", "markersize": 4, "markevery": [-1], **line})[0]
