"""Beliefs over the params of components made of rows of probabilities, and of products of components."""

from typing import cast

import numpy as np

from .._arguments import Apart
from ..components import Categorical, Multinomial, Product
from ._belief import belief, Blocks, needed, no_predictive
from ._dirichlet import DirichletBelief, FLAT


class CategoricalBelief(Blocks):
    """A Dirichlet over the values of each column of each component."""

    def __init__(self, component: Categorical):
        self.component = component
        prior = needed(component.prior, component, "prior", FLAT)
        number = component.num_values
        values = np.arange(number if isinstance(number, int) else max(number))
        possible = values < np.atleast_1d(np.asarray(number))[:, None]
        Blocks.__init__(self, logits=DirichletBelief(prior, possible))

    def predictive(self, q):
        # A single row has each column once, of which only the mean matters.
        return self.component, self.point(q)


class MultinomialBelief(Blocks):
    """A Dirichlet over the probabilities of each component."""

    def __init__(self, component: Multinomial):
        self.component = component
        prior = needed(component.prior, component, "prior", FLAT)
        Blocks.__init__(self, logits=DirichletBelief(prior, True))

    def natural(self, q):
        natural, rows = self.component.natural(q), cast(DirichletBelief, self.blocks["logits"])
        return natural | {"logits": natural["logits"] + rows.gain(q["logits"])}

    def predictive(self, q):
        raise TypeError(no_predictive("the probabilities of a Multinomial"))


class ProductBelief(Blocks):
    """The beliefs over the components of a product."""

    def __init__(self, component: Product):
        Blocks.__init__(self, **{name: belief(one) for name, one in component.components.items()})

    def shapes(self, shapes):
        each = self.blocks.items()
        return {name: Apart(block.shapes(shapes[name].shapes)) for name, block in each}

    def predictive(self, q):
        found = {name: block.predictive(q[name]) for name, block in self.blocks.items()}
        component = Product(**{name: one for name, (one, _) in found.items()})
        return component, {name: params for name, (_, params) in found.items()}


belief.register(Categorical, CategoricalBelief)
belief.register(Multinomial, MultinomialBelief)
belief.register(Product, ProductBelief)
