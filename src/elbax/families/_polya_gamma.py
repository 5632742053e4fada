"""A positive number with a Polya-gamma distribution."""

import math
from typing import ClassVar, NoReturn

import jax
import jax.numpy as jnp

from .._types import Any, Array, Callable, Key, Scalar
from ._family import AbstractFamily


class PolyaGamma(AbstractFamily):
    r"""A Polya-gamma latent $\omega \sim \mathrm{PG}(1, c)$ with $t(\omega) = \omega$ and $\eta = -c^2 / 2$.

    PG(1, c) is $e^{\eta \omega - A(\eta)}$ times PG(1, 0), with $A = -\log \cosh(c / 2)$ and $E[\omega] =
    \tanh(c / 2) / 2c$ (Polson, Scott and Windle 2013). Densities are with respect to PG(1, 0), whose own is an
    infinite series. So the entropy is −KL(q ‖ PG(1, 0)), and there are no draws and no mode. Natural parameters
    are at most 0; the answers for others are NaN. It is the latent of `LogisticRegression`. An encoder returns
    log c.

    ```python
    >>> import elbax
    >>> q = elbax.families.PolyaGamma().from_description(tilt=2.0)
    >>> print(f"{q.mean():.4f}")
    0.1904

    ```
    """

    event_ndim: ClassVar[int] = 0

    def batch_ndim(self, natural: Array) -> int:
        return jnp.ndim(natural)

    def from_description(self, *, tilt: Any) -> Any:
        """Returns PG(1, tilt), one for each entry of arrays."""
        return self(-0.5 * jnp.asarray(tilt, float) ** 2)

    def log_normalizer(self, natural: Scalar) -> Scalar:
        return -log_cosh_of_root(-0.5 * natural)

    def mean(self, natural: Scalar) -> Scalar:
        return 0.25 * tanh_ratio(-0.5 * natural)

    def statistics(self, z: Scalar) -> Scalar:
        return z

    def score(self, natural: Scalar, z: Scalar) -> Scalar:
        return jnp.where(z > 0, natural * z, -jnp.inf)

    def sample(self, natural: Scalar, key: Key) -> Scalar:
        _refuse("draws")

    def mode(self, natural: Scalar) -> Scalar:
        _refuse("a most probable value")

    def from_network(self, output: Array) -> Scalar:
        return -0.5 * jnp.exp(2 * output.reshape(()))

    def read(self, function: Callable[[Any], Scalar], dtype: Any = float) -> tuple[Scalar, Scalar]:
        """Takes one derivative at ω = 0."""
        value, slope = jax.value_and_grad(function)(jnp.zeros((), dtype))
        return slope, value


def _refuse(what: str) -> NoReturn:
    raise TypeError(
        f"PolyaGamma: got a request for {what} of a Polya-gamma latent, which this library does not have, as its "
        "density is an infinite series. The E-step is exact without: use ExactEStep(model), or em(model)."
    )


# Lambert's continued fraction of this depth is exact to 1e-16 for v ≤ 1.
_DEPTH = 9


def tanh_ratio(v: Array) -> Array:
    """Returns tanh(√v) / √v = 1/(1 + v/(3 + v/(5 + …))), which is smooth at v = 0; NaN for v < 0."""
    near = jnp.where(v > 1, 1, v)
    rest: Any = 2 * _DEPTH + 1
    for k in range(_DEPTH, 0, -1):
        rest = 2 * k - 1 + near / rest
    root = jnp.sqrt(jnp.where(v > 1, v, 1))
    return jnp.where(v >= 0, jnp.where(v > 1, jnp.tanh(root) / root, 1 / rest), jnp.nan)


def log_cosh_of_root(v: Array) -> Array:
    """Returns log cosh √v, for v ≤ 1 as −½ log(1 − tanh² √v); NaN for v < 0."""
    near = jnp.where(v > 1, 0, v)
    small = -0.5 * jnp.log1p(-near * tanh_ratio(near) ** 2)
    root = jnp.sqrt(jnp.where(v > 1, v, 1))
    return jnp.where(v > 1, root + jnp.log1p(jnp.exp(-2 * root)) - math.log(2), small)
