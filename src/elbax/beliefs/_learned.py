"""Beliefs whose priors are learned too: empirical Bayes."""

import copy
import functools
import math
import operator

import equinox as eqx
import jax
import jax.numpy as jnp

from .._free import choose, moving
from .._reference import split_coordinates
from .._types import Any, Array, PyTree, Scalar
from ..m_steps._newton import newton_step
from ._belief import AbstractBelief, AbstractOnePrior


# A prior on values that are all equal has no finite maximum.
_SMALLEST, _LARGEST = math.log(1e-4), math.log(1e6)
_STEPS, _HALVINGS = 10, 10


class LearnedBelief(AbstractBelief):
    r"""A belief `inside`, and the numbers of some of its priors as points: empirical Bayes.

    q is `{"belief": ..., "log_priors": {block: {number: its logarithm}}}`. Given the expected statistics s, the
    best q(θ) of every φ is known, so that the bound is a function of the numbers φ of the priors alone,

    $$\max_q \left( \langle E_q[\eta(\theta)], s \rangle - \mathrm{KL}(q(\theta) \,\|\, p(\theta \mid \varphi))
    \right)$$

    which the M-step ascends by Newton steps.
    """

    def __init__(self, inside: AbstractBelief, names: tuple[str, ...]):
        known = inside.learnable
        if any(name not in known for name in names):
            raise ValueError(
                f"Bayesian: learned must name blocks whose prior can be learned, as elbo_terms does; here these "
                f"are {sorted(known)}, got {list(names)}."
            )
        self.inside, self.learned = inside, {name: known[name] for name in names}

    def _logs(self, dtype: Any) -> dict[str, dict[str, Array]]:
        def one(prior):
            return {n: jnp.asarray(math.log(getattr(prior, n)), dtype) for n in prior.learnable}

        return {name: one(belief.prior) for name, (_, belief) in self.learned.items()}

    def _opened(self, q: PyTree) -> tuple[AbstractBelief, PyTree]:
        """Returns the belief with the priors in q, and the rest of q."""
        priors = {
            name: _with_numbers(belief.prior, q["log_priors"][name])
            for name, (_, belief) in self.learned.items()
        }
        return self.inside.with_priors(priors), q["belief"]

    def start(self, params, count):
        q = self.inside.start(params, count)
        dtype = jnp.result_type(*jax.tree.leaves(eqx.filter(q, eqx.is_inexact_array)))
        return {"belief": q, "log_priors": self._logs(dtype)}

    def shapes(self, shapes):
        numbers = jax.tree.map(lambda _: (), self._logs(float))
        return {"belief": self.inside.shapes(shapes), "log_priors": numbers}

    def point(self, q):
        return self.inside.point(q["belief"])

    def natural(self, q):
        return self.inside.natural(q["belief"])

    def posterior(self, statistics, q, free):
        def one(name, path, belief):
            part = lambda tree: functools.reduce(operator.getitem, path, tree)
            flags = part(free["belief"]), free["log_priors"][name]
            given = part(statistics), part(q["belief"]), q["log_priors"][name]
            return _learn(belief, *given, *flags)

        each = self.learned.items()
        logs = {name: one(name, path, belief) for name, (path, belief) in each}
        belief, before = self._opened(q | {"log_priors": logs})
        return {"belief": belief.posterior(statistics, before, free["belief"]), "log_priors": logs}

    def divergence(self, q):
        belief, q = self._opened(q)
        return belief.divergence(q)

    def global_term(self, q, key):
        belief, q = self._opened(q)
        return belief.global_term(q, key)

    def sample(self, q, key):
        return self.inside.sample(q["belief"], key)

    def predictive(self, q):
        return self.inside.predictive(q["belief"])

    def emptied(self, q):
        belief, q = self._opened(q)
        return belief.emptied(q)


def _learn(
    belief: AbstractOnePrior,
    statistics: PyTree,
    q: PyTree,
    logs: PyTree,
    free: PyTree,
    flags: PyTree,
) -> PyTree:
    """Returns the logarithms of the best numbers of the prior of one block."""

    def put(new: PyTree) -> PyTree:
        inside = jax.tree.map(lambda log: jnp.clip(log, _SMALLEST, _LARGEST), new)
        return choose(flags, eqx.combine(inside, logs), logs)

    def bound(new: PyTree) -> Scalar:
        at = belief.with_priors({belief.block: _with_numbers(belief.prior, put(new))})
        best = at.posterior(statistics, q, free)
        natural, _ = split_coordinates(at.about(at.natural(best), q))
        each = jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), natural, statistics))
        return functools.reduce(operator.add, each) - at.divergence(best)[belief.block]

    def step(new: PyTree, _: None) -> tuple[PyTree, None]:
        return newton_step(bound, new, _HALVINGS)[0], None

    start = moving(flags, logs)
    if not jax.tree.leaves(start):
        return logs
    return put(jax.lax.scan(step, start, length=_STEPS)[0])


def _with_numbers(prior: Any, logs: dict[str, Scalar]) -> Any:
    """Returns the prior with numbers of these logarithms. They may be traced, so they are not checked."""
    found = copy.copy(prior)
    for name, log in logs.items():
        object.__setattr__(found, name, jnp.exp(log))
    return found
