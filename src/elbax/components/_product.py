"""Groups of columns of different kinds, independent given the component."""

import jax
import jax.numpy as jnp

from .._arguments import Apart
from .._invariance import beside_by_name
from .._shortcut import Shortcut
from .._types import Any
from ._component import AbstractComponent


class Product(AbstractComponent):
    r"""A product over named groups of columns: $p(x \mid k) = \prod_c p_c(x_c \mid k)$.

    Each group has a component of its own. x is a dictionary of arrays, one per group; params are a dictionary of
    the components' params. A group may be `IncompleteRows` if its component allows it.

    **Arguments:** one component per group, by name.

    ```python
    >>> import elbax, jax, jax.numpy as jnp
    >>> component = elbax.components.Product(
    ...     size=elbax.components.Normal("diagonal"), kind=elbax.components.Categorical(2)
    ... )
    >>> x = {"size": jnp.array([[1.0], [1.2], [3.0], [3.3]]), "kind": jnp.array([[0], [0], [1], [1]])}
    >>> model = elbax.Mixture(component, 2)
    >>> params = model.init(jax.random.key(0), x)
    >>> model.describe(params)["size"]["means"].shape
    (2, 1)

    ```
    """

    components: dict[str, AbstractComponent]

    def __init__(self, **components: AbstractComponent):
        if not components:
            raise ValueError(
                "Product: got no components. Pass at least one: Product(name=component, ...)."
            )
        for name, component in components.items():
            if not isinstance(component, AbstractComponent):
                raise TypeError(f"Product: {name} must be a component, got {component!r}.")
        # In the order in which JAX keeps dictionaries, however the model was made.
        self.components = dict(sorted(components.items()))

    def _each(self, method: str, *trees: Any, rest: tuple = ()) -> dict[str, Any]:
        return {
            name: getattr(component, method)(*(tree[name] for tree in trees), *rest)
            for name, component in self.components.items()
        }

    def check(self, x, weight, who, *, varied=False):
        names = sorted(self.components)
        if not isinstance(x, dict) or sorted(x) != names:
            given = sorted(x) if isinstance(x, dict) else type(x).__name__
            raise ValueError(
                f"{who}: expected a dictionary with columns named {names}, got {given}."
            )
        for name, component in self.components.items():
            component.check(x[name], weight, f"{who}, columns {name!r}", varied=varied)

    def table(self, x):
        return jnp.concatenate(list(self._each("table", x).values()), -1)

    def init(self, x, weight, assignment, num_components):
        return self._each("init", x, rest=(weight, assignment, num_components))

    def exchange(self, which, fresh, params):
        return {
            name: component.exchange(which, fresh[name], params[name])
            for name, component in self.components.items()
        }

    def shapes(self, num_components):
        return {
            name: Apart(component.shapes(num_components))
            for name, component in self.components.items()
        }

    def natural(self, params):
        return self._each("natural", params)

    def rebase(self, natural, params):
        return self._each("rebase", natural, params)

    def prepare(self, natural):
        return self._each("prepare", natural)

    def log_densities(self, natural, x):
        return sum(self._each("log_densities", natural, x).values())

    def maximize(self, statistics, params, free):
        return self._each("maximize", statistics, params, free)

    def impute(self, params, x, weights):
        found = self._each("impute", params, x, rest=(weights,))
        values, deviations = ({name: each[i] for name, each in found.items()} for i in (0, 1))
        return values, deviations

    def log_prior(self, params):
        return sum(self._each("log_prior", params).values())

    def shortcut(self, params, x):
        found = self._each("shortcut", params, x)
        taken = {name: each for name, each in found.items() if each is not None}
        if not taken:
            return None
        bases = {name: each.base for name, each in taken.items() if each.base is not None}
        return Shortcut(
            allowed=jnp.all(jnp.stack([each.allowed for each in taken.values()])),
            form=Product(**(self.components | {name: each.form for name, each in taken.items()})),
            base=(lambda x: sum(base(x[name]) for name, base in bases.items())) if bases else None,
            chunk_size=min((e.chunk_size for e in taken.values() if e.chunk_size), default=None),
        )

    def describe(self, params):
        """Returns each component's description, by name."""
        return self._each("describe", params)

    def from_description(self, **described):
        names = list(self.components)
        if sorted(described) != names or not all(isinstance(d, dict) for d in described.values()):
            raise ValueError(
                f"Product: expected a dictionary for each of {names}, as describe returns them; got "
                f"{ {name: type(one).__name__ for name, one in described.items()} }."
            )
        return {
            name: component.from_description(**described[name])
            for name, component in self.components.items()
        }

    def sample(self, params, component, key, inputs=None):
        keys = dict(zip(self.components, jax.random.split(key, len(self.components))))
        return {
            name: one.sample(
                params[name], component, keys[name], None if inputs is None else inputs.get(name)
            )
            for name, one in self.components.items()
        }

    def invariances(self, params):
        return beside_by_name(self._each("invariances", params))

    def at_boundary(self, params, least):
        return self._each("at_boundary", params, rest=(least,))

    def summary(self):
        found = [one.summary().get("structure", "") for one in self.components.values()]
        return {"structure": ", ".join(filter(None, found))}

    def collapsed(self, params):
        found = list(self._each("collapsed", params).values())
        return jnp.any(jnp.stack(jnp.broadcast_arrays(*found)), 0)
