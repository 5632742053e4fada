"""Fits to a stream of batches."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from .._math.algebra import nodes_of, where
from .._model import models_of
from .._program import compiled
from .._sharding import automatic
from ..data._batch import as_batch
from ..data._ragged import num_rows
from ..m_steps import IncrementalMStep
from ._checks import checked
from ._loop import capacity_of, Carry, first_carry, limits, NONFINITE, run_compiled, RUNNING, runs
from ._progress import progress_bar
from ._result import Result, result_of


# Nats per datum of a prior that only keeps components from collapsing.
_NOTHING = 1e-4


def fit_stream(update, state, batches, max_steps: int, progress: bool) -> Result:
    carry = batch = None
    capacity = capacity_of(max_steps)
    with progress_bar(max_steps if progress else None) as bar:
        for _, given in zip(range(max_steps), batches, strict=False):
            batch = checked(update, given)
            if carry is None:
                carry = _begin(update, state, batch, capacity)
            carry = _stream_step(update, carry, batch)
            bar.update(1)
            if not runs(carry):
                break
    if carry is None:
        raise ValueError("fit: the iterator of batches was empty; expected at least one batch.")
    end = run_compiled(update, carry, batch, *limits(0, 0.0), np.asarray(True), capacity)
    result = result_of(update, *end, tolerance=0.0)
    message = result.message
    if result.code == "max_steps" and result.num_steps < max_steps:
        message = f"The batches ended after {result.num_steps} steps; the ELBO may still rise."
    if result.num_steps > 1 and _counts_prior_with_each(update, result.state, batch):
        message += (
            " Each batch counted as all of the data beside the prior of the params. If its B rows stand for N, "
            "pass elbax.Batch(x, weight=N / B)."
        )
    return dataclasses.replace(result, message=message)


def _counts_prior_with_each(update, state, batch) -> bool:
    """Returns whether a batch without weights is added to a prior that should count once for all data."""
    batch = as_batch(batch)
    if batch.weight is not None or nodes_of(IncrementalMStep, update):
        return False
    least = _NOTHING * num_rows(batch.x)
    return any(np.abs(model.log_prior(state.params)) > least for model in models_of(update)[:1])


@compiled
def _begin(update, state, batch, capacity: int) -> Carry:
    return first_carry(update, state, batch, capacity)[1]


@compiled
@automatic
def _stream_step(update, carry: Carry, batch) -> Carry:
    moved, info = update(carry.state, batch)
    good = jnp.isfinite(info.elbo)
    return Carry(
        state=where(good, moved, carry.before),
        before=carry.state,
        info=info,
        trace=carry.trace.at[carry.step].set(info.elbo),
        step=carry.step + 1,
        quiet=carry.quiet,
        code=jnp.where(good, RUNNING, NONFINITE),
    )
