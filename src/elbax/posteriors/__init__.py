"""Posteriors: functions from a datum to a distribution over its latent, one kind a file."""

from ._amortized import Amortized as Amortized
from ._exact import Exact as Exact
from ._hard import Hard as Hard
from ._network import Network as Network
