"""One pass of a model over data: sums of bounds, their gradients and expected statistics."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp

from ._math.algebra import in_every_lane, nodes_of
from ._model import AbstractModel
from ._program import at_most
from ._reference import split_coordinates
from ._types import Any, AnyArray, Array, Callable, Key, PyTree, Scalar
from .data._batch import as_batch, effective_weight, over_rows, reduce_data, without_padding
from .posteriors import Exact
from .posteriors._drawn import as_distribution
from .posteriors._exact import tightened
from .posteriors._posterior import at_row, ModelAt, prepare, same_arrays, weights_of, with_weights
from .posteriors._table import check_places


# With fewer numbers the general form is as fast, and compiling both forms takes twice as long.
_SMALL = 4096


@dataclasses.dataclass(frozen=True)
class Pass:
    """One pass of `model` at `params` over a `batch`, under a `posterior`.

    The natural parameters are computed once, before any loop over rows or chunks. If the model has a faster form
    that is as accurate, the pass uses it. Every row has its own random keys.
    """

    model: AbstractModel
    params: PyTree
    posterior: PyTree
    batch: PyTree
    key: Key
    chunk_size: int | None = None

    def sum(self, datum: Callable[..., Array]) -> tuple[Array, Array]:
        """Returns (Σᵢ wᵢ datum(model, η, xᵢ, qᵢ, key), Σᵢ wᵢ).

        `datum` returns the bound, or several numbers of which the bound is the first.
        """

        def run(form, chunk_size):
            natural = form.prepare(form.draw(form.natural(self.params), self.key))
            at = ModelAt(self.model, form, self.params, natural)
            q = prepare(self.posterior, at)
            q = tightened(q) if datum is bound else q
            return self._over_data(lambda *rows: _weighted_sum(datum, at, q, *rows), chunk_size)

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
        """Returns (Σ w elbo, its gradient in the blocks `wrt`, Σ w).

        If `datum` returns several numbers, the bound first, all their sums are returned. `lift(form, source)`
        returns (the part of the prepared η that the pass differentiates, the rest). Every chunk takes its gradient
        there, and the sum is pulled back to `source` once, so a loop over chunks contains only what depends on the
        data. With `through`, an exact posterior at these params is differentiated too.
        """
        weights = weights_of(self.posterior)
        datum = bound if datum is None else datum

        def run(form, chunk_size):
            natural, pull_back, rest = jax.vjp(functools.partial(lift, form), source, has_aux=True)
            everything = {"params": natural, "posterior": weights}
            at = ModelAt(self.model, form, self.params, eqx.combine(natural, rest))
            fixed = prepare(self.posterior, at)
            fixed = tightened(fixed) if datum is bound else fixed

            def chunk(*rows):
                def total(blocks):
                    now = everything | blocks
                    moving = dataclasses.replace(at, natural=eqx.combine(now["params"], rest))
                    q = prepare(self.posterior, moving) if through else fixed
                    sums = _weighted_sum(datum, moving, with_weights(now["posterior"], q), *rows)
                    return (sums[0] if sums.ndim else sums), sums

                slope = jax.grad(total, has_aux=True)
                return slope({name: everything[name] for name in wrt})[::-1]

            (total, gradient), weight = self._over_data(chunk, chunk_size)
            if "params" in gradient:
                (gradient["params"],) = pull_back(gradient["params"])
            return total, gradient, weight

        (total, gradient, weight), base = self.in_the_faster_form(run)
        return _first_with_base(total, base), gradient, weight

    def _over_data(self, chunk: Callable, chunk_size: int | None) -> tuple[Any, Array]:
        return reduce_data(chunk, self.batch, self.key, chunk_size)

    def in_the_faster_form(
        self, run: Callable[[AbstractModel, int | None], Any]
    ) -> tuple[Any, Scalar | float]:
        """Returns (run(form, chunk size), the term to add to its sum of bounds).

        The form is the model's shortcut, if it is allowed. It also chooses a chunk size if the user does not,
        except under a posterior with weights. This is decided once per pass. The shortcut is not used on data of
        a few thousand numbers.
        """
        check_places(self.posterior, self.batch, "A pass over data")
        batch = as_batch(self.batch)
        x = without_padding(batch, batch.x, effective_weight(batch))
        found = None if at_most(_SMALL, batch.x) else self.model.shortcut(self.params, x)
        if found is None:
            return run(self.model, self.chunk_size), 0.0
        allowed = found.allowed
        for node in nodes_of(Exact, self.posterior):
            # A posterior at other params uses the same form, which must be accurate there too.
            if node.model == self.model and not same_arrays(node.params, self.params):
                also = self.model.shortcut(node.params, x)
                allowed = allowed if also is None else allowed & also.allowed
        allowed = in_every_lane(allowed)
        chunk_size = self.chunk_size
        # A network may depend on the rows that it sees at a time (batch normalization).
        if chunk_size is None and not jax.tree.leaves(weights_of(self.posterior)):
            chunk_size = found.chunk_size
        result = jax.lax.cond(
            allowed,
            lambda: run(found.form, chunk_size),
            lambda: run(self.model, chunk_size),
        )
        each = found.base
        if each is None:
            return result, 0.0
        base, _ = self._over_data(
            lambda x, weight, _: weighted_sum(weight, over_rows(each, x)), self.chunk_size
        )
        return result, jnp.where(allowed, base, 0)


def bound(model: AbstractModel, natural: PyTree, x: PyTree, q: Any, key: Key) -> Scalar:
    """Returns the ELBO of one datum."""
    return model.elbo(natural, x, q, key)


def bound_and_divergence(
    model: AbstractModel, natural: PyTree, x: PyTree, q: Any, key: Key
) -> Array:
    """Returns the ELBO of one datum and KL(q ‖ p(z)), stacked."""
    value = model.elbo(natural, x, q, key)
    divergence = model.divergence(q, model.prior_at(natural, x), key)
    return jnp.stack([value, divergence.astype(value.dtype)])


def _weighted_sum(datum: Callable, at: ModelAt, posterior, x, weight, places) -> Array:
    """Returns Σᵢ wᵢ datum(xᵢ) over some rows; every row has one key for q and one for expectations."""

    def one(x, place, weight):
        key_q, key_expectation = place.keys
        q = at_row(posterior, place.row)(x, key=key_q)
        q = as_distribution(q, at.form.latent, key_q)
        return datum(at.form.of_row(weight), at.natural, x, q, key_expectation)

    return weighted_sum(weight, over_rows(one, x, places, jnp.asarray(weight)))


def weighted_sum(weight: AnyArray, values: Array) -> Array:
    """Returns Σᵢ wᵢ valuesᵢ over rows (and blocks of rows)."""
    weight = jnp.asarray(weight, values.dtype)
    return jnp.tensordot(weight, values, weight.ndim, precision=jax.lax.Precision.HIGHEST)


def with_base(total: Scalar, base: Scalar | float) -> Scalar:
    """Returns total + base, −∞ if the base is: outside of the support the faster form's value is meaningless."""
    base = jnp.asarray(base, total.dtype)
    return jnp.where(base == -jnp.inf, -jnp.inf, total + base)


def _first_with_base(sums: Array, base: Scalar | float) -> Array:
    return sums.at[0].set(with_base(sums[0], base)) if sums.ndim else with_base(sums, base)


def per_datum(total: Scalar, global_term: Scalar | float, weight: Array) -> Scalar:
    """Returns (Σᵢ wᵢ elboᵢ + global term) / Σ w in the precision of the sum; without data, the global term."""
    return (total + jnp.asarray(global_term, total.dtype)) / divisor(weight, total.dtype)


def divisor(weight: Array, dtype: Any) -> Array:
    """Returns Σ w, or 1 if it is 0, so that a batch that is all padding does not give NaN."""
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
    """Computes (Σ w elbo, Σ w E_q[t(x, z)], Σ w) in one pass, under any posterior.

    The log-joint is linear in the coordinates η, so the statistics are the gradient of the bound in η. The
    transposed matrix products of the forward pass compute them.

    **Arguments:**

    - `model`: a model whose log-joint is linear in η(θ) = `model.natural(params)`.
    - `params`: θ, the model's parameters.
    - `posterior`: q, a function from a datum to a distribution.
    - `batch`: data with a leading axis, or a `Batch`.
    - `key`: a random key for sampled posteriors and expectations.
    - `chunk_size`: about how many rows to process at a time.

    **Returns** (the sum of bounds in nats, the statistics in the structure of η's coordinates, the sum of
    weights).
    """
    coordinates, rest = split_coordinates(model.natural(params))

    def lift(form, coordinates):
        return split_coordinates(form.prepare(form.draw(eqx.combine(coordinates, rest), key)))

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
    """Computes (Σ w elbo, its gradient, Σ w) in one pass.

    **Arguments:**

    - `model`, `params`, `posterior`, `batch`, `key`, `chunk_size`: as for `expected_statistics`, for any model.
    - `wrt`: the blocks whose inexact arrays the gradient is taken in: `"params"`, `"posterior"` or both. Gradients
        are taken by argument, without a `stop_gradient` on the other block.
    - `through`: whether to differentiate every `Exact` in the posterior that is at these params, too. Otherwise it
        is a fixed snapshot.
    - `datum`: the function of one datum that is summed, by default the bound.

    **Returns** (the sum of bounds in nats, a dictionary of the gradients in these blocks, the sum of weights).
    """
    trained, frozen = split_coordinates(params)

    def lift(form, trained):
        natural = form.draw(form.natural(eqx.combine(trained, frozen)), key)
        # The reference point of the coordinates depends on the params too, so it is differentiated.
        return eqx.partition(form.prepare(natural), eqx.is_inexact_array)

    over = Pass(model, params, posterior, batch, key, chunk_size)
    return over.gradient(trained, lift, wrt, through, datum)
