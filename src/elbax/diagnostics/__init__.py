"""Diagnostics of a fit: standard errors, information criteria, convergence rates."""

from ._criteria import (
    Criteria as Criteria,
    criteria as criteria,
)
from ._information import (
    convergence_rate as convergence_rate,
    Information as Information,
    information as information,
    standard_errors as standard_errors,
)
from ._selection import (
    select as select,
    Selection as Selection,
)
