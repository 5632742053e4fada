"""Gaussian components with a low-rank plus diagonal covariance."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._arguments import in_full
from .._invariance import beside_by_name, nothing, of_blocks
from .._math.algebra import matmul, without_data
from .._reference import Reference
from .._types import Any
from ..data._check import check_described
from ..data._incomplete_rows import known_numbers
from ..priors import NormalInverseGamma
from ._analyzer import Analyzer, Noise
from ._component import AbstractComponent
from ._parts import part_means, pooled_covariance
from ._unit import with_given_unit, with_unit


def rotations(loadings: Any) -> np.ndarray:
    """Returns W A for every rotation A of two factors, as rows: `(K, number of pairs, dim * num_factors)`."""
    loadings = np.asarray(loadings, float)
    num_components, dim, number = loadings.shape
    first, second = np.triu_indices(number, 1)
    turned = np.zeros((num_components, len(first), dim, number))
    pairs = np.arange(len(first))
    turned[:, pairs, :, second] = loadings[:, :, first].transpose(2, 0, 1)
    turned[:, pairs, :, first] = -loadings[:, :, second].transpose(2, 0, 1)
    return turned.reshape(num_components, len(first), dim * number)


class FactorAnalyzer(AbstractComponent):
    r"""Factor analyzers: normals with covariance $W_k W_k^\top + \Psi_k$.

    $x \mid y \sim N(\mu_k + W_k y, \Psi_k)$ with factors $y \sim N(0, I)$. In a mixture the factors are eliminated
    first, then the component (Ghahramani and Hinton 1996; with isotropic noise, Tipping and Bishop 1999). x has
    shape `(dim,)`; rows may be `IncompleteRows`.

    Params: `{"mean": (K, dim), "loadings": (K, dim, num_factors), "log_noise": (K, dim)}`; `"log_noise"` has shape
    `(K,)` if isotropic. With a floor they also hold `"unit"`, a `Reference` to the standard deviations of the
    data's columns.

    **Arguments:**

    - `num_factors`: the number of factors of each component.
    - `noise`: Ψ is `"diagonal"` or `"isotropic"`, a multiple of I.
    - `floor`: the weight of the penalty −½ floor tr Ψ⁻¹ D, where D are the variances of the data's columns. It
        keeps noise variances from vanishing (Heywood cases). 0 turns it off.
    - `prior`: a `NormalInverseGamma` on the mean and loadings of each column and on the noise variances.

    Rounding hides noise below 3e-7 of a column's standard deviation (3.5e-4 in float32): no fit goes below that.

    ```python
    >>> import elbax, jax
    >>> x = elbax.datasets.old_faithful()
    >>> model = elbax.Mixture(elbax.components.FactorAnalyzer(num_factors=1), 2)
    >>> params = model.init(jax.random.key(0), x)
    >>> model.describe(params)["loadings"].shape
    (2, 2, 1)

    ```
    """

    num_factors: int = eqx.field(static=True)
    noise: Noise = eqx.field(static=True, default="diagonal", converter=in_full)
    floor: float = eqx.field(static=True, default=1e-6)
    prior: NormalInverseGamma | None = None

    def __check_init__(self):
        _ = self.one  # It checks its arguments.

    @property
    def one(self) -> Analyzer:
        """One of the analyzers, without the component axis."""
        return Analyzer(self.num_factors, self.noise, self.floor, self.prior)

    def init(self, x, weight, assignment, num_components):
        """Returns the means of the parts, and the principal components of the pooled covariance for all."""
        x, observed = known_numbers(x)
        seen = observed.astype(x.dtype)
        mean, residual, center = part_means(x, seen, weight, assignment, num_components)
        covariance, variance = pooled_covariance(residual, seen, weight)
        _, whole = pooled_covariance(seen * (x - center), seen, weight)
        one = self.one.start(None, mean[0], covariance, variance)
        loadings, log_noise = (
            jnp.broadcast_to(one[name], (num_components, *one[name].shape))
            for name in ("loadings", "log_noise")
        )
        params = {"mean": mean, "loadings": loadings, "log_noise": log_noise}
        return with_unit(params, self.floor, whole)

    def shapes(self, num_components):
        each = self._rows(self.one.shapes("dim"))
        rows = {name: (num_components, *shape) for name, shape in each.items()}
        return rows | {"unit": Reference(("dim",))}

    def natural(self, params):
        return jax.vmap(self.one.natural)(self._rows(params))

    def _rows(self, params):
        """Returns the params with one row per component."""
        return {name: params[name] for name in ("mean", "loadings", "log_noise")}

    def rebase(self, natural, params):
        return jax.vmap(self.one.rebase)(natural, self._rows(params))

    def log_densities(self, natural, x):
        return jax.vmap(lambda natural: self.one.log_density(natural, x))(natural)

    def maximize(self, statistics, params, free):
        each, penalty = self._rows(params), self.one.penalty(params)
        count = statistics["count"]
        statistics = statistics | {"count": jnp.where(without_data(count), 0, count)}
        full = {name: jnp.broadcast_to(free[name], leaf.shape) for name, leaf in each.items()}
        one = lambda statistics, params, free: self.one.maximize(statistics, params, free, penalty)
        return params | jax.vmap(one)(statistics, each, full)

    def log_prior(self, params):
        penalty = self.one.penalty(params)
        one = lambda params: self.one.log_prior(params, penalty)
        known = self.floor or self.prior is not None
        return jnp.sum(jax.vmap(one)(self._rows(params))) if known else 0.0

    def moments(self, params, x):
        return jax.vmap(lambda params: self.one.moments(params, x))(self._rows(params))

    def describe(self, params):
        """Returns means, loadings `(K, dim, num_factors)`, noise variances and covariances W Wᵀ + Ψ."""
        each = jax.vmap(self.one.describe)(self._rows(params))
        loadings, noise = each["loadings"], each["noise"]
        covariance = matmul(loadings, loadings.mT) + jax.vmap(jnp.diag)(noise)
        return {
            "means": each["mean"],
            "loadings": loadings,
            "noise": noise,
            "covariances": covariance,
        }

    def from_description(self, *, means, loadings, noise, covariances=None, unit=None):
        """Returns params from a description as `describe` gives it; `unit` as for `Normal`."""
        each = ("K",) if self.noise == "isotropic" and np.ndim(noise) == 1 else ("K", "dim")
        check_described(
            "FactorAnalyzer",
            means=(means, ("K", "dim"), "finite"),
            loadings=(loadings, ("K", "dim", self.num_factors), "finite"),
            noise=(noise, each, "positive"),
        )
        mean, loadings = jnp.asarray(means, float), jnp.asarray(loadings, float)
        noise = jnp.asarray(noise, float)
        if self.noise == "isotropic" and noise.ndim == 2:
            noise = jnp.mean(noise, -1)
        params = {"mean": mean, "loadings": loadings, "log_noise": 0.5 * jnp.log(noise)}
        each = jax.vmap(lambda one: self.one.deviation(one) ** 2)(params)
        variance = jnp.mean(each + jnp.sum(loadings**2, -1), 0) + jnp.var(mean, 0)
        return with_given_unit(params, self.floor, unit, variance, "FactorAnalyzer")

    def sample(self, params, component, key, inputs=None):
        one = {name: leaf[component] for name, leaf in self._rows(params).items()}
        key_y, key_x = jax.random.split(key)
        y = jax.random.normal(key_y, (self.num_factors,), one["mean"].dtype)
        noise = jax.random.normal(key_x, one["mean"].shape, one["mean"].dtype)
        return one["mean"] + matmul(one["loadings"], y) + self.one.deviation(one) * noise

    def invariances(self, params):
        """Returns the rotations of each component's factors."""
        found = {name: nothing(leaf) for name, leaf in params.items()}
        return beside_by_name(found | {"loadings": of_blocks(rotations(params["loadings"]))})

    def summary(self):
        return self.one.summary()

    def collapsed(self, params, *, ratio: float = 1e-4):
        """Returns whether a noise variance is at most `ratio` times its column's mean variance, `(K,)`."""
        described = self.describe(params)
        variance = jnp.mean(jnp.diagonal(described["covariances"], axis1=-2, axis2=-1), 0)
        return ~jnp.all(described["noise"] > ratio * variance, -1)
