"""Agglomerative clustering by Ward's criterion, on the host.

The criterion is the likelihood of spheres; each step merges the two clusters that lose least of it.
"""

import numpy as np

from .._types import Array, Float, Int, Key
from ..data._check import is_concrete


_LIMIT = 1000


def hierarchical(
    key: Key,
    table: Float[Array, "num_data features"],
    weight: Float[Array, " num_data"],
    num_components: int,
) -> Int[np.ndarray, " num_data"]:
    """Returns the clusters of the rows by hierarchical merging (Ward 1963).

    Rows are merged along the principal axes of the standardized columns, each shrunk by the square root of its
    standard deviation (Scrucca and Raftery 2015). The key is not used. With more than 1000 rows a fixed sample is
    merged, and the other rows join the nearest cluster.

    **Raises** `TypeError` for traced values: it runs on the host, so not under `jit`, nor under `vmap` over data.
    """
    if not is_concrete((table, weight)):
        raise TypeError(
            "hierarchical: this start runs on the host, so it needs concrete values; got traced ones. Start "
            "outside of jit, or pass its labels, elbax.starts.hierarchical(key, table, weight, num_components), "
            "as init."
        )
    mass = np.asarray(weight, float)
    x = _partly_sphered(np.asarray(table, float), mass)
    counts = np.flatnonzero(mass > 0)
    limit = max(_LIMIT, num_components)
    if len(counts) > limit:
        counts = np.sort(np.random.default_rng(0).choice(counts, limit, replace=False))
    used, seen = mass[counts], x[counts]
    labels = _cut(*_merges(seen, used), num_components)
    centers = np.stack([np.bincount(labels, used * column) for column in seen.T], 1)
    centers /= np.bincount(labels, used)[:, None]
    assignment = np.argmin((centers**2).sum(1) - 2 * x @ centers.T, 1)
    assignment[counts] = labels
    return assignment


def _partly_sphered(table: np.ndarray, weight: np.ndarray) -> np.ndarray:
    share = weight / weight.sum()
    seen = ~np.isnan(table) & (weight > 0)[:, None]
    x = np.where(seen, table, 0)
    total = np.maximum(share @ seen, np.finfo(float).tiny)
    x = seen * (x - share @ x / total)
    x = x / np.maximum(np.abs(x).max(0), np.finfo(float).tiny)
    x = x / np.maximum(np.sqrt(share @ x**2 / total), np.finfo(float).tiny)
    values, axes = np.linalg.eigh((share[:, None] * x).T @ x)
    kept = values > 1e-9 * values.max()
    return x @ axes[:, kept] / values[kept] ** 0.25


def _merges(x: np.ndarray, mass: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (pairs of rows, one of each of two clusters that merge; the cost of each merger), n − 1 of them.

    It follows a chain of nearest neighbors until two are each other's nearest. Under Ward's criterion a merged
    pair is never nearer to a third cluster than the nearer of the two was, so the order of mergers does not matter
    (Murtagh 1983).
    """
    n = len(x)
    center, mass = x.copy(), mass.copy()
    alive = np.ones(n, bool)
    pairs, costs, chain = np.empty((n - 1, 2), int), np.empty(n - 1), []
    for step in range(n - 1):
        if not chain:
            chain = [int(np.argmax(alive))]
        while True:
            last = chain[-1]
            cost = mass * mass[last] / (mass + mass[last]) * ((center - center[last]) ** 2).sum(1)
            cost[~alive] = np.inf
            cost[last] = np.inf
            nearest = int(np.argmin(cost))
            # Among ties prefer the previous one on the chain, or the chain would not end.
            if len(chain) > 1 and cost[chain[-2]] <= cost[nearest]:
                break
            chain.append(nearest)
        a, b = chain.pop(), chain.pop()
        pairs[step], costs[step] = (a, b), cost[b]
        center[a] = (mass[a] * center[a] + mass[b] * center[b]) / (mass[a] + mass[b])
        mass[a] += mass[b]
        alive[b] = False
    return pairs, costs


def _cut(pairs: np.ndarray, costs: np.ndarray, number: int) -> np.ndarray:
    """Returns the label of each row, after the cheapest mergers that leave `number` clusters."""
    parent = np.arange(len(pairs) + 1)

    def root(i):
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for a, b in pairs[np.argsort(costs, kind="stable")][: max(len(parent) - number, 0)]:
        parent[root(b)] = root(a)
    return np.unique([root(i) for i in range(len(parent))], return_inverse=True)[1]
