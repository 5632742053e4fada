"""Random points that try whether a log-joint is in the span of each block's family."""

import jax
import jax.numpy as jnp
import numpy as np

from .._program import program
from .._types import Any, Array, Key, PyTree


_POINTS = 6


@program
def misfits(joint: Any, params: PyTree, local: PyTree, x: PyTree, key: Key) -> dict[str, Array]:
    """Returns two relative misfits of every block: of the form at random points, and of the average over nodes.

    All other blocks are at one random point. As f(z) = ⟨λ, t(z)⟩ + c is only known up to c, differences of points
    are compared.
    """
    keys = iter(jax.random.split(key, 2 * len(joint.blocks)))
    number = len(jax.tree.leaves(x)[0])
    values = {name: block.drawn(params[name], next(keys)) for name, block in joint.shared}
    for name, block in joint.local:
        draws = jax.random.split(next(keys), number)
        values[name] = jax.vmap(block.drawn)(local[name], draws)

    def total(values):
        """The log-joint of one row at a time, with a prior each: a misfit is not hidden in a sum."""
        shared = {name: values[name] for name, _ in joint.shared}
        own = {name: values[name] for name, _ in joint.local}
        each = jax.vmap(lambda x, own: joint.density(shared, x, own))(x, own)
        return jnp.sum(each) + jnp.asarray(joint.prior(shared), each.dtype)

    found = {}
    for name, block in joint.blocks.items():
        belief = (params if name in params else local)[name]
        own_keys = jax.random.split(next(keys), _POINTS)
        draw = block.drawn if name in params else lambda b, k, d=block.drawn: _rows(d, b, k)
        points = jax.vmap(lambda key: draw(belief, key))(own_keys)
        function = lambda value, name=name: total(values | {name: value})
        found[name] = _misfit(block, function, points)
    return found


def _rows(drawn, belief, key):
    keys = jax.random.split(key, len(jax.tree.leaves(belief)[0]))
    return jax.vmap(drawn)(belief, keys)


def _misfit(block, function, points) -> Array:
    family = block.family
    q = family(jax.tree.map(jnp.asarray, family.near(jax.tree.map(lambda leaf: leaf[0], points))))
    natural = family.read_about(function, family.center(q.natural))

    def product(statistics):
        """⟨λ, t⟩ and the sum of the sizes of its terms, in one array."""
        terms = [a * b for a, b in zip(jax.tree.leaves(natural), jax.tree.leaves(statistics))]
        return jnp.stack(
            [sum(jnp.sum(term) for term in terms), sum(jnp.sum(jnp.abs(term)) for term in terms)]
        )

    form = jax.vmap(lambda point: product(family.of_coordinates(point)))(points)
    values = jax.vmap(function)(points)
    size = 1 + jnp.abs(values) + form[:, 1]
    rest = values - form[:, 0]
    at_points = jnp.max(jnp.abs(rest - rest[0]) / (size + size[0]))
    # The average over the nodes of q against ⟨λ, E t⟩ + c, with c from the first point.
    expected = product(family.mean(q.natural))
    mean = jnp.mean(jax.vmap(function)(family.nodes(q.natural)))
    scale = size[0] + jnp.abs(mean) + expected[1]
    return jnp.stack([at_points, jnp.abs(mean - expected[0] - rest[0]) / scale])


def refuse(joint: Any, found: dict[str, Array], tolerance: float | None) -> None:
    """Raises `ValueError` that names the block of the largest misfit, if it is above the tolerance."""
    worst = {name: np.nan_to_num(np.asarray(pair), nan=np.inf) for name, pair in found.items()}
    precision = jnp.finfo(next(iter(found.values())).dtype).eps
    allowed = float(precision) ** 0.5 if tolerance is None else tolerance
    name = max(worst, key=lambda name: float(worst[name].max()))
    at_points, at_nodes = map(float, worst[name])
    if max(at_points, at_nodes) <= allowed:
        return
    block = joint.blocks[name]
    family = type(block.family).__name__
    what = f"differs from that form at random points by {at_points:.2g}"
    if at_points <= allowed:
        what = f"has another mean over the block's nodes than that form, by {at_nodes:.2g}"
    hint = "Choose another family for the block"
    if block.family.finite:
        hint = "Write it linear in the one-hot vector, as jnp.sum(z * values_of_each_label)"
    elif family == "Dirichlet":
        hint = (
            "Write it in the logarithms of the shares, whose sum need not be 1 "
            "(elbax.families.Dirichlet(...).from_description(...).log_prob does)"
        )
    raise ValueError(
        f"ConjugateJoint: as a function of the block {name!r}, the log-joint is not of the form that {family} "
        f"needs, a sum over the entries of its plate {block.plate}: it {what} (relative; tolerance {allowed:.2g}). "
        f"{hint}. Entries that multiply each other belong in one entry of a larger family or in separate blocks."
    )
