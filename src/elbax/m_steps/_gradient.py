"""The gradient M-step."""

from typing import ClassVar

from .._gradient import AbstractGradientStep


class GradientMStep(AbstractGradientStep):
    r"""Makes one optimizer step along $\nabla_\theta \{\mathrm{ELBO}(q, \theta) + \log p(\theta)\}$.

    After an exact E-step this is "expected gradient": at q = p(z|x) the ELBO has the value and the gradient of the
    evidence (Fisher's identity), so the step ascends the evidence itself. Inexact arrays of `params` are trained;
    all other leaves are frozen.

    **Arguments:**

    - `model`: the model.
    - `optimizer`: any optax optimizer.
    - `chunk_size`: about how many rows to process at a time.
    - `free`: which params move, `True` or `False` for each block, or a mask for each entry.

    ```python
    >>> import elbax, optax
    >>> model = elbax.GaussianMixture(2)
    >>> generalized_em = elbax.Chain(
    ...     elbax.ExactEStep(model), elbax.GradientMStep(model, optax.adam(1e-2))
    ... )

    ```
    """

    blocks: ClassVar[tuple[str, ...]] = ("params",)
