"""Multivariate normal components."""

import math
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp

from .._algebra import matmul, vdot
from .._model import Reference
from .._types import Array, PyTree
from ._component import AbstractComponent
from ._covariance import AbstractCovariance, Diagonal, Full, Spherical


Covariance = Literal["full", "tied", "diagonal", "spherical"]
Form = Literal["auto", "difference", "expanded"]

_STRUCTURES = {
    "full": (Full(), False),
    "tied": (Full(), True),
    "diagonal": (Diagonal(), False),
    "spherical": (Spherical(), False),
}

# Expanding squares costs eps · (‖W‖ distance from center)²; this bound keeps the loss below 3e-4 nats
# in float32 and 1e-12 in float64.
_LARGEST_EXPANDED = 4096.0


class Normal(AbstractComponent):
    r"""$p(x \mid k) = N(x; \mu_k, \Sigma_k)$, x of shape `(dim,)`.

    **Arguments:**

    - `covariance`: `"full"`, `"tied"` (one full covariance for all components), `"diagonal"` or
        `"spherical"`.
    - `floor`: weight of the penalty $-\tfrac12 \mathrm{floor} \cdot \mathrm{tr}\, \Sigma_k^{-1}$ (an
        inverse-Wishart prior up to its count), in squared units of the data: it adds
        `floor` · I to each component's scatter matrix, so that no covariance shrinks below floor / N.
        0 turns it off; the likelihood is then unbounded.
    - `form`: how quadratics are taken. `"difference"` subtracts each component's mean and scales by
        its covariance first, right at any offset, spread and correlation. `"expanded"` multiplies
        the squares out about one center, which makes a sweep two matrix products but cancels for
        components many standard deviations apart. `"auto"` expands in those passes in which a bound on the
        cancellation allows it.

    A component without data keeps its mean and covariance.
    """

    covariance: Covariance = eqx.field(static=True)
    floor: float = eqx.field(static=True)
    form: Form = eqx.field(static=True)

    def __init__(
        self,
        covariance: Covariance = "full",
        *,
        floor: float = 1e-6,
        form: Form = "auto",
    ):
        if covariance not in _STRUCTURES:
            raise ValueError(
                f"Normal: covariance must be one of {', '.join(map(repr, _STRUCTURES))}; got "
                f"{covariance!r}."
            )
        if form not in ("auto", "difference", "expanded"):
            raise ValueError(
                f"Normal: form must be 'auto', 'difference' or 'expanded'; got {form!r}."
            )
        if not (math.isfinite(floor) and floor >= 0):
            raise ValueError(f"Normal: floor must be finite and not negative; got {floor}.")
        self.covariance = covariance
        self.floor = float(floor)
        self.form = form

    @property
    def structure(self) -> AbstractCovariance:
        return _STRUCTURES[self.covariance][0]

    @property
    def shared(self) -> bool:
        """Whether all components have one covariance."""
        return _STRUCTURES[self.covariance][1]

    @property
    def _axis(self) -> int | None:
        """Where the covariance's arrays carry the component axis."""
        return None if self.shared else 0

    def _factors(self, params: PyTree) -> tuple[Array, Array]:
        """(C, W), with the component axis unless shared."""
        dim = params["mean"].shape[-1]

        def one(raw):
            factor = self.structure.factor(raw, dim)
            return factor, self.structure.inverse(factor)

        return one(params["scale"]) if self.shared else jax.vmap(one)(params["scale"])

    def init(self, x, weight, assignment, num_components):
        """Means of the parts, and their pooled covariance for every component.

        A part's own covariance may be singular, the pooled one is so only if the data are.
        """
        share = weight / jnp.sum(weight)
        center = matmul(share, x)
        part = jnp.maximum(jax.ops.segment_sum(share, assignment, num_components), 1e-30)
        offset = jax.ops.segment_sum(share[:, None] * (x - center), assignment, num_components)
        mean = center + offset / part[:, None]
        residual = x - mean[assignment]
        within = matmul((share[:, None] * residual).T, residual)
        # A little of the whole variance is added for parts that are constant in a column.
        ridge = 1e-5 * matmul(share, (x - center) ** 2) + self.floor / x.shape[0]
        scale = self.structure.pack(jnp.linalg.cholesky(within + jnp.diag(ridge)))
        if not self.shared:
            scale = jnp.broadcast_to(scale, (num_components, *scale.shape))
        return {"mean": mean, "scale": scale}

    def natural(self, params):
        mean = params["mean"]
        dim = mean.shape[-1]
        factor, inverse = self._factors(params)

        def count(factor):
            log_determinant = self.structure.log_determinant(factor, dim)
            return -log_determinant - 0.5 * dim * math.log(2 * math.pi)

        counts = count(factor) if self.shared else jax.vmap(count)(factor)
        identity = self.structure.identity if self.shared else jax.vmap(self.structure.identity)
        return {
            "count": jnp.broadcast_to(counts, mean.shape[:1]),
            "linear": jnp.zeros_like(mean),
            "precision": identity(factor),
            "about": Reference({"mean": mean, "inverse": inverse, "center": mean.mean(0)}),
        }

    def prepare(self, natural):
        """For the expanded form, the coefficients of 1, x − c and its squares; else η as it is.

        With m = μ − c and A = WᵀJW:
        log p = [count − h·Wm − ½ mᵀAm] + (Wᵀh + Am)·(x − c) − ½ (x − c)ᵀA(x − c).
        """
        if self.form != "expanded":
            return natural
        structure, about = self.structure, natural["about"].value

        def one(count, linear, precision, mean, inverse):
            from_center = mean - about["center"]
            form = structure.congruence(inverse, precision)
            pull = structure.apply_transposed(inverse, linear)
            push = 0.5 * jax.grad(structure.quadratic, 1)(form, from_center)  # A m
            constant = count - vdot(pull, from_center) - 0.5 * vdot(push, from_center)
            curvature = -0.5 * jnp.atleast_1d(structure.coefficients(form))
            return constant, jnp.concatenate([pull + push, curvature])

        constant, coefficients = jax.vmap(one, in_axes=(0, 0, self._axis, 0, self._axis))(
            natural["count"],
            natural["linear"],
            natural["precision"],
            about["mean"],
            about["inverse"],
        )
        center = Reference(about["center"])
        return {"constant": constant, "coefficients": coefficients, "about": center}

    def log_densities(self, natural, x):
        about = natural["about"].value
        if self.form == "expanded":
            offset = x - about
            squares = jnp.atleast_1d(self.structure.monomials(offset))
            features = jnp.concatenate([offset, squares])
            return natural["constant"] + matmul(features, natural["coefficients"].T)

        # count + h·z − ½ zᵀJz with z = W(x − μ): h = 0 and J = I in value, coordinates all the same.
        def one(count, linear, precision, mean, inverse):
            z = self.structure.apply(inverse, x - mean)
            return count + vdot(linear, z) - 0.5 * self.structure.quadratic(precision, z)

        return jax.vmap(one, in_axes=(0, 0, self._axis, 0, self._axis))(
            natural["count"],
            natural["linear"],
            natural["precision"],
            about["mean"],
            about["inverse"],
        )

    def maximize(self, statistics, params):
        mean, scale = params["mean"], params["scale"]
        dim = mean.shape[-1]
        structure, tiny = self.structure, jnp.finfo(mean.dtype).tiny
        count = statistics["count"]
        empty = count <= tiny
        # An emptied component stays where it is: its moments are 0/0.
        safe = jnp.where(empty, 1, count)
        factor, inverse = self._factors(params)
        shift = jnp.where(empty[:, None], 0, statistics["linear"] / safe[:, None])
        moved = jax.vmap(structure.apply, in_axes=(self._axis, 0))(factor, shift)
        scatter = -2 * statistics["precision"]
        spread = jax.vmap(structure.square)(shift)

        if self.shared:
            total = jnp.sum(count)
            between = jnp.tensordot(count, spread, 1, precision=jax.lax.Precision.HIGHEST)
            moment = (scatter + self.floor * structure.penalty(inverse, dim) - between) / total
            scale = structure.rescale(scale, moment, dim)
        else:

            def one(raw, inverse, scatter, spread, count):
                penalized = scatter + self.floor * structure.penalty(inverse, dim)
                return structure.rescale(raw, penalized / count - spread, dim)

            fresh = jax.vmap(one)(scale, inverse, scatter, spread, safe)
            scale = jnp.where(empty.reshape((-1,) + (1,) * (scale.ndim - 1)), scale, fresh)
        return {"mean": mean + moved, "scale": scale}

    def log_prior(self, params: PyTree):
        if self.floor == 0:
            return 0.0
        dim = params["mean"].shape[-1]
        _, inverse = self._factors(params)

        def trace(inverse):
            identity = self.structure.identity(inverse)
            return vdot(identity, self.structure.penalty(inverse, dim))

        traces = trace(inverse) if self.shared else jax.vmap(trace)(inverse)
        return -0.5 * self.floor * jnp.sum(traces)

    def shortcut(self, params):
        if self.form != "auto":
            return None
        mean = params["mean"]
        dim = mean.shape[-1]
        factor, inverse = self._factors(params)

        def size(mean, factor, inverse):
            """‖|W| (|μ − c| + sd)‖²: what the expanded terms of a typical point add up to."""
            deviation = jnp.sqrt(jnp.diagonal(self.structure.matrix(factor, dim)))
            typical = jnp.abs(mean) + deviation
            return jnp.sum(self.structure.apply(jnp.abs(inverse), typical) ** 2)

        sizes = jax.vmap(size, in_axes=(0, self._axis, self._axis))(
            mean - mean.mean(0), factor, inverse
        )
        allowed = jnp.max(sizes) <= _LARGEST_EXPANDED
        return allowed, Normal(self.covariance, floor=self.floor, form="expanded")

    def describe(self, params):
        dim = params["mean"].shape[-1]
        factor, _ = self._factors(params)
        if self.shared:
            matrix = self.structure.matrix(factor, dim)
            covariance = jnp.broadcast_to(matrix, (params["mean"].shape[0], dim, dim))
        else:
            covariance = jax.vmap(lambda f: self.structure.matrix(f, dim))(factor)
        return {"means": params["mean"], "covariances": covariance}

    def sample(self, params, component, key):
        mean = params["mean"][component]
        factor, _ = self._factors(params)
        factor = factor if self.shared else factor[component]
        noise = jax.random.normal(key, mean.shape, mean.dtype)
        return mean + self.structure.apply(factor, noise)

    def num_free_params(self, params):
        num_components, dim = params["mean"].shape
        one = self.structure.num_free_params(dim)
        return num_components * dim + (one if self.shared else num_components * one)

    def collapsed(self, params, *, ratio: float = 1e-4):
        """Whether a covariance is `ratio` times narrower than the components' average, in any direction.

        The test does not depend on the data's units: it is on the smallest eigenvalue of
        Σₖ in units of the average covariance, or on any number that is not finite.
        """
        covariance = self.describe(params)["covariances"]
        dim = covariance.shape[-1]
        average = covariance.mean(0)
        deviation = jnp.sqrt(jnp.diagonal(average))
        correlation = average / jnp.outer(deviation, deviation)
        ridge = dim * jnp.finfo(average.dtype).eps * jnp.eye(dim, dtype=average.dtype)
        root = jnp.linalg.cholesky(correlation + ridge)

        def narrowest(covariance):
            scaled = covariance / jnp.outer(deviation, deviation)
            half = jax.scipy.linalg.solve_triangular(root, scaled, lower=True)
            return jnp.linalg.eigvalsh(
                jax.scipy.linalg.solve_triangular(root, half.T, lower=True)
            ).min()

        smallest = jax.vmap(narrowest)(covariance)
        return ~(smallest > ratio)
