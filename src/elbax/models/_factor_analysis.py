"""Factor analysis and probabilistic PCA."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._arguments import check_key
from .._door import enter_sample
from .._invariance import beside_by_name, directions_within, Invariances, nothing, of_blocks, unused
from .._math.algebra import matmul
from .._math.linear_algebra import cholesky, eigh, invert_triangle
from .._model import AbstractExponentialFamilyModel, AbstractModel
from .._program import compiled
from .._types import Any, Array, Float, Key, PyTree, Scalar
from ..components._analyzer import Analyzer, Noise
from ..components._factor_analyzer import rotations
from ..components._imputation import filled
from ..components._parts import pooled_covariance
from ..components._residual import least_share, rounding_of_residuals
from ..components._unit import with_given_unit, with_unit
from ..data._batch import host_rows, rows
from ..data._check import check_described, check_table, is_concrete
from ..data._incomplete_rows import host_known, known, known_numbers
from ..families import Distribution, Gaussian
from ..priors import NormalInverseGamma
from ..starts import start_of


class FactorAnalysis(AbstractExponentialFamilyModel):
    r"""Factor analysis, $x = \mu + W z + \varepsilon$.

    The factors are $z \sim N(0, I)$, the noise is $\varepsilon \sim N(0, \Psi)$. The E-step is exact and the
    M-step has a closed form (Rubin and Thayer 1982). `latent` is `Gaussian(num_factors)`;
    `state.posterior(x[0]).mode()` are the factor scores of a row. x has shape `(dim,)` or is `IncompleteRows`.
    Params: `{"mean": (dim,), "loadings": (dim, num_factors), "log_noise": (dim,)}`; `"log_noise"` is a number if
    isotropic. With a floor they also hold `"unit"`, a `Reference` to the standard deviations of the data's
    columns. Loadings are determined up to a rotation, unless a pattern of zeros fixes it.

    The density is quadratic in x, so a fit needs only `elbax.compress(x)`: a sweep then costs the same for a
    thousand rows or a billion.

    **Arguments:**

    - `num_factors`: the number of factors.
    - `noise`: Ψ is `"diagonal"`, or `"isotropic"` (probabilistic PCA).
    - `pattern`: booleans of shape `(dim, num_factors)`. `False` marks loadings that are zero (confirmatory factor
        analysis) and stay exactly zero under every M-step.
    - `floor`: the weight of the penalty −½ floor tr Ψ⁻¹ D, where D are the variances of the data's columns; 0
        turns it off.
    - `prior`: a `NormalInverseGamma` on the mean and loadings of each column and on the noise variances.

    ```python
    >>> import elbax, jax
    >>> x = elbax.datasets.old_faithful()
    >>> model = elbax.FactorAnalysis(num_factors=1)
    >>> params = model.init(jax.random.key(0), x)
    >>> em = elbax.em(model)
    >>> state = em.init(params, key=jax.random.key(1))
    >>> result = elbax.fit(em, state, elbax.compress(x))
    >>> print(result.code, f"{float(result.elbo):.3f}")
    converged -4.742

    ```
    """

    analyzer: Analyzer
    pattern: tuple | None = eqx.field(static=True)

    def __init__(
        self,
        num_factors: int,
        noise: Noise = "diagonal",
        *,
        pattern: Any = None,
        floor: float = 1e-6,
        prior: NormalInverseGamma | None = None,
    ):
        self.analyzer = Analyzer(num_factors, noise, floor, prior)
        self.pattern = None
        if pattern is not None and prior is not None:
            raise ValueError(
                "FactorAnalysis: got a pattern and a prior, but the prior is that of all loadings. Pass one of "
                "them."
            )
        if pattern is not None:
            table = np.asarray(pattern)
            if table.ndim != 2 or table.shape[1] != num_factors or table.dtype != bool:
                raise ValueError(
                    f"FactorAnalysis: pattern must be a boolean array of shape (dim, {num_factors}); got "
                    f"{table.dtype} of shape {table.shape}."
                )
            self.pattern = tuple(map(tuple, table.tolist()))

    @property
    def latent(self) -> Gaussian:
        """The family of factors, `Gaussian(num_factors)`."""
        return Gaussian(self.analyzer.num_factors)

    @property
    def num_factors(self) -> int:
        """The number of factors of a row."""
        return self.analyzer.num_factors

    def check(self, batch: PyTree, who: str = "fit") -> None:
        x, weight = host_rows(batch)
        check_table(x, weight, who, varied=False)
        dim = host_known(x)[0].shape[1]
        if self.pattern is not None and len(self.pattern) != dim:
            raise ValueError(
                f"{who}: the pattern has {len(self.pattern)} rows, but the data have {dim} columns."
            )

    def init(
        self,
        key: Key,
        x: PyTree,
        init: Literal["principal_components", "random"] | PyTree = "principal_components",
    ) -> PyTree:
        """Returns params to start from. It is a pure function of the key, so restarts may be vmapped.

        **Arguments:**

        - `init`: `"principal_components"`, probabilistic PCA of the correlations with noise from the key added to
            the loadings; `"random"`, loadings drawn from the key; or params, which are returned unchanged.

        **Raises** `ValueError` for data that no fit could use.
        """
        check_key(key, "FactorAnalysis.init")
        if is_concrete(x):
            self.check(x, "FactorAnalysis.init")
            # A single noise variance is positive even if one column is constant.
            varied = self.analyzer.noise == "diagonal"
            check_table(*host_rows(x), "FactorAnalysis.init", varied=varied)
        table, weight = rows(x)
        return start_of(_start, init, self, key, table, weight)

    def _masked(self, params: PyTree) -> PyTree:
        """Sets loadings outside of the pattern to zero; they have no effect and no gradient."""
        if self.pattern is None:
            return params
        return params | {"loadings": jnp.where(np.array(self.pattern), params["loadings"], 0)}

    @property
    def shapes(self) -> PyTree:
        return self.analyzer.shapes("dim" if self.pattern is None else len(self.pattern))

    def natural(self, params: PyTree) -> PyTree:
        return self.analyzer.natural(self._masked(params))

    def rebase(self, natural: PyTree, params: PyTree) -> PyTree:
        return self.analyzer.rebase(natural, self._masked(params))

    def potentials(self, natural: PyTree, x: PyTree) -> tuple[tuple[Array, Array], Scalar]:
        return self.analyzer.potentials(natural, x)

    def elbo(self, natural: PyTree, x: PyTree, q: Any, key: Key) -> Scalar:
        if getattr(q, "tight", False):
            return self.analyzer.log_density(natural, x)
        return super().elbo(natural, x, q, key)

    def maximize(self, statistics: PyTree, params: PyTree, free: PyTree) -> PyTree:
        """Regresses each column on the factors, then estimates the variance of the residual."""
        if self.pattern is not None:
            loadings = jnp.array(self.pattern) & jnp.asarray(free["loadings"])
            free = free | {"loadings": loadings}
        params = self._masked(params)
        penalty = self.analyzer.penalty(params)
        return params | self.analyzer.maximize(statistics, params, free, penalty)

    def moments_about(self, params: PyTree) -> Float[Array, " dim"]:
        """Returns the mean, about which `maximize_evidence` takes the data's moments."""
        return params["mean"]

    def residuals(self, params: PyTree, deviations: Array) -> Array:
        """Returns, for diagonal noise, the residuals in units of the noise and the factors' means."""
        if self.analyzer.noise == "isotropic":
            return deviations
        params = self._masked(params)
        slope, root = self._projection(params)
        z = deviations / self.analyzer.deviation(params)
        coordinates = matmul(z, slope)
        left = z - matmul(coordinates, slope.T)
        return jnp.concatenate([left, matmul(coordinates, root.T)], -1)

    def _projection(self, params: PyTree) -> tuple[Array, Array]:
        """Returns (S, T) with σ Σ⁻¹ σ = I − S Sᵀ and SᵀS + TᵀT = I; T Tᵀ is the covariance of a row's factors."""
        natural = self.analyzer.natural(params)
        _, root, _ = self.analyzer.posterior((natural, params["mean"]))
        return matmul(natural["about"].value["weights"], root), root

    def maximize_evidence(self, moments: PyTree, params: PyTree, free: PyTree) -> PyTree:
        """Maximizes the evidence over the mean and the noise, with unit factors: the "either" step of ECME.

        Loadings take on the estimated covariance of the factors (PX-EM, Liu, Rubin and Wu 1998). Without this they
        could not move where noise has vanished. Then the noise variances are updated one by one, each to the
        maximum of the evidence in closed form (Zhao, Yu and Jiang 2008, section 3): with s = (Σ⁻¹)ⱼⱼ and b = (Σ⁻¹
        S Σ⁻¹)ⱼⱼ it changes by (b − s)/s². With isotropic noise and all loadings free the whole optimum has a
        closed form, the principal components (Tipping and Bishop 1999).

        **Raises** `TypeError` unless mean and noise are both free, and for isotropic noise all loadings too.
        """
        if not (free["mean"] is True and free["log_noise"] is True):
            raise TypeError(
                f"EvidenceMStep: the mean and the noise of {type(self).__name__} are updated together, so free "
                "must be True for both. To update only one of them, use ClosedFormMStep."
            )
        if self.analyzer.prior is not None:
            raise TypeError(
                f"EvidenceMStep: {type(self).__name__} has a prior, under which its closed form is not the "
                "maximum. Use ClosedFormMStep."
            )
        params = self._masked(params)
        count, shift = moments["count"], moments["first"] / moments["count"]
        moved = params | {"mean": params["mean"] + shift}
        about = self.residuals(params, shift[None])[0]
        second = moments["second"] / count - jnp.outer(about, about)
        if self.analyzer.noise == "isotropic":
            if self.pattern is not None or free["loadings"] is not True:
                raise TypeError(
                    "EvidenceMStep: with isotropic noise the evidence has a closed-form maximum only if all "
                    "loadings are free. Use ClosedFormMStep."
                )
            return moved | self._principal_components(second, count, params)
        moved, second = self._with_unit_factors(moved, second, free)
        slope, root = self._projection(moved)
        deviation = self.analyzer.deviation(params)
        signal = 1 + jnp.sum((moved["loadings"] / deviation[:, None]) ** 2, -1)
        offset = (params["mean"] / deviation) ** 2
        penalty = self.analyzer.penalty(params) / deviation**2
        smallest = jnp.maximum(
            jnp.minimum(penalty / count, 1), least_share(signal, offset, jnp.zeros_like(offset))
        )
        hidden = rounding_of_residuals(signal + offset)
        growth = _sweep_noise(slope, root, second, count, penalty, smallest, hidden)
        return moved | {"log_noise": params["log_noise"] + 0.5 * jnp.log(growth)}

    def _with_unit_factors(self, params, second, free):
        """Returns (params, Σ⁻¹ cov(x) Σ⁻¹ in units of the noise) with W ← W L, where L Lᵀ is the mean of E[z zᵀ].

        The moments are those of (r, m): the residuals of a row after its factors, and the factors' means. The row
        is r + W m, so the residual under the new loadings is (I − S Sᵀ) r + S Tᵀ L⁻¹ m.
        """
        dim = len(params["mean"])
        root = jnp.eye(self.num_factors, dtype=second.dtype)
        if free["loadings"] is True:
            _, spread = self._projection(params)
            square = second[dim:, dim:] + matmul(spread, spread.T)
            diagonal = jnp.diag(jnp.sqrt(jnp.diagonal(square)))
            root = cholesky(square) if self.pattern is None else diagonal
        moved = params | {"loadings": matmul(params["loadings"], root)}
        slope, spread = self._projection(moved)
        keep = jnp.eye(dim, dtype=second.dtype) - matmul(slope, slope.T)
        pull = matmul(slope, matmul(spread.T, invert_triangle(root)))
        both = jnp.concatenate([keep, pull], 1)
        return moved, matmul(both, matmul(second, both.T))

    def _principal_components(self, covariance, count, params):
        # One variance is left for the noise: with as many factors as columns this changes nothing.
        dim = len(covariance)
        rank = min(self.num_factors, dim - 1)
        values, vectors = eigh(covariance)
        top, rest = values[::-1][:rank], values[: dim - rank]
        # With the penalty −½ floor tr D / σ² the best σ² is the mean residual variance plus floor · tr D over the
        # number of residuals.
        penalty = jnp.sum(self.analyzer.penalty(params))
        noise = (jnp.sum(rest) + penalty / count) / (dim - rank)
        # What rounding of the largest eigenvalue hides is unknown, so the noise does not shrink below that.
        precision = jnp.finfo(noise.dtype)
        hidden = jnp.minimum(dim * precision.eps * values[-1], jnp.exp(2 * params["log_noise"]))
        noise = jnp.maximum(noise, jnp.maximum(hidden, precision.tiny))
        loadings = vectors[:, ::-1][:, :rank] * jnp.sqrt(jnp.maximum(top - noise, 0))
        loadings = jnp.zeros_like(params["loadings"]).at[:, :rank].set(loadings)
        return {"loadings": loadings, "log_noise": 0.5 * jnp.log(noise)}

    def log_prior(self, params: PyTree) -> Scalar | float:
        return self.analyzer.log_prior(params, self.analyzer.penalty(params))

    @property
    def knows_prior(self) -> bool:
        return True

    def latent_prior(self, params: PyTree, x: PyTree) -> Distribution:
        dtype = params["mean"].dtype
        eye = jnp.eye(self.num_factors, dtype=dtype)
        return self.latent((jnp.zeros(self.num_factors, dtype), eye))

    def impute(self, params: PyTree, x: PyTree, q: Any) -> tuple[PyTree, PyTree]:
        # The factors are integrated out: given them, no number would depend on the observed ones.
        return filled(*known(x), *self.analyzer.moments(self._masked(params), x))

    def describe(self, params: PyTree) -> dict[str, Array]:
        """Returns mean, loadings `(dim, num_factors)`, noise variances and uniquenesses Ψ / var(x), `(dim,)`."""
        return self.analyzer.describe(self._masked(params))

    def from_description(
        self, *, mean: Any, loadings: Any, noise: Any, uniquenesses: Any = None, unit: Any = None
    ) -> PyTree:
        """Returns params from mean, loadings and noise variances (a single number is allowed if isotropic).

        `unit` are the standard deviations of the data's columns, to which the floor is relative; by default those
        of W Wᵀ + Ψ.

        **Raises** `ValueError` for a wrong shape, an invalid number, or a nonzero loading outside of the pattern.
        """
        isotropic = self.analyzer.noise == "isotropic"
        dim = "dim" if self.pattern is None else len(self.pattern)
        check_described(
            "FactorAnalysis",
            mean=(mean, (dim,), "finite"),
            loadings=(loadings, (dim, self.num_factors), "finite"),
            noise=(noise, () if isotropic and np.ndim(noise) == 0 else (dim,), "positive"),
        )
        if self.pattern is not None and is_concrete(loadings):
            if np.any(np.asarray(loadings)[~np.array(self.pattern)] != 0):
                raise ValueError("FactorAnalysis: loadings must be 0 where the pattern is False.")
        mean, loadings = jnp.asarray(mean, float), jnp.asarray(loadings, float)
        noise = jnp.asarray(noise, float)
        if self.analyzer.noise == "isotropic":
            noise = jnp.mean(noise)
        params = {"mean": mean, "loadings": loadings, "log_noise": 0.5 * jnp.log(noise)}
        variance = self.analyzer.deviation(params) ** 2 + jnp.sum(loadings**2, -1)
        return with_given_unit(params, self.analyzer.floor, unit, variance, "FactorAnalysis")

    def covariance(self, params: PyTree) -> Float[Array, "dim dim"]:
        """Returns W Wᵀ + Ψ."""
        described = self.describe(params)
        loadings = described["loadings"]
        return matmul(loadings, loadings.T) + jnp.diag(described["noise"])

    def sample(
        self, params: PyTree, key: Key, num_data: int
    ) -> tuple[Float[Array, "num_data dim"], Float[Array, "num_data num_factors"]]:
        """Returns `num_data` draws of (x, z)."""
        params = enter_sample(self, params, key, num_data=num_data)
        params = self._masked(params)
        key_z, key_x = jax.random.split(key)
        dtype = params["mean"].dtype
        z = jax.random.normal(key_z, (num_data, self.num_factors), dtype)
        noise = jax.random.normal(key_x, (num_data, params["mean"].size), dtype)
        x = params["mean"] + matmul(z, params["loadings"].T)
        return x + self.analyzer.deviation(params) * noise, z

    def invariances(self, params: PyTree) -> Invariances:
        """Returns the rotations of the factors that keep the pattern's zeros, and the unused loadings."""
        turns = rotations(np.asarray(self._masked(params)["loadings"])[None])
        found = of_blocks(turns)
        if self.pattern is not None:
            pattern = np.array(self.pattern).reshape(-1)
            within = of_blocks(directions_within(turns[0], pattern)[None])
            zeros = unused(pattern.size, np.flatnonzero(~pattern))
            found = Invariances(pattern.size, within.groups + zeros.groups)
        rest = {name: nothing(leaf) for name, leaf in params.items()}
        return beside_by_name(rest | {"loadings": found})

    def nests(self, other: AbstractModel) -> bool:
        if not isinstance(other, FactorAnalysis) or self.pattern is not None:
            return False
        return self.analyzer.noise == other.analyzer.noise and self.num_factors >= other.num_factors

    def summary(self) -> dict[str, Any]:
        return self.analyzer.summary()

    def heywood(self, params: PyTree, *, ratio: float = 1e-4) -> Array:
        """Returns which columns' noise has vanished: a Heywood case, where the evidence is bounded."""
        return ~(self.describe(params)["uniquenesses"] > ratio)


class ProbabilisticPCA(FactorAnalysis):
    r"""Probabilistic PCA, $x \sim N(\mu, W W^\top + \sigma^2 I)$.

    It is `FactorAnalysis(num_factors, noise="isotropic")`. The maximum has a closed form (Tipping and Bishop
    1999): one `EvidenceMStep` reaches it from any start. EM converges to it too, and also handles incomplete rows.

    ```python
    >>> import elbax, jax
    >>> x = elbax.datasets.old_faithful()
    >>> model = elbax.ProbabilisticPCA(1)
    >>> params = model.init(jax.random.key(0), x)
    >>> step = elbax.Chain(elbax.ExactEStep(model), elbax.EvidenceMStep(model))
    >>> state = step.init(params, elbax.Exact(model, params), key=jax.random.key(1))
    >>> state, info = step(state, x)
    >>> print(f"{elbax.evidence(model, state.params, x):.3f}")
    -4.742

    ```
    """

    def __init__(
        self, num_factors: int, *, floor: float = 1e-6, prior: NormalInverseGamma | None = None
    ):
        FactorAnalysis.__init__(self, num_factors, "isotropic", floor=floor, prior=prior)


@compiled
def _start(model: FactorAnalysis, key: Key, x: PyTree, weight: Array, drawn: bool) -> PyTree:
    x, observed = known_numbers(x)
    seen, weight = observed.astype(x.dtype), weight.astype(x.dtype)
    total = matmul(weight, seen)
    mean = matmul(weight, seen * x) / total
    covariance, variance = pooled_covariance(seen * (x - mean), seen, weight)
    analyzer = model.analyzer
    if drawn:
        params = analyzer.random_start(key, mean, variance)
    else:
        params = analyzer.start(key, mean, covariance, variance)
    return with_unit(model._masked(params), analyzer.floor, variance)


def _sweep_noise(slope, root, second, count, penalty, smallest, hidden):
    """Returns the factor by which each noise variance grows in one sweep of conditional maximization.

    In units of the previous noise it updates Σ⁻¹ = M = I − S Sᵀ and B = Σ⁻¹ cov(x) Σ⁻¹. Both start as sums of
    squares: M = M² + S TᵀT Sᵀ. Rounding may account for up to `hidden` of B's diagonal.
    """
    eye = jnp.eye(len(second), dtype=second.dtype)
    project, rest = eye - matmul(slope, slope.T), matmul(slope, root.T)
    inverse = matmul(project, project) + matmul(rest, rest.T)

    def move(carry, j):
        inverse, second = carry
        row, across = inverse[j], second[j]
        # Where a column has little noise of its own s and b are small, and b may be rounding alone.
        s, most = row[j], jnp.maximum(across[j], 0)
        sure = jnp.maximum(jnp.sqrt(most) - jnp.sqrt(hidden[j]), 0) ** 2
        b = jnp.maximum(sure, jnp.minimum(most, s))

        def gain(change):
            grown = 1 + change * s
            likelihood = 0.5 * count * (change * b / grown - jnp.log(grown))
            return likelihood - 0.5 * penalty[j] / (1 + change)

        change = jnp.maximum((b - s) / s**2, smallest[j] - 1)
        change = jnp.where(gain(change) >= gain(jnp.zeros_like(change)), change, 0)
        share = change / (1 + change * s)
        inverse = inverse - share * jnp.outer(row, row)
        both = jnp.outer(row, across)
        second = second - share * (both + both.T) + share**2 * across[j] * jnp.outer(row, row)
        return (inverse, second), 1 + change

    _, growth = jax.lax.scan(move, (inverse, second), jnp.arange(len(second)))
    return growth
