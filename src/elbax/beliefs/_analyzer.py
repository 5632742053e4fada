"""Beliefs over factor analyzers, alone and in mixtures."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._reference import is_reference
from .._types import Any, Array, PyTree
from ..components import FactorAnalyzer
from ..components._analyzer import Analyzer
from ..models import FactorAnalysis
from ._belief import AbstractBelief, belief, needed, no_predictive
from ._flags import columns_free, together, whole
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


class AnalyzerBelief(AbstractBelief):
    r"""$q(w_j, \sigma_j^2) = N(w_j; m_j, \sigma_j^2 \Lambda_j^{-1}) \mathrm{IG}(\sigma_j^2)$ of each column.

    The blocks hold `{"mean": μ, "loadings": {"point": W, "precision": Λ}, "log_noise": {"point", "log_count": log
    2a}}`, Λ for a column's mean and loadings together, which move together. Isotropic noise has one variance for
    all. With a Gamma prior on the loadings' precision q holds `"relevance"` too, log E[λ] of each factor. Without
    `mean` a column's mean is 0 and no part of q, and Λ is that of the loadings alone.
    """

    def __init__(self, one: Analyzer, owner: Any, mean: bool = True):
        prior = needed(one.prior, owner, "prior", EXAMPLE)
        # The prior does what the floor is for.
        self.one = Analyzer(one.num_factors, one.noise, 0.0, prior)
        self.rows = RowPrior(prior)
        self.mean = mean

    @property
    def isotropic(self) -> bool:
        return self.one.noise == "isotropic"

    @property
    def own(self) -> slice:
        """The entries of (mean, loadings) that have a belief."""
        return slice(None) if self.mean else slice(1, None)

    def _precisions(self, q: PyTree, rows: Array) -> tuple[Array, Array]:
        return self.rows.precisions(q, rows, len(rows))

    def start(self, params, count):
        rows = self.one.rows(params)
        dim, width = rows[:, self.own].shape
        q = self.rows.first_relevance((self.one.num_factors,), rows.dtype)
        mean, _ = self._precisions(q, rows)
        mean = mean[:, self.own]
        precision = (mean + count)[..., None] * jnp.eye(width, dtype=rows.dtype)
        number = jnp.asarray(dim * count if self.isotropic else count, rows.dtype)
        log_count = jnp.broadcast_to(self.rows.noise_count(number), params["log_noise"].shape)
        return q | {
            **({"mean": params["mean"]} if self.mean else {}),
            "loadings": {"point": params["loadings"], "precision": packed(precision)},
            "log_noise": {"point": params["log_noise"], "log_count": log_count},
        }

    def shapes(self, shapes):
        loadings, width = shapes["loadings"], self.one.num_factors + self.mean
        found = {
            **({"mean": shapes["mean"]} if self.mean else {}),
            "loadings": {
                "point": loadings,
                "precision": (*loadings[:-1], width * (width + 1) // 2),
            },
            "log_noise": dict.fromkeys(("point", "log_count"), shapes["log_noise"]),
        }
        if self.rows.hyperprior is not None:
            found["relevance"] = (*loadings[:-2], self.one.num_factors)
        return found

    def point(self, q):
        blocks = {name: q[name]["point"] for name in ("loadings", "log_noise")}
        loadings = blocks["loadings"]
        none = jnp.zeros(loadings.shape[:-1], loadings.dtype)
        return blocks | {"mean": q["mean"] if self.mean else none}

    def natural(self, q):
        natural = self.one.natural(self.point(q))
        raw, log_count = q["loadings"]["precision"], q["log_noise"]["log_count"]
        return expected_natural(natural, raw, log_count, self.own)

    def posterior(self, statistics, q, free):
        point = self.point(q)
        rows = self.one.rows(point)
        mean, _ = self._precisions(q, rows)
        number = jnp.sum(statistics["count"]) if self.isotropic else statistics["count"]
        both = self.one.with_prior(statistics, point, mean, 0.0, 0.0)
        moving = self._moving(free, point["loadings"].shape)
        mean_moving = moving if isinstance(moving, bool) else moving[:, 0]
        flags = {
            "mean": mean_moving if self.mean else False,
            "loadings": moving,
            "log_noise": free["log_noise"]["point"],
        }
        moved = self.one.regress(both, point, flags, 0.0)
        precision = packed(-2 * both["gram"][:, self.own, self.own])
        loadings = {"point": moved["loadings"], "precision": precision}
        log_noise = {"point": moved["log_noise"], "log_count": self.rows.noise_count(number)}
        found = q | {
            "loadings": together(moving, loadings, q["loadings"]),
            "log_noise": together(free["log_noise"], log_noise, q["log_noise"]),
        }
        if self.mean:
            found["mean"] = together(mean_moving, moved["mean"], q["mean"])
        square = jnp.sum(self._squares(found), 0)[-self.one.num_factors :]
        fresh = self.rows.relevance(square, len(rows))
        return found | {name: together(free[name], new, q[name]) for name, new in fresh.items()}

    def _moving(self, free: PyTree, shape: Any) -> Any:
        """Returns which columns are free, as one flag or a mask (dim, 1)."""
        loadings = free["loadings"]["point"]
        return (
            columns_free(free["mean"], loadings, shape)
            if self.mean
            else whole(loadings, shape, "loadings")
        )

    def _squares(self, q: PyTree) -> Array:
        """Returns E[w² / σ²] of each column's mean and loadings."""
        point = self.point(q)
        rows, deviation = self.one.rows(point)[:, self.own], self.one.deviation(point)
        return squares(rows, deviation, q["loadings"]["precision"])

    def divergence(self, q):
        point, noise = self.point(q), q["log_noise"]
        rows, variance = self.one.rows(point), self.one.deviation(point) ** 2
        raw = q["loadings"]["precision"]
        each = jax.vmap(row_divergence)(
            rows[:, self.own],
            variance,
            raw,
            *(found[:, self.own] for found in self._precisions(q, rows)),
        )
        noises = self.rows.noise_divergence(noise["point"], noise["log_count"])
        found = {"loadings": jnp.sum(each), "log_noise": jnp.sum(noises)}
        return found | self.rows.relevance_divergence(q, len(rows))

    def sample(self, q, key):
        point, noise = self.point(q), q["log_noise"]
        key_noise, key_row = jax.random.split(key)
        log_noise = draw_log_deviation(noise["point"], noise["log_count"], key_noise)
        rows = self.one.rows(point)[:, self.own]
        deviation = self.one.deviation(point | {"log_noise": log_noise})
        drawn = draw_rows(rows, deviation, q["loadings"]["precision"], key_row)
        found = {"loadings": drawn[:, -self.one.num_factors :], "log_noise": log_noise}
        return found | ({"mean": drawn[:, 0]} if self.mean else {})

    def predictive(self, q):
        raise TypeError(no_predictive("factors and their noise"))


class AnalyzersBelief(AbstractBelief):
    """The beliefs over the analyzers of a mixture, each with the axis of components first."""

    def __init__(self, component: FactorAnalyzer):
        self.each = AnalyzerBelief(component.one, component)

    def start(self, params, count):
        params = {name: leaf for name, leaf in params.items() if not is_reference(leaf)}
        count = jnp.broadcast_to(count, params["mean"].shape[:1])
        return jax.vmap(self.each.start)(params, count)

    def shapes(self, shapes):
        return self.each.shapes(shapes)

    def point(self, q):
        return self.each.point(q)

    def natural(self, q):
        return jax.vmap(self.each.natural)(q)

    def posterior(self, statistics, q, free):
        # A flag that is the same for all components has no axis of them.
        flags, masks = eqx.partition(free, lambda flag: isinstance(flag, bool))
        one = lambda s, q, masks: self.each.posterior(s, q, eqx.combine(flags, masks))
        return jax.vmap(one)(statistics, q, masks)

    def divergence(self, q):
        found = jax.vmap(self.each.divergence)(q)
        return {name: jnp.sum(values) for name, values in found.items()}

    def sample(self, q, key):
        return jax.vmap(self.each.sample)(q, jax.random.split(key, len(q["mean"])))

    def predictive(self, q):
        return self.each.predictive(q)


@belief.register(FactorAnalyzer)
def _(component):
    return AnalyzersBelief(component)


@belief.register(FactorAnalysis)
def _(model):
    return AnalyzerBelief(model.analyzer, model)
