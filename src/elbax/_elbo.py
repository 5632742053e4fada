"""The evidence lower bound of a batch, and its terms."""

import equinox as eqx
import jax
import jax.numpy as jnp

from ._door import enter
from ._model import AbstractModel
from ._pass import bound, divisor, Pass, per_datum
from ._program import compiled
from ._sharding import automatic
from ._types import Key, PyTree, Scalar
from .data._batch import rows
from .posteriors import Exact
from .posteriors._posterior import bind, check_posterior, same_arrays


def elbo(
    model: AbstractModel,
    params: PyTree,
    posterior: PyTree,
    batch: PyTree,
    *,
    key: Key | None = None,
    chunk_size: int | None = None,
) -> Scalar:
    r"""Computes the evidence lower bound of a batch, in nats per datum, with all constants.

    $\mathrm{ELBO} = \frac{1}{\sum_i w_i} \left( \sum_i w_i \{E_q[\log p(x_i, z)] + H(q)\} + \log p(\theta)
    \right)$ is at most the evidence plus the global term, and equal to it if q is exact. Updates ascend it, and
    stopping rules compare it.

    **Arguments:**

    - `model`: the model.
    - `params`: θ, the model's parameters.
    - `posterior`: q, a function from a datum to a distribution, such as `Exact(model, params)`.
    - `batch`: data with a leading axis, or a `Batch`.
    - `key`: a random key for sampled posteriors and expectations, and for dropout. Without one, draws are those of
        `jax.random.key(0)`, and networks are evaluated in `equinox.nn.inference_mode`.
    - `chunk_size`: about how many rows to process at a time; memory then does not grow with the number of data.

    **Raises** `TypeError` or `ValueError` for arguments that do not fit together, or for impossible data.

    ```python
    >>> import elbax, jax
    >>> x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(2)
    >>> params = model.init(jax.random.key(0), x)
    >>> bound = elbax.elbo(model, params, elbax.Exact(model, params), x)
    >>> bool(abs(bound - elbax.evidence(model, params, x)) < 1e-3)
    True

    ```
    """
    batch = enter("elbo", model, params, batch, posterior=posterior, key=key, chunk_size=chunk_size)
    check_posterior(posterior, model, "elbo")
    params, posterior = _evaluating(params, posterior, key)
    current = _is_current(posterior, model, params)
    return _elbo(model, params, posterior, batch, key, chunk_size, current)


def _evaluating(params, posterior, key):
    return (params, posterior) if key is not None else eqx.nn.inference_mode((params, posterior))


def _is_current(posterior, model, params) -> bool:
    """Returns whether the posterior holds these params. Inside of `jit`, equal arguments are distinct tracers."""
    return same_arrays(bind(posterior, model, params), posterior)


@compiled
@automatic
def _elbo(model, params, posterior, batch, key, chunk_size, current):
    posterior = bind(posterior, model, params) if current else posterior
    over = _pass(model, params, posterior, batch, key, chunk_size)
    total, weight = over.sum(bound)
    return per_datum(total, model.global_term(params, over.key), weight)


def _pass(model, params, posterior, batch, key, chunk_size):
    key = jax.random.key(0) if key is None else key
    return Pass(model, params, posterior, batch, key, chunk_size)


def evidence(
    model: AbstractModel, params: PyTree, batch: PyTree, *, chunk_size: int | None = None
) -> Scalar:
    """Computes log p(x) in nats per datum, as a weighted mean, without the log-prior of θ.

    **Arguments:**

    - `model`: a model whose conditional p(z | x) is known.
    - `params`: θ, the model's parameters.
    - `batch`: data with a leading axis, or a `Batch`.
    - `chunk_size`: about how many rows to process at a time.

    **Raises** `TypeError` for a model whose conditional p(z | x) is not known, or whose params are those of a
    distribution over θ, as of `Bayesian`.

    ```python
    >>> import elbax, jax, jax.numpy as jnp
    >>> def log_joint(params, x, z):
    ...     return jnp.log(0.5) + jax.scipy.stats.norm.logpdf(x, params[z])
    >>> model = elbax.Model(log_joint, elbax.Categorical(2))
    >>> print(f"{elbax.evidence(model, jnp.array([-1.0, 1.0]), jnp.zeros(3)):.4f}")
    -1.4189

    ```
    """
    batch = enter("evidence", model, params, batch, chunk_size=chunk_size)
    model.check_evidence("evidence")
    params = eqx.nn.inference_mode(params)
    if not model.exact:
        # The model's own error, raised before any work is done.
        jax.eval_shape(jax.vmap(Exact(model, params)), rows(batch)[0])
    return _evidence(model, params, batch, chunk_size)


@compiled
@automatic
def _evidence(model, params, batch, chunk_size):
    posterior = Exact(model, params)
    total, weight = _pass(model, params, posterior, batch, None, chunk_size).sum(bound)
    return per_datum(total, 0.0, weight)


class ELBOTerms(eqx.Module):
    """The ELBO of a batch and its decompositions, each in nats per datum. It prints as a table.

    `elbo = expected_log_joint + entropy + global_term`, and if the terms are known
    `elbo = reconstruction - kl_prior + global_term = evidence - kl_posterior + global_term`.

    **Fields:**

    - `elbo`: the ELBO, including the global term.
    - `expected_log_joint`: E_q[log p(x, z)].
    - `entropy`: H(q).
    - `reconstruction`: E_q[log p(x | z)]; `None` if the model does not say what p(z) is.
    - `kl_prior`: KL(q ‖ p(z)); `None` if the model does not say what p(z) is.
    - `evidence`: log p(x); `None` if the model's conditional is not known.
    - `kl_posterior`: KL(q ‖ p(z | x)), as the difference of evidence and bound, which may be slightly below 0 by
        rounding; `None` if the model's conditional is not known.
    - `global_term`: log p(θ) / Σ w; of a `Bayesian`, −KL(q(θ) ‖ p(θ)) / Σ w.
    - `global_terms`: its parts, by name of the block; empty where they are not known.
    """

    elbo: Scalar
    expected_log_joint: Scalar
    entropy: Scalar
    reconstruction: Scalar | None
    kl_prior: Scalar | None
    evidence: Scalar | None
    kl_posterior: Scalar | None
    global_term: Scalar
    global_terms: dict[str, Scalar]

    def __str__(self) -> str:
        known = {name: value for name, value in vars(self).items() if value is not None}
        known |= {f"  {name}": value for name, value in known.pop("global_terms").items()}
        return "\n".join(f"{name:20}{value:>14.6f}" for name, value in known.items())


def elbo_terms(
    model: AbstractModel,
    params: PyTree,
    posterior: PyTree,
    batch: PyTree,
    *,
    key: Key | None = None,
    chunk_size: int | None = None,
) -> ELBOTerms:
    """Computes the terms of the ELBO, for reports. The arguments are those of `elbo`.

    **Returns** an `ELBOTerms`, in nats per datum.

    ```python
    >>> import elbax, jax
    >>> x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(2)
    >>> params = model.init(jax.random.key(0), x)
    >>> terms = elbax.elbo_terms(model, params, elbax.Exact(model, params), x)
    >>> bool(abs(terms.kl_posterior) < 1e-4)
    True

    ```
    """
    batch = enter(
        "elbo_terms", model, params, batch, posterior=posterior, key=key, chunk_size=chunk_size
    )
    check_posterior(posterior, model, "elbo_terms")
    params, posterior = _evaluating(params, posterior, key)
    current = _is_current(posterior, model, params)
    known = model.exact and model.has_evidence
    log_evidence = _evidence(model, params, batch, chunk_size) if known else None
    return _terms(model, params, posterior, batch, key, chunk_size, current, log_evidence)


@compiled
@automatic
def _terms(model, params, posterior, batch, key, chunk_size, current, log_evidence):
    posterior = bind(posterior, model, params) if current else posterior
    known = model.knows_prior

    def datum(model, natural, x, q, key):
        value, entropy = model.elbo(natural, x, q, key), q.entropy()
        kl = jnp.zeros_like(value)
        if known:
            kl = model.divergence(q, model.latent_prior(params, x), key)
        return jnp.stack([value, entropy.astype(value.dtype), kl.astype(value.dtype)])

    over = _pass(model, params, posterior, batch, key, chunk_size)
    total, weight = over.sum(datum)
    number = divisor(weight, total.dtype)
    value, entropy, kl = total / number
    global_term = jnp.asarray(model.global_term(params, over.key), value.dtype) / number
    return ELBOTerms(
        elbo=value + global_term,
        expected_log_joint=value - entropy,
        entropy=entropy,
        reconstruction=value + kl if model.splits else None,
        kl_prior=kl if known else None,
        evidence=log_evidence,
        kl_posterior=None if log_evidence is None else log_evidence - value,
        global_term=global_term,
        global_terms={name: part / number for name, part in model.global_terms(params).items()},
    )
