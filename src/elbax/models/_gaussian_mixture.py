"""The Gaussian mixture."""

from ..components import Normal
from ..components._normal import Covariance, Form
from ..priors import Dirichlet, NormalInverseWishart, StickBreaking
from ._mixture import Mixture


class GaussianMixture(Mixture):
    r"""A Gaussian mixture $p(x) = \sum_k \pi_k\, N(x; \mu_k, \Sigma_k)$.

    It is `Mixture(Normal(covariance), num_components)`.

    **Arguments:**

    - `num_components`: K.
    - `covariance`: `"full"`, `"diagonal"` or `"spherical"`, or one for all components: `"tied"` (full),
        `"tied_diagonal"` or `"tied_spherical"`. See `elbax.components.Normal`.
    - `floor`: pseudo-scatter that keeps covariances from collapsing, relative to the variances of the data's
        columns; 0 turns it off. See `elbax.components.Normal`.
    - `prior`: a `NormalInverseWishart` prior on every mean and covariance.
    - `weights_prior`: a `Dirichlet` prior on the weights; or, for a `Bayesian`, `StickBreaking`.
    - `form`: how quadratic forms are computed; `"auto"` decides in each pass by a bound on cancellation.

    ```python
    >>> import elbax, jax
    >>> x = elbax.datasets.old_faithful()
    >>> model = elbax.GaussianMixture(2)
    >>> params = model.init(jax.random.key(0), x)
    >>> em = elbax.em(model)
    >>> state = em.init(params, key=jax.random.key(1))
    >>> result = elbax.fit(em, state, x)
    >>> print(result.code, round(float(result.elbo) * len(x), 1))
    converged -1130.3

    ```
    """

    def __init__(
        self,
        num_components: int,
        covariance: Covariance = "full",
        *,
        floor: float = 1e-6,
        prior: NormalInverseWishart | None = None,
        weights_prior: Dirichlet | StickBreaking | None = None,
        form: Form = "auto",
    ):
        normal = Normal(covariance, floor=floor, prior=prior, form=form)
        Mixture.__init__(self, normal, num_components, prior=weights_prior)
