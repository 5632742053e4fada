"""Random points that try whether a log-joint is in the span of each block's family."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from .._program import program
from .._types import Any, Array, Callable, Key, PyTree
from ..families._conjugate import AbstractConjugateFamily


_POINTS = 6


@program
def misfits(joint: Any, params: PyTree, local: PyTree, x: PyTree, key: Key) -> dict[str, Array]:
    """Returns two relative misfits of every block: of the form at random points, and of the average over nodes.

    All other blocks are at one random point.
    """
    number = len(jax.tree.leaves(x)[0])
    tried = {}
    for i, (name, block) in enumerate(joint.blocks.items()):
        center = block.center((params if name in params else local)[name])
        tried[name] = points_to_try(block.family, center, jax.random.fold_in(key, i))
    values = {name: _first(points) for name, points in tried.items()}

    def total(values):
        shared = {name: values[name] for name, _ in joint.shared}
        own = {name: values[name] for name, _ in joint.local}
        each = jax.vmap(lambda x, own: joint.density(shared, x, own), axis_size=number)(x, own)
        return jnp.sum(each) + jnp.asarray(joint.prior(shared), each.dtype)

    # One evaluation for the points of all blocks, which compiles once.
    sizes = [len(jax.tree.leaves(points)[0]) for points in tried.values()]
    everywhere = {
        name: jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
        for name, parts in _one_at_a_time(values, tried, sizes).items()
    }
    found = jnp.split(jax.vmap(total)(everywhere), np.cumsum(sizes)[:-1])

    def of_block(name, found):
        function = lambda value: total(values | {name: value})
        return misfit(joint.blocks[name].family, function, tried[name], found)

    return {name: of_block(name, one) for name, one in zip(tried, found)}


def _one_at_a_time(values: dict, tried: dict, sizes: list[int]) -> dict[str, list[PyTree]]:
    """Returns the values of every block while one block after another takes its points."""

    def still(name, size):
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (size, *leaf.shape)), values[name])

    return {
        name: [tried[name] if name == moving else still(name, n) for moving, n in zip(tried, sizes)]
        for name in tried
    }


def _somewhere(family: AbstractConjugateFamily, center: PyTree, key: Key) -> PyTree:
    """Returns a random point around the center, in unconstrained coordinates; of labels, any probabilities."""
    free = family.to_unconstrained(center)
    free = jnp.zeros_like(free) if family.finite else free
    return family.from_unconstrained(free + jax.random.normal(key, free.shape, free.dtype))


def _first(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[0], tree)


def points_to_try(family: AbstractConjugateFamily, center: PyTree, key: Key) -> PyTree:
    """Returns random points around the center, and then the nodes of a q around the first of them."""
    some = functools.partial(_somewhere, family, center)
    points = jax.vmap(some)(jax.random.split(key, _POINTS))
    nodes = family.nodes(family.near(_first(points)))
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), points, nodes)


def misfit(
    family: AbstractConjugateFamily,
    function: Callable[[Any], Array],
    points: PyTree,
    values: Array,
) -> Array:
    """Returns how far a function is from ⟨λ, t(z)⟩ + c, for the λ that its derivatives determine at one place.

    The first number is the largest difference at the random points, the second that of its average over the nodes
    from its expectation. Both are relative to the size of the terms. The constant c is from the first point.
    `values` are those of the function at the `points_to_try`.
    """
    form = family.read_about(function, _first(points))
    terms, size = jax.vmap(lambda point: _product(form, family.of_coordinates(point)))(points)
    size = 1 + jnp.abs(values) + size
    rest = values - terms
    at_points = jnp.abs(rest - rest[0])[:_POINTS] / (size + size[0])[:_POINTS]
    expected, _ = _product(form, family.mean(family.near(_first(points))))
    gap = jnp.mean(values[_POINTS:]) - expected - rest[0]
    return jnp.stack([jnp.max(at_points), jnp.abs(gap) / (size[0] + jnp.max(size[_POINTS:]))])


def _product(form: PyTree, statistics: PyTree) -> tuple[Array, Array]:
    """Returns ⟨λ, t⟩ and the sum of the sizes of its terms."""
    terms = jax.tree.leaves(jax.tree.map(jnp.multiply, form, statistics))
    total = functools.reduce(jnp.add, map(jnp.sum, terms))
    return total, functools.reduce(jnp.add, [jnp.sum(jnp.abs(term)) for term in terms])


def refuse(who: str, families: dict[str, Any], found: dict[str, Array], tolerance: Any) -> None:
    """Raises `ValueError` that names the block of the largest misfit, if it is above the tolerance."""
    worst = {name: np.nan_to_num(np.asarray(pair), nan=np.inf) for name, pair in found.items()}
    precision = jnp.finfo(next(iter(found.values())).dtype).eps
    allowed = float(precision) ** 0.5 if tolerance is None else tolerance
    name = max(worst, key=lambda name: float(worst[name].max()))
    at_points, at_nodes = map(float, worst[name])
    if max(at_points, at_nodes) <= allowed:
        return
    what = f"differs from that form at random points by {at_points:.2g}"
    if at_points <= allowed:
        what = f"has another mean over the nodes of a q than that form, by {at_nodes:.2g}"
    family = type(families[name]).__name__
    hint = "Choose another family for the block"
    if families[name].finite:
        hint = "Write it linear in the one-hot vector, as jnp.sum(z * values_of_each_label)"
    elif family == "Dirichlet":
        hint = (
            "Write it in the logarithms of the shares, whose sum need not be 1, as "
            "elbax.families.Dirichlet(...).from_description(...).log_prob does"
        )
    raise ValueError(
        f"{who}: as a function of the block {name!r}, the log-density is not a sum over its entries of {family} "
        f"terms ⟨λ, t(z)⟩ + c: it {what} (relative; tolerance {allowed:.2g}). {hint}. Entries that multiply each "
        "other belong in one entry of a larger family or in blocks of different names."
    )
