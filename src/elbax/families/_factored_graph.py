"""Mean field for a factor graph, in blocks."""

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp

from .._types import Array
from ._factor_graph import FactorGraph
from ._factored import AbstractFactored, factored, finite
from ._family import gradient
from ._structured import possible_dot


class FactoredGraph(AbstractFactored):
    """Independent blocks of variables; inference inside a block is exact."""

    whole: FactorGraph
    blocks: tuple[tuple[int, ...], ...] = eqx.field(static=True)

    def _scopes(self) -> list[tuple[tuple[int, ...], ...]]:
        """Returns, for each scope of the whole, its intersection with each block."""
        return [
            tuple(shared for block in self.blocks if (shared := tuple(sorted({*scope} & {*block}))))
            for scope in self.whole.scopes
        ]

    @property
    def parts(self) -> FactorGraph:
        singles = ((i,) for i in range(len(self.whole.sizes)))
        scopes = dict.fromkeys(itertools.chain(*self._scopes(), singles))
        return FactorGraph(self.whole.sizes, tuple(scopes), limit=self.whole.limit)

    def join(self, means):
        of_scope = dict(zip(self.parts.scopes, means, strict=True))

        found = []
        for scope, shared in zip(self.whole.scopes, self._scopes()):
            order = tuple(itertools.chain(*shared))
            table = functools.reduce(_outer, (of_scope[own] for own in shared), jnp.ones(()))
            found.append(table.transpose([order.index(i) for i in scope]))
        return tuple(found)

    def nothing(self, potentials):
        dtype = jnp.result_type(*potentials)
        sizes = self.whole.sizes
        return tuple(jnp.zeros([sizes[i] for i in s], dtype) for s in self.parts.scopes)

    def colors(self, natural):
        block_of = {i: b for b, block in enumerate(self.blocks) for i in block}
        near = {b: set() for b in range(len(self.blocks))}
        for scope in self.whole.scopes:
            touched = {block_of[i] for i in scope}
            for b in touched:
                near[b] |= touched - {b}
        color: dict[int, int] = {}
        for b in near:
            taken = {color[other] for other in near[b] if other in color}
            color[b] = next(c for c in itertools.count() if c not in taken)
        return tuple(color[block_of[s[0]]] for s in self.parts.scopes), max(color.values()) + 1

    def ascend(self, natural, whole):
        # Colors are static, so only the potentials of the current color are computed.
        colors, number = self.colors(natural)
        whole, means = finite(whole), self.parts.mean(natural)
        for color in range(number):
            pick = lambda of_scope, color=color: tuple(
                part if own == color else None for part, own in zip(of_scope, colors)
            )
            score = lambda mine, means=means: possible_dot(
                self.join(eqx.combine(mine, means)), whole
            )
            best = gradient(score, pick(means))
            scopes = filter(None, pick(self.parts.scopes))
            block = FactorGraph(self.whole.sizes, scopes, limit=self.whole.limit)
            found = iter(block.mean(tuple(jax.tree.leaves(best))))
            moved = tuple(None if table is None else next(found) for table in best)
            natural, means = eqx.combine(best, natural), eqx.combine(moved, means)
        return natural


def _outer(a: Array, b: Array) -> Array:
    return a.reshape(a.shape + (1,) * b.ndim) * b


@factored.register(FactorGraph)
def _(family, blocks=None):
    everything = range(len(family.sizes))
    blocks = [[i] for i in everything] if blocks is None else blocks
    blocks = tuple(tuple(int(i) for i in block) for block in blocks)
    if sorted(itertools.chain(*blocks)) != list(everything):
        raise ValueError(
            f"factored: blocks must be lists of variables that contain each of 0, ..., {len(family.sizes) - 1} "
            f"exactly once; got {blocks}."
        )
    return FactoredGraph(family, blocks)
