"""The base class of E-steps that move the rows of a table."""

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from .._arguments import kind_of
from .._model import AbstractModel
from .._pass import Pass, per_datum, weighted_sum, with_base
from .._state import ELBOState, Info
from .._types import Any, Key, PyTree
from .._update import AbstractUpdate
from ..data._batch import (
    as_batch,
    effective_weight,
    over_rows,
    places,
    row_numbers,
    where_seen,
    without_padding,
)
from ..posteriors._table import AbstractTable


class AbstractLocalStep(AbstractUpdate):
    """Improves the table's entries of the rows in the batch, each independently.

    All other entries are unchanged, bit for bit.
    """

    model: AbstractModel
    chunk_size: eqx.AbstractVar[int | None]

    kind: ClassVar[type[AbstractTable]]
    """The class of tables that it moves."""

    form: ClassVar[str]
    """How a user writes such a table, for errors."""

    @abc.abstractmethod
    def improve(
        self, form: AbstractModel, natural: PyTree, x: PyTree, table: Any, entry: PyTree, key: Key
    ) -> PyTree:
        """Returns the entry of one datum after the step, under the model's form at prepared natural parameters."""

    @property
    def usual_posterior(self) -> str:
        return self.form

    def init_memory(self, params: PyTree, posterior: PyTree) -> PyTree:
        if not isinstance(posterior, self.kind):
            raise TypeError(
                f"{type(self).__name__}: got {kind_of(posterior)} posterior; expected a table with one q "
                f"for each row of the data. Start from {self.form}."
            )
        return ()

    def __call__(self, state: ELBOState, batch: PyTree) -> tuple[ELBOState, Info]:
        key, now = jax.random.split(state.key)
        batch, table = as_batch(batch), state.posterior
        weight, rows = effective_weight(batch), row_numbers(batch)
        x = without_padding(batch, jax.tree.map(jnp.asarray, batch.x), weight)
        each = places(rows, now)

        def run(form, chunk_size):
            prepared = form.prepare(form.draw(form.natural(state.params), now))

            def one(x, place):
                key_elbo, key_step = place.keys
                entry = table.entry(place.row)
                value = form.elbo(prepared, x, table.at(entry), key_elbo)
                return value, self.improve(form, prepared, x, table, entry, key_step)

            if chunk_size is None or batch.blocked:
                return over_rows(one, x, each)
            return jax.lax.map(lambda row: one(*row), (x, each), batch_size=chunk_size)

        over = Pass(self.model, state.params, table, batch, now, self.chunk_size)
        (values, entries), base = over.in_the_faster_form(run)
        # Padding has no row of its own: its place is past the end, where nothing is written.
        target = jnp.where(weight > 0, rows, table.num_rows).reshape(-1)

        def write(old, new):
            return old.at[target].set(new.reshape((-1, *old.shape[1:])), mode="drop")

        moved = eqx.tree_at(lambda t: t.table, table, jax.tree.map(write, table.table, entries))
        total = with_base(weighted_sum(weight, values), base)
        total = where_seen(batch, total, jnp.zeros_like(total))
        weight = jnp.sum(weight).astype(values.dtype)
        bound = per_datum(total, self.model.global_term(state.params, now), weight)
        return state.replace(posterior=moved, key=key), Info(bound)
