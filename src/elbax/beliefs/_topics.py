"""Beliefs over topics."""

import copy

from ..models import LatentDirichletAllocation
from ..models._latent_dirichlet_allocation import (
    maximize_log_concentration,
    natural_of_concentration,
)
from ._belief import AbstractBelief, belief, needed
from ._dirichlet import DirichletBelief


class TopicBelief(AbstractBelief):
    """A Dirichlet over each topic's words; the concentrations of topics in documents are estimated as a point."""

    def __init__(self, model: LatentDirichletAllocation):
        prior = needed(model.prior, model, "prior", "elbax.priors.Dirichlet(0.1)")
        self.topics = DirichletBelief(prior, True)

    @property
    def learnable(self):
        return {"topics": (("topics",), self.topics)}

    def with_priors(self, priors):
        found = copy.copy(self)
        found.topics = DirichletBelief(priors.get("topics", self.topics.prior), True)
        return found

    def start(self, params, count):
        # A topic is worth about one occurrence of each word: which words are whose is not known before the first
        # sweep, and topics worth all data would move slowly.
        num_words = params["topics"].shape[-1]
        return params | {"topics": self.topics.start(params["topics"], float(num_words))}

    def shapes(self, shapes):
        return shapes

    def point(self, q):
        return q

    def natural(self, q):
        topics = self.topics.natural(q["topics"])
        return {"topics": topics, **natural_of_concentration(q["log_concentration"])}

    def posterior(self, statistics, q, free):
        return {
            "topics": self.topics.posterior(statistics["topics"], q["topics"], free["topics"]),
            "log_concentration": maximize_log_concentration(
                statistics, q["log_concentration"], free["log_concentration"]
            ),
        }

    def divergence(self, q):
        return {"topics": self.topics.divergence(q["topics"])[""]}

    def sample(self, q, key):
        return q | {"topics": self.topics.sample(q["topics"], key)}


belief.register(LatentDirichletAllocation, TopicBelief)
