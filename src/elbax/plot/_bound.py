"""The evidence, the ELBO below it, and the gap between."""

import numpy as np
from matplotlib.axes import Axes

from .._arguments import check_shapes
from .._types import Any
from ._axes import axes_of


def bound(evidence: Any, elbo: Any, *, steps: Any = None, ax: Axes | None = None) -> Axes:
    r"""Draws the evidence and the ELBO against steps, with the gap shaded: $\log p(x) - \mathrm{ELBO} =
    \mathrm{KL}(q \| p(z \mid x))$.

    **Arguments:**

    - `evidence`, `elbo`: the values along a run, shape `(num_steps,)`, as a scan over `elbax.evidence` and
        `elbax.elbo` collects them, or in `elbax.elbo_terms`.
    - `steps`: their places, `0, 1, …` by default.
    - `ax`: matplotlib axes; those of a new figure by default.

    **Returns** the axes.

    **Raises** `ValueError` for arrays of different lengths.

    ```python
    >>> import elbax.plot
    >>> ax = elbax.plot.bound([-3.0, -2.0, -1.9], [-4.0, -3.0, -2.0])
    >>> [line.get_label() for line in ax.lines]
    ['evidence', 'ELBO']

    ```
    """
    evidence, elbo = np.asarray(evidence, float), np.asarray(elbo, float)
    steps = np.arange(len(evidence)) if steps is None else np.asarray(steps)
    shape = ("num_steps",)
    check_shapes("bound", evidence=(evidence, shape), elbo=(elbo, shape), steps=(steps, shape))
    ax = axes_of("bound", ax)
    ax.plot(steps, evidence, color="C0", linewidth=2, label="evidence")
    gap = ax.fill_between(steps, elbo, evidence, color="C1", alpha=0.25, linewidth=0)
    gap.set_label("KL(q ‖ p(z | x))")
    ax.plot(steps, elbo, color="C1", linewidth=1.2, label="ELBO")
    ax.set(xlabel="step", ylabel="nats per datum")
    ax.legend(loc="lower right")
    return ax
