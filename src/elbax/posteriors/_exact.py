"""The exact posterior, by Bayes' rule."""

from typing import ClassVar

import equinox as eqx

from .._arguments import told
from .._door import check_datum, check_model
from .._model import AbstractModel
from .._program import program
from .._types import Any, Key, PyTree, Scalar
from ..data._table import as_arrays
from ..families import Distribution
from ._posterior import AbstractPosterior, ModelAt, same_arrays


class Exact(AbstractPosterior):
    r"""Computes the exact posterior $q(z) = p_\theta(z \mid x)$ at a snapshot of θ.

    It stores θ and nothing per datum: a pass over data evaluates it chunk by chunk. Gradient steps do not train
    it, alone or inside another posterior. It takes one datum; `jax.vmap(posterior)(x)` holds q of every row of a
    table, and its methods return one value per row.

    **Arguments:**

    - `model`: the model. Inside a posterior such as `Laplace`, its conditional p(z | x) need not be known.
    - `params`: θ, the model's parameters.

    **Raises**, when called:

    - `TypeError` if the model does not know its conditional.
    - `ValueError` for params of another model.
    - `ValueError` for more than one datum, if the model knows the shape of one (a plain `Model` does not).
    - `ValueError` outside of `jit` and `vmap` for a datum that is impossible at any params (NaN, a negative
        count).

    ```python
    >>> import elbax, jax
    >>> x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(2)
    >>> q = jax.vmap(elbax.Exact(model, model.init(jax.random.key(0), x)))(x)
    >>> q.mean().shape, q.mode().shape, q.entropy().shape
    ((272, 2), (272,), (272,))

    ```
    """

    model: AbstractModel
    params: PyTree

    def __check_init__(self):
        check_model(self.model, "Exact")

    @property
    def prepared(self) -> PyTree:
        """The part of the model's conditional that depends on θ alone."""
        return self.model.prepare(self.model.natural(self.params))

    def __call__(self, x: PyTree, *, key: Key | None = None) -> Distribution:
        return _conditional(self, self.looked_at(x))

    def bind(self, model: AbstractModel, params: PyTree) -> "Exact":
        return Exact(model, params) if self.model == model else self

    def weights(self) -> None:
        # `None` for the model too: an optimizer's memory has the structure of the weights, and must not depend on
        # the model, which `Anneal` replaces.
        return None

    def prepare(self, at: ModelAt) -> AbstractPosterior:
        if self.model != at.model:
            return self
        current = same_arrays(self.params, at.params)
        natural = at.natural if current else at.natural_at(self.params)
        return Prepared(at.form, self.params, natural, current and at.form.tight)

    def check(self, model: AbstractModel, who: str) -> None:
        """Raises `ValueError` or `TypeError` for params of another model, or a latent of another family."""
        self.model.check_params(self.params, f"{who}, posterior")
        if self.model.latent != model.latent:
            raise TypeError(
                f"{who}: the posterior is over {self.model.latent}, but the latent of the model is "
                f"{model.latent}."
            )

    def looked_at(self, x: PyTree) -> PyTree:
        """Returns the datum as arrays; raises `ValueError` for an impossible datum or params of another model."""
        x = as_arrays(x)
        self.model.check_params(self.params, "Exact")
        try:
            check_datum(self.model, x, "Exact")
        except ValueError:
            # For a datum of the wrong shape the model's own error is raised instead.
            if self.model.exact:
                eqx.filter_eval_shape(lambda x: self.model.conditional(self.prepared, x), x)
            raise
        return x


@program
def _conditional(exact: Exact, x: PyTree) -> Distribution:
    return exact.model.conditional(exact.prepared, x)


def check_target(who: str, target: Any) -> None:
    """Raises `TypeError` for a target that is not the model at a snapshot of its params."""
    if not isinstance(target, Exact | Prepared):
        raise TypeError(f"{who}: target must be elbax.Exact(model, params), got {told(target)}.")


class Prepared(AbstractPosterior):
    """The exact posterior in one pass over data, with the natural parameters already prepared.

    **Fields:**

    - `model`: the form of the model in that pass.
    - `params`: θ.
    - `prepared`: its prepared natural parameters.
    - `tight`: whether these are at the params of the pass, so that the bound is the conditional's log-normalizer.
    """

    model: AbstractModel
    params: PyTree
    prepared: PyTree
    tight: bool = eqx.field(static=True)

    def __call__(self, x: PyTree, *, key: Key | None = None) -> Distribution:
        return self.model.conditional(self.prepared, x)

    def weights(self) -> None:
        return None


class Tight(AbstractPosterior):
    """The exact posterior at the params of the pass, of which only the bound is used."""

    exact: Prepared

    def __call__(self, x: PyTree, *, key: Key | None = None) -> Distribution:
        q = self.exact(x)
        return _TightDistribution(q.natural, q.family)

    def weights(self) -> None:
        return None


class _TightDistribution(Distribution):
    """p(z | x), whose bound is only evaluated at the potentials that produced it.

    There the bound is A(λ) and its gradient is ∇A(λ) = E_q[t(z)], so one log-normalizer gives the E-step, the
    bound and the statistics.
    """

    tight: ClassVar[bool] = True

    def bound(self, potentials: PyTree) -> Scalar:
        return self.family.log_normalizer(potentials)


def tightened(posterior: PyTree) -> PyTree:
    """Returns the posterior, as `Tight` if it is a prepared exact one at the params of the pass.

    One inside another posterior is left as it is: the outer one may evaluate it at another x than the bound's.
    """
    return Tight(posterior) if isinstance(posterior, Prepared) and posterior.tight else posterior
