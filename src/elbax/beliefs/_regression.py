"""Beliefs over linear regressions."""

import jax
import jax.numpy as jnp

from .._types import Array, PyTree
from ..components import LinearRegression
from ..components._residual import with_prior
from ._belief import AbstractBelief, belief, needed
from ._flags import together
from ._rows import (
    draw_log_deviation,
    draw_rows,
    EXAMPLE,
    expected_natural,
    packed,
    row_divergence,
    RowPrior,
    squares,
)


class RegressionBelief(AbstractBelief):
    r"""$q(\beta_k, \sigma_k^2) = N(\beta_k; m_k, \sigma_k^2 \Lambda_k^{-1}) \mathrm{IG}(\sigma_k^2)$ of each.

    The blocks hold `{"coefficients": {"point": m, "precision": Λ}, "log_noise": {"point", "log_count": log 2a}}`,
    with Λ for the intercept at the inputs' mean. $E_q[\eta]$ is η at the point with Λ⁻¹ as the gram of each row,
    which adds the variance of the prediction, and a count that is smaller by ½ (log a − ψ(a)).
    """

    def __init__(self, component: LinearRegression):
        prior = needed(component.prior, component, "prior", EXAMPLE)
        # The prior does what the floor is for.
        self.component = LinearRegression(floor=0.0, prior=prior)
        self.rows = RowPrior(prior)

    def _precisions(self, q: PyTree, row: Array) -> tuple[Array, Array]:
        return self.rows.precisions(q, row, 1)

    def _constants(self, tree: PyTree) -> PyTree:
        return {name: tree[name] for name in ("center",) if name in tree}

    def start(self, params, count):
        row, log_noise = params["coefficients"], params["log_noise"]
        number, width = row.shape
        count = jnp.broadcast_to(count, (number,)).astype(row.dtype)
        q = self._constants(params) | self.rows.first_relevance((number, width - 1), row.dtype)
        mean, _ = self._precisions(q, row)
        precision = (mean + count[:, None])[..., None] * jnp.eye(width, dtype=row.dtype)
        return q | {
            "coefficients": {"point": row, "precision": packed(precision)},
            "log_noise": {"point": log_noise, "log_count": self.rows.noise_count(count)},
        }

    def shapes(self, shapes):
        number, width = shapes["coefficients"]
        size = lambda sizes: sizes[width] * (sizes[width] + 1) // 2
        found = {
            "coefficients": {"point": (number, width), "precision": (number, size)},
            "log_noise": dict.fromkeys(("point", "log_count"), (number,)),
            "center": shapes["center"],
        }
        if self.rows.hyperprior is not None:
            found["relevance"] = (number, lambda sizes: sizes[width] - 1)
        return found

    def point(self, q):
        blocks = {name: q[name]["point"] for name in ("coefficients", "log_noise")}
        return blocks | self._constants(q)

    def natural(self, q):
        natural = self.component.natural(self.point(q))
        return expected_natural(
            natural, q["coefficients"]["precision"], q["log_noise"]["log_count"]
        )

    def posterior(self, statistics, q, free):
        point = self.point(q)
        row, variance = self.component.at_center(point), jnp.exp(2 * point["log_noise"])
        mean, _ = self._precisions(q, row)
        prior = self.rows.prior
        count = self.rows.noise_count(statistics["count"])
        both = with_prior(statistics, row, variance, mean, 2 * prior.shape, 2 * prior.rate)
        flags = {name: free[name]["point"] for name in ("coefficients", "log_noise")}
        moved = self.component.regress(both, point, flags)
        precision = packed(-2 * both["gram"])
        best = {
            "coefficients": {"point": moved["coefficients"], "precision": precision},
            "log_noise": {"point": moved["log_noise"], "log_count": count},
        }
        found = q | {name: together(free[name], best[name], q[name]) for name in best}
        fresh = self.rows.relevance(self._squares(found)[:, 1:], 1)
        return found | {name: together(free[name], new, q[name]) for name, new in fresh.items()}

    def _squares(self, q: PyTree) -> Array:
        """Returns E[β² / σ²] of each coefficient."""
        point = self.point(q)
        row, deviation = self.component.at_center(point), jnp.exp(point["log_noise"])
        return squares(row, deviation, q["coefficients"]["precision"])

    def divergence(self, q):
        point, noise = self.point(q), q["log_noise"]
        row, variance = self.component.at_center(point), jnp.exp(2 * noise["point"])
        mean, log = self._precisions(q, row)
        each = jax.vmap(row_divergence)(row, variance, q["coefficients"]["precision"], mean, log)
        noises = self.rows.noise_divergence(noise["point"], noise["log_count"])
        found = {"coefficients": jnp.sum(each), "log_noise": jnp.sum(noises)}
        return found | self.rows.relevance_divergence(q, 1)

    def sample(self, q, key):
        point, noise = self.point(q), q["log_noise"]
        key_noise, key_row = jax.random.split(key)
        log_noise = draw_log_deviation(noise["point"], noise["log_count"], key_noise)
        row, deviation = self.component.at_center(point), jnp.exp(log_noise)
        drawn = draw_rows(row, deviation, q["coefficients"]["precision"], key_row)
        coefficients = self.component.from_center(point, drawn)
        return point | {"coefficients": coefficients, "log_noise": log_noise}


@belief.register(LinearRegression)
def _(component):
    return RegressionBelief(component)
