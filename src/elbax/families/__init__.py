"""Families of latents: one a file."""

from ._categorical import Categorical as Categorical
from ._diagonal_gaussian import DiagonalGaussian as DiagonalGaussian
from ._family import AbstractFamily as AbstractFamily, Distribution as Distribution
from ._gaussian import Gaussian as Gaussian
