"""Multivariate Student-t components: normals with a latent scale."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._arguments import check_positive
from .._math.algebra import without_data
from .._math.special import solve_shape, stirling_error
from .._program import program
from .._types import Array, Float, PyTree
from ..data._check import check_described
from ..data._incomplete_rows import known
from ..priors import NormalInverseWishart
from ._component import AbstractComponent
from ._normal import Covariance, Form, Normal


_LARGEST_DOF = 200.0


class StudentT(AbstractComponent):
    r"""Multivariate t distributions with ν degrees of freedom, which are robust to outliers.

    $x \mid u \sim N(\mu_k, \Sigma_k / u)$ with $u \sim \mathrm{Gamma}(\nu_k / 2, \nu_k / 2)$. The scale u is
    eliminated first: $E[u \mid x] = (\nu + D) / (\nu + \delta^2)$ downweights points at a large Mahalanobis
    distance δ (Peel and McLachlan 2000). x has shape `(dim,)`; rows may be `IncompleteRows`. Params: `{"mean",
    "scale"}` as for `Normal` (with a floor also `"unit"`), and `"log_dof": (K,)` if ν is estimated.

    **Arguments:**

    - `covariance`, `floor`, `prior`, `form`: for the scale matrix Σ, as for `Normal`.
    - `dof`: ν, if it is known. Otherwise it is estimated, between 0.2 and 200 (beyond that it is a normal).

    ```python
    >>> import elbax, jax
    >>> x = elbax.datasets.old_faithful()
    >>> model = elbax.Mixture(elbax.components.StudentT("full"), 2)
    >>> params = model.init(jax.random.key(0), x)
    >>> model.describe(params)["dofs"].shape
    (2,)

    ```
    """

    normal: Normal
    dof: float | None = eqx.field(static=True)

    def __init__(
        self,
        covariance: Covariance = "full",
        dof: float | None = None,
        *,
        floor: float = 1e-6,
        prior: NormalInverseWishart | None = None,
        form: Form = "auto",
    ):
        if dof is not None:
            check_positive("StudentT", dof=dof)
        self.normal = Normal(covariance, floor=floor, prior=prior, form=form)
        self.dof = None if dof is None else float(dof)

    def _half_dof(self, params) -> Array:
        if self.dof is None:
            return 0.5 * jnp.exp(params["log_dof"])
        return jnp.full(params["mean"].shape[:1], 0.5 * self.dof, params["mean"].dtype)

    @program
    def whitening(self, params: PyTree) -> Float[Array, "K D D"]:
        """Returns W of each component, lower triangular, with Σ⁻¹ = Wᵀ W."""
        return self.normal.whitening(params)

    def check(self, x, weight, who, *, varied=False):
        self.normal.check(x, weight, who, varied=varied)

    def init(self, x, weight, assignment, num_components):
        """Starts as `Normal` does, with ten degrees of freedom where they are estimated."""
        params = self.normal.init(x, weight, assignment, num_components)
        if self.dof is None:
            params["log_dof"] = jnp.full(num_components, math.log(10.0), params["mean"].dtype)
        return params

    def exchange(self, which, fresh, params):
        moved = self.normal.exchange(which, fresh, params)
        if self.dof is None:
            log_dof = jnp.where(which, fresh["log_dof"], params["log_dof"])
            moved = moved | {"log_dof": log_dof}
        return moved

    def shapes(self, num_components):
        found = self.normal.shapes(num_components)
        return found if self.dof is not None else found | {"log_dof": (num_components,)}

    def natural(self, params):
        normal = self.normal.natural(params)
        half_dof = self._half_dof(params)
        return {
            # log Γ(ν/2) less the terms that cancel against those of the datum's Γ.
            "count": normal["count"]
            + 0.5 * (jnp.log(half_dof) - math.log(2 * math.pi))
            - stirling_error(half_dof),
            "half_dof": half_dof,
            # u multiplies the quadratic, and has a count of its own.
            "normal": normal | {"count": jnp.zeros_like(normal["count"])},
        }

    def rebase(self, natural, params):
        return natural | {"normal": self.normal.rebase(natural["normal"], params)}

    def prepare(self, natural):
        return natural | {"normal": self.normal.prepare(natural["normal"])}

    def log_densities(self, natural, x):
        """Returns count + log ∫ u^{D/2 + ν/2 − 1} exp(−u (ν/2 + δ²/2)) du.

        The integral is Γ(s) r^{−s} at s = (ν + D)/2, r = (ν + δ²)/2. By Stirling's formula, less its terms in ν/2,
        −D/2 − s log(r / s) + ½ log 2π/s and an error remain; none of these is large for large ν.
        """
        exponents, log_volumes = self.normal.terms(natural["normal"], x)
        half_dim = 0.5 * jnp.sum(known(x)[1]).astype(exponents.dtype)
        shape = natural["half_dof"] + half_dim
        spread = shape * jnp.log1p(-(exponents + half_dim) / shape)
        scale = 0.5 * (math.log(2 * math.pi) - jnp.log(shape)) + stirling_error(shape)
        return natural["count"] + log_volumes - half_dim - spread + scale

    def maximize(self, statistics, params, free):
        count = statistics["count"]
        normal = self.normal.maximize_with_counts(
            statistics["normal"], count, params, {name: free[name] for name in ("mean", "scale")}
        )
        return normal | self.maximize_dof(statistics, params)

    def maximize_dof(self, statistics: PyTree, params: PyTree) -> dict[str, Array]:
        """Returns `{"log_dof"}` of highest expected log-density, or nothing if ν is known."""
        if self.dof is not None:
            return {}
        count = statistics["count"]
        empty = without_data(count)
        # log ν/2 − ψ(ν/2) = E[u − log u] − 1.
        gap = -statistics["half_dof"] / jnp.where(empty, 1, count)
        half_dof = solve_shape(gap, smallest=0.1, largest=0.5 * _LARGEST_DOF)
        return {"log_dof": jnp.where(empty, params["log_dof"], jnp.log(2 * half_dof))}

    def log_prior(self, params):
        return self.normal.log_prior(params)

    def shortcut(self, params, x):
        found = self.normal.shortcut(params, x)
        if found is None:
            return None
        return found.around(lambda form: eqx.tree_at(lambda outer: outer.normal, self, form))

    def describe(self, params):
        """Returns means `(K, dim)`, scale matrices Σ `(K, dim, dim)` and degrees of freedom `(K,)`."""
        normal = self.normal.describe(params)
        return {
            "means": normal["means"],
            "scales": normal["covariances"],
            "dofs": 2 * self._half_dof(params),
        }

    def from_description(self, *, means, scales, dofs=None, unit=None):
        check_described(
            "StudentT",
            means=(means, ("K", "dim"), "finite"),
            scales=(scales, ("K", "dim", "dim"), "covariances"),
            **({} if dofs is None else {"dofs": (dofs, ("K",), "positive")}),
        )
        params = self.normal.from_description(means=means, covariances=scales, unit=unit)
        if self.dof is None:
            if dofs is None:
                raise ValueError(
                    "StudentT: got no dofs. With dof=None they are estimated, so pass their initial values."
                )
            params["log_dof"] = jnp.log(jnp.asarray(dofs, float))
        return params

    def sample(self, params, component, key, inputs=None):
        key_u, key_x = jax.random.split(key)
        half_dof = self._half_dof(params)[component]
        u = jax.random.gamma(key_u, half_dof) / half_dof
        mean = params["mean"][component]
        return mean + (self.normal.sample(params, component, key_x) - mean) / jnp.sqrt(u)

    def moments(self, params, x):
        """Deviations are infinite where ν and the number of observed columns add up to at most 2.

        Where they add up to at most 1 there is no mean either, and the location is returned.
        """
        means, variances, distance = self.normal.given_observed(params, x)
        dof = 2 * self._half_dof(params)
        left = dof + jnp.sum(known(x)[1]).astype(dof.dtype) - 2
        growth = jnp.where(left > 0, (dof + distance) / jnp.where(left > 0, left, 1), jnp.inf)
        return means, jnp.where(variances > 0, variances * growth[:, None], 0)

    def at_boundary(self, params, least):
        found = super().at_boundary(params, least)
        if self.dof is None:
            log_dof = np.asarray(params["log_dof"])
            found["log_dof"] = log_dof >= np.log(_LARGEST_DOF) - 1e-3
        return found

    def summary(self):
        return self.normal.summary()

    def collapsed(self, params):
        return self.normal.collapsed(params)
