"""Counts with a common total."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln

from .._arguments import check_kind
from .._free import log_shares
from .._invariance import shifts
from .._math.algebra import difference, log, matmul
from .._math.special import half_deviance, highest_log_mass
from .._reference import Reference
from .._shortcut import Shortcut
from ..data._check import check_described, check_row, check_table, check_values
from ..data._incomplete_rows import is_incomplete, known
from ..families._undefined import where_defined
from ..priors import Dirichlet
from ..priors._shares import vanished
from ._component import AbstractComponent
from ._support import is_count, known_within, LARGEST_EXPANDED, log_reciprocal_factorials


# Up to this many columns each component's own deviance is computed, else that of one center for all.
_FEW_COLUMNS = 8


class Multinomial(AbstractComponent):
    r"""Multinomial counts: $p(x \mid k) = \binom{\sum_j x_j}{x_1 \cdots x_D} \prod_j \pi_{kj}^{x_j}$.

    x has shape `(dim,)` and holds counts: a bag of words. Its total is taken as given. Params: `{"logits": (K,
    dim)}`.

    **Arguments:**

    - `prior`: a `Dirichlet` prior on the probabilities.

    ```python
    >>> import elbax, jax, jax.numpy as jnp
    >>> x = jnp.array([[5, 1, 0], [7, 0, 1], [0, 3, 4], [1, 4, 2]])
    >>> model = elbax.Mixture(elbax.components.Multinomial(), 2)
    >>> model.describe(model.init(jax.random.key(0), x))["probabilities"].shape
    (2, 3)

    ```
    """

    prior: Dirichlet | None = None

    def __check_init__(self):
        check_kind("Multinomial", Dirichlet, prior=self.prior)

    def check(self, x, weight, who, *, varied=False):
        if is_incomplete(x):
            raise ValueError(
                f"{who}: got missing values, but the columns of a Multinomial share one total, so none may be "
                "missing. For independent counts use elbax.components.Poisson()."
            )
        check_table(x, weight, who, varied=False)
        check_values(x, weight, who, lambda x: (x < 0) | (x != np.round(x)), "counts 0, 1, 2, ...")

    def table(self, x):
        """Returns square roots of frequencies."""
        counts = super().table(x)
        total = jnp.sum(counts, -1, keepdims=True)
        return jnp.sqrt(counts / jnp.where(total > 0, total, 1))

    def init(self, x, weight, assignment, num_components):
        """Returns frequencies in the parts, shrunk slightly to the overall frequencies."""
        counts = x.astype(weight.dtype)
        weighted = weight[:, None] * counts
        parts = jax.ops.segment_sum(weighted, assignment, num_components)
        whole = jnp.sum(weighted, 0) + 1e-3
        whole = whole / jnp.sum(whole)
        mixed = parts + (1 + 0.1 * jnp.sum(parts, -1, keepdims=True)) * whole
        return {"logits": jax.nn.log_softmax(jnp.log(mixed))}

    def shapes(self, num_components):
        return {"logits": (num_components, "dim")}

    def natural(self, params):
        """Returns changes of log π from its current value."""
        logits = jax.nn.log_softmax(params["logits"])
        nothing = jnp.zeros(logits.shape[:1], logits.dtype)
        about = Reference({"logits": logits, "surplus": nothing})
        return {"logits": jnp.zeros_like(logits), "about": about}

    def rebase(self, natural, params):
        about = self.natural(params)["about"]
        gap = difference(natural["about"].value["logits"], about.value["logits"])
        return {"logits": natural["logits"] + gap, "about": about}

    def prepare(self, natural):
        logits = natural["about"].value["logits"]
        if logits.shape[-1] <= _FEW_COLUMNS:
            return natural
        # Log-ratios to one center for all components; the density does not depend on the center.
        center = jax.lax.stop_gradient(jax.nn.log_softmax(jnp.mean(logits, 0)))
        ratio = logits - center
        # The excess of the probabilities' sum over the center's, from rounding; a deviance includes it too.
        surplus = matmul(jnp.expm1(ratio), jnp.exp(center))
        about = Reference({"logits": center, "surplus": surplus})
        return {"logits": ratio + natural["logits"], "about": about}

    def log_densities(self, natural, x):
        about = natural["about"].value
        check_row(x, about["logits"].shape[-1], "Multinomial")
        counts, _, possible = known_within(x, is_count, about["logits"].dtype)
        total = jnp.sum(counts)
        # Independent Poisson counts given their sum, each by its deviance: no large numbers are subtracted.
        log_total = jnp.log(jnp.where(total > 0, total, 1))
        loss = jnp.sum(half_deviance(counts, about["logits"] + log_total), -1)
        highest = jnp.sum(highest_log_mass(counts)) - highest_log_mass(total)
        reference = jnp.where(total > 0, highest - loss, 0) - total * about["surplus"]
        return reference + matmul(natural["logits"], counts) + possible

    def maximize(self, statistics, params, free):
        counts = statistics["logits"]
        if self.prior is not None:
            counts = counts + self.prior.pseudo_count
        seen = jnp.sum(counts, -1, keepdims=True) > jnp.finfo(counts.dtype).tiny
        logits = log_shares(counts, params["logits"], free["logits"])
        return {"logits": jnp.where(seen, logits, params["logits"])}

    def log_prior(self, params):
        if self.prior is None:
            return 0.0
        return self.prior.log_density(jax.nn.log_softmax(params["logits"]))

    def shortcut(self, params, x):
        logits = jax.nn.log_softmax(params["logits"])
        # The sum of the products in the longest row, in its component.
        entropy = jnp.max(jnp.sum(jnp.where(logits > -jnp.inf, -logits * jnp.exp(logits), 0), -1))
        total = jnp.max(jnp.sum(known(x)[0].astype(logits.dtype), -1))
        # The coefficient's factorials add up to about total · log total.
        size = total * (1 + jnp.maximum(entropy, jnp.log(jnp.maximum(total, 1))))
        base = functools.partial(_log_coefficient, dtype=logits.dtype)
        return Shortcut(size <= LARGEST_EXPANDED, _Expanded(self.prior), base)

    def describe(self, params):
        """Returns probabilities, `(K, dim)`."""
        return {"probabilities": jax.nn.softmax(params["logits"])}

    def from_description(self, *, probabilities):
        check_described("Multinomial", probabilities=(probabilities, ("K", "dim"), "shares"))
        return {"logits": log(jnp.asarray(probabilities, float))}

    def sample(self, params, component, key, inputs=None):
        """Returns one row; `inputs` is its total (100 by default)."""
        logits = params["logits"][component]
        total = jnp.asarray(100 if inputs is None else inputs, logits.dtype)
        drawn = jax.random.multinomial(key, total, jax.nn.softmax(logits))
        return where_defined(~jnp.any(jnp.isnan(logits)), drawn)

    def invariances(self, params):
        return shifts(params["logits"].shape)

    def at_boundary(self, params, least):
        return {"logits": vanished(params["logits"], least)}


class _Expanded(Multinomial):
    """The density x · log π, without log h(x), the multinomial coefficient."""

    def prepare(self, natural):
        return {"logits": natural["about"].value["logits"] + natural["logits"]}

    def log_densities(self, natural, x):
        check_row(x, natural["logits"].shape[-1], "Multinomial")
        return matmul(natural["logits"], x.astype(natural["logits"].dtype))


def _log_coefficient(x, dtype):
    """Returns the log of the number of orders of a bag's words, −∞ if a number is not a count."""
    total = jnp.sum(known_within(x, is_count, dtype)[0])
    return gammaln(total + 1) + log_reciprocal_factorials(x, dtype)
