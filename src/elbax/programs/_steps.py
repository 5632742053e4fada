"""Two programs side by side: the divergence of each step, in closed form where it is known."""

import itertools
import operator

import equinox as eqx
import jax
import jax.numpy as jnp

from .._types import Any, Array, Bool, Scalar
from ..families import Distribution, exact_divergence
from ._draw import Scoring


class Step(eqx.Module):
    """A draw of a program: its distribution given those before, with an axis for each scan that it is in.

    **Fields:**

    - `place`: where the program makes it: its number among the draws, after those of the scans around it.
    - `distribution`: `None` if no divergence is known of it, or if some of its entries are missing.
    - `counts`: which steps of the scans count.
    """

    place: tuple[int, ...] = eqx.field(static=True)
    distribution: Any
    counts: Bool[Array, "*steps"]


class Recording(Scoring):
    """Scores given values, and keeps the distributions under which it does."""

    def __init__(self, given: dict[str, Any]):
        Scoring.__init__(self, given)
        self.steps: dict[str, Step] = {}

    def __call__(self, name, distribution, *, where=True):
        place = (len(self.scores),)
        value = Scoring.__call__(self, name, distribution, where=where)
        known = where is True and _may_be_known(distribution)
        self.steps[name] = Step(place, distribution if known else None, jnp.array(True))
        return value

    @property
    def found(self) -> Any:
        return self.scores, self.steps

    def add(self, found, where):
        scores, steps = found
        place = len(self.scores)
        Scoring.add(self, scores, where)
        for name, step in steps.items():
            inner = (1,) * (step.counts.ndim - 1)
            counts = step.counts & jnp.reshape(where, jnp.shape(where) + inner)
            self.steps[name] = Step((place, *step.place), step.distribution, counts)


def log_ratios(p: Recording, q: Recording) -> dict[str, Scalar]:
    r"""Returns log p − log q of each draw by name, or −KL of the two given the draws before, where it is known.

    Both have the same mean under q if the step of p depends on nothing but what q has drawn before its own: then
    $E_q[\log q(z_t \mid z_{<t}) - \log p(z_t \mid z_{<t})]$ is first a mean over $z_t$, which is the KL.
    """
    found = dict(p.scores)
    for name, log_density in q.scores.items():
        divergence = _divergence(name, p.steps, q.steps)
        found[name] = found[name] - log_density if divergence is None else -divergence
    return found


def _divergence(name: str, p: dict[str, Step], q: dict[str, Step]) -> Scalar | None:
    """Returns KL(q ‖ p) of the draws of one name, at the steps that count in p."""
    if not all(_covers(name, other, p, q) for other in q):
        return None
    both = q[name].distribution, p[name].distribution
    if None in both:
        return None
    each = known_divergence
    for _ in range(p[name].counts.ndim):
        each = jax.vmap(each)
    found = each(*both)
    return None if found is None else jnp.sum(jnp.where(p[name].counts, found, 0))


def _covers(name: str, other: str, p: dict[str, Step], q: dict[str, Step]) -> bool:
    """Returns whether every `other` that p draws before a draw of this name is drawn before it by q, too.

    Draws in the same scan are ordered by the steps of the scan first, then by their place in a step.
    """
    if len(p[name].place) != len(q[name].place):
        return False
    in_p, in_q = (_scans_of_both(steps[name], steps[other]) for steps in (p, q))
    before_in_p = p[other].place[in_p] < p[name].place[in_p]
    before_in_q = q[other].place[in_q] < q[name].place[in_q]
    if in_q > in_p:
        return not before_in_p
    return before_in_q or (in_q == in_p and not before_in_p)


def _scans_of_both(one: Step, other: Step) -> int:
    """Returns how many scans two draws share."""
    same = map(operator.eq, one.place[:-1], other.place[:-1])
    return sum(itertools.takewhile(bool, same))


def known_divergence(q: Any, p: Any) -> Scalar | None:
    """Returns KL(q ‖ p) in nats, the sum over independent entries, or `None` if no closed form is known."""
    if hasattr(q, "divergence"):
        return q.divergence(p)
    if not isinstance(q, Distribution) or not isinstance(p, Distribution):
        return None
    shapes = [jax.tree.map(jnp.shape, one.natural) for one in (q, p)]
    each = exact_divergence(q, p) if shapes[0] == shapes[1] else None
    return None if each is None else jnp.sum(each)


def _may_be_known(distribution: Any) -> bool:
    known = isinstance(distribution, Distribution) or hasattr(distribution, "divergence")
    return known and all(map(eqx.is_array_like, jax.tree.leaves(distribution)))
