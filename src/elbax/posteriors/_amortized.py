"""Amortized posteriors: a network from a datum to its q."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._arguments import told
from .._model import AbstractModel
from .._network import Network
from .._program import by_value, program
from .._reference import Reference
from .._types import Any, Callable, Key, PyTree
from ..data._batch import as_batch, read, rows
from ..families import AbstractFamily, AnyLatent
from ._exact import check_target, Exact
from ._posterior import AbstractPosterior


_SIZES = ("num_values", "num_states", "dim")


class Function(eqx.Module):
    """A function from a network's output to a distribution, in place of a family. It holds no arrays."""

    function: Callable[[Any], Any] = eqx.field(static=True, converter=by_value)


class Amortized(AbstractPosterior):
    """An encoder: maps a datum x by a network to the natural parameters of q(z) in the `family`.

    A fresh encoder ruins good params within a few joint steps. Train it alone first, with `GradientEStep`.

    **Arguments:**

    - `network`: an Equinox module, or `Network(apply, weights)` for any pure function.
    - `family`: the family of the latent, usually `model.latent`; its `from_network` takes the outputs. Or a
        function from the outputs to a distribution of another library (numpyro, distreqx, flowjax, …), an object
        with `sample(key)` and `log_prob(z)`; its bound is then estimated by draws.
    - `target`: `Exact(model, params)`, for a network that reads θ: it is called with `(params, x)`. So does q in a
        ladder or with recurrent layers that it shares with the model. `JointGradientStep(model, optimizer,
        through=True)` differentiates the ELBO through that, too; other steps use a snapshot of θ, which they keep
        up to date.
    - `standardize`: data, a batch of rows such as the encoder will see. The network then sees each floating-point
        column minus its mean, divided by its standard deviation. Both are kept beside the weights and are not
        trained. Without it, an encoder of columns in different units often ends far from Bayes' rule.

    **Raises** `TypeError` for a `family` that is neither a family nor a function, and for `standardize` that is
    not data; at `init` of an update, for a family that does not fit the latent of the model; when called, for a
    target whose params cannot be read in a pass over data (a model with natural parameters of its own).

    ```python
    >>> import elbax, equinox as eqx, jax, jax.numpy as jnp
    >>> network = eqx.nn.MLP(2, 3, 8, 1, key=jax.random.key(0))
    >>> encoder = elbax.Amortized(network, elbax.Categorical(3))
    >>> encoder(jnp.zeros(2)).mean().shape
    (3,)

    ```

    With a distribution of numpyro:

        def normal(output):
            return numpyro.distributions.Normal(output[:2], jnp.exp(output[2:])).to_event(1)

        encoder = elbax.Amortized(eqx.nn.MLP(2, 4, 8, 1, key=key), normal)
    """

    network: Network
    family: AbstractFamily | Function
    inputs: Reference | None
    target: Exact | None

    def __init__(
        self,
        network: Callable[..., Any],
        family: Any,
        *,
        target: Exact | None = None,
        standardize: PyTree | None = None,
    ):
        of_class = isinstance(family, type) and issubclass(family, AbstractFamily)
        if of_class or not (isinstance(family, AbstractFamily) or callable(family)):
            raise TypeError(
                "Amortized: family must be a family such as model.latent, or a function from the network's output "
                f"to a distribution; got {family!r}."
            )
        self.network = network if isinstance(network, Network) else Network(network)
        self.family = family if isinstance(family, AbstractFamily) else Function(family)
        if target is not None:
            check_target("Amortized", target)
        self.target = target
        self.inputs = None
        if standardize is not None:
            data = read(standardize)
            if not all(getattr(leaf, "ndim", 0) for leaf in jax.tree.leaves(as_batch(data).x)):
                raise TypeError(
                    "Amortized: standardize must be data, arrays whose leading axis is the rows; got "
                    f"{told(standardize)}."
                )
            self.inputs = Reference(_columns(data))

    @property
    def draws_anew(self) -> bool:
        return isinstance(self.family, Function)

    def check(self, model: AbstractModel, who: str) -> None:
        AbstractPosterior.check(self, model, who)
        own, other = self.family, model.latent
        if not isinstance(own, AbstractFamily) or isinstance(other, AnyLatent):
            return
        sizes = [[getattr(family, name, None) for name in _SIZES] for family in (own, other)]
        alike = own.discrete == other.discrete and sizes[0] == sizes[1]
        if not alike or (model.exact and type(own.of_potentials) is not type(other)):
            raise TypeError(
                f"{who}: the posterior is over {own}, but the latent of the model is {other}. Use an encoder for "
                "this latent: elbax.Amortized(network, model.latent)."
            )

    def output(self, x: PyTree, key: Key | None) -> Any:
        """Returns what the network makes of the datum, in standard units if the encoder standardizes."""
        seen = () if self.target is None else (self.target.model.params_at(self.target.prepared),)
        return self.network(*seen, self._standardized(x), key=key)

    def _standardized(self, x: PyTree) -> PyTree:
        if self.inputs is None:
            return x

        def scaled(leaf, column):
            if column is None:
                return leaf
            mean, deviation = column
            # Whole numbers of columns of real ones take the columns' precision.
            dtype = leaf.dtype if jnp.issubdtype(leaf.dtype, jnp.inexact) else mean.dtype
            return (leaf.astype(dtype) - mean.astype(dtype)) / deviation.astype(dtype)

        x = jax.tree.map(jnp.asarray, x)
        return jax.tree.map(scaled, x, self.inputs.value, is_leaf=lambda node: node is None)

    @program
    def __call__(self, x: PyTree, *, key: Key | None = None) -> Any:
        output = self.output(x, key)
        if isinstance(self.family, AbstractFamily):
            return self.family.distribution(output)
        return self.family.function(output)


@program
def _columns(data: PyTree) -> PyTree:
    """Returns (mean, standard deviation) of each floating-point column without NaN; 1 for a constant column."""
    x, weight = rows(data)

    def column(leaf):
        leaf = jnp.asarray(leaf)
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return None
        seen = ~jnp.isnan(leaf) & (weight > 0).reshape((-1,) + (1,) * (leaf.ndim - 1))
        mean = jnp.mean(leaf, 0, where=seen)
        deviation = jnp.std(leaf, 0, where=seen)
        return mean, jnp.where(deviation > 0, deviation, 1)

    return jax.tree.map(column, x)
