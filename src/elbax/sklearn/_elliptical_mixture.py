"""Mixtures with covariances, in scikit-learn's shapes."""

import dataclasses
from typing import ClassVar

import numpy as np

from .._arguments import check_choice, check_not_negative
from .._types import Any
from ..data._check import check_described
from ._mixture import AbstractMixture


# scikit-learn's name: (elbax's name, its shape from matrices (K, dim, dim), and back).
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
    """Mixtures whose components have a mean and a matrix, with scikit-learn's `covariance_type`."""

    covariance_type: Any = "full"
    reg_covar: Any = 1e-6
    means_init: Any = None
    precisions_init: Any = None

    _matrices: ClassVar[str]

    def _shape(self) -> tuple[Any, Any, Any]:
        name = "diag" if self.covariance_type == "diagonal" else self.covariance_type
        check_choice(type(self).__name__, _SHAPES, covariance_type=name)
        return _SHAPES[name]

    def _check_arguments(self):
        super()._check_arguments()
        check_not_negative(type(self).__name__, reg_covar=self.reg_covar)

    def _given(self, described):
        given = super()._given(described)
        if self.precisions_init is not None:
            _, reduce, expand = self._shape()
            shape = described[self._matrices].shape
            precisions = np.asarray(self.precisions_init, float)
            expected = reduce(np.empty(shape)).shape
            if precisions.shape != expected:
                raise ValueError(
                    f"{type(self).__name__}: expected initial precisions of shape {expected} for "
                    f"covariance_type={self.covariance_type!r}, got {precisions.shape}."
                )
            matrices = expand(precisions, np.eye(shape[-1]))
            check_described(
                type(self).__name__, precisions_init=(matrices, matrices.shape, "covariances")
            )
            covariances = np.linalg.inv(matrices)
            given[self._matrices] = np.broadcast_to(covariances, shape)
        return given

    def _describe(self, weight):
        described = super()._describe(weight)
        _, reduce, _ = self._shape()
        full = described[self._matrices]
        # From the factor in the params, which exists even for a matrix that rounding makes singular.
        whitening = self.model_.component.whitening(self._put(self.params_["components"]))
        root = np.asarray(whitening, float).mT
        # The precision of a collapsed component may overflow.
        with np.errstate(over="ignore", invalid="ignore"):
            matrices = {
                self._matrices: full,
                "precisions": root @ root.mT,
                "precisions_cholesky": root,
            }
            return described | {
                name: reduce(matrix).astype(full.dtype) for name, matrix in matrices.items()
            }
