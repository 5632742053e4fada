"""Fits from many starts at once, and the best of them."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._arguments import check_count
from .._program import by_value, compiled
from .._sharding import automatic
from .._state import ELBOState
from .._types import Array, Bool, Callable, Float, Int, PyTree
from .._update import AbstractUpdate
from ._checks import check_limits, check_outside, check_start, checked
from ._loop import capacity_of, Code, CODES, limits, NONFINITE, resolution_of, run
from ._result import Result, result_of


class Restarts(eqx.Module):
    """The results of several fits from different starts.

    **Fields:**

    - `best`: the `Result` of highest ELBO among those that are finite and not rejected.
    - `elbo`, `num_steps`: for each fit, shape `(num_restarts,)`; the ELBO, in nats per datum, is NaN if nonfinite.
    - `codes`: the code of each fit.
    - `rejected`: which fits were rejected (collapsed components), however high their ELBO.
    - `num_distinct`: the number of distinct ELBOs among the usable fits. Params of one ELBO may differ: in the
        order of components, by an invariance of the model, or along a flat ridge.
    - `num_best`: the number of fits that reached the best one.
    - `message`: a summary in words.
    - `traces`: the trace of each fit, shape `(num_restarts, longest)`, as a NumPy array; NaN after its last step.

    After short runs these describe only the starts that were continued.
    """

    best: Result
    elbo: Float[Array, " num_restarts"]
    num_steps: Int[Array, " num_restarts"]
    codes: tuple[Code, ...]
    rejected: Bool[Array, " num_restarts"]
    num_distinct: int
    num_best: int
    message: str
    traces: Float[np.ndarray, "num_restarts longest"]

    def __str__(self) -> str:
        return f"{self.message} ELBO {float(self.best.elbo):.6f} nats per datum."

    def __repr__(self) -> str:
        return f"Restarts({self})"


def fit_restarts(
    update: AbstractUpdate,
    states: ELBOState,
    batch: PyTree,
    *,
    max_steps: int = 1000,
    tolerance: float = 1e-7,
    reject: Callable[[Any], Array] | None = None,
    short_runs: tuple[int, int] | None = None,
) -> Restarts:
    """Runs `fit` from many starts at once, vmapped, and returns the best end.

    Each lane stops by itself. `states` is one state with a leading axis, made by `jax.vmap` over keys or by

        states = elbax.initial_states(em, x, key=key, num_restarts=32)

    which uses several kinds of starts. Many starts of one kind may all miss an optimum that another kind finds. If
    only one fit reached the best end, `message` says so, and more starts are worthwhile.

    **Arguments:**

    - `update`, `batch`, `max_steps`, `tolerance`: as for `fit`.
    - `states`: the initial states, with a leading axis.
    - `short_runs`: (number of steps, number kept): every start runs for so many steps, and only the best continue
        (Biernacki, Celeux and Govaert 2003), such as `(20, 4)` for 100 starts.
    - `reject`: a function of the params, such as `model.collapsed`. An end for which it is true (for any
        component) is marked and never returned as the best. If the likelihood is unbounded, the highest end is
        often such an end.

    **Returns:** a `Restarts`.

    **Raises** `RuntimeError` if every restart was rejected or ended nonfinite.
    """
    check_start("fit_restarts", update, states)
    check_outside("fit_restarts", states)
    check_limits("fit_restarts", max_steps, tolerance)
    batch = checked(update, batch, "fit_restarts")
    return best_of(update, states, batch, max_steps, tolerance, reject, short_runs)


def best_of(update, states, batch, max_steps, tolerance, reject=None, short_runs=None) -> Restarts:
    """Runs `fit_restarts` on arguments that have been checked."""
    until, gain = limits(max_steps, tolerance)
    capacity, reject = capacity_of(max_steps), by_value(reject)
    if short_runs is not None:
        short, kept = short_runs
        check_count("fit_restarts", short_steps=short, number_kept=kept)
        first = np.minimum(short, until)
        states = _best_so_far(update, reject, states, batch, first, gain, capacity, kept)
    ends = _run_lanes(update, reject, states, batch, until, gain, capacity)
    return _restarts(update, *ends, tolerance=tolerance)


def _restarts(update, best, elbos, traces, steps, codes, rejected, tolerance) -> Restarts:
    names = tuple(CODES[code] for code in np.asarray(codes).tolist())
    usable = np.isfinite(elbos) & ~np.asarray(rejected)
    if not np.any(usable):
        raise RuntimeError(
            f"None of {len(names)} restarts ended at a usable result: {int(np.sum(rejected))} were rejected "
            f"(collapsed components), {names.count('nonfinite')} ended nonfinite. Use more restarts or fewer "
            "components, or give the covariances a floor."
        )
    ends = np.sort(np.asarray(elbos)[usable])[::-1]
    num_distinct, num_best = _count_ends(ends, tolerance)
    message = _message_of_ends(len(names), len(ends), num_distinct, num_best)
    return Restarts(
        result_of(update, *best, tolerance=tolerance),
        elbos,
        steps,
        names,
        rejected,
        num_distinct,
        num_best,
        message,
        _until_the_end(np.asarray(traces), np.asarray(steps)),
    )


def _until_the_end(traces: np.ndarray, steps: np.ndarray) -> np.ndarray:
    places = np.arange(steps.max())
    return np.where(places < steps[:, None], traces[:, : len(places)], np.nan)


def _count_ends(ends: np.ndarray, tolerance: float) -> tuple[int, int]:
    """Returns (the number of distinct ELBOs, the number of highest ones), for ELBOs in descending order.

    Fits that converge to one maximum stop at slightly different gains.
    """
    slack = 100 * max(tolerance, resolution_of(ends.dtype)) * (1 + np.abs(ends[0]))
    apart = np.flatnonzero(np.diff(ends) < -slack)
    return len(apart) + 1, int(apart[0]) + 1 if len(apart) else len(ends)


def _message_of_ends(number: int, usable: int, num_distinct: int, num_best: int) -> str:
    lost = f", {number - usable} of them rejected or nonfinite" if usable < number else ""
    begin = f"{number} restarts{lost}: "
    if usable == 1:
        return f"{begin}only one is usable, so no other restart confirms it as the best."
    if num_distinct == 1:
        return f"{begin}all ends have the same ELBO. Starts of other kinds may find others."
    reached = f"reached by {num_best}" if num_best > 1 else "reached only once: use more restarts"
    return f"{begin}{num_distinct} distinct ends, the best {reached}."


@compiled
@automatic
def _run_lanes(update, reject, states, batch, until, tolerance, capacity: int):
    """Returns (the best lane's `run`; every lane's ELBO, trace, number of steps, code and rejection)."""

    def one(state):
        end = run(update, state, batch, until, tolerance, True, capacity)
        rejected = jnp.zeros((), bool) if reject is None else jnp.any(reject(end[1].params))
        return end, rejected

    (carry, finals, elbos, codes), rejected = jax.vmap(one)(states)
    codes = jnp.where(jnp.isfinite(elbos), codes, NONFINITE)
    # A nonfinite lane was returned to a finite point, most often on its way to a collapse.
    elbos = jnp.where(codes == NONFINITE, jnp.nan, elbos)
    usable = jnp.isfinite(elbos) & ~rejected
    winner = jnp.argmax(jnp.where(usable, elbos, -jnp.inf))
    best = jax.tree.map(lambda leaf: leaf[winner], (carry, finals, elbos, codes))
    return best, elbos, carry.trace, carry.step, codes, rejected


@compiled
@automatic
def _best_so_far(update, reject, states, batch, until, tolerance, capacity: int, number: int):
    """Returns the carries of the lanes of highest last measured ELBO; rejected and nonfinite lanes come last."""

    def one(state):
        carry = run(update, state, batch, until, tolerance, False, capacity)[0]
        value = carry.trace[jnp.maximum(carry.step - 1, 0)]
        good = jnp.isfinite(value) & (carry.code != NONFINITE)
        if reject is not None:
            good &= ~jnp.any(reject(carry.state.params))
        return carry, jnp.where(good, value, -jnp.inf)

    carries, values = jax.vmap(one)(states)
    kept = jax.lax.top_k(values, min(number, len(values)))[1]
    return jax.tree.map(lambda leaf: leaf[kept], carries)
