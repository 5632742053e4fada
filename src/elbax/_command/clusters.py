"""The clusters of a table: a Gaussian mixture whose size and structure BIC chooses, in words and in a picture."""

import csv
import itertools
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import elbax

from ..components._normal import Covariance
from . import extras
from .tables import advice, Table, UnusableData


STRUCTURES: tuple[Covariance, ...] = ("full", "tied", "diagonal", "spherical")
LARGEST = 9
OTHERS = ["k-means", "k-means++", "random_from_data", "random_parts", "random_parts"]
CERTAIN = 0.95
SHOWN = 5
ACROSS = 4


def run(table: Table, num_components: int | None, covariance: Covariance | None) -> int:
    """Chooses and fits a mixture, prints what it found, writes labels and a figure; returns the exit status."""
    count = len(table.values)
    if num_components is not None and num_components < 1:
        raise UnusableData(f"--components must be at least 1, got {num_components}")
    if count < (num_components or 1) + 1:
        raise UnusableData(
            f"{table.path}: got {count} rows for {num_components or 1} components; expected more rows than "
            "components"
        )
    sizes = [num_components] if num_components else range(1, min(LARGEST, count // 2) + 1)
    # In one column a covariance is a number.
    different = STRUCTURES if len(table.names) > 1 else STRUCTURES[:2]
    structures = different if covariance is None else (covariance,)
    if not os.access(".", os.W_OK):
        raise UnusableData("labels and figure are written to this folder, which cannot be written")
    with jax.enable_x64(True):
        return _run(table, sizes, structures)


def _run(table: Table, sizes: Sequence[int], structures: Sequence[Covariance]) -> int:
    values, names = table.values, table.names
    columns = "column" if len(names) == 1 else "columns"
    print(f"{table.path.name}: {len(values)} rows, {len(names)} {columns}" + _missing(table) + ".")
    selection = None
    model: Any = elbax.GaussianMixture(sizes[0], structures[0])
    if len(sizes) * len(structures) > 1:
        selection = choose(table, sizes, structures)
        model = selection.models[selection.best]
        print(_choice(selection, sizes, structures))
    restarts = fit(model, table)
    params = restarts.best.state.params
    described = {name: np.asarray(value) for name, value in model.describe(params).items()}
    shares = np.asarray(elbax.probabilities(model, params, _rows(values)))
    labels = shares.argmax(1)
    print(_components(described, names))
    print(_certainty(shares, table.rows))
    print(_bound(model, restarts, values))
    print(_ends(restarts))
    far = unlike_all(values, described)
    print(_unlike(far, table.rows))
    for note in notes(table, model, restarts, labels):
        print(f"Note: {note}")
    stem = table.path.stem
    file = f"{stem}-labels.csv"
    with open(file, "w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["row", "component", "probability", "chi2_tail"])
        for i, tail in enumerate(far):
            share = f"{shares[i].max():.6f}"
            writer.writerow([table.rows[i], labels[i], share, f"{tail:.3g}"])
    print(f"Labels: {file}")
    with extras.drawing() as pyplot:
        if pyplot is not None:
            figure = draw(pyplot, table, model, restarts, described, selection)
            figure.savefig(f"{stem}-components.png")
            print(f"Figure: {stem}-components.png")
    return 0


def _rows(values: np.ndarray):
    return elbax.incomplete(values) if np.isnan(values).any() else values


def choose(
    table: Table, sizes: Sequence[int], structures: Sequence[Covariance]
) -> elbax.diagnostics.Selection:
    """Returns the mixtures of all sizes and structures, the best by BIC.

    A mixture of K components is one of more components of which K have a weight: a component without weight gets
    no data and keeps none. So one compiled program of a structure fits every size.
    """
    key, x, largest = jax.random.key(0), _rows(table.values), max(sizes)
    rows, models = {}, {}
    with extras.bar(len(sizes) * len(structures), "model") as progress:
        starts = {size: _starts(key, table.values, size) for size in sizes}
        for structure in structures:
            wide = elbax.GaussianMixture(largest, structure)
            em = elbax.em(wide)
            for size in sizes:
                name = f"{size} {structure}"
                progress.set_description(name)
                begin = elbax.starts.initial_params(
                    wide, x, key=key, num_restarts=len(starts[size]), init=starts[size]
                )
                alive = np.arange(largest) < size
                begin["logits"] = jnp.where(alive, begin["logits"], -jnp.inf)
                states = jax.vmap(lambda p, em=em: em.init(p, key=key))(begin)
                models[name] = elbax.GaussianMixture(size, structure)
                rows[name] = _criteria(wide, em, states, x, models[name])
                progress.update()
    usable = {name: row.bic for name, row in rows.items() if row is not None}
    if not usable:
        raise UnusableData(_collapsed(table))
    best = min(usable, key=usable.__getitem__)
    return elbax.diagnostics.Selection(best, "bic", rows, dict.fromkeys(rows), {}, models)


def _starts(key, values: np.ndarray, size: int) -> list[np.ndarray]:
    """Returns labels: hierarchical clusters, and twice the nearest of random rows."""
    filled = np.where(np.isnan(values), np.nanmean(values, 0), values)
    table = (filled - filled.mean(0)) / filled.std(0)
    found = [elbax.starts.hierarchical(key, jnp.asarray(table), jnp.ones(len(table)), size)]
    random = np.random.default_rng(0)
    for _ in range(2):
        centers = table[random.choice(len(table), size, replace=False)]
        distances = [np.sum((table - center) ** 2, 1) for center in centers]
        found.append(np.argmin(distances, 0))
    return [np.asarray(labels, np.int32) for labels in found]


def _fitted(em, states, x, model) -> elbax.Restarts | None:
    """Returns the fits from all states; `None` if every one has collapsed."""
    try:
        return elbax.fit_restarts(em, states, x, reject=model.collapsed)
    except jax.errors.JaxRuntimeError:  # Out of memory, for instance.
        raise
    except RuntimeError:
        return None


def _criteria(wide, em, states, x, model):
    """Returns the criteria of the best end; `None` if every end has collapsed."""
    ends = _fitted(em, states, x, wide)
    if ends is None:
        return None
    number = num_free_params(model, np.shape(ends.best.state.params["components"]["mean"])[1])
    return elbax.diagnostics.information_criteria(
        wide, ends.best.state.params, x, num_free_params=number
    )


def num_free_params(model: Any, dim: int) -> int:
    """Returns K − 1 weights, K means and the covariances, of which each row of a full one has one entry more.

    `model.num_free_params` counts them for any model, by a program that takes seconds to compile.
    """
    size, structure = model.num_components, model.component.covariance
    matrix = dim * (dim + 1) // 2
    covariances = {"full": size * matrix, "tied": matrix, "diagonal": size * dim, "spherical": size}
    return size - 1 + size * dim + covariances[structure]


def fit(model: elbax.Mixture, table: Table) -> elbax.Restarts:
    """Returns the fit of the chosen mixture, from the starts that chose it and five others."""
    key, x = jax.random.key(0), _rows(table.values)
    em = elbax.em(model)
    starts = [*_starts(key, table.values, model.num_components), *OTHERS]
    states = elbax.initial_states(em, x, key=key, num_restarts=len(starts), init=starts)
    ends = _fitted(em, states, x, model)
    if ends is None:
        raise UnusableData(_collapsed(table))
    return ends


def columns_that_depend(table: Table) -> list[str]:
    """Returns the columns of a linear relation that all complete rows satisfy; none if there is no such relation.

    Then a covariance is singular in every component, and its determinant is that of the floor.
    """
    complete = table.values[~np.isnan(table.values).any(1)]
    if len(complete) <= len(table.names):
        return []
    values, axes = np.linalg.eigh(np.corrcoef(complete.T).reshape(2 * (len(table.names),)))
    if values[0] > 1e-10:
        return []
    return [name for name, entry in zip(table.names, axes[:, 0]) if abs(entry) > 1e-4]


def _collapsed(table: Table) -> str:
    return (
        f"{table.path}: every fit ended with a component on a few rows or on equal values ({_ties(table)}); use "
        "fewer --components, or leave columns out by --without"
    )


def _ties(table: Table) -> str:
    """Names the column in which most rows are equal."""
    found = []
    for name, column in zip(table.names, table.values.T, strict=True):
        values, counts = np.unique(column[~np.isnan(column)], return_counts=True)
        found.append((counts.max(), name, values[counts.argmax()]))
    count, name, value = max(found)
    return f"{name} is {value:g} in {count} of {len(table.values)} rows"


# --- In words -----------------------------------------------------------------------------------------


def _missing(table: Table) -> str:
    number = int(np.isnan(table.values).sum())
    said = f", {number} of {table.values.size} values missing" if number else ""
    return said + (f", {table.left_out} without any number left out" if table.left_out else "")


def _choice(selection, sizes: Sequence[int], structures: Sequence[Covariance]) -> str:
    lines = ["\nBIC, the lowest is best:", "  K" + "".join(f"{name:>12}" for name in structures)]
    for size in sizes:
        cells = []
        for structure in structures:
            row = selection.rows[f"{size} {structure}"]
            mark = " *" if selection.best == f"{size} {structure}" else "  "
            cells.append(f"{'collapsed' if row is None else f'{row.bic:.1f}':>10}{mark}")
        lines.append(f"{size:>3}" + "".join(cells))
    return "\n".join(lines)


def _components(described: dict[str, np.ndarray], names: Sequence[str]) -> str:
    """Returns a row for each column and a column for each component: mean and standard deviation."""
    weights, means = described["weights"], described["means"]
    deviations = np.sqrt(np.diagonal(described["covariances"], axis1=1, axis2=2))
    width = max(len("weight"), *map(len, names))
    lines = ["\nComponents: the weight, and mean ± standard deviation of each column"]
    for first in range(0, len(weights), ACROSS):
        across = range(len(weights))[first : first + ACROSS]
        lines.append(" " * width + "".join(f"{k:>20}" for k in across))
        lines.append("weight".ljust(width) + "".join(f"{weights[k]:>20.1%}" for k in across))
        for j, name in enumerate(names):
            cells = [_about(means[k, j], deviations[k, j]) for k in across]
            lines.append(name.ljust(width) + "".join(f"{cell:>20}" for cell in cells))
        lines.append("")
    return "\n".join(lines)


def _about(mean: float, deviation: float) -> str:
    """Returns both to two digits of the deviation."""
    digits = int(max(1 - np.floor(np.log10(deviation)), 0))
    if digits > 6:
        return f"{mean:.3g} ± {deviation:.2g}"
    return f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def _certainty(shares: np.ndarray, rows: np.ndarray) -> str:
    top = shares.max(1)
    sure = int((top >= CERTAIN).sum())
    said = f"Certainty: {sure} of {len(top)} rows belong to one component with probability {CERTAIN} or more"
    least = [i for i in np.argsort(top)[:SHOWN] if top[i] < CERTAIN]
    if not least:
        return said + "."
    return (
        said + "; least certain " + ", ".join(f"row {rows[i]} ({top[i]:.2f})" for i in least) + "."
    )


def _bound(model, restarts, values: np.ndarray) -> str:
    state = restarts.best.state
    terms = elbax.elbo_terms(model, state.params, state.posterior, _rows(values))
    each = np.array([terms.evidence, terms.global_term, terms.elbo], float)
    likelihood, penalty, bound = len(values) * each
    return (
        f"Log-likelihood: {likelihood:.3f} nats, {each[0]:.4f} a row. EM maximizes its sum with a penalty on "
        f"narrow covariances, which is {penalty:.0e}: {bound:.3f}."
    )


def _ends(restarts) -> str:
    return (
        f"Fit: {restarts.best.code} after {int(restarts.best.num_steps)} steps. {restarts.message}"
    )


def unlike_all(values: np.ndarray, described: dict[str, np.ndarray]) -> np.ndarray:
    """Returns the probability of a distance beyond each row's, to the component that is nearest to it.

    The squared distance to a component's mean, in units of its covariance, is chi-square distributed with as many
    degrees of freedom as values are observed.
    """
    squares = np.full(len(values), np.inf)
    patterns, which = np.unique(np.isnan(values), axis=0, return_inverse=True)
    for number, missing in enumerate(patterns):
        rows, seen = np.flatnonzero(which.ravel() == number), np.flatnonzero(~missing)
        for mean, covariance in zip(described["means"], described["covariances"], strict=True):
            offset = values[np.ix_(rows, seen)] - mean[seen]
            white = np.linalg.solve(covariance[np.ix_(seen, seen)], offset.T)
            squares[rows] = np.minimum(squares[rows], np.sum(offset * white.T, 1))
    seen = np.sum(~np.isnan(values), 1)
    return np.asarray(jax.scipy.special.gammaincc(seen / 2, squares / 2))


def _unlike(tails: np.ndarray, rows: np.ndarray) -> str:
    # If the table is from this mixture, the chance that any of its rows is below this is 1 % at most.
    far = np.flatnonzero(tails < 0.01 / len(tails))
    if not far.size:
        return "Rows unlike all components: none."
    shown = far[np.argsort(tails[far])][:SHOWN]
    more = f", and {far.size - len(shown)} more" if far.size > len(shown) else ""
    listed = ", ".join(f"row {rows[i]} (χ² tail probability {tails[i]:.0e})" for i in shown)
    return f"Rows unlike all components: {listed}{more}."


def notes(table: Table, model, restarts, labels: np.ndarray) -> list[str]:
    """Returns what the user should know about columns and components."""
    found, lost = [], int(np.sum(restarts.rejected))
    dependent = columns_that_depend(table)
    if dependent:
        found.append(f"{', '.join(dependent)} determine one another; leave one out by --without")
    if lost:
        found.append(
            f"{lost} of {len(restarts.rejected)} fits were rejected, because a component collapsed onto a few "
            f"rows or onto equal values: {_ties(table)}"
        )
    for j, name in enumerate(table.names):
        column = table.values[:, j]
        if len(column) > 2 and np.all(np.diff(column) == 1):
            found.append(f"{name} counts the rows; an index is left out by {advice(name)}")
        for k in np.unique(labels):
            inside = column[labels == k]
            inside = inside[~np.isnan(inside)]
            own = model.component.covariance in ("full", "diagonal")
            if own and len(inside) > len(table.names) and inside.min() == inside.max():
                found.append(
                    f"{name} is {inside[0]:g} in all {len(inside)} rows of component {k}, so its deviation there "
                    f"is the floor; a column of codes is left out by {advice(name)}"
                )
    narrow = np.asarray(
        model.component.collapsed(restarts.best.state.params["components"], ratio=1e-3)
    )
    counts = np.bincount(labels, minlength=len(narrow))
    for k in np.flatnonzero(narrow):
        found.append(
            f"component {k} ({counts[k]} rows) is 30 times as narrow as the others, or more, in some direction; "
            "it may sit on equal or rounded values"
        )
    return found


# --- In a picture -------------------------------------------------------------------------------------


def draw(pyplot, table: Table, model, restarts, described, selection):
    """Returns a figure: the components in the columns that tell them apart, the choice, the trace."""
    from ..plot import classification, density, selection as criterion, trace

    number = 2 if selection is None else 3
    figure, axes = pyplot.subplots(1, number, figsize=(4.5 * number, 4))
    params, values, names = restarts.best.state.params, table.values, table.names
    if len(names) == 1:
        density(model, params, values[:, :1], names=names, ax=axes[0])
    else:
        pair = columns_apart(described)
        classification(model, params, values, columns=pair, names=names, ax=axes[0])
    if selection is not None:
        criterion(selection, ax=axes[1])
    trace(restarts, ax=axes[-1])
    return figure


def columns_apart(described: dict[str, np.ndarray]) -> tuple[int, int]:
    """Returns the two columns in which components are farthest apart, by the trace of W⁻¹ B.

    B is the covariance of the means and W the average covariance. Of one component: the two most correlated.
    """
    weights, means = described["weights"], described["means"]
    within = np.einsum("k,kij->ij", weights, described["covariances"])
    offset = means - weights @ means
    between = np.einsum("k,ki,kj->ij", weights, offset, offset)
    if len(weights) == 1:
        deviation = np.sqrt(np.diagonal(within))
        score = lambda i, j: abs(within[i, j]) / (deviation[i] * deviation[j])
    else:
        score = lambda i, j: np.trace(
            np.linalg.solve(within[np.ix_((i, j), (i, j))], between[np.ix_((i, j), (i, j))])
        )
    pairs = itertools.combinations(range(len(within)), 2)
    return max(pairs, key=lambda pair: score(*pair))
