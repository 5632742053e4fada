"""The Newton M-step."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from .._arguments import check_count
from .._math.linear_algebra import eigh
from .._model import AbstractModel
from .._types import Callable, PyTree, Scalar
from ._search import AbstractSearchStep


class NewtonMStep(AbstractSearchStep):
    r"""Makes a damped Newton step $\theta \leftarrow \theta + t\, |H|^{-1} g$ in the free params.

    g and H are the gradient and the Hessian of $\mathrm{ELBO}(q, \theta) + \log p(\theta)$. For a softmax gate and
    for logistic and Poisson regressions this is iteratively reweighted least squares. The eigenvalues of H are
    taken by absolute value, so that the step ascends where the ELBO is not concave; flat directions do not move.
    The step t is halved until the ELBO does not fall, so the step promises to ascend.

    **Arguments:**

    - `model`: any model. The Hessian has one row per free number, so use `GradientMStep` for large networks.
    - `chunk_size`: about how many rows to process at a time.
    - `free`: which params move, `True` or `False` for each block, or a mask for each entry.
    - `num_halvings`: the largest number of halvings of t; after that θ is unchanged.

    ```python
    >>> import elbax
    >>> model = elbax.Mixture(elbax.components.GeneralizedLinear("bernoulli"), 2)
    >>> em = elbax.Chain(elbax.ExactEStep(model), elbax.NewtonMStep(model))
    >>> em.ascends
    True

    ```
    """

    model: AbstractModel
    chunk_size: int | None = eqx.field(static=True, default=None)
    free: PyTree = True
    num_halvings: int = eqx.field(static=True, default=20)

    def __check_init__(self):
        check_count("NewtonMStep", least=0, num_halvings=self.num_halvings)

    def search(self, objective: Callable[[PyTree], Scalar], start: PyTree) -> tuple[PyTree, Scalar]:
        return newton_step(objective, start, self.num_halvings)


def newton_step(
    objective: Callable[[PyTree], Scalar], start: PyTree, num_halvings: int
) -> tuple[PyTree, Scalar]:
    """Returns (the end of one damped step that ascends the objective, the objective at the start)."""
    start, unflatten = ravel_pytree(start)
    ascent = lambda vector: objective(unflatten(vector))

    def slope(vector):
        value, gradient = jax.value_and_grad(ascent)(vector)
        return gradient, (value, gradient)

    hessian, (value, gradient) = jax.jacfwd(slope, has_aux=True)(start)
    # Params of any units are scaled alike first, so that flatness does not depend on units.
    diagonal = jnp.abs(jnp.diagonal(hessian))
    unit = jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1))
    values, vectors = eigh(hessian / jnp.outer(unit, unit))
    size = jnp.abs(values)
    curved = size > 10 * start.size * jnp.finfo(start.dtype).eps * jnp.max(size)
    along = jnp.matmul(gradient / unit, vectors, precision="highest")
    step = jnp.where(curved, along / jnp.where(curved, size, 1), 0)
    direction = jnp.matmul(vectors, step, precision="highest") / unit

    # At the maximum all differences are rounding, which must not halve a correct step.
    enough = value - 8 * jnp.finfo(start.dtype).eps * (1 + jnp.abs(value))

    def falls(carry):
        _, reached, tries = carry
        return ~(reached >= enough) & (tries < num_halvings)

    def halve(carry):
        t, _, tries = carry
        return 0.5 * t, ascent(start + 0.5 * t * direction), tries + 1

    whole = jnp.ones((), start.dtype)
    first = whole, ascent(start + direction), jnp.zeros((), int)
    t, reached, _ = jax.lax.while_loop(falls, halve, first)
    moved = jnp.where(reached >= enough, start + t * direction, start)
    # If the Hessian is not finite no step is made; NaN keeps this from passing for convergence.
    return unflatten(moved), jnp.where(jnp.all(jnp.isfinite(hessian)), value, jnp.nan)
