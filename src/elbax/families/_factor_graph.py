"""A finite number of discrete variables, and tables over subsets of them."""

import functools
import math
import random
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import opt_einsum

from .._arguments import check_count, tables_of_whole_numbers, whole_numbers
from .._types import Any, Array, Int, PyTree, Scalar
from ._semiring import AbstractSemiring
from ._structured import AbstractStructured
from ._undefined import where_defined


class FactorGraph(AbstractStructured):
    r"""Discrete variables with tables over subsets of them: any Markov random field or Bayesian network.

    $z \in \prod_i \{0, \dots, K_i - 1\}$ with $\langle \eta, t(z) \rangle = \sum_f \eta_f[z_{s_f}]$, where
    $\eta_f$ is a table over the variables of the scope $s_f$. The natural parameters are a tuple of tables of
    log-potentials, one per scope, each with one axis per variable; −∞ marks an impossible configuration.

    The log-normalizer eliminates one variable after another. The order is chosen before it runs: that of
    `opt_einsum` or smallest table first, whichever needs smaller tables. On a tree this is exact in time linear
    in its size; elsewhere time is exponential in the width of the clique tree. `width` gives the number of
    variables of the largest table, and `largest` its number of entries, before anything runs.

    **Arguments:**

    - `sizes`: the number of values of each variable.
    - `scopes`: the variables of each table, as indices into `sizes`.
    - `limit`: the largest number of entries a table may have. Mean field works at any width.

    **Raises** `ValueError` if exact inference needs a table with more than `limit` entries. It is raised before
    anything runs, and the message gives the size.

    ```python
    >>> import elbax, jax.numpy as jnp
    >>> chain = elbax.families.FactorGraph((2, 2, 2), ((0, 1), (1, 2), (0,)))
    >>> same = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    >>> q = chain((same, same, jnp.array([0.0, 2.0])))
    >>> print(q.mode(), chain.width)
    [1 1 1] 2

    ```
    """

    event_ndim: ClassVar[int] = 1

    sizes: tuple[int, ...] = eqx.field(static=True)
    scopes: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    limit: int = eqx.field(static=True)

    def __init__(self, sizes: Any, scopes: Any, *, limit: int = 2**24):
        check_count("FactorGraph", limit=limit)
        self.sizes = whole_numbers("FactorGraph: sizes", sizes)
        self.scopes = tables_of_whole_numbers("FactorGraph: scopes", scopes)
        self.limit = limit
        if any(size < 1 for size in self.sizes) or not self.sizes:
            raise ValueError(
                f"FactorGraph: sizes must be positive whole numbers, got {self.sizes}."
            )
        for scope in self.scopes:
            if len(set(scope)) != len(scope) or not all(0 <= i < len(self.sizes) for i in scope):
                raise ValueError(
                    f"FactorGraph: a scope must list distinct variables from 0, ..., {len(self.sizes) - 1}; got "
                    f"{scope}."
                )

    @property
    def width(self) -> int:
        """The number of variables of the largest table in elimination: the treewidth of its order, plus one."""
        return _plan(self.sizes, self.scopes)[1]

    @property
    def largest(self) -> int:
        """The number of entries of the largest table."""
        return _plan(self.sizes, self.scopes)[2]

    def batch_ndim(self, natural: PyTree) -> int:
        return jnp.ndim(natural[0]) - len(self.scopes[0]) if self.scopes else 0

    def fold(self, natural: PyTree, semiring: AbstractSemiring) -> Scalar:
        self._check(natural)
        order, _, _ = _plan(self.sizes, self.scopes)
        tables = list(zip(self.scopes, natural, strict=True))
        dtype = jnp.result_type(*natural) if tables else float
        keys = semiring.keys(len(order))
        for step, variable in enumerate(order):
            joined = [table for table in tables if variable in table[0]]
            tables = [table for table in tables if variable not in table[0]]
            scope = tuple(sorted({variable}.union(*(own for own, _ in joined))))
            shape = [self.sizes[i] for i in scope]
            zeros = jnp.zeros(shape, dtype)
            table = sum((_spread(table, own, scope) for own, table in joined), zeros)
            table = semiring.sum(table, scope.index(variable), None if keys is None else keys[step])
            tables.append((tuple(i for i in scope if i != variable), table))
        return jnp.asarray(sum(table for _, table in tables))

    @property
    def _shapes(self) -> list[tuple[int, ...]]:
        return [tuple(self.sizes[i] for i in scope) for scope in self.scopes]

    def _check(self, natural):
        shapes = self._shapes
        given = [jnp.shape(table) for table in natural]
        if given != shapes:
            raise ValueError(
                f"FactorGraph: natural parameters must be a tuple of tables of shapes {shapes}, one for each "
                f"scope; got {given}."
            )
        if self.largest > self.limit:
            raise ValueError(
                f"FactorGraph: the best elimination order found needs a table over {self.width} variables, with "
                f"{self.largest:.2g} entries, more than limit={self.limit:.2g}. Exact inference is too large. "
                "Use mean field (MeanFieldEStep, factored(graph)), remove edges or variables, or raise the "
                "limit if there is enough memory."
            )

    def statistics(self, z: Int[Array, " n"]) -> tuple[Array, ...]:
        """Returns one table per scope: 1 at the values of z and 0 elsewhere."""

        def indicator(scope):
            one_hots = [jax.nn.one_hot(z[i], self.sizes[i]) for i in scope]
            return functools.reduce(lambda a, b: a[..., None] * b, one_hots, jnp.ones(()))

        return tuple(map(indicator, self.scopes))

    def score(self, natural: PyTree, z: Int[Array, " n"]) -> Scalar:
        inside = jnp.all((z >= 0) & (z < jnp.asarray(self.sizes, z.dtype)))
        z = jnp.where(inside, z, 0)
        values = [table[tuple(z[i] for i in scope)] for scope, table in zip(self.scopes, natural)]
        return jnp.where(inside, sum(values), -jnp.inf)

    def marginals(self, natural: PyTree) -> tuple[Array, ...]:
        """Returns the distribution of each variable, one vector of its size each."""
        unary = FactorGraph(
            self.sizes, (*self.scopes, *((i,) for i in range(len(self.sizes)))), limit=self.limit
        )
        dtype = jnp.result_type(*natural)
        zeros = tuple(jnp.zeros(size, dtype) for size in self.sizes)
        return unary.mean((*natural, *zeros))[len(self.scopes) :]

    def decode(self, statistics: PyTree) -> Int[Array, " n"]:
        values = {}
        for scope, table in zip(self.scopes, statistics):
            place = jnp.unravel_index(jnp.argmax(table), table.shape) if scope else ()
            values |= dict(zip(scope, place))
        # A variable in no table is free, so any value is a mode.
        z = jnp.stack([jnp.asarray(values.get(i, 0), int) for i in range(len(self.sizes))])
        found = [jnp.sum(table) > 0 for table in statistics]
        return where_defined(jnp.all(jnp.array(found, bool)), z)

    def from_network(self, output: PyTree) -> PyTree:
        """Returns a tuple of tables, unchanged."""
        shapes = self._shapes
        given = [jnp.shape(table) for table in jax.tree.leaves(output)]
        if given != shapes:
            raise ValueError(
                f"FactorGraph: an encoder must return a tuple of tables of shapes {shapes}; got {given}."
            )
        return tuple(jax.tree.leaves(output))


def _spread(table, own, scope):
    """Returns the table with one axis per variable of `scope`."""
    order = sorted(range(len(own)), key=lambda axis: own[axis])
    shape = iter(table.transpose(order).shape)
    return table.transpose(order).reshape([next(shape) if i in own else 1 for i in scope])


@functools.lru_cache(maxsize=256)
def _plan(sizes, scopes):
    """Returns (the elimination order, the most variables and the most entries of any table)."""
    orders = [_smallest_first(sizes, scopes)]
    used = tuple(scope for scope in scopes if scope)
    if used:
        words = ("".join(map(opt_einsum.get_symbol, scope)) for scope in used)
        shapes = [tuple(sizes[i] for i in scope) for scope in used]
        # The random search seeds Python's global generator, always alike: restore its state afterwards.
        state = random.getstate()
        search = opt_einsum.RandomGreedy(max_repeats=32, minimize="size", parallel=False)
        try:
            path, _ = opt_einsum.contract_path(
                ",".join(words) + "->", *shapes, shapes=True, optimize=search
            )
        finally:
            random.setstate(state)
        order = _vanishing(used, path)
        orders.append(order + [i for i in range(len(sizes)) if i not in order])

    def tables(order):
        left = [set(scope) for scope in scopes]
        for variable in order:
            scope = {variable}.union(*(own for own in left if variable in own))
            left = [own for own in left if variable not in own] + [scope - {variable}]
            yield len(scope), math.prod(sizes[i] for i in scope)

    def cost(order):
        entries = [entries for _, entries in tables(order)]
        return max(entries), sum(entries)

    order = min(orders, key=cost)
    width, largest = map(max, zip(*tables(order)))
    return tuple(order), width, largest


def _smallest_first(sizes, scopes):
    """Returns the order that eliminates the variable with the smallest table first: leaves before the trunk."""
    around = {i: {i} for i in range(len(sizes))}
    for scope in scopes:
        for i in scope:
            around[i] |= set(scope)
    entries = lambda i: math.prod(sizes[j] for j in around[i])
    cost, order = {i: entries(i) for i in around}, []
    while cost:
        gone = min(cost, key=cost.__getitem__)
        order.append(gone)
        del cost[gone]
        for i in around[gone] - {gone}:
            around[i] = (around[i] | around[gone]) - {gone}
            cost[i] = entries(i)
    return order


def _vanishing(scopes, path):
    """Returns the order in which variables vanish along a contraction path."""
    left, order = [set(scope) for scope in scopes], []
    for places in path:
        joined = set().union(*(left[i] for i in places))
        left = [scope for i, scope in enumerate(left) if i not in places]
        gone = joined - set().union(*left)
        order += sorted(gone)
        left.append(joined - gone)
    return order
