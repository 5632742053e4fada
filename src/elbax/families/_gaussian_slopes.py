r"""Smoothing and drawing of Gaussian chains, with derivatives of their own.

All that is random at a step, w = (η, z, ν, ε), is linear in y = (η', ρ) (see `_kalman.py`). A change of the
parameters changes that map, forwards: the predicted state becomes m + dm + (R + dR) η. The observation has to be
X ζ again, so (ζ, ξ) is turned; the next state has to be R' η' again, so (η', ρ) is. What is left is w + a + B y.
Backwards, η moves by a + B y, and is η' of the step before: the moments of y change, and with them those of w.

No root is differentiated. Those of innovations and predictions are inverted. Those of noise, which may be zero,
are not.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp

from .._math.algebra import diagonal, matmul, matvec as apply, product as summed
from .._math.linear_algebra import invert_triangle
from .._math.triangularize import triangularize
from .._types import Array, Float, PyTree, Scalar
from . import _kalman as kalman
from ._gaussian_links import Links, run, run_back


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def smoothed(natural: PyTree, pairwise: bool) -> tuple[Scalar, Scalar, kalman.Moments]:
    """Returns (log-normalizer, entropy over the directions that have noise, moments)."""
    return _results(natural, *kalman.smoothed(natural, pairwise))


@smoothed.defjvp
def _(pairwise, primals, tangents):
    (natural,), (change,) = primals, tangents
    back, later, moments = kalman.smoothed(natural, pairwise)
    change = change | {"length": natural["length"]}
    moved = _moved(natural, change, back, pairwise)
    slopes = (
        kalman.score_slope(natural, moments, change),
        _entropy_slope(natural, change, moved, back),
        _moments_slope(change, moved, back, later, moments, pairwise),
    )
    return _results(natural, back, later, moments), slopes


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def draw(natural: PyTree, noise: Float[Array, "T d"], pairwise: bool) -> Float[Array, "T d"]:
    """Returns the path that standard normal noise stands for: each state given the next, by a triangular root."""
    back = kalman.back(natural, pairwise)
    return _path(back, apply(_free(back), noise), pairwise, *_centers(back))[0]


@draw.defjvp
def _(pairwise, primals, tangents):
    (natural, noise), (change, noise_change) = primals, tangents
    back, change = kalman.back(natural, pairwise), change | {"length": natural["length"]}
    moved, free = _moved(natural, change, back, pairwise), _free(back)
    y = apply(free, noise)
    path, later = _path(back, y, pairwise, *_centers(back))

    dim, (_, z, *_) = path.shape[1], back.blocks()
    root, by_noise = product(back.matrix[:, z], free), right_times(moved.matrix[:, z], free)
    turned = noise_change + apply(_turn(root, by_noise, _size(back)), noise)
    known = moved.shift + apply(moved.matrix, y.at[:, :dim].add(later))
    return path, _path(back, apply(free, turned), pairwise, known[:, :dim], known[:, z])[0]


_SMALL = 8


def _results(natural, back, later, moments):
    return back.found.value, kalman.spread_out(natural, back.found), moments


def product(a, b):
    """Returns A B, for the smallest matrices as one loop: one call for each of them would be slow."""
    return summed(a, b) if max(a.shape[-2:] + b.shape[-2:]) <= 4 else matmul(a, b)


def left_times(matrix, change):
    """Returns A dB, row by row. Its transpose is one sum of products; that of `matmul` is a call for each."""
    if max(matrix.shape[-2:] + change.shape[-2:]) > _SMALL:
        return matmul(matrix, change)
    rows = (jnp.sum(matrix[..., i, :, None] * change, -2) for i in range(matrix.shape[-2]))
    return jnp.stack(list(rows), -2)


def right_times(change, matrix):
    """Returns dA B, column by column."""
    if max(matrix.shape[-2:] + change.shape[-2:]) > _SMALL:
        return matmul(change, matrix)
    columns = (jnp.sum(change * matrix[..., None, :, k], -1) for k in range(matrix.shape[-1]))
    return jnp.stack(list(columns), -1)


# --- draws -----------------------------------------------------------------------------------------


def _free(back):
    """Returns U (T, d + k, d), orthonormal, with y = (η', 0) + U n for the noise n of a step.

    n moves the state by a triangular root. After the last state η' is free too.
    """
    steps, dim = back.found.steps, back.found.means.shape[1]
    of_xi = steps.of_move[:, :dim].mT
    rest = jnp.eye(of_xi.shape[1], dtype=of_xi.dtype)[:, dim:]
    basis = jnp.where(back.inside[:, None, None], rest, of_xi)
    turn = jax.vmap(lambda root: triangularize(root, dim)[1])
    return product(basis, turn(product(back.matrix[:, dim : 2 * dim], basis)))


def _centers(back):
    return back.found.known[:, : back.found.means.shape[1]], back.found.means


def _path(back, y, pairwise, known, means):
    """Returns (each state, each η'), where y is what each step adds to (η', 0), and η and z have these means."""
    dim = back.found.means.shape[1]
    of_eta, of_z = back.matrix[:, :dim], back.matrix[:, dim : 2 * dim]
    links = Links(_own(back), known + apply(of_eta, y))
    found, _ = run_back(links, jnp.zeros_like(known[0]), pairwise=pairwise)
    later = jnp.where(back.inside[:, None], found[1:], 0)
    path = means + apply(of_z, y) + apply(of_z[..., :dim], later)
    return jnp.where(back.in_time[:, None], path, 0), later


def _own(back):
    """Returns the matrix from η' to η; 0 after the last state."""
    dim = back.found.means.shape[1]
    return jnp.where(back.inside[:, None, None], back.matrix[:, :dim, :dim], 0)


def _size(back):
    """Returns the deviations of each state given the observations up to it."""
    return jnp.linalg.norm(back.found.steps.root, axis=-1)


def _turn(root, change, size):
    """Returns Ω, antisymmetric, with `change` + L Ω lower triangular, as L is: noise n becomes n + Ω n.

    Where L has no noise but rounding there is no such Ω: any turn of the noise leaves its distribution as it is.
    """
    lacking = _lacking(root, size)
    inverse = invert_triangle(root + lacking)
    matrix = left_times(inverse - product(lacking, inverse), change)
    return jnp.tril(matrix.mT, -1) - jnp.triu(matrix, 1)


def _lacking(root, size):
    """Returns the matrix with 1 in the place of each pivot that is rounding of numbers of this size."""
    eye = jnp.eye(root.shape[-1], dtype=root.dtype)
    rounding = 8 * len(eye) * jnp.finfo(root.dtype).eps * size
    return jnp.where((diagonal(root) <= rounding)[..., None], eye, 0)


# --- what a change of the parameters moves -----------------------------------------------------------


class _Moved(eqx.Module):
    """How w, a function of y, changes with the parameters.

    **Fields**, with a leading axis of steps:

    - `shift` a, `matrix` B: w moves by a + B y.
    - `root` dR: the predicted state moves by a constant and dR η.
    - `narrowing`: the change of log |X| less log |tilt|, of all steps.
    """

    shift: Array
    matrix: Array
    root: Array
    narrowing: Array


class _Units(eqx.Module):
    """Changes of a predicted state, in units of its root R + D, where D has the pivots that R lacks.

    Not in units of the state: of one that an observation determines, I - K X⁻¹ G is lost to rounding in float32.

    **Fields**, with a leading axis of steps:

    - `root`, `inverse`: R + D and its inverse; `has`: 1 for each pivot of R.
    - `said`, `kept`: the matrices to X⁻¹ G z and to z - K X⁻¹ G z.
    - `moving`: the matrix to the next state's units.
    """

    root: Array
    inverse: Array
    has: Array
    said: Array
    kept: Array
    moving: Array


def _units(natural, back, whiten):
    steps, dim = back.found.steps, back.found.means.shape[1]
    predicted, width = steps.predicted, steps.innovation.shape[-1]
    matrix, noise = (_every(natural["transition"][name], 2, back) for name in ("matrix", "root"))
    size = apply(jnp.abs(matrix), _size(back)) + jnp.linalg.norm(noise, axis=-1)
    lacking = _lacking(predicted, jnp.concatenate([0 * size[:1], size[:-1]]))
    inverse = invert_triangle(predicted + lacking)
    # The step of R is that of η; D takes a step of its own.
    of_zeta, of_xi = steps.of_rows[:, :dim, :width], steps.of_rows[:, :dim, width:]
    said = product(product(whiten, natural["unary"]["rows"]), lacking)
    left = lacking - product(steps.gain, said)
    kept = product(product(predicted, of_xi), of_xi.mT) + left
    tilts = kalman.tilts_of(natural)
    if tilts:
        bent = product(steps.root.mT, product(tilts["precision"], left))
        left = left - product(steps.root, bent)
    own = product(steps.left()[:, :dim], steps.of_move[:, :dim, :dim]).mT
    rest = product(matrix, left) - product(_after(lacking), own)
    return _Units(
        root=predicted + lacking,
        inverse=inverse,
        has=1 - diagonal(lacking),
        said=of_zeta.mT + said,
        kept=kept,
        moving=own + product(_after(inverse), rest),
    )


def _after(leaf):
    """Returns what belongs to the next step; that of the last one is not used."""
    return jnp.concatenate([leaf[1:], leaf[:1]])


def _but_last(links):
    return jax.tree.map(lambda leaf: leaf[:-1], links)


def _every(leaf, axes, back):
    """Returns the term, padded if there is one for each step."""
    return kalman.padded(leaf, len(back.matrix)) if leaf.ndim > axes else leaf


def _moved(natural, change, back, pairwise):
    """Returns what a change of the parameters moves, by two recursions forwards: of roots, then of means."""
    found, steps = back.found, back.found.steps
    dim, width = found.means.shape[1], steps.innovation.shape[-1]
    root, tilt, means = steps.root, steps.tilt, found.means
    whiten, left = invert_triangle(steps.innovation), steps.left()
    units = _units(natural, back, whiten)
    of_zeta, by_xi = steps.of_rows[..., :width], steps.of_move[:, :dim]
    narrow = (
        (lambda columns: columns) if tilt is None else (lambda columns: right_times(columns, tilt))
    )
    known_state, known_noise = found.known[:, :dim], found.known[:, dim:]

    matrix = _every(natural["transition"]["matrix"], 2, back)
    d_matrix, d_noise = (_every(change["transition"][name], 2, back) for name in ("matrix", "root"))
    d_offset = _every(change["transition"]["offset"], 1, back)
    d_rows, d_seen = change["unary"]["rows"], change["unary"].get("root")
    seen = right_times(d_rows, product(steps.predicted, steps.of_rows[:, :dim]))
    residual = change["unary"]["target"] - apply(d_rows, means)
    if d_seen is not None:
        seen += right_times(jnp.tril(d_seen), steps.of_rows[:, dim:])
        residual -= apply(jnp.tril(d_seen), known_noise)
    seen, residual = left_times(whiten, seen), apply(whiten, residual)

    # The tilts h and J, the slope h - J z at the means, and the changes of both.
    tilts = kalman.tilts_of(natural)
    more = kalman.tilts_of(change, change.get("probe", {}).items())
    score = apply(of_zeta.mT, found.known)
    bent, slope = None, jnp.zeros_like(means)
    d_bent, d_slope = jnp.zeros_like(root), None
    if tilts:
        slope = tilts["linear"] - apply(tilts["precision"], means)
        score -= apply(steps.gain.mT, slope)
        bent = product(root.mT, tilts["precision"])
    if more:
        d_precision = 0.5 * (more["precision"] + more["precision"].mT)
        d_bent = 0.5 * left_times(root.mT, right_times(d_precision, root))
        d_slope = apply(root.mT, more["linear"] - apply(d_precision, means))

    def of_xi(change_of_eta):
        """Returns how X⁻¹ of the observation, (η, ν) and z change as functions of ξ; and the log-volume."""
        turned = seen + left_times(units.said, right_times(change_of_eta, steps.of_rows[:, :dim]))
        volume = jnp.trace(turned[..., :width], axis1=1, axis2=2)
        turned = narrow(turned[..., width:])
        of_state = left_times(units.kept, right_times(change_of_eta, left[:, :dim]))
        of_state -= left_times(steps.gain, narrow(seen[..., width:]))
        of_known = -left_times(of_zeta, turned)
        if tilts or more:
            bend = d_bent if bent is None else d_bent + left_times(bent, of_state)
            of_known, of_state = (
                of_known - left_times(left, bend),
                of_state - left_times(root, bend),
            )
            volume += jnp.trace(bend, axis1=1, axis2=2)
        return turned, of_known, of_state, volume

    def next_root(of_state):
        moved = right_times(left_times(matrix, of_state) + right_times(d_matrix, root), by_xi)
        moved += right_times(jnp.tril(d_noise), steps.of_move[:, dim:])
        return left_times(_after(units.inverse), moved)

    added = next_root(of_xi(jnp.zeros_like(root))[2])[..., :dim]
    own = product(left[:, :dim], by_xi[..., :dim])
    start = left_times(units.inverse[0], jnp.tril(change["initial"]["root"]))
    _, roots = run(_but_last(Links(units.moving, None, added, own)), None, start, pairwise)
    turned, of_known, of_state, volume = of_xi(roots)

    def means_of(change_of_mean):
        """Returns the changes of the means of (η, ν) and of z."""
        moved = change_of_mean + apply(roots, known_state)
        unseen = residual - apply(units.said, moved)
        kept = apply(units.kept, moved) + apply(steps.gain, residual)
        inner = apply(turned.mT, score)
        if bent is not None:
            by_slope = left_times(units.root, right_times(roots, left[:, :dim]))
            inner += apply(by_slope.mT, slope) - apply(bent, kept)
        if d_slope is not None:
            inner += d_slope
        return apply(of_zeta, unseen) + apply(left, inner), kept + apply(root, inner)

    _, ahead = means_of(jnp.zeros_like(means))
    added = apply(_after(units.inverse), apply(matrix, ahead) + apply(d_matrix, means) + d_offset)
    start = apply(units.inverse[0], change["initial"]["mean"])
    mean, _ = run(_but_last(Links(units.moving, added)), start, pairwise=pairwise)
    of_mean, center = means_of(mean)

    # (η', ρ) is turned, so that the next state is no function of ρ: [R' 0] Ω = -[0 E].
    open_ = next_root(of_state)[..., dim:] * _after(units.has)[..., None]
    open_ = jnp.where(back.inside[:, None, None], open_, 0)
    by_next, by_rest = back.matrix[..., :dim], back.matrix[..., dim:]
    turn = jnp.concatenate([left_times(by_rest, open_.mT), -left_times(by_next, open_)], 2)
    of_w = jnp.concatenate([of_known[:, :dim], of_state, of_known[:, dim:], 0 * root], 1)
    return _Moved(
        shift=jnp.concatenate([of_mean[:, :dim], center, of_mean[:, dim:], 0 * means], 1),
        matrix=right_times(of_w, by_xi) + turn,
        root=left_times(units.root, roots),
        narrowing=jnp.sum(jnp.where(back.in_time, volume, 0)),
    )


def _entropy_slope(natural, change, moved, back):
    """Returns the change of the entropy."""
    inside = back.in_time.astype(moved.shift.dtype)
    parts = [name for name in ("initial", "transition", "unary") if "root" in natural[name]]
    roots = lambda terms: {name: terms[name]["root"] for name in parts}

    def volumes(roots):
        with_roots = {name: natural[name] | {"root": root} for name, root in roots.items()}
        return kalman.log_volumes(natural | with_roots, inside)

    _, slope = jax.jvp(volumes, (roots(natural),), (roots(change),))
    return -slope - moved.narrowing


def _moments_slope(change, moved, back, later, moments, pairwise):
    """Returns the change of all moments."""
    dim, (eta, z, nu, epsilon) = moments.means.shape[1], back.blocks()
    inside, each = back.inside[:, None], back.inside[:, None, None]
    (mean, covariance), steps = later, back.found.steps
    by_next, by_rest = back.matrix[..., :dim], back.matrix[..., dim:]
    shift = moved.shift + apply(moved.matrix[..., :dim], mean)
    # Half of the change of w's covariance is of_next by_nextᵀ + of_rest by_restᵀ.
    of_next, of_rest = right_times(moved.matrix[..., :dim], covariance), moved.matrix[..., dim:]

    def half(one, other):
        found = right_times(of_next[:, one], by_next[:, other].mT)
        return found + right_times(of_rest[:, one], by_rest[:, other].mT)

    own, none = half(eta, eta), jnp.zeros_like(covariance[0])
    links = Links(_own(back), shift[:, eta], own + own.mT)
    means, squares = run_back(links, none[0], none, pairwise)
    shift += apply(by_next, jnp.where(inside, means[1:], 0))
    square = left_times(by_next, jnp.where(each, squares[1:], 0))
    cross = right_times((of_next + square)[:-1, z], steps.predicted[1:].mT)
    cross += left_times(product(by_next[:-1, z], covariance[:-1]), moved.root[1:].mT)
    of_next += 0.5 * square
    spread = lambda one, other: half(one, other) + half(other, one).mT

    initial, transition, unary = (change[name] for name in ("initial", "transition", "unary"))
    root = unary.get("root", jnp.zeros_like(moments.unary.root))
    return kalman.Moments(
        jnp.where(back.in_time[:, None], shift[:, z], 0),
        initial=kalman.Noise(None, initial["mean"], initial["root"], means[:1], squares[:1]),
        transition=kalman.Noise(
            *(transition[name] for name in ("matrix", "offset", "root")),
            mean=shift[:-1, epsilon],
            covariance=spread(epsilon, epsilon)[:-1],
            cross=spread(epsilon, z)[:-1],
        ),
        unary=kalman.Noise(
            unary["rows"],
            -unary["target"],
            root,
            mean=shift[:, nu],
            covariance=spread(nu, nu),
            cross=spread(nu, z),
        ),
        covariances=jnp.where(back.in_time[:, None, None], spread(z, z), 0),
        cross=jnp.where(each[:-1], cross, 0),
    )
