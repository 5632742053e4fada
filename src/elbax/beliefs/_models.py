"""Beliefs over the params of models made of components and of tables of probabilities."""

from typing import cast

import jax
import jax.numpy as jnp

from .._types import Any
from ..models import (
    BayesianNetwork,
    ContextFreeGrammar,
    GaussianMixture,
    HiddenMarkovModel,
    Mixture,
)
from ..priors import StickBreaking
from ._belief import AbstractBelief, belief, Blocks, needed, no_predictive
from ._dirichlet import DirichletBelief, FLAT
from ._stick_breaking import StickBreakingBelief


class MixtureBelief(Blocks):
    """A Dirichlet or stick-breaking belief over the weights, and the component's belief."""

    def __init__(self, model: Mixture):
        self.model = model
        name = "weights_prior" if isinstance(model, GaussianMixture) else "prior"
        prior = needed(model.prior, model, name, FLAT)
        sticks = isinstance(prior, StickBreaking)
        if sticks and model.num_components == 1:
            raise ValueError(
                "Bayesian: StickBreaking needs at least 2 components, got 1. Use Dirichlet(1.0), which is the "
                "same for a single component."
            )
        weights = StickBreakingBelief(prior) if sticks else DirichletBelief(prior, True)
        Blocks.__init__(self, logits=weights, components=belief(model.component))

    @property
    def weights(self) -> StickBreakingBelief | DirichletBelief:
        return cast(StickBreakingBelief | DirichletBelief, self.blocks["logits"])

    def start(self, params, count):
        shares = count * jax.nn.softmax(params["logits"])
        return {
            "logits": self.weights.start(params["logits"], count),
            "components": self.blocks["components"].start(params["components"], shares),
        }

    def emptied(self, q):
        return self.weights.counts(q["logits"]) < 1

    def predictive(self, q):
        component, params = self.blocks["components"].predictive(q["components"])
        model = Mixture(component, self.model.num_components)
        return model, {"logits": self.weights.point(q["logits"]), "components": params}


class HiddenMarkovBelief(Blocks):
    """Dirichlets over the first state and over each row of the transition matrix, and the component's belief."""

    def __init__(self, model: HiddenMarkovModel):
        if model.transition != "homogeneous":
            raise TypeError(
                "Bayesian: transitions that depend on inputs have no conjugate prior. Use "
                'HiddenMarkovModel(transition="homogeneous").'
            )
        self.model = model
        prior = needed(model.prior, model, "prior", FLAT)
        transition_prior = needed(model.transition_prior, model, "transition_prior", FLAT)
        starts, allowed = model.chain.possible()
        Blocks.__init__(
            self,
            initial=DirichletBelief(prior, starts),
            transition=DirichletBelief(transition_prior, allowed),
            components=belief(model.component),
        )

    def start(self, params, count):
        # How often each state is visited is not known before the first sweep.
        each = count / self.model.num_states
        return {
            "initial": self.blocks["initial"].start(params["initial"], 1.0),
            "transition": self.blocks["transition"].start(params["transition"], each),
            "components": self.blocks["components"].start(params["components"], each),
        }

    def predictive(self, q):
        raise TypeError(no_predictive("the transitions of a HiddenMarkovModel"))


class GrammarBelief(Blocks):
    """A Dirichlet over the rules of each symbol."""

    def __init__(self, model: ContextFreeGrammar):
        prior = needed(model.prior, model, "prior", FLAT)
        Blocks.__init__(
            self,
            **{
                name: DirichletBelief(prior, possible, possible.shape)
                for name, possible in model.possible().items()
            },
        )


class NetworkBelief(AbstractBelief):
    """A Dirichlet over each row of each variable's table; an impossible value stays so."""

    def __init__(self, model: BayesianNetwork):
        self.rows = DirichletBelief(needed(model.prior, model, "prior", FLAT))
        self.num_tables = len(model.parents)

    def start(self, params, count):
        return tuple(self.rows.start(table, count / table[..., 0].size) for table in params)

    def shapes(self, shapes):
        return shapes

    def point(self, q):
        return q

    def natural(self, q):
        return tuple(jnp.where(t > -jnp.inf, self.rows.natural(t), -jnp.inf) for t in q)

    def posterior(self, statistics, q, free):
        each: Any = zip(statistics, q, free, strict=True)
        return tuple(self.rows.posterior(*one) for one in each)

    def divergence(self, q):
        return {str(i): self.rows.divergence(table)[""] for i, table in enumerate(q)}

    def sample(self, q, key):
        keys = jax.random.split(key, self.num_tables)
        return tuple(self.rows.sample(table, key) for table, key in zip(q, keys, strict=True))


belief.register(Mixture, MixtureBelief)
belief.register(HiddenMarkovModel, HiddenMarkovBelief)
belief.register(ContextFreeGrammar, GrammarBelief)
belief.register(BayesianNetwork, NetworkBelief)
