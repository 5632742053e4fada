r"""Normal-Wishart beliefs over means and covariances."""

import jax
import jax.numpy as jnp
import numpy as np

from .._math.algebra import matmul, vdot
from .._math.linear_algebra import cholesky, invert_triangle
from .._math.special import log_minus_digamma
from .._types import Any, Array, Float, PyTree, Scalar
from ..components import Normal, StudentT
from ..components._covariance import AbstractCovariance, Diagonal, Full
from ..priors import NormalInverseWishart
from ._belief import AbstractBelief, belief, needed, no_predictive
from ._divergence import gamma_divergence, wishart_divergence
from ._flags import together


class NormalWishartBelief(AbstractBelief):
    r"""$q(\mu_k, \Sigma_k) = N(\mu_k; m_k, \Sigma_k / \kappa_k) \mathrm{IW}(\Sigma_k; \nu_k \bar\Sigma_k, \nu_k)$

    The blocks hold `{"mean": {"point": m, "log_count": log κ}, "scale": {"point": Σ̄, "log_count": log ν}}`, with
    Σ̄ in the component's parameterization. $\bar\Sigma^{-1} = E_q[\Sigma^{-1}]$, so that $E_q[\eta]$ is η(m, Σ̄)
    except for the entry `count`, from which two numbers of the order of 1/ν and 1/κ are subtracted: those of $E
    \log |\Sigma|$ and of the mean's own variance.

    The prior is the density that MAP uses. For diagonal and spherical covariances it is that of the covariance
    with this structure, normalized: gammas over the precisions, with the shapes of `structured_dof`.
    """

    def __init__(self, component: Normal):
        prior = needed(
            component.prior,
            component,
            "prior",
            "elbax.priors.NormalInverseWishart.from_data(x, num_components)",
        )
        if not prior.shrinkage > 0:
            raise ValueError(
                "Bayesian: the prior of a mean must be proper, but NormalInverseWishart has shrinkage "
                f"{prior.shrinkage}. Pass a positive one, such as 0.01."
            )
        # The prior does what the floor is for.
        self.component = Normal(component.covariance, floor=0.0, prior=prior, form=component.form)
        self.prior: NormalInverseWishart = prior

    @property
    def structure(self) -> AbstractCovariance:
        return self.component.structure

    @property
    def shared(self) -> bool:
        return self.component.shared

    def structured_dof(self, dim: int) -> float:
        """Returns the prior's ν, as twice the shape of the gamma over a precision, per column.

        |Σ|^(−(ν + D + 1)/2) is for D independent variances that of gammas over precisions with shapes (ν + D −
        1)/2, and for a single variance that of one gamma with shape D (ν + D + 1)/2 − 1.
        """
        dof = self.prior.dof
        if isinstance(self.structure, Full):
            if dof <= dim - 1:
                raise ValueError(
                    f"Bayesian: the prior of a covariance of {dim} columns must be proper, but "
                    f"NormalInverseWishart has dof {dof:g}. Pass more than {dim - 1}, such as {dim + 2}."
                )
            return dof
        return dof + dim - 1 if isinstance(self.structure, Diagonal) else dof + dim + 1 - 2 / dim

    def shapes(self, shapes):
        mean, scale = shapes["mean"], shapes["scale"]
        return {
            "mean": {"point": mean, "log_count": (*mean[:-1], 1)},
            "scale": {"point": scale, "log_count": (*scale[:-1], 1) if self._wide else scale},
        }

    @property
    def _wide(self) -> bool:
        """Whether a covariance is more than one number; its count then has a last axis of length 1."""
        return self.structure.shape(2) != ()

    def _q(self, point: PyTree, count: Array) -> PyTree:
        """Returns q of this point, given the expected number of data of each component."""
        dim = point["mean"].shape[-1]
        dof = self.structured_dof(dim) + (jnp.sum(count) if self.shared else count)
        dof = dof[..., None] if self._wide else dof
        shrinkage = self.prior.shrinkage + count[:, None]
        return {
            "mean": {"point": point["mean"], "log_count": jnp.log(shrinkage)},
            "scale": {"point": point["scale"], "log_count": jnp.log(dof)},
        }

    def _counts(self, q: PyTree) -> tuple[Array, Array]:
        """Returns (κ, ν), with the component axis unless ν is shared."""
        dof = jnp.exp(q["scale"]["log_count"])
        return jnp.exp(q["mean"]["log_count"][:, 0]), dof[..., 0] if self._wide else dof

    def start(self, params, count):
        mean = params["mean"]
        return self._q(params, jnp.broadcast_to(count, mean.shape[:1]).astype(mean.dtype))

    def point(self, q):
        return {name: q[name]["point"] for name in ("mean", "scale")}

    def natural(self, q):
        natural = self.component.natural(self.point(q))
        mean_term, covariance_term = self.corrections(q)
        return natural | {"count": natural["count"] + covariance_term + mean_term}

    def corrections(self, q: PyTree) -> tuple[Float[Array, " K"], Float[Array, " K"]]:
        """Returns −½ D/κ and ½ (E log |Σ⁻¹| − log |Σ̄⁻¹|) of each component."""
        shrinkage, dof = self._counts(q)
        dim = q["mean"]["point"].shape[-1]
        if isinstance(self.structure, Full):
            # ψ((ν − i)/2) = log((ν − i)/2) − …, of which log ν/2 is that of Σ̄.
            i = jnp.arange(dim, dtype=dof.dtype)
            each = jnp.log1p(-i / dof[..., None]) - log_minus_digamma(0.5 * (dof[..., None] - i))
            covariance = 0.5 * jnp.sum(each, -1)
        else:
            shape = 0.5 * dof if isinstance(self.structure, Diagonal) else 0.5 * dim * dof
            covariance = -0.5 * dim * log_minus_digamma(shape)
        return -0.5 * dim / shrinkage, jnp.broadcast_to(covariance, shrinkage.shape)

    def posterior(self, statistics, q, free):
        return self.with_counts(statistics, statistics["count"], q, free)

    def with_counts(self, statistics: PyTree, count: Array, q: PyTree, free: PyTree) -> PyTree:
        """Runs `posterior` with separate counts for means and for covariances (`count` is the covariances')."""
        point, dim = self.point(q), q["mean"]["point"].shape[-1]
        flags = {name: free[name]["point"] for name in point}
        moved = self.component.maximize_with_counts(
            statistics, count, point, flags, self.structured_dof(dim)
        )
        best = self._q(moved, statistics["count"])
        best["scale"]["log_count"] = self._q(moved, count)["scale"]["log_count"]
        return {name: together(free[name], best[name], q[name]) for name in best}

    def divergence(self, q):
        structure, point = self.structure, self.point(q)
        mean, dtype = point["mean"], point["mean"].dtype
        dim = mean.shape[-1]
        factor, inverse = self.component.factors(point)
        shrinkage, dof = self._counts(q)
        ratio = self.prior.shrinkage / shrinkage
        root = self.prior.root(dim)

        def of_mean(inverse, mean, ratio):
            offset = structure.apply(inverse, mean - self.prior.center(dim, dtype))
            spread = dim * (ratio - 1 - jnp.log(ratio))
            return 0.5 * (spread + self.prior.shrinkage * vdot(offset, offset))

        def of_scale(factor, inverse, dof):
            trace = structure.scatter(inverse, jnp.asarray(root, dtype))
            return self._scale_divergence(factor, inverse, dof, trace, root @ root.T, dim)

        axis = None if self.shared else 0
        means = jax.vmap(of_mean, (axis, 0, 0))(inverse, mean, ratio)
        scales = of_scale if self.shared else jax.vmap(of_scale)
        return {"mean": jnp.sum(means), "scale": jnp.sum(scales(factor, inverse, dof))}

    def _scale_divergence(
        self, factor: Array, inverse: Array, dof: Array, scatter: Array, prior: np.ndarray, dim: int
    ) -> Scalar:
        """Returns KL(q ‖ p) of one covariance; `scatter` is Ψ₀ in units of Σ̄, `prior` is Ψ₀."""
        start = self.structured_dof(dim)
        if isinstance(self.structure, Full):
            determinant = 2 * self.structure.log_determinant(factor, dim)
            before = float(np.linalg.slogdet(prior)[1])
            trace = vdot(self.structure.identity(inverse), scatter)
            return wishart_divergence(dof, determinant, trace, start, before, dim)
        if isinstance(self.structure, Diagonal):
            rates = jnp.asarray(0.5 * np.diagonal(prior), factor.dtype)
            return jnp.sum(gamma_divergence(inverse**2, 0.5 * dof, 0.5 * start, rates))
        half = 0.5 * dim
        return gamma_divergence(inverse**2, half * dof, half * start, 0.5 * float(np.trace(prior)))

    def sample(self, q, key):
        point = self.point(q)
        mean, dim = point["mean"], point["mean"].shape[-1]
        factor, _ = self.component.factors(point)
        shrinkage, dof = self._counts(q)
        key_scale, key_mean = jax.random.split(key)
        draw = lambda factor, dof, key: self._draw_root(factor, dof, dim, key)
        if self.shared:
            roots = draw(factor, dof, key_scale)
        else:
            roots = jax.vmap(draw)(factor, dof, jax.random.split(key_scale, len(mean)))
        noise = jax.random.normal(key_mean, mean.shape, mean.dtype) / jnp.sqrt(shrinkage)[:, None]
        moved = mean + jax.vmap(matmul, (None if self.shared else 0, 0))(roots, noise)
        pack = self.structure.pack if self.shared else jax.vmap(self.structure.pack)
        return {"mean": moved, "scale": pack(roots)}

    def _draw_root(self, factor: Array, dof: Array, dim: int, key: Any) -> Float[Array, "D D"]:
        """Returns the Cholesky factor of a covariance drawn from q."""
        if isinstance(self.structure, Full):
            # Bartlett: Σ⁻¹ = C⁻ᵀ A Aᵀ C⁻¹ / ν with C Cᵀ = Σ̄, so Σ = ν (C A⁻ᵀ)(C A⁻ᵀ)ᵀ.
            key_on, key_below = jax.random.split(key)
            shape = 0.5 * (dof - jnp.arange(dim, dtype=dof.dtype))
            on = jnp.sqrt(2 * jax.random.gamma(key_on, shape))
            below = jnp.tril(jax.random.normal(key_below, (dim, dim), on.dtype), -1)
            root = matmul(factor, invert_triangle(below + jnp.diag(on)).T) * jnp.sqrt(dof)
            return cholesky(matmul(root, root.T))
        diagonal = isinstance(self.structure, Diagonal)
        shape = 0.5 * dof if diagonal else 0.5 * dim * dof
        precision = jax.random.gamma(key, shape, (dim,) if diagonal else ()) / shape
        return jnp.diag(jnp.broadcast_to(factor / jnp.sqrt(precision), (dim,)))

    def predictive(self, q):
        """Returns Student t's with ν − D + 1 degrees of freedom and scales Σ̄ (1 + 1/κ) ν / (ν − D + 1)."""
        if isinstance(self.structure, Diagonal):
            raise TypeError(no_predictive("diagonal covariances"))
        point = self.point(q)
        num_components, dim = point["mean"].shape
        shrinkage, dof = (jnp.broadcast_to(c, (num_components,)) for c in self._counts(q))
        full = isinstance(self.structure, Full)
        dofs = dof - dim + 1 if full else dim * dof
        growth = (1 + 1 / shrinkage) * (dof / dofs if full else 1)
        covariances = self.component.describe(point)["covariances"]
        found = StudentT("full" if full else "spherical", floor=0.0)
        described = {"means": point["mean"], "dofs": dofs}
        scales = growth[:, None, None] * covariances
        return found, found.from_description(scales=scales, **described)


@belief.register(Normal)
def _(component):
    return NormalWishartBelief(component)


class StudentTBelief(AbstractBelief):
    """The belief over locations and scale matrices of Student t's, and the degrees of freedom as a point.

    These have no conjugate prior; their M-step maximizes the bound, as that of EM does.
    """

    def __init__(self, component: StudentT):
        self.component = component
        self.normal = NormalWishartBelief(component.normal)

    def _rest(self, tree: PyTree) -> PyTree:
        return {name: tree[name] for name in ("log_dof",) if name in tree}

    def start(self, params, count):
        return self.normal.start(params, count) | self._rest(params)

    def shapes(self, shapes):
        return self.normal.shapes(shapes) | self._rest(shapes)

    def point(self, q):
        return self.normal.point(q) | self._rest(q)

    def natural(self, q):
        natural = self.component.natural(self.point(q))
        mean_term, covariance_term = self.normal.corrections(q)
        # The mean's variance is a part of the quadratic form, which the latent scale multiplies.
        normal = natural["normal"]
        return natural | {
            "count": natural["count"] + covariance_term,
            "normal": normal | {"count": normal["count"] + mean_term},
        }

    def posterior(self, statistics, q, free):
        count = statistics["count"]
        moved = self.normal.with_counts(statistics["normal"], count, q, free)
        dofs = self.component.maximize_dof(statistics, q)
        return moved | {name: together(free[name], new, q[name]) for name, new in dofs.items()}

    def divergence(self, q):
        return self.normal.divergence(q)

    def sample(self, q, key):
        return self.normal.sample(q, key) | self._rest(q)


@belief.register(StudentT)
def _(component):
    return StudentTBelief(component)
