"""Mean field for coupled chains, with exact chains as blocks."""

import jax
import jax.numpy as jnp

from ._ascending import repeated
from ._coupled_chains import CoupledChains
from ._factored import AbstractFactored, factored, no_blocks
from ._independent import Copies


class FactoredChains(AbstractFactored):
    """Independent Markov chains (structured mean field; Saul and Jordan 1996), updated one after another.

    The others enter a chain through their marginals alone, as an additional field at each step. So a round is one
    forward-backward pass of each chain.
    """

    whole: CoupledChains

    @property
    def parts(self) -> Copies:
        return Copies(self.whole.chain)

    def join(self, means):
        states = means["unary"]
        pairs = jnp.einsum("cti,dtj->cidj", states, states, precision="highest")
        return means | {
            "coupling": jnp.where(self.whole.apart, pairs, 0),
            "length": means["length"][0],
        }

    def nothing(self, potentials):
        return jax.tree.map(jnp.zeros_like, self._alone(potentials)) | {
            "length": self._alone(potentials)["length"]
        }

    def _alone(self, whole):
        """Returns the natural parameters of the chains without the couplings."""
        names = ("initial", "transition", "unary")
        length = jnp.broadcast_to(whole["length"], (self.whole.num_chains,))
        return {name: whole[name] for name in names} | {"length": length}

    def colors(self, natural):
        place = jnp.arange(self.whole.num_chains)
        wide = place[:, None, None]
        return {
            "initial": place[:, None],
            "transition": wide,
            "unary": wide,
            "length": 0,
        }, self.whole.num_chains

    def start(self, whole):
        """Returns natural parameters of the chains, with the others at their marginals without data.

        Without the others each chain would explain the data alone.
        """
        alone = self._alone(whole)
        prior = alone | {"unary": jnp.zeros_like(alone["unary"])}
        states = self.parts.mean(prior)["unary"]
        field = jnp.einsum("cidj,dtj->cti", self._pulls(whole), states, precision="highest")
        return alone | {"unary": alone["unary"] + field}

    def _pulls(self, whole):
        """Returns each coupling in both directions, and none of a chain with itself."""
        coupling = whole["coupling"]
        return jnp.where(self.whole.apart, coupling + coupling.transpose(2, 3, 0, 1), 0)

    def ascend(self, natural, whole):
        return self.climb(natural, whole, 1)

    def climb(self, natural, potentials, num_rounds, tolerance=None):
        alone, pulls = self._alone(potentials), self._pulls(potentials)
        chain = self.whole.chain

        def step(states, row):
            own, pull = row
            field = jnp.einsum("idj,dtj->ti", pull, states, precision="highest")
            own = own | {"unary": own["unary"] + field}
            place = own.pop("place")
            states = states.at[place].set(chain.mean(own)["unary"])
            return states, own["unary"]

        def improve(state):
            _, states = state
            rows = alone | {"place": jnp.arange(self.whole.num_chains)}
            states, unary = jax.lax.scan(step, states, (rows, pulls))
            return alone | {"unary": unary}, states

        # The chains' marginals are known from the round before.
        start = natural, self.parts.mean(natural)["unary"]
        return repeated(improve, start, num_rounds, tolerance)[0]


@factored.register(CoupledChains)
def _(family, blocks=None):
    no_blocks(family, blocks)
    return FactoredChains(family)
