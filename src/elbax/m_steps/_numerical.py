"""The M-step by an optimizer with a line search."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from .._arguments import check_count, check_not_negative, check_optimizer
from .._model import AbstractModel
from .._program import by_value
from .._types import Callable, PyTree, Scalar
from ._search import AbstractSearchStep


class NumericalMStep(AbstractSearchStep):
    r"""Maximizes $\mathrm{ELBO}(q, \theta) + \log p(\theta)$ over θ by L-BFGS, in up to `max_steps` steps.

    The length of each step is set by a line search, and a step that falls is dropped, so it promises to ascend.
    With `max_steps=1` it is generalized EM proper (Dempster, Laird and Rubin 1977): one step that ascends, which
    plain gradient descent does not guarantee. The optimizer is reset at every call, because q has changed the
    objective.

    **Arguments:**

    - `model`: any model.
    - `max_steps`: the largest number of optimizer steps per call.
    - `tolerance`: it ends when no entry of the gradient, in nats per datum, exceeds this.
    - `optimizer`: an optax optimizer that takes `value`, `grad` and `value_fn`, such as `optax.lbfgs()`, the
        default, or `optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(20))`, gradient ascent.
    - `chunk_size`: about how many rows to process at a time.
    - `free`: which params move, `True` or `False` for each block, or a mask for each entry.

    ```python
    >>> import elbax
    >>> model = elbax.Mixture(elbax.components.GeneralizedLinear("poisson"), 2)
    >>> em = elbax.Chain(elbax.ExactEStep(model), elbax.NumericalMStep(model))
    >>> em.ascends
    True

    ```
    """

    model: AbstractModel
    max_steps: int = eqx.field(static=True, default=100)
    tolerance: float = eqx.field(static=True, default=1e-8)
    optimizer: optax.GradientTransformationExtraArgs | None = eqx.field(
        default=None, converter=by_value
    )
    chunk_size: int | None = eqx.field(static=True, default=None)
    free: PyTree = True

    def __check_init__(self):
        check_count("NumericalMStep", max_steps=self.max_steps)
        check_not_negative("NumericalMStep", tolerance=self.tolerance)
        if self.optimizer is not None:
            check_optimizer("NumericalMStep", self.optimizer)

    def search(self, objective: Callable[[PyTree], Scalar], start: PyTree) -> tuple[PyTree, Scalar]:
        optimizer = optax.lbfgs() if self.optimizer is None else self.optimizer
        descent = lambda trained: -objective(trained)
        value_and_slope = jax.value_and_grad(descent)

        def step(carry):
            trained, memory, (value, slope), best, count = carry
            with jax.numpy_dtype_promotion("standard"):
                moves, memory = optimizer.update(
                    slope, memory, trained, value=value, grad=slope, value_fn=descent
                )
                trained = optax.apply_updates(trained, moves)
            found = value_and_slope(trained)
            best = _lower(best, (trained, found[0]))
            return trained, memory, found, best, count + 1

        def goes_on(carry):
            _, _, (value, slope), _, count = carry
            steepest = functools.reduce(
                jnp.maximum, (jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(slope)), 0.0
            )
            going = (steepest > self.tolerance) & jnp.isfinite(value)
            return going & (count < self.max_steps)

        first = value_and_slope(start)
        with jax.numpy_dtype_promotion("standard"):
            memory = jax.tree.map(jnp.asarray, optimizer.init(start))
        carry = start, memory, first, (start, first[0]), jnp.zeros((), int)
        _, _, _, (best, _), _ = jax.lax.while_loop(goes_on, step, carry)
        return _forward_only(best), -first[0]


def _lower(best, other):
    """Returns the point of the lower value; NaN is not lower."""
    better = other[1] < best[1]
    return jax.tree.map(lambda new, old: jnp.where(better, new, old), other, best)


def _forward_only(point: PyTree) -> PyTree:
    """Returns the point, differentiable in forward mode only, as a loop of unknown length is."""
    return jax.tree.map(_forward.bind, point)


def _refuse(cotangent, primal):
    raise TypeError(
        "NumericalMStep: reverse-mode differentiation (jax.grad, jax.jacrev) is not supported, because the "
        "number of steps of the search depends on the data. Use forward mode: jax.jvp, jax.jacfwd."
    )


# The identity with an error as its transpose: JAX's own message about the loop would not name the step.
_forward = Primitive("forward_only")
_forward.def_impl(lambda point: point)
_forward.def_abstract_eval(lambda point: point)
ad.deflinear2(_forward, _refuse)
batching.defvectorized(_forward)
mlir.register_lowering(_forward, lambda context, point: [point])
