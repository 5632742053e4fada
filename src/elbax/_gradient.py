"""One gradient ascent on the ELBO, whichever block of the state it moves."""

import equinox as eqx
import jax
import optax

from ._elbo import elbo_and_gradient, per_datum
from ._model import AbstractModel
from ._state import ELBOState, Info
from ._types import PyTree
from .posteriors import Exact


def init_optimizer(optimizer: optax.GradientTransformation, block: PyTree) -> PyTree:
    return optimizer.init(eqx.filter(block, eqx.is_inexact_array))


def check_trainable(name: str, posterior: PyTree) -> None:
    """Raises `TypeError` for a posterior that a gradient step cannot move."""

    def is_exact(node):
        return isinstance(node, Exact)

    if any(map(is_exact, jax.tree.leaves(posterior, is_leaf=is_exact))):
        raise TypeError(
            f"{name} trains the posterior's weights, but the posterior is Exact: Bayes' rule at a "
            "snapshot of the params, which has none. Start from elbax.Amortized(network, "
            "model.latent), or use ExactEStep(model)."
        )
    if not jax.tree.leaves(eqx.filter(posterior, eqx.is_inexact_array)):
        raise TypeError(
            f"{name} trains the posterior's weights, but {type(posterior).__name__} has none."
        )


def ascend(
    model: AbstractModel,
    optimizer: optax.GradientTransformation,
    names: tuple[str, ...],
    state: ELBOState,
    batch: PyTree,
    chunk_size: int | None,
) -> tuple[ELBOState, Info]:
    """One step of `optimizer` up the gradient of the ELBO in the state's blocks `names`."""
    key, now = jax.random.split(state.key)
    total, gradient, weight = elbo_and_gradient(
        model, state.params, state.posterior, batch, wrt=names, key=now, chunk_size=chunk_size
    )
    blocks = {name: getattr(state, name) for name in names}
    if "params" in names:
        trained, rest = eqx.partition(state.params, eqx.is_inexact_array)
        global_term, slope = _log_prior_and_gradient(model, trained, rest)
        gradient["params"] = jax.tree.map(lambda a, b: a + b, gradient["params"], slope)
    else:
        global_term = model.log_prior(state.params)
    descent = jax.tree.map(lambda leaf: -leaf / weight.astype(leaf.dtype), gradient)
    # Optax mixes dtypes inside (step counts, Python scalars), which strict promotion would refuse.
    with jax.numpy_dtype_promotion("standard"):
        moves, memory = optimizer.update(
            descent, state.memory, eqx.filter(blocks, eqx.is_inexact_array)
        )
        blocks = eqx.apply_updates(blocks, moves)
    info = Info(per_datum(total, global_term, weight))
    return state.replace(**blocks, memory=memory, key=key), info


def _log_prior_and_gradient(model, trained, rest):
    def log_prior(trained):
        return jax.numpy.asarray(model.log_prior(eqx.combine(trained, rest)), float)

    return jax.value_and_grad(log_prior)(trained)
