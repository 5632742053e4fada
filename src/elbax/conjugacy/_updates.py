"""Complete conditionals as updates: variational Bayes, conditional modes, Gibbs sampling."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp

from .._arguments import check_schedule, kind_of
from .._program import by_value
from .._state import ELBOState, Info
from .._types import Any, Array, Callable, PyTree
from .._update import AbstractUpdate, Chain
from ..data._batch import row_numbers, where_seen
from ..m_steps._online import rate_at
from ._joint import ConjugateJoint
from ._local import LocalBeliefs


class BlockStep(AbstractUpdate):
    r"""Moves one block to its complete conditional: to the distribution, its mode, or a draw.

    The block's `form` says which. With distributions this is coordinate ascent variational inference,
    $q_b \leftarrow \exp E_{q_{\setminus b}}[\log p] / Z$; with modes, iterated conditional modes; with samples,
    Gibbs sampling. Forms may differ from block to block. Steps of distributions and modes never lower the ELBO.

    The params of the state are the beliefs about the shared blocks; the posterior has those about the local
    blocks, by row (`Batch.index`, or counted from 0). A minibatch moves its own rows. Pass B of N rows as
    `Batch(x, weight=N / B, index=rows)`.

    **Arguments:**

    - `joint`: the log-joint and its blocks.
    - `block`: the name of the block.
    - `rate`: ρ, a number in (0, 1] or a function of the step 0, 1, …, for a shared distribution: its natural
        parameters become (1 − ρ) old + ρ new. This is stochastic variational inference (Hoffman et al. 2013). At
        the first step ρ is 1.
    - `measured`: whether a step evaluates the ELBO, before it moves.
    - `chunk_size`: about how many rows to process at a time.

    ```python
    >>> import elbax, jax, jax.numpy as jnp
    >>> def log_joint(shared, x):
    ...     return jax.scipy.stats.norm.logpdf(x, shared["mean"], shared["precision"] ** -0.5)
    >>> blocks = {"mean": elbax.families.Normal(), "precision": elbax.families.Gamma()}
    >>> joint = elbax.conjugacy.ConjugateJoint(log_joint, blocks, log_prior=lambda shared: (
    ...     -0.5 * 1e-4 * shared["mean"] ** 2 - 1e-3 * shared["precision"]))
    >>> x = elbax.datasets.old_faithful()[:, 1]
    >>> vb = elbax.Chain(*(elbax.conjugacy.BlockStep(joint, name) for name in blocks))
    >>> state = vb.init(*joint.init(jax.random.key(0), x, mean=70.0), key=jax.random.key(1))
    >>> state, info = jax.lax.scan(lambda s, _: vb(s, x), state, length=20)
    >>> print(f"{state.params['mean'].mode():.1f}")
    70.9

    ```
    """

    joint: ConjugateJoint
    block: str = eqx.field(static=True)
    rate: float | Array | Callable[[Any], Any] = eqx.field(converter=by_value, default=1.0)
    measured: bool = eqx.field(static=True, default=True)
    chunk_size: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        if not isinstance(self.joint, ConjugateJoint):
            raise TypeError(
                f"BlockStep: joint must be a ConjugateJoint, got {kind_of(self.joint)}."
            )
        if self.block not in self.joint.blocks:
            raise ValueError(
                f"BlockStep: there is no block {self.block!r}; the blocks are {sorted(self.joint.blocks)}."
            )
        if isinstance(self.rate, int | float) and not 0 < self.rate <= 1:
            raise ValueError(f"BlockStep: rate must be in (0, 1], got {self.rate}.")
        if self._averages and (self._local or self._form != "distribution"):
            raise ValueError(
                f"BlockStep: rate is for a shared block that is a distribution, but {self.block!r} is "
                f"{'local' if self._local else 'a ' + self._form}."
            )

    @property
    def _local(self) -> bool:
        return self.block in dict(self.joint.local)

    @property
    def _form(self) -> str:
        return self.joint.blocks[self.block].form

    @property
    def _averages(self) -> bool:
        return not (isinstance(self.rate, int | float) and self.rate == 1)

    @property
    def ascends(self) -> bool:
        sampled = any(block.form == "sample" for block in self.joint.blocks.values())
        return not sampled and not self._averages

    def natural_posterior(self, params: PyTree) -> PyTree:
        return None if self.joint.local else LocalBeliefs({})

    @property
    def usual_posterior(self) -> str | None:
        return "posterior, where params, posterior = joint.init(key, x)"

    def init_memory(self, params: PyTree, posterior: PyTree) -> PyTree:
        check_schedule("BlockStep", self.rate, float)
        self._check("params", params, dict(self.joint.shared))
        found = posterior.blocks if isinstance(posterior, LocalBeliefs) else posterior
        self._check("posterior", found, dict(self.joint.local))
        return jnp.zeros((), int)

    def _check(self, what: str, found: Any, blocks: dict) -> None:
        """Raises `TypeError` for beliefs of other names, or of another form."""
        form = lambda belief: "distribution" if hasattr(belief, "natural") else "point"
        wanted = {
            name: "distribution" if block.form == "distribution" else "point"
            for name, block in blocks.items()
        }
        given = {n: form(b) for n, b in found.items()} if isinstance(found, dict) else found
        if given != wanted:
            raise TypeError(
                f"BlockStep: {what} must be beliefs {wanted}, as joint.init(key, x) makes them for these forms; "
                f"got {given if isinstance(given, dict) else kind_of(given)}."
            )

    def __call__(self, state: ELBOState, batch: PyTree) -> tuple[ELBOState, Info]:
        key, now = jax.random.split(state.key)
        joint, name, step = self.joint, self.block, state.memory
        given = state.params, state.posterior, batch
        elbo = joint.elbo(*given, chunk_size=self.chunk_size) if self.measured else None
        natural = joint.complete_conditional(name, *given, chunk_size=self.chunk_size).natural
        block = joint.blocks[name]
        params, blocks = state.params, state.posterior.blocks
        if self._local:
            number = row_numbers(batch)
            keys = jax.vmap(jax.random.fold_in, (None, 0))(now, number)
            fresh = jax.vmap(block.kept)(natural, keys)
            moved = jax.tree.map(lambda old, new: old.at[number].set(new), blocks[name], fresh)
            blocks = blocks | {name: moved}
        else:
            if self._averages:
                mix = lambda old, new: old + rate_at(self.rate, step, old.dtype) * (new - old)
                natural = jax.tree.map(mix, params[name].natural, natural)
            params = params | {name: block.kept(natural, now)}
        found = params, LocalBeliefs(blocks), step + 1
        params, posterior, step = where_seen(batch, found, (state.params, state.posterior, step))
        moved = state.replace(params=params, posterior=posterior, memory=step, key=key)
        return moved, Info(elbo)


def conjugate_updates(
    joint: ConjugateJoint,
    order: Sequence[str] | None = None,
    *,
    rate: Any = 1.0,
    chunk_size: int | None = None,
) -> Chain:
    """Returns the chain of a `BlockStep` for every block, of which the last one measures the ELBO.

    **Arguments:**

    - `joint`: the log-joint and its blocks, whose forms say what each step makes of a complete conditional.
    - `order`: the names of the blocks to move, in order; by default the local blocks and then the shared ones.
    - `rate`: ρ of the shared distributions; see `BlockStep`.
    - `chunk_size`: about how many rows to process at a time.

    A Gaussian mixture of which nobody wrote the updates:

    ```python
    >>> import elbax, jax, jax.numpy as jnp
    >>> families, x = elbax.families, elbax.datasets.old_faithful()
    >>> def log_joint(shared, x, local):
    ...     mean, precision = shared["normals"]
    ...     gap = x - mean
    ...     square = jnp.einsum("ki,kij,kj->k", gap, precision, gap)
    ...     densities = 0.5 * (jnp.linalg.slogdet(precision)[1] - square) - jnp.log(2 * jnp.pi)
    ...     return jnp.sum(local["component"] * (jnp.log(shared["weights"]) + densities))
    >>> weights = families.Dirichlet(2).from_description(concentration=1.0)
    >>> normal = families.NormalWishart(2).from_description(
    ...     mean=x.mean(0), shrinkage=0.1, dof=3.0, inverse_scale=jnp.cov(x.T))
    >>> def log_prior(shared):
    ...     each = jax.vmap(normal.log_prob)(shared["normals"])
    ...     return weights.log_prob(shared["weights"]) + jnp.sum(each)
    >>> joint = elbax.conjugacy.ConjugateJoint(
    ...     log_joint,
    ...     {"weights": families.Dirichlet(2),
    ...      "normals": elbax.conjugacy.Block(families.NormalWishart(2), plate=2)},
    ...     {"component": elbax.Categorical(2)},
    ...     log_prior=log_prior,
    ... )
    >>> vb = elbax.conjugacy.conjugate_updates(joint)
    >>> precision = jnp.broadcast_to(jnp.linalg.inv(jnp.cov(x.T)), (2, 2, 2))
    >>> start = joint.init(jax.random.key(0), x, normals=(jnp.array([[2.0, 55.0], [4.0, 80.0]]), precision))
    >>> result = elbax.fit(vb, vb.init(*start, key=jax.random.key(1)), x)
    >>> print(result.params["normals"].mode()[0].round(1))
    [[ 2.  54.5]
     [ 4.3 80. ]]

    ```
    """
    names = list(joint.blocks) if order is None else list(order)
    if not names:
        raise ValueError("conjugate_updates: order is empty; expected the names of blocks to move.")
    shared = {name: block for name, block in joint.shared if block.form == "distribution"}
    return Chain(
        *(
            BlockStep(joint, name, rate if name in shared else 1.0, name is names[-1], chunk_size)
            for name in names
        )
    )
