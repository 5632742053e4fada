"""The loop, for those who want it written: steps until nothing is gained, and a verdict."""

from collections.abc import Iterator
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._algebra import num_rows, where
from ._arguments import check_count, check_not_negative
from ._batch import as_batch, read
from ._check import check_known, is_concrete
from ._program import by_value, compiled
from ._sharding import automatic
from ._state import ELBOState, Info, unmeasured
from ._types import Any, Array, Bool, Callable, Float, Int, PyTree, Scalar
from ._update import AbstractUpdate, name_of
from .posteriors._monte_carlo import draws_anew
from .posteriors._table import check_places


Code = Literal["converged", "max_steps", "decreased", "nonfinite"]
_CODES: tuple[Code, ...] = ("max_steps", "converged", "decreased", "nonfinite")
_RUNNING, _CONVERGED, _DECREASED, _NONFINITE = range(4)


class Result(eqx.Module):
    """How a fit ended.

    **Fields:**

    - `state`: the last good state, its posterior brought up to its params (`update.settle`).
    - `elbo`: the ELBO there, in nats per datum.
    - `trace`: the ELBO that each step measured before its move, shape `(num_steps,)`, on the host.
    - `num_steps`: how many steps were made.
    - `code`: `"converged"`, `"max_steps"`, `"decreased"` (a step that promises to ascend lowered the
        ELBO of the same batch; the message says if by no more than rounding) or `"nonfinite"`.
    - `message`: what happened, in a sentence.
    """

    state: ELBOState
    elbo: Scalar
    trace: Float[np.ndarray, " num_steps"]
    num_steps: int
    code: Code
    message: str

    @property
    def converged(self) -> bool:
        return self.code == "converged"

    def __str__(self) -> str:
        return f"{self.message} ELBO {float(self.elbo):.6f} nats per datum."

    def __repr__(self) -> str:
        return f"Result({self.code}, {self})"


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


def fit(
    update: AbstractUpdate,
    state: ELBOState,
    batch: PyTree | Iterator[PyTree],
    *,
    max_steps: int = 1000,
    tolerance: float = 1e-7,
    progress: bool = False,
) -> Result:
    """Repeats the update until the ELBO has no more to gain; ends with an E-step and an evaluation.

    A full batch is given again at every step, in one `lax.while_loop` on the device. Then the fit
    has converged once the last gain, and all gains to come by Aitken's extrapolation of their
    geometric series, stay below `tolerance` · (1 + |ELBO|) (as often in a row as `update.patience` says: ten
    times for an update that does not promise to ascend). What rounding hides ends it too, and the message then
    says so. An iterator of batches is run to its end or to `max_steps`; no test of
    convergence or descent is armed there, since successive ELBOs are of different data.

    **Arguments:**

    - `update`, `state`: `state = update.init(params, posterior, key=key)`.
    - `batch`: data with a leading axis, a `Batch`, or an iterator of either.
    - `max_steps`: the most steps to make.
    - `tolerance`: relative gain below which the fit ends; rounding of the ELBO's dtype ends it too.
    - `progress`: shows a bar (needs `elbax[progress]`).

    **Raises** `ValueError` for data that no fit could use (NaN, infinity, nothing to weigh).

    ```python
    >>> import elbax, jax
    >>> x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(2)
    >>> params = model.init(jax.random.key(0), x)
    >>> em = elbax.em(model)
    >>> state = em.init(params, key=jax.random.key(1))
    >>> result = elbax.fit(em, state, x)
    >>> print(result.code, f"{float(result.elbo):.3f}")
    converged -4.155

    ```
    """
    _check(update, state, max_steps, tolerance)
    if isinstance(batch, Iterator):
        return _fit_stream(update, state, batch, max_steps, progress)
    batch = _checked(update, batch)
    check_places(state.posterior, batch, "fit")
    until, tolerance_now = _limits(max_steps, tolerance)
    capacity = _capacity(max_steps)
    begun: Any = state
    if progress:
        with _bar(max_steps) as bar:
            block, now = max(1, max_steps // 100), begun
            while not isinstance(now, _Carry) or (_runs(now) and int(now.step) < max_steps):
                pause = np.minimum(bar.n + block, until)
                now = _run(update, now, batch, pause, tolerance_now, np.asarray(False), capacity)[0]
                bar.update(int(now.step) - bar.n)
                bar.set_postfix_str(f"ELBO {float(np.asarray(now.trace)[bar.n - 1]):.6g}")
        begun = now
    end = _run(update, begun, batch, until, tolerance_now, np.asarray(True), capacity)
    return _result(update, *end, tolerance=tolerance)


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
    _check(update, states, max_steps, tolerance)
    batch = _checked(update, batch)
    (until, gain), capacity, reject = (
        _limits(max_steps, tolerance),
        _capacity(max_steps),
        by_value(reject),
    )
    if short_runs is not None:
        short, kept = short_runs
        check_count("fit_restarts", short_steps=short, number_kept=kept)
        first = np.minimum(short, until)
        states = _best_so_far(update, reject, states, batch, first, gain, capacity, kept)
    ends = _run_lanes(update, reject, states, batch, until, gain, capacity)
    return _restarts(update, *ends, tolerance=tolerance)


def _restarts(update, best, elbos: Array, steps: Array, codes: Array, rejected: Array, tolerance):
    names = tuple(_CODES[code] for code in np.asarray(codes).tolist())
    usable = np.isfinite(elbos) & ~np.asarray(rejected)
    if not np.any(usable):
        raise RuntimeError(
            f"None of {len(names)} restarts can be returned: {int(np.sum(rejected))} were rejected "
            f"(collapsed components), {names.count('nonfinite')} ended nonfinite. Ask for fewer "
            "components, or give the covariances a floor."
        )
    ends = np.sort(np.asarray(elbos)[usable])[::-1]
    num_distinct, num_best = _count_ends(ends, tolerance)
    message = _message_of_ends(len(names), len(ends), num_distinct, num_best)
    return Restarts(
        _result(update, *best, tolerance=tolerance),
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
    slack = 100 * max(tolerance, _resolution(ends.dtype)) * (1 + np.abs(ends[0]))
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


class _Carry(eqx.Module):
    """The loop's own state: where it stands, where it stood, and what was measured on the way."""

    state: ELBOState
    before: ELBOState
    info: Info
    trace: Array
    step: Array
    quiet: Array
    code: Array

    @property
    def running(self) -> Array:
        return self.code == _RUNNING


def _runs(carry: _Carry) -> bool:
    """`running`, on the host: between programs nothing is computed on the device."""
    return int(carry.code) == _RUNNING


def _capacity(max_steps: int) -> int:
    """How long a trace is kept: one program for all numbers of steps between two powers of two."""
    return max(1024, 1 << (max_steps - 1).bit_length())


def _limits(max_steps: int, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(max_steps), np.asarray(tolerance, float)


def _start(update, state, batch, capacity: int) -> tuple[Callable, _Carry]:
    """(the update, traced once for all places that it stands in, the carry of its loop)."""
    step: Any = eqx.filter_closure_convert(update, state, batch)
    info = step.out_struct[1]
    if info.elbo is None:
        raise TypeError(
            f"fit watches the ELBO, but {name_of(update)} measures none. Chain it with a step that makes "
            "a pass over the data, such as an M-step."
        )
    trace = jnp.full(capacity, -jnp.inf, info.elbo.dtype)
    nothing = jnp.zeros((), int)
    running = jnp.full((), _RUNNING)
    return step, _Carry(state, state, unmeasured(info), trace, nothing, nothing, running)


def _loop(update, step, carry: _Carry, batch, until, tolerance) -> _Carry:
    eps = float(jnp.finfo(carry.trace.dtype).eps)
    # A sum over the data rounds by some eps of its size; what falls by less has not fallen.
    slack, resolution = max(1e-10, 64 * eps), _resolution(carry.trace.dtype)
    # A bound under draws is an estimate: what falls may rise, and what gains nothing may gain.
    estimated = update.ascends and draws_anew(carry.state.posterior)
    ascends = update.ascends and not estimated
    patience = max(update.patience, 10) if estimated else update.patience

    def body(carry):
        moved, info = step(carry.state, batch)
        count, now = carry.step, info.elbo
        last = jnp.where(count > 0, carry.trace[count - 1], -jnp.inf)
        gain = now - last
        earlier = jnp.where(count > 1, last - carry.trace[count - 2], 0)
        # Aitken: gains that shrink by a ratio r have gain · r / (1 − r) still to come.
        ratio = jnp.where(count > 1, gain / jnp.where(earlier == 0, 1, earlier), 1)
        to_come = jnp.where(
            jnp.abs(ratio) < 1, jnp.abs(gain * ratio) / (1 - jnp.minimum(ratio, 0.999999)), jnp.inf
        )
        size = 1 + jnp.abs(now)
        still = jnp.maximum(jnp.abs(gain), to_come) <= tolerance * size
        still = (still | (jnp.abs(gain) <= resolution * size)) & (count > 0)
        quiet = jnp.where(still, carry.quiet + 1, 0)
        fell = (gain < -slack * size) & ascends
        code = jnp.where(quiet >= patience, _CONVERGED, _RUNNING)
        code = jnp.where(fell, _DECREASED, code)
        code = jnp.where(jnp.isfinite(now), code, _NONFINITE)
        # The state just measured is bad: stay at the one before, which was measured good.
        back = (code == _DECREASED) | (code == _NONFINITE)
        return _Carry(
            state=where(back, carry.before, moved),
            before=carry.state,
            info=info,
            trace=carry.trace.at[count].set(now),
            step=count + 1,
            quiet=quiet,
            code=code,
        )

    return jax.lax.while_loop(lambda carry: carry.running & (carry.step < until), body, carry)


# In machine epsilons, a fall that rounding explains: residuals of a thousandth of what they are differences of.
_CANCELLED = 1024


def _resolution(dtype: Any) -> float:
    """The relative gain that rounding hides."""
    return 4 * float(jnp.finfo(dtype).eps)


class _Pass(eqx.Module):
    """Where a fit stands as a whole: it moves, then is settled and measured, and once more if that went astray."""

    carry: _Carry
    end: ELBOState
    elbo: Array
    code: Array
    number: Array


def _fit(update, state, batch, until, tolerance, conclude, capacity: int):
    """(the loop's carry, the settled state, its ELBO, the code).

    The measurement of the end is a step whose move is dropped, made by the loop itself: so the update is compiled
    once.
    """
    at = state.state if isinstance(state, _Carry) else state
    step, start = _start(update, at, batch, capacity)
    carry = state if isinstance(state, _Carry) else start
    tolerance = tolerance.astype(carry.trace.dtype)

    def body(now: _Pass) -> _Pass:
        moving = now.number == 0
        probe = eqx.tree_at(lambda probe: probe.state, start, now.end)
        enter = where(moving, now.carry, probe)
        left = _loop(update, step, enter, batch, jnp.where(moving, until, 1), tolerance)
        carry = where(moving, left, now.carry)
        elbo = jnp.where(moving, now.elbo, left.trace[0])
        # The last move, which no step had measured, went astray: one back.
        back = (now.number == 1) & ~jnp.isfinite(elbo)
        code = jnp.where(moving, carry.code, jnp.where(back, _NONFINITE, now.code))
        end = where(moving, carry.state, where(back, carry.before, now.end))
        # Three is the end: after the second measurement, or a first that is finite.
        number = jnp.where(moving | back, now.number + 1, 3)
        return _Pass(carry, update.settle(end, batch), elbo, code, number)

    number = jnp.zeros((), int)
    begin = _Pass(carry, at, jnp.full((), -jnp.inf, carry.trace.dtype), carry.code, number)
    last = jnp.where(conclude, 3, 1)
    done = jax.lax.while_loop(lambda now: now.number < last, body, begin)
    return done.carry, done.end, done.elbo, done.code


_run = compiled(automatic(_fit))


@compiled
@automatic
def _run_lanes(update, reject, states, batch, until, tolerance, capacity: int):
    return _best_of(update, reject, states, batch, until, tolerance, capacity)


def _best_of(update, reject, states, batch, until, tolerance, capacity: int):
    """(the best lane's end, as `_fit` returns it; every lane's ELBO, number of steps, code and rejection)."""

    def one(state):
        end = _fit(update, state, batch, until, tolerance, True, capacity)
        rejected = jnp.zeros((), bool) if reject is None else jnp.any(reject(end[1].params))
        return end, rejected

    (carry, finals, elbos, codes), rejected = jax.vmap(one)(states)
    codes = jnp.where(jnp.isfinite(elbos), codes, _NONFINITE)
    # A lane that went astray was taken back to a finite point, most often on its way to a collapse.
    elbos = jnp.where(codes == _NONFINITE, jnp.nan, elbos)
    usable = jnp.isfinite(elbos) & ~rejected
    winner = jnp.argmax(jnp.where(usable, elbos, -jnp.inf))
    best = jax.tree.map(lambda leaf: leaf[winner], (carry, finals, elbos, codes))
    return best, elbos, carry.step, codes, rejected


@compiled
@automatic
def _best_so_far(update, reject, states, batch, until, tolerance, capacity: int, number: int):
    """The carries of the lanes whose ELBO, last measured, is the highest; first those not rejected nor astray."""

    def one(state):
        carry = _fit(update, state, batch, until, tolerance, False, capacity)[0]
        value = carry.trace[jnp.maximum(carry.step - 1, 0)]
        good = jnp.isfinite(value) & (carry.code != _NONFINITE)
        if reject is not None:
            good &= ~jnp.any(reject(carry.state.params))
        return carry, jnp.where(good, value, -jnp.inf)

    carries, values = jax.vmap(one)(states)
    kept = jax.lax.top_k(values, min(number, len(values)))[1]
    return jax.tree.map(lambda leaf: leaf[kept], carries)


def _result(
    update, carry: _Carry, state: ELBOState, elbo: Scalar, code: Array, tolerance: float
) -> Result:
    num_steps, name = int(carry.step), _CODES[int(code)]
    # Cut on the host: on the device every length would compile a program of its own.
    trace = np.asarray(carry.trace)[:num_steps]
    message = _message(name, update, carry.info, trace, tolerance)
    skipped = int(getattr(state.memory, "skipped", 0))
    if skipped:
        message += f" {name_of(update)} skipped {skipped} of them."
    return Result(state, elbo, trace, num_steps, name, message)


def _message(code: Code, update, info: Info, trace: np.ndarray, tolerance: float) -> str:
    steps = len(trace)
    if code == "converged":
        hidden = _resolution(trace.dtype)
        if tolerance >= hidden:
            return f"Converged after {steps} steps: the ELBO has no more to gain."
        return (
            f"Converged after {steps} steps, as far as {trace.dtype} can tell: it rounds away what a step gains "
            f"below {hidden * (1 + abs(float(trace[-1]))):.1g}, which many steps may add up. float64 sees further."
        )
    if code == "max_steps":
        return f"Stopped after {steps} steps, the most allowed; the ELBO may still rise."
    if code == "decreased":
        fall = float(trace[-2] - trace[-1])
        if fall <= _CANCELLED * np.finfo(trace.dtype).eps * (1 + abs(float(trace[-1]))):
            return (
                f"Step {steps - 1} of {name_of(update)} lowered the ELBO by {fall:.3g}, which is rounding: "
                f"{trace.dtype} cannot tell more where numbers that cancel are large (data far from 0, little "
                "noise). The state before it is returned. float64 sees further."
            )
        return (
            f"Step {steps - 1} of {name_of(update)} lowered the ELBO by {fall:.3g} although it promises "
            "to ascend: a wrong M-step, a model whose statistics are not linear, or rounding. "
            "The state before it is returned."
        )
    culprit = name_of(_nonfinite_part(update, info))
    return (
        f"The ELBO that {culprit} measured at step {max(steps - 1, 0)} is not finite: look for a "
        "collapsed component, a singular covariance, a step size too large, or data outside the "
        "model's support. The last good state is returned."
    )


def _nonfinite_part(update, info: Info):
    """The innermost part of a chain whose ELBO is not finite."""
    if hasattr(update, "update"):
        return _nonfinite_part(update.update, info)
    for part, seen in zip(update.parts, info.parts, strict=False):
        if seen.elbo is not None and not np.isfinite(seen.elbo):
            return _nonfinite_part(part, seen)
    return update


def _fit_stream(update, state, batches, max_steps: int, progress: bool) -> Result:
    carry = batch = None
    capacity = _capacity(max_steps)
    with _bar(max_steps if progress else None) as bar:
        for _, given in zip(range(max_steps), batches, strict=False):
            batch = _checked(update, given)
            if carry is None:
                carry = _begin(update, state, batch, capacity)
            carry = _stream_step(update, carry, batch)
            bar.update(1)
            if not _runs(carry):
                break
    if carry is None:
        raise ValueError("fit: the iterator of batches gave none.")
    end = _run(update, carry, batch, *_limits(0, 0.0), np.asarray(True), capacity)
    return _result(update, *end, tolerance=0.0)


@compiled
def _begin(update, state, batch, capacity: int) -> _Carry:
    return _start(update, state, batch, capacity)[1]


@compiled
@automatic
def _stream_step(update, carry: _Carry, batch) -> _Carry:
    moved, info = update(carry.state, batch)
    good = jnp.isfinite(info.elbo)
    return _Carry(
        state=where(good, moved, carry.before),
        before=carry.state,
        info=info,
        trace=carry.trace.at[carry.step].set(info.elbo),
        step=carry.step + 1,
        quiet=carry.quiet,
        code=jnp.where(good, _RUNNING, _NONFINITE),
    )


def _check(update, state, max_steps, tolerance) -> None:
    if not isinstance(update, AbstractUpdate):
        raise TypeError(f"fit: expected an update such as Chain(...), got {update!r}.")
    if not isinstance(state, ELBOState):
        raise TypeError(
            f"fit: expected the state that update.init(params, posterior, key=key) makes, got a "
            f"{type(state).__name__}."
        )
    check_known("fit", state, _SCAN)
    check_count("fit", max_steps=max_steps)
    check_not_negative("fit", tolerance=tolerance)


_SCAN = "There scan over the update itself: jax.lax.scan(lambda s, _: update(s, batch), state, length=100)."


def _checked(update: AbstractUpdate, batch: PyTree) -> PyTree:
    """The batch, its tables made arrays, looked at where its values are known."""
    check_known("fit", batch, _SCAN)
    batch = read(batch)
    if num_rows(as_batch(batch).x) == 0:
        raise ValueError("fit: the batch is empty.")
    if is_concrete(batch):
        update.check(batch)
    return batch


class _Silence:
    n = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def update(self, count):
        pass


def _bar(total: int | None) -> Any:
    if total is None:
        return _Silence()
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError(
            "fit(progress=True) draws its bar with tqdm: install elbax[progress]."
        ) from error
    return tqdm(total=total, unit="step")
