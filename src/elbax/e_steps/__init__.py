"""E-steps: updates that move the posterior, one per file."""

from ._coordinate_ascent import CoordinateAscentEStep as CoordinateAscentEStep
from ._exact import ExactEStep as ExactEStep
from ._gradient import GradientEStep as GradientEStep
from ._hard import HardEStep as HardEStep
from ._laplace import LaplaceEStep as LaplaceEStep
from ._local_gradient import LocalGradientEStep as LocalGradientEStep
from ._markov_chain_monte_carlo import (
    MarkovChainMonteCarloEStep as MarkovChainMonteCarloEStep,
)
from ._mean_field import MeanFieldEStep as MeanFieldEStep
from ._monte_carlo import MonteCarloEStep as MonteCarloEStep
from ._sleep import SleepEStep as SleepEStep
