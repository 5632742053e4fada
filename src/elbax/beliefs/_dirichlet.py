"""Dirichlet beliefs over rows of probabilities."""

import jax
import jax.numpy as jnp
import numpy as np

from .._math.special import log_minus_digamma
from .._types import Any, Array
from ..data._check import is_concrete
from ..priors import Dirichlet
from ._belief import AbstractOnePrior
from ._divergence import dirichlet_divergence
from ._flags import whole


FLAT = "elbax.priors.Dirichlet(1.0)"
"""A prior of rows, for errors."""


class DirichletBelief(AbstractOnePrior):
    r"""Dirichlets over rows of probabilities, the last axis: q is log α, whose softmax is the mean.

    $E_q[\log \pi_k] = \psi(\alpha_k) - \psi(\sum_j \alpha_j)$. The best α is the prior's plus the expected counts.

    **Arguments:**

    - `prior`: the `Dirichlet` of every row.
    - `possible`: which entries exist, as booleans that broadcast; by default those with a finite logarithm.
    - `table`: the shape of the rows, if the params have another one.
    """

    def __init__(self, prior: Dirichlet, possible: Any = None, table: tuple | None = None):
        self.prior, self.possible, self.table = prior, possible, table

    def _rows(self, q: Array) -> tuple[Array, Any]:
        """Returns the rows, and which of their entries are possible."""
        rows = q if self.table is None else q.reshape(self.table)
        possible = rows > -jnp.inf if self.possible is None else np.asarray(self.possible)
        return rows, jnp.broadcast_to(possible, rows.shape)

    def start(self, params, count):
        rows, possible = self._rows(params)
        count = jnp.reshape(count, jnp.shape(count) + (1,) * (rows.ndim - jnp.ndim(count)))
        shares = jax.nn.softmax(jnp.where(possible, rows, -jnp.inf), where=possible)
        fresh = jnp.log(self.prior.concentration + count * shares)
        return jnp.where(possible, fresh, rows).reshape(params.shape)

    def counts(self, q: Array) -> Array:
        """Returns the expected number of data of each entry."""
        rows, possible = self._rows(q)
        return jnp.where(possible, jnp.exp(rows) - self.prior.concentration, 0).reshape(q.shape)

    def shapes(self, shapes):
        return shapes

    def point(self, q):
        return q

    def log_mean(self, q: Array) -> Array:
        """Returns log E[π], and 0 where impossible."""
        rows, possible = self._rows(q)
        return jnp.where(possible, rows - _log_total(rows, possible), 0).reshape(q.shape)

    def gain(self, q: Array) -> Array:
        """Returns E[log π] − log E[π], and 0 where impossible."""
        rows, possible = self._rows(q)
        total = jnp.exp(_log_total(rows, possible))
        alpha = jnp.where(possible, jnp.exp(rows), 1)
        gain = log_minus_digamma(total) - log_minus_digamma(alpha)
        return jnp.where(possible, gain, 0).reshape(q.shape)

    def natural(self, q):
        return self.log_mean(q) + self.gain(q)

    def posterior(self, statistics, q, free):
        rows, possible = self._rows(q)
        counts = jnp.where(possible, statistics.reshape(rows.shape), 0)
        best = jnp.where(possible, jnp.log(self.prior.concentration + counts), rows)
        if not isinstance(free, bool):
            like = np if is_concrete(free) else jnp
            free = like.reshape(like.broadcast_to(free, q.shape), rows.shape)
        # A mask that frees a part of a row would not leave the rest of it optimal.
        free = whole(free, rows.shape, "probabilities")
        return jnp.where(free, best, rows).reshape(q.shape)

    def divergence(self, q):
        rows, possible = self._rows(q)
        prior = jnp.where(possible, self.prior.concentration, 1).astype(rows.dtype)
        alpha = jnp.where(possible, jnp.exp(rows), 1)
        log_mean = self.log_mean(q).reshape(rows.shape)
        return {"": jnp.sum(dirichlet_divergence(log_mean, alpha, prior, possible))}

    def sample(self, q, key):
        rows, possible = self._rows(q)
        draws = jax.random.loggamma(key, jnp.where(possible, jnp.exp(rows), 1))
        return jnp.where(possible, draws, rows).reshape(q.shape)


def _log_total(rows: Array, possible: Array) -> Array:
    """Returns log Σ α of each row; 0 for a row without possible entries."""
    some = jnp.any(possible, -1, keepdims=True)
    entries = jnp.where(possible | ~some, jnp.where(some, rows, 0), -jnp.inf)
    return jnp.where(some, jax.nn.logsumexp(entries, -1, keepdims=True), 0)
