"""Beliefs over the initial state, the transitions and the emissions of linear-Gaussian state spaces."""

import jax
import jax.numpy as jnp

from .._math.algebra import matmul
from .._math.linear_algebra import invert_triangle
from .._math.special import log_minus_digamma
from .._reference import Reference
from .._types import Any, PyTree
from ..components import Normal
from ..components._analyzer import Analyzer
from ..components._covariance import Full
from ..models import LinearGaussianStateSpace
from ..models._linear_gaussian import LinearGaussian
from ..priors import Gamma, Known, NormalInverseGamma, NormalInverseWishart
from ._analyzer import AnalyzerBelief
from ._belief import AbstractBelief, belief, Blocks, needed, no_predictive
from ._flags import together, whole
from ._normal_wishart import NormalWishartBelief
from ._rows import draw_log_deviation, EXAMPLE


class StateSpaceBelief(Blocks):
    r"""$q(m, V)\, q(A, b, Q)\, q(C, d, R)$, the parts of a state space (Beal 2003, chapter 5).

    q of the path is then a Gaussian chain with the expected squares: to the squares at a mean of q, $\sum_j
    \tilde z^\top \Lambda_j^{-1} \tilde z$ is added for each transition and for each observed number (Barber and
    Chiappa 2006).
    """

    def __init__(self, model: LinearGaussianStateSpace):
        self.model = model
        if all(isinstance(prior, Known) for prior in model.priors.values()):
            raise ValueError(
                "Bayesian: all parts of the LinearGaussianStateSpace are known: there is nothing to infer. Pass a "
                "prior as initial_prior, transition_prior or emission_prior."
            )
        Blocks.__init__(self, **{name: _part(model, name) for name in model.priors})

    def start(self, params, count):
        # How many steps each sequence has is not known here: `count` is that of all of them.
        counts = {"initial": 1.0, "transition": count, "emission": count}
        return {
            name: block.start(params[name], counts[name]) for name, block in self.blocks.items()
        }

    def rebase(self, model, natural, q):
        return {
            name: block.rebase(model._parts[name], natural[name], q[name])
            for name, block in self.blocks.items()
        }

    def predictive(self, q):
        raise TypeError(no_predictive("the matrices of a LinearGaussianStateSpace"))


def _part(model: LinearGaussianStateSpace, name: str) -> AbstractBelief:
    """Returns the belief over one part of the model."""
    own = f"elbax.priors.NormalInverseWishart(0.0, 1.0, {model.dim + 1.0}, 1.0)"
    if name != "initial":
        own = f"{EXAMPLE}, elbax.priors.Gamma(1.0, 1.0) if its matrix is known,"
    example = f"{own} or elbax.priors.Known()"
    prior = needed(model.priors[name], model, f"{name}_prior", example)
    if isinstance(prior, Known):
        return KnownBelief(model._parts[name], name, model.dim)
    if isinstance(prior, NormalInverseWishart):
        return InitialBelief(prior, model.dim)
    noise = model.transition_noise if name == "transition" else model.emission_noise
    if isinstance(prior, Gamma):
        return NoiseBelief(prior, noise, model.dim, model.offsets)
    return RowsBelief(prior, noise, model.dim, model.offsets)


ANALYZER = {"offset": "mean", "matrix": "loadings", "scale": "log_noise"}
"""What the blocks of a conditional are called as a factor analyzer of the inputs."""

COMPONENT = {"offset": "mean", "scale": "scale"}
"""What those of the initial state are called as a component."""


def _named(tree: PyTree, names: dict[str, str]) -> PyTree:
    return {names.get(name, name): leaf for name, leaf in tree.items()}


def _back(tree: PyTree, names: dict[str, str]) -> PyTree:
    return _named(tree, {new: old for old, new in names.items()})


class RowsBelief(AbstractBelief):
    """A normal-gamma belief over each row of a matrix, with its offset if there is one, and over its noise.

    It is that of factor analysis, with states as the factors.
    """

    def __init__(self, prior: NormalInverseGamma, noise: Any, inputs: int, offset: bool):
        self.inside = AnalyzerBelief(Analyzer(inputs, noise, 0.0, prior), None, mean=offset)

    def _in(self, tree: PyTree) -> PyTree:
        return _named(tree, ANALYZER)

    def start(self, params, count):
        params = self._in(params)
        none = jnp.zeros_like(params["loadings"][:, 0])
        return _back(self.inside.start({"mean": none} | params, count), ANALYZER)

    def shapes(self, shapes):
        return _back(self.inside.shapes(self._in(shapes)), ANALYZER)

    def point(self, q):
        found = self.inside.point(self._in(q))
        if not self.inside.mean:
            del found["mean"]
        return _back(found, ANALYZER)

    def natural(self, q):
        return self.inside.natural(self._in(q))

    def rebase(self, model, natural, q):
        return self.inside.rebase(self.inside.one, natural, self._in(q))

    def posterior(self, statistics, q, free):
        return _back(self.inside.posterior(statistics, self._in(q), self._in(free)), ANALYZER)

    def divergence(self, q):
        return _back(self.inside.divergence(self._in(q)), ANALYZER)

    def sample(self, q, key):
        return _back(self.inside.sample(self._in(q), key), ANALYZER)


class NoiseBelief(AbstractBelief):
    """Gammas over the precisions of the noise, where the matrix and the offset are known."""

    def __init__(self, prior: Gamma, noise: Any, inputs: int, offset: bool):
        # The prior on coefficients is of no use: they do not move.
        rows = NormalInverseGamma(1.0, prior.shape, prior.rate)
        self.inside = AnalyzerBelief(Analyzer(inputs, noise, 0.0, rows), None)
        self.offset = offset

    def _point(self, q: PyTree) -> PyTree:
        """Returns the point as the params of a factor analyzer."""
        point = _named(self.point(q), ANALYZER)
        return {"mean": jnp.zeros_like(point["loadings"][:, 0])} | point

    def start(self, params, count):
        found = {name: Reference(params[name]) for name in ("matrix", "offset") if name in params}
        number = count * len(params["matrix"]) if self.inside.isotropic else count
        log_count = self.inside.rows.noise_count(jnp.asarray(number, params["scale"].dtype))
        log_count = jnp.broadcast_to(log_count, params["scale"].shape)
        return found | {"scale": {"point": params["scale"], "log_count": log_count}}

    def shapes(self, shapes):
        found = {name: Reference(shapes[name]) for name in ("matrix", "offset") if name in shapes}
        return found | {"scale": dict.fromkeys(("point", "log_count"), shapes["scale"])}

    def point(self, q):
        known = {name: q[name].value for name in ("matrix", "offset") if name in q}
        return known | {"scale": q["scale"]["point"]}

    def natural(self, q):
        natural = self.inside.one.natural(self._point(q))
        gap = log_minus_digamma(0.5 * jnp.exp(q["scale"]["log_count"]))
        return natural | {"count": natural["count"] - 0.5 * gap}

    def rebase(self, model, natural, q):
        return self.inside.one.rebase(natural, self._point(q))

    def posterior(self, statistics, q, free):
        point, one, rows = self._point(q), self.inside.one, self.inside.rows
        number = statistics["count"]
        number = jnp.sum(number) if self.inside.isotropic else number
        none = jnp.zeros_like(one.rows(point))
        both = one.with_prior(statistics, point, none, 0.0, 0.0)
        flags = {"mean": False, "loadings": False, "log_noise": free["scale"]["point"]}
        moved = one.regress(both, point, flags, 0.0)
        best = {"point": moved["log_noise"], "log_count": rows.noise_count(number)}
        return q | {"scale": together(free["scale"], best, q["scale"])}

    def divergence(self, q):
        noise = q["scale"]
        each = self.inside.rows.noise_divergence(noise["point"], noise["log_count"])
        return {"scale": jnp.sum(each)}

    def sample(self, q, key):
        noise = q["scale"]
        return self.point(q) | {
            "scale": draw_log_deviation(noise["point"], noise["log_count"], key)
        }


class InitialBelief(AbstractBelief):
    """A normal-Wishart belief over the first state's mean and covariance."""

    def __init__(self, prior: NormalInverseWishart, dim: int):
        self.prior, self.dim = prior, dim
        self.part = LinearGaussian(Full())
        self.inside = NormalWishartBelief(Normal(prior=prior))
        self.inside.structured_dof(dim)

    def _in(self, q: PyTree) -> PyTree:
        """Returns q as that of a component, of which there is one."""
        return jax.tree.map(lambda leaf: leaf[None], _named(q, COMPONENT))

    def _out(self, tree: PyTree) -> PyTree:
        return _back(jax.tree.map(lambda leaf: leaf[0], tree), COMPONENT)

    def start(self, params, count):
        point = {name: params[name] for name in COMPONENT}
        return self._out(self.inside.start(self._in(point), jnp.asarray(count)))

    def shapes(self, shapes):
        return {name: {"point": shapes[name], "log_count": (1,)} for name in COMPONENT}

    def point(self, q):
        return {name: q[name]["point"] for name in COMPONENT}

    def natural(self, q):
        natural = self.part.natural(self.point(q), self.dim, 0)
        corrections = jnp.sum(jnp.stack(self.inside.corrections(self._in(q))))
        return natural | {"count": natural["count"] + corrections}

    def rebase(self, model, natural, q):
        return self.part.rebase(natural, self.point(q), self.dim, 0)

    def posterior(self, statistics, q, free):
        point, prior, dim = self.point(q), self.prior, self.dim
        dtype, count = point["offset"].dtype, statistics["count"]
        root = self.part.root(point, dim)
        inverse = invert_triangle(root)
        # All in units of the noise: the prior is κ rows at its mean, and ν of scatter Ψ.
        gap = matmul(inverse, prior.center(dim, dtype) - point["offset"])
        weighted = matmul(inverse, jnp.asarray(prior.root(dim), dtype))
        shrinkage, dof = prior.shrinkage + count, prior.dof + count
        linear = statistics["linear"] + prior.shrinkage * gap
        scatter = -(statistics["precision"] + statistics["precision"].T)
        scatter += prior.shrinkage * jnp.outer(gap, gap) + matmul(weighted, weighted.T)
        flags = {
            name: whole(free[name]["point"], point[name].shape, "numbers") for name in COMPONENT
        }
        change = jnp.where(jnp.asarray(flags["offset"]), linear / shrinkage, 0)
        mixed = jnp.outer(change, linear)
        scatter += shrinkage * jnp.outer(change, change) - mixed - mixed.T
        moved = {
            "offset": point["offset"] + matmul(root, change),
            "scale": self.part.noise.rescale(point["scale"], scatter / dof, dim),
        }
        counts = {"offset": shrinkage, "scale": dof}
        best = {
            name: {"point": moved[name], "log_count": jnp.log(counts[name])[None]} for name in moved
        }
        return {name: together(flags[name], best[name], q[name]) for name in best}

    def divergence(self, q):
        return _back(self.inside.divergence(self._in(q)), COMPONENT)

    def sample(self, q, key):
        return self._out(self.inside.sample(self._in(q), key))


class KnownBelief(AbstractBelief):
    """No belief: the part stays as it is."""

    def __init__(self, part: LinearGaussian, name: str, dim: int):
        self.part, self.dim = part, dim
        self.inputs = 0 if name == "initial" else dim

    def start(self, params, count):
        return {
            name: Reference(params[name])
            for name in ("matrix", "offset", "scale")
            if name in params
        }

    def shapes(self, shapes):
        return {name: Reference(shape) for name, shape in shapes.items() if name != "unit"}

    def point(self, q):
        return {name: node.value for name, node in q.items()}

    def _sizes(self, q: PyTree) -> tuple[int, int]:
        return len(q["matrix"].value) if "matrix" in q else self.dim, self.inputs

    def natural(self, q):
        return self.part.natural(self.point(q), *self._sizes(q))

    def rebase(self, model, natural, q):
        return self.part.rebase(natural, self.point(q), *self._sizes(q))

    def posterior(self, statistics, q, free):
        return q

    def divergence(self, q):
        return {}

    def sample(self, q, key):
        return self.point(q)


belief.register(LinearGaussianStateSpace, StateSpaceBelief)
