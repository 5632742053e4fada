"""M-steps: updates that move the params, one a file."""

from ._closed_form import ClosedFormMStep as ClosedFormMStep
from ._gradient import GradientMStep as GradientMStep
