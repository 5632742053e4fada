"""E-steps: updates that move the posterior, one a file."""

from ._exact import ExactEStep as ExactEStep
from ._gradient import GradientEStep as GradientEStep
from ._hard import HardEStep as HardEStep
