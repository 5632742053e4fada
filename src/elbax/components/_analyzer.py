"""One factor analyzer: a normal with a low-rank plus diagonal covariance."""

import math
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp

from .._arguments import check_choice, check_count, check_kind, check_not_negative, in_full
from .._math.algebra import diagonal, matmul, vdot
from .._math.envelope import at_maximum
from .._math.linear_algebra import cholesky, eigh, invert_triangle, solve_positive
from .._reference import Reference
from .._types import Any, Array, Float, Key, PyTree, Scalar
from ..data._check import check_row
from ..data._incomplete_rows import known
from ..priors import NormalInverseGamma
from ._imputation import regression_on_observed
from ._residual import insert_residual, least_share, with_prior
from ._unit import floors, positive_variance


Noise = Literal["diagonal", "diag", "isotropic"]


class Analyzer(eqx.Module):
    """A factor analyzer with params `{"mean": (dim,), "loadings": (dim, num_factors), "log_noise": (dim,) or ()}`.

    The arguments are those of `FactorAnalyzer`, which has K of them, and of `FactorAnalysis`, which is one.
    """

    num_factors: int = eqx.field(static=True)
    noise: Noise = eqx.field(static=True, default="diagonal", converter=in_full)
    floor: float = eqx.field(static=True, default=1e-6)
    prior: NormalInverseGamma | None = None

    def __check_init__(self):
        check_count("FactorAnalyzer", num_factors=self.num_factors)
        check_choice("FactorAnalyzer", ("diagonal", "isotropic"), noise=self.noise)
        check_not_negative("FactorAnalyzer", floor=self.floor)
        check_kind("FactorAnalyzer", NormalInverseGamma, prior=self.prior)

    def shapes(self, dim: int | str) -> dict[str, Any]:
        """Returns the shapes of the params."""
        noise = () if self.noise == "isotropic" else (dim,)
        params = {"mean": (dim,), "loadings": (dim, self.num_factors), "log_noise": noise}
        return params | {"unit": Reference((dim,))}

    def deviation(self, params: PyTree) -> Array:
        """Returns the noise's standard deviation σ of each column."""
        return jnp.broadcast_to(jnp.exp(params["log_noise"]), params["mean"].shape)

    def penalty(self, params: PyTree) -> Array | float:
        """Returns floor · D, one number per column, for params that hold the unit."""
        if not self.floor:
            return 0.0
        return floors(params, self.floor, "FactorAnalyzer").astype(params["mean"].dtype) ** 2

    def natural(self, params: PyTree) -> PyTree:
        """Returns coordinates in units of the noise, about the current regression.

        With e = (x − μ)/σ − W'y and ỹ = (1, y),

            log p(x, y) = Σ count − ½ τ·e² + Σⱼ eⱼ cⱼ·ỹ − ½ Σⱼ ỹᵀ Gⱼ ỹ + log N(y; 0, I)

        at τ = 1, c = 0, G = 0. The statistic of c is what the regression can still gain. M-steps are therefore
        corrections, and rounding in them does not move their fixed point.
        """
        mean = params["mean"]
        deviation = self.deviation(params)
        width = self.num_factors + 1
        return {
            "count": -jnp.log(deviation) - 0.5 * math.log(2 * math.pi),
            "precision": jnp.ones_like(mean),
            "cross": jnp.zeros((mean.size, width), mean.dtype),
            "gram": jnp.zeros((mean.size, width, width), mean.dtype),
            "about": Reference(
                {
                    "mean": mean,
                    "deviation": deviation,
                    "weights": params["loadings"] / deviation[:, None],
                }
            ),
        }

    def rebase(self, natural: PyTree, params: PyTree) -> PyTree:
        """Inserts the residual e = (σ'/σ) e' + d·ỹ with d = ((μ' − μ)/σ, W'/σ − W/σ) of the new params."""
        about, new = natural["about"].value, self.natural(params)["about"]
        deviation = about["deviation"]
        move = (new.value["mean"] - about["mean"]) / deviation
        turn = params["loadings"] / deviation[:, None] - about["weights"]
        shift = jnp.concatenate([move[:, None], turn], 1)
        ratio = new.value["deviation"] / deviation
        return natural | {"about": new} | insert_residual(natural, ratio, shift)

    def potentials(self, natural: PyTree, x: Any) -> tuple[tuple[Array, Array], Scalar]:
        """Returns (h, J) of the factors and the constant, for one row; missing columns are left out."""
        about = natural["about"].value
        seen, z = self._standardized(natural, x)
        weights, precision, cross = about["weights"], natural["precision"], natural["cross"]
        # What does not depend on the row is computed once per pass: `seen` is one vector for all rows, or for a
        # block.
        pull = precision[:, None] * weights + cross[:, 1:]
        gram = jnp.tensordot(seen, natural["gram"], 1, precision=jax.lax.Precision.HIGHEST)
        # A symmetric coordinate enters symmetrically, so that its statistic is symmetric.
        linear = matmul(z, pull) - matmul(seen * cross[:, 0], weights)
        linear = linear - 0.5 * (gram[1:, 0] + gram[0, 1:])
        mixed = matmul((seen[:, None] * weights).T, pull + cross[:, 1:])
        # More than rounding can subtract, so that the form has a factor however large or collinear the weights
        # are.
        ridge = _ridge(weights) * jnp.sum((seen[:, None] * weights) ** 2, 0)
        form = jnp.diag(1 + ridge) + 0.5 * (mixed + mixed.T) + gram[1:, 1:]
        constant = vdot(seen, natural["count"]) - 0.5 * vdot(precision, z**2) + vdot(cross[:, 0], z)
        constant = constant - 0.5 * gram[0, 0] - 0.5 * self.num_factors * math.log(2 * math.pi)
        return (linear, form), constant

    def log_density(self, natural: PyTree, x: Any) -> Scalar:
        """Returns log p(x) of one row, with the factors eliminated.

        It is E_q[log p(x, y)] + H(q) at the posterior q = N(m, T Tᵀ), a sum of squared residuals about m. The
        difference of z² and what the factors explain of it would cancel where there is little noise.
        """
        return at_maximum(self._bound, self.posterior, (natural, x))

    def _bound(self, point: tuple[PyTree, Any], q: tuple[Array, Array, Scalar]) -> Scalar:
        """Returns E_q[log p(x, y)] + H(q) at q = (m, T, log |T|)."""
        natural, x = point
        mean, root, log_volume = q
        seen, z = self._standardized(natural, x)
        weights, cross = natural["about"].value["weights"], natural["cross"]
        gram = jnp.tensordot(seen, natural["gram"], 1, precision=jax.lax.Precision.HIGHEST)
        residual = z - seen * matmul(weights, mean)
        spread = seen[:, None] * matmul(weights, root)
        total = vdot(seen, natural["count"]) - 0.5 * vdot(natural["precision"], residual**2)
        total -= 0.5 * vdot(natural["precision"], jnp.sum(spread**2, -1))
        gain = matmul(residual, cross)
        total += gain[0] + vdot(gain[1:], mean) - jnp.sum(matmul(cross[:, 1:], root) * spread)
        total -= 0.5 * (gram[0, 0] + vdot(gram[1:, 0] + gram[0, 1:], mean))
        total -= 0.5 * (vdot(mean, matmul(gram[1:, 1:], mean)) + _quadratics(gram[1:, 1:], root))
        # E_q[log N(y; 0, I)] + H(q).
        divergence = vdot(mean, mean) + jnp.sum(root**2) - self.num_factors
        return total - 0.5 * divergence + log_volume

    def posterior(self, point: tuple[PyTree, Any]) -> tuple[Array, Array, Scalar]:
        """Returns (m, T, log |T|) of the factors' posterior N(m, T Tᵀ)."""
        natural, x = point
        seen, z = self._standardized(natural, x)
        cross = natural["cross"]
        gram = jnp.tensordot(seen, natural["gram"], 1, precision=jax.lax.Precision.HIGHEST)
        weights = seen[:, None] * natural["about"].value["weights"]
        # In units in which the precision is about I, so that its factor keeps the digits of the weights, however
        # large or collinear they are (a second Cholesky factor of a QR decomposition: Yamamoto et al. 2015).
        units = _units(weights)
        weights, slope = matmul(weights, units), matmul(seen[:, None] * cross[:, 1:], units)
        pull = natural["precision"][:, None] * weights + slope
        constant = matmul(seen * cross[:, 0], weights)
        constant = constant + 0.5 * matmul(gram[1:, 0] + gram[0, 1:], units)
        mixed = matmul(weights.T, pull + slope)
        prior = matmul(units.T, units + matmul(gram[1:, 1:], units))
        factor = cholesky(0.5 * (mixed + mixed.T) + prior)
        inverse = invert_triangle(factor)
        root = matmul(units, inverse.T)
        log_volume = jnp.sum(jnp.log(diagonal(units))) - jnp.sum(jnp.log(diagonal(factor)))
        # Multiply first what does not depend on the row: rows often share all but z.
        solve = matmul(root, inverse)
        mean = matmul(z, matmul(pull, solve.T)) - matmul(solve, constant)
        return mean, root, log_volume

    def _standardized(self, natural: PyTree, x: Any) -> tuple[Array, Array]:
        """Returns (which columns are observed, (x − μ)/σ with 0 where they are not)."""
        values, observed = known(x)
        about = natural["about"].value
        check_row(x, about["mean"].shape[-1], "FactorAnalyzer")
        z = jnp.where(observed, (values - about["mean"]) / about["deviation"], 0)
        return observed.astype(about["mean"].dtype), z

    def maximize(
        self, statistics: PyTree, params: PyTree, free: PyTree, penalty: Array | float
    ) -> PyTree:
        """Returns the params of highest expected log-density and prior; `penalty` is that of the floor."""
        if self.prior is not None:
            width = self.num_factors + 1
            precisions = self.prior.precisions(width, params["mean"].dtype)
            # For the mode: N(w; 0, σ²/λ) has a factor 1/σ for each coefficient, IG(σ²; a, b) the power −(a + 1).
            statistics = self.with_prior(statistics, params, precisions, 2.0, width)
        return self.regress(statistics, params, free, penalty)

    def rows(self, params: PyTree) -> Float[Array, "dim width"]:
        """Returns the mean and the loadings of each column."""
        return jnp.concatenate([params["mean"][:, None], params["loadings"]], 1)

    def with_prior(
        self, statistics: PyTree, params: PyTree, precisions: Array, of_noise: float, of_row: float
    ) -> PyTree:
        """Returns the statistics plus the prior's, with pseudo-counts added for each noise variance and row."""
        assert self.prior is not None
        rows, variance = self.rows(params), self.deviation(params) ** 2
        # Columns that share one variance share its prior.
        share = 1 / len(rows) if self.noise == "isotropic" else 1.0
        count = share * (2 * self.prior.shape + of_noise) + of_row
        square = share * 2 * self.prior.rate
        return with_prior(statistics, rows, variance, precisions, count, square)

    def regress(
        self, statistics: PyTree, params: PyTree, free: PyTree, penalty: Array | float
    ) -> PyTree:
        """Regresses each column on the factors, then estimates the variance of the residual."""
        deviation = self.deviation(params)
        tiny = jnp.finfo(deviation.dtype).tiny
        count = statistics["count"]
        empty = count <= tiny
        safe = jnp.where(empty, 1, count)
        gram, cross = -2 * statistics["gram"], statistics["cross"]
        like = {"mean": params["mean"], "loadings": params["loadings"]}
        moving = jax.tree.map(
            lambda flag, leaf: jnp.broadcast_to(flag, leaf.shape),
            {name: free[name] for name in like},
            like,
        )
        moving = jnp.concatenate([moving["mean"][:, None], moving["loadings"]], 1)
        moving &= ~empty[:, None]
        identity = jnp.eye(self.num_factors + 1, dtype=deviation.dtype)

        def correct(moving, gram, cross, count):
            both = moving[:, None] & moving
            system = jnp.where(both, gram / count, identity)
            return solve_positive(system, jnp.where(moving, cross / count, 0))

        change = jax.vmap(correct)(moving, gram, cross, safe)
        # E (e − Δ·ỹ)²: at the optimum, the part that the correction explains is subtracted.
        square = -2 * statistics["precision"]
        explained = 2 * jnp.sum(change * cross, -1)
        explained -= jnp.einsum("ji,jik,jk->j", change, gram, change, precision="highest")
        residual = square - explained + penalty / deviation**2
        # The column's variance in units of the noise: that of e + w·y.
        weights = params["loadings"] / deviation[:, None]
        signal = jnp.einsum("ji,jik,jk->j", weights, gram[:, 1:, 1:], weights, precision="highest")
        signal = square + 2 * jnp.sum(weights * cross[:, 1:], -1) + signal
        rounding = 8 * (self.num_factors + 1) * jnp.finfo(deviation.dtype).eps * square
        if self.noise == "isotropic":
            count, residual, signal, rounding = map(jnp.sum, (count, residual, signal, rounding))
            offset = jnp.sum(safe * (params["mean"] / deviation) ** 2)
        else:
            offset = safe * (params["mean"] / deviation) ** 2
        kept = count > tiny
        safe = jnp.where(kept, count, 1)
        least = least_share(signal / safe, offset / safe, rounding / safe)
        log_noise = params["log_noise"] + 0.5 * jnp.log(jnp.maximum(residual / safe, least))
        return {
            "mean": params["mean"] + deviation * change[:, 0],
            "loadings": params["loadings"] + deviation[:, None] * change[:, 1:],
            "log_noise": jnp.where(kept, log_noise, params["log_noise"]),
        }

    def describe(self, params: PyTree) -> dict[str, Array]:
        noise = self.deviation(params) ** 2
        loadings = params["loadings"]
        return {
            "mean": params["mean"],
            "loadings": loadings,
            "noise": noise,
            "uniquenesses": noise / (noise + jnp.sum(loadings**2, -1)),
        }

    def start(self, key_or_none: Any, mean: Array, covariance: Array, variance: Array) -> PyTree:
        """Starts with probabilistic PCA of the correlations; a key adds noise to the loadings."""
        # Keeps the variance of a constant column positive.
        covariance += jnp.diag(1e-5 * positive_variance(variance))
        deviation = jnp.sqrt(diagonal(covariance))
        correlation = covariance / jnp.outer(deviation, deviation)
        values, vectors = eigh(correlation)
        rank = min(self.num_factors, mean.size)
        top, rest = values[::-1][:rank], values[: mean.size - rank]
        left = jnp.mean(rest) if rest.size else 0.1 * values[0]
        left = jnp.clip(left, 0.05, 0.9)
        loadings = vectors[:, ::-1][:, :rank] * jnp.sqrt(jnp.maximum(top - left, 0.05))
        loadings = jnp.zeros((mean.size, self.num_factors), mean.dtype).at[:, :rank].set(loadings)
        if key_or_none is not None:
            noise = jax.random.normal(key_or_none, loadings.shape, mean.dtype)
            loadings = loadings + 0.1 * noise
        unique = jnp.clip(1 - jnp.sum(loadings**2, -1), 0.1, 1)
        log_noise = jnp.log(deviation) + 0.5 * jnp.log(unique)
        if self.noise == "isotropic":
            log_noise = 0.5 * jnp.log(jnp.mean(jnp.exp(2 * log_noise)))
        return {"mean": mean, "loadings": deviation[:, None] * loadings, "log_noise": log_noise}

    def random_start(self, key: Key, mean: Array, variance: Array) -> PyTree:
        """Starts with normal random loadings that account for half of every column's variance."""
        deviation = jnp.sqrt(positive_variance(variance))
        shape = (mean.size, self.num_factors)
        drawn = jax.random.normal(key, shape, mean.dtype) * math.sqrt(0.5 / self.num_factors)
        log_noise = jnp.log(deviation) + 0.5 * math.log(0.5)
        if self.noise == "isotropic":
            log_noise = 0.5 * jnp.log(jnp.mean(jnp.exp(2 * log_noise)))
        return {"mean": mean, "loadings": deviation[:, None] * drawn, "log_noise": log_noise}

    def log_prior(self, params: PyTree, penalty: Array | float) -> Scalar | float:
        variance = self.deviation(params) ** 2
        total = -0.5 * jnp.sum(penalty / variance)
        if self.prior is not None:
            rows = self.rows(params)
            precisions = self.prior.precisions(rows.shape[1], rows.dtype)
            total += jnp.sum(self.prior.log_density_of_row(rows, variance, precisions))
            own = variance[0] if self.noise == "isotropic" else variance
            total += jnp.sum(self.prior.log_density_of_variance(own))
        return total

    def moments(self, params: PyTree, x: Any) -> tuple[Array, Array]:
        """Returns means and variances of a row's numbers, given the observed ones."""
        values, observed = known(x)
        mean = params["mean"]
        root = jnp.concatenate([params["loadings"], jnp.diag(self.deviation(params))], 1)
        onto, variances, _ = regression_on_observed(root, observed)
        offset = jnp.where(observed, values.astype(mean.dtype) - mean, 0)
        return mean + matmul(onto, offset), variances

    def summary(self) -> dict[str, Any]:
        return {"factors": self.num_factors, "structure": self.noise}


def _units(weights: Array) -> Array:
    """Returns C⁻ᵀ, where C is a Cholesky factor of I + WᵀW up to rounding.

    In the units y = C⁻ᵀ u the posterior precision is about I. Any units are valid, so no derivative is taken.
    """
    weights = jax.lax.stop_gradient(weights)
    eye = jnp.eye(weights.shape[-1], dtype=weights.dtype)
    precision = eye + matmul(weights.T, weights)
    factor = cholesky(precision * (1 + _ridge(weights) * eye))
    return invert_triangle(factor).T


def _ridge(weights: Array) -> float:
    """Returns more than the rounding error of WᵀW, in units of its diagonal."""
    return 8 * sum(weights.shape) * float(jnp.finfo(weights.dtype).eps)


def _quadratics(form: Array, root: Array) -> Scalar:
    """Returns tr(Rᵀ A R)."""
    return jnp.sum(root * matmul(form, root))
