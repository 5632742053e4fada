"""Posteriors: functions from a datum to a distribution over its latent, one kind per file."""

from .._network import Network as Network
from ._amortized import Amortized as Amortized
from ._chains import PersistentChains as PersistentChains
from ._coordinate_ascent import CoordinateAscent as CoordinateAscent
from ._exact import Exact as Exact
from ._hard import Hard as Hard
from ._laplace import Laplace as Laplace
from ._local import Local as Local
from ._mean_field import MeanField as MeanField
from ._monte_carlo import Importance as Importance, MonteCarlo as MonteCarlo
from ._posterior import AbstractPosterior as AbstractPosterior
from ._reassigned import Reassigned as Reassigned
from ._recognition import Recognition as Recognition
from ._semi_amortized import SemiAmortized as SemiAmortized
