r"""The Kalman filter and smoother, in coordinates of independent standard normal noise.

Everything random in a chain is standard normal: η of a predicted state, z = predicted + R η, ν of an observation,
ε of a transition. Each step of the filter maps such coordinates to others by an orthogonal matrix,

    (η, ν) = Θ (ζ, ξ) with [G R  N; R  0] Θ = [X 0; K S]: an observation is X ζ, and leaves z = mean + S ξ;
    (ξ, ε) = Φ (η', ρ) with [A S  L] Φ = [R' 0]: ρ is what the next state leaves free,

so the smoother is a product of such matrices too. No covariance is inverted, and none is a difference of others:
noise may be small or zero, and observations may determine the states. Covariances do not depend on the data, so a
batch of sequences with observations of one kind shares them. The natural parameters are those of `GaussianChain`.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp

from .._math.algebra import apply, in_every_lane, matmul, matvec, product, vdot
from .._math.linear_algebra import cholesky, invert_triangle
from .._math.triangularize import invert_noise, triangularize, without_noise
from .._types import Any, Array, PyTree, Scalar
from ._gaussian_links import Links, run, run_back


_LOG_2PI = math.log(2 * math.pi)


class Step(eqx.Module):
    """The part of a filter step that does not depend on the data.

    **Fields:**

    - `predicted` R, `root` S (d, d): roots of the covariances before and after all terms of the state.
    - `innovation` X (p, p), `gain` K (d, p).
    - `tilt` (d, d): ξ is its mean plus `tilt` times what remains of ξ after the terms h and J; None without them.
    - `of_rows` Θ (d + p, p + d), `of_move` Φ (d + k, d + k).
    """

    predicted: Array
    root: Array
    innovation: Array
    gain: Array
    tilt: Array | None
    of_rows: Array
    of_move: Array

    def left(self) -> Array:
        """Returns the matrix from what remains of ξ to (η, ν)."""
        of_rows = self.of_rows[..., self.innovation.shape[-1] :]
        return of_rows if self.tilt is None else product(of_rows, self.tilt)


class Filtered(eqx.Module):
    """Each state given the observations so far.

    **Fields:**

    - `steps`: the parts that do not depend on the data.
    - `means` (T, d): the means of the states after all their terms.
    - `known` (T, d + p): the mean of (η, ν) given the observations so far.
    - `log_narrowing`: Σ log |X| less Σ log |tilt|.
    - `value`: the log-normalizer, in nats.
    """

    steps: Step
    means: Array
    known: Array
    log_narrowing: Scalar
    value: Scalar


class Back(eqx.Module):
    """All that is random at a step, w = (η, z, ν, ε), as a function of what comes after it.

    **Fields:**

    - `found`: the filter's.
    - `matrix` (T, 2 d + p + k, d + k): w is a mean plus this times y = (η', ρ), with ρ standard normal.
    - `inside`, `in_time` (T,): whether the step has a next one; whether it is none of the padding.
    """

    found: Filtered
    matrix: Array
    inside: Array
    in_time: Array

    def blocks(self) -> tuple[slice, slice, slice, slice]:
        """Returns the places of η, z, ν and ε in w."""
        dim = self.found.means.shape[1]
        noise = dim + self.found.known.shape[1]
        return slice(dim), slice(dim, 2 * dim), slice(2 * dim, noise), slice(noise, None)


class Noise(eqx.Module):
    """Moments of the noise e in y = A u + b + L e.

    **Fields:** `matrix` A or None, `offset` b, `root` L, for one step or for each; `mean`, `covariance` of e and
    `cross`, its covariance with u, all with a leading axis of steps. A single point has no covariances.
    """

    matrix: Array | None
    offset: Array
    root: Array
    mean: Array
    covariance: Any = None
    cross: Any = None


class Moments(eqx.Module):
    """The moments that determine an expectation under a chain.

    **Fields:**

    - `means` (T, d), `covariances` (T, d, d): of the states.
    - `cross` (T − 1, d, d): the covariance of z with z'.
    - `initial`, `transition`, `unary`: the noise of each. The offset of an observation is minus its target.
    """

    means: Array
    initial: Noise
    transition: Noise
    unary: Noise
    covariances: Any = None
    cross: Any = None


# The number of axes of each term at one step; one more is a leading axis of steps.
_AXES = dict(
    matrix=2, root=2, offset=1, rows=2, noise=2, target=1, linear=1, precision=2, constant=0
)


def _split(terms: PyTree) -> tuple[PyTree, PyTree]:
    """Returns (the terms that all steps share, the terms that differ between steps)."""
    own = {name: leaf for name, leaf in terms.items() if jnp.ndim(leaf) > _AXES[name]}
    return {name: leaf for name, leaf in terms.items() if name not in own}, own


def padded(leaf: Array, number: int) -> Array:
    """Returns the leaf padded with zeros for the last state, which has no transition."""
    return jnp.concatenate([leaf, jnp.zeros((number - len(leaf), *leaf.shape[1:]), leaf.dtype)])


def _every(leaf: Array, axes: int, number: int) -> Array:
    """Returns the term for every step."""
    if leaf.ndim > axes:
        return padded(leaf, number)
    return jnp.broadcast_to(leaf, (number, *leaf.shape))


def tilts_of(natural: PyTree, more: Any = ()) -> dict[str, Array]:
    """Returns the sums of the terms h (T, d) and J (T, d, d) of each state, and of `more`, pairs of a part and its
    terms; empty if there are none."""
    time, last = jnp.arange(len(natural["unary"]["target"])), natural["length"] - 1
    places = {"initial": time == 0, "transition": time < last, "unary": time <= last}
    parts, found = [*((part, natural[part]) for part in places), *more], {}
    for name, axes in dict(linear=1, precision=2).items():
        leaves = [
            jnp.where(
                places[part].reshape(-1, *(1,) * axes), _every(terms[name], axes, len(time)), 0
            )
            for part, terms in parts
            if name in terms
        ]
        if leaves:
            found[name] = sum(leaves)
    if found:
        dim, dtype = len(natural["initial"]["mean"]), natural["initial"]["root"].dtype
        found.setdefault("linear", jnp.zeros((len(time), dim), dtype))
        found.setdefault("precision", jnp.zeros((len(time), dim, dim), dtype))
    return found


def _steps(natural: PyTree, tilts: dict[str, Array]) -> Step:
    """Returns the covariances along the chain."""
    transition, unary = natural["transition"], natural["unary"]
    number, width = unary["target"].shape
    dtype = natural["initial"]["root"].dtype
    terms = {name: transition[name] for name in ("matrix", "root")}
    terms |= {"rows": unary["rows"], "noise": unary.get("root", jnp.eye(width, dtype=dtype))}
    shared, own = _split(terms)
    own = jax.tree.map(lambda leaf: padded(leaf, number), own)
    own |= {name: leaf for name, leaf in tilts.items() if name == "precision"}

    def step(predicted, own):
        terms = shared | own
        rows, noise, dim = terms["rows"], terms["noise"], len(predicted)
        seen = jnp.concatenate([product(rows, predicted), noise], 1)
        hidden = jnp.concatenate([predicted, jnp.zeros((dim, width), dtype)], 1)
        array, of_rows = triangularize(jnp.concatenate([seen, hidden]), width)
        root, tilt = array[width:, width:], None
        if "precision" in terms:
            curvature = product(root.T, product(terms["precision"], root))
            tilt = invert_triangle(cholesky(jnp.eye(dim, dtype=dtype) + curvature)).T
            root = product(root, tilt)
        both = jnp.concatenate([product(terms["matrix"], root), terms["root"]], 1)
        moved, of_move = triangularize(both, dim)
        gain, innovation = array[width:, :width], array[:width, :width]
        found = Step(predicted, root, innovation, gain, tilt, of_rows, of_move)
        return moved[:, :dim], found

    start = natural["initial"]["root"]
    if not own:
        return _until_settled(step, start, number)
    found = jax.lax.scan(step, start, own)[1]
    return eqx.tree_at(lambda found: found.predicted, found, _predicted(start, transition, found))


def _predicted(start, transition, steps):
    """Returns each R, as [A S L] Φ.

    Draws have no use for R. Were it an output of the loop, XLA would drop it there, and no longer see that a bound
    and a draw run the same loop, which it then runs once.
    """
    number, dim = steps.root.shape[:2]
    matrix, root = (_every(transition[name], 2, number) for name in ("matrix", "root"))
    of_next = steps.of_move[..., :dim]
    moved = product(product(matrix, steps.root), of_next[:, :dim])
    moved += product(root, of_next[:, dim:])
    return jnp.concatenate([start[None], moved[:-1]])


_SETTLING = 64


def _until_settled(step, root, number):
    """Runs identical steps in segments: once a step changes its input by rounding only, so will all later ones."""
    size = min(number, _SETTLING)

    def go_on(root):
        last, found = jax.lax.scan(step, root, {}, length=size)
        before = found.predicted[-1]
        moved = jnp.max(jnp.abs(last - before))
        return last, found, moved <= 4 * jnp.finfo(root.dtype).eps * jnp.max(jnp.abs(before))

    if number == size:
        return go_on(root)[1]

    def segment(carry, _):
        root, found, settled = carry

        def stay(root):
            repeat = lambda leaf: jnp.broadcast_to(leaf[-1], leaf.shape)
            return root, jax.tree.map(repeat, found), settled

        carry = jax.lax.cond(in_every_lane(settled), stay, go_on, root)
        return carry, carry[1]

    _, none, unsettled = jax.eval_shape(go_on, root)
    none, unsettled = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (none, unsettled)
    )
    _, found = jax.lax.scan(segment, (root, none, unsettled), None, length=-(-number // size))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:number], found)


def filtered(natural: PyTree, pairwise: bool = False) -> Filtered:
    """Runs the filter: covariances first, then the part that depends on the data, which is linear in them."""
    initial, transition, unary = (natural[name] for name in ("initial", "transition", "unary"))
    target, rows = unary["target"], unary["rows"]
    number = len(target)
    in_time = jnp.arange(number) < natural["length"]
    tilts = tilts_of(natural)
    steps = _steps(natural, tilts)

    # The next prediction is linear in this one: z = predicted + K ζ + S c with X ζ = x - G predicted. c is the
    # mean of ξ under the terms h and J, which is Sᵀ (h - J z) at the z before it.
    matrix, offset = transition["matrix"], transition["offset"]
    whiten = invert_triangle(steps.innovation)
    gain = product(steps.gain, whiten)
    eye = jnp.eye(len(initial["mean"]), dtype=gain.dtype)
    matrix = matrix if matrix.ndim == 2 else padded(matrix, number)
    offset, keeping = _every(offset, 1, number), eye - product(gain, rows)
    if tilts:
        covariance = product(steps.root, steps.root.mT)
        more = eye - product(covariance, tilts["precision"])
        keeping, gain = product(more, keeping), product(more, gain)
        offset += apply(matrix, apply(covariance, tilts["linear"]))
    moving = Links(product(matrix, keeping), apply(product(matrix, gain), target) + offset)
    moving = jax.tree.map(lambda leaf: leaf[:-1], moving)
    predicted, _ = run(moving, initial["mean"], pairwise=pairwise)

    scores = apply(whiten, target - apply(rows, predicted))
    scores = jnp.where(in_time[:, None], scores, 0)
    (dim, width), of_rows = steps.gain.shape[1:], steps.of_rows
    of_scores = jnp.concatenate([steps.gain, of_rows[..., :width]], 1)
    change, known = jnp.split(matvec(of_scores, scores), [dim], 1)
    means = predicted + change
    pivots = jnp.diagonal(steps.innovation, axis1=1, axis2=2)
    logs = jnp.sum(jnp.log(pivots), 1)
    value = -0.5 * vdot(scores, scores) + _constants(natural, in_time.astype(means.dtype))
    if tilts:
        slope = tilts["linear"] - apply(tilts["precision"], means)
        inner = apply(steps.root.mT, slope)
        tilt: Any = steps.tilt
        shifts = jnp.where(in_time[:, None], apply(tilt, inner), 0)
        means += apply(steps.root, inner)
        known += apply(of_rows[..., width:], shifts)
        logs -= jnp.sum(jnp.log(jnp.diagonal(tilt, axis1=1, axis2=2)), 1)
        value += _tilted(tilts, in_time.astype(means.dtype), means, None) - 0.5 * vdot(
            shifts, shifts
        )
    # The observation is determined to more digits than the float has: it has no density.
    lost = jnp.any(~(pivots > _rounding(steps.predicted, matrix, rows)), 1)
    log_narrowing = jnp.sum(jnp.where(in_time, jnp.where(lost, jnp.nan, logs), 0))
    return Filtered(steps, means, known, log_narrowing, value - log_narrowing)


def _rounding(predicted, matrix, rows):
    """Returns the rounding error of an innovation's deviation: that of the step before its prediction."""
    size = jnp.linalg.norm(predicted, axis=-1)
    before = jnp.concatenate([jnp.zeros_like(size[:1]), apply(jnp.abs(matrix), size)[:-1]])
    size = jnp.maximum(size, before)
    return 4 * jnp.finfo(size.dtype).eps * apply(jnp.abs(rows), size)


def _constants(natural, weight):
    """Returns Σ c of all terms, and the normalizers of observations that have a root."""
    unary, total = natural["unary"], _sum_of_constants(natural, weight)
    if "root" in unary:
        total -= jnp.sum(weight) * (0.5 * _LOG_2PI * unary["root"].shape[-1])
    return total


def _sum_of_constants(natural, weight):
    """Returns Σ c of all terms."""
    total = weight[0] * natural["initial"].get("constant", 0.0)
    for name, own in (("transition", weight[1:]), ("unary", weight)):
        if "constant" in natural[name]:
            total += _weighted_sum(own, natural[name]["constant"])
    return total


def _weighted_sum(weight, values):
    """Returns Σ_t w_t v_t, of one value for all steps or of one for each; a weight of 0 leaves a value out."""
    return jnp.sum(jnp.where(weight > 0, weight * values, 0))


def back(natural: PyTree, pairwise: bool = False) -> Back:
    """Runs the filter, and reads the chain backwards."""
    found = filtered(natural, pairwise)
    steps, dim = found.steps, found.means.shape[1]
    left = steps.left()
    of_xi = jnp.concatenate([left[:, :dim], steps.root, left[:, dim:]], 1)
    of_move = steps.of_move
    matrix = jnp.concatenate([product(of_xi, of_move[:, :dim]), of_move[:, dim:]], 1)
    time, last = jnp.arange(len(matrix)), natural["length"] - 1
    return Back(found, matrix, time < last, time <= last)


def smoothed(natural: PyTree, pairwise: bool = False) -> tuple[Back, tuple[Array, Array], Moments]:
    """Runs the filter, then the smoother; returns its mean and covariance of each η' too.

    After the last state η' is standard normal: nothing is known of a next state.
    """
    read = back(natural, pairwise)
    found, inside, in_time = read.found, read.inside, read.in_time
    steps, dim = found.steps, found.means.shape[1]
    each, eye = inside[:, None, None], jnp.eye(dim, dtype=found.means.dtype)
    by_next, by_rest = read.matrix[..., :dim], read.matrix[..., dim:]
    open_, own = product(by_rest, by_rest.mT), by_next[:, :dim]

    alone = open_[:, :dim, :dim] + jnp.where(each, 0, product(own, own.mT))
    links = Links(jnp.where(each, own, 0), found.known[:, :dim], alone)
    ahead = run_back(links, jnp.zeros_like(eye[0]), eye, pairwise)
    first, (mean, covariance) = ([leaf[:1] for leaf in ahead], [leaf[1:] for leaf in ahead])
    mean, covariance = jnp.where(inside[:, None], mean, 0), jnp.where(each, covariance, eye)

    _, z, nu, epsilon = read.blocks()
    shift = matvec(by_next[:, dim:], mean)
    state, seen, noise = jnp.split(shift, [dim, found.known.shape[1]], 1)
    spread = product(by_next, product(covariance, by_next.mT)) + open_
    means = jnp.where(in_time[:, None], found.means + state, 0)
    covariances = jnp.where(in_time[:, None, None], spread[:, z, z], 0)
    cross = product(product(by_next[:-1, z], covariance[:-1]), steps.predicted[1:].mT)

    initial, transition, unary = (natural[name] for name in ("initial", "transition", "unary"))
    moments = Moments(
        means,
        initial=Noise(None, initial["mean"], initial["root"], *first),
        transition=Noise(
            *(transition[name] for name in ("matrix", "offset", "root")),
            mean=noise[:-1],
            covariance=spread[:-1, epsilon, epsilon],
            cross=spread[:-1, epsilon, z],
        ),
        unary=Noise(
            unary["rows"],
            -unary["target"],
            root_of(unary),
            mean=found.known[:, dim:] + seen,
            covariance=spread[:, nu, nu],
            cross=spread[:, nu, z],
        ),
        covariances=covariances,
        cross=jnp.where(each[:-1], cross, 0),
    )
    return read, (mean, covariance), moments


def root_of(unary):
    width = unary["target"].shape[1]
    return unary.get("root", jnp.eye(width, dtype=unary["target"].dtype))


def at(natural: PyTree, z: Array) -> Moments:
    """Returns the moments of a single path."""
    initial, transition, unary = (natural[name] for name in ("initial", "transition", "unary"))
    eye = lambda root: jnp.broadcast_to(jnp.eye(root.shape[-1], dtype=z.dtype), root.shape)
    matrix, offset, rows, target = (
        transition["matrix"],
        transition["offset"],
        unary["rows"],
        unary["target"],
    )
    mean = initial["mean"]
    drift, residual = z[1:] - apply(matrix, z[:-1]) - offset, target - apply(rows, z)
    return Moments(
        z,
        initial=Noise(None, mean, eye(initial["root"]), z[:1] - mean),
        transition=Noise(matrix, offset, eye(transition["root"]), drift),
        unary=Noise(rows, -target, eye(root_of(unary)), residual),
    )


def expected_score(natural: PyTree, moments: Moments, weight: Any = None) -> Scalar:
    """Returns the expected exponent and log-densities, over the directions that have noise.

    The noise is computed from its own moments, about the chain that they were computed under. As a difference of
    the states' moments it would cancel. It is linear in the `weight` (T,) of the steps, by default 1 for each up
    to the length; that of a transition is its target's.
    """
    initial, transition, unary = (natural[name] for name in ("initial", "transition", "unary"))
    means, covariances = moments.means, moments.covariances
    dtype, (number, dim) = means.dtype, means.shape
    if weight is None:
        weight = (jnp.arange(number) < natural["length"]).astype(dtype)
    before = means[:-1]
    spreads = (None,) * 3
    if covariances is not None:
        spreads = covariances[:1], covariances[:-1], covariances
    total = log_volumes(natural, weight) + _constants(natural, weight)
    total -= jnp.sum(weight) * (0.5 * dim * _LOG_2PI)
    start = None, initial["mean"], initial["root"]
    move = transition["matrix"], transition["offset"], transition["root"]
    see = unary["rows"], -unary["target"], root_of(unary)
    total -= 0.5 * _square(weight[:1], *start, moments.initial, None, None)
    total -= 0.5 * _square(weight[1:], *move, moments.transition, before, spreads[1])
    total -= 0.5 * _square(weight, *see, moments.unary, means, spreads[2])
    return total + _expected_tilt(natural, moments, weight)


def _expected_tilt(natural, moments, inside):
    """Returns the expected value of the terms h and J, which is linear in them."""
    means, covariances = moments.means, moments.covariances
    number = {"initial": 1, "transition": len(means) - 1, "unary": len(means)}
    weights = {"initial": inside[:1], "transition": inside[1:], "unary": inside}
    parts = [(name, natural[name]) for name in number] + [*natural.get("probe", {}).items()]
    total = jnp.zeros((), means.dtype)
    for name, terms in parts:
        spread = None if covariances is None else covariances[: number[name]]
        total += _tilted(terms, weights[name], means[: number[name]], spread)
    return total


def score_slope(natural: PyTree, moments: Moments, change: PyTree) -> Scalar:
    """Returns the derivative of `expected_score` along a change of the chain, at the chain of the moments.

    There the noise is e = L⁻¹ (y - A u - b), and it changes by -L⁻¹ (dL e + dA u + db).
    """
    means = moments.means
    inside = (jnp.arange(len(means)) < natural["length"]).astype(means.dtype)
    initial, transition, unary = (change[name] for name in ("initial", "transition", "unary"))
    total = _expected_tilt(change, moments, inside) + _sum_of_constants(change, inside)
    total += _density_slope(
        inside[:1], moments.initial, None, None, initial["mean"], initial["root"]
    )
    total += _density_slope(
        inside[1:],
        moments.transition,
        means[:-1],
        *(transition[name] for name in ("matrix", "offset", "root")),
    )
    return total + _density_slope(
        inside, moments.unary, means, unary["rows"], -unary["target"], unary.get("root")
    )


def _density_slope(weight, noise, inputs, matrix, offset, root):
    """Returns Σ_t w_t E (e·W (dL e + dA u + db) - tr W dL), with W = L⁻¹ in the directions that have noise."""
    whiten = invert_noise(noise.root)
    moved, mean = matvec(whiten, offset), weight[:, None] * noise.mean
    total = vdot(mean if moved.ndim == 2 else jnp.sum(mean, 0), moved)
    if matrix is not None:
        total += _form(weight, matmul(whiten, matrix), noise.mean, inputs, noise.cross)
    if root is not None:
        excess = noise.covariance - jnp.eye(root.shape[-1], dtype=root.dtype)
        moved = matmul(whiten, jnp.tril(root))
        total += _form(weight, moved, noise.mean, noise.mean, excess)
    return total


def _form(weight, matrix, left, right, covariance):
    """Returns Σ_t w_t (a·M b + tr Mᵀ C). Its derivative in M is one product over all steps of all sequences."""
    total = vdot(weight[:, None] * left, _on_rows(matrix, right))
    if covariance is None:
        return total
    if matrix.ndim == 2:
        return total + vdot(matrix, _weighted(weight, covariance))
    return total + vdot(matrix, weight[:, None, None] * covariance)


def _square(weight, matrix, offset, root, noise, inputs, spread):
    """Returns Σ_t w_t E |L⁻¹ (y - A u - b)|² where y = A₀ u + b₀ + L₀ e. This is the square of M e - H u - g with
    M = L⁻¹ L₀, H = L⁻¹ (A - A₀) and g = L⁻¹ (b - b₀). Where L is zero, so is L₀, and e is unchanged."""
    if noise.root.shape[-1] != root.shape[-1]:
        # The observations have another number of columns: take moments about zero, without noise.
        noise = _about_nothing(root, inputs, spread)
    whiten = invert_noise(root)
    idle = without_noise(root).astype(root.dtype)
    move = matmul(whiten, noise.root) + idle[..., None] * jnp.eye(root.shape[-1], dtype=root.dtype)
    residual = _on_rows(move, noise.mean) - matvec(whiten, offset - noise.offset)
    off = None if matrix is None else matmul(whiten, matrix - noise.matrix)
    if off is not None:
        residual -= _on_rows(off, inputs)
    total = vdot(weight[:, None] * residual, residual)
    if noise.covariance is None:
        return total
    if off is None:
        return total + vdot(matmul(move, _weighted(weight, noise.covariance)), move)

    def one(move, off, covariance, cross, spread):
        moved = matmul(move, covariance) - 2 * matmul(off, cross.mT)
        return vdot(moved, move) + vdot(matmul(off, spread), off)

    stacks = noise.covariance, noise.cross, spread
    if move.ndim == off.ndim == 2:
        return total + one(move, off, *(_weighted(weight, stack) for stack in stacks))
    axes = [0 if leaf.ndim == 3 else None for leaf in (move, off)]
    return total + vdot(weight, jax.vmap(one, in_axes=(*axes, 0, 0, 0))(move, off, *stacks))


def _about_nothing(root, inputs, spread):
    number, (width, dim) = len(inputs), (root.shape[-1], inputs.shape[-1])
    zeros = lambda *shape: jnp.zeros(shape, root.dtype)
    moments = () if spread is None else (zeros(number, width, width), zeros(number, width, dim))
    return Noise(
        zeros(width, dim), zeros(width), zeros(width, width), zeros(number, width), *moments
    )


def _on_rows(matrix, rows):
    """Returns A_t r_t for each row; A may be one matrix for all rows."""
    return matmul(rows, matrix.T) if matrix.ndim == 2 else matvec(matrix, rows)


def _weighted(weight, stack):
    return jnp.tensordot(weight, stack, 1, precision=jax.lax.Precision.HIGHEST)


def _tilted(terms, weight, means, covariances):
    """Returns Σ_t w_t (h·E z - ½ tr J E z zᵀ)."""
    total = jnp.zeros((), means.dtype)
    if "linear" in terms:
        total += jnp.sum(weight[:, None] * terms["linear"] * means)
    if "precision" in terms:
        total -= 0.5 * _form(weight, terms["precision"], means, means, covariances)
    return total


def log_volumes(natural: PyTree, weight: Array) -> Scalar:
    """Returns -log |S| - Σ_t w_t log |L_t| - Σ_t w_t log |N_t|, each over the directions that have noise."""
    total = jnp.zeros((), natural["initial"]["root"].dtype)
    for own, pivots in zip((weight[:1], weight[1:], weight), _pivots(natural), strict=True):
        noisy = pivots != 0
        logs = jnp.where(noisy, jnp.log(jnp.where(noisy, jnp.abs(pivots), 1)), 0)
        total -= _weighted_sum(own, jnp.sum(logs, -1))
    return total


def _inside(natural):
    """Returns which steps are valid for the initial state, for transitions and for observations."""
    time, last = jnp.arange(len(natural["unary"]["target"])), natural["length"] - 1
    return jnp.ones(1, bool), time[:-1] < last, time <= last


def _pivots(natural):
    """Returns the diagonal of each conditional's root."""
    roots = natural["initial"]["root"], natural["transition"]["root"], root_of(natural["unary"])
    return [jnp.diagonal(root, axis1=-2, axis2=-1) for root in roots]


def noisy(natural: PyTree) -> Array:
    """Returns whether every direction has noise."""
    parts = [
        jnp.where(inside, jnp.all(pivots != 0, -1), True)
        for inside, pivots in zip(_inside(natural), _pivots(natural), strict=True)
    ]
    return jnp.all(jnp.concatenate(parts))


def same_directions(one: PyTree, other: PyTree) -> Array:
    """Returns whether the same directions have noise; observations of different width are not compared."""
    found = jnp.array(True)
    for inside, left, right in zip(_inside(one), _pivots(one), _pivots(other), strict=True):
        if left.shape[-1] == right.shape[-1]:
            same = jnp.all((left == 0) == (right == 0), -1)
            found &= jnp.all(jnp.where(inside, same, True))
    return found


def spread_out(natural: PyTree, found: Filtered) -> Scalar:
    """Returns ½ log |2π e Cov| of the states, over the directions that have noise."""
    number, dim = found.means.shape
    inside = (jnp.arange(number) < natural["length"]).astype(found.means.dtype)
    states = jnp.sum(inside) * dim
    return 0.5 * (1 + _LOG_2PI) * states - log_volumes(natural, inside) - found.log_narrowing
