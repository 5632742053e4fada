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


def test_all_pairs_of_columns_form_a_grid(as_users_run):
    grid = plot.classification(mixture, two_parts, rows, names=list("abc"))
    assert grid.shape == (2, 2) and not grid[0, 1].axison
    np.testing.assert_array_equal(grid[1, 1].collections[0].get_offsets(), rows[::2][:, [1, 2]])
    assert grid[1, 0].get_xlabel() == "a" and grid[1, 0].get_ylabel() == "c"
    assert texts(grid[0, 1].get_legend()) == ["0", "1"]
    with pytest.raises(
        ValueError, match=r"ax must be an array of axes of shape \(2, 2\), such as .*got shape \(\)"
    ):
        plot.classification(mixture, two_parts, rows, ax=grid[0, 0])
    with pytest.raises(TypeError, match="ax must be matplotlib axes, got a ndarray"):
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
    full, tied = ax.lines
    np.testing.assert_array_equal(full.get_xydata(), [[1, 30], [2, 20]])
    np.testing.assert_array_equal(tied.get_xydata(), [[2, 25]])
    np.testing.assert_array_equal(ax.collections[0].get_offsets(), [[2, 20]])
    assert texts(ax.get_legend()) == ["full", "tied", "best: full 2"]
    assert ax.get_ylabel() == "BIC (the lowest is best)" and ax.get_xlabel() == "K"
    (highest,) = plot.selection(table, "held_out").collections
    np.testing.assert_array_equal(highest.get_offsets(), [[2, -2]])
    (lowest,) = plot.selection(table, "aic").collections
    np.testing.assert_array_equal(lowest.get_offsets(), [[1, 10]])
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


chain = elbax.HiddenMarkovModel(elbax.components.Poisson(), 2)
two_rates = chain.from_description(
    initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.1, 0.9]], rates=[[1.0], [9.0]]
)


def test_the_path_of_a_hidden_markov_model_has_spans_and_its_states_shares():
    x = jnp.array([[0], [1], [9], [8], [1]])
    times = [2000, 2001, 2002, 2003, 2004]
    names = ["calm", "wild"]
    top, bottom = plot.hidden_markov(chain, two_rates, x, times=times, names=names)
    spans = [(span.get_x(), span.get_width()) for span in top.patches]
    assert spans == [(2000, 1.5), (2001.5, 2), (2003.5, 0.5)]
    colors = [matplotlib.colors.to_hex(span.get_facecolor()) for span in top.patches]
    assert colors[0] == colors[2] != colors[1]
    np.testing.assert_array_equal(top.lines[0].get_ydata(), [0, 1, 9, 8, 1])
    shares = elbax.probabilities(chain, two_rates, x[None])["unary"][0]
    first = bottom.collections[0].get_paths()[0].vertices
    assert set(map(tuple, first.tolist())) >= set(zip(times, shares[:, 0].tolist()))
    assert texts(bottom.get_legend()) == names


def test_a_batch_of_one_sequence_is_a_sequence():
    x = jnp.array([[0], [9], [8]])
    one, many = (plot.hidden_markov(chain, two_rates, given)[0] for given in (x, x[None]))
    np.testing.assert_array_equal(one.lines[0].get_xydata(), many.lines[0].get_xydata())


def test_times_may_be_dates():
    x = jnp.array([[0], [9], [8]])
    days = np.array(["2026-01-01", "2026-01-02", "2026-01-03"], "datetime64[D]")
    top, _ = plot.hidden_markov(chain, two_rates, x, times=days)
    first = matplotlib.dates.date2num(days)[0]
    assert [span.get_x() - first for span in top.patches] == [0, 0.5]


def test_the_padding_of_a_sequence_is_not_drawn():
    padded = elbax.sequences([[[0], [9], [1], [1], [1]], [[1], [1]]])
    short = jax.tree.map(lambda leaf: leaf[1], padded)
    top, _ = plot.hidden_markov(chain, two_rates, short)
    assert top.lines[0].get_xydata().tolist() == [[0, 1], [1, 1]]
    with pytest.raises(ValueError, match="Take one of a batch"):
        plot.hidden_markov(chain, two_rates, padded)
    with pytest.raises(ValueError, match="column must be one of 0, ..., 0; got 1"):
        plot.hidden_markov(chain, two_rates, short, column=1)
    with pytest.raises(ValueError, match="times must have shape"):
        plot.hidden_markov(chain, two_rates, short, times=[1, 2, 3])
    with pytest.raises(TypeError, match="a model with discrete states"):
        plot.hidden_markov(mixture, two_parts, rows)


def test_a_smoothed_signal_has_the_band_of_its_deviation(as_users_run):
    model = elbax.LinearGaussianStateSpace(1, offsets=True)
    params = model.from_description(
        initial_mean=[0.0],
        initial_covariance=[[4.0]],
        transition=[[0.0]],
        transition_covariance=[[4.0]],
        emission=[[1.0], [2.0]],
        emission_covariance=np.diag([4.0, 1e8]),
        emission_offset=[1.0, 5.0],
    )
    x = np.array([[3.0, 5.0], [np.nan, 6.0]])
    ax = plot.state_space(model, params, x, column=1, deviations=1.0)
    smoothed, observed = ax.lines
    # z given 3 - 1 = 2 has the mean 1 and the variance 2; without an observation 0 and 4.
    np.testing.assert_allclose(smoothed.get_ydata(), [5 + 2 * 1, 5], atol=1e-4)
    np.testing.assert_array_equal(observed.get_ydata(), [5, 6])
    band = ax.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(7 + 2 * np.sqrt(2), abs=1e-4)
    assert texts(ax.get_legend()) == ["± 1 sd", "smoothed mean", "observed"]
    with pytest.raises(TypeError, match="expected an elbax.LinearGaussianStateSpace"):
        plot.state_space(chain, two_rates, x)


def test_loadings_are_written_and_drawn_as_arrows():
    values = np.array([[0.9, 0.0], [-0.4, 0.3]])
    ax = plot.loadings(values, names=["a", "b"])
    np.testing.assert_array_equal(ax.images[0].get_array(), values)
    assert ax.images[0].get_clim() == (-0.9, 0.9)
    assert [text.get_text() for text in ax.texts] == ["0.90", "0.00", "-0.40", "0.30"]
    scores = np.array([[3.0, 0.0], [0.0, -1.0], [1.0, 1.0]])
    ax = plot.biplot(scores, values, labels=["x", "y", "x"], names=["a", "b"])
    ends = [text.get_position() for text in ax.texts]
    np.testing.assert_allclose(ends, values * 3 / 0.9)
    arrows = ax.collections[-1]
    np.testing.assert_allclose(np.stack([arrows.U, arrows.V], 1), ends)
    np.testing.assert_array_equal(ax.collections[0].get_offsets(), scores[[0, 2]])
    assert texts(ax.get_legend()) == ["x", "y"]
    with pytest.raises(ValueError, match="at least two factors"):
        plot.biplot(scores[:, :1], values[:, :1])
    with pytest.raises(ValueError, match="loadings must have shape"):
        plot.biplot(scores, values[:, :1])


def test_latents_are_where_the_posterior_puts_them():
    model = elbax.FactorAnalysis(2)
    params = model.from_description(mean=np.zeros(2), loadings=np.eye(2), noise=np.ones(2))
    x = jnp.array([[2.0, 0.0], [0.0, 4.0]])
    ax = plot.latent(elbax.Exact(model, params), x, labels=[3, -1], columns=(1, 0))
    unlabelled, third = ax.collections
    np.testing.assert_allclose(third.get_offsets(), [[0, 1]], atol=1e-12)
    np.testing.assert_allclose(unlabelled.get_offsets(), [[2, 0]], atol=1e-12)
    assert texts(ax.get_legend()) == ["none", "3"]
    with pytest.raises(TypeError, match="posterior must be a function of a row"):
        plot.latent(params, x)
    with pytest.raises(TypeError, match="vectors of at least two numbers"):
        plot.latent(elbax.Exact(mixture, two_parts), rows)


def test_decodings_lie_at_their_latents():
    ax = plot.decodings(lambda z: jnp.repeat(z, 2), (2, 2), number=3, reach=1.0)
    (picture,) = ax.images
    whole = np.asarray(picture.get_array())
    assert whole.shape == (9, 9) and picture.get_extent() == [-1.5, 1.5, -1.5, 1.5]
    # The first picture is of the upper left: z = (-1, 1).
    assert whole[:2, :2].tolist() == [[-1, -1], [1, 1]] and whole[6:8, 6:8].tolist() == [
        [1, 1],
        [-1, -1],
    ]
    with pytest.raises(ValueError, match="pictures of 4 numbers"):
        plot.decodings(lambda z: jnp.repeat(z, 2), (2, 3))


def test_traversals_move_one_unit_at_a_time():
    z = np.array([5.0, 6.0, 7.0])
    ax = plot.traversals(lambda z: z, z, (1, 3), units=(2, 0), number=3, reach=1.0)
    whole = np.asarray(ax.images[0].get_array().filled(np.nan))
    assert whole.shape == (4, 12)
    assert whole[0, :3].tolist() == [5, 6, -1] and whole[0, 8:11].tolist() == [5, 6, 1]
    assert whole[2, 4:7].tolist() == [0, 6, 7]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["2", "0"]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["-1.0", "0.0", "1.0"]
    with pytest.raises(ValueError, match="units must be different ones of 0, ..., 2; got"):
        plot.traversals(lambda z: z, z, (1, 3), units=(3,))
    with pytest.raises(ValueError, match="pictures of 3 numbers"):
        plot.traversals(lambda z: z, z, (2, 3))
    with pytest.raises(TypeError, match=r"z must be a vector.*got shape \(1, 3\)"):
        plot.traversals(lambda z: z, z[None], (1, 3))


def test_rows_of_images_lie_below_each_other():
    x = np.arange(8.0).reshape(2, 4)
    ax = plot.images({"data": x, "decoded": x + 10}, (2, 2))
    whole = np.asarray(ax.images[0].get_array().filled(np.nan))
    assert whole.shape == (6, 6)
    assert whole[:2, 3:5].tolist() == [[4, 5], [6, 7]] and whole[3:5, :2].tolist()[0] == [10, 11]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["data", "decoded"]
    with pytest.raises(ValueError, match="expected 2 pictures of 2 x 2 numbers in each row; 'b'"):
        plot.images({"a": x, "b": x[:1]}, (2, 2))


def test_estimates_have_their_intervals():
    values = {"rate": np.array([1.0, 3.0]), "share": 0.5}
    errors = {"rate": np.array([0.1, np.nan]), "share": 0.2}
    ax = plot.estimates(values, errors, deviations=2.0)
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert names == ["rate[0]", "rate[1]", "share"]
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), [1, 3, 0.5])
    first, _, last = ax.collections[0].get_segments()
    np.testing.assert_allclose(first, [[0.8, 0], [1.2, 0]])
    np.testing.assert_allclose(last, [[0.1, 2], [0.9, 2]])
    with pytest.raises(ValueError, match="values and errors must have one structure"):
        plot.estimates(values, {"rate": errors["rate"]})
    with pytest.raises(ValueError, match="expected 3 names, got 1"):
        plot.estimates(values, errors, names=["rate"])


def test_data_lie_beside_draws():
    x, draws = np.array([[0, 0], [1, 2]]), np.array([[1, 2], [1, 1], [3, 0]])
    ax = plot.predictive(x, draws, names=["a", "b"])
    below, above = ax.collections
    np.testing.assert_array_equal(below.get_offsets(), draws)
    np.testing.assert_array_equal(above.get_offsets(), x)
    ax = plot.predictive(x, draws, columns=[0])
    bars, outline = ax.containers[0], ax.patches[-1]
    assert [bar.get_height() for bar in bars] == [0.5, 0.5, 0, 0]
    assert outline.get_xy()[:, 1].max() == pytest.approx(2 / 3)
    assert texts(ax.get_legend()) == ["data", "draws"]
    with pytest.raises(ValueError, match="x has 2 columns, but the draws have 1"):
        plot.predictive(x, draws[:, :1])


def test_a_tree_hangs_on_its_root():
    z = np.zeros((4, 4, 2), bool)
    z[[0, 1, 2], 0, 1] = True  # three words and padding
    z[1, 1, 0] = z[0, 2, 0] = True
    ax = plot.tree(z, ["a", "b", "c"], "SW")
    places = {(text.get_text(), *text.get_position()) for text in ax.texts}
    words = {("a", 0, 0), ("b", 1, 0), ("c", 2, 0), ("W", 0, 1), ("W", 1, 1), ("W", 2, 1)}
    assert places == words | {("S", 1.5, 2), ("S", 1, 3)}
    lines = {tuple(map(tuple, line.get_xydata().tolist())) for line in ax.lines}
    assert ((1.0, 3.0), (1.5, 2.0)) in lines and ((1.0, 3.0), (0.0, 1.0)) in lines
    assert len(lines) == 4 + 3
    with pytest.raises(ValueError, match="3 words and 4 nodes, but a binary tree has 5"):
        plot.tree(z & (np.arange(4)[:, None] < 2))
    with pytest.raises(ValueError, match="booleans of shape"):
        plot.tree(z[0])


def test_topics_are_bars_in_the_order_of_their_shares():
    topics = [[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]
    axes = plot.topics(topics, names=["cat", "dog", "sun"], number=2, shares=[0.3, 0.7])
    assert [ax.get_title() for ax in axes] == ["topic 0: 30%", "topic 1: 70%"]
    np.testing.assert_allclose([bar.get_width() for bar in axes[1].patches], [0.8, 0.1])
    assert axes[0].figure.get_supxlabel() == "probability of the word"
    with pytest.raises(ValueError, match="topics must have shape"):
        plot.topics([0.5, 0.5])
