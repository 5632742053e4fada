"""Bayes' rule."""

from typing import ClassVar

import equinox as eqx

from .._door import check_datum, check_model
from .._model import AbstractModel
from .._program import program
from .._table import as_arrays
from .._types import Key, PyTree, Scalar
from ..families import Distribution
from ._posterior import AbstractPosterior, ModelAt, same_arrays


class Exact(AbstractPosterior):
    r"""$q(z) = p_\theta(z \mid x)$ at a snapshot of θ.

    It stores the parameters, nothing per datum: a pass over data evaluates it chunk by chunk. No
    gradient step trains it, alone or inside another posterior. It takes one datum; `jax.vmap(posterior)(x)` is
    q of every row of a table, and answers row by row.

    **Raises**, when called, `TypeError` if the model does not know its conditional; `ValueError` for params of
    another model, for more than one datum where the model knows what one looks like (a plain `Model` does not),
    and outside of `jit` and `vmap` for a datum that no params could have made (NaN, a negative count).

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
        """What the model's conditional needs of θ."""
        return self.model.prepare(self.model.natural(self.params))

    def __call__(self, x: PyTree, *, key: Key | None = None) -> Distribution:
        return _conditional(self, self.looked_at(x))

    def bind(self, model: AbstractModel, params: PyTree) -> "Exact":
        return Exact(model, params) if self.model == model else self

    def weights(self) -> None:
        # `None` for the model too: an optimizer's memory, which is shaped as the weights are, must not depend on
        # which model it is (`Anneal` puts another in its place).
        return None

    def prepare(self, at: ModelAt) -> AbstractPosterior:
        if self.model != at.model:
            return self
        current = same_arrays(self.params, at.params)
        natural = at.natural if current else at.prepared_at(self.params)
        return Prepared(at.form, natural, current and at.form.tight)

    def check(self, model: AbstractModel, who: str) -> None:
        """Raises `ValueError` or `TypeError` for another model's params, or a latent of another family."""
        self.model.check_params(self.params, f"{who}, posterior")
        if self.model.latent != model.latent:
            raise TypeError(
                f"{who}: the posterior is over {self.model.latent}, and the latent of the model is {model.latent}."
            )

    def looked_at(self, x: PyTree) -> PyTree:
        """The datum as arrays; raises `ValueError` for one that the model cannot have made, and wrong params."""
        x = as_arrays(x)
        self.model.check_params(self.params, "Exact")
        try:
            check_datum(self.model, x, "Exact")
        except ValueError:
            # A datum of another shape is refused in words of its own.
            if self.model.exact:
                eqx.filter_eval_shape(lambda x: self.model.conditional(self.prepared, x), x)
            raise
        return x


@program
def _conditional(exact: Exact, x: PyTree) -> Distribution:
    return exact.model.conditional(exact.prepared, x)


class Prepared(AbstractPosterior):
    """Bayes' rule in one pass over data, which has prepared the natural parameters.

    **Fields:**

    - `model`: the form of the model in that pass.
    - `prepared`: its natural parameters.
    - `tight`: whether these are the pass's own, so that the bound equals the conditional's log-normalizer.
    """

    model: AbstractModel
    prepared: PyTree
    tight: bool = eqx.field(static=True)

    def __call__(self, x: PyTree, *, key: Key | None = None) -> Distribution:
        return self.model.conditional(self.prepared, x)

    def weights(self) -> None:
        return None


class Tight(AbstractPosterior):
    """Bayes' rule at the params of the pass itself, where nothing but its bound is asked for."""

    exact: Prepared

    def __call__(self, x: PyTree, *, key: Key | None = None) -> Distribution:
        q = self.exact(x)
        return _TightDistribution(q.natural, q.family)

    def weights(self) -> None:
        return None


class _TightDistribution(Distribution):
    """p(z | x), whose bound is only asked for at the potentials that made it.

    The bound there is A(λ), and its slope ∇A(λ) = E_q[t(z)]: one log-normalizer serves E-step, bound and
    statistics.
    """

    tight: ClassVar[bool] = True

    def bound(self, potentials: PyTree) -> Scalar:
        return self.family.log_normalizer(potentials)


def tightened(posterior: PyTree) -> PyTree:
    """A prepared posterior, `Tight` if it is Bayes' rule at the params of the pass.

    Inside of another posterior it stays: that one may ask it at another x than the bound is of.
    """
    return Tight(posterior) if isinstance(posterior, Prepared) and posterior.tight else posterior
