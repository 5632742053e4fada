"""A path through a linear-Gaussian state space."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from .._algebra import apply
from .._arguments import check_count
from .._types import Any, Array, Callable, Float, Key, PyTree, Scalar
from . import _gaussian_links as links, _kalman as kalman
from ._family import AbstractFamily
from ._recursion import check_order, Order, runs_pairwise


class GaussianChain(AbstractFamily):
    r"""$z \in R^{T \times d}$ with $\log q(z) = \log N(z_1; m, S S^\top) + \sum_t \log N(z_{t+1}; A z_t + b, L
    L^\top) - \tfrac12 \sum_t |G_t z_t - g_t|^2 + \text{const}$: what Kalman filters and smoothers work on.

    Natural parameters are these arrays, not a precision matrix: its blocks hold $L^{-\top} L^{-1}$, from which
    float32 cannot subtract where the noise L is small. They are `{"initial": {"mean": (d,), "root": (d, d)},
    "transition": {"matrix": (d, d), "offset": (d,), "root": (d, d)}, "unary": {"rows": (p, d), "target": (T,
    p)}, "length": whole number}`; those of the transition may carry a leading axis of T - 1 steps, `rows` one
    of T. Roots are lower triangular. Where `initial`, `transition` or `unary` have `"linear"` h and
    `"precision"` J besides, the exponent has $h^\top z - \tfrac12 z^\top J z$ more for each state (for
    `transition`, for each state that has a successor), and `"constant"` c as it stands. `"probe"`,
    `{"unary": {"linear", "precision"}, "transition": the same}`, are such terms that are zero: there to be
    differentiated by, at the cost of nothing else, for Σ E z and Σ E z zᵀ.

    The log-normalizer is a Kalman filter in square-root form; the means are those of a smoother.

    **Arguments:**

    - `dim`: d.
    - `order`: `"sequential"` or `"pairwise"`, as for `MarkovChain`; the second one works with covariances
        instead of roots.

    ```python
    >>> import elbax, jax.numpy as jnp
    >>> one = jnp.ones((1, 1))
    >>> walk = {"matrix": one, "offset": jnp.zeros(1), "root": 0.5 * one}
    >>> q = elbax.GaussianChain(1)({"initial": {"mean": jnp.zeros(1), "root": one}, "transition": walk,
    ...     "unary": {"rows": one, "target": jnp.array([[1.0], [2.0], [0.0]])}, "length": jnp.array(3)})
    >>> print([f"{level:.2f}" for level in q.mode()[:, 0]])
    ['0.73', '0.85', '0.68']

    ```
    """

    linear: ClassVar[bool] = False
    event_ndim: ClassVar[int] = 2

    dim: int = eqx.field(static=True)
    order: Order = eqx.field(static=True, default="auto")

    def __check_init__(self):
        check_count("GaussianChain", dim=self.dim)
        check_order("GaussianChain", self.order)

    def batch_ndim(self, natural: PyTree) -> int:
        return jnp.ndim(natural["unary"]["target"]) - 2

    def log_normalizer(self, natural: PyTree) -> Scalar:
        if runs_pairwise(self.order):
            return links.log_normalizer(natural)
        return _kalman(natural)

    def moments(self, natural: PyTree) -> tuple[Array, Array, Array]:
        """The smoother: (E z_t (T, d), Cov z_t (T, d, d), Cov(z_t, z_{t+1}) (T - 1, d, d)), 0 in the padding."""
        found = kalman.smoothed(natural)[1]
        return found.means, found.covariances, found.cross

    def mean(self, natural: PyTree) -> dict[str, Array]:
        """E z_t, E z_t z_tᵀ, E z_t z_{t+1}ᵀ, zero in the padding."""
        return _second_moments(*self.moments(natural))

    def statistics(self, z: Float[Array, "T d"]) -> dict[str, Array]:
        """z_t, z_t z_tᵀ, z_t z_{t+1}ᵀ."""
        none = jnp.zeros((len(z), self.dim, self.dim), z.dtype)
        return _second_moments(z, none, none[1:])

    def mode(self, natural: PyTree) -> Float[Array, "T d"]:
        return self.moments(natural)[0]

    def sample(self, natural: PyTree, key: Key) -> Float[Array, "T d"]:
        """Forward filter, backward sampler."""
        found = kalman.filtered(natural)
        last, number = natural["length"] - 1, len(found.means)
        key_end, key_back = jax.random.split(key)
        dtype = found.means.dtype
        noise = jax.random.normal(key_end, found.means.shape, dtype)
        alone = found.means + apply(found.roots, noise)
        noise = jax.random.normal(key_back, (number - 1, 2 * self.dim), dtype)
        gain, rest = found.gain[:, : self.dim], found.rest[:, : self.dim]
        drawn = found.means[:-1] + found.pulls + apply(rest, noise)

        def step(later, row):
            t, alone, drawn, gain, predicted = row
            now = jnp.where(t < last, drawn + apply(gain, later - predicted), alone)
            return now, now

        rows = jnp.arange(number - 1), alone[:-1], drawn, gain, found.predicted[1:]
        _, z = jax.lax.scan(step, alone[-1], rows, reverse=True)
        z = jnp.concatenate([z, alone[-1:]])
        return jnp.where((jnp.arange(number) <= last)[:, None], z, 0)

    def score(self, natural: PyTree, z: Float[Array, "T d"]) -> Scalar:
        transition = natural["transition"]
        matrix, offset = transition["matrix"], transition["offset"]
        drift = z[1:] - apply(matrix, z[:-1]) - offset
        return _expected_score(natural, kalman.Moments(z, matrix, offset, drift))

    def bound(self, natural: PyTree, potentials: PyTree) -> Scalar:
        """E_q[exponent of λ] + H(q)."""
        _, found = kalman.smoothed(natural)
        return _expected_score(potentials, found) + kalman.entropy(natural)

    def entropy(self, natural: PyTree) -> Scalar:
        return kalman.entropy(natural)

    def read(self, function: Callable[[Any], Scalar], dtype: Any = float) -> tuple[PyTree, Scalar]:
        raise TypeError(
            "GaussianChain cannot be read off a plain log_joint. Use LinearGaussianStateSpace, or "
            "Amortized(network, family), which samples."
        )

    def from_network(self, output: PyTree) -> PyTree:
        """From means and log standard deviations (T, 2 d), for independent states; or from a dictionary of natural
        parameters, which may leave out `initial`, `transition` (then states are independent) and `length`."""
        if not isinstance(output, dict):
            shape, dim = jnp.shape(output), self.dim
            if len(shape) != 2 or shape[1] != 2 * dim:
                raise ValueError(
                    f"An encoder for GaussianChain({dim}) returns means and log standard deviations, shape (T, "
                    f"{2 * dim}), or a dictionary of natural parameters; got shape {shape}."
                )
            # A standard normal state, times what takes its precision to the one wanted.
            precision = jnp.exp(-2 * output[:, dim:])
            eye = jnp.eye(dim, dtype=output.dtype)
            unary = {
                "rows": jnp.zeros((1, dim), output.dtype),
                "target": jnp.zeros((shape[0], 1), output.dtype),
                "linear": precision * output[:, :dim],
                "precision": precision[:, :, None] * eye - eye,
            }
            output = {"unary": unary}
        target = output["unary"]["target"]
        zero = jnp.zeros(self.dim, target.dtype)
        eye = jnp.eye(self.dim, dtype=target.dtype)
        defaults = {
            "initial": {"mean": zero, "root": eye},
            "transition": {"matrix": 0 * eye, "offset": zero, "root": eye},
            "length": jnp.asarray(len(target)),
        }
        return {**defaults, **output}


def _expected_score(natural, moments):
    return kalman.expected_exponent(natural, moments) + kalman.log_constants(natural)


# The derivative of a log-normalizer is an expectation (Fisher's identity): a smoother's moments and one look at
# the exponent, instead of the way back through every root of the filter.
@jax.custom_jvp
def _kalman(natural):
    return kalman.smoothed(natural)[0]


@_kalman.defjvp
def _(primals, tangents):
    (natural,), (slope,) = primals, tangents
    total, moments = kalman.smoothed(natural)
    coordinates, labels = eqx.partition(natural, eqx.is_inexact_array)
    slope = eqx.filter(slope, jax.tree.map(eqx.is_inexact_array, natural))
    score = lambda coordinates: _expected_score(eqx.combine(coordinates, labels), moments)
    return total, jax.jvp(score, (coordinates,), (slope,))[1]


def _second_moments(means, covariances, cross):
    outer = jax.vmap(jnp.outer)
    return {
        "state": means,
        "square": covariances + outer(means, means),
        "cross": cross + outer(means[:-1], means[1:]),
    }
