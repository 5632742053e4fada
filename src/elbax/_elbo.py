"""The evidence lower bound of a batch: its value, its terms, its gradients."""

import functools
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from ._algebra import in_every_lane
from ._batch import as_batch, effective_weight, over_rows, reduce_data, rows, without_padding
from ._door import enter
from ._model import AbstractModel
from ._program import at_most, compiled
from ._reference import split_coordinates
from ._sharding import automatic
from ._types import Any, AnyArray, Array, Callable, Key, PyTree, Scalar
from .families import Distribution
from .posteriors import Exact
from .posteriors._drawn import as_distribution
from .posteriors._snapshot import (
    check_snapshots,
    partition,
    same_arrays,
    with_params,
    without_params,
)
from .posteriors._table import at_row, check_places


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
    check_snapshots(posterior, model, "elbo")
    apart = without_params(posterior, model, params)
    return _elbo(model, params, apart, batch, key, chunk_size)


@compiled
@automatic
def _elbo(model, params, posterior, batch, key, chunk_size):
    posterior = with_params(posterior, params)
    total, weight = _sum_over_data(_bound, model, params, posterior, batch, key, chunk_size)
    return per_datum(total, model.log_prior(params), weight)


def evidence(
    model: AbstractModel, params: PyTree, batch: PyTree, *, chunk_size: int | None = None
) -> Scalar:
    """log p(x) in nats per datum (weighted mean), by Bayes' rule; it never holds a prior on θ.

    **Raises** `TypeError` for a model whose conditional p(z | x) is not known.

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
    if not model.exact:
        # Raises, and says why, before any work is done.
        jax.eval_shape(jax.vmap(Exact(model, params)), rows(batch)[0])
    return _evidence(model, params, batch, chunk_size)


@compiled
@automatic
def _evidence(model, params, batch, chunk_size):
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
    - `kl_posterior`: KL(q ‖ p(z | x)), as the difference of evidence and bound (so that rounding may
        put it a little below 0); `None` likewise.
    - `global_term`: log p(θ) / Σ w.

    It prints as a table of numbers.
    """

    elbo: Scalar
    expected_log_joint: Scalar
    entropy: Scalar
    reconstruction: Scalar | None
    kl_prior: Scalar | None
    evidence: Scalar | None
    kl_posterior: Scalar | None
    global_term: Scalar

    def __str__(self) -> str:
        known = {name: value for name, value in vars(self).items() if value is not None}
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
    """The ELBO taken apart, for reports: see `ELBOTerms`. Arguments as for `elbo`.

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
    apart = without_params(posterior, model, params)
    log_evidence = _evidence(model, params, batch, chunk_size) if model.exact else None
    return _terms(model, params, apart, batch, key, chunk_size, log_evidence)


@compiled
@automatic
def _terms(model, params, posterior, batch, key, chunk_size, log_evidence):
    posterior, prior = with_params(posterior, params), model.latent_prior(params)

    def datum(model, natural, x, q, key):
        bound, entropy = model.elbo(natural, x, q, key), q.entropy()
        # KL(q ‖ p(z)) = A(η₀) − (E_q⟨η₀, t(z)⟩ + H(q)).
        kl = jnp.zeros_like(bound)
        if prior is not None:
            kl = model.latent.log_normalizer(prior) - q.bound(prior)
        return jnp.stack([bound, entropy.astype(bound.dtype), kl.astype(bound.dtype)])

    total, weight = _sum_over_data(datum, model, params, posterior, batch, key, chunk_size)
    number = divisor(weight, total.dtype)
    bound, entropy, kl = total / number
    global_term = jnp.asarray(model.log_prior(params), bound.dtype) / number
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
    """(Σᵢ wᵢ elboᵢ + global term) / Σ w, in the precision of the sum; of no data the global term."""
    return (total + jnp.asarray(global_term, total.dtype)) / divisor(weight, total.dtype)


def divisor(weight: Array, dtype: Any) -> Array:
    """Σ w, and 1 where that is 0: a batch that is all padding says nothing, rather than NaN."""
    return jnp.where(weight == 0, 1, weight).astype(dtype)


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
    η: the transpose of the forward matrix products forms them.
    """
    coordinates, rest = split_coordinates(model.natural(params))

    def lift(form, coordinates):
        return split_coordinates(form.prepare(eqx.combine(coordinates, rest)))

    total, gradient, weight = _gradient_pass(
        model, params, posterior, coordinates, lift, ("params",), batch, key, chunk_size
    )
    return total, gradient["params"], weight


def elbo_and_gradient(
    model: AbstractModel,
    params: PyTree,
    posterior: PyTree,
    batch: PyTree,
    *,
    wrt: tuple[str, ...],
    key: Key,
    chunk_size: int | None = None,
) -> tuple[Scalar, dict[str, PyTree], Array]:
    """(Σ w elbo, its gradient in the inexact arrays of the blocks `wrt`, Σ w) in one pass.

    `wrt` names `"params"`, `"posterior"` or both. Gradients are taken by argument, so that nothing of
    the other block is cut from the graph.
    """
    trained, frozen = split_coordinates(params)

    def lift(form, trained):
        natural = form.natural(eqx.combine(trained, frozen))
        # What coordinates are taken about depends on the params too.
        return eqx.partition(form.prepare(natural), eqx.is_inexact_array)

    return _gradient_pass(model, params, posterior, trained, lift, wrt, batch, key, chunk_size)


def _gradient_pass(model, params, posterior, source, lift, wrt, batch, key, chunk_size):
    """(Σ w elbo, its gradient in the blocks `wrt`, Σ w).

    `lift(form, source)` is (what the pass differentiates, the rest of the prepared η). Every chunk
    takes its gradient there; the sum is pulled back to `source` once. So nothing that does not depend
    on the data is left inside a loop over chunks.
    """
    weights, static = partition(posterior)

    def run(form, prepare):
        natural, pull_back, rest = jax.vjp(functools.partial(lift, form), source, has_aux=True)
        with_exact = prepare(eqx.combine(natural, rest))
        everything = {"params": natural, "posterior": weights}

        def chunk(x, weight, places):
            def total(blocks):
                now = everything | blocks
                q = with_exact(eqx.combine(now["posterior"], static))
                prepared = eqx.combine(now["params"], rest)
                return _weighted_sum(_bound, form, prepared, q, x, weight, places)

            return jax.value_and_grad(total)({name: everything[name] for name in wrt})

        (total, gradient), weight = reduce_data(chunk, batch, key, chunk_size)
        if "params" in gradient:
            (gradient["params"],) = pull_back(gradient["params"])
        return total, gradient, weight

    found, base = with_shortcut(run, model, params, posterior, batch, chunk_size)
    total, gradient, weight = found
    return with_base(total, base), gradient, weight


def _sum_over_data(datum, model, params, posterior, batch, key, chunk_size):
    key = jax.random.key(0) if key is None else key

    def run(form, prepare):
        prepared = form.prepare(form.natural(params))
        q = prepare(prepared, tight=datum is _bound)(posterior)

        def chunk(x, weight, places):
            return _weighted_sum(datum, form, prepared, q, x, weight, places)

        return reduce_data(chunk, batch, key, chunk_size)

    (total, weight), base = with_shortcut(run, model, params, posterior, batch, chunk_size)
    # The bound comes first.
    total = total.at[0].set(with_base(total[0], base)) if total.ndim else with_base(total, base)
    return total, weight


def _bound(model, natural, x, q, key):
    return model.elbo(natural, x, q, key)


def _weighted_sum(datum: Callable, model, natural, posterior, x, weight, places) -> Array:
    """Σᵢ wᵢ datum(xᵢ) over some rows; every row has a key for q and one for expectations."""

    def one(x, place):
        key_q, key_expectation = jax.random.split(place.key)
        q = at_row(posterior, place.row)(x, key=key_q)
        q = as_distribution(q, model.latent, key_q)
        return datum(model, natural, x, q, key_expectation)

    return weighted_sum(weight, over_rows(one, x, places))


def weighted_sum(weight: AnyArray, values: Array) -> Array:
    """Σᵢ wᵢ valuesᵢ over rows, and blocks of rows."""
    weight = jnp.asarray(weight, values.dtype)
    return jnp.tensordot(weight, values, weight.ndim, precision=jax.lax.Precision.HIGHEST)


def with_base(total: Scalar, base: Scalar | float) -> Scalar:
    """The sum, −∞ where the base is: what the faster form makes of a datum outside of the support is no matter."""
    base = jnp.asarray(base, total.dtype)
    return jnp.where(base == -jnp.inf, -jnp.inf, total + base)


class _Prepared(eqx.Module):
    """An exact posterior whose natural parameters are at hand, for one pass."""

    model: AbstractModel
    prepared: PyTree
    tight: bool = eqx.field(static=True)

    def __call__(self, x, *, key=None):
        q = self.model.conditional(self.prepared, x)
        return _Tight(q.natural, q.family) if self.tight else q


class _Tight(Distribution):
    """p(z | x) where its bound is only asked for at the potentials that made it.

    The bound there is A(λ), and so is its slope ∇A(λ) = E_q[t(z)]: one log-normalizer serves E-step,
    bound and statistics.
    """

    tight: ClassVar[bool] = True

    def bound(self, potentials):
        return self.family.log_normalizer(potentials)


# On so few numbers the form that is always right is as fast, and both together take twice as long to compile.
_SMALL = 4096


def with_shortcut(
    run: Callable,
    model: AbstractModel,
    params: PyTree,
    posterior: PyTree,
    batch: PyTree,
    chunk_size: int | None = None,
) -> tuple[Any, Scalar | float]:
    """(run(form, prepare), what is to be added to its sum of bounds), by the model's shortcut where it may be
    taken: decided once a pass, and never on data of a few thousand numbers.

    `prepare(natural)(posterior)` is the posterior with every exact one of this model prepared: it
    takes the same form as the model does, and is `tight` if it is the posterior itself, at the same θ, and the
    pass asks for nothing but bounds.
    """

    check_places(posterior, batch, "A pass over data")

    def is_exact(node):
        return isinstance(node, Exact) and node.model == model

    snapshots = [
        node.params
        for node in jax.tree.leaves(posterior, is_leaf=is_exact)
        if is_exact(node) and not same_arrays(node.params, params)
    ]

    def prepare_with(form):
        def prepare(natural, tight=True):
            ours = [natural] + [form.prepare(form.natural(snapshot)) for snapshot in snapshots]
            at = [params, *snapshots]

            def exchange(node, tight):
                if not is_exact(node):
                    return node
                index = next(i for i, theta in enumerate(at) if same_arrays(theta, node.params))
                return _Prepared(form, ours[index], tight and form.tight and index == 0)

            def exchange_all(q):
                # Inside of another posterior it may be asked at another x than the bound is.
                one = functools.partial(exchange, tight=tight and is_exact(q))
                return jax.tree.map(one, q, is_leaf=is_exact)

            return exchange_all

        return prepare

    batch = as_batch(batch)
    small = at_most(_SMALL, batch.x)
    x = without_padding(batch, batch.x, effective_weight(batch))
    found = None if small else model.shortcut(params, x)
    if found is None:
        return run(model, prepare_with(model)), 0.0
    allowed = found.allowed
    for snapshot in snapshots:
        also = model.shortcut(snapshot, x)
        allowed = allowed if also is None else allowed & also.allowed
    allowed = in_every_lane(allowed)
    result = jax.lax.cond(
        allowed,
        lambda: run(found.form, prepare_with(found.form)),
        lambda: run(model, prepare_with(model)),
    )
    each = found.base
    if each is None:
        return result, 0.0

    def chunk(x, weight, places):
        return weighted_sum(weight, over_rows(each, x))

    base, _ = reduce_data(chunk, batch, jax.random.key(0), chunk_size)
    return result, jnp.where(allowed, base, 0)
