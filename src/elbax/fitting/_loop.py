"""Steps until convergence, as one pure function of arrays."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._math.algebra import where
from .._program import compiled
from .._sharding import automatic
from .._state import ELBOState, Info, unmeasured
from .._types import Any, Array, Callable
from .._update import name_of
from ..posteriors._posterior import draws_anew


Code = Literal["converged", "max_steps", "decreased", "nonfinite"]
CODES: tuple[Code, ...] = ("max_steps", "converged", "decreased", "nonfinite")
RUNNING, CONVERGED, DECREASED, NONFINITE = range(4)


class Carry(eqx.Module):
    """The state of the loop: the current and previous states, and what was measured."""

    state: ELBOState
    before: ELBOState
    info: Info
    trace: Array
    step: Array
    quiet: Array
    code: Array

    @property
    def running(self) -> Array:
        return self.code == RUNNING


def runs(carry: Carry) -> bool:
    """Returns `running`, on the host: between programs nothing is computed on the device."""
    return int(carry.code) == RUNNING


def capacity_of(max_steps: int) -> int:
    """Returns the length of the trace: one program serves all numbers of steps between two powers of two."""
    return max(1024, 1 << (int(max_steps) - 1).bit_length())


def limits(max_steps: int, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(max_steps), np.asarray(tolerance, float)


def first_carry(update, state, batch, capacity: int) -> tuple[Callable, Carry]:
    """Returns (the update, traced once for all its uses, the initial carry of its loop)."""
    step: Any = eqx.filter_closure_convert(update, state, batch)
    info = step.out_struct[1]
    if info.elbo is None:
        raise TypeError(
            f"{name_of(update)} does not measure the ELBO, which a fit needs. Chain it with a step that "
            "makes a pass over the data, such as an M-step."
        )
    trace = jnp.full(capacity, -jnp.inf, info.elbo.dtype)
    nothing = jnp.zeros((), int)
    running = jnp.full((), RUNNING)
    return step, Carry(state, state, unmeasured(info), trace, nothing, nothing, running)


def advance(update, step, carry: Carry, batch, until, tolerance) -> Carry:
    eps = float(jnp.finfo(carry.trace.dtype).eps)
    # A sum over the data rounds by some eps of its size; a smaller fall is not a fall.
    slack, resolution = max(1e-10, 64 * eps), resolution_of(carry.trace.dtype)
    # A bound from draws is an estimate: a fall or a lack of gain may be noise.
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
        code = jnp.where(quiet >= patience, CONVERGED, RUNNING)
        code = jnp.where(fell, DECREASED, code)
        code = jnp.where(jnp.isfinite(now), code, NONFINITE)
        # The state just measured is bad: return to the previous one, which was measured good.
        back = (code == DECREASED) | (code == NONFINITE)
        return Carry(
            state=where(back, carry.before, moved),
            before=carry.state,
            info=info,
            trace=carry.trace.at[count].set(now),
            step=count + 1,
            quiet=quiet,
            code=code,
        )

    return jax.lax.while_loop(lambda carry: carry.running & (carry.step < until), body, carry)


def resolution_of(dtype: Any) -> float:
    """Returns the relative gain that rounding hides."""
    return 4 * float(jnp.finfo(dtype).eps)


class _Pass(eqx.Module):
    """The stage of a fit: it moves, is settled and measured, and is measured again if that was not finite."""

    carry: Carry
    end: ELBOState
    elbo: Array
    code: Array
    number: Array


def run(update, state, batch, until, tolerance, conclude, capacity: int):
    """Returns (the loop's carry, the settled state, its ELBO, the code).

    The final measurement is a step of the same loop whose move is dropped, so the update is compiled once.
    """
    at = state.state if isinstance(state, Carry) else state
    step, start = first_carry(update, at, batch, capacity)
    carry = state if isinstance(state, Carry) else start
    tolerance = tolerance.astype(carry.trace.dtype)

    def body(now: _Pass) -> _Pass:
        moving = now.number == 0
        probe = eqx.tree_at(lambda probe: probe.state, start, now.end)
        enter = where(moving, now.carry, probe)
        left = advance(update, step, enter, batch, jnp.where(moving, until, 1), tolerance)
        carry = where(moving, left, now.carry)
        elbo = jnp.where(moving, now.elbo, left.trace[0])
        # The last move, which no step had measured, is not finite: go back by one.
        back = (now.number == 1) & ~jnp.isfinite(elbo)
        code = jnp.where(moving, carry.code, jnp.where(back, NONFINITE, now.code))
        end = where(moving, carry.state, where(back, carry.before, now.end))
        # Stage 3 ends it: after the second measurement, or after a first one that is finite.
        number = jnp.where(moving | back, now.number + 1, 3)
        return _Pass(carry, update.settle(end, batch), elbo, code, number)

    number = jnp.zeros((), int)
    begin = _Pass(carry, at, jnp.full((), -jnp.inf, carry.trace.dtype), carry.code, number)
    last = jnp.where(conclude, 3, 1)
    done = jax.lax.while_loop(lambda now: now.number < last, body, begin)
    return done.carry, done.end, done.elbo, done.code


run_compiled = compiled(automatic(run))
