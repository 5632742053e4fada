"""Recognition networks: potentials of an encoder, added to those of the model."""

from .._arguments import kind_of
from .._network import Network
from .._program import program
from .._types import Any, Callable, Key, PyTree
from ..families import Distribution
from ._exact import check_target, Exact
from ._posterior import AbstractPosterior, looks_first


class Recognition(AbstractPosterior):
    r"""Adds a network's natural parameters to those of the model (Johnson et al. 2016).

    $q(z) \propto \exp \langle \lambda_\theta(x) + r_\phi(x), t(z) \rangle$, in the structure of the latent family.
    λ is the natural parameter of p(z | x; θ) if the model knows its conditional, else that of p(z; θ). So q
    depends on θ. `JointGradientStep(model, optimizer, through=True)` differentiates the ELBO through that
    dependence; other steps use a snapshot of θ, which they keep up to date.

    **Arguments:**

    - `network`: an Equinox module, or `Network(apply, weights)`, from a datum to what `family.tilted` takes: what
        an encoder returns. Of a `MarkovChain` these are logits (T, K), of a `GaussianChain` what each step says of
        its state (T, 2 d).
    - `target`: `Exact(model, params)`: the model at a snapshot of θ.

    **Raises** `TypeError` for a model that knows neither p(z | x) nor p(z); when called, for a prior of another
    family than the latent.

    ```python
    >>> import elbax, equinox as eqx, jax, jax.numpy as jnp
    >>> model = elbax.GaussianMixture(2)
    >>> params = model.init(jax.random.key(0), jnp.array([[0.0], [1.0], [5.0], [6.0]]))
    >>> off = elbax.Network(lambda weights, x: weights, jnp.zeros(2))
    >>> q = elbax.posteriors.Recognition(off, elbax.Exact(model, params))
    >>> x = jnp.array([0.5])
    >>> bool(jnp.allclose(q(x).mean(), elbax.Exact(model, params)(x).mean()))
    True

    ```
    """

    network: Network
    target: Exact

    def __init__(self, network: Callable[..., Any], target: Exact):
        self.network = network if isinstance(network, Network) else Network(network)
        self.target = target

    def __check_init__(self):
        check_target("Recognition", self.target)
        model = self.target.model
        if not (model.exact or model.knows_prior):
            raise TypeError(
                f"Recognition: this {type(model).__name__} knows neither p(z | x) nor p(z), to which Recognition "
                "adds potentials. Use Model(likelihood=..., prior=...), or elbax.Amortized(network, "
                "model.latent)."
            )

    @looks_first
    @program
    def __call__(self, x: PyTree, *, key: Key | None = None) -> Distribution:
        model, natural = self.target.model, self.target.prepared
        own = model.conditional(natural, x) if model.exact else model.prior_at(natural, x)
        if not isinstance(own, Distribution) or own.family != model.latent:
            raise TypeError(
                f"Recognition: the model's p(z) is {kind_of(own)}; expected natural parameters of the "
                f"latent {type(model.latent).__name__}. Return natural parameters from prior."
            )
        return model.latent(model.latent.tilted(own.natural, self.network(x, key=key)))
