"""Posteriors with all mass on the most probable value."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._arguments import check_function
from .._math.algebra import is_label
from .._program import program
from .._types import Any, Callable, Key, PyTree, Scalar
from ..families import AbstractFamily, Distribution
from ..families._rowwise import rowwise
from ..families._structured import possible_dot
from ._posterior import AbstractPosterior, looks_first


class Hard(AbstractPosterior):
    """Puts all mass of q on one value: the mode of another posterior, usually `Exact(model, params)`.

    Its entropy is 0, so its ELBO at an exact posterior is max over z of log p(x, z). The latent must be discrete:
    a point mass on a continuous one has no finite entropy.

    **Arguments:**

    - `posterior`: a posterior over a discrete latent.

    **Raises** `TypeError`, when called, for a continuous latent.

    ```python
    >>> import elbax, jax.numpy as jnp
    >>> q = elbax.posteriors.Hard(lambda x, key=None: elbax.Categorical(2)(x))
    >>> print(q(jnp.array([0.0, 1.0])).mean())
    [0. 1.]

    ```
    """

    posterior: Callable[..., Distribution]

    def __check_init__(self):
        check_function("Hard", "elbax.Exact(model, params)", posterior=self.posterior)

    @looks_first
    @program
    def __call__(self, x: PyTree, *, key: Key | None = None) -> "Point":
        q = self.posterior(x, key=key)
        if not q.family.discrete:
            raise TypeError(
                f"Hard: a point mass on a continuous {type(q.family).__name__} latent has no entropy, so there "
                "is no ELBO. Use ExactEStep. For a mode use GradientMStep on the log-joint."
            )
        return Point(q.natural, q.family)


class Point(eqx.Module):
    """All mass on the mode of the `family`'s member with these `natural` parameters.

    With leading axes its methods return one value per row, like those of a `Distribution`.
    """

    natural: PyTree
    family: AbstractFamily

    @property
    def batch_ndim(self) -> int:
        return self.family.batch_ndim(self.natural)

    @program
    @rowwise("q")
    def mean(self) -> PyTree:
        found = self.family.mode_statistics(self.natural)
        return jax.tree.map(
            lambda t, eta: t if is_label(eta) else t.astype(eta.dtype), found, self.natural
        )

    @rowwise("q", "potentials")
    def bound(self, potentials: PyTree) -> Scalar:
        return possible_dot(self.mean(), potentials)

    @rowwise("q")
    def entropy(self) -> Scalar:
        return jnp.zeros(())

    @rowwise("q", "function", "key")
    def expect(self, function: Callable[[Any], Any], key: Key | None = None) -> Any:
        return function(self.mode())

    def sample(self, key: Key) -> PyTree:
        return self.mode()

    @program
    def mode(self) -> PyTree:
        return self.family.mode(self.natural)
