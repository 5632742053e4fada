"""The base class of gradient steps on the ELBO."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from ._arguments import check_optimizer, kind_of
from ._free import choose, moving, spread
from ._math.algebra import add, nodes_of, zeros_like
from ._model import AbstractModel
from ._pass import bound, bound_and_divergence, divisor, elbo_and_gradient, per_datum
from ._program import by_value
from ._reference import split_coordinates
from ._state import ELBOState, Info
from ._types import PyTree
from ._update import AbstractUpdate
from .data._batch import where_seen
from .posteriors import Exact, Hard
from .posteriors._posterior import bind, weights_of


class AbstractGradientStep(AbstractUpdate):
    """Makes one step of an optax `optimizer` along the gradient of the ELBO in `blocks`, with one pass over data.

    The optimizer gets a dictionary of the blocks. `chunk_size` is about how many rows to process at a time. `free`
    is which params move: `True` or `False` for each block (a prefix of the params' tree), or a mask for each
    entry. A gradient step does not promise to ascend, since its rate may be too large.
    """

    model: AbstractModel
    optimizer: optax.GradientTransformation = eqx.field(converter=by_value)
    chunk_size: int | None = eqx.field(static=True, default=None)
    free: PyTree = True

    blocks: ClassVar[tuple[str, ...]]

    @property
    def differentiates_through(self) -> bool:
        """Whether the gradient in θ includes the posterior's dependence on θ."""
        return False

    def __check_init__(self):
        check_optimizer(type(self).__name__, self.optimizer)

    @property
    def ascends(self) -> bool:
        return False

    def init_memory(self, params: PyTree, posterior: PyTree) -> PyTree:
        if "posterior" in self.blocks:
            reads_params = self.differentiates_through and nodes_of(Exact, posterior)
            check_trainable(type(self).__name__, posterior, bool(reads_params))
        everything = {"params": params, "posterior": posterior}
        return self.optimizer.init(self._trained({name: everything[name] for name in self.blocks}))

    def _trained(self, blocks: PyTree) -> PyTree:
        """Returns the inexact arrays that move, with `None` in place of all others."""
        if "params" in blocks and self.free is not True:
            free = spread(self.free, blocks["params"])
            blocks = blocks | {"params": moving(free, blocks["params"])}
        return weights_of(blocks)

    @property
    def usual_posterior(self) -> str | None:
        return "elbax.Amortized(network, model.latent)" if "posterior" in self.blocks else None

    @property
    def settles(self) -> bool:
        return "posterior" in self.blocks

    def settle(self, state: ELBOState, batch: PyTree) -> ELBOState:
        if "posterior" not in self.blocks:
            return state
        return state.replace(posterior=bind(state.posterior, self.model, state.params))

    def __call__(self, state: ELBOState, batch: PyTree) -> tuple[ELBOState, Info]:
        key, now = jax.random.split(state.key)
        state = self.settle(state, batch)
        beta = self.model.divergence_weight
        total, gradient, weight = elbo_and_gradient(
            self.model,
            state.params,
            state.posterior,
            batch,
            wrt=self.blocks,
            key=now,
            chunk_size=self.chunk_size,
            through=self.differentiates_through,
            datum=bound if beta is None else bound_and_divergence,
        )
        global_term, slope = _global_term_and_gradient(self.model, state.params, now)
        if "params" in self.blocks:
            gradient["params"] = add(gradient["params"], slope)
        descent = jax.tree.map(lambda leaf: -leaf / divisor(weight, leaf.dtype), gradient)

        if "params" in self.blocks and self.free is not True:
            # An optimizer that combines all entries (to clip a norm) must not see the fixed ones.
            free = spread(self.free, descent["params"])
            nothing = zeros_like(descent["params"])
            descent["params"] = choose(free, descent["params"], nothing)

        blocks = {name: getattr(state, name) for name in self.blocks}
        trained, descent = self._trained(blocks), self._trained(descent)
        # Optax mixes dtypes (step counts, Python scalars), which strict promotion rejects.
        with jax.numpy_dtype_promotion("standard"):
            steps, memory = self.optimizer.update(descent, state.memory, trained)
            moved = eqx.apply_updates(blocks, steps)
        if "params" in moved and self.free is not True:
            free = spread(self.free, blocks["params"])
            moved["params"] = choose(free, moved["params"], blocks["params"])
        moved, memory = where_seen(batch, (moved, memory), (blocks, state.memory))
        info = _info(total, global_term, weight, beta)
        # A posterior that reads the params, such as a ladder, reads those that the state has.
        state = self.settle(state.replace(**moved, memory=memory, key=key), batch)
        return state, info


def _info(total, global_term, weight, beta) -> Info:
    if beta is None:
        return Info(per_datum(total, global_term, weight))
    value, divergence = total / divisor(weight, total.dtype)
    reconstruction = value + jnp.asarray(beta, value.dtype) * divergence
    elbo = per_datum(total[0], global_term, weight)
    return Info(elbo, reconstruction=reconstruction, kl_prior=divergence)


def check_trainable(name: str, posterior: PyTree, reads_params: bool = False) -> None:
    """Raises `TypeError` for a posterior that a gradient step cannot move, by weights or params."""
    if nodes_of(Hard, posterior):
        raise TypeError(
            f"{name}: got a Hard posterior, whose mode has no derivative with respect to the weights that this "
            "step trains. Train the posterior without Hard, then wrap it in Hard."
        )
    if reads_params or jax.tree.leaves(weights_of(posterior)):
        return
    if nodes_of(Exact, posterior):
        raise TypeError(
            f"{name}: got an Exact posterior, which has no weights to train: it is Bayes' rule at a snapshot of "
            "the params. Start from elbax.Amortized(network, model.latent), or use ExactEStep(model)."
        )
    raise TypeError(
        f"{name}: got {kind_of(posterior)} posterior, which has no weights to train. To train only the params use "
        "GradientMStep; the weights of a network are those of elbax.Network(module)."
    )


def _global_term_and_gradient(model, params, key):
    trained, rest = split_coordinates(params)

    def global_term(trained):
        return jnp.asarray(model.global_term(eqx.combine(trained, rest), key), float)

    return jax.value_and_grad(global_term)(trained)
