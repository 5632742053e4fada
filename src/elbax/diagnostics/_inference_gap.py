"""The gap between the evidence and an encoder's bound: what the family lacks, and what the encoder lacks."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from .._arguments import check_count
from .._door import enter
from .._model import AbstractModel
from .._program import compiled
from .._types import Float, Key, PyTree, Scalar
from ..data._batch import over_rows, reduce_data
from ..estimators._importance_weighted import log_mean
from ..posteriors import Amortized, Exact, SemiAmortized


class InferenceGap(eqx.Module):
    """Estimates of log p(x) and of two bounds of it, in nats per datum.

    **Fields:** `evidence`: log p(x); `refined`: the bound with the best q of each datum; `bound`: the encoder's.

    ```python
    >>> import elbax, jax.numpy as jnp
    >>> print(elbax.diagnostics.InferenceGap(jnp.array(-1.0), jnp.array(-1.25), jnp.array(-2.0)))
    gap 1.0000 nats per datum: 0.2500 by the family (approximation), 0.7500 by the encoder (amortization)

    ```
    """

    evidence: Float[jax.Array, ""]
    refined: Float[jax.Array, ""]
    bound: Float[jax.Array, ""]

    @property
    def approximation(self) -> Scalar:
        """How far the best member of the family is below the evidence."""
        return self.evidence - self.refined

    @property
    def amortization(self) -> Scalar:
        """How far the encoder is below the best member of its family."""
        return self.refined - self.bound

    def __str__(self) -> str:
        return (
            f"gap {self.evidence - self.bound:.4f} nats per datum: {self.approximation:.4f} by the family "
            f"(approximation), {self.amortization:.4f} by the encoder (amortization)"
        )


def inference_gap(
    model: AbstractModel,
    params: PyTree,
    encoder: Amortized,
    batch: PyTree,
    *,
    key: Key,
    optimizer: optax.GradientTransformation | None = None,
    num_steps: int = 200,
    num_samples: int = 100,
    chunk_size: int | None = None,
) -> InferenceGap:
    r"""Splits log p(x) − ELBO into approximation and amortization (Cremer, Li and Duvenaud 2018).

    For each datum the encoder's output is refined by gradient steps on its own bound, as in
    `posteriors.SemiAmortized`. What is gained is the amortization gap; what is left below log p(x) is the
    approximation gap of the family. log p(x) is estimated by importance sampling with the refined q.

    **Arguments:**

    - `model`, `params`, `batch`: as for `elbax.elbo`.
    - `encoder`: `Amortized(network, family)`.
    - `key`: for the draws.
    - `optimizer`, `num_steps`: of the refinement; Adam with a rate of 0.05 that falls to 0 by default. Where more
        steps still gain, the amortization gap is larger than is said. The noise of the refinement may bring it
        below 0; an `estimator` of the model such as `StickingTheLanding(10)` leaves little of that.
    - `num_samples`: the number of draws per datum for each of the three.
    - `chunk_size`: about how many rows to process at a time.

    **Raises** `TypeError` for an encoder that is not `Amortized`.

    ```python
    >>> import elbax, jax, jax.numpy as jnp
    >>> norm = jax.scipy.stats.norm
    >>> def log_joint(slope, x, z):
    ...     return norm.logpdf(z).sum() + norm.logpdf(x, slope * z).sum()
    >>> model = elbax.Model(log_joint, elbax.DiagonalGaussian(1))
    >>> prior = elbax.Amortized(elbax.Network(lambda w, x: w, jnp.zeros(2)), model.latent)
    >>> x = jnp.array([[2.5], [-2.0]])
    >>> found = elbax.diagnostics.inference_gap(model, jnp.array(1.0), prior, x, key=jax.random.key(0))
    >>> bool(found.approximation < 0.1), bool(found.amortization > 0.5)
    (True, True)

    ```
    """
    check_count("inference_gap", num_samples=num_samples)
    who = "inference_gap"
    batch = enter(who, model, params, batch, posterior=encoder, key=key, chunk_size=chunk_size)
    if optimizer is None:
        optimizer = optax.adam(optax.cosine_decay_schedule(0.05, num_steps))
    params, encoder = eqx.nn.inference_mode((params, encoder))
    refined = SemiAmortized(encoder, Exact(model, params), optimizer, num_steps)
    return InferenceGap(*_estimates(model, params, refined, batch, key, num_samples, chunk_size))


@compiled
def _estimates(
    model: AbstractModel,
    params: PyTree,
    refined: SemiAmortized,
    batch: PyTree,
    key: Key,
    num_samples: int,
    chunk_size: int | None,
) -> list[Scalar]:
    def one(x, key):
        def log_weights(q, key):
            def at(key):
                z = q.sample(key)
                return model.log_joint(params, x, z) - q.log_prob(z)

            return jax.vmap(at)(jax.random.split(key, num_samples))

        keys = jax.random.split(key, 3)
        best = log_weights(refined(x, key=keys[0]), keys[1])
        first = log_weights(refined.encoder(x), keys[2])
        return log_mean(best), jnp.mean(best), jnp.mean(first)

    def total(x, weight, places):
        return [
            jnp.sum(jnp.where(weight > 0, weight.astype(each.dtype) * each, 0))
            for each in over_rows(one, x, places.keys[1])
        ]

    sums, weight = reduce_data(total, batch, key, chunk_size)
    return [each / weight.astype(each.dtype) for each in sums]
