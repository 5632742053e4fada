"""Annealing: from an easier objective to the ELBO."""

import dataclasses
from typing import get_args

import equinox as eqx
import jax
import jax.numpy as jnp

from .._arguments import check_choice, check_schedule
from .._model import AbstractModel, models_of
from .._program import by_value
from .._state import ELBOState, Info
from .._tempered import Target, Tempered
from .._types import Any, Array, Callable, Int, PyTree
from .._update import AbstractUpdate, Promise
from ._wrapper import AbstractRemembering


class Schedule(eqx.Module):
    """The memory of `Anneal`: the inner update's memory, and the number of steps made."""

    update: PyTree
    step: Int[Array, ""]


class Anneal(AbstractRemembering):
    r"""Runs the update on an objective in which one term is weighted by β = `schedule(step)`.

    `target="entropy"` is deterministic annealing (Ueda and Nakano 1998). The objective is $E_q[\log p(x, z)] +
    H(q) / \beta$, which $q \propto p(x, z)^\beta$ maximizes. At small β all components see all data; they separate
    as β grows, and the result depends less on the start. Begin slightly below the β at which they separate: far
    below it they coincide, and their differences are lost to rounding. β above 1 is a colder posterior, with the
    hard one as its limit at ∞.

    `target="divergence"` is the warm-up of variational autoencoders (Bowman and others 2016; a constant β is the
    β-VAE): $E_q[\log p(x \mid z)] - \beta\, \mathrm{KL}(q \| p(z))$, for models that say what
    p(z) is, such as `Model(likelihood=, prior=)`. β may start at 0 with an encoder, and above 0 with an exact
    E-step. A closed-form M-step still maximizes $E_q[\log p(x, z)]$. This is equivalent if p(z) is fixed or its
    params have no prior of their own.

    `target="free_bits"` gives each part of the latent β nats for nothing, so that none is given up early (Kingma
    et al. 2016): $E_q[\log p(x \mid z)] - \sum_j \max(\beta, \mathrm{KL}_j)$, where KL_j is the weighted mean over
    the rows that are seen at a time. This is no longer the ELBO, but below it. Parts are the
    coordinates of a `DiagonalGaussian` whose prior is given by natural parameters, the factors of a `Product`, the
    rows of `Copies`, and the draws of a program where the prior is a program of the same names; otherwise all of z
    is one part. It is for encoders.

    It may wrap any update of models that can be tempered, including a guarded one. Inside, ELBO means the annealed
    objective. `info.elbo` is this objective, including its global term. The objective changes with β, so the
    update does not promise to ascend; at a constant β every step ascends that would at 1. All models in the update
    and in the posterior are tempered during a step; the posterior in the state is the plain one.

    **Arguments:**

    - `update`: any update.
    - `schedule`: a function from the number of steps made to β > 0, such as any optax schedule.
    - `target`: `"entropy"`, `"divergence"` or `"free_bits"`.

    **Raises** `ValueError` for another target; `TypeError` for a schedule that is not a function, and at `init`
    for a model that cannot be tempered.

    ```python
    >>> import elbax, jax, optax
    >>> x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(2)
    >>> params = model.init(jax.random.key(0), x)
    >>> em = elbax.em(model)
    >>> annealed = elbax.wrappers.Anneal(em, optax.linear_schedule(0.5, 1.0, 50))
    >>> state = annealed.init(params, key=jax.random.key(1))
    >>> state, info = jax.lax.scan(lambda s, _: annealed(s, x), state, length=60)
    >>> state = em.init(state.params, state.posterior, key=state.key)  # and on with EM itself

    ```
    """

    update: AbstractUpdate
    schedule: Callable[[Any], Any] = eqx.field(converter=by_value)
    target: Target = eqx.field(static=True, default="entropy")

    def __check_init__(self):
        if not callable(self.schedule):
            raise TypeError(
                f"Anneal: schedule must be a function of the step, got {self.schedule!r}. For a constant use "
                "optax.constant_schedule(value)."
            )
        check_choice("Anneal", get_args(Target), target=self.target)

    def keeps(self, promise: Promise) -> Promise:
        return Promise.NOTHING

    def init_memory(self, params: PyTree, posterior: PyTree) -> Schedule:
        check_schedule("Anneal", self.schedule)
        for model in models_of((self.update, posterior)):
            name = type(model).__name__
            if self.target != "entropy" and not model.knows_prior:
                raise TypeError(
                    f"Anneal(target={self.target!r}): {name} does not define p(z), but KL(q ‖ p(z)) depends on "
                    "it. Use Model(likelihood=..., prior=...), or target='entropy'."
                )
            if self.target == "entropy" and not model.latent.linear:
                raise TypeError(
                    f"Anneal(target='entropy'): the natural parameters of {type(model.latent).__name__}, the "
                    f"latent of {name}, do not scale when its density is raised to a power, so Bayes' rule "
                    "cannot be annealed. With an encoder use target='divergence'."
                )
        inner = self._tempered(jnp.ones(()), (self.update, posterior))
        return Schedule(_restored(inner[0].init_memory(params, inner[1])), jnp.zeros((), int))

    def unmade(self, before: Schedule, after: Schedule) -> Schedule:
        unmade = AbstractRemembering.unmade(self, before, after)
        return dataclasses.replace(unmade, step=after.step)

    def __call__(self, state: ELBOState, batch: PyTree) -> tuple[ELBOState, Info]:
        step = state.memory.step
        with jax.numpy_dtype_promotion("standard"):
            beta = jnp.asarray(self.schedule(step), float)

        update, inner = self._tempered(beta, (self.update, self.inside(state)))
        moved, info = update(inner, batch)
        moved = _restored(moved)
        return moved.replace(memory=Schedule(moved.memory, step + 1)), info

    def _tempered(self, beta: Array, tree: PyTree) -> PyTree:
        def temper(node):
            return Tempered(node, beta, self.target) if isinstance(node, AbstractModel) else node

        return _over_models(temper, tree)


def _restored(tree: PyTree) -> PyTree:
    return _over_models(lambda node: node.model if isinstance(node, Tempered) else node, tree)


def _over_models(function: Callable[[Any], Any], tree: PyTree) -> PyTree:
    return jax.tree.map(function, tree, is_leaf=lambda node: isinstance(node, AbstractModel))
