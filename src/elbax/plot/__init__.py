"""Figures, which need matplotlib (`elbax[plot]`)."""

from ._ellipses import plot_ellipses as plot_ellipses
