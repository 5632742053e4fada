"""The evidence where it is not known: importance sampling with draws of the posterior."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._arguments import check_count, kind_of
from .._door import enter
from .._model import AbstractModel
from .._program import compiled
from .._types import Any, Float, Key, PyTree, Scalar
from ..data._batch import over_rows, reduce_data
from ..posteriors._drawn import log_density


_AT_ONCE = 100


class ImportanceEvidence(eqx.Module):
    """An estimate of log p(x) in nats per datum.

    **Fields:**

    - `evidence`: the estimate. Its expectation is below log p(x), and tends to it with more draws.
    - `standard_error`: that of the draws; the data are given.
    - `effective_samples`: (Σ w)² / Σ w² of a datum's weights, the mean over data. Where it is near 1 a single draw
        decides, and the standard error itself is not to be trusted.

    ```python
    >>> import elbax, jax
    >>> x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(1)
    >>> params = model.init(jax.random.key(0), x)
    >>> bayes = elbax.Exact(model, params)
    >>> found = elbax.diagnostics.importance_evidence(
    ...     model, params, bayes, x, key=jax.random.key(1), num_samples=5)
    >>> bool(abs(found.evidence - elbax.evidence(model, params, x)) < 1e-4)
    True

    ```
    """

    evidence: Float[jax.Array, ""]
    standard_error: Float[jax.Array, ""]
    effective_samples: Float[jax.Array, ""]
    num_samples: int = eqx.field(static=True)

    def __str__(self) -> str:
        return (
            f"log p(x) = {self.evidence:.4f} ± {self.standard_error:.4f} nats per datum; of {self.num_samples} "
            f"draws {self.effective_samples:.1f} are effective."
        )


def importance_evidence(
    model: AbstractModel,
    params: PyTree,
    posterior: Any,
    batch: PyTree,
    *,
    key: Key,
    num_samples: int = 1000,
    chunk_size: int | None = None,
) -> ImportanceEvidence:
    r"""Estimates log p(x) of each datum by $\log \frac1S \sum_s p(x, z_s) / q(z_s)$, with draws of the posterior.

    For models whose evidence is not known, such as autoencoders and programs. It is the bound of
    `estimators.ImportanceWeighted` (Burda, Grosse and Salakhutdinov 2016) with as many draws as one likes: they
    are made 100 at a time. With Bayes' rule as the posterior every draw gives the evidence itself.

    **Arguments:**

    - `model`, `params`, `batch`: as for `elbax.elbo`.
    - `posterior`: a function from a datum to a distribution with `sample(key)` and `log_prob(z)`.
    - `key`: for the draws.
    - `num_samples`: S.
    - `chunk_size`: about how many rows to process at a time.

    **Raises** `TypeError` for a posterior without a density, such as a hard one.

    ```python
    >>> import elbax, jax, jax.numpy as jnp
    >>> norm = jax.scipy.stats.norm
    >>> def log_joint(slope, x, z):
    ...     return norm.logpdf(z).sum() + norm.logpdf(x, slope * z).sum()
    >>> model = elbax.Model(log_joint, elbax.DiagonalGaussian(1))
    >>> prior = lambda x: elbax.DiagonalGaussian(1)((jnp.zeros(1), jnp.ones(1)))
    >>> x = jnp.array([[0.5], [-1.0]])
    >>> found = elbax.diagnostics.importance_evidence(
    ...     model, jnp.array(1.0), prior, x, key=jax.random.key(0))
    >>> exact = norm.logpdf(x, 0.0, jnp.sqrt(2.0)).mean()
    >>> bool(abs(found.evidence - exact) < 4 * found.standard_error)
    True

    ```
    """
    who = "importance_evidence"
    check_count(who, num_samples=num_samples)
    batch = enter(who, model, params, batch, posterior=posterior, key=key, chunk_size=chunk_size)
    params, posterior = eqx.nn.inference_mode((params, posterior))
    found = _estimate(model, params, posterior, batch, key, num_samples, chunk_size)
    return ImportanceEvidence(*found, num_samples=num_samples)


@compiled
def _estimate(
    model: AbstractModel,
    params: PyTree,
    posterior: Any,
    batch: PyTree,
    key: Key,
    num_samples: int,
    chunk_size: int | None,
) -> tuple[Scalar, Scalar, Scalar]:
    number = min(num_samples, _AT_ONCE)
    places = jnp.arange(-(-num_samples // number) * number).reshape(-1, number)

    def one(x, key):
        q = posterior(x)
        if not (hasattr(q, "sample") and hasattr(q, "log_prob")):
            raise TypeError(
                f"importance_evidence: this {kind_of(q)} has no log_prob(z) of its draws. Pass a posterior whose "
                "distributions have sample(key) and log_prob(z), such as state.posterior of an encoder."
            )

        def weight(place):
            z = q.sample(jax.random.fold_in(key, place))
            log_weight = model.log_joint(params, x, z) - log_density(q, z)
            return jnp.where(place < num_samples, log_weight, -jnp.inf)

        def step(sums, places):
            logs = jax.vmap(weight)(places)
            more = jax.nn.logsumexp(logs), jax.nn.logsumexp(2 * logs)
            return tuple(map(jnp.logaddexp, sums, more)), None

        like = jax.eval_shape(weight, places[0, 0])
        none = jnp.full((), -jnp.inf, like.dtype)
        (first, second), _ = jax.lax.scan(step, (none, none), places)
        # Var(w) / E[w]² of the mean of S weights is Σ w² / (Σ w)² − 1 / S.
        share = jnp.exp(second - 2 * first)
        spread = jnp.maximum(share - 1 / num_samples, 0) * num_samples / max(num_samples - 1, 1)
        return first - jnp.log(jnp.asarray(num_samples, first.dtype)), spread, 1 / share

    def total(x, weight, places):
        value, spread, effective = over_rows(one, x, places.keys[1])
        weight = weight.astype(value.dtype)
        seen = weight > 0
        sums = weight * value, weight**2 * spread, weight * effective
        return [jnp.sum(jnp.where(seen, each, 0)) for each in sums]

    (value, spread, effective), weight = reduce_data(total, batch, key, chunk_size)
    weight = weight.astype(value.dtype)
    return value / weight, jnp.sqrt(spread) / weight, effective / weight
