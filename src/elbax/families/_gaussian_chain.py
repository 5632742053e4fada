"""A path through a linear-Gaussian state space."""

import functools
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from .._arguments import check_count
from .._types import Any, Array, Callable, Float, Key, PyTree, Scalar
from . import _gaussian_slopes as slopes, _kalman as kalman
from ._family import AbstractFamily
from ._recursion import check_order, Order, runs_pairwise


class GaussianChain(AbstractFamily):
    r"""A Gaussian path $z \in R^{T \times d}$ through a linear state space: the posterior of Kalman smoothing.

    $$\log q(z) = \log N(z_1; m, S S^\top) + \sum_t \log N(z_{t+1}; A z_t + b, L L^\top)
        - \tfrac12 \sum_t |G_t z_t - g_t|^2 + \text{const}.$$

    The natural parameters are these arrays, not a precision matrix. The blocks of a precision matrix contain
    $L^{-\top} L^{-1}$, and with small noise L subtracting from it loses all digits in float32. They are
    `{"initial": {"mean": (d,), "root": (d, d)}, "transition": {"matrix": (d, d), "offset": (d,), "root": (d, d)},
    "unary": {"rows": (p, d), "target": (T, p)}, "length": whole number}`. The arrays of `transition` may have a
    leading axis of T - 1 steps, and `rows` one of T. States from `length` on are padding.

    Optional entries:

    - `"root"` N in `unary`, (p, p) or (T, p, p): the factor of an observation is then the density $N(g_t; G_t z_t,
        N N^\top)$ itself.
    - `"linear"` h and `"precision"` J in `initial`, `transition` or `unary`: they add $h^\top z - \tfrac12 z^\top
        J z$ to the exponent for each state (for `transition`, each state that has a successor). `"constant"` c
        adds c.
    - `"probe"`, `{"unary": {"linear", "precision"}, "transition": the same}`: such terms with the value zero.
        Their derivatives give Σ E z and Σ E z zᵀ; they cost nothing else.

    The roots S, L, N are lower triangular. They may be singular in the way of Cholesky factors: where a diagonal
    entry is 0, so is its column. A direction without noise has no density. The entropy is then -∞ and the
    log-density of a path NaN. `bound` counts only the directions with noise, which must be the same in both chains
    (else it is -∞). If the observations have no density, because earlier ones determine them up to rounding, the
    log-normalizer is NaN.

    The log-normalizer is computed by a Kalman filter in square-root form, with orthogonal transformations (Morf
    and Kailath 1975); the means are computed by a smoother. Moments, bounds and draws have derivatives of any
    order; the first ones take one more run in each direction. They hold without noise too, but for one case: where
    the next state is known in a direction, whatever noise a change would add to it is left out. The slope of the
    log-normalizer leaves out what moves a direction without noise.

    **Arguments:**

    - `dim`: d.
    - `order`: `"sequential"` or `"pairwise"`, as for `MarkovChain`.

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
        return _log_normalizer(natural, runs_pairwise(self.order))

    def _smoothed(self, natural):
        return slopes.smoothed(natural, runs_pairwise(self.order))

    def moments(self, natural: PyTree) -> tuple[Array, Array, Array]:
        """Runs the smoother; returns (E z_t, Cov z_t, Cov(z_t, z_{t+1})), 0 in the padding.

        Their shapes are (T, d), (T, d, d) and (T - 1, d, d).
        """
        _, _, found = self._smoothed(natural)
        return found.means, found.covariances, found.cross

    def mean(self, natural: PyTree) -> dict[str, Array]:
        """Returns E z_t, E z_t z_tᵀ and E z_t z_{t+1}ᵀ, zero in the padding."""
        return _second_moments(*self.moments(natural))

    def statistics(self, z: Float[Array, "T d"]) -> dict[str, Array]:
        """Returns z_t, z_t z_tᵀ and z_t z_{t+1}ᵀ."""
        none = jnp.zeros((len(z), self.dim, self.dim), z.dtype)
        return _second_moments(z, none, none[1:])

    def mode(self, natural: PyTree) -> Float[Array, "T d"]:
        return self.moments(natural)[0]

    def sample(self, natural: PyTree, key: Key) -> Float[Array, "T d"]:
        """Draws a path by forward filtering and backward sampling.

        A state is moved by its noise through the triangular root of its covariance given the next state.
        """
        shape, dtype = (len(natural["unary"]["target"]), self.dim), natural["initial"]["root"].dtype
        noise = jax.random.normal(key, shape, dtype)
        return slopes.draw(natural, noise, runs_pairwise(self.order))

    def score(self, natural: PyTree, z: Float[Array, "T d"]) -> Scalar:
        value = kalman.expected_score(natural, kalman.at(natural, z))
        return jnp.where(kalman.noisy(natural), value, jnp.nan)

    def bound(self, natural: PyTree, potentials: PyTree) -> Scalar:
        """Returns E_q[exponent of λ] + H(q), in nats."""
        _, entropy, moments = self._smoothed(natural)
        value = kalman.expected_score(potentials, moments) + entropy
        return jnp.where(kalman.same_directions(natural, potentials), value, -jnp.inf)

    def entropy(self, natural: PyTree) -> Scalar:
        _, entropy, _ = self._smoothed(natural)
        return jnp.where(kalman.noisy(natural), entropy, -jnp.inf)

    def read(self, function: Callable[[Any], Scalar], dtype: Any = float) -> tuple[PyTree, Scalar]:
        raise TypeError(
            "GaussianChain: its natural parameters cannot be read from a plain log_joint. Use "
            "LinearGaussianStateSpace, or an encoder, Amortized(network, family), which samples."
        )

    def tilted(self, natural: PyTree, output: PyTree) -> PyTree:
        r"""Returns natural parameters with $h_t^\top z_t - \tfrac12 z_t^\top J_t z_t$ added for each state.

        The output is an array (T, 2 d): the mean and the log standard deviation of what each step says of its
        state, J = 1 / σ² and h = J m; or a dictionary of `"linear"` h, (T, d), and `"precision"` J, (T, d, d).
        """
        unary, dim = natural["unary"], self.dim
        steps = len(unary["target"])
        if not isinstance(output, dict):
            if jnp.shape(output) != (steps, 2 * dim):
                raise ValueError(
                    f"GaussianChain({dim}): what an encoder adds to {steps} steps must be means and log standard "
                    f'deviations, shape ({steps}, {2 * dim}), or a dictionary of "linear" and "precision"; got '
                    f"shape {jnp.shape(output)}."
                )
            output = _said(output)
        dtype = unary["target"].dtype
        more = {
            name: unary.get(name, 0) + output[name].astype(dtype)
            for name in ("linear", "precision")
        }
        return natural | {"unary": unary | more}

    def from_network(self, output: PyTree) -> PyTree:
        """Maps an encoder's output to natural parameters.

        The output is either an array (T, 2 d) of means and log standard deviations, for independent states, or a
        dictionary of natural parameters. The dictionary may omit `initial`, `transition` (states are then
        independent) and `length`.
        """
        if not isinstance(output, dict):
            shape, dim = jnp.shape(output), self.dim
            if len(shape) != 2 or shape[1] != 2 * dim:
                raise ValueError(
                    f"GaussianChain({dim}): an encoder must return means and log standard deviations, shape (T, "
                    f"{2 * dim}), or a dictionary of natural parameters; got shape {shape}."
                )
            # A standard normal state, times a factor that changes its precision to the desired one.
            said = _said(output)
            unary = {
                "rows": jnp.zeros((1, dim), output.dtype),
                "target": jnp.zeros((shape[0], 1), output.dtype),
                "linear": said["linear"],
                "precision": said["precision"] - jnp.eye(dim, dtype=output.dtype),
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


def _said(output: Float[Array, "T size"]) -> dict[str, Array]:
    """Returns h and J of each step from the means and log standard deviations that an encoder returns."""
    mean, log_deviation = jnp.split(output, 2, 1)
    precision = jnp.exp(-2 * log_deviation)
    eye = jnp.eye(mean.shape[1], dtype=output.dtype)
    return {"linear": precision * mean, "precision": precision[:, :, None] * eye}


# The derivative of a log-normalizer is an expectation (Fisher's identity): it takes a smoother's moments and one
# evaluation of the exponent, instead of differentiating every root of the filter.
@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _log_normalizer(natural, pairwise):
    return kalman.filtered(natural, pairwise).value


@_log_normalizer.defjvp
def _(pairwise, primals, tangents):
    (natural,), (slope,) = primals, tangents
    value, _, moments = slopes.smoothed(natural, pairwise)
    return value, kalman.score_slope(natural, moments, slope)


def _second_moments(means, covariances, cross):
    outer = jax.vmap(jnp.outer)
    return {
        "state": means,
        "square": covariances + outer(means, means),
        "cross": cross + outer(means[:-1], means[1:]),
    }
