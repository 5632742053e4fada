"""Enumeration of a finite latent."""

from ._estimator import AbstractEstimator


class Enumeration(AbstractEstimator):
    r"""Computes $\sum_z q(z) (\log p(x, z) - \log q(z))$ exactly, over all values of a finite latent.

    It is the default of a `Model` over a `Categorical`.
    """

    @property
    def exact(self) -> bool:
        return True

    def check(self, family):
        if not family.finite:
            raise TypeError(
                "Enumeration: the latent must have finitely many values, such as Categorical(K); got "
                f"{type(family).__name__}. Use Reparameterized or Quadrature."
            )

    def __call__(self, log_joint, q, key):
        potentials, constant = q.family.read(log_joint, q.natural.dtype)
        return q.bound(potentials) + constant
