"""Independent categorical columns: latent class analysis."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._arguments import check_count, check_kind
from .._invariance import shifts
from .._math.algebra import matmul
from .._types import Any
from ..data._check import check_described, check_row, check_table, check_values
from ..data._incomplete_rows import host_known, known
from ..families._undefined import draw_label
from ..priors import Dirichlet
from ..priors._shares import log_prior_of_shares, log_shares_of, maximize_shares, vanished
from ._component import AbstractComponent
from ._support import is_count, log_indicator


class Categorical(AbstractComponent):
    r"""Independent categorical columns: $p(x \mid k) = \prod_j \pi_{k j x_j}$.

    x has shape `(dim,)`; each column takes the values 0, 1, … A mixture of these is latent class analysis
    (Lazarsfeld and Henry 1968). Params: `{"logits": (K, dim, most values)}`. Rows may be `IncompleteRows`.

    **Arguments:**

    - `num_values`: the number of values of a column: one number, or a tuple with one number per column.
    - `prior`: a `Dirichlet` prior on the probabilities of every column.

    ```python
    >>> import elbax, jax, jax.numpy as jnp
    >>> x = jnp.array([[0, 2], [0, 2], [1, 0], [1, 1]])
    >>> model = elbax.Mixture(elbax.components.Categorical((2, 3)), 2)
    >>> model.describe(model.init(jax.random.key(0), x))["probabilities"].shape
    (2, 2, 3)

    ```
    """

    num_values: int | tuple[int, ...] = eqx.field(static=True)
    prior: Dirichlet | None

    def __init__(self, num_values: Any, prior: Dirichlet | None = None):
        if isinstance(num_values, tuple | list | np.ndarray) and np.ndim(num_values) == 1:
            check_count("Categorical", **{f"num_values[{j}]": n for j, n in enumerate(num_values)})
            self.num_values = tuple(map(int, num_values))
        else:
            check_count("Categorical", num_values=num_values)
            number: Any = num_values
            self.num_values = int(number)
        check_kind("Categorical", Dirichlet, prior=prior)
        self.prior = prior

    @property
    def _most(self) -> int:
        return self.num_values if isinstance(self.num_values, int) else max(self.num_values)

    def _possible(self, dim: int) -> np.ndarray:
        """Returns which values each column has, shape `(dim, most values)`."""
        numbers = np.broadcast_to(np.asarray(self.num_values), (dim,))
        return np.arange(self._most) < numbers[:, None]

    def check(self, x, weight, who, *, varied=False):
        check_table(x, weight, who, varied=False)
        dim = host_known(x)[0].shape[1]
        if not isinstance(self.num_values, int) and len(self.num_values) != dim:
            raise ValueError(
                f"{who}: Categorical has num_values for {len(self.num_values)} columns, but the data have {dim} "
                "columns."
            )
        limit = np.broadcast_to(np.asarray(self.num_values), (dim,))
        check_values(
            x,
            weight,
            who,
            lambda x: (x < 0) | (x >= limit) | (x != np.round(x)),
            f"values 0, 1, ... below num_values = {self.num_values}",
        )

    def table(self, x):
        """Returns one indicator column per value."""
        values, observed = known(x)
        one_hot = self._one_hot(values, observed, jnp.result_type(float))
        seen = jnp.broadcast_to(observed[..., None], one_hot.shape)
        return jnp.where(seen, one_hot, jnp.nan).reshape(len(values), -1)

    def _one_hot(self, values, observed, dtype):
        codes = jnp.where(observed, values, 0).astype(int)
        return jax.nn.one_hot(codes, self._most, dtype=dtype) * observed[..., None].astype(dtype)

    def init(self, x, weight, assignment, num_components):
        """Returns frequencies in the parts, shrunk slightly to the overall frequencies."""
        values, observed = known(x)
        weighted = weight[:, None, None] * self._one_hot(values, observed, weight.dtype)
        counts = jax.ops.segment_sum(weighted, assignment, num_components)
        whole = jnp.sum(weighted, 0)
        whole = (whole + 1e-3) / jnp.sum(whole + 1e-3, -1, keepdims=True)
        return self._from_counts(counts + (1 + 0.1 * jnp.sum(counts, -1, keepdims=True)) * whole)

    def _from_counts(self, counts):
        possible = self._possible(counts.shape[-2])
        tiny = jnp.finfo(counts.dtype).tiny
        logits = jnp.where(possible, jnp.log(jnp.maximum(counts, tiny)), 0)
        return self.natural({"logits": logits})

    def shapes(self, num_components):
        dim = "dim" if isinstance(self.num_values, int) else len(self.num_values)
        return {"logits": (num_components, dim, self._most)}

    def natural(self, params):
        logits = params["logits"]
        return {"logits": log_shares_of(logits, self._possible(logits.shape[-2]))}

    def log_densities(self, natural, x):
        check_row(x, natural["logits"].shape[-2], "Categorical")
        values, observed = known(x)
        logits = natural["logits"]
        one_hot = self._one_hot(values, observed, logits.dtype)
        inside = is_count(values) & (values < jnp.asarray(self.num_values, values.dtype))
        possible = log_indicator(values, observed, inside).astype(logits.dtype)
        return matmul(logits.reshape(len(logits), -1), one_hot.reshape(-1)) + possible

    def maximize(self, statistics, params, free):
        counts, logits = statistics["logits"], params["logits"]
        possible = self._possible(counts.shape[-2])
        return {"logits": maximize_shares(counts, logits, free["logits"], possible, self.prior)}

    def impute(self, params, x, weights):
        """Returns the most probable codes where they are missing, with the probabilities of all others."""
        values, observed = known(x)
        probabilities = jnp.tensordot(weights, self.describe(params)["probabilities"], 1)
        codes = jnp.argmax(probabilities, -1)
        doubt = jnp.maximum(1 - jnp.max(probabilities, -1), 0)
        return jnp.where(observed, values.astype(int), codes), jnp.where(observed, 0, doubt)

    def log_prior(self, params):
        logits = params["logits"]
        return log_prior_of_shares(logits, self._possible(logits.shape[-2]), self.prior)

    def describe(self, params):
        """Returns the probabilities of each column's values, `(K, dim, most values)`, padded with 0."""
        logits = self.natural(params)["logits"]
        return {"probabilities": jnp.where(self._possible(logits.shape[-2]), jnp.exp(logits), 0)}

    def from_description(self, *, probabilities):
        shape = self.shapes("K")["logits"]
        check_described("Categorical", probabilities=(probabilities, shape, "shares"))
        return self._from_counts(jnp.asarray(probabilities, float))

    def sample(self, params, component, key, inputs=None):
        logits = params["logits"][component]
        masked = jnp.where(self._possible(len(logits)), logits, -jnp.inf)
        return draw_label(key, masked)

    def invariances(self, params):
        shape = params["logits"].shape
        return shifts(shape, self._possible(shape[1]))

    def at_boundary(self, params, least):
        logits = params["logits"]
        return {"logits": vanished(logits, least, self._possible(logits.shape[1]))}
