"""Mean field for a Markov chain."""

import jax.numpy as jnp

from .._math.algebra import matmul, vdot
from ._factored import AbstractFactored, factored, no_blocks
from ._markov_chain import MarkovChain
from ._sites import Sites
from ._structured import possible_dot


class FactoredChain(AbstractFactored):
    """Independent states of a Markov chain; even steps are updated together, then odd ones."""

    whole: MarkovChain

    @property
    def parts(self) -> Sites:
        return Sites(self.whole.num_states)

    def join(self, means):
        states = means["unary"]
        pairs = states[:-1, :, None] * states[1:, None, :]
        return {"initial": states[0], "transition": pairs} | means

    def potentials(self, whole, means):
        if whole["transition"].ndim == 2:
            steps = (len(whole["unary"]) - 1, *whole["transition"].shape)
            whole = whole | {"transition": jnp.broadcast_to(whole["transition"], steps)}
        return super().potentials(whole, means)

    def mean(self, natural):
        found = super().mean(natural)
        return found | {"transition": jnp.sum(found["transition"], 0)}

    def bound(self, natural, potentials):
        states = self.parts.mean(natural)["unary"]
        pairs = potentials["transition"]
        if pairs.ndim == 2:
            pairs = vdot(matmul(states[:-1].T, states[1:]), pairs)
        else:
            pairs = jnp.einsum("ti,tij,tj->", states[:-1], pairs, states[1:], precision="highest")
        own = {"initial": states[0], "unary": states}
        rest = possible_dot(own, {name: potentials[name] for name in own})
        return pairs + rest + self.entropy(natural)

    def nothing(self, potentials):
        return {"unary": jnp.zeros_like(potentials["unary"]), "length": potentials["length"]}

    def colors(self, natural):
        return {"unary": jnp.arange(len(natural["unary"]))[:, None] % 2, "length": 0}, 2


@factored.register(MarkovChain)
def _(family, blocks=None):
    no_blocks(family, blocks)
    if family.allowed or family.starts:
        raise TypeError(
            "factored: a MarkovChain with impossible transitions has no mean field. Independent states give "
            "every path a positive probability, so the bound is −∞. Use ExactEStep."
        )
    return FactoredChain(family)
