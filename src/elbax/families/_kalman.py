r"""Kalman's filter and the smoother behind it, in square-root form.

Covariances do not depend on the data: sequences side by side, with observations of one kind, share them. What
does depend on the data are differences, what an observation changes and what those to come add, so that nothing
large is subtracted from anything large. Natural parameters are those of `GaussianChain`.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp

from .._algebra import apply, in_every_lane, matmul, num_rows, product, vdot
from .._types import Any, Array, Callable, PyTree, Scalar


class Filtered(eqx.Module):
    """Each state given the observations so far, and what leads back from the next one.

    Given z', the state z and the noise w = z' − A z − b are (means + pulls, 0) + gain (z' − predicted') + rest ε
    with ε standard normal.

    **Fields:**

    - `predicted`, `means` (T, d): before and after a state's observation. They differ by `changes`, the
        first one's with what `initial` says besides.
    - `pulls` (T − 1, d): what the transition says besides of the state that it leaves.
    - `roots` (T, d, d): of the covariances after the observation.
    - `gain` (T − 1, 2 d, d), `rest` (T − 1, 2 d, 2 d).
    - `log_narrowing`: the log-determinant of all that narrowed the states.
    """

    predicted: Array
    means: Array
    changes: Array
    pulls: Array
    roots: Array
    gain: Array
    rest: Array
    log_narrowing: Scalar


class Moments(eqx.Module):
    """What an expectation under a chain is made of.

    **Fields:**

    - `means` (T, d), `covariances` (T, d, d): of the states.
    - `matrix`, `offset`: a transition, about which the noise is w = z' − A z − b.
    - `drift` (T − 1, d), `noise`, `noise_cross` (T − 1, d, d): the mean of w, its covariance, and that with z.
    - `cross` (T − 1, d, d): the covariance of z with z'.

    At a single point there are no covariances.
    """

    means: Array
    matrix: Array
    offset: Array
    drift: Array
    covariances: Any = None
    cross: Any = None
    noise: Any = None
    noise_cross: Any = None


# Axes of each term at one step; one more is a leading axis of steps.
_AXES = dict(matrix=2, root=2, offset=1, rows=2, target=1, linear=1, precision=2, constant=0)


def _split(terms: PyTree) -> tuple[PyTree, PyTree]:
    """(what all steps share, what each step has of its own)."""
    own = {name: leaf for name, leaf in terms.items() if jnp.ndim(leaf) > _AXES[name]}
    return {name: leaf for name, leaf in terms.items() if name not in own}, own


def each(function: Callable, terms: PyTree, *rows: Any) -> Any:
    """function(terms of a step, its rows), for every step; what steps share is not copied."""
    axes = {name: 0 if jnp.ndim(leaf) > _AXES[name] else None for name, leaf in terms.items()}
    return jax.vmap(function, in_axes=(axes, *(0 for _ in rows)))(terms, *rows)


def _is_silent(terms: PyTree) -> bool:
    """Whether the terms say nothing of the state."""
    return not {"rows", "linear", "precision"} & terms.keys()


def filtered(natural: PyTree) -> Filtered:
    """The filter: covariances first, then what the data change."""
    initial, transition, unary = (natural[name] for name in ("initial", "transition", "unary"))
    number, length = len(unary["target"]), natural["length"]
    (shared_transition, own_transition), (shared_unary, own_unary) = map(
        _split, (transition, unary)
    )
    first_unary = jax.tree.map(lambda leaf: leaf[0], own_unary)
    later_unary = jax.tree.map(lambda leaf: leaf[1:], own_unary)
    silent = _is_silent(transition)

    def narrow_step(root, row):
        transition, unary = shared_transition | row[0], shared_unary | row[1]
        pulled, of_pull = _narrow(root, transition)
        spread = product(transition["matrix"], pulled)
        predicted = _triangle(spread, transition["root"])
        after, of_unary = _narrow(predicted, unary)
        # What is pulled by nothing is the root before, which need not be kept twice.
        return after, (
            None if _is_silent(transition) else pulled,
            predicted,
            after,
            of_pull + of_unary,
        )

    start, of_start = _narrow(initial["root"], initial)
    root, of_first = _narrow(start, shared_unary | first_unary)
    run = _until_settled if not own_transition and own_unary.keys() == {"target"} else _to_the_end
    pulled, predicted, later, narrowing = run(narrow_step, root, (own_transition, later_unary))
    roots = jnp.concatenate([root[None], later])
    pulled = roots[:-1] if pulled is None else pulled
    in_time = jnp.arange(1, number) < length
    log_narrowing = of_start + of_first + jnp.sum(jnp.where(in_time, narrowing, 0))

    covariances, of_pulled = product(roots, roots.mT), product(pulled, pulled.mT)

    def step(mean, row):
        own_transition, own_unary, of_pulled, covariance = row
        transition, unary = shared_transition | own_transition, shared_unary | own_unary
        pull = None if silent else _change(mean, of_pulled, transition)
        leaving = mean if silent else mean + pull
        predicted = apply(transition["matrix"], leaving) + transition["offset"]
        change = _change(predicted, covariance, unary)
        return predicted + change, (pull, predicted, change)

    change_start = _change(initial["mean"], product(start, start.T), initial)
    begin = initial["mean"] + change_start
    change = _change(begin, covariances[0], shared_unary | first_unary)
    rows = own_transition, later_unary, of_pulled, covariances[1:]
    _, (pulls, later, changes) = jax.lax.scan(step, begin + change, rows)
    before = jnp.concatenate([begin[None], later])
    changes = jnp.concatenate([change[None], changes])
    linear = {name: transition[name] for name in ("matrix", "root")}
    gain, rest = each(_link, linear, pulled, predicted)
    return Filtered(
        predicted=before,
        means=before + changes,
        changes=changes.at[0].add(change_start),
        pulls=jnp.zeros((number - 1, 1), root.dtype) if pulls is None else pulls,
        roots=roots,
        gain=gain,
        rest=rest,
        log_narrowing=log_narrowing,
    )


_SETTLING = 64


def _to_the_end(step, root, rows):
    return jax.lax.scan(step, root, rows)[1]


def _until_settled(step, root, rows):
    """`_to_the_end` where each step is the same: once it changes nothing but rounding, neither do those to come.

    Columns of a root may change their signs from step to step.
    """
    head = jax.tree.map(lambda leaf: leaf[:_SETTLING], rows)
    tail = jax.tree.map(lambda leaf: leaf[_SETTLING:], rows)
    last, found = jax.lax.scan(step, root, head)
    number = num_rows(tail)
    if not number:
        return found
    before = jnp.abs(found[2][-2])
    moved = jnp.max(jnp.abs(jnp.abs(last) - before))
    settled = moved <= 4 * jnp.finfo(root.dtype).eps * jnp.max(before)

    def repeat():
        return jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf[-1], (number, *leaf.shape[1:])), found
        )

    rest = jax.lax.cond(in_every_lane(settled), repeat, lambda: _to_the_end(step, last, tail))
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), found, rest)


def _link(terms, root, predicted):
    r"""(gain, rest) of one step.

    z' − predicted' is R η with [A S, L] = R Y, R being lower triangular and the rows of Y orthonormal. With B =
    diag(S, L), the root of (z, w), and Y both: gain = B Yᵀ R⁻¹, rest = B − B Yᵀ Y.
    """
    noise, dim = terms["root"], len(root)
    both = jnp.concatenate([product(terms["matrix"], root), noise], 1)
    rows = jax.scipy.linalg.solve_triangular(predicted, both, lower=True)
    of_state, of_noise = rows[:, :dim], rows[:, dim:]
    weights = jnp.concatenate([product(root, of_state.T), product(noise, of_noise.T)])
    gain = jax.scipy.linalg.solve_triangular(predicted, weights.T, lower=True, trans=1).T
    whole = jax.scipy.linalg.block_diag(root, noise)
    return gain, whole - product(weights, rows)


def _narrow(root, terms):
    """(root of (S⁻ᵀ S⁻¹ + Gᵀ G + J)⁻¹, log-determinant of what narrowed S): |I + Sᵀ (Gᵀ G + J) S| needs no root of
    what is added."""
    if _is_silent(terms):
        return root, jnp.zeros((), root.dtype)
    curvature = jnp.eye(len(root), dtype=root.dtype)
    if "rows" in terms:
        seen = product(terms["rows"], root)
        curvature += product(seen.T, seen)
    if "precision" in terms:
        curvature += product(root.T, product(terms["precision"], root))
    factor = jnp.linalg.cholesky(curvature)
    narrowed = jax.scipy.linalg.solve_triangular(factor, root.T, lower=True).T
    return narrowed, jnp.sum(jnp.log(jnp.diagonal(factor)))


def _change(mean, covariance, terms):
    """What the terms change a mean by: the covariance after them, times their slope at the mean."""
    slope = terms.get("linear", jnp.zeros_like(mean))
    if "precision" in terms:
        slope -= apply(terms["precision"], mean)
    if "rows" in terms:
        slope += apply(terms["rows"].T, terms["target"] - apply(terms["rows"], mean))
    return slope if _is_silent(terms) else apply(covariance, slope)


def _triangle(a, b):
    """The lower triangular root of a aᵀ + b bᵀ, by orthogonal transformations of [a b]."""
    return jnp.linalg.qr(jnp.concatenate([a, b], 1).T, mode="r").T


def smoothed(natural: PyTree) -> tuple[Scalar, Moments]:
    """(log-normalizer, moments): the filter, and back.

    The log-normalizer is the exponent at the mode, a sum of squares, less what narrowed the states.
    """
    found, transition = filtered(natural), natural["transition"]
    last = natural["length"] - 1
    before_last = jnp.arange(len(found.pulls)) < last

    spread = product(found.rest, found.rest.mT)
    dim = found.means.shape[1]

    def step(later, row):
        excess, covariance = later
        inside, change, pull, ends, gain, spread = row
        change += jnp.where(inside, pull + apply(gain, excess), 0)
        back = spread + product(gain, product(covariance, gain.T))
        covariance = jnp.where(inside, back, ends)
        return (change, covariance), (change, covariance)

    ends = product(found.roots, found.roots.mT)
    end = found.changes[-1], ends[-1]
    of_states = found.gain[:, :dim], spread[:, :dim, :dim]
    rows = before_last, found.changes[:-1], found.pulls, ends[:-1], *of_states
    _, moved = jax.lax.scan(step, end, rows, reverse=True)
    excess, covariances = (
        jnp.concatenate([some, one[None]]) for some, one in zip(moved, end, strict=True)
    )
    start = found.predicted.at[0].set(natural["initial"]["mean"])
    inside = jnp.arange(len(start)) <= last
    means = jnp.where(inside[:, None], start + excess, 0)
    covariances = jnp.where(inside[:, None, None], covariances, 0)
    between = product(found.gain, covariances[1:])
    joint = product(between, found.gain.mT) + spread
    drift = apply(found.gain[:, dim:], excess[1:])
    point = Moments(means, transition["matrix"], transition["offset"], drift)
    moments = Moments(
        means,
        point.matrix,
        point.offset,
        drift,
        covariances=covariances,
        cross=jnp.where(before_last[:, None, None], between[:, :dim], 0),
        noise=joint[:, dim:, dim:],
        noise_cross=joint[:, dim:, :dim],
    )
    return expected_exponent(natural, point) - found.log_narrowing, moments


def expected_exponent(natural: PyTree, moments: Moments) -> Scalar:
    """The expected exponent, but for the normalizing constants of initial and transition.

    The noise between states is taken from its own moments, about the transition that they were found with: as a
    difference of those of the states it would cancel.
    """
    initial, transition, unary = (natural[name] for name in ("initial", "transition", "unary"))
    means, covariances = moments.means, moments.covariances
    dtype, number = means.dtype, len(means)
    inside = (jnp.arange(number) < natural["length"]).astype(dtype)
    none = None if covariances is None else covariances[:1]
    total = _tilted(initial, jnp.ones(1, dtype), means[:1], none)
    inverse = _inverse(initial["root"])
    square = jnp.sum(apply(inverse, means[0] - initial["mean"]) ** 2)

    rows = unary["rows"]
    residual = unary["target"] - _on_rows(rows, means)
    square += vdot(inside[:, None] * residual, residual)
    total += _tilted(unary, inside, means, covariances)

    # About another transition the noise is w + (A₀ − A) z + b₀ − b.
    off = moments.matrix - transition["matrix"]
    residual = moments.drift + _on_rows(off, means[:-1]) + moments.offset - transition["offset"]
    whiten = _inverse(transition["root"])
    whitened = _on_rows(whiten, residual)
    square += vdot(inside[1:, None] * whitened, whitened)
    before = None if covariances is None else covariances[:-1]
    total += _tilted(transition, inside[1:], means[:-1], before)
    for name, probe in natural.get("probe", {}).items():
        count = {"unary": number, "transition": number - 1}[name]
        part = None if covariances is None else covariances[:count]
        total += _tilted(probe, inside[number - count :], means[:count], part)

    if covariances is not None:
        square += vdot(product(inverse, covariances[0]), inverse)
        square += _spread(inside, rows, covariances)
        square += _noise(inside[1:], off, whiten, moments.noise, moments.noise_cross, before)
    return total - 0.5 * square


def _on_rows(matrix, rows):
    """A_t r_t for each row; A may be one for all."""
    return matmul(rows, matrix.T) if matrix.ndim == 2 else apply(matrix, rows)


def _weighted(weight, stack):
    return jnp.tensordot(weight, stack, 1, precision=jax.lax.Precision.HIGHEST)


def _spread(weight, matrix, covariances):
    """Σ_t w_t tr A_t C_t A_tᵀ; for one A of the sum, since the covariances of sequences may be shared."""
    if matrix.ndim == 2:
        return vdot(matmul(matrix, _weighted(weight, covariances)), matrix)
    return vdot(weight[:, None, None] * product(matrix, covariances), matrix)


def _noise(weight, off, whiten, noise, cross, covariances):
    """Σ_t w_t tr L⁻¹ Cov(w + (A₀ − A) z) L⁻ᵀ."""

    def one(off, whiten, noise, cross, covariance):
        half = product(cross, off.T) + 0.5 * product(off, product(covariance, off.T))
        return vdot(product(whiten, noise + half + half.T), whiten)

    stacks = noise, cross, covariances
    if off.ndim == whiten.ndim == 2:
        return one(off, whiten, *(_weighted(weight, stack) for stack in stacks))
    axes = [0 if matrix.ndim == 3 else None for matrix in (off, whiten)]
    return vdot(weight, jax.vmap(one, in_axes=(*axes, 0, 0, 0))(off, whiten, *stacks))


def _tilted(terms, weight, means, covariances):
    """Σ_t w_t (h·E z − ½ tr J E z zᵀ + c)."""
    total = jnp.sum(weight * terms.get("constant", 0.0))
    if "linear" in terms:
        total += jnp.sum(weight[:, None] * terms["linear"] * means)
    if "precision" in terms:
        precision = terms["precision"]
        if precision.ndim == 2:
            square = matmul((weight[:, None] * means).T, means)
            if covariances is not None:
                square += _weighted(weight, covariances)
            total -= 0.5 * vdot(precision, square)
        else:
            square = means[:, :, None] * means[:, None, :]
            if covariances is not None:
                square += covariances
            total -= 0.5 * vdot(weight[:, None, None] * precision, square)
    return total


def _inverse(root):
    """L⁻¹, of one or of many."""
    eye = jnp.broadcast_to(jnp.eye(root.shape[-1], dtype=root.dtype), root.shape)
    return jax.scipy.linalg.solve_triangular(root, eye, lower=True)


def log_constants(natural: PyTree) -> Scalar:
    """What normalizes initial and transition: −log |S| − Σ_t log |L_t| − ½ d log 2π for each state."""
    logs = lambda root: jnp.sum(jnp.log(jnp.abs(jnp.diagonal(root, axis1=-2, axis2=-1))), -1)
    initial, root = natural["initial"]["root"], natural["transition"]["root"]
    length, number = natural["length"], len(natural["unary"]["target"])
    in_time = jnp.arange(1, number) < length
    states = length.astype(root.dtype) * (0.5 * len(initial) * math.log(2 * math.pi))
    return -logs(initial) - jnp.sum(jnp.where(in_time, logs(root), 0)) - states


def entropy(natural: PyTree) -> Scalar:
    """½ log |2π e Cov|: what the noise spreads, less what the terms narrow."""
    root = natural["initial"]["root"]
    states = natural["length"].astype(root.dtype) * (0.5 * len(root))
    return states - log_constants(natural) - filtered(natural).log_narrowing
