"""Priors on params, as densities in the coordinates of `describe`: one per file."""

from ._beta import Beta as Beta
from ._dirichlet import Dirichlet as Dirichlet
from ._gamma import Gamma as Gamma
from ._known import Known as Known
from ._normal import Normal as Normal
from ._normal_inverse_gamma import NormalInverseGamma as NormalInverseGamma
from ._normal_inverse_wishart import NormalInverseWishart as NormalInverseWishart
from ._stick_breaking import StickBreaking as StickBreaking
