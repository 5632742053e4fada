"""Beliefs over the params of components whose conjugate family is known."""

import jax
import jax.numpy as jnp

from ..components import Conjugate
from ._belief import AbstractBelief, belief, needed
from ._flags import together


class ConjugateBelief(AbstractBelief):
    """A member of the component's family over each entry of θ.

    q is `{"unconstrained": {"natural": ...}}`, the natural parameters of the family: those of the prior plus the
    expected statistics. They are not free to take any value, so a gradient step may leave their domain.
    """

    def __init__(self, component: Conjugate):
        self.component, self.family = component, component.family
        needed(component.prior, component, "prior", "family.from_description(...)")

    def start(self, params, count):
        """Returns a wide q about the params, whatever the count."""
        return self._block(self.family.near(self.component.theta(params)))

    def _block(self, natural):
        return {"unconstrained": {"natural": natural}}

    def _natural(self, q):
        return q["unconstrained"]["natural"]

    def _prior(self, q):
        dtype = jax.tree.leaves(self._natural(q))[0].dtype
        return self.component.prior_natural(dtype)

    def shapes(self, shapes):
        return None

    def point(self, q):
        return self.component.params_of(self.family.center(self._natural(q)))

    def natural(self, q):
        return self.family.mean(self._natural(q))

    def posterior(self, statistics, q, free):
        best = self._block(jax.tree.map(jnp.add, statistics, self._prior(q)))
        return {name: together(free[name], block, q[name]) for name, block in best.items()}

    def divergence(self, q):
        prior = self._prior(q)
        # The bound of q against the prior is log ∫ exp⟨η₀, t⟩ less the divergence.
        gap = self.family.log_normalizer(prior) - self.family.bound(self._natural(q), prior)
        return {"unconstrained": jnp.sum(gap)}

    def sample(self, q, key):
        return self.component.params_of(self.family.sample(self._natural(q), key))


@belief.register(Conjugate)
def _(component):
    return ConjugateBelief(component)
