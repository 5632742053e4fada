"""Pictures, by the values of their artists."""

import importlib
import re
import sys

import jax
import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

import elbax
from elbax import plot


matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def no_figure_stays():
    yield
    plt.close("all")


def texts(legend):
    return [text.get_text() for text in legend.get_texts()]


mixture = elbax.GaussianMixture(2)
two_parts = mixture.from_description(
    weights=[0.5, 0.5],
    means=[[0.0, 0.0, 0.0], [4.0, 4.0, 0.0]],
    covariances=[np.diag([1.0, 4.0, 1.0]), np.eye(3)],
)
rows = jnp.array([[0.0, 1.0, 0.0], [4.0, 4.0, 1.0], [1.0, -1.0, 0.0], [2.2, 2.2, 0.5]])


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "elbax.plot")
    with pytest.raises(ImportError, match=re.escape('pip install "elbax[plot]"')):
        importlib.import_module("elbax.plot")


def test_a_style_ends_with_its_block():
    before = plt.rcParams["figure.dpi"]
    with plot.style():
        assert plt.rcParams["figure.dpi"] == plot.STYLE["figure.dpi"] != before
        ax = plt.subplots()[1]
        (line,) = ax.plot([0, 1])
        assert matplotlib.colors.to_hex(line.get_color()) == "#0072b2"
    assert plt.rcParams["figure.dpi"] == before


def test_ellipses_have_the_radii_of_the_covariances():
    described = mixture.describe(two_parts)
    means, covariances = described["means"], described["covariances"]
    ax = plot.ellipses(means, covariances, columns=(1, 2), deviations=3.0)
    first, second = ax.lines
    assert first.get_xdata().max() == pytest.approx(6) and first.get_ydata().max() == pytest.approx(
        3
    )
    assert second.get_xdata().min() == pytest.approx(1)
    assert [line.get_color() for line in ax.lines] == ["C0", "C1"]
    plot.ellipses(means, covariances, ax=ax, color="black")
    assert ax.lines[-1].get_color() == "black"
    with pytest.raises(ValueError, match="covariances must have shape"):
        plot.ellipses(means, covariances[0])
    with pytest.raises(ValueError, match="columns must be different ones of 0, ..., 2"):
        plot.ellipses(means, covariances, columns=(0, 3))


def test_rows_have_the_colors_of_their_components():
    ax = plot.classification(mixture, two_parts, rows, columns=(0, 1), names=list("abc"))
    first, second = ax.collections
    np.testing.assert_array_equal(first.get_offsets(), rows[jnp.array([0, 2]), :2])
    np.testing.assert_array_equal(second.get_offsets(), rows[jnp.array([1, 3]), :2])
    sizes = second.get_sizes()
    shares = elbax.probabilities(mixture, two_parts, rows)
    assert sizes == pytest.approx(np.asarray(8 + 80 * (1 - shares.max(1)))[[1, 3]])
    assert sizes[1] > 2 * sizes[0]
    assert len(ax.lines) == 2 and texts(ax.get_legend()) == ["0", "1"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("a", "b")


def test_all_pairs_of_columns_form_a_grid():
    grid = plot.classification(mixture, two_parts, rows, names=list("abc"))
    assert grid.shape == (2, 2) and not grid[0, 1].axison
    np.testing.assert_array_equal(grid[1, 1].collections[0].get_offsets(), rows[::2][:, [1, 2]])
    assert grid[1, 0].get_xlabel() == "a" and grid[1, 0].get_ylabel() == "c"
    assert texts(grid[0, 1].get_legend()) == ["0", "1"]
    with pytest.raises(
        ValueError, match=r"ax must be an array of axes of shape \(2, 2\), got shape \(\)"
    ):
        plot.classification(mixture, two_parts, rows, ax=grid[0, 0])
    with pytest.raises(ValueError, match="ax must be one matplotlib axes, got shape"):
        plot.classification(mixture, two_parts, rows, columns=(0, 1), ax=grid)


def test_what_cannot_be_classified_is_refused():
    with pytest.raises(ValueError, match="at least two columns, got 1"):
        plot.classification(mixture, two_parts, rows, columns=(0,))
    with pytest.raises(ValueError, match="a table of numbers"):
        plot.classification(mixture, two_parts, rows[0])
    with pytest.raises(ValueError, match="expected 3 names, got 2"):
        plot.classification(mixture, two_parts, rows, names=["a", "b"])
    with pytest.raises(TypeError, match="continuous"):
        factors = elbax.FactorAnalysis(1)
        params = factors.from_description(
            mean=np.zeros(3), loadings=np.ones((3, 1)), noise=np.ones(3)
        )
        plot.classification(factors, params, rows)


def ended(traces, elbo, rejected, codes=("converged", "max_steps", "converged")):
    """Restarts with these ends, of which the first is the best."""
    best = elbax.Result((), jnp.array(elbo[0]), traces[0], len(traces[0]), codes[0], "")
    longest = max(map(len, traces))
    padded = np.stack([np.pad(t, (0, longest - len(t)), constant_values=np.nan) for t in traces])
    steps = np.array(list(map(len, traces)))
    return elbax.Restarts(best, np.array(elbo), steps, codes, np.array(rejected), 2, 1, "", padded)


def test_a_trace_ends_at_the_elbo_of_the_result(as_users_run):
    result = elbax.Result(
        (), jnp.array(-1.0), np.array([-3.0, -2.0]), 2, "max_steps", "", jnp.array(-0.5)
    )
    ax = plot.trace(result)
    line, level = ax.lines
    np.testing.assert_array_equal(line.get_ydata(), [-3.0, -2.0, -1.0])
    assert level.get_ydata()[0] == -0.5
    assert ax.get_title() == "max_steps"
    with pytest.raises(TypeError, match="expected the result of elbax.fit"):
        plot.trace(np.zeros(3))


def test_restarts_are_traced_each_and_rejected_ones_dashed(as_users_run):
    traces = [np.array([-5.0, -2.0]), np.array([-4.0, -3.0, -2.5]), np.array([-4.0])]
    ax = plot.trace(ended(traces, [-1.0, -2.4, np.nan], [False, False, True]))
    best, other, lost = ax.lines[-1], ax.lines[1], ax.lines[2]
    np.testing.assert_array_equal(best.get_ydata(), [-5.0, -2.0, -1.0])
    np.testing.assert_array_equal(other.get_ydata(), [-4.0, -3.0, -2.5, -2.4])
    assert lost.get_linestyle() == "--" and other.get_linestyle() == "-"
    assert texts(ax.get_legend()) == ["best", "rejected", "others"]
    assert ax.get_title() == "2 converged, 1 max_steps"


def selected():
    """A table of three models: two of one kind, and one of another."""
    models = {
        "full 1": elbax.GaussianMixture(1),
        "full 2": elbax.GaussianMixture(2),
        "tied 2": elbax.GaussianMixture(2, "tied"),
        "lost": elbax.GaussianMixture(3),
    }
    bic = {"full 1": 30.0, "full 2": 20.0, "tied 2": 25.0}
    rows = {
        name: elbax.diagnostics.Criteria(-1.0, 2, 9.0, 40.0 - value, 0.0, value, None)
        for name, value in bic.items()
    }
    held_out = {"full 1": jnp.array(-3.0), "tied 2": jnp.array(-2.0)}
    return elbax.diagnostics.Selection(
        "full 2", "bic", rows | {"lost": None}, dict.fromkeys(models), held_out, models
    )


def test_a_criterion_has_a_line_for_each_kind_of_model(as_users_run):
    table = selected()
    ax = plot.selection(table)
    full, tied, best = ax.lines
    np.testing.assert_array_equal(full.get_xydata(), [[1, 30], [2, 20]])
    np.testing.assert_array_equal(tied.get_xydata(), [[2, 25]])
    np.testing.assert_array_equal(best.get_xydata(), [[2, 20]])
    assert texts(ax.get_legend()) == ["full", "tied", "best: full 2"]
    assert ax.get_ylabel() == "BIC (the lowest is best)" and ax.get_xlabel() == "K"
    highest = plot.selection(table, "held_out").lines[-1]
    np.testing.assert_array_equal(highest.get_xydata(), [[2, -2]])
    assert plot.selection(table, "aic").lines[-1].get_ydata()[0] == 10
    with pytest.raises(ValueError, match="has no ICL"):
        plot.selection(table, "icl")
    with pytest.raises(ValueError, match="criterion must be"):
        plot.selection(table, "dic")


def test_the_gap_lies_between_evidence_and_elbo():
    ax = plot.bound([-3.0, -2.0], [-4.0, -2.5], steps=[5, 6])
    evidence, elbo = ax.lines
    np.testing.assert_array_equal(evidence.get_xydata(), [[5, -3], [6, -2]])
    np.testing.assert_array_equal(elbo.get_xydata(), [[5, -4], [6, -2.5]])
    corners = ax.collections[0].get_paths()[0].vertices
    assert {(5.0, -3.0), (5.0, -4.0), (6.0, -2.5), (6.0, -2.0)} <= set(map(tuple, corners.tolist()))
    assert texts(ax.get_legend()) == ["evidence", "KL(q ‖ p(z | x))", "ELBO"]
    with pytest.raises(ValueError, match="elbo must have shape"):
        plot.bound([-3.0, -2.0], [-4.0])


def test_an_e_step_closes_the_gap_and_an_m_step_raises_both(as_users_run):
    em = elbax.em(mixture)
    state = em.init(two_parts, key=jax.random.key(0))
    ax = plot.staircase(em, state, jnp.concatenate([rows, rows + 1, rows - 1]), 2)
    evidence, elbo, e_moves, m_moves = (np.asarray(line.get_ydata()) for line in ax.lines)
    np.testing.assert_allclose(elbo[1::2], evidence[1::2], rtol=1e-10)
    assert elbo[2] > elbo[1] and evidence[2] > elbo[2]
    assert evidence[0] == pytest.approx(evidence[1])
    np.testing.assert_array_equal(e_moves, [elbo[0], elbo[1], np.nan, elbo[2], elbo[3], np.nan])
    np.testing.assert_array_equal(m_moves[:2], elbo[1:3])
    assert texts(ax.get_legend())[-2:] == ["ExactEStep", "ClosedFormMStep"]
    with pytest.raises(TypeError, match="expected an update of a model"):
        plot.staircase(mixture, state, rows)


def test_contours_enclose_the_regions_of_highest_density():
    model = elbax.GaussianMixture(1)
    params = model.from_description(weights=[1.0], means=[[1.0, 9.0, 2.0]], covariances=[np.eye(3)])
    ax = plot.density(model, params, columns=(0, 2), limits=[(-5, 7), (-4, 8)])
    levels = sorted(ax.collections[0].levels)
    # Half of a standard normal in the plane is within the radius r with exp(-r² / 2) = 1/2.
    assert levels[3] == pytest.approx(np.log(0.5) - np.log(2 * np.pi), abs=0.02)
    path = ax.collections[0].get_paths()[3].vertices
    assert np.hypot(*(path - [1, 2]).T) == pytest.approx(np.sqrt(2 * np.log(2)), rel=0.03)
    assert {text.get_text() for text in ax.texts} >= {"50%", "90%"}
    with pytest.raises(ValueError, match="one or two columns, got 3"):
        plot.density(model, params)


def test_a_column_has_a_histogram_and_the_densities_of_components():
    model = elbax.Mixture(elbax.components.Poisson(), 2)
    params = model.from_description(weights=[0.25, 0.75], rates=[[1.0], [4.0]])
    x = np.array([[0], [1], [1], [5]])
    ax = plot.density(model, params, x, names=["count"])
    whole, first, second = ax.lines
    assert whole.get_xdata().tolist() == [0, 1, 2, 3, 4, 5]
    assert whole.get_ydata()[0] == pytest.approx(0.25 * np.exp(-1) + 0.75 * np.exp(-4))
    assert first.get_ydata()[1] == pytest.approx(0.25 * np.exp(-1))
    assert whole.get_ydata() == pytest.approx(first.get_ydata() + second.get_ydata())
    assert [bar.get_height() for bar in ax.patches] == [0.25, 0.5, 0, 0, 0, 0.25]
    assert texts(ax.get_legend()) == ["p(x)", "component 0", "component 1"]
    with pytest.raises(ValueError, match="no means and covariances to choose a window"):
        plot.density(model, params)
