"""A fit inside of a program: the loop as a pure function."""

from collections.abc import Iterator
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp

from .._arguments import check_count, check_not_negative
from .._program import is_concrete, program
from .._sharding import automatic
from .._state import ELBOState
from .._types import Array, Float, Int, PyTree, Scalar
from .._update import AbstractUpdate
from ..data._batch import read
from ..posteriors._table import check_places
from ._checks import check_one, check_start
from ._loop import Code, CODES, run


class Convergence(eqx.Module):
    """The result of `converge`, in arrays.

    **Fields:**

    - `state`: the last good state, its posterior updated to its params (`update.settle`).
    - `elbo`: the ELBO there, in nats per datum.
    - `trace`: the ELBO that each step measured before its move, shape `(max_steps,)`; −∞ after the last step.
    - `num_steps`: the number of steps made.
    - `code`: the index of the outcome in `Convergence.codes`.
    """

    state: ELBOState
    elbo: Scalar
    trace: Float[Array, " max_steps"]
    num_steps: Int[Array, ""]
    code: Int[Array, ""]

    codes: ClassVar[tuple[Code, ...]] = CODES


@program
@automatic
def _converge(update, state, batch, tolerance, max_steps: int) -> Convergence:
    until = jnp.asarray(max_steps)
    carry, end, elbo, code = run(update, state, batch, until, tolerance, True, max_steps)
    return Convergence(end, elbo, carry.trace, carry.step, code)


def converge(
    update: AbstractUpdate,
    state: ELBOState,
    batch: PyTree,
    *,
    max_steps: int = 1000,
    tolerance: Scalar | float = 1e-7,
) -> Convergence:
    r"""Repeats the update until the ELBO stops increasing, as a pure function of arrays.

    It is the loop of `fit`, for use inside of `jit`, `vmap` or `scan`: fits of many data sets at once, a fit for
    each of many regularizers, a fit as a step of a larger program. The stopping rule is that of `fit`: the last
    gain, and all future gains by Aitken's extrapolation, are below `tolerance` · (1 + |ELBO|). The data are not
    checked first (`update.check(batch)` does that), and there are no messages.

    Under `vmap` each lane stops by itself. Derivatives of the result are in forward mode (`jax.jvp`); for reverse
    mode scan a fixed number of steps instead.

    **Arguments:**

    - `update`, `state`: `state = update.init(params, key=key)`.
    - `batch`: data with a leading axis, or a `Batch`.
    - `max_steps`: the largest number of steps, and the length of the trace; not traced.
    - `tolerance`: the relative gain below which it ends; may be traced.

    **Returns:** a `Convergence`.

    **Raises** `TypeError` for an update that measures no ELBO, for several states and for an iterator.

    ```python
    >>> import elbax, jax
    >>> model = elbax.GaussianMixture(2)
    >>> em = elbax.em(model)
    >>> def fit_one(key, x):
    ...     key_params, key_run = jax.random.split(key)
    ...     state = em.init(model.init(key_params, x), key=key_run)
    ...     return elbax.converge(em, state, x, max_steps=100)
    >>> x = jax.random.normal(jax.random.key(0), (5, 40, 2))  # five data sets
    >>> ends = jax.jit(jax.vmap(fit_one))(jax.random.split(jax.random.key(1), 5), x)
    >>> print(ends.elbo.shape, ends.trace.shape)
    (5,) (5, 100)

    ```
    """
    check_start("converge", update, state)
    check_one("converge", state)
    check_count("converge", max_steps=max_steps)
    if isinstance(batch, Iterator):
        raise TypeError(
            "converge: expected one batch, got an iterator. For a sequence of batches call fit(update, state, "
            "batches), or scan over the update."
        )
    if is_concrete(tolerance):
        check_not_negative("converge", tolerance=tolerance)
    batch = read(batch)
    check_places(state.posterior, batch, "converge")
    return _converge(update, state, batch, jnp.asarray(tolerance), int(max_steps))
