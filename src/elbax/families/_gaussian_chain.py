"""A path through a linear-Gaussian state space."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp

from .._algebra import matmul, vdot
from .._types import Any, Array, Callable, Float, Key, PyTree, Scalar
from ._family import AbstractFamily
from ._recursion import check_order, Order, pairwise, runs_pairwise, steps


_LOG_2PI = math.log(2 * math.pi)


class GaussianChain(AbstractFamily):
    r"""$z \in R^{T \times d}$ with $\log q(z) = \log N(z_1; m, S S^\top) + \sum_t \log N(z_{t+1}; A z_t + b, L
    L^\top) - \tfrac12 \sum_t |G_t z_t - g_t|^2 + \text{const}$: what Kalman filters and smoothers work on.

    Natural parameters are these arrays, not a precision matrix: its blocks hold $L^{-\top} L^{-1}$, from which
    float32 cannot subtract where the noise L is small. They are `{"initial": {"mean": (d,), "root": (d, d)},
    "transition": {"matrix": (d, d), "offset": (d,), "root": (d, d)}, "unary": {"rows": (p, d), "target": (T,
    p)}, "length": whole number}`; those of the transition may carry a leading axis of T - 1 steps, `rows` one
    of T. Roots are lower triangular. Where `initial`, `transition` or `unary` have `"linear"` h and
    `"precision"` J besides, the exponent has $h^\top z - \tfrac12 z^\top J z$ more for each state (for
    `transition`, for each state that has a successor), and `"constant"` c as it stands.

    The log-normalizer is a Kalman filter in square-root form; the means are those of a smoother.

    **Arguments:**

    - `dim`: d.
    - `order`: `"sequential"` or `"pairwise"`, as for `MarkovChain`; the second one works with covariances
        instead of roots.
    - `segment`: steps between the points that a derivative keeps.

    ```python
    >>> import elbax, jax.numpy as jnp
    >>> one = jnp.ones((1, 1))
    >>> walk = {"matrix": one, "offset": jnp.zeros(1), "root": 0.5 * one}
    >>> q = elbax.GaussianChain(1)({"initial": {"mean": jnp.zeros(1), "root": one}, "transition": walk,
    ...     "unary": {"rows": one, "target": jnp.array([[1.0], [2.0], [0.0]])}, "length": jnp.array(3)})
    >>> print(q.mode()[:, 0].round(3))
    [0.754 0.884 0.707]

    ```
    """

    dim: int = eqx.field(static=True)
    order: Order = eqx.field(static=True, default="auto")
    segment: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        if self.dim < 1:
            raise ValueError(f"GaussianChain: dim must be at least 1, got {self.dim}.")
        check_order("GaussianChain", self.order, self.segment)

    # --- the filter ------------------------------------------------------------------------------

    def log_normalizer(self, natural: PyTree) -> Scalar:
        if runs_pairwise(self.order):
            return self._pairwise(natural)
        (mean, root, total), rows, valid = self._start(natural)
        shared, varying = self._split_transition(natural)

        def step(carry, row, valid):
            mean, root, total = carry
            unary, transition = row
            mean, root, gain, _ = _advance(mean, root, {**shared, **transition}, unary)
            # Roots do not depend on the data: what only counts inside a sequence is its gain, so that
            # sequences of different lengths share them.
            return mean, root, total + jnp.where(valid, gain, 0)

        carry = (mean, root, total)
        if len(valid):
            carry = steps(step, carry, (rows, varying), valid, self.segment)
        return carry[2]

    def _start(self, natural):
        """(the state after the first observation, the unary terms of the steps after it, which are real)."""
        unary = _by_step(natural)
        initial = natural["initial"]
        first, rest = (
            jax.tree.map(lambda leaf: leaf[0], unary),
            jax.tree.map(lambda leaf: leaf[1:], unary),
        )
        mean, root, total = initial["mean"], initial["root"], 0.0
        for terms in (initial, first):
            mean, root, gain = _condition(mean, root, terms)
            total += gain
        count = len(unary["target"])
        return (mean, root, total), rest, jnp.arange(1, count) < natural["length"]

    def _split_transition(self, natural):
        """(what all steps share, what each step has of its own)."""
        shared, varying = {}, {}
        for name, leaf in natural["transition"].items():
            base = {"matrix": 2, "root": 2, "offset": 1, "linear": 1, "precision": 2, "constant": 0}
            (shared if jnp.ndim(leaf) == base[name] else varying)[name] = leaf
        return shared, varying

    # --- moments ---------------------------------------------------------------------------------

    def moments(self, natural: PyTree) -> tuple[Array, Array, Array]:
        """The smoother: (E z_t (T, d), Cov z_t (T, d, d), Cov(z_t, z_{t+1}) (T - 1, d, d)), zero in the padding."""
        ends, rows = self._filtered(natural)
        last = natural["length"] - 1

        def step(later, row):
            mean, covariance = later
            t, end, (filtered, spread), gain, kept, transition = row
            # In Joseph's form, a sum of squares: no covariance is subtracted from another.
            noise = matmul(gain, transition["root"])
            smoothed = matmul(kept, matmul(spread, kept.T)) + matmul(noise, noise.T)
            smoothed += matmul(gain, matmul(covariance, gain.T))
            gap = mean - matmul(transition["matrix"], filtered) - transition["offset"]
            now = filtered + matmul(gain, gap), smoothed
            now = jax.tree.map(lambda a, b: jnp.where(t < last, a, b), now, end)
            return now, (*now, jnp.where(t < last, matmul(gain, covariance), 0))

        end = jax.tree.map(lambda leaf: leaf[-1], ends)
        _, (means, covariances, cross) = jax.lax.scan(step, end, rows, reverse=True)
        means = jnp.concatenate([means, end[0][None]])
        covariances = jnp.concatenate([covariances, end[1][None]])
        inside = jnp.arange(len(means)) <= last
        means = jnp.where(inside[:, None], means, 0)
        return means, jnp.where(inside[:, None, None], covariances, 0), cross

    def _filtered(self, natural):
        """(means and covariances of z_t given what came up to t, for each step that has a successor what going
        back through it takes)."""
        (mean, root, _), rows, _ = self._start(natural)
        shared, varying = self._split_transition(natural)

        def step(carry, row):
            unary, transition = row
            transition = {**shared, **transition}
            mean, root = carry
            mean, root, _, before = _advance(mean, root, transition, unary)
            pulled, narrowed, predicted = before
            ahead = matmul(transition["matrix"], narrowed)
            inner = jax.scipy.linalg.solve_triangular(predicted, ahead, lower=True)
            back = jax.scipy.linalg.solve_triangular(predicted, inner, lower=True, trans=1)
            gain = matmul(narrowed, back.T)
            kept = jnp.eye(self.dim, dtype=gain.dtype) - matmul(gain, transition["matrix"])
            terms = {name: transition[name] for name in ("matrix", "offset", "root")}
            found = (pulled, matmul(narrowed, narrowed.T)), gain, kept, terms
            return (mean, root), ((mean, root), found)

        _, ((means, roots), found) = jax.lax.scan(step, (mean, root), (rows, varying))
        means = jnp.concatenate([mean[None], means])
        roots = jnp.concatenate([root[None], roots])
        ends = means, matmul(roots, roots.mT)
        before = jax.tree.map(lambda leaf: leaf[:-1], ends)
        return ends, (jnp.arange(len(means) - 1), before, *found)

    def mean(self, natural: PyTree) -> dict[str, Array]:
        """E z_t, E z_t z_tᵀ, E z_t z_{t+1}ᵀ, zero in the padding."""
        return _second_moments(*self.moments(natural))

    def statistics(self, z: Float[Array, "T d"]) -> dict[str, Array]:
        """z_t, z_t z_tᵀ, z_t z_{t+1}ᵀ."""
        return _second_moments(z, *_no_spread(z))

    def mode(self, natural: PyTree) -> Float[Array, "T d"]:
        return self.moments(natural)[0]

    def sample(self, natural: PyTree, key: Key) -> Float[Array, "T d"]:
        """Forward filter, backward sampler."""
        ends, rows = self._filtered(natural)
        last = natural["length"] - 1
        noise = jax.random.normal(key, (2, *ends[0].shape), ends[0].dtype)

        def step(later, row):
            (t, end, (filtered, spread), gain, kept, transition), (own, from_step) = row
            gap = later - matmul(transition["matrix"], filtered) - transition["offset"]
            drawn = filtered + matmul(gain, gap) + matmul(kept, matmul(_root(spread), own))
            drawn += matmul(gain, matmul(transition["root"], from_step))
            now = jnp.where(t < last, drawn, end[0] + matmul(_root(end[1]), own))
            return now, now

        end = ends[0][-1] + matmul(_root(ends[1][-1]), noise[0, -1])
        _, before = jax.lax.scan(step, end, (rows, (noise[0, :-1], noise[1, :-1])), reverse=True)
        z = jnp.concatenate([before, end[None]])
        return jnp.where((jnp.arange(len(z)) <= last)[:, None], z, 0)

    # --- expectations ----------------------------------------------------------------------------

    def score(self, natural: PyTree, z: Float[Array, "T d"]) -> Scalar:
        return self._expected_score(natural, (z, *_no_spread(z)))

    def bound(self, natural: PyTree, potentials: PyTree) -> Scalar:
        """E_q[log-weight of λ] + H(q) = A(η) + E_q[log-weight of λ − log-weight of η]."""
        moments = self.moments(natural)
        gap = self._expected_score(potentials, moments) - self._expected_score(natural, moments)
        return self.log_normalizer(natural) + gap

    def entropy(self, natural: PyTree) -> Scalar:
        return self.log_normalizer(natural) - self._expected_score(natural, self.moments(natural))

    def _expected_score(self, natural, moments):
        """The exponent's expectation, from means and covariances."""
        means, covariances, cross = moments
        length, count = natural["length"], len(means)
        initial, transition, unary = natural["initial"], natural["transition"], _by_step(natural)
        total = _normal(means[0] - initial["mean"], covariances[0], initial["root"])
        total += _pull(initial, means[0], covariances[0]) + initial.get("constant", 0.0)

        def observe(mean, covariance, terms):
            rows = terms["rows"]
            residual = terms["target"] - matmul(rows, mean)
            square = vdot(residual, residual) + vdot(matmul(rows, covariance), rows)
            return _pull(terms, mean, covariance) + terms.get("constant", 0.0) - 0.5 * square

        each = jax.vmap(observe)(means, covariances, unary)
        total += jnp.sum(jnp.where(jnp.arange(count) < length, each, 0))
        if count == 1:
            return total
        shared, varying = self._split_transition(natural)

        def move(before, after, cross, terms):
            terms = {**shared, **terms}
            matrix = terms["matrix"]
            (mean, covariance), (later, spread) = before, after
            both = matmul(matrix, cross)
            within = spread + matmul(matrix, matmul(covariance, matrix.T)) - both - both.T
            residual = later - matmul(matrix, mean) - terms["offset"]
            kernel = _normal(residual, within, terms["root"])
            return kernel + _pull(terms, mean, covariance) + terms.get("constant", 0.0)

        before, after = (means[:-1], covariances[:-1]), (means[1:], covariances[1:])
        each = jax.vmap(move)(before, after, cross, varying)
        return total + jnp.sum(jnp.where(jnp.arange(1, count) < length, each, 0))

    # --- as a tree -------------------------------------------------------------------------------

    def _pairwise(self, natural):
        """Links from state to state, joined by integrating over the one between (Särkkä and García-Fernández
        2021): N(z'; A z + b, C) exp(h·z − ½ zᵀ J z + c)."""
        unary, transition = _by_step(natural), natural["transition"]
        count, dim, length = len(unary["target"]), self.dim, natural["length"]
        dtype = natural["initial"]["root"].dtype
        eye, initial = jnp.eye(dim, dtype=dtype), natural["initial"]

        def information(terms):
            rows, target = terms["rows"], terms["target"]
            linear, precision = _tilt(terms, dim, dtype)
            constant = terms.get("constant", 0.0) - 0.5 * vdot(target, target)
            return linear + matmul(rows.T, target), precision + matmul(rows.T, rows), constant

        h, J, c = jax.vmap(information)(unary)
        linear, precision = _tilt(initial, dim, dtype)
        h, J = h.at[0].add(linear), J.at[0].add(precision)
        c = c.at[0].add(jnp.asarray(initial.get("constant", 0.0), dtype))
        shared, varying = self._split_transition(natural)

        def move(terms):
            terms = {**shared, **terms}
            return (
                terms["matrix"],
                terms["offset"],
                matmul(terms["root"], terms["root"].T),
                *_tilt(terms, dim, dtype),
                jnp.asarray(terms.get("constant", 0.0), dtype),
            )

        if varying:
            A, b, C, h_ahead, J_ahead, c_ahead = jax.vmap(move)(varying)
        else:
            A, b, C, h_ahead, J_ahead, c_ahead = (
                jnp.broadcast_to(leaf, (count - 1, *leaf.shape)) for leaf in move({})
            )
        has_next = jnp.arange(1, count) < length

        def padded(leaf, default):
            # No transition leads on from a sequence's last state.
            inside = has_next.reshape((-1,) + (1,) * (leaf.ndim - 1))
            leaf = jnp.where(inside, leaf, default)
            return jnp.concatenate([leaf, jnp.broadcast_to(default, (1, *leaf.shape[1:]))])

        zero, none = jnp.zeros(dim, dtype), jnp.zeros((dim, dim), dtype)
        real = jnp.arange(count) < length
        links = (
            padded(A, eye),
            padded(b, zero),
            padded(C, none),
            jnp.where(real[:, None], h, 0) + padded(h_ahead, zero),
            jnp.where(real[:, None, None], J, 0) + padded(J_ahead, none),
            jnp.where(real, c, 0) + padded(c_ahead, jnp.zeros((), dtype)),
        )
        root = initial["root"]
        start = (none, initial["mean"], matmul(root, root.T), zero, none, jnp.zeros((), dtype))
        elements = jax.tree.map(lambda s, rest: jnp.concatenate([s[None], rest]), start, links)
        return pairwise(_join, elements)[-1]

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


def _by_step(natural):
    """The unary terms with a leading axis of steps."""
    unary = natural["unary"]
    count = len(unary["target"])
    base = {"rows": 2, "target": 1, "linear": 1, "precision": 2, "constant": 0}
    return {
        name: leaf
        if jnp.ndim(leaf) > base[name]
        else jnp.broadcast_to(leaf, (count, *jnp.shape(leaf)))
        for name, leaf in unary.items()
    }


def _tilt(terms, dim, dtype):
    return terms.get("linear", jnp.zeros(dim, dtype)), terms.get(
        "precision", jnp.zeros((dim, dim), dtype)
    )


def _advance(mean, root, transition, unary):
    """(mean and root after one transition and observation, gain in log weight, what went before)."""
    mean, root, gain = _condition(mean, root, transition)
    predicted = matmul(transition["matrix"], mean) + transition["offset"]
    spread = _triangle(matmul(transition["matrix"], root), transition["root"])
    moved, narrowed, more = _condition(predicted, spread, unary)
    return moved, narrowed, gain + more, (mean, root, spread)


def _condition(mean, root, terms):
    """N(z; m, S Sᵀ) exp(c − ½ |G z − g|² + h·z − ½ zᵀ J z) = exp(gain) N(z; its mean and root): all three.

    With z = m + S ζ the exponent is a sum of squares about its maximum. Its value there is taken from the
    residuals at the maximum, in which nothing large cancels, and |I + SᵀΛS| needs no root of Λ.
    """
    linear, precision = _tilt(terms, len(mean), mean.dtype)
    has_rows, has_tilt = "rows" in terms, "precision" in terms or "linear" in terms
    constant = jnp.asarray(terms.get("constant", 0.0), mean.dtype)
    if not has_rows and not has_tilt:
        return mean, root, constant
    nothing = jnp.zeros((0, len(mean)), mean.dtype)
    rows, target = terms.get("rows", nothing), terms.get("target", nothing[:, 0])
    seen, residual = matmul(rows, root), target - matmul(rows, mean)
    curvature = jnp.eye(len(mean), dtype=mean.dtype) + matmul(seen.T, seen)
    slope = matmul(seen.T, residual)
    if has_tilt:
        curvature += matmul(root.T, matmul(precision, root))
        slope += matmul(root.T, linear - matmul(precision, mean))
    factor = jnp.linalg.cholesky(curvature)
    half = jax.scipy.linalg.solve_triangular(factor, slope, lower=True)
    best = jax.scipy.linalg.solve_triangular(factor, half, lower=True, trans=1)
    moved = mean + matmul(root, best)
    left = residual - matmul(seen, best)
    gain = -0.5 * (vdot(best, best) + vdot(left, left)) - jnp.sum(jnp.log(jnp.diagonal(factor)))
    if has_tilt:
        gain += vdot(linear, moved) - 0.5 * vdot(moved, matmul(precision, moved))
    narrowed = jax.scipy.linalg.solve_triangular(factor, root.T, lower=True).T
    return moved, narrowed, gain + constant


def _triangle(a, b):
    """The lower triangular root of a aᵀ + b bᵀ, by orthogonal transformations of [a b]."""
    return jnp.linalg.qr(jnp.concatenate([a, b], 1).T)[1].T


def _root(covariance):
    """A root of a covariance that may be singular."""
    values, vectors = jnp.linalg.eigh(covariance)
    return vectors * jnp.sqrt(jnp.maximum(values, 0))


def _normal(residual, covariance, root):
    """E log N(r; 0, S Sᵀ) for r of the given mean and covariance."""
    dim = len(residual)
    inverse = jax.scipy.linalg.solve_triangular(root, jnp.eye(dim, dtype=root.dtype), lower=True)
    whitened = matmul(inverse, residual)
    square = vdot(whitened, whitened) + vdot(matmul(inverse, covariance), inverse)
    return -0.5 * (square + dim * _LOG_2PI) - jnp.sum(jnp.log(jnp.abs(jnp.diagonal(root))))


def _pull(terms, mean, covariance):
    """E[h·z − ½ zᵀ J z]."""
    linear, precision = _tilt(terms, len(mean), mean.dtype)
    square = vdot(mean, matmul(precision, mean)) + vdot(precision, covariance)
    return vdot(linear, mean) - 0.5 * square


def _no_spread(z):
    count, dim = z.shape
    return jnp.zeros((count, dim, dim), z.dtype), jnp.zeros((count - 1, dim, dim), z.dtype)


def _second_moments(means, covariances, cross):
    outer = jax.vmap(jnp.outer)
    return {
        "state": means,
        "square": covariances + outer(means, means),
        "cross": cross + outer(means[:-1], means[1:]),
    }


def _join(left, right):
    """∫ left(z → y) right(y → z') dy."""
    A1, b1, C1, h1, J1, c1 = left
    A2, b2, C2, h2, J2, c2 = right
    dim = len(b1)
    # D = (I + C₁ J₂)⁻¹, by which what the right one knows of y shrinks the left one's spread.
    mixed = jnp.eye(dim, dtype=C1.dtype) + matmul(C1, J2)
    factors = jax.scipy.linalg.lu_factor(mixed)
    solve = lambda rhs: jax.scipy.linalg.lu_solve(factors, rhs)
    pulled = solve(b1 + matmul(C1, h2))
    moved, narrowed = solve(A1), solve(C1)
    linear = h2 - matmul(J2, b1)
    log_determinant = jnp.sum(jnp.log(jnp.abs(jnp.diagonal(factors[0]))))
    return (
        matmul(A2, moved),
        matmul(A2, pulled) + b2,
        matmul(A2, matmul(narrowed, A2.T)) + C2,
        matmul(moved.T, linear) + h1,
        matmul(A1.T, matmul(J2, moved)) + J1,
        c1
        + c2
        - 0.5 * log_determinant
        + vdot(h2, b1)
        - 0.5 * vdot(b1, matmul(J2, b1))
        + 0.5 * vdot(linear, matmul(narrowed, linear)),
    )
