r"""Estimators of a datum's bound $E_q[\log p(x, z) - \log q(z)]$ and of its gradient, one per file.

| estimator | latent | value | gradient |
|---|---|---|---|
| `Enumeration` | finite, in part | exact there | exact there |
| `LocalExpectation` | finite, in part | unbiased | unbiased, the noise of the other parts |
| `Quadrature` | Gaussian of few dimensions | exact to rounding for smooth log-joints | of the same |
| `Reparameterized` | continuous | unbiased | unbiased |
| `StickingTheLanding` | continuous | unbiased | unbiased, without noise at q = p(z given x) |
| `ScoreFunction` | any | unbiased | unbiased, leave-one-out baseline |
| `GumbelSoftmax` | categorical | biased | biased, small variance |
| `ImportanceWeighted` | continuous | the tighter bound of S draws | unbiased for it |
| `DoublyReparameterized` | continuous | the same | unbiased for it, signal grows with S |
| `ImportanceWeightedScore` | any | the same | unbiased for it, leave-one-out baselines (VIMCO) |
| `ReweightedWakeSleep` | any | the same | unbiased for it in θ, of KL(p ‖ q) in q |

Pass one as `Model(log_joint, latent, estimator=...)`.
"""

from ._enumeration import Enumeration as Enumeration, LocalExpectation as LocalExpectation
from ._estimator import AbstractEstimator as AbstractEstimator
from ._gumbel_softmax import GumbelSoftmax as GumbelSoftmax
from ._importance_weighted import (
    DoublyReparameterized as DoublyReparameterized,
    ImportanceWeighted as ImportanceWeighted,
    ImportanceWeightedScore as ImportanceWeightedScore,
)
from ._quadrature import Quadrature as Quadrature
from ._reparameterized import (
    Reparameterized as Reparameterized,
    StickingTheLanding as StickingTheLanding,
)
from ._reweighted import ReweightedWakeSleep as ReweightedWakeSleep
from ._score_function import ScoreFunction as ScoreFunction
