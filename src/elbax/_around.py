"""The base class of models that wrap another one, to which they delegate by default."""

import equinox as eqx

from ._model import AbstractModel
from ._types import Any, Array, Key, PyTree, Scalar
from .data._check import check_no_nan
from .families import AbstractFamily, Distribution


class AbstractAround(AbstractModel):
    """A model that is `model` at `inside(params)`, with the natural parameters of `model`."""

    model: eqx.AbstractVar[AbstractModel]

    def inside(self, params: PyTree) -> PyTree:
        """Returns the inner model's params."""
        return params

    @property
    def latent(self) -> AbstractFamily:
        """The latent of the model inside."""
        return self.model.latent

    @property
    def exact(self) -> bool:
        return self.model.exact

    @property
    def tight(self) -> bool:
        return self.model.tight

    def log_joint(self, params: PyTree, x: PyTree, z: PyTree) -> Scalar:
        return self.model.log_joint(self.inside(params), x, z)

    def log_joint_at(self, natural: PyTree, x: PyTree, z: PyTree) -> Scalar:
        return self.model.log_joint_at(natural, x, z)

    def params_at(self, natural: PyTree) -> PyTree:
        return self.model.params_at(natural)

    def natural(self, params: PyTree) -> PyTree:
        return self.model.natural(self.inside(params))

    def rebase(self, natural: PyTree, params: PyTree) -> PyTree:
        return self.model.rebase(natural, self.inside(params))

    def draw(self, natural: PyTree, key: Key) -> PyTree:
        return self.model.draw(natural, key)

    def prepare(self, natural: PyTree) -> PyTree:
        return self.model.prepare(natural)

    def elbo(self, natural: PyTree, x: PyTree, q: Any, key: Key) -> Scalar:
        return self.model.elbo(natural, x, q, key)

    def conditional(self, natural: PyTree, x: PyTree) -> Distribution:
        return self.model.conditional(natural, x)

    def potentials_at(self, natural: PyTree, x: PyTree) -> PyTree:
        own = self.exact
        return self.conditional(natural, x).natural if own else self.model.potentials_at(natural, x)

    def log_prior(self, params: PyTree) -> Scalar | float:
        return self.model.log_prior(self.inside(params))

    def global_term(self, params: PyTree, key: Key) -> Scalar | float:
        return self.model.global_term(self.inside(params), key)

    @property
    def knows_prior(self) -> bool:
        return self.model.knows_prior

    def latent_prior(self, params: PyTree, x: PyTree) -> Any:
        return self.model.latent_prior(self.inside(params), x)

    def divergence(self, q: Any, prior: Any, key: Key) -> Scalar:
        return self.model.divergence(q, prior, key)

    def divergences(self, q: Any, prior: Any, key: Key) -> PyTree:
        return self.model.divergences(q, prior, key)

    @property
    def splits(self) -> bool:
        return self.model.splits

    @property
    def divergence_weight(self) -> Array | float | None:
        return self.model.divergence_weight

    def prior_at(self, natural: PyTree, x: PyTree) -> Any:
        return self.model.prior_at(natural, x)

    def impute(self, params: PyTree, x: PyTree, q: Any) -> tuple[PyTree, PyTree]:
        return self.model.impute(self.inside(params), x, q)

    def describe(self, params: PyTree) -> Any:
        return self.model.describe(self.inside(params))

    def collapsed(self, params: PyTree) -> Array:
        return self.model.collapsed(self.inside(params))

    def emptied(self, params: PyTree) -> Array:
        return self.model.emptied(self.inside(params))

    def check_params(self, params: PyTree, who: str = "check_params") -> None:
        check_no_nan(params, who)
        # Only the shapes of the inner params are checked, since their values would have to be computed.
        self.model.check_params(eqx.filter_eval_shape(self.inside, params), who)

    def num_observations(self, batch: PyTree) -> float:
        return self.model.num_observations(batch)

    def summary(self) -> dict[str, Any]:
        return self.model.summary()

    def check(self, batch: PyTree, who: str = "fit") -> None:
        self.model.check(batch, who)
