"""The fitting loop."""

import dataclasses
from collections.abc import Iterator

import jax
import numpy as np

from .._elbo import evidence
from .._state import ELBOState
from .._types import Any, Key, PyTree, Scalar
from .._update import AbstractUpdate, distinct_models, walk
from ..posteriors._posterior import weights_of
from ..posteriors._table import check_places, tables
from ._checks import check_limits, check_one, check_outside, check_start, checked
from ._data import fit_data
from ._loop import capacity_of, Carry, limits, run_compiled, runs
from ._progress import progress_bar
from ._result import Result, result_of
from ._stream import fit_stream


def fit(
    update: AbstractUpdate,
    state: ELBOState | PyTree = None,
    batch: PyTree | Iterator[PyTree] = None,
    *,
    key: Key | None = None,
    restarts: int | None = None,
    max_steps: int = 1000,
    tolerance: float = 1e-7,
    progress: bool = False,
) -> Result:
    """Repeats the update until the ELBO stops increasing; ends with an E-step and an evaluation.

    `fit(update, state, batch)` starts from a state. `fit(update, batch, key=key, restarts=8)` starts from the data
    and returns the best end. Its starts are those of `initial_states`; ends with collapsed components are
    rejected, as by `fit_restarts` with `reject=model.collapsed`.

    A full batch is used at every step, in one `lax.while_loop` on the device. The fit has converged when the last
    gain, and all future gains by Aitken's extrapolation of their geometric series, are below `tolerance` ·
    (1 + |ELBO|). This must hold `update.patience` times in a row: ten times for an update that does not promise to
    ascend. Gains below rounding end the fit too, and the message then says so. For float64, call
    `jax.config.update("jax_enable_x64", True)` before any array is made.

    An iterator of batches is run to its end or to `max_steps`. There is then no test of convergence or descent,
    because successive ELBOs are of different data.

    **Arguments:**

    - `update`: any update.
    - `state`: `update.init(params, posterior, key=key)`; omit it to start from the data.
    - `batch`: data with a leading axis, a `Batch` (rows with weights are `Batch(x, weight=weight)`), or (with a
        state) an iterator of either.
    - `key`: the random key of starts from the data; given if and only if there is no state.
    - `restarts`: the number of starts from the data; 8 by default.
    - `max_steps`: the largest number of steps. Slow EM needs fewer inside of `elbax.wrappers.Accelerate`.
    - `tolerance`: the relative gain below which the fit ends.
    - `progress`: whether to show a progress bar (needs `elbax[progress]`), for a single fit only.

    **Returns:** a `Result`.

    **Raises** `ValueError` for data that no fit could use (NaN, infinity, zero weight); `TypeError` for a key
    together with a state, for neither, and for a model without a start from data; `RuntimeError` if no restart is
    usable.

    ```python
    >>> import elbax, jax
    >>> x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(2)
    >>> result = elbax.fit(elbax.em(model), x, key=jax.random.key(0))
    >>> print(result.code, f"{float(result.elbo):.3f}")
    converged -4.155

    ```

    From a given state:

    ```python
    >>> params = model.init(jax.random.key(0), x)
    >>> em = elbax.em(model)
    >>> state = em.init(params, key=jax.random.key(1))
    >>> result = elbax.fit(em, state, x)
    >>> print(result.code, f"{float(result.elbo):.3f}")
    converged -4.155

    ```

    With a weight for each row, here days on which 0, 1, 2, … deaths were reported:

    ```python
    >>> days = jax.numpy.array([162, 267, 271, 185, 111, 61, 27, 8, 3, 1])
    >>> deaths = elbax.Batch(jax.numpy.arange(10)[:, None], weight=days)
    >>> poisson = elbax.Mixture(elbax.components.Poisson(), 2)
    >>> result = elbax.fit(elbax.em(poisson), deaths, key=jax.random.key(0), restarts=2)

    ```
    """
    if not isinstance(state, ELBOState) and (state is None or batch is None):
        data = batch if state is None else state
        return fit_data(update, data, key, restarts, max_steps, tolerance, progress)
    check_start("fit", update, state)
    check_one("fit", state)
    if batch is None:
        raise TypeError("fit: got a state and no batch. Call fit(update, state, batch).")
    if key is not None or restarts is not None:
        raise TypeError(
            "fit: got key or restarts together with a state, which has its own key. key and restarts are for a "
            "start from the data, fit(update, batch, key=key, restarts=8). For several states call "
            "fit_restarts(update, states, batch)."
        )
    check_outside("fit", state)
    check_limits("fit", max_steps, tolerance)
    if isinstance(batch, Iterator):
        return fit_stream(update, state, batch, max_steps, progress)
    batch = checked(update, batch)
    check_places(state.posterior, batch, "fit")
    until, tolerance_now = limits(max_steps, tolerance)
    capacity = capacity_of(max_steps)
    begun: Any = state
    if progress:
        with progress_bar(max_steps) as bar:
            block, now = max(1, max_steps // 100), begun
            while not isinstance(now, Carry) or (runs(now) and int(now.step) < max_steps):
                pause = np.minimum(bar.n + block, until)
                now = run_compiled(
                    update, now, batch, pause, tolerance_now, np.asarray(False), capacity
                )[0]
                bar.update(int(now.step) - bar.n)
                bar.set_postfix_str(f"ELBO {float(np.asarray(now.trace)[bar.n - 1]):.6g}")
        begun = now
    end = run_compiled(update, begun, batch, until, tolerance_now, np.asarray(True), capacity)
    result = result_of(update, *end, tolerance=tolerance)
    return dataclasses.replace(result, evidence=_evidence(update, result.state, batch))


def _evidence(update: AbstractUpdate, state: ELBOState, batch: PyTree) -> Scalar | None:
    """Returns log p(x) where it says more than the ELBO: of a learned posterior, by Bayes' rule."""
    models = distinct_models(update)
    learned = jax.tree.leaves(weights_of(state.posterior)) and not tables(state.posterior)
    if len(models) != 1 or not learned:
        return None
    if not (models[0].exact and models[0].has_evidence):
        return None
    chunk_sizes = (getattr(part, "chunk_size", None) for part in walk(update))
    chunk_size = next((size for size in chunk_sizes if size is not None), None)
    try:
        return evidence(models[0], state.params, batch, chunk_size=chunk_size)
    except ValueError:  # Exact inference is out of reach, which is why the posterior is learned.
        return None
