"""Independent latents side by side."""

import functools
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp

from .._arguments import kind_of
from .._types import Any, Callable, Key, PyTree, Scalar
from ._family import AbstractFamily


class Product(AbstractFamily):
    r"""Independent latents of several families, $q(z) = \prod_i q_i(z_i)$.

    Natural parameters, statistics and z are dictionaries of those of the factors, by name; of factors without
    names, tuples. An encoder returns its outputs in the same structure. The log-joint may couple the factors.
    Those of few values can be summed over, by `estimators.Enumeration` jointly or by `estimators.LocalExpectation`
    one at a time.

    **Arguments:** the families of the factors, all with names or none.

    **Raises** `TypeError` for what is not a family, `ValueError` for no factors or for both kinds of arguments.

    ```python
    >>> import elbax, jax, jax.numpy as jnp
    >>> family = elbax.families.Product(z=elbax.Categorical(3), c=elbax.DiagonalGaussian(2))
    >>> q = family.distribution({"z": jnp.zeros(3), "c": jnp.zeros(4)})
    >>> print(f"{q.entropy():.4f}")  # log 3 + log 2πe
    3.9365

    ```
    """

    factors: tuple[AbstractFamily, ...]
    names: tuple[str, ...] | None = eqx.field(static=True)

    def __init__(self, *factors: AbstractFamily, **named: AbstractFamily):
        if bool(factors) == bool(named):
            raise ValueError(
                "Product: pass the families of the factors, all by name or all without, as in "
                "Product(z=elbax.Categorical(3), c=elbax.DiagonalGaussian(2))."
            )
        for factor in (*factors, *named.values()):
            if not isinstance(factor, AbstractFamily):
                raise TypeError(f"Product: a factor must be a family, got {kind_of(factor)}.")
        self.names = tuple(sorted(named)) if named else None
        self.factors = tuple(named[name] for name in sorted(named)) if named else factors

    @property
    def discrete(self) -> bool:
        return all(factor.discrete for factor in self.factors)

    @property
    def moves(self) -> bool:
        return all(factor.moves for factor in self.factors)

    @property
    def event_ndim(self) -> int:
        return self.factors[0].event_ndim

    def parts(self, tree: PyTree) -> tuple[PyTree, ...]:
        """Returns the entries of the factors, in their order."""
        return tuple(tree) if self.names is None else tuple(tree[name] for name in self.names)

    def whole(self, parts: Any) -> PyTree:
        """Returns the tuple or dictionary of the factors' entries."""
        return tuple(parts) if self.names is None else dict(zip(self.names, parts, strict=True))

    def batch_ndim(self, natural: PyTree) -> int:
        return self.factors[0].batch_ndim(self.parts(natural)[0])

    def _each(self, method: str, *arguments: Any) -> list[Any]:
        """Returns what a method of each factor returns for its own arguments."""
        rows = zip(self.factors, *arguments, strict=True)
        return [getattr(factor, method)(*own) for factor, *own in rows]

    def _all(self, method: str, *arguments: PyTree) -> list[Any]:
        return self._each(method, *map(self.parts, arguments))

    def log_normalizer(self, natural: PyTree) -> Scalar:
        return _total(self._all("log_normalizer", natural))

    def mean(self, natural: PyTree) -> PyTree:
        return self.whole(self._all("mean", natural))

    def entropy(self, natural: PyTree) -> Scalar:
        return _total(self._all("entropy", natural))

    def bound(self, natural: PyTree, potentials: PyTree) -> Scalar:
        return _total(self._all("bound", natural, potentials))

    def statistics(self, z: PyTree) -> PyTree:
        return self.whole(self._all("statistics", z))

    def score(self, natural: PyTree, z: PyTree) -> Scalar:
        return _total(self._all("score", natural, z))

    def log_prob(self, natural: PyTree, z: PyTree) -> Scalar:
        return _total(self._all("log_prob", natural, z))

    def sample(self, natural: PyTree, key: Key) -> PyTree:
        keys = jax.random.split(key, len(self.factors))
        return self.whole(self._each("sample", self.parts(natural), keys))

    def mode(self, natural: PyTree) -> PyTree:
        return self.whole(self._all("mode", natural))

    def from_network(self, output: PyTree) -> PyTree:
        kind, names = (
            (tuple | list, range(len(self.factors))) if self.names is None else (dict, self.names)
        )
        if not isinstance(output, kind) or len(output) != len(self.factors):
            raise ValueError(
                f"An encoder of {len(self.factors)} independent latents must return the output for each of "
                f"{list(names)}; got {jax.tree.map(jnp.shape, output)}."
            )
        return self.whole(self._all("from_network", output))

    def read(self, function: Callable[[Any], Scalar], dtype: Any = float) -> tuple[PyTree, Scalar]:
        raise TypeError(NO_READING)


class Copies(AbstractFamily):
    """Independent latents of one family, such as a vector of categorical ones.

    Natural parameters, z and an encoder's output have a leading axis, one row for each latent.

    **Arguments:** `family`: that of each.

    ```python
    >>> import elbax, jax.numpy as jnp
    >>> q = elbax.families.Copies(elbax.Categorical(6))(jnp.zeros((3, 6)))
    >>> print(f"{q.entropy():.4f}", q.mode())  # 3 log 6
    5.3753 [0 0 0]

    ```
    """

    family: AbstractFamily

    @property
    def discrete(self) -> bool:
        return self.family.discrete

    @property
    def moves(self) -> bool:
        return self.family.moves

    @property
    def event_ndim(self) -> int:
        return self.family.event_ndim + 1

    def batch_ndim(self, natural: PyTree) -> int:
        return self.family.batch_ndim(natural) - 1

    def log_normalizer(self, natural: PyTree) -> Scalar:
        return jnp.sum(self.family.log_normalizer(natural))

    def mean(self, natural: PyTree) -> PyTree:
        return self.family.mean(natural)

    def entropy(self, natural: PyTree) -> Scalar:
        return jnp.sum(self.family.entropy(natural))

    def bound(self, natural: PyTree, potentials: PyTree) -> Scalar:
        return jnp.sum(self.family.bound(natural, potentials))

    def statistics(self, z: PyTree) -> PyTree:
        return jax.vmap(self.family.statistics)(z)

    def score(self, natural: PyTree, z: PyTree) -> Scalar:
        return jnp.sum(self.family.score(natural, z))

    def log_prob(self, natural: PyTree, z: PyTree) -> Scalar:
        return jnp.sum(self.family.log_prob(natural, z))

    def sample(self, natural: PyTree, key: Key) -> PyTree:
        return self.family.sample(natural, key)

    def mode(self, natural: PyTree) -> PyTree:
        return self.family.mode(natural)

    def from_network(self, output: PyTree) -> PyTree:
        return jax.vmap(self.family.from_network)(output)

    def read(self, function: Callable[[Any], Scalar], dtype: Any = float) -> tuple[PyTree, Scalar]:
        raise TypeError(NO_READING)


def has_parts(family: AbstractFamily, *kinds: type[AbstractFamily]) -> bool:
    """Returns whether some independent parts of z are of these kinds, and the draws of all others move."""
    parts = _parts(family)
    own = [isinstance(part, kinds) for part in parts]
    return any(own) and all(one or part.moves for one, part in zip(own, parts, strict=True))


def _parts(family: AbstractFamily) -> list[AbstractFamily]:
    """Returns the families that a product or copies are made of, at whatever depth; else the family itself."""
    if isinstance(family, Product):
        return [part for factor in family.factors for part in _parts(factor)]
    return _parts(family.family) if isinstance(family, Copies) else [family]


def _total(values: Sequence[Scalar]) -> Scalar:
    return functools.reduce(jnp.add, values)


NO_READING = (
    "Natural parameters of independent latents cannot be read from a plain log_joint, which may couple them. Use "
    "an encoder, Amortized(network, model.latent), or a model with this latent, such as "
    "FactorialHiddenMarkovModel or SwitchingStateSpace."
)
