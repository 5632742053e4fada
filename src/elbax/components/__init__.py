"""Components of mixtures, one exponential family a file."""

from ._component import AbstractComponent as AbstractComponent
from ._normal import Normal as Normal
