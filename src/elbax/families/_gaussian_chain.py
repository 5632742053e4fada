"""A path through a linear-Gaussian state space."""

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp

from .._algebra import add, matmul, vdot
from .._types import Any, Array, Callable, Float, Key, PyTree, Scalar
from ._family import AbstractFamily
from ._recursion import check_order, Order, pairwise, runs_pairwise


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
    `transition`, for each state that has a successor), and `"constant"` c as it stands. `"probe"`,
    `{"unary": {"linear", "precision"}, "transition": the same}`, are such terms that are zero: there to be
    differentiated by, at the cost of nothing else, for Σ E z and Σ E z zᵀ.

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
    >>> print([f"{level:.2f}" for level in q.mode()[:, 0]])
    ['0.73', '0.85', '0.68']

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
        return _kalman(self, natural)

    def _stages(self, natural):
        """(unary terms, the transition's terms), each with a leading axis of T steps and T - 1."""
        unary = _by_step(natural["unary"], len(natural["unary"]["target"]))
        return unary, _by_step(natural["transition"], len(natural["unary"]["target"]) - 1)

    def _roots(self, natural):
        """All of a filter that does not depend on the data: roots of covariances after each stage.

        Sequences side by side share them, as long as what they observe is of one kind.
        """
        initial = natural["initial"]
        shared, varying = _split(natural["transition"])
        rows_shared, rows_varying = _split(natural["unary"])
        first = {name: leaf[0] for name, leaf in rows_varying.items()}
        start = _narrow(initial["root"], initial)
        observed = _narrow(start, {**rows_shared, **first})

        def step(root, row):
            transition, unary = row
            transition = {**shared, **transition}
            pulled = _narrow(root, transition)
            predicted = _triangle(matmul(transition["matrix"], pulled), transition["root"])
            root = _narrow(predicted, {**rows_shared, **unary})
            return root, (pulled, predicted, root)

        later = {name: leaf[1:] for name, leaf in rows_varying.items()}
        if len(natural["unary"]["target"]) == 1:
            none = jnp.zeros((0, self.dim, self.dim), observed.dtype)
            found = (none, none, none)
        else:
            step = step if self.segment is None else jax.checkpoint(step)
            _, found = jax.lax.scan(step, observed, (varying, later))
        pulled, predicted, roots = found
        join = lambda first, rest: jnp.concatenate([first[None], rest])
        return join(start, predicted), join(observed, roots), pulled

    def _filter(self, natural):
        """(log-normalizer, means after each observation, after each pull, and the roots)."""
        initial, (unary, transition) = natural["initial"], self._stages(natural)
        before, observed, pulled = roots = self._roots(natural)
        begin, total = _tilt_mean(initial["mean"], initial["root"], before[0], initial)
        total += initial.get("constant", 0.0)
        each = jax.vmap(_affine)
        by_unary = each(observed, unary)
        if len(pulled):
            by_pull = each(pulled, transition)

            def compose(of_unary, of_pull, matrix, offset):
                (a, c), (b, d) = of_unary, of_pull
                keep = matmul(matrix, b)
                return matmul(keep, a), matmul(keep, c) + matmul(matrix, d) + offset

            first = jax.tree.map(lambda leaf: leaf[:-1], by_unary)
            maps = jax.vmap(compose)(first, by_pull, transition["matrix"], transition["offset"])

            def step(mean, row):
                keep, shift = row
                mean = matmul(keep, mean) + shift
                return mean, mean

            _, later = jax.lax.scan(step, begin, maps)
            predicted = jnp.concatenate([begin[None], later])
        else:
            predicted = begin[None]
        means, gains = jax.vmap(_tilt_mean)(predicted, before, observed, unary)
        length = natural["length"]
        gains += unary.get("constant", 0.0)
        total += jnp.sum(jnp.where(jnp.arange(len(means)) < length, gains, 0))
        ahead, more = jax.vmap(_tilt_mean)(means[:-1], observed[:-1], pulled, transition)
        more += transition.get("constant", 0.0)
        total += jnp.sum(jnp.where(jnp.arange(1, len(means)) < length, more, 0))
        return total, means, ahead, roots

    # --- moments ---------------------------------------------------------------------------------

    def moments(self, natural: PyTree) -> tuple[Array, Array, Array]:
        """The smoother: (E z_t (T, d), Cov z_t (T, d, d), Cov(z_t, z_{t+1}) (T - 1, d, d)), 0 in the padding."""
        found = self._smooth(natural)[1]
        return found["means"], found["covariances"], found["cross"]

    def _backward(self, natural):
        """(log-normalizer, ends, what going back through each transition takes)."""
        total, means, ahead, (before, observed, pulled) = self._filter(natural)
        _, transition = self._stages(natural)

        def one(root, predicted, mean, terms):
            matrix, noise = terms["matrix"], terms["root"]
            eye = jnp.eye(self.dim, dtype=root.dtype)
            # P⁻¹ for the predicted P = A S Sᵀ Aᵀ + L Lᵀ.
            half = jax.scipy.linalg.solve_triangular(predicted, eye, lower=True)
            inverse = jax.scipy.linalg.solve_triangular(predicted, half, lower=True, trans=1)
            gain = matmul(root, matmul(root.T, matmul(matrix.T, inverse)))
            # z' = A z + b + L ε₂ with z = m + S ε₁. What z' leaves of z is (I − gain A) S ε₁ − gain L ε₂, and of
            # the noise A gain L ε₂ − (I − A gain) A S ε₁, where I − A gain = L Lᵀ P⁻¹: nothing cancels.
            surprise = matmul(noise, matmul(noise.T, inverse))
            kept = eye - matmul(gain, matrix)
            left = jnp.concatenate([matmul(kept, root), -matmul(gain, noise)], 1)
            moved = jnp.concatenate(
                [-matmul(surprise, matmul(matrix, root)), matmul(matmul(matrix, gain), noise)], 1
            )
            shift = mean - matmul(gain, matmul(matrix, mean) + terms["offset"])
            return {
                "gain": gain,
                "surprise": surprise,
                "left": left,
                "moved": moved,
                "shift": shift,
            }

        steps_back = jax.vmap(one)(pulled, before[1:], ahead, transition)
        return total, (means, matmul(observed, observed.mT)), steps_back

    def _smooth(self, natural):
        """(log-normalizer, moments of states and of the noise between them)."""
        total, ends, back = self._backward(natural)
        last = natural["length"] - 1
        times = jnp.arange(len(ends[0]) - 1)

        def step(later, row):
            t, (mean_end, covariance_end), spread, gain, shift = row
            mean, covariance = later
            smoothed = spread + matmul(gain, matmul(covariance, gain.T))
            now = (
                jnp.where(t < last, shift + matmul(gain, mean), mean_end),
                jnp.where(t < last, smoothed, covariance_end),
            )
            return now, now

        end = jax.tree.map(lambda leaf: leaf[-1], ends)
        before = jax.tree.map(lambda leaf: leaf[:-1], ends)
        spread = matmul(back["left"], back["left"].mT)
        rows = (times, before, spread, back["gain"], back["shift"])
        if len(times):
            _, (means, covariances) = jax.lax.scan(step, end, rows, reverse=True)
            means = jnp.concatenate([means, end[0][None]])
            covariances = jnp.concatenate([covariances, end[1][None]])
        else:
            means, covariances = ends
        inside = jnp.arange(len(means)) <= last
        means = jnp.where(inside[:, None], means, 0)
        covariances = jnp.where(inside[:, None, None], covariances, 0)
        gain, after = back["gain"], covariances[1:]
        _, transition = self._stages(natural)
        # The noise w = z' − A z − b: with z = gain z' + left ε it is surprise z' + moved ε.
        moved, surprise = back["moved"], back["surprise"]
        noise = matmul(surprise, matmul(after, surprise.mT)) + matmul(moved, moved.mT)
        noise_cross = matmul(surprise, matmul(after, gain.mT)) + matmul(moved, back["left"].mT)
        drift = means[1:] - _matvec(transition["matrix"], means[:-1]) - transition["offset"]
        return total, {
            "means": means,
            "covariances": covariances,
            "cross": jnp.where((times < last)[:, None, None], matmul(gain, after), 0),
            "matrix": transition["matrix"],
            "offset": transition["offset"],
            "drift": drift,
            "noise": noise,
            "noise_cross": noise_cross,
        }

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
        _, (means, covariances), back = self._backward(natural)
        last = natural["length"] - 1
        key_end, key_back = jax.random.split(key)
        noise = jax.random.normal(key_end, means.shape, means.dtype)
        alone = means + _matvec(jax.vmap(_root)(covariances), noise)
        noise = jax.random.normal(key_back, (len(means) - 1, 2 * self.dim), means.dtype)
        drawn = back["shift"] + _matvec(back["left"], noise)

        def step(later, row):
            t, alone, drawn, gain = row
            now = jnp.where(t < last, drawn + matmul(gain, later), alone)
            return now, now

        times = jnp.arange(len(means) - 1)
        _, z = jax.lax.scan(step, alone[-1], (times, alone[:-1], drawn, back["gain"]), reverse=True)
        z = jnp.concatenate([z, alone[-1:]])
        return jnp.where((jnp.arange(len(z)) <= last)[:, None], z, 0)

    # --- expectations ----------------------------------------------------------------------------

    def score(self, natural: PyTree, z: Float[Array, "T d"]) -> Scalar:
        count = len(z)
        none = jnp.zeros((count, self.dim, self.dim), z.dtype)
        matrix, offset = (
            _by_step(natural["transition"], count - 1)[name] for name in ("matrix", "offset")
        )
        point = {
            "means": z,
            "covariances": none,
            "matrix": matrix,
            "offset": offset,
        }
        drift = z[1:] - _matvec(matrix, z[:-1]) - offset
        point |= {"drift": drift, "noise": none[1:], "noise_cross": none[1:]}
        return self._expected_score(natural, point)

    def bound(self, natural: PyTree, potentials: PyTree) -> Scalar:
        """E_q[log-weight of λ] + H(q) = A(η) + E_q[log-weight of λ − log-weight of η]."""
        total, found = self._smooth(natural)
        gap = self._expected_score(potentials, found) - self._expected_score(natural, found)
        return total + gap

    def entropy(self, natural: PyTree) -> Scalar:
        total, found = self._smooth(natural)
        return total - self._expected_score(natural, found)

    def _expected_score(self, natural, found):
        """The exponent's expectation. The noise between states is taken from its own moments, about the transition
        that they were found with: as a difference of those of the states it would cancel."""
        length, means, covariances = natural["length"], found["means"], found["covariances"]
        initial, (unary, transition) = natural["initial"], self._stages(natural)
        total = _normal(means[0] - initial["mean"], covariances[0], initial["root"])
        total += _pull(initial, means[0], covariances[0]) + initial.get("constant", 0.0)

        def observe(mean, covariance, terms):
            rows = terms["rows"]
            residual = terms["target"] - matmul(rows, mean)
            square = vdot(residual, residual) + vdot(matmul(rows, covariance), rows)
            return _pull(terms, mean, covariance) + terms.get("constant", 0.0) - 0.5 * square

        each = jax.vmap(observe)(means, covariances, unary)
        inside = jnp.arange(len(means)) < length
        total += jnp.sum(jnp.where(inside, each, 0))
        probes = natural.get("probe", {})
        for name, count in dict(unary=len(means), transition=len(means) - 1).items():
            if name in probes:
                seen = inside[len(means) - count :].astype(means.dtype)
                m, v = means[:count], covariances[:count]
                mean, second = matmul(seen, m), matmul((seen[:, None] * m).T, m)
                linear, precision = probes[name]["linear"], probes[name]["precision"]
                second += jnp.sum(seen[:, None, None] * v, 0)
                total += vdot(linear, mean) - 0.5 * vdot(precision, second)

        def move(mean, covariance, found, terms):
            off = found["matrix"] - terms["matrix"]
            residual = found["drift"] + matmul(off, mean) + found["offset"] - terms["offset"]
            half = matmul(found["noise_cross"], off.T) + 0.5 * matmul(
                off, matmul(covariance, off.T)
            )
            kernel = _normal(residual, found["noise"] + half + half.T, terms["root"])
            return kernel + _pull(terms, mean, covariance) + terms.get("constant", 0.0)

        names = ("matrix", "offset", "drift", "noise", "noise_cross")
        noise = {name: found[name] for name in names}
        each = jax.vmap(move)(means[:-1], covariances[:-1], noise, transition)
        return total + jnp.sum(jnp.where(jnp.arange(1, len(means)) < length, each, 0))

    # --- as a tree -------------------------------------------------------------------------------

    def _pairwise(self, natural):
        """Links from state to state, joined by integrating over the one between (Särkkä and García-Fernández
        2021): N(z'; A z + b, C) exp(h·z − ½ zᵀ J z + c)."""
        unary, transition = self._stages(natural)
        count, dim, length = len(unary["target"]), self.dim, natural["length"]
        probes = natural.get("probe", {})
        probe = {
            name: _tilt(probes.get(name, {}), dim, unary["target"].dtype)
            for name in ("unary", "transition")
        }
        dtype = natural["initial"]["root"].dtype
        eye, initial = jnp.eye(dim, dtype=dtype), natural["initial"]

        def information(terms):
            target = terms["target"]
            constant = terms.get("constant", 0.0) - 0.5 * vdot(target, target)
            return *add(_information(terms, dim, dtype), probe["unary"]), constant

        h, J, c = jax.vmap(information)(unary)
        linear, precision = _tilt(initial, dim, dtype)
        h, J = h.at[0].add(linear), J.at[0].add(precision)
        c = c.at[0].add(jnp.asarray(initial.get("constant", 0.0), dtype))

        def move(terms):
            return (
                terms["matrix"],
                terms["offset"],
                matmul(terms["root"], terms["root"].T),
                *add(_tilt(terms, dim, dtype), probe["transition"]),
                jnp.asarray(terms.get("constant", 0.0), dtype),
            )

        A, b, C, h_ahead, J_ahead, c_ahead = jax.vmap(move)(transition)
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


_BASE = {
    "matrix": 2,
    "root": 2,
    "offset": 1,
    "rows": 2,
    "target": 1,
    "linear": 1,
    "precision": 2,
    "constant": 0,
}


def _split(terms):
    """(what all steps share, what each step has of its own)."""
    varies = {name: jnp.ndim(leaf) > _BASE[name] for name, leaf in terms.items()}
    return tuple(
        {name: terms[name] for name in terms if varies[name] is own} for own in (False, True)
    )


def _by_step(terms, count):
    """The terms with a leading axis of steps."""
    shared, varying = _split(terms)
    spread = {
        name: jnp.broadcast_to(leaf, (count, *jnp.shape(leaf))) for name, leaf in shared.items()
    }
    return spread | varying


def _matvec(matrices, vectors):
    return matmul(matrices, vectors[..., None])[..., 0]


def _tilt(terms, dim, dtype):
    return terms.get("linear", jnp.zeros(dim, dtype)), terms.get(
        "precision", jnp.zeros((dim, dim), dtype)
    )


def _has_tilt(terms):
    return "linear" in terms or "precision" in terms


def _information(terms, dim, dtype):
    """(h + Gᵀ g, J + Gᵀ G)."""
    linear, precision = _tilt(terms, dim, dtype)
    if "rows" in terms:
        rows = terms["rows"]
        linear = linear + matmul(rows.T, terms["target"])
        precision = precision + matmul(rows.T, rows)
    return linear, precision


def _narrow(root, terms):
    """The root of (S⁻ᵀ S⁻¹ + Gᵀ G + J)⁻¹: |I + Sᵀ (Gᵀ G + J) S| needs no root of what is added."""
    if "rows" not in terms and not _has_tilt(terms):
        return root
    curvature = jnp.eye(len(root), dtype=root.dtype)
    if "rows" in terms:
        seen = matmul(terms["rows"], root)
        curvature += matmul(seen.T, seen)
    if _has_tilt(terms):
        curvature += matmul(root.T, matmul(_tilt(terms, len(root), root.dtype)[1], root))
    # An upper factor, by which the root stays lower triangular.
    factor = jnp.linalg.cholesky(curvature[::-1, ::-1])[::-1, ::-1]
    return jax.scipy.linalg.solve_triangular(factor, root.T, lower=False).T


def _affine(root, terms):
    """The mean after conditioning as a function of that before, m ↦ K m + k, from the root after."""
    dim = len(root)
    if "rows" not in terms and not _has_tilt(terms):
        return jnp.eye(dim, dtype=root.dtype), jnp.zeros(dim, root.dtype)
    linear, precision = _information(terms, dim, root.dtype)
    keep = jnp.eye(dim, dtype=root.dtype) - matmul(root, matmul(root.T, precision))
    return keep, matmul(root, matmul(root.T, linear))


def _tilt_mean(mean, before, after, terms):
    """N(z; m, S Sᵀ) exp(−½ |G z − g|² + h·z − ½ zᵀ J z) = exp(gain) N(z; m', S' S'ᵀ): (m', gain).

    The gain is the exponent at its maximum, a sum of squares in which nothing large cancels, and log |S'| / |S|.
    """
    if "rows" not in terms and not _has_tilt(terms):
        return mean, jnp.zeros((), mean.dtype)
    dim, dtype = len(mean), mean.dtype
    linear, precision = _tilt(terms, dim, dtype)
    rows, target = (
        terms.get("rows", jnp.zeros((0, dim), dtype)),
        terms.get("target", jnp.zeros(0, dtype)),
    )
    residual = target - matmul(rows, mean)
    slope = linear - matmul(precision, mean) + matmul(rows.T, residual)
    change = matmul(after, matmul(after.T, slope))
    moved, left = mean + change, residual - matmul(rows, change)
    whitened = jax.scipy.linalg.solve_triangular(before, change, lower=True)
    logs = lambda root: jnp.log(jnp.abs(jnp.diagonal(root)))
    gain = jnp.sum(logs(after) - logs(before))
    gain -= 0.5 * (vdot(whitened, whitened) + vdot(left, left))
    return moved, gain + vdot(linear, moved) - 0.5 * vdot(moved, matmul(precision, moved))


# The derivative of a log-normalizer is an expectation (Fisher's identity): a smoother's moments and one look at
# the exponent, instead of the way back through every root of the filter.
@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _kalman(chain, natural):
    return chain._filter(natural)[0]


@_kalman.defjvp
def _(chain, primals, tangents):
    (natural,), (slope,) = primals, tangents
    total, found = chain._smooth(natural)
    coordinates, labels = eqx.partition(natural, eqx.is_inexact_array)
    slope = eqx.filter(slope, jax.tree.map(eqx.is_inexact_array, natural))
    score = lambda coordinates: chain._expected_score(eqx.combine(coordinates, labels), found)
    return total, jax.jvp(score, (coordinates,), (slope,))[1]


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
