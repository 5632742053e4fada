"""A log-joint and the families of its blocks: the complete conditionals, the bound, and what refutes them."""

from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp

from .._arguments import check_function
from .._pass import per_datum
from .._program import by_value, is_concrete
from .._types import Any, Array, Callable, Key, PyTree, Scalar
from ..data._batch import (
    as_batch,
    effective_weight,
    reduce_data,
    row_numbers,
    rows,
    without_padding,
)
from ..families import Distribution
from ._block import Block, blocks_of
from ._local import LocalBeliefs
from ._quadrature import average
from ._refute import misfits, refuse
from ._start import dtype_of, start


class ConjugateJoint(eqx.Module):
    r"""A log-joint that is, as a function of each block of latents, in the span of a known family.

    Each block's complete conditional, its distribution given everything else, is then read off the log-joint by a
    few derivatives. With the other blocks integrated out under q,
    $q_b \propto \exp E_{q_{\setminus b}}[\log p]$, it is the coordinate step of variational Bayes. `BlockStep`
    makes each of them an update, and `conjugate_updates` a chain of them.

    **Arguments:**

    - `log_joint`: `log_joint(shared, x, local)`, the log-density of one datum x and of its own latents given those
        that all data share, in nats, with all constants. `shared` and `local` are dictionaries of the blocks'
        values. Without local blocks it is `log_joint(shared, x)`.
    - `shared`: a dictionary of the blocks that all data share. Each is a `Block`, or a family for a single entry.
    - `local`: a dictionary of the blocks that each datum has of its own.
    - `log_prior`: `log_prior(shared)`, the log-density of the shared blocks, counted once for all data.

    In the functions a label is a one-hot vector (a `Bernoulli` a number), and the log-joint must be linear in it:
    `jnp.sum(z * log_densities)` in place of `log_densities[z]`. Shares of a `Dirichlet` are evaluated at points
    whose sum is less than 1; `elbax.families.Dirichlet(3).from_description(...).log_prob` allows that.

    Entries of a plate must not multiply each other. What does belongs in one block of a larger family (a
    `Gaussian` vector), or in blocks of different names.

    ```python
    >>> import elbax, jax, jax.numpy as jnp
    >>> gamma = elbax.families.Gamma()
    >>> def log_joint(shared, x):  # a count at an exposure
    ...     return jax.scipy.stats.poisson.logpmf(x["count"], x["exposure"] * shared["rate"])
    >>> prior = gamma.from_description(shape=2.0, rate=1.0)
    >>> joint = elbax.conjugacy.ConjugateJoint(
    ...     log_joint, {"rate": gamma}, log_prior=lambda shared: prior.log_prob(shared["rate"])
    ... )
    >>> x = {"count": jnp.array([3.0, 5.0]), "exposure": jnp.array([1.0, 2.0])}
    >>> params, posterior = joint.init(jax.random.key(0), x)
    >>> conditional = joint.complete_conditional("rate", params, posterior, x)
    >>> print(conditional.natural[0] + 1, conditional.natural[1])  # shape 2 + 3 + 5, rate 1 + 1 + 2
    10.0 4.0

    ```
    """

    log_joint: Any = eqx.field(static=True, converter=by_value)
    shared: tuple[tuple[str, Block], ...]
    local: tuple[tuple[str, Block], ...]
    log_prior: Any = eqx.field(static=True, converter=by_value)

    def __init__(
        self,
        log_joint: Callable[..., Scalar],
        shared: Mapping[str, Any],
        local: Mapping[str, Any] | None = None,
        *,
        log_prior: Callable[[dict], Scalar] | None = None,
    ):
        check_function("ConjugateJoint", "lambda shared, x: ...", log_joint=log_joint)
        local = {} if local is None else local
        both = sorted(set(shared) & set(local))
        if both or not (shared or local):
            found = f"the names {both} twice" if both else "no blocks"
            raise ValueError(
                f"ConjugateJoint: expected blocks of different names in shared and local, got {found}."
            )
        self.log_joint, self.log_prior = log_joint, log_prior
        self.shared, self.local = blocks_of(shared), blocks_of(local)

    @property
    def blocks(self) -> dict[str, Block]:
        """All blocks by name, the local ones first."""
        return dict(self.local) | dict(self.shared)

    def by(self, form: str | None = None, **forms: str) -> "ConjugateJoint":
        """Returns the same joint with another form of all blocks, or of the blocks that are named.

        `joint.by("sample")` is for Gibbs sampling, `joint.by(component="mode", means="mode")` for k-means.
        """
        unknown = sorted(set(forms) - set(self.blocks))
        if unknown:
            raise ValueError(
                f"ConjugateJoint.by: there are no blocks {unknown}; the blocks are {sorted(self.blocks)}."
            )

        def changed(blocks):
            new = lambda name, block: forms.get(name, block.form if form is None else form)
            return {
                name: Block(block.family, block.plate, new(name, block)) for name, block in blocks
            }

        shared, local = changed(self.shared), changed(self.local)
        return ConjugateJoint(self.log_joint, shared, local, log_prior=self.log_prior)

    # ---- the start ----

    def init(
        self, key: Key, x: PyTree, *, check: bool = True, **starts: PyTree
    ) -> tuple[dict[str, PyTree], LocalBeliefs]:
        """Returns (params, posterior) to start from: beliefs about the shared blocks, and about the local ones.

        A block starts at a wide q whose mean is random, or given by its name, such as `means=x[:3]`; local blocks
        take one value for each row. The blocks are then tried at random points.

        **Arguments:**

        - `key`: a random key.
        - `x`: the data, with a leading axis, or a `Batch`.
        - `check`: whether to try the blocks with `verify`, if values are known.
        - `starts`: the means of blocks by name.

        **Raises** `ValueError` for a start of a wrong shape, and what `verify` raises.
        """
        unknown = sorted(set(starts) - set(self.blocks))
        if unknown:
            raise ValueError(
                f"ConjugateJoint.init: there are no blocks {unknown}; the blocks are {sorted(self.blocks)}."
            )
        table, _ = rows(x)
        number = len(jax.tree.leaves(table)[0])
        dtype = dtype_of(table)
        array = lambda value: jnp.asarray(value, dtype)
        local = dict(self.local)
        starts = {
            name: tuple(map(array, value)) if isinstance(value, tuple) else array(value)
            for name, value in starts.items()
        }
        for name, value in starts.items():
            axis = (number,) if name in local else ()
            self.blocks[name].check_value(value, f"ConjugateJoint.init: the block {name!r}", axis)
        params, posterior = start(self, key, starts, number, dtype)
        if check and is_concrete((params, posterior, table)):
            self.verify(params, posterior, x, key=key)
        return params, posterior

    def verify(
        self,
        params: dict[str, PyTree],
        posterior: LocalBeliefs,
        x: PyTree,
        *,
        key: Key | None = None,
        tolerance: float | None = None,
    ) -> "ConjugateJoint":
        """Tries to refute the blocks at random points, eagerly; returns the joint.

        As a function of one block, the others at random points around q, the log-joint of a few data is compared
        with the form that its derivatives determine, at random points of the whole plate, and its average over a
        block's nodes with the form's expectation. Points can refute conjugacy, not prove it.

        **Arguments:**

        - `params`, `posterior`: beliefs, as `init` returns them.
        - `x`: the data, of which it takes a few rows.
        - `tolerance`: the largest misfit, relative to the terms that are compared; by default the square root of
            the precision.

        **Raises** `ValueError` for a block of which the form is not that of its family, or whose entries multiply
        each other: it names the block and the size of the misfit.
        """
        key = jax.random.key(0) if key is None else key
        table, _ = rows(x)
        some = jnp.linspace(0, len(jax.tree.leaves(table)[0]) - 1, 3).astype(int)
        few = jax.tree.map(lambda leaf: leaf[some], jax.tree.map(jnp.asarray, table))
        try:
            found = misfits(self, params, posterior.rows(some), few, key)
        except (TypeError, ValueError) as error:
            shapes = {name: block.shape for name, block in self.blocks.items()}
            raise type(error)(
                f"ConjugateJoint: log_joint or log_prior fails at blocks of shapes {shapes}: {error}"
            ) from error
        refuse("ConjugateJoint", {n: b.family for n, b in self.blocks.items()}, found, tolerance)
        return self

    # ---- expectations ----

    def density(self, shared: dict[str, Any], x: PyTree, local: dict[str, Any]) -> Scalar:
        """Returns the log-joint of one datum at values of the blocks."""
        given = (shared, x, local) if self.local else (shared, x)
        value = self.log_joint(*given)
        if jnp.shape(value) != ():
            raise ValueError(
                "ConjugateJoint: log_joint must return a single number, the log-density of one datum; got shape "
                f"{jnp.shape(value)}. Sum over entries."
            )
        return value

    def prior(self, shared: dict[str, Any]) -> Scalar | float:
        """Returns the log-prior at values of the shared blocks."""
        if self.log_prior is None:
            return 0.0
        value = self.log_prior(shared)
        if jnp.shape(value) != ():
            raise ValueError(
                f"ConjugateJoint: log_prior must return a single number; got shape {jnp.shape(value)}."
            )
        return value

    def _nodes(self, blocks, beliefs, without=None):
        return {n: block.nodes(beliefs[n]) for n, block in blocks if n != without}

    def _of_row(self, shared, x, beliefs) -> Array:
        """Returns E log p(x, local | shared) over q of the row's own blocks."""
        local = self._nodes(self.local, beliefs)
        return average(lambda values: self.density(shared, x, values), local)

    def complete_conditional(
        self,
        name: str,
        params: dict[str, PyTree],
        posterior: LocalBeliefs,
        batch: PyTree,
        *,
        chunk_size: int | None = None,
    ) -> Distribution:
        """Returns exp E[log p] / Z over the block `name`, the expectation being over q of all other blocks.

        For a local block it has one leading axis, the rows of the batch.
        """
        if name in dict(self.local):
            return self._local_conditional(name, params, posterior, batch, chunk_size)
        block = dict(self.shared)[name]
        others = self._nodes(self.shared, params, name)
        about = block.center(params[name])

        def data(x, weight, places):
            def total(value):
                def one(shared):
                    each = lambda x, beliefs: self._of_row(shared | {name: value}, x, beliefs)
                    values = jax.vmap(each)(x, posterior.rows(places.row))
                    return jnp.sum(weight.astype(values.dtype) * values)

                return average(one, others)

            return block.family.read_about(total, about)

        natural, _ = reduce_data(data, batch, jax.random.key(0), chunk_size)
        if self.log_prior is not None:

            def prior(value):
                return average(lambda rest: jnp.asarray(self.prior(rest | {name: value})), others)

            own = block.family.read_about(prior, about)
            natural = jax.tree.map(jnp.add, own, natural)
        return block.family(natural)

    def _local_conditional(self, name, params, posterior, batch, chunk_size):
        block = dict(self.local)[name]
        batch = as_batch(batch)
        x = without_padding(batch, jax.tree.map(jnp.asarray, batch.x), effective_weight(batch))
        shared = self._nodes(self.shared, params)

        def one(given):
            x, beliefs = given
            nodes = shared | self._nodes(self.local, beliefs, name)

            def total(value):
                return average(lambda rest: self._at(rest | {name: value}, x), nodes)

            return block.family.read_about(total, block.center(beliefs[name]))

        given = x, posterior.rows(row_numbers(batch))
        natural = (
            jax.vmap(one)(given)
            if chunk_size is None
            else jax.lax.map(one, given, batch_size=chunk_size)
        )
        return block.family(natural)

    def _at(self, values, x):
        """Returns the log-joint of one datum at values of all blocks."""
        pick = lambda blocks: {name: values[name] for name, _ in blocks}
        return self.density(pick(self.shared), x, pick(self.local))

    def elbo(
        self,
        params: dict[str, PyTree],
        posterior: LocalBeliefs,
        batch: PyTree,
        *,
        chunk_size: int | None = None,
    ) -> Scalar:
        """Returns (E_q[log p(x, all blocks)] + H(q)) / Σ w, in nats per datum, with every constant.

        A block that is a point adds its density there and no entropy.
        """
        shared = self._nodes(self.shared, params)

        def data(x, weight, places):
            def row(x, beliefs):
                expected = average(lambda values: self._of_row(values, x, beliefs), shared)
                return expected + self._entropy(self.local, beliefs)

            values = jax.vmap(row)(x, posterior.rows(places.row))
            return jnp.sum(weight.astype(values.dtype) * values)

        total, weight = reduce_data(data, batch, jax.random.key(0), chunk_size)
        whole = self._entropy(self.shared, params) + average(
            lambda values: jnp.asarray(self.prior(values), total.dtype), shared
        )
        return per_datum(total, whole, weight)

    def _entropy(self, blocks, beliefs) -> Array | float:
        return sum(block.entropy(beliefs[name]) for name, block in blocks)
