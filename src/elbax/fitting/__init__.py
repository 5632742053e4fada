"""Fitting loops: until convergence, from many starts, or over a stream of batches."""

from ._converge import converge as converge, Convergence as Convergence
from ._fit import fit as fit
from ._restarts import fit_restarts as fit_restarts, Restarts as Restarts
from ._result import Result as Result
