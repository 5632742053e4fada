"""Multivariate normal components."""

import functools
import math
from typing import get_args, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._arguments import check_choice, check_kind, check_not_negative, in_full
from .._free import choose
from .._math.algebra import diagonal, matmul, vdot, without_data
from .._math.linear_algebra import cholesky, eigh, invert_triangle
from .._program import program
from .._reference import Reference
from .._shortcut import rows_at_once, Shortcut
from .._types import Array, Float, PyTree
from ..data._check import check_described, check_row, is_concrete
from ..data._incomplete_rows import is_incomplete, known, known_numbers
from ..priors import NormalInverseWishart
from ._component import AbstractComponent
from ._covariance import AbstractCovariance, Diagonal, Full, MANY_COLUMNS, Spherical
from ._imputation import regression_on_observed
from ._moved import unless
from ._parts import part_means, pooled_covariance
from ._quadratic import (
    average_unit,
    differences,
    expand,
    expanded,
    in_unit,
    marginal,
    marginal_by_precision,
)
from ._support import LARGEST_EXPANDED
from ._unit import floors, positive_variance, with_given_unit, with_unit


Covariance = Literal[
    "full", "tied", "diagonal", "diag", "spherical", "tied_diagonal", "tied_spherical"
]
Form = Literal["auto", "difference", "expanded"]

_STRUCTURES = {
    "full": (Full(), False),
    "tied": (Full(), True),
    "diagonal": (Diagonal(), False),
    "spherical": (Spherical(), False),
    "tied_diagonal": (Diagonal(), True),
    "tied_spherical": (Spherical(), True),
}


class Normal(AbstractComponent):
    r"""Multivariate normals: $p(x \mid k) = N(x; \mu_k, \Sigma_k)$.

    x has shape `(dim,)` or is `IncompleteRows`. Params: `{"mean": (K, dim), "scale": array}`, where the scale
    has shape `(K, dim (dim + 1) / 2)` (full), `(K, dim)` (diagonal) or `(K,)` (spherical), without the axis K
    if tied. With a floor they also hold `"unit"`, a `Reference` to the standard deviations of the data's
    columns, which no update changes. A component without data keeps its mean and covariance, or takes those of its
    prior.

    **Arguments:**

    - `covariance`: `"full"`, `"diagonal"` or `"spherical"`, or one such covariance for all components: `"tied"`,
        `"tied_diagonal"` or `"tied_spherical"`. mclust calls them VVV, VVI, VII, EEE, EEI and EII.
    - `floor`: the weight of the penalty $-\tfrac12 \mathrm{floor} \cdot \mathrm{tr}\, \Sigma_k^{-1} D$, where D
        are the variances of the data's columns (an inverse-Wishart prior up to its count). It adds `floor` · D to
        each component's scatter matrix, so that no variance falls below floor / N of its column's. It is relative
        to the data and so independent of their units. 0 turns it off; the likelihood is then unbounded.
    - `prior`: a `NormalInverseWishart` on every mean and covariance, in addition to the floor. For structures
        other than `"full"` its density is evaluated at the structured covariance, without renormalization.
    - `form`: how quadratic forms are computed. `"difference"` subtracts each component's mean and scales by its
        covariance first; it is accurate at any offset, spread and correlation. `"expanded"` multiplies the squares
        out about one center. A sweep is then two matrix products, but it cancels for components many standard
        deviations apart (and for `IncompleteRows` if a covariance is nearly singular). `"auto"` expands in those
        passes in which a bound on the cancellation allows it.
    """

    covariance: Covariance = eqx.field(static=True)
    floor: float = eqx.field(static=True)
    prior: NormalInverseWishart | None
    form: Form = eqx.field(static=True)

    def __init__(
        self,
        covariance: Covariance = "full",
        *,
        floor: float = 1e-6,
        prior: NormalInverseWishart | None = None,
        form: Form = "auto",
    ):
        covariance = in_full(covariance)
        check_choice("Normal", _STRUCTURES, covariance=covariance)
        check_choice("Normal", get_args(Form), form=form)
        check_not_negative("Normal", floor=floor)
        check_kind("Normal", NormalInverseWishart, prior=prior)
        self.covariance = covariance
        self.floor = float(floor)
        self.prior = prior
        self.form = form

    @property
    def structure(self) -> AbstractCovariance:
        """How covariances of this kind are parameterized."""
        return _STRUCTURES[self.covariance][0]

    @property
    def shared(self) -> bool:
        """Whether all components have one covariance."""
        return _STRUCTURES[self.covariance][1]

    @property
    def _axis(self) -> int | None:
        """The component axis of the covariance's arrays, or None."""
        return None if self.shared else 0

    def factors(self, params: PyTree) -> tuple[Array, Array]:
        """Returns (C, W), with the component axis unless shared."""
        dim = params["mean"].shape[-1]

        def one(raw):
            factor = self.structure.factor(raw, dim)
            return factor, self.structure.inverse(factor)

        return one(params["scale"]) if self.shared else jax.vmap(one)(params["scale"])

    @program
    def whitening(self, params: PyTree) -> Float[Array, "K D D"]:
        """Returns W of each component, lower triangular, with Σ⁻¹ = Wᵀ W."""
        num_components, dim = params["mean"].shape
        _, inverse = self.factors(params)
        dense = lambda inverse: self.structure.dense(inverse, dim)
        if self.shared:
            return jnp.broadcast_to(dense(inverse), (num_components, dim, dim))
        return jax.vmap(dense)(inverse)

    def check(self, x, weight, who, *, varied=False):
        # A single deviation for all columns is positive even if one column is constant.
        super().check(x, weight, who, varied=varied and not isinstance(self.structure, Spherical))

    def init(self, x, weight, assignment, num_components):
        """Returns the means of the parts, and their pooled covariance for every component.

        A part's own covariance may be singular; the pooled one is singular only if the data are.
        """
        x, observed = known_numbers(x)
        seen = observed.astype(x.dtype)
        mean, residual, center = part_means(x, seen, weight, assignment, num_components)
        # A little of the whole variance is added for parts that are constant in a column.
        _, whole = pooled_covariance(seen * (x - center), seen, weight)
        within, _ = pooled_covariance(residual, seen, weight)
        ridge = 1e-5 * positive_variance(whole)
        scale = self.structure.pack(cholesky(within + jnp.diag(ridge)))
        if not self.shared:
            scale = jnp.broadcast_to(scale, (num_components, *scale.shape))
        return with_unit({"mean": mean, "scale": scale}, self.floor, whole)

    def exchange(self, which, fresh, params):
        if not self.shared:
            return super().exchange(which, fresh, params)
        own = {name: block for name, block in params.items() if name != "scale"}
        return params | super().exchange(which, fresh, own)

    def shapes(self, num_components):
        scale = self.structure.shape("dim")
        return {
            "mean": (num_components, "dim"),
            "scale": scale if self.shared else (num_components, *scale),
            "unit": Reference(("dim",)),
        }

    def natural(self, params):
        mean = params["mean"]
        dim = mean.shape[-1]
        factor, inverse = self.factors(params)

        def count(factor):
            log_determinant = self.structure.log_determinant(factor, dim)
            return -log_determinant - 0.5 * dim * math.log(2 * math.pi)

        counts = count(factor) if self.shared else jax.vmap(count)(factor)
        identity = self.structure.identity if self.shared else jax.vmap(self.structure.identity)
        about = {"mean": mean, "factor": factor, "inverse": inverse, "center": mean.mean(0)}
        return {
            "count": jnp.broadcast_to(counts, mean.shape[:1]),
            "linear": jnp.zeros_like(mean),
            "precision": identity(factor),
            "about": Reference(about),
        }

    def rebase(self, natural, params):
        """Inserts z = B z' + b with B = W C' and b = W (μ' − μ), where z' = W' (x − μ') are the new units."""
        old, new = natural["about"].value, self.natural(params)["about"]
        structure = self.structure

        def one(count, linear, precision, inverse, factor, move):
            # A structure's factors apply to one another as to vectors.
            turn, shift = structure.apply(inverse, factor), structure.apply(inverse, move)
            push = jax.grad(structure.quadratic, 1)(precision, shift)  # 2 J b
            count = count + vdot(linear, shift) - 0.5 * structure.quadratic(precision, shift)
            linear = structure.apply_transposed(turn, linear - 0.5 * push)
            return count, linear, structure.congruence(turn, precision)

        axis = self._axis
        move = jax.vmap(one, in_axes=(0, 0, axis, axis, axis, 0), out_axes=(0, 0, axis))
        shift = new.value["mean"] - old["mean"]
        moved = move(
            natural["count"],
            natural["linear"],
            natural["precision"],
            old["inverse"],
            new.value["factor"],
            shift,
        )
        return dict(zip(("count", "linear", "precision"), moved), about=new)

    def prepare(self, natural):
        """Adds the coefficients of the expanded form to η, which incomplete rows still need."""
        if self.form != "expanded":
            return natural
        return {"expanded": expand(self.structure, self._axis, natural), "natural": natural}

    def log_densities(self, natural, x):
        exponents, log_volumes = self.terms(natural, x)
        return exponents + log_volumes

    def terms(self, natural: PyTree, x: PyTree) -> tuple[Float[Array, " K"], Float[Array, " K"]]:
        """Returns the log-densities as (the part that a precision multiplies, the part of integrated columns)."""
        coefficients = natural.get("expanded")
        natural = natural.get("natural", natural)
        check_row(x, natural["linear"].shape[-1], "Normal")
        if is_incomplete(x):
            # Where squares may be expanded, no covariance is nearly singular either.
            form = marginal if coefficients is None else marginal_by_precision
            return form(self.structure, self._axis, natural, x)
        if coefficients is None:
            exponents = differences(self.structure, self._axis, natural, x)
        else:
            exponents = expanded(self.structure, coefficients, x)
        return exponents, jnp.zeros_like(exponents)

    def maximize(self, statistics, params, free):
        return self.maximize_with_counts(statistics, statistics["count"], params, free)

    def maximize_with_counts(self, statistics, count, params, free, pseudo_count=None):
        """Runs `maximize` with separate counts for means and for covariances (`count` is the covariances').

        `pseudo_count` is how many rows the prior's scatter is worth, by default as many as put the covariance at
        the mode; with those of `Bayesian` it is at the posterior's mean precision.
        """
        mean, scale = params["mean"], params["scale"]
        dim = mean.shape[-1]
        structure = self.structure
        factor, inverse = self.factors(params)
        over_components = functools.partial(jax.vmap, in_axes=(self._axis, 0))
        linear, scatter = statistics["linear"], -2 * statistics["precision"]
        mean_count, pseudo_scatter, of_mode = statistics["count"], 0, 0.0
        if self.prior is not None:
            # κ rows at m, in units of each component's covariance.
            shrinkage = self.prior.shrinkage
            offset = over_components(structure.apply)(
                inverse, self.prior.center(dim, mean.dtype) - mean
            )
            linear, mean_count = linear + shrinkage * offset, mean_count + shrinkage
            pull = shrinkage * jax.vmap(structure.square)(offset)
            scatter = scatter + (jnp.sum(pull, 0) if self.shared else pull)
            num_means = mean.shape[0] if self.shared else 1
            of_mode = self.prior.dof + dim + 1 + (num_means if shrinkage else 0)
            root = jnp.asarray(self.prior.root(dim), mean.dtype)
            pseudo_scatter = self._scatter(inverse, root)
        if self.floor:
            pseudo_scatter += self._scatter(inverse, self._floor(params))
        pseudo_count = of_mode if pseudo_count is None else pseudo_count

        self._check_masks(free)
        # A component without data stays unchanged: its moments are 0/0.
        empty = without_data(mean_count)
        best = jnp.where(empty[:, None], 0, linear / jnp.where(empty, 1, mean_count)[:, None])
        moved = choose(free["mean"], mean + over_components(structure.apply)(factor, best), mean)
        # Computed once: in another fusion the sum may have another last digit.
        moved = jax.lax.optimization_barrier(moved)
        made = jax.lax.stop_gradient(over_components(structure.apply)(inverse, moved - mean))
        lost = jnp.sum((made - best) ** 2, -1) >= jnp.sum(best**2, -1)
        moved = unless(lost, mean, moved)
        shift = over_components(structure.apply)(inverse, moved - mean)
        # The scatter about the new mean is that of z − shift.
        about = jax.vmap(lambda n, d, t: n * structure.square(d) - 2 * structure.outer(d, t))(
            mean_count, shift, linear
        )
        # The scatter about the new mean is a difference of squares about the old one, each with its rounding.
        eps = jnp.finfo(mean.dtype).eps
        squares = 0.0 if self.form == "difference" else eps * LARGEST_EXPANDED
        if self.shared:
            total = jnp.sum(count) + pseudo_count
            moment = scatter + jnp.sum(about, 0) + pseudo_scatter
            rounding = squares + 4 * dim * eps * jnp.max(scatter) / total
            scale = structure.rescale(scale, moment / total, dim, rounding)
        else:
            total = count + pseudo_count
            nothing = without_data(total)
            safe = jnp.where(nothing, 1, total).reshape((-1,) + (1,) * (scatter.ndim - 1))
            moment = (scatter + about + pseudo_scatter) / safe
            size = jnp.max((scatter / safe).reshape(len(scatter), -1), -1)
            rescale = lambda raw, moment, rounding: structure.rescale(raw, moment, dim, rounding)
            fresh = jax.vmap(rescale)(scale, moment, squares + 4 * dim * eps * size)
            scale = jnp.where(nothing.reshape((-1,) + (1,) * (scale.ndim - 1)), scale, fresh)
        return params | {"mean": moved, "scale": scale}

    def _floor(self, params: PyTree) -> Float[Array, "dim dim"]:
        """Returns a root of floor · D."""
        return jnp.diag(floors(params, self.floor, "Normal").astype(params["mean"].dtype))

    def _check_masks(self, free: PyTree) -> None:
        """Raises `ValueError` for masks of single entries if correlated columns can only move together."""
        if not isinstance(self.structure, Full):
            return
        for name in ("mean", "scale"):
            flag = free[name]
            if isinstance(flag, bool) or not is_concrete(flag):
                continue
            mask = np.atleast_1d(np.asarray(flag))
            whole = mask.reshape(1, -1) if name == "scale" and self.shared else mask
            if whole.ndim > 1 and np.any(whole != whole[:, :1]):
                raise ValueError(
                    f"Normal: with a {self.covariance} covariance the columns of {name!r} are updated together. "
                    "A mask must free or freeze whole components, such as a mask of shape (K, 1)."
                )

    def _scatter(self, inverse, root):
        """Returns the statistic of tr(L Lᵀ Σ⁻¹), for every covariance."""
        if self.shared:
            return self.structure.scatter(inverse, root)
        return jax.vmap(lambda inverse: self.structure.scatter(inverse, root))(inverse)

    def log_prior(self, params: PyTree):
        dim, dtype = params["mean"].shape[-1], params["mean"].dtype
        factor, inverse = self.factors(params)

        def trace(root):
            def one(inverse):
                identity = self.structure.identity(inverse)
                return vdot(identity, self.structure.scatter(inverse, root))

            return one(inverse) if self.shared else jax.vmap(one)(inverse)

        total = 0.0
        if self.floor:
            total -= 0.5 * jnp.sum(trace(self._floor(params)))
        if self.prior is not None:
            determinant = lambda factor: 2 * self.structure.log_determinant(factor, dim)
            determinants = determinant(factor) if self.shared else jax.vmap(determinant)(factor)
            offset = params["mean"] - self.prior.center(dim, dtype)
            whitened = jax.vmap(self.structure.apply, in_axes=(self._axis, 0))(inverse, offset)
            distance = jnp.sum(whitened**2, -1)
            total += jnp.sum(self.prior.log_density_of_mean(distance, determinants, dim))
            traces = trace(jnp.asarray(self.prior.root(dim), dtype))
            total += jnp.sum(self.prior.log_density_of_covariance(traces, determinants, dim))
        return total

    def shortcut(self, params, x):
        if self.form != "auto":
            return None
        mean, structure, axis = params["mean"], self.structure, self._axis
        dim = mean.shape[-1]
        factor, inverse = self.factors(params)
        # Incomplete rows are not brought to units in which columns are uncorrelated.
        incomplete = is_incomplete(x)
        unit = None if incomplete else average_unit(structure, axis, factor)
        to_unit = None if unit is None else structure.inverse(unit)

        def size(mean, factor, inverse):
            """Returns ‖|WU| (|U⁻¹(μ − c)| + sd)‖²: the sum of the expanded terms of a typical point."""
            within = structure.matrix(in_unit(structure, to_unit, factor), dim)
            deviation = jnp.sqrt(diagonal(within))
            typical = jnp.abs(in_unit(structure, to_unit, mean)) + deviation
            inverse = inverse if unit is None else structure.apply(inverse, unit)
            return jnp.sum(structure.apply(jnp.abs(inverse), typical) ** 2)

        sizes = jax.vmap(size, in_axes=(0, axis, axis))(mean - mean.mean(0), factor, inverse)
        allowed = jnp.max(sizes) <= LARGEST_EXPANDED
        form = Normal(self.covariance, floor=self.floor, prior=self.prior, form="expanded")
        return Shortcut(allowed, form, chunk_size=self._chunk_size(params, x))

    def _chunk_size(self, params: PyTree, x: PyTree) -> int | None:
        """Returns the number of rows whose features, or differences to all means, are held at a time."""
        number, dim = params["mean"].shape
        size = params["mean"].dtype.itemsize
        # Few products, and those of single columns, are computed in the loop that uses them.
        held = dim >= MANY_COLUMNS and isinstance(self.structure, Full) and not is_incomplete(x)
        features = 2 * size * dim * (dim // 2 + 2) if held else 0
        return rows_at_once(features, size * number * dim)

    def describe(self, params):
        dim = params["mean"].shape[-1]
        factor, _ = self.factors(params)
        if self.shared:
            matrix = self.structure.matrix(factor, dim)
            covariance = jnp.broadcast_to(matrix, (params["mean"].shape[0], dim, dim))
        else:
            covariance = jax.vmap(lambda f: self.structure.matrix(f, dim))(factor)
        return {"means": params["mean"], "covariances": covariance}

    def from_description(self, *, means, covariances, unit=None):
        """Returns params from means and covariances.

        **Arguments:**

        - `means`: `(K, dim)`.
        - `covariances`: `(K, dim, dim)`; a tied covariance is their average.
        - `unit`: the standard deviations of the data's columns, to which the floor is relative; by default those
            of the components in equal shares.

        **Raises** `ValueError` for a covariance that is not positive definite.
        """
        check_described(
            "Normal",
            means=(means, ("K", "dim"), "finite"),
            covariances=(covariances, ("K", "dim", "dim"), "covariances"),
        )
        mean, covariance = jnp.asarray(means, float), jnp.asarray(covariances, float)
        root = cholesky(jnp.mean(covariance, 0) if self.shared else covariance)
        pack = self.structure.pack
        params = {"mean": mean, "scale": pack(root) if self.shared else jax.vmap(pack)(root)}
        variance = jnp.mean(diagonal(covariance), 0) + jnp.var(mean, 0)
        return with_given_unit(params, self.floor, unit, variance, "Normal")

    def sample(self, params, component, key, inputs=None):
        mean = params["mean"][component]
        factor, _ = self.factors(params)
        factor = factor if self.shared else factor[component]
        noise = jax.random.normal(key, mean.shape, mean.dtype)
        return mean + self.structure.apply(factor, noise)

    def moments(self, params, x):
        means, variances, _ = self.given_observed(params, x)
        return means, variances

    def given_observed(self, params: PyTree, x: PyTree) -> tuple[Array, Array, Array]:
        """Returns `moments`, and the squared Mahalanobis distance of the observed columns, `(K,)`."""
        values, observed = known(x)
        dim, roots = params["mean"].shape[-1], self.factors(params)[0]

        def one(mean, root):
            root = self.structure.dense(root, dim)
            onto, variances, whitening = regression_on_observed(root, observed)
            offset = jnp.where(observed, values.astype(mean.dtype) - mean, 0)
            whitened = matmul(whitening, offset)
            return mean + matmul(onto, offset), variances, vdot(whitened, whitened)

        return jax.vmap(one, in_axes=(0, self._axis))(params["mean"], roots)

    def summary(self):
        return {"structure": self.covariance}

    def collapsed(self, params, *, ratio: float = 1e-4):
        """Returns whether each covariance is `ratio` times narrower than the average in some direction, `(K,)`.

        The test is independent of the data's units: it looks at the smallest eigenvalue of Σₖ in units of the
        average covariance. Numbers that are not finite count as collapsed.
        """
        covariance = self.describe(params)["covariances"]
        dim = covariance.shape[-1]
        finite = jnp.all(jnp.isfinite(covariance), (1, 2), keepdims=True)
        covariance = jnp.where(finite, covariance, 0)
        average = covariance.sum(0) / jnp.maximum(jnp.sum(finite.astype(covariance.dtype)), 1)
        deviation = jnp.sqrt(diagonal(average))
        correlation = average / jnp.outer(deviation, deviation)
        ridge = dim * jnp.finfo(average.dtype).eps * jnp.eye(dim, dtype=average.dtype)
        inverse = invert_triangle(cholesky(correlation + ridge))

        def narrowest(covariance):
            scaled = covariance / jnp.outer(deviation, deviation)
            values, _ = eigh(matmul(inverse, matmul(scaled, inverse.T)))
            return values[0]

        smallest = jax.vmap(narrowest)(covariance)
        return ~(smallest > ratio)
