"""Independent binary columns."""

import jax
import jax.numpy as jnp
import numpy as np

from .._arguments import check_kind
from .._math.algebra import log, matmul
from .._math.special import softplus
from ..data._check import check_described, check_row, check_table, check_values
from ..data._incomplete_rows import known_numbers
from ..families._undefined import where_defined
from ..priors import Beta
from ._component import AbstractComponent
from ._parts import part_means
from ._support import is_bit, known_within


class Bernoulli(AbstractComponent):
    r"""Independent Bernoulli columns: $p(x \mid k) = \prod_j \pi_{kj}^{x_j} (1 - \pi_{kj})^{1 - x_j}$.

    x has shape `(dim,)` and holds zeros and ones. Params: `{"logits": (K, dim)}`. A probability of 0 or 1 is kept
    at the nearest value of its dtype. Rows may be `IncompleteRows`: missing values are left out.

    **Arguments:**

    - `prior`: a `Beta` prior on every probability.

    ```python
    >>> import elbax, jax, jax.numpy as jnp
    >>> x = jnp.array([[1, 1, 0], [1, 1, 1], [0, 0, 1], [0, 0, 0]])
    >>> model = elbax.Mixture(elbax.components.Bernoulli(), 2)
    >>> params = model.init(jax.random.key(0), x)
    >>> model.describe(params)["probabilities"].shape
    (2, 3)

    ```
    """

    prior: Beta | None = None

    def __check_init__(self):
        check_kind("Bernoulli", Beta, prior=self.prior)

    def check(self, x, weight, who, *, varied=False):
        check_table(x, weight, who, varied=False)
        check_values(x, weight, who, lambda x: (x != 0) & (x != 1), "zeros and ones")

    def init(self, x, weight, assignment, num_components):
        """Returns frequencies in the parts, shrunk slightly to the overall frequencies."""
        table, observed = known_numbers(x)
        seen = observed.astype(table.dtype)
        _, _, whole = part_means(table, seen, weight, assignment, 1)
        offset, _, _ = part_means(table - whole, seen, weight, assignment, num_components, 1.0)
        # Half a success and half a failure keep every probability inside (0, 1).
        n = jnp.sum(weight)
        mean = (whole * n + 0.5) / (n + 1) + 0.9 * offset * n / (n + 1)
        return {"logits": jnp.log(mean) - jnp.log1p(-mean)}

    def shapes(self, num_components):
        return {"logits": (num_components, "dim")}

    def natural(self, params):
        logits = params["logits"]
        return {"on": -softplus(-logits), "off": -softplus(logits)}

    def log_densities(self, natural, x):
        check_row(x, natural["on"].shape[-1], "Bernoulli")
        on, observed, possible = known_within(x, is_bit, natural["on"].dtype)
        seen = observed.astype(on.dtype)
        return matmul(natural["on"], on) + matmul(natural["off"], seen - on) + possible

    def maximize(self, statistics, params, free):
        on, off = statistics["on"], statistics["off"]
        if self.prior is not None:
            on, off = on + (self.prior.a - 1), off + (self.prior.b - 1)
        # A component without data keeps its params: its frequencies are 0/0.
        seen = on + off > jnp.finfo(on.dtype).tiny
        return {"logits": jnp.where(seen, log(on) - log(off), params["logits"])}

    def moments(self, params, x):
        logits = params["logits"]
        return jax.nn.sigmoid(logits), jax.nn.sigmoid(logits) * jax.nn.sigmoid(-logits)

    def log_prior(self, params):
        if self.prior is None:
            return 0.0
        natural = self.natural(params)
        return self.prior.log_density(natural["on"], natural["off"])

    def describe(self, params):
        """Returns the probabilities of a one, `(K, dim)`."""
        return {"probabilities": jax.nn.sigmoid(params["logits"])}

    def from_description(self, *, probabilities):
        check_described("Bernoulli", probabilities=(probabilities, ("K", "dim"), "probabilities"))
        probabilities = jnp.asarray(probabilities, float)
        return {"logits": log(probabilities) - log(1 - probabilities)}

    def sample(self, params, component, key, inputs=None):
        logits = params["logits"][component]
        drawn = jax.random.bernoulli(key, jax.nn.sigmoid(logits)).astype(logits.dtype)
        return where_defined(~jnp.isnan(logits), drawn)

    def at_boundary(self, params, least):
        return {"logits": np.abs(np.asarray(params["logits"])) > -np.log(least)}
