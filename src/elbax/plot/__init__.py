"""Pictures of data, fits and latents; needs matplotlib, `elbax[plot]`. Each function returns its axes."""

try:
    import matplotlib  # noqa: F401
except ImportError as error:
    raise ImportError(
        'elbax.plot needs matplotlib, which is not installed. Run pip install "elbax[plot]".'
    ) from error

from ._bound import bound as bound
from ._classification import classification as classification
from ._density import density as density
from ._ellipses import ellipses as ellipses
from ._selection import selection as selection
from ._staircase import staircase as staircase
from ._style import STYLE as STYLE, style as style
from ._trace import trace as trace
