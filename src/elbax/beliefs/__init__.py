"""Beliefs over params: q(θ) of the kind of each prior, one kind a file, and the model that they make."""

from . import (  # noqa: F401  They register beliefs.
    _analyzer,
    _binary_regression,
    _components,
    _models,
    _regression,
    _state_space,
)
from ._bayesian import Bayesian as Bayesian
from ._belief import AbstractBelief as AbstractBelief, belief as belief, Blocks as Blocks
from ._beta import BetaBelief as BetaBelief
from ._conjugate import ConjugateBelief as ConjugateBelief
from ._dirichlet import DirichletBelief as DirichletBelief
from ._drawn import Drawn as Drawn
from ._gamma import GammaBelief as GammaBelief
from ._gaussian import GaussianBelief as GaussianBelief
from ._normal_wishart import NormalWishartBelief as NormalWishartBelief
from ._topics import TopicBelief as TopicBelief
