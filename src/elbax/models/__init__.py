"""Models, one a file: log-joint, structure, start."""

from ._gaussian_mixture import GaussianMixture as GaussianMixture
from ._mixture import Mixture as Mixture
