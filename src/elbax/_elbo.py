"""The evidence lower bound of a batch: its value, its terms, its gradients."""

import equinox as eqx
import jax
import jax.numpy as jnp

from ._algebra import vdot
from ._batch import reduce_data
from ._model import AbstractModel, split_coordinates
from ._types import Any, Array, Bool, Callable, Key, PyTree, Scalar
from .posteriors import Exact


def elbo(
    model: AbstractModel,
    params: PyTree,
    posterior: PyTree,
    batch: PyTree,
    *,
    key: Key | None = None,
    chunk_size: int | None = None,
) -> Scalar:
    r"""$\mathrm{ELBO} = \frac{1}{\sum_i w_i} \left( \sum_i w_i \{E_q[\log p(x_i, z)] + H(q)\} + \log
    p(\theta) \right)$, in nats per datum, every constant kept.

    It is at most the evidence plus the global term, and equal to it when q is exact. This is what
    updates ascend and what stopping rules watch.

    **Arguments:**

    - `batch`: data with a leading axis, or a `Batch`.
    - `key`: for posteriors and expectations that are sampled; `jax.random.key(0)` by default.
    - `chunk_size`: about how many rows to see at a time; memory is then flat in the number of data.
    """

    total, weight = _sum_over_data(_bound, model, params, posterior, batch, key, chunk_size)
    return per_datum(total, model.log_prior(params), weight)


def evidence(
    model: AbstractModel, params: PyTree, batch: PyTree, *, chunk_size: int | None = None
) -> Scalar:
    """log p(x) in nats per datum (weighted mean), by Bayes' rule; it never holds a prior on θ.

    **Raises** `TypeError` for a model whose conditional p(z | x) is not known.
    """
    posterior = Exact(model, params)

    total, weight = _sum_over_data(_bound, model, params, posterior, batch, None, chunk_size)
    return per_datum(total, 0.0, weight)


class ELBOTerms(eqx.Module):
    """The ELBO of a batch and its decompositions, each in nats per datum.

    `elbo = expected_log_joint + entropy + global_term`, and where they are known
    `elbo = reconstruction - kl_prior + global_term = evidence - kl_posterior + global_term`.

    **Fields:**

    - `expected_log_joint`: E_q[log p(x, z)].
    - `entropy`: H(q).
    - `reconstruction`: E_q[log p(x | z)]; `None` if the model does not say what p(z) is.
    - `kl_prior`: KL(q ‖ p(z)); `None` likewise.
    - `evidence`: log p(x); `None` if the model's conditional is not known.
    - `kl_posterior`: KL(q ‖ p(z | x)), the gap between evidence and bound; `None` likewise.
    - `global_term`: log p(θ) / Σ w.
    """

    elbo: Scalar
    expected_log_joint: Scalar
    entropy: Scalar
    reconstruction: Scalar | None
    kl_prior: Scalar | None
    evidence: Scalar | None
    kl_posterior: Scalar | None
    global_term: Scalar


def elbo_terms(
    model: AbstractModel,
    params: PyTree,
    posterior: PyTree,
    batch: PyTree,
    *,
    key: Key | None = None,
    chunk_size: int | None = None,
) -> ELBOTerms:
    """The ELBO taken apart, for reports: see `ELBOTerms`. Arguments as for `elbo`."""
    prior = model.latent_prior(params)

    def datum(model, natural, x, q, key):
        bound, entropy = model.elbo(natural, x, q, key), q.entropy()
        # KL(q ‖ p(z)) = A(η₀) − (E_q⟨η₀, t(z)⟩ + H(q)).
        kl = jnp.zeros_like(bound)
        if prior is not None:
            kl = model.latent.log_normalizer(prior) - q.bound(prior)
        return jnp.stack([bound, entropy.astype(bound.dtype), kl.astype(bound.dtype)])

    total, weight = _sum_over_data(datum, model, params, posterior, batch, key, chunk_size)
    bound, entropy, kl = total / weight.astype(total.dtype)
    global_term = jnp.asarray(model.log_prior(params), bound.dtype) / weight.astype(bound.dtype)
    log_evidence = evidence(model, params, batch, chunk_size=chunk_size) if model.exact else None
    return ELBOTerms(
        elbo=bound + global_term,
        expected_log_joint=bound - entropy,
        entropy=entropy,
        reconstruction=None if prior is None else bound + kl,
        kl_prior=None if prior is None else kl,
        evidence=log_evidence,
        kl_posterior=None if log_evidence is None else log_evidence - bound,
        global_term=global_term,
    )


def per_datum(total: Scalar, global_term: Scalar | float, weight: Array) -> Scalar:
    """(Σᵢ wᵢ elboᵢ + global term) / Σ w, in the precision of the sum."""
    return (total + jnp.asarray(global_term, total.dtype)) / weight.astype(total.dtype)


def expected_statistics(
    model: AbstractModel,
    params: PyTree,
    posterior: PyTree,
    batch: PyTree,
    *,
    key: Key,
    chunk_size: int | None = None,
) -> tuple[Scalar, PyTree, Array]:
    """(Σ w elbo, Σ w E_q[t(x, z)], Σ w) in one pass, under any posterior.

    The log-joint is linear in the coordinates η, so the statistics are the gradient of the bound in
    η. It is taken inside each chunk, where the transpose of the forward matmul forms them.
    """

    def run(model, swap):
        def chunk(x, weight, keys):
            # η is computed here, as an exact posterior does, so that the compiler finds the two
            # equal and evaluates the potentials once.
            coordinates, rest = split_coordinates(model.natural(params))

            def total(coordinates):
                natural = eqx.combine(coordinates, rest)
                return _weighted_sum(_bound, model, natural, swap(posterior), x, weight, keys)

            return jax.value_and_grad(total)(coordinates)

        return reduce_data(chunk, batch, key, chunk_size)

    (total, statistics), weight = _with_shortcut(run, model, params, posterior)
    return total, statistics, weight


def elbo_and_gradient(
    model: AbstractModel,
    blocks: dict[str, PyTree],
    frozen: dict[str, PyTree],
    batch: PyTree,
    *,
    key: Key,
    chunk_size: int | None = None,
) -> tuple[Scalar, dict[str, PyTree], Array]:
    """(Σ w elbo, its gradient in the inexact arrays of `blocks`, Σ w) in one pass.

    `blocks` and `frozen` together are `params` and `posterior`; the gradient is taken by argument, so
    that nothing of the other block is cut from the graph.
    """
    everything = blocks | frozen
    trained, rest = eqx.partition(blocks, eqx.is_inexact_array)

    def run(model, swap):
        def chunk(x, weight, keys):
            def total(trained):
                now = everything | eqx.combine(trained, rest)
                natural, q = model.natural(now["params"]), swap(now["posterior"])
                return _weighted_sum(_bound, model, natural, q, x, weight, keys)

            return jax.value_and_grad(total)(trained)

        return reduce_data(chunk, batch, key, chunk_size)

    (total, gradient), weight = _with_shortcut(
        run, model, everything["params"], everything["posterior"]
    )
    return total, gradient, weight


def _bound(model, natural, x, q, key):
    return model.elbo(natural, x, q, key)


def _weighted_sum(datum: Callable, model, natural, posterior, x, weight, keys) -> Array:
    """Σᵢ wᵢ datum(xᵢ) over some rows; every row has a key for q and one for expectations."""

    def one(x, key):
        key_q, key_expectation = jax.random.split(key)
        return datum(model, natural, x, posterior(x, key=key_q), key_expectation)

    values = jax.vmap(one)(x, keys)
    return vdot(weight.astype(values.dtype), values) if values.ndim == 1 else weight @ values


def _sum_over_data(datum, model, params, posterior, batch, key, chunk_size):
    key = jax.random.key(0) if key is None else key

    def run(model, swap):
        def chunk(x, weight, keys):
            natural = model.natural(params)
            return _weighted_sum(datum, model, natural, swap(posterior), x, weight, keys)

        return reduce_data(chunk, batch, key, chunk_size)

    return _with_shortcut(run, model, params, posterior)


def _with_shortcut(run: Callable, model: AbstractModel, params: PyTree, posterior: PyTree) -> Any:
    """run(model, swap), by the model's shortcut where it may be taken: decided once a pass.

    `swap` puts the shortcut in place of the model wherever a posterior holds it, so that both sides
    of the bound take the same form.
    """
    found = model.shortcut(params)
    if found is None:
        return run(model, lambda posterior: posterior)
    allowed, fast = found

    def holds_model(node):
        return isinstance(node, Exact) and node.model == model

    def swap(posterior):
        def exchange(node):
            return Exact(fast, node.params) if holds_model(node) else node

        return jax.tree.map(exchange, posterior, is_leaf=holds_model)

    for node in filter(holds_model, jax.tree.leaves(posterior, is_leaf=holds_model)):
        snapshot = model.shortcut(node.params)
        if snapshot is not None:
            allowed = allowed & snapshot[0]
    return jax.lax.cond(
        _in_every_lane(allowed),
        lambda: run(fast, swap),
        lambda: run(model, lambda posterior: posterior),
    )


@jax.custom_batching.custom_vmap
def _in_every_lane(condition: Bool[Array, ""]) -> Bool[Array, ""]:
    """The condition; under `vmap` whether it holds in all lanes, one answer for all.

    A `cond` on a batched condition runs both branches; on this one it stays a choice.
    """
    return condition


@_in_every_lane.def_vmap
def _(axis_size, batched, condition):
    return jnp.all(condition), False
