"""The bound after every part of an update."""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from .._arguments import check_count
from .._elbo import elbo_terms
from .._model import models_of
from .._program import compiled
from .._state import ELBOState
from .._types import PyTree
from .._update import AbstractUpdate, Chain, name_of
from ..data._batch import read
from ._axes import axes_of
from ._bound import bound


def staircase(
    update: AbstractUpdate,
    state: ELBOState,
    batch: PyTree,
    num_steps: int = 4,
    *,
    ax: Axes | None = None,
) -> Axes:
    """Draws how each part of an update moves the ELBO: `bound` after every part, with the gains in colours.

    Of EM an E-step raises the ELBO to the evidence, and an M-step raises both and opens the gap again. The ELBO is
    drawn without its global term, log p(θ).

    **Arguments:**

    - `update`: an update, such as `elbax.em(model)`; a chain is drawn part by part.
    - `state`, `batch`: where it begins, and the data of every step.
    - `num_steps`: the number of steps.
    - `ax`: matplotlib axes; those of a new figure by default.

    **Returns** the axes.

    **Raises** `TypeError` for an update without a model, or a model that does not know Bayes' rule.

    ```python
    >>> import elbax.plot, jax
    >>> x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(2)
    >>> em = elbax.em(model)
    >>> state = em.init(model.init(jax.random.key(0), x), key=jax.random.key(1))
    >>> ax = elbax.plot.staircase(em, state, x, 2)
    >>> print(ax.lines[0].get_xdata())
    [0.  0.5 1.  1.5 2. ]

    ```
    """
    who = "staircase"
    check_count(who, num_steps=num_steps)
    if not isinstance(update, AbstractUpdate) or not models_of(update):
        raise TypeError(
            f"{who}: expected an update of a model, such as elbax.em(model); got {update!r}."
        )
    model = models_of(update)[0]
    if not model.exact:
        raise TypeError(
            f"{who}: {type(model).__name__} does not know Bayes' rule, so there is no evidence to draw. Draw the "
            "ELBO alone, elbax.plot.trace(result)."
        )
    values = np.asarray(_values(update, state, read(batch), num_steps))
    parts = update.updates if isinstance(update, Chain) else (update,)
    steps = np.arange(len(values)) / len(parts)
    ax = axes_of(who, ax)
    bound(values[:, 0], values[:, 1], steps=steps, ax=ax)
    for place, part in enumerate(parts):
        ends = np.arange(place, len(values) - 1, len(parts))[:, None] + np.arange(2)
        # One line with gaps for all moves of a part.
        gaps = np.full((len(ends), 1), np.nan)
        moves = [np.concatenate([each[ends], gaps], 1).ravel() for each in (steps, values[:, 1])]
        ax.plot(*moves, "o-", color=f"C{place + 2}", markersize=3, label=name_of(part))
    ax.legend(loc="lower right")
    return ax


@compiled
def _values(update, state, batch, num_steps: int):
    """Returns (evidence, ELBO without its global term) at the start and after every part."""
    model = models_of(update)[0]

    def measure(state):
        terms = elbo_terms(model, state.params, state.posterior, batch)
        return jnp.array([terms.evidence, terms.elbo - terms.global_term])

    def step(state, _):
        walked = update.walk(state, batch) if isinstance(update, Chain) else [update(state, batch)]
        states = [state for state, _ in walked]
        return states[-1], jnp.stack(list(map(measure, states)))

    _, found = jax.lax.scan(step, state, length=num_steps)
    return jnp.concatenate([measure(state)[None], found.reshape(-1, 2)])
