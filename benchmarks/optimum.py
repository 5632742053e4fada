"""Is the best of several restarts the optimum that others find? Gaussian mixtures of eight data sets.

python benchmarks/optimum.py DATA CELLS             what is not in CELLS yet; writes results/optimum.md
python benchmarks/optimum.py DATA CELLS iris wine   these data sets only
python benchmarks/optimum.py DATA CELLS --tables    writes the data into CELLS as tables, for mclust

Each of four structures of covariance with 1 to 6 components, without a floor: the highest log-likelihood of elbax
from the starts that `initial_states` makes by default, of scikit-learn from starts of its own, and of mclust from
its hierarchical start. The rule of `Mixture.collapsed` (a component 1e-4 times narrower than the average, in any
direction, where the likelihood has no bound) is applied to everybody's ends. CELLS keeps every finished fit as a
file, so that what was broken off goes on.

Iris, wine and breast cancer (its ten columns of means) come with scikit-learn. DATA holds the others, in any
folders below it, as R's `write.csv` makes them: MASS_Boston.csv and MASS_fgl.csv (without its types) of the R
package MASS 7.3-58.2, cluster_xclara.csv and cluster_ruspini.csv of cluster 2.1.4, datasets_faithful.csv of R
4.2.2.

optimum_mclust.csv was made by optimum_mclust.R, mclust 6.0.0 (Debian's r-cran-mclust 6.0.0-1) and R 4.2.2, from
the same tables: its EM stops where a sweep gains less than 1e-10 of the log-likelihood. Where it answers nothing,
having met a singular covariance, there is no number.
"""

import argparse
import csv
import itertools
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import sklearn
import threadpoolctl
from measuring import markdown, Row, seconds, setting, write
from sklearn.datasets import load_breast_cancer, load_iris, load_wine
from sklearn.mixture import GaussianMixture

import elbax


HERE = Path(__file__).parent
RESULTS = HERE / "results" / "optimum.md"
# elbax's name of a structure: (mclust's, scikit-learn's).
STRUCTURES = {
    "spherical": ("VII", "spherical"),
    "diagonal": ("VVI", "diag"),
    "tied": ("EEE", "tied"),
    "full": ("VVV", "full"),
}
FILES = {
    "boston": "MASS_Boston.csv",
    "fgl": "MASS_fgl.csv",
    "xclara": "cluster_xclara.csv",
    "ruspini": "cluster_ruspini.csv",
    "faithful": "datasets_faithful.csv",
}
BUNDLED = {
    "iris": lambda: load_iris().data,
    "wine": lambda: load_wine().data,
    "cancer": lambda: load_breast_cancer().data[:, :10],
}
NAMES = (*BUNDLED, *FILES)
SIZES = range(1, 7)
NO_END = {"best": -np.inf}
PEERS = ("mclust", "scikit-learn")
# Nats of the whole data: ends nearer than that are equal.
TOLERANCE = 1e-2
# Of larger tables fewer.
NUM_STARTS, NUM_STARTS_OF_500_ROWS, NUM_MORE_STARTS = 64, 32, 512
NUM_PEER_STARTS, NUM_PEER_STARTS_OF_1000_ROWS = 50, 10


def load(directory: Path, name: str) -> np.ndarray:
    if name in BUNDLED:
        return BUNDLED[name]()
    found = sorted(directory.rglob(FILES[name]))
    if not found:
        raise SystemExit(f"{FILES[name]} is not in {directory}; the docstring says what it is.")
    with found[0].open() as file:
        head, *rows = csv.reader(file)
    kept = [place for place, column in enumerate(head) if column not in ("", "rownames", "type")]
    return np.array([[float(row[place]) for place in kept] for row in rows])


def mclust() -> dict[tuple[str, str, int], dict[str, float | None]]:
    with (HERE / "optimum_mclust.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = {}
    for row in rows:
        value = None if row["log_likelihood"] == "NA" else float(row["log_likelihood"])
        sound = value is not None and float(row["narrowest"]) > 1e-4
        key = (row["data"], row["structure"], int(row["components"]))
        found[key] = {"best": value if sound else None, "collapsed": int(not sound)}
    return found


def ours(x: np.ndarray, structure: str, num_components: int) -> Row:
    return restarted(
        x, structure, num_components, NUM_STARTS if len(x) < 500 else NUM_STARTS_OF_500_ROWS
    )


def with_more_starts(x: np.ndarray, structure: str, num_components: int) -> Row:
    return restarted(x, structure, num_components, NUM_MORE_STARTS)


def restarted(x: np.ndarray, structure: str, num_components: int, number: int) -> Row:
    model = elbax.GaussianMixture(num_components, structure, floor=0.0)
    em = elbax.em(model)
    number = number if num_components > 1 else 1
    rows = jnp.asarray(x)
    states = elbax.initial_states(em, rows, key=jax.random.key(0), num_restarts=number)
    try:
        found = elbax.fit_restarts(
            em, states, rows, reject=model.collapsed, max_steps=2000, tolerance=1e-8
        )
    except RuntimeError:
        return {"best": None, "collapsed": number}
    lost = np.asarray(found.rejected) | np.isnan(np.asarray(found.elbo))
    weights = model.describe(found.best.state.params)["weights"]
    return {
        "best": len(x) * float(found.best.elbo),
        "collapsed": int(lost.sum()),
        "distinct": found.num_distinct,
        "reached": found.num_best,
        "smallest": len(x) * float(weights.min()),
    }


def scikit_learn(x: np.ndarray, structure: str, num_components: int) -> Row:
    """Fits from one start each, so that one singular covariance does not end them all; the best goes on."""
    number = NUM_PEER_STARTS if len(x) < 1000 else NUM_PEER_STARTS_OF_1000_ROWS
    number = number if num_components > 1 else 1
    peers = [
        peer_of(structure, num_components, tol=1e-6, random_state=start) for start in range(number)
    ]
    ends = [end_of(peer, x) for peer in peers]
    collapsed = ends.count(NO_END)
    if collapsed < number:
        best = peers[max(range(number), key=lambda start: ends[start]["best"])]
        last = peer_of(
            structure,
            num_components,
            tol=1e-10,
            weights_init=best.weights_,
            means_init=best.means_,
            precisions_init=best.precisions_,
        )
        ends.append(end_of(last, x))
    found = max(ends, key=lambda end: end["best"])
    found = {} if found == NO_END else found
    return {"best": None, "collapsed": collapsed, "starts": number} | found


def peer_of(structure: str, num_components: int, **options) -> GaussianMixture:
    return GaussianMixture(
        num_components,
        covariance_type=STRUCTURES[structure][1],
        reg_covar=0,
        max_iter=5000,
        **options,
    )


def end_of(peer: GaussianMixture, x: np.ndarray) -> dict[str, float]:
    """Its log-likelihood, the rows of its smallest component, the narrowest variance in units of the average."""
    try:
        # Threads that wait for each other cost more than so small a table.
        with warnings.catch_warnings(), threadpoolctl.threadpool_limits(1):
            warnings.simplefilter("ignore")
            peer.fit(x)
    except ValueError:
        return NO_END
    shape = (peer.n_components, x.shape[1], x.shape[1])
    dense = {
        "tied": lambda given: given,
        "full": lambda given: given,
        "diag": lambda given: given[:, :, None] * np.eye(shape[1]),
        "spherical": lambda given: given[:, None, None] * np.eye(shape[1]),
    }[peer.covariance_type]
    covariances = np.broadcast_to(dense(peer.covariances_), shape)
    try:
        narrowest = min(
            scipy.linalg.eigh(one, covariances.mean(0), eigvals_only=True)[0] for one in covariances
        )
    except (ValueError, np.linalg.LinAlgError):
        return NO_END
    if not narrowest > 1e-4:
        return NO_END
    smallest = len(x) * peer.weights_.min()
    return {"best": len(x) * peer.score(x), "smallest": smallest, "narrowest": narrowest}


def cell(folder: Path, who: Callable, x: Callable, name: str, structure: str, number: int) -> Row:
    """What `who` finds, from its file if it was found before."""
    file = folder / f"{who.__name__}-{name}-{structure}-{number}.json"
    if not file.exists():
        found = {}
        took = seconds(lambda: found.update(who(x(), structure, number)))
        file.write_text(json.dumps(found | {"seconds": took}))
        print(f"{file.stem}: {found}, {took:.1f} s", flush=True)
    return json.loads(file.read_text())


def written(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def difference(own: float | None, other: float | None) -> str:
    if other is None:
        return "no end of theirs"
    if own is None:
        return "**no end of ours**"
    apart = own - other
    if abs(apart) <= TOLERANCE:
        return "="
    return f"{apart:+.2f}" if apart > 0 else f"**{apart:+.2f}**"


def verdict(own: float | None, other: float | None) -> str:
    if other is None:
        return "unanswered"
    if own is None or own < other - TOLERANCE:
        return "lower"
    return "higher" if own > other + TOLERANCE else "equal"


def count(cells: list[dict[str, Row]], peer: str) -> str:
    found = [verdict(one["elbax"]["best"], one[peer]["best"]) for one in cells]
    kinds = [found.count(kind) for kind in ("higher", "equal", "lower", "unanswered")]
    return "higher in {}, equal in {}, lower in {}; no end of {}'s in {}".format(
        *kinds[:3], peer, kinds[3]
    )


def took(cells: list[dict[str, Row]], who: str) -> str:
    return f"{sum(one[who]['seconds'] for one in cells):.0f}"


def lower(found: dict[str, dict[tuple[str, int], dict[str, Row]]]) -> str:
    """What more starts reach where elbax ends lower than a peer."""
    rows = [
        {
            "data": name,
            "structure": structure,
            "K": number,
            f"elbax, {NUM_MORE_STARTS} starts": written(one["more"].get("best"), 3),
            "less mclust": difference(one["more"]["best"], one["mclust"]["best"]),
            "less scikit-learn": difference(one["more"]["best"], one["scikit-learn"]["best"]),
            "distinct ends": one["more"].get("distinct", ""),
            "best reached by": one["more"].get("reached", ""),
            "rows of the smallest": written(one["more"].get("smallest"), 1),
            "rows of scikit-learn's smallest": written(one["scikit-learn"].get("smallest"), 1),
            "its narrowest": written(one["scikit-learn"].get("narrowest"), 5),
        }
        for name, table in found.items()
        for (structure, number), one in table.items()
        if "more" in one
    ]
    if not rows:
        return ""
    return (
        "Where it ends lower, from more starts; a component has collapsed whose narrowest variance is below 1e-4 "
        f"in units of the average:\n\n{markdown(rows)}\n\n"
    )


def row(structure: str, number: int, found: dict[str, Row]) -> Row:
    own, peer = found["elbax"], found["scikit-learn"]
    return {
        "structure": structure,
        "K": number,
        "elbax": written(own["best"], 3),
        "less mclust": difference(own["best"], found["mclust"]["best"]),
        "less scikit-learn": difference(own["best"], peer["best"]),
        "distinct ends": own.get("distinct", ""),
        "best reached by": own.get("reached", ""),
        "rows of the smallest": written(own.get("smallest"), 1),
        "collapsed": own["collapsed"],
        "collapsed, scikit-learn": f"{peer['collapsed']} of {peer['starts']}",
    }


def report(found: dict[str, dict[tuple[str, int], dict[str, Row]]]) -> Iterator[str]:
    cells = [one for table in found.values() for one in table.values()]
    yield (
        f"# The optimum that others find\n\n{setting({'scikit-learn': sklearn, 'numpy': np})}, mclust 6.0.0. "
        f"float64, no floor. Log-likelihoods of all rows, in nats: elbax from {NUM_STARTS} starts of the default "
        f"kinds ({NUM_STARTS_OF_500_ROWS} of more than 500 rows), scikit-learn from {NUM_PEER_STARTS} by k-means "
        f"({NUM_PEER_STARTS_OF_1000_ROWS} of more than 1000 rows), its best continued to a tolerance of 1e-10; "
        "mclust from its own start. "
        "Ends that collapsed, by one rule for all, are left out of everybody's. `=` is within "
        f"{TOLERANCE} nats; what is lower is bold. Seconds are of a shared machine, with compiling.\n\n"
        f"Of {len(cells)} fits elbax ends:\n\n"
        f"- against mclust {count(cells, 'mclust')}.\n"
        f"- against scikit-learn {count(cells, 'scikit-learn')}.\n\n"
        f"{lower(found)}"
        "No end of theirs: every one collapsed, or a singular covariance stopped it. Where a component has few "
        "rows, hardly more than columns, a high likelihood says little of the data; that EM finds it is all that "
        "is asked here.\n\n`python benchmarks/optimum.py DATA CELLS`."
    )
    for name, table in found.items():
        cells = list(table.values())
        rows = [row(structure, number, one) for (structure, number), one in table.items()]
        yield (
            f"## {name}\n\nAgainst mclust {count(cells, 'mclust')}; against scikit-learn "
            f"{count(cells, 'scikit-learn')}. elbax took {took(cells, 'elbax')} s in all, scikit-learn "
            f"{took(cells, 'scikit-learn')} s.\n\n{markdown(rows)}"
        )


def compare(data: Path, folder: Path, name: str) -> dict[tuple[str, int], dict[str, Row]]:
    theirs, x, table = mclust(), lambda: load(data, name), {}
    for structure, number in itertools.product(STRUCTURES, SIZES):
        found = {
            "elbax": cell(folder, ours, x, name, structure, number),
            "scikit-learn": cell(folder, scikit_learn, x, name, structure, number),
            "mclust": theirs[name, STRUCTURES[structure][0], number],
        }
        if any(verdict(found["elbax"]["best"], found[peer]["best"]) == "lower" for peer in PEERS):
            found["more"] = cell(folder, with_more_starts, x, name, structure, number)
        table[structure, number] = found
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("cells", type=Path)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--tables", action="store_true")
    options = parser.parse_args()
    options.cells.mkdir(parents=True, exist_ok=True)
    if options.tables:
        for name in options.names:
            np.savetxt(options.cells / f"{name}.csv", load(options.data, name), "%.17g", ",")
        return
    jax.config.update("jax_enable_x64", True)
    found = {name: compare(options.data, options.cells, name) for name in options.names}
    if len(found) == len(NAMES):
        write(RESULTS, report(found))
    else:
        print("\n\n".join(report(found)))


if __name__ == "__main__":
    main()
