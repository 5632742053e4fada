"""Pictures of data, fits and latents; needs matplotlib, `elbax[plot]`. Each function returns its axes."""

try:
    import matplotlib  # noqa: F401
except ImportError as error:
    raise ImportError(
        'elbax.plot needs matplotlib, which is not installed. Run pip install "elbax[plot]".'
    ) from error

from ._biplot import biplot as biplot
from ._bound import bound as bound
from ._classification import classification as classification
from ._decodings import decodings as decodings
from ._density import density as density
from ._ellipses import ellipses as ellipses
from ._estimates import estimates as estimates
from ._hidden_markov import hidden_markov as hidden_markov
from ._images import images as images
from ._latent import latent as latent
from ._loadings import loadings as loadings
from ._predictive import predictive as predictive
from ._selection import selection as selection
from ._staircase import staircase as staircase
from ._state_space import state_space as state_space
from ._style import STYLE as STYLE, style as style
from ._topics import topics as topics
from ._trace import trace as trace
from ._traversals import traversals as traversals
from ._tree import tree as tree
