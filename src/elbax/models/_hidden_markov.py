"""The hidden Markov model: a mixture along a chain."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._arguments import check_choice, check_kind
from .._door import enter_sample
from .._invariance import beside_by_name, Invariances, shifts
from .._math.algebra import log
from .._shortcut import Shortcut
from .._types import Any, AnyArray, Array, Bool, Float, Int, Key, PyTree, Scalar
from ..components import AbstractComponent
from ..data._batch import host_rows, rows
from ..data._check import check_described, check_each, check_enough, is_concrete
from ..data._sequence import (
    all_steps,
    as_sequence,
    check_sequences,
    num_observed,
    values_of,
    without_steps_after,
)
from ..families import MarkovChain
from ..families._recursion import runs_pairwise
from ..families._undefined import draw_label, where_defined
from ..priors import Dirichlet
from ..priors._shares import log_prior_of_shares, log_shares_of, maximize_shares, vanished
from ..starts import AbstractPartitioned
from ._mixture import check_components
from ._transitions import AbstractTransitions, TRANSITIONS


Transition = Literal["homogeneous", "input-driven"]


class HiddenMarkovModel(AbstractPartitioned):
    r"""A hidden Markov model $p(x, z) = \pi_{z_1} \prod_{t<T} P_{z_t z_{t+1}} \prod_t p(x_t \mid \theta_{z_t})$.

    A datum is one sequence: an array `(T, dim)`, or any data of the component with a leading axis of steps.
    Sequences of different lengths, or with gaps, are given as `elbax.sequences(...)`. Params: `{"initial": (K,),
    "transition": (K, K), "components": params of the component}`, the first two logits. The ELBO is in nats per
    sequence.

    `Chain(ExactEStep(model), ClosedFormMStep(model))` is the Baum-Welch algorithm; with `HardEStep(model)` it is
    Viterbi training. The best path is `posterior(sequence).mode()`; use `jax.jit` if it is called often.

    **Arguments:**

    - `component`: the emission density, any of `elbax.components`, as for a `Mixture`.
    - `num_states`: K.
    - `allowed`: (K, K) booleans, from row to column: which transitions are possible. The others have probability
        exactly 0 in every fit (left-to-right models, known zeros).
    - `starts`: (K,) booleans: which states may be first.
    - `prior`: a `Dirichlet` prior on the first state's probabilities.
    - `transition_prior`: a `Dirichlet` prior on every row of the transition matrix, over the allowed transitions.
    - `transition`: `"homogeneous"`, the same probabilities in all steps; or `"input-driven"`: a datum is `(inputs,
        values)`, and `params["transition"]` is a function (an `elbax.Network`) from a step's inputs to the logits
        (K, K) of the transition into it. It is fitted by `GradientMStep`.
    - `form`, `order`, `segment`: options of the computation, as for `MarkovChain`.

    ```python
    >>> import elbax, jax, jax.numpy as jnp
    >>> x = jnp.array([0, 1, 0, 0, 9, 12, 8, 11, 1, 0, 0, 1])[None, :, None]  # one sequence of one column
    >>> model = elbax.HiddenMarkovModel(elbax.components.Poisson(), 2)
    >>> params = model.init(jax.random.key(0), x)
    >>> em = elbax.em(model)
    >>> state = em.init(params, key=jax.random.key(1))
    >>> result = elbax.fit(em, state, x)
    >>> path = result.state.posterior(x[0]).mode()
    >>> bool(path[0] == path[-1] != path[5])
    True

    ```
    """

    component: AbstractComponent
    num_states: int = eqx.field(static=True)
    prior: Dirichlet | None
    transition_prior: Dirichlet | None
    chain: MarkovChain
    transition: Transition = eqx.field(static=True)

    def __init__(
        self,
        component: AbstractComponent,
        num_states: int,
        *,
        allowed: Any = None,
        starts: Any = None,
        prior: Dirichlet | None = None,
        transition_prior: Dirichlet | None = None,
        transition: Transition = "homogeneous",
        form: Literal["auto", "log", "scaled"] = "auto",
        order: Literal["auto", "sequential", "pairwise"] = "auto",
        segment: int | None = None,
    ):
        check_components("HiddenMarkovModel", component, num_states=num_states)
        who = "HiddenMarkovModel"
        check_kind(who, Dirichlet, prior=prior, transition_prior=transition_prior)
        check_choice(who, TRANSITIONS, transition=transition)
        self.component = component
        self.num_states = num_states
        self.prior = prior
        self.transition_prior = transition_prior
        self.transition = transition
        self.chain = MarkovChain(
            num_states,
            allowed=allowed,
            starts=starts,
            form=form,
            order=order,
            segment=segment,
        )

    @property
    def _transitions(self) -> AbstractTransitions:
        return TRANSITIONS[self.transition]

    @property
    def latent(self) -> MarkovChain:
        """The family of paths of hidden states, a `MarkovChain(num_states)`."""
        return self.chain

    def check(self, batch: PyTree, who: str = "fit") -> None:
        x, weight = host_rows(batch)
        self._check_sequences(x, weight, who)
        steps, weight = all_steps(x, weight)
        self.component.check(self._transitions.values_of(steps), weight, who)

    def _check_sequences(self, x: PyTree, weight: AnyArray, who: str) -> None:
        # A step of a single array is a row; with several arrays, some may hold a number per step.
        check_sequences(x, weight, who, 3 if len(jax.tree.leaves(values_of(x))) == 1 else 2)

    @property
    def num_parts(self) -> int:
        return self.num_states

    def start_rows(self, batch: PyTree) -> tuple[PyTree, Array]:
        """Returns the steps of all sequences, for starts, which ignore their order."""
        if is_concrete(batch):
            who = "HiddenMarkovModel.init"
            found = host_rows(batch)
            self._check_sequences(*found, who)
            steps, weight = all_steps(*found)
            self.component.check(self._transitions.values_of(steps), weight, who, varied=True)
            check_enough(weight, who, self.num_states)
        return all_steps(*rows(batch))

    def start_table(self, x: PyTree) -> Float[Array, "num_rows features"]:
        return self.component.table(self._transitions.values_of(x))

    def from_parts(self, x: PyTree, weight: Array, assignment: Array) -> PyTree:
        """Returns emissions of the parts, and transitions that keep the state half of the time."""
        number, dtype = self.num_states, weight.dtype
        logits = jnp.log(0.5 * jnp.eye(number, dtype=dtype) + 0.5 / number)
        return {
            "initial": jnp.full(number, -jnp.log(number), dtype),
            "transition": self._transitions.start(logits, x),
            "components": self.component.init(
                self._transitions.values_of(x), weight, assignment, number
            ),
        }

    @property
    def parted(self) -> dict[str, Any]:
        return {"components": self.component}

    @property
    def shapes(self) -> PyTree:
        return {
            "initial": (self.num_states,),
            "transition": self._transitions.shape(self.num_states),
            "components": self.component.shapes(self.num_states),
        }

    def natural(self, params: PyTree) -> PyTree:
        starts, allowed = self.chain.possible()
        return {
            "initial": log_shares_of(params["initial"], starts),
            "transition": self._transitions.natural(params["transition"], allowed),
            "components": self.component.natural(params["components"]),
        }

    def potentials(self, natural: PyTree, x: PyTree) -> tuple[PyTree, Scalar]:
        steps, length, _ = as_sequence(x)
        transitions, (_, allowed) = self._transitions, self.chain.possible()
        transition = transitions.along(natural["transition"], steps, allowed)

        def emit(values):
            return self.component.log_densities(natural["components"], values)

        unary = jax.vmap(emit)(transitions.values_of(steps))
        potentials = {
            "initial": natural["initial"],
            "transition": transition,
            "unary": unary,
            "length": length,
        }
        return potentials, jnp.zeros((), unary.dtype)

    def maximize(self, statistics: PyTree, params: PyTree, free: PyTree) -> PyTree:
        """Returns initial and transition probabilities proportional to the expected counts, and the components'
        closed form. A state without data keeps its row."""
        starts, allowed = self.chain.possible()
        transition = self._transitions.maximize(
            statistics["transition"],
            params["transition"],
            free["transition"],
            allowed,
            self.transition_prior,
        )
        return {
            "initial": maximize_shares(
                statistics["initial"], params["initial"], free["initial"], starts, self.prior
            ),
            "transition": transition,
            "components": self.component.maximize(
                statistics["components"], params["components"], free["components"]
            ),
        }

    def log_prior(self, params: PyTree) -> Scalar | float:
        total = self.component.log_prior(params["components"])
        starts, allowed = self.chain.possible()
        total += log_prior_of_shares(params["initial"], starts, self.prior)
        return total + self._transitions.log_prior(
            params["transition"], allowed, self.transition_prior
        )

    def shortcut(self, params: PyTree, x: PyTree) -> Shortcut | None:
        found = self.component.shortcut(
            params["components"], self._transitions.values_of(values_of(x))
        )
        # A sequential chain checks this itself.
        chain = self.chain
        scalable = chain.form == "auto" and runs_pairwise(chain.order)
        scalable = scalable and chain.allowed is None and chain.starts is None
        scalable = scalable and self._transitions.constant
        if found is None and not scalable:
            return None
        found = Shortcut(jnp.array(True), self.component) if found is None else found
        allowed = found.allowed
        if scalable:
            allowed &= MarkovChain.in_scaled_range(self.natural(params)["transition"])
            chain = MarkovChain(
                self.num_states, form="scaled", order=chain.order, segment=chain.segment
            )
        form = eqx.tree_at(lambda m: (m.component, m.chain), self, (found.form, chain))
        of_step = found.base
        if of_step is None:
            return Shortcut(allowed, form)

        def base(x):
            values, length, _ = as_sequence(x)
            each = jax.vmap(of_step)(self._transitions.values_of(values))
            return jnp.sum(jnp.where(jnp.arange(len(each)) < length, each, 0))

        return Shortcut(allowed, form, base)

    def impute(self, params: PyTree, x: PyTree, q: Any) -> tuple[PyTree, PyTree]:
        values, length, _ = as_sequence(x)
        impute = lambda row, weights: self.component.impute(params["components"], row, weights)
        found = jax.vmap(impute)(self._transitions.values_of(values), q.mean()["unary"])
        return without_steps_after(length, found)

    def describe(self, params: PyTree) -> dict[str, Any]:
        """Returns initial probabilities (K,), the transition matrix (K, K), and the components' description."""
        starts, allowed = self.chain.possible()
        found = {"initial": jnp.where(starts, jnp.exp(log_shares_of(params["initial"], starts)), 0)}
        found |= self._transitions.describe(params["transition"], allowed)
        return found | self.component.describe(params["components"])

    def from_description(self, *, initial: Any, transition: Any, **described: Any) -> PyTree:
        """Returns params from a description; `transition` is a matrix, or a function if it is input-driven.

        Probabilities need not sum to 1: rows are normalized.

        **Raises** `ValueError` for a wrong shape, an invalid number, or a probability of what `allowed` or
        `starts` rule out.
        """
        who, number = "HiddenMarkovModel", self.num_states
        starts, allowed = self.chain.possible()
        given: dict[str, Any] = {"initial": (initial, (number,), "shares")}
        given |= self._transitions.described(transition, number)
        check_described(who, **given)
        for name, (table, _, _) in given.items():
            possible = starts if name == "initial" else allowed
            if is_concrete(table) and np.any(np.asarray(table)[~possible] > 0):
                raise ValueError(
                    f"{who}: {name} must be 0 where {'starts' if possible is starts else 'allowed'} is False."
                )
        check_each(who, number, described)
        return {
            "initial": log(jnp.asarray(initial, float)),
            "transition": self._transitions.from_description(transition),
            "components": self.component.from_description(**described),
        }

    def sample(
        self, params: PyTree, key: Key, num_data: int, length: int
    ) -> tuple[PyTree, Int[Array, "num_data length"]]:
        """Returns `num_data` sequences (x, z) of `length` steps.

        **Raises** `TypeError` if the transitions are input-driven.
        """
        if not self._transitions.constant:
            raise TypeError(
                "sample: the transitions depend on inputs, which the model does not describe, so it cannot be "
                "sampled."
            )
        params = enter_sample(self, params, key, num_data=num_data, length=length)
        natural = self.natural(params)
        starts, allowed = self.chain.possible()
        initial = jnp.where(starts, natural["initial"], -jnp.inf)
        table = jnp.where(allowed, natural["transition"], -jnp.inf)

        def one(key):
            key_first, key_rest, key_x = jax.random.split(key, 3)
            first = draw_label(key_first, initial)

            def step(z, key):
                after = jnp.where(z < 0, z, draw_label(key, table[z]))
                return after, after

            _, rest = jax.lax.scan(step, first, jax.random.split(key_rest, length - 1))
            z = jnp.concatenate([first[None], rest])
            emit = lambda z, key: self.component.sample(params["components"], z, key)
            x = jax.vmap(lambda z, key: where_defined(z >= 0, emit(z, key)))
            return x(z, jax.random.split(key_x, length)), z

        return jax.vmap(one)(jax.random.split(key, num_data))

    def invariances(self, params: PyTree) -> Invariances:
        """Returns the shifts of all logits of a row, unused logits, and the components' invariances."""
        starts, allowed = self.chain.possible()
        return beside_by_name(
            {
                "initial": shifts(params["initial"].shape, starts),
                "transition": self._transitions.invariances(params["transition"], allowed),
                "components": self.component.invariances(params["components"]),
            }
        )

    def at_boundary(self, params: PyTree, least: float) -> PyTree:
        starts, allowed = self.chain.possible()
        return {
            "initial": vanished(params["initial"], least, starts),
            "transition": self._transitions.at_boundary(params["transition"], least, allowed),
            "components": self.component.at_boundary(params["components"], least),
        }

    def num_observations(self, batch: PyTree) -> float:
        x, weight = rows(batch)
        steps, weight = all_steps(x, weight)
        return num_observed(self._transitions.values_of(steps), weight)

    def nests(self, other: Any) -> bool:
        alike = isinstance(other, HiddenMarkovModel) and self.component == other.component
        alike = (
            alike and self.transition == other.transition and self.num_states >= other.num_states
        )
        free = self.chain.allowed is None and self.chain.starts is None
        return alike and free and self.prior is None and self.transition_prior is None

    def summary(self) -> dict[str, Any]:
        own = {"K": self.num_states, "component": type(self.component).__name__}
        return own | self.component.summary()

    def collapsed(self, params: PyTree) -> Bool[Array, "..."]:
        """Returns which states have shrunk onto a few points, where the likelihood is unbounded."""
        return self.component.collapsed(params["components"])
