"""What mixtures with covariances share: scikit-learn's shapes of them."""

import dataclasses
from typing import ClassVar

import numpy as np

from .._types import Any
from ._mixture import AbstractMixture


# scikit-learn's name: (elbax's, its shape from matrices (K, dim, dim), and back).
_SHAPES = {
    "full": ("full", lambda full: full, lambda given, eye: given),
    "tied": ("tied", lambda full: full[0], lambda given, eye: given[None]),
    "diag": (
        "diagonal",
        lambda full: full.diagonal(axis1=1, axis2=2).copy(),
        lambda given, eye: given[:, :, None] * eye,
    ),
    "spherical": (
        "spherical",
        lambda full: full[:, 0, 0].copy(),
        lambda given, eye: given[:, None, None] * eye,
    ),
}


@dataclasses.dataclass(eq=False, repr=False, kw_only=True)
class AbstractEllipticalMixture(AbstractMixture):
    """Mixtures whose components have a mean and a matrix, under scikit-learn's `covariance_type`."""

    covariance_type: Any = "full"
    reg_covar: Any = 1e-6
    means_init: Any = None
    precisions_init: Any = None

    _matrices: ClassVar[str]

    def _shape(self) -> tuple[Any, Any, Any]:
        if self.covariance_type not in _SHAPES:
            raise ValueError(
                f"{type(self).__name__}: covariance_type must be one of "
                f"{', '.join(map(repr, _SHAPES))}; got {self.covariance_type!r}."
            )
        return _SHAPES[self.covariance_type]

    def _given(self, described):
        given = super()._given(described)
        if self.precisions_init is not None:
            _, reduce, expand = self._shape()
            shape = described[self._matrices].shape
            precisions = np.asarray(self.precisions_init, float)
            expected = reduce(np.empty(shape)).shape
            if precisions.shape != expected:
                raise ValueError(
                    f"{type(self).__name__}: expected precisions to start from of shape {expected} for "
                    f"covariance_type={self.covariance_type!r}, got {precisions.shape}."
                )
            covariances = np.linalg.inv(expand(precisions, np.eye(shape[-1])))
            given[self._matrices] = np.broadcast_to(covariances, shape)
        return given

    def _describe(self, weight):
        described = super()._describe(weight)
        _, reduce, _ = self._shape()
        full = described[self._matrices]
        root = np.linalg.inv(np.linalg.cholesky(full.astype(float))).mT
        matrices = {
            self._matrices: full,
            "precisions": root @ root.mT,
            "precisions_cholesky": root,
        }
        return described | {
            name: reduce(matrix).astype(full.dtype) for name, matrix in matrices.items()
        }
