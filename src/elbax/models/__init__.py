"""Models, one per file: log-joint, structure, start."""

from ._bayesian_network import BayesianNetwork as BayesianNetwork
from ._binary_regression import (
    LogisticRegression as LogisticRegression,
    ProbitRegression as ProbitRegression,
)
from ._connectionist_temporal_classification import (
    ConnectionistTemporalClassification as ConnectionistTemporalClassification,
)
from ._context_free_grammar import ContextFreeGrammar as ContextFreeGrammar
from ._factor_analysis import (
    FactorAnalysis as FactorAnalysis,
    ProbabilisticPCA as ProbabilisticPCA,
)
from ._factorial_hidden_markov import (
    FactorialHiddenMarkovModel as FactorialHiddenMarkovModel,
)
from ._gaussian_mixture import GaussianMixture as GaussianMixture
from ._hidden_markov import HiddenMarkovModel as HiddenMarkovModel
from ._latent_dirichlet_allocation import (
    LatentDirichletAllocation as LatentDirichletAllocation,
)
from ._linear_gaussian_state_space import LinearGaussianStateSpace as LinearGaussianStateSpace
from ._mixture import Mixture as Mixture
from ._mixture_of_experts import MixtureOfExperts as MixtureOfExperts
from ._plain import Model as Model
from ._switching_state_space import SwitchingStateSpace as SwitchingStateSpace
from ._tied import Tied as Tied
