"""Distributions as ancestral programs: encoders, priors, joint densities and dreams."""

from ._ancestral import (
    Ancestral as Ancestral,
    dream as dream,
    encoder as encoder,
    log_joint as log_joint,
    prior as prior,
)
from ._draw import AbstractDraw as AbstractDraw
from ._normal import Normal as Normal
