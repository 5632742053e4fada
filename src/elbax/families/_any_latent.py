"""The latent of a model that names no family for it."""

from typing import NoReturn

from .._types import Any, PyTree
from ._family import AbstractFamily


class AnyLatent(AbstractFamily):
    """No family: what z is the posterior says, by `sample(key)` and `log_prob(z)`."""

    def batch_ndim(self, natural: PyTree) -> int:
        self._refuse()

    @property
    def event_ndim(self) -> int:
        self._refuse()

    def log_normalizer(self, natural: PyTree) -> Any:
        self._refuse()

    def statistics(self, z: PyTree) -> PyTree:
        self._refuse()

    def sample(self, natural: PyTree, key: Any) -> PyTree:
        self._refuse()

    def mode(self, natural: PyTree) -> PyTree:
        self._refuse()

    def from_network(self, output: PyTree) -> PyTree:
        self._refuse()

    def read(self, function: Any, dtype: Any = float) -> Any:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise TypeError(
            "Model: the model has no latent family, so it has no natural parameters, statistics or modes. Pass "
            "a family, such as Model(log_joint, elbax.Gaussian(2)), or use an encoder with a function from its "
            "output to a distribution: Amortized(network, function)."
        )
