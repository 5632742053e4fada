"""M-steps: updates that move the params, one per file."""

from ._closed_form import ClosedFormMStep as ClosedFormMStep
from ._evidence import EvidenceMStep as EvidenceMStep
from ._gradient import GradientMStep as GradientMStep
from ._incremental import IncrementalMStep as IncrementalMStep
from ._merge import MergeStep as MergeStep
from ._newton import NewtonMStep as NewtonMStep
from ._numerical import NumericalMStep as NumericalMStep
from ._online import OnlineMStep as OnlineMStep
from ._reseed import ReseedStep as ReseedStep
