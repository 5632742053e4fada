"""One pass of a model over data: sums of bounds, their gradients, expected statistics."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp

from ._algebra import in_every_lane, nodes_of
from ._batch import as_batch, effective_weight, over_rows, reduce_data, without_padding
from ._model import AbstractModel
from ._program import at_most
from ._reference import split_coordinates
from ._types import Any, AnyArray, Array, Callable, Key, PyTree, Scalar
from .posteriors import Exact
from .posteriors._drawn import as_distribution
from .posteriors._exact import tightened
from .posteriors._posterior import at_row, ModelAt, prepare, same_arrays, weights_of, with_weights
from .posteriors._table import check_places


# On so few numbers the form that is always right is as fast, and both together take twice as long to compile.
_SMALL = 4096


@dataclasses.dataclass(frozen=True)
class Pass:
    """One pass of `model` at `params` over a `batch`, under a `posterior`.

    What all passes share: the natural parameters are computed once, before any loop over rows or chunks, in the
    form of the model that is as exact and faster where there is one; every row has keys of its own.
    """

    model: AbstractModel
    params: PyTree
    posterior: PyTree
    batch: PyTree
    key: Key
    chunk_size: int | None = None

    def sum(self, datum: Callable[..., Array]) -> tuple[Array, Array]:
        """(Σᵢ wᵢ datum(model, η, xᵢ, qᵢ, key), Σᵢ wᵢ); of several numbers a datum the bound comes first."""

        def run(form):
            at = ModelAt(self.model, form, self.params, form.prepare(form.natural(self.params)))
            q = prepare(self.posterior, at)
            q = tightened(q) if datum is bound else q
            return self._over_data(lambda *rows: _weighted_sum(datum, at, q, *rows))

        (total, weight), base = self.in_the_faster_form(run)
        return _first_with_base(total, base), weight

    def gradient(
        self,
        source: PyTree,
        lift: Callable[[AbstractModel, PyTree], tuple[PyTree, PyTree]],
        wrt: tuple[str, ...],
        through: bool = False,
        datum: Callable[..., Array] | None = None,
    ) -> tuple[Array, dict[str, PyTree], Array]:
        """(Σ w elbo, its gradient in the blocks `wrt`, Σ w); of several numbers a datum all sums, the bound first.

        `lift(form, source)` is (what the pass differentiates, the rest of the prepared η). Every chunk takes its
        gradient there; the sum is pulled back to `source` once. So nothing that does not depend on the data is
        left inside a loop over chunks. `through` differentiates Bayes' rule at these params as well.
        """
        weights = weights_of(self.posterior)
        datum = bound if datum is None else datum

        def run(form):
            natural, pull_back, rest = jax.vjp(functools.partial(lift, form), source, has_aux=True)
            everything = {"params": natural, "posterior": weights}
            at = ModelAt(self.model, form, self.params, eqx.combine(natural, rest))
            fixed = tightened(prepare(self.posterior, at))

            def chunk(*rows):
                def total(blocks):
                    now = everything | blocks
                    moving = dataclasses.replace(at, natural=eqx.combine(now["params"], rest))
                    q = prepare(self.posterior, moving) if through else fixed
                    sums = _weighted_sum(datum, moving, with_weights(now["posterior"], q), *rows)
                    return (sums[0] if sums.ndim else sums), sums

                slope = jax.grad(total, has_aux=True)
                return slope({name: everything[name] for name in wrt})[::-1]

            (total, gradient), weight = self._over_data(chunk)
            if "params" in gradient:
                (gradient["params"],) = pull_back(gradient["params"])
            return total, gradient, weight

        (total, gradient, weight), base = self.in_the_faster_form(run)
        return _first_with_base(total, base), gradient, weight

    def _over_data(self, chunk: Callable) -> tuple[Any, Array]:
        return reduce_data(chunk, self.batch, self.key, self.chunk_size)

    def in_the_faster_form(self, run: Callable[[AbstractModel], Any]) -> tuple[Any, Scalar | float]:
        """(run(form), what is to be added to its sum of bounds), by the model's shortcut where it may be taken:
        decided once a pass, and never on data of a few thousand numbers."""
        check_places(self.posterior, self.batch, "A pass over data")
        batch = as_batch(self.batch)
        x = without_padding(batch, batch.x, effective_weight(batch))
        found = None if at_most(_SMALL, batch.x) else self.model.shortcut(self.params, x)
        if found is None:
            return run(self.model), 0.0
        allowed = found.allowed
        for node in nodes_of(Exact, self.posterior):
            # A posterior at other params takes the same form as the model, so it has to be right there too.
            if node.model == self.model and not same_arrays(node.params, self.params):
                also = self.model.shortcut(node.params, x)
                allowed = allowed if also is None else allowed & also.allowed
        allowed = in_every_lane(allowed)
        result = jax.lax.cond(allowed, lambda: run(found.form), lambda: run(self.model))
        each = found.base
        if each is None:
            return result, 0.0
        base, _ = self._over_data(lambda x, weight, _: weighted_sum(weight, over_rows(each, x)))
        return result, jnp.where(allowed, base, 0)


def bound(model: AbstractModel, natural: PyTree, x: PyTree, q: Any, key: Key) -> Scalar:
    """The ELBO of one datum."""
    return model.elbo(natural, x, q, key)


def bound_and_divergence(
    model: AbstractModel, natural: PyTree, x: PyTree, q: Any, key: Key
) -> Array:
    """The ELBO of one datum, and KL(q ‖ p(z))."""
    value = model.elbo(natural, x, q, key)
    divergence = model.divergence(q, model.prior_at(natural, x), key)
    return jnp.stack([value, divergence.astype(value.dtype)])


def _weighted_sum(datum: Callable, at: ModelAt, posterior, x, weight, places) -> Array:
    """Σᵢ wᵢ datum(xᵢ) over some rows; every row has a key for q and one for expectations."""

    def one(x, place):
        key_q, key_expectation = jax.random.split(place.key)
        q = at_row(posterior, place.row)(x, key=key_q)
        q = as_distribution(q, at.form.latent, key_q)
        return datum(at.form, at.natural, x, q, key_expectation)

    return weighted_sum(weight, over_rows(one, x, places))


def weighted_sum(weight: AnyArray, values: Array) -> Array:
    """Σᵢ wᵢ valuesᵢ over rows, and blocks of rows."""
    weight = jnp.asarray(weight, values.dtype)
    return jnp.tensordot(weight, values, weight.ndim, precision=jax.lax.Precision.HIGHEST)


def with_base(total: Scalar, base: Scalar | float) -> Scalar:
    """The sum, −∞ where the base is: what the faster form makes of a datum outside of the support is no matter."""
    base = jnp.asarray(base, total.dtype)
    return jnp.where(base == -jnp.inf, -jnp.inf, total + base)


def _first_with_base(sums: Array, base: Scalar | float) -> Array:
    return sums.at[0].set(with_base(sums[0], base)) if sums.ndim else with_base(sums, base)


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

    over = Pass(model, params, posterior, batch, key, chunk_size)
    total, gradient, weight = over.gradient(coordinates, lift, ("params",))
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
    through: bool = False,
    datum: Callable[..., Array] = bound,
) -> tuple[Array, dict[str, PyTree], Array]:
    """(Σ w elbo, its gradient in the inexact arrays of the blocks `wrt`, Σ w) in one pass.

    `wrt` names `"params"`, `"posterior"` or both. Gradients are taken by argument, so that nothing of
    the other block is cut from the graph. `through` differentiates a posterior's `Exact` at these very params in
    them too; without it Bayes' rule is that of a fixed snapshot. `datum` says what is summed.
    """
    trained, frozen = split_coordinates(params)

    def lift(form, trained):
        natural = form.natural(eqx.combine(trained, frozen))
        # What coordinates are taken about depends on the params too.
        return eqx.partition(form.prepare(natural), eqx.is_inexact_array)

    over = Pass(model, params, posterior, batch, key, chunk_size)
    return over.gradient(trained, lift, wrt, through, datum)
