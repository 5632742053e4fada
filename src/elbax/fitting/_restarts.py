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
    """How several fits from different starts ended.

    **Fields:**

    - `best`: the highest of those that ended finite and were not rejected.
    - `elbo`, `num_steps`: each one's end, shape `(num_restarts,)`; NaN for one that ended nonfinite.
    - `codes`: each one's code.
    - `rejected`: which were rejected (collapsed components), however high their ELBO.
    - `num_distinct`: how many different ELBOs there were among the ends that could be returned.
    - `num_best`: how many of them reached the best one.
    - `message`: what that says, in a sentence.

    After short runs these are of the starts that went on.
    """

    best: Result
    elbo: Float[Array, " num_restarts"]
    num_steps: Int[Array, " num_restarts"]
    codes: tuple[Code, ...]
    rejected: Bool[Array, " num_restarts"]
    num_distinct: int
    num_best: int
    message: str

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
    """`fit` from many starts at once, vmapped, and the best of them.

    Each lane stops by itself. `states` is one state with a leading axis, such as

        states = elbax.initial_states(em, x, key=key, num_restarts=32)

    makes of several kinds of starts, or `jax.vmap` over keys of one's own. Many starts of one kind may all
    miss what another finds. Where the best end was reached once only, the answer's `message` says so, and more
    starts are worth their time.

    **Arguments:**

    - `short_runs`: (number of steps, number kept): every start makes so many steps, and only the best go on to
        the end (Biernacki, Celeux and Govaert 2003), such as `(20, 4)` of 100 starts.
    - `reject`: a function of the params, such as `model.collapsed`: an end for which it is true (of any
        component) is flagged and never returned as the best. Where the likelihood is unbounded the
        highest end is often such a one.

    **Raises** `RuntimeError` if every restart was rejected or ended nonfinite.
    """
    check_start("fit_restarts", update, states)
    check_outside("fit_restarts", states)
    check_limits("fit_restarts", max_steps, tolerance)
    batch = checked(update, batch, "fit_restarts")
    return best_of(update, states, batch, max_steps, tolerance, reject, short_runs)


def best_of(update, states, batch, max_steps, tolerance, reject=None, short_runs=None) -> Restarts:
    """`fit_restarts`, of arguments that were looked at."""
    until, gain = limits(max_steps, tolerance)
    capacity, reject = capacity_of(max_steps), by_value(reject)
    if short_runs is not None:
        short, kept = short_runs
        check_count("fit_restarts", short_steps=short, number_kept=kept)
        first = np.minimum(short, until)
        states = _best_so_far(update, reject, states, batch, first, gain, capacity, kept)
    ends = _run_lanes(update, reject, states, batch, until, gain, capacity)
    return _restarts(update, *ends, tolerance=tolerance)


def _restarts(update, best, elbos: Array, steps: Array, codes: Array, rejected: Array, tolerance):
    names = tuple(CODES[code] for code in np.asarray(codes).tolist())
    usable = np.isfinite(elbos) & ~np.asarray(rejected)
    if not np.any(usable):
        raise RuntimeError(
            f"None of {len(names)} restarts can be returned: {int(np.sum(rejected))} were rejected "
            f"(collapsed components), {names.count('nonfinite')} ended nonfinite. Ask for more restarts or fewer "
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
    )


def _count_ends(ends: np.ndarray, tolerance: float) -> tuple[int, int]:
    """(how many ELBOs differ, how many are the highest) of some in descending order.

    Fits of one maximum stop where little is left to gain, some with more left than others.
    """
    slack = 100 * max(tolerance, resolution_of(ends.dtype)) * (1 + np.abs(ends[0]))
    apart = np.flatnonzero(np.diff(ends) < -slack)
    return len(apart) + 1, int(apart[0]) + 1 if len(apart) else len(ends)


def _message_of_ends(number: int, usable: int, num_distinct: int, num_best: int) -> str:
    lost = f", {number - usable} of them rejected or nonfinite" if usable < number else ""
    begin = f"{number} restarts{lost}: "
    if usable == 1:
        return f"{begin}one end to return, so nothing says that it is the best."
    if num_distinct == 1:
        return f"{begin}all ends coincide. Starts of other kinds may find others."
    reached = f"reached by {num_best}" if num_best > 1 else "reached by one only: try more"
    return f"{begin}{num_distinct} distinct ends, the best {reached}."


@compiled
@automatic
def _run_lanes(update, reject, states, batch, until, tolerance, capacity: int):
    """(the best lane's end, as `run` returns it; every lane's ELBO, number of steps, code and rejection)."""

    def one(state):
        end = run(update, state, batch, until, tolerance, True, capacity)
        rejected = jnp.zeros((), bool) if reject is None else jnp.any(reject(end[1].params))
        return end, rejected

    (carry, finals, elbos, codes), rejected = jax.vmap(one)(states)
    codes = jnp.where(jnp.isfinite(elbos), codes, NONFINITE)
    # A lane that went astray was taken back to a finite point, most often on its way to a collapse.
    elbos = jnp.where(codes == NONFINITE, jnp.nan, elbos)
    usable = jnp.isfinite(elbos) & ~rejected
    winner = jnp.argmax(jnp.where(usable, elbos, -jnp.inf))
    best = jax.tree.map(lambda leaf: leaf[winner], (carry, finals, elbos, codes))
    return best, elbos, carry.step, codes, rejected


@compiled
@automatic
def _best_so_far(update, reject, states, batch, until, tolerance, capacity: int, number: int):
    """The carries of the lanes whose ELBO, last measured, is the highest; first those not rejected nor astray."""

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
