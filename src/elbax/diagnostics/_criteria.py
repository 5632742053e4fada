"""Information criteria, which weigh a model's fit against its number of params."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._door import enter
from .._elbo import evidence
from .._model import AbstractModel
from .._program import compiled
from .._sharding import automatic
from .._types import PyTree
from ..data._batch import over_rows, reduce_data, rows
from ..data._check import check_known
from ..posteriors import Exact


class Criteria(eqx.Module):
    r"""Information criteria of a fitted model.

    Lower is better, as in R and scikit-learn (mclust has opposite signs).

    **Fields:**

    - `log_likelihood`: $\log p(x)$ in nats, summed over data.
    - `num_free_params`, `num_data`: p and n.
    - `aic`: $-2 \log p(x) + 2 p$ (Akaike 1974).
    - `aicc`: $\mathrm{AIC} + 2 p (p + 1) / (n - p - 1)$, for few data (Hurvich and Tsai 1989); infinite if $n
        \le p + 1$.
    - `bic`: $-2 \log p(x) + p \log n$ (Schwarz 1978).
    - `icl`: $\mathrm{BIC} - 2 \sum_i \log q(\hat z_i)$ with $\hat z_i$ the most probable value (Biernacki, Celeux
        and Govaert 2000). It penalizes uncertainty about z. `None` unless z is finite.
    """

    log_likelihood: float
    num_free_params: int
    num_data: float
    aic: float
    aicc: float
    bic: float
    icl: float | None

    def __str__(self) -> str:
        names = ["aic", "aicc", "bic"] + ([] if self.icl is None else ["icl"])
        labels = {"aicc": "AICc"}
        values = ", ".join(
            f"{labels.get(name, name.upper())} {getattr(self, name):.3f}" for name in names
        )
        return (
            f"log-likelihood {self.log_likelihood:.3f} with {self.num_free_params} params, n = "
            f"{self.num_data:g}: {values}"
        )

    def __repr__(self) -> str:
        return f"Criteria({self})"


def information_criteria(
    model: AbstractModel,
    params: PyTree,
    batch: PyTree,
    *,
    free: PyTree = True,
    num_free_params: int | None = None,
    num_data: float | None = None,
    chunk_size: int | None = None,
) -> Criteria:
    """Computes AIC, AICc, BIC and ICL of a fitted model.

    **Arguments:**

    - `free`: which params were estimated, as given to the fit's steps: `True` or `False` for each block, or a mask
        for each entry.
    - `num_free_params`: the number of estimated numbers; by default `model.num_free_params(params, free)`. A plain
        `Model` needs it.
    - `num_data`: n; by default `model.num_observations(batch)`: the sum of weights, or for sequences the number of
        steps in which something is observed.
    - `chunk_size`: about how many rows to process at a time.

    **Returns:** a `Criteria`.

    **Raises** `ValueError` unless `num_data` is positive.

    ```python
    >>> import elbax, jax.numpy as jnp
    >>> model = elbax.Mixture(elbax.components.Poisson(), 1)
    >>> params = model.from_description(weights=[1.0], rates=[[3.0]])
    >>> print(elbax.diagnostics.information_criteria(model, params, jnp.array([[2], [4], [3], [5], [1]])))
    log-likelihood -8.971 with 1 params, n = 5: AIC 19.943, AICc 21.276, BIC 19.552, ICL 19.552

    ```
    """
    check_known("information_criteria", (params, batch))
    batch = enter("information_criteria", model, params, batch, chunk_size=chunk_size)
    model.check_evidence("information_criteria")
    if num_free_params is None:
        num_free_params = model.num_free_params(params, free)
    n = model.num_observations(batch) if num_data is None else float(num_data)
    if not n > 0:
        raise ValueError(f"information_criteria: num_data must be positive, got {n:g}.")
    p = num_free_params
    total_weight = float(np.sum(np.asarray(rows(batch)[1])))
    log_likelihood = total_weight * float(evidence(model, params, batch, chunk_size=chunk_size))
    aic = 2 * p - 2 * log_likelihood
    aicc = aic + 2 * p * (p + 1) / (n - p - 1) if n > p + 1 else math.inf
    bic = p * math.log(n) - 2 * log_likelihood
    icl = None
    if model.latent.finite:
        icl = bic - 2 * float(_certainty(model, params, batch, chunk_size))
    return Criteria(log_likelihood, p, n, aic, aicc, bic, icl)


@compiled
@automatic
def _certainty(model, params, batch, chunk_size):
    """Returns Σ w log q(ẑ)."""
    posterior = Exact(model, params)

    def one(x):
        q = posterior(x)
        return q.log_prob(q.mode())

    def total(x, weight, places):
        found = over_rows(one, x)
        return jnp.sum(weight.astype(found.dtype) * found)

    return reduce_data(total, batch, jax.random.key(0), chunk_size)[0]
