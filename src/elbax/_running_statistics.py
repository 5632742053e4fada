"""Running statistics of networks, moved by a pass over data."""

import dataclasses

import equinox as eqx
import jax

from ._math.algebra import nodes_of
from ._model import AbstractModel
from ._network import Listening, Network
from ._pass import bound, Pass
from ._reference import Reference
from ._state import ELBOState, Info
from ._types import Any, PyTree
from ._update import AbstractUpdate
from .data._batch import where_seen
from .posteriors import Exact
from .posteriors._posterior import bind


class RunningStatistics(AbstractUpdate):
    """Moves what networks keep beside their weights, such as the running statistics of batch normalization.

    In training a network normalizes by the rows that a pass sees at a time, whose axis has the name `"rows"`; in
    evaluation by its running statistics. They are those of all networks in the params and in the posterior that
    have a `state`, `Network(module, state=state)`, and move by what the network returns: the mean over all its
    calls. Put it before the step that trains: it draws what that step draws, so that in one compiled program the
    two share the pass through the networks.

    **Arguments:**

    - `model`: the model.
    - `chunk_size`: about how many rows to process at a time, as in the step that trains.

    **Raises** `TypeError` at `init` if there is no network with a state.

    ```python
    >>> import elbax, equinox as eqx, jax, jax.numpy as jnp, optax
    >>> def layers(key):
    ...     norm = eqx.nn.BatchNorm(2, axis_name="rows", mode="batch")
    ...     return eqx.nn.Sequential([norm, eqx.nn.Linear(2, 2, key=key)])
    >>> module, statistics = eqx.nn.make_with_state(layers)(jax.random.key(0))
    >>> x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(2)
    >>> encoder = elbax.Amortized(elbax.Network(module, state=statistics), model.latent)
    >>> step = elbax.Chain(
    ...     elbax.RunningStatistics(model), elbax.GradientEStep(model, optax.adam(1e-2))
    ... )
    >>> state = step.init(model.init(jax.random.key(1), x), encoder, key=jax.random.key(2))
    >>> state, info = step(state, x)

    ```
    """

    model: AbstractModel
    chunk_size: int | None = eqx.field(static=True, default=None)

    @property
    def ascends(self) -> bool:
        return False

    def init_memory(self, params: PyTree, posterior: PyTree) -> None:
        if not _stateful((params, posterior)):
            raise TypeError(
                "RunningStatistics: no network in the params or in the posterior has a state. Make one with "
                "elbax.Network(module, state=state), where module, state = eqx.nn.make_with_state(Module)(...)."
            )

    def __call__(self, state: ELBOState, batch: PyTree) -> tuple[ELBOState, Info]:
        # The key of the step after it, which is left to that step.
        _, now = jax.random.split(state.key)
        model, params = self.model, state.params
        posterior = bind(state.posterior, model, params)
        networks = _stateful((params, posterior))
        listening = [
            Listening(one.state.value, Listening.ear_of(one.state.value)) for one in networks
        ]

        def total(ears):
            states = [dataclasses.replace(one, ear=ear) for one, ear in zip(listening, ears)]
            heard, q = _with_states((params, posterior), states)
            over = Pass(model, heard, bind(q, model, heard), batch, now, self.chunk_size)
            return over.sum(bound)[0]

        moves = jax.grad(total)([one.ear for one in listening])
        moved = [Reference(one.moved(move)) for one, move in zip(listening, moves)]
        new = where_seen(batch, _with_states((params, posterior), moved), (params, posterior))
        params, posterior = new
        return state.replace(params=params, posterior=bind(posterior, model, params)), Info()


def _is_end(node: Any) -> bool:
    # Params in a snapshot are those of the state.
    return isinstance(node, Exact) or (isinstance(node, Network) and node.state is not None)


def _stateful(tree: PyTree) -> list[Any]:
    return nodes_of(Network, list(filter(_is_end, jax.tree.leaves(tree, is_leaf=_is_end))))


def _with_states(tree: PyTree, states: list[Any]) -> PyTree:
    each = iter(states)

    def one(node):
        if not (_is_end(node) and isinstance(node, Network)):
            return node
        return eqx.tree_at(lambda network: network.state, node, next(each))

    return jax.tree.map(one, tree, is_leaf=_is_end)
