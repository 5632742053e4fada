"""One block of the latents of a log-joint: its family, its plate, and what an update makes of its conditional."""

from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp

from .._arguments import check_count, kind_of
from .._types import Any, Array, Key, PyTree
from ..families._conjugate import AbstractConjugateFamily


FORMS = ("distribution", "mode", "sample")


class Block(eqx.Module):
    """A block of latents: independent entries of one family, given all other blocks.

    **Arguments:**

    - `family`: the family of the complete conditional of each entry: `Categorical`, `Gaussian`, or `Bernoulli`,
        `Normal`, `Gamma`, `Beta`, `Dirichlet`, `Wishart`, `NormalWishart` of `elbax.families`.
    - `plate`: the shape of the array of entries, a whole number or a tuple; `()` is a single entry.
    - `form`: what its update keeps of the complete conditional. `"distribution"` is variational Bayes, `"mode"`
        a point estimate (iterated conditional modes), `"sample"` a draw (Gibbs sampling).

    Blocks that are named apart are independent under q. Variables that q keeps together are one block, as μ and Λ
    are in a `NormalWishart`.

    ```python
    >>> import elbax
    >>> rates = elbax.conjugacy.Block(elbax.families.Gamma(), plate=2)
    >>> print(rates.shape)
    (2,)

    ```
    """

    family: AbstractConjugateFamily
    plate: tuple[int, ...] = eqx.field(static=True)
    form: str = eqx.field(static=True)

    def __init__(self, family: Any, plate: Any = (), form: str = "distribution"):
        if not isinstance(family, AbstractConjugateFamily):
            raise TypeError(
                "Block: family must be one whose members can be read off a log-density, such as "
                f"elbax.families.Gamma() or elbax.Gaussian(2); got {kind_of(family)}."
            )
        if form not in FORMS:
            raise ValueError(f"Block: form must be one of {FORMS}, got {form!r}.")
        plate = plate if isinstance(plate, tuple) else (plate,)
        for size in plate:
            check_count("Block", plate=size)
        self.family, self.plate, self.form = family, plate, form

    @property
    def shape(self) -> Any:
        """The shape of its value in the log-joint; a tuple of shapes for a family of tuples."""
        event = self.family.event_shape
        whole = isinstance(event, tuple) and event and isinstance(event[0], tuple)
        return tuple(self.plate + one for one in event) if whole else self.plate + event

    def start(self, key: Key, dtype: Any) -> PyTree:
        """Returns a random value: standard normal noise in unconstrained coordinates."""
        origin = self.family.to_unconstrained(self.family.origin(dtype))
        noise = jax.random.normal(key, self.plate + origin.shape, dtype)
        return self.family.from_unconstrained(origin + noise)

    def check_value(self, value: PyTree, what: str, rows: tuple[int, ...] = ()) -> None:
        """Raises `ValueError` for a value of another shape; `rows` is the axis of data of a local block."""
        expected = self.shape
        if expected and isinstance(expected[0], tuple):
            wanted = tuple(rows + one for one in expected)
            found = tuple(map(jnp.shape, value)) if isinstance(value, tuple) else jnp.shape(value)
        else:
            wanted, found = rows + expected, jnp.shape(value)
        if found != wanted:
            raise ValueError(
                f"{what} must have shape {wanted}, its plate {rows + self.plate} and then an entry of "
                f"{type(self.family).__name__}; got {found}."
            )

    def around(self, value: PyTree) -> PyTree:
        """Returns a wide q with this mean, or the value itself if the block is a point."""
        if self.form != "distribution":
            return value
        return self.family(self.family.near(value))

    def kept(self, natural: PyTree, key: Key) -> PyTree:
        """Returns what this block keeps of its complete conditional: q, its mode or a draw."""
        q = self.family(natural)
        if self.form == "distribution":
            return q
        z = self.family.mode(natural) if self.form == "mode" else self.family.sample(natural, key)
        found = self.family.coordinates(z)
        dtype = jax.tree.leaves(natural)[0].dtype
        return jax.tree.map(lambda leaf: leaf.astype(dtype), found)

    def nodes(self, belief: PyTree) -> PyTree:
        """Returns points, on a first axis, at which averages are expectations under q."""
        if self.form == "distribution":
            return self.family.nodes(belief.natural)
        return jax.tree.map(lambda leaf: leaf[None], belief)

    def center(self, belief: PyTree) -> PyTree:
        """Returns the point about which functions of the block are differentiated."""
        return self.family.center(belief.natural) if self.form == "distribution" else belief

    def entropy(self, belief: PyTree) -> Array | float:
        """Returns H(q) in nats, summed over the plate; that of a point counts as 0."""
        if self.form != "distribution":
            return 0.0
        return jnp.sum(self.family.entropy(belief.natural))


def blocks_of(given: Mapping[str, Any]) -> tuple[tuple[str, Block], ...]:
    return tuple(
        (name, block if isinstance(block, Block) else Block(block)) for name, block in given.items()
    )
