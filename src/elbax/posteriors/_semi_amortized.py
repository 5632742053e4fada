"""Semi-amortized posteriors: an encoder's output, refined for each datum."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from .._arguments import check_count, check_optimizer
from .._program import by_value, program
from .._types import Any, Key, PyTree
from ..families import AbstractFamily, Distribution
from ._amortized import Amortized
from ._exact import check_target, Exact
from ._posterior import AbstractPosterior, looks_first


class SemiAmortized(AbstractPosterior):
    r"""Refines an encoder's output by gradient steps on the ELBO of each datum.

    `GradientEStep` trains the encoder through these steps (Kim et al. 2018), so that it learns a good start for
    them. With an encoder of constant output, `Amortized(Network(lambda w, x: w, start), family)`, it is local
    variational inference from one start for all data.

    **Arguments:**

    - `encoder`: `Amortized(network, family)`.
    - `target`: `Exact(model, params)`: the model at a snapshot of θ, which E-steps keep up to date. Its
        conditional need not be known.
    - `optimizer`: any optax optimizer; its state is initialized for each datum.
    - `num_steps`: the number of steps per datum.

    **Raises** `TypeError` for an encoder that is not `Amortized` or whose family is a function.

    ```python
    >>> import elbax, equinox as eqx, jax, jax.numpy as jnp, optax
    >>> model = elbax.GaussianMixture(2)
    >>> params = model.init(jax.random.key(0), jnp.array([[0.0], [1.0], [5.0], [6.0]]))
    >>> encoder = elbax.Amortized(eqx.nn.MLP(1, 2, 8, 1, key=jax.random.key(1)), model.latent)
    >>> q = elbax.posteriors.SemiAmortized(encoder, elbax.Exact(model, params), optax.sgd(1.0), 50)
    >>> x = jnp.array([0.5])
    >>> bool(jnp.allclose(q(x).mean(), elbax.Exact(model, params)(x).mean(), atol=1e-3))
    True

    ```
    """

    encoder: Amortized
    target: Exact
    optimizer: optax.GradientTransformation = eqx.field(static=True, converter=by_value)
    num_steps: int = eqx.field(static=True)

    def __check_init__(self):
        if not isinstance(self.encoder, Amortized):
            raise TypeError(
                "SemiAmortized: encoder must be an elbax.Amortized(network, family), got "
                f"{type(self.encoder).__name__}."
            )
        if not isinstance(self.encoder.family, AbstractFamily):
            raise TypeError(
                "SemiAmortized: the family of the encoder must be a family such as model.latent, not a function."
            )
        check_target("SemiAmortized", self.target)
        check_optimizer("SemiAmortized", self.optimizer)
        check_count("SemiAmortized", num_steps=self.num_steps)

    @looks_first
    @program
    def __call__(self, x: PyTree, *, key: Key | None = None) -> Distribution:
        family: Any = self.encoder.family
        start = self.encoder.output(x, key)
        key = jax.random.key(0) if key is None else key
        model, natural = self.target.model, self.target.prepared

        def bound(output, key):
            return model.elbo(natural, x, family.distribution(output), key)

        return family.distribution(climb(bound, start, self.optimizer, self.num_steps, key))


def climb(bound, start: PyTree, optimizer, num_steps: int, key: Key) -> PyTree:
    """Returns `start` after `num_steps` steps of a fresh optimizer up `bound(_, key)`; labels are unchanged."""
    coordinates, labels = eqx.partition(start, eqx.is_inexact_array)

    def step(carry, key):
        coordinates, memory = carry
        descent = jax.grad(lambda c: -bound(eqx.combine(c, labels), key))(coordinates)
        with jax.numpy_dtype_promotion("standard"):
            steps, memory = optimizer.update(descent, memory, coordinates)
            return (optax.apply_updates(coordinates, steps), memory), None

    keys = jax.random.split(key, num_steps)
    begin = jax.tree.map(jnp.asarray, (coordinates, optimizer.init(coordinates)))
    (coordinates, _), _ = jax.lax.scan(step, begin, keys)
    return eqx.combine(coordinates, labels)
