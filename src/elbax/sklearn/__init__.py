"""scikit-learn estimators fitted by elbax; needs scikit-learn, `elbax[sklearn]`."""

from ._bernoulli_mixture import BernoulliMixture as BernoulliMixture
from ._categorical_mixture import CategoricalMixture as CategoricalMixture
from ._estimator import AbstractEstimator as AbstractEstimator
from ._factor_analysis import FactorAnalysis as FactorAnalysis
from ._gaussian_mixture import GaussianMixture as GaussianMixture
from ._latent_dirichlet_allocation import LatentDirichletAllocation as LatentDirichletAllocation
from ._mixture import AbstractMixture as AbstractMixture
from ._poisson_mixture import PoissonMixture as PoissonMixture
from ._probabilistic_pca import ProbabilisticPCA as ProbabilisticPCA
from ._student_t_mixture import StudentTMixture as StudentTMixture
