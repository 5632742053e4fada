"""What is known of a part of a model that is not to be learned."""

import equinox as eqx


class Known(eqx.Module):
    """A part that is known for sure: it stays as it is in the params. For `Bayesian`, beside priors on others.

    ```python
    >>> import elbax
    >>> model = elbax.LinearGaussianStateSpace(
    ...     1, transition_noise="diagonal", initial_prior=elbax.priors.Known(),
    ...     transition_prior=elbax.priors.Gamma(1.0, 1.0), emission_prior=elbax.priors.Gamma(1.0, 1.0))

    ```
    """
