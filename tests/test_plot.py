"""Pictures, by the values of their artists."""

import subprocess
import sys

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


def test_elbax_is_imported_without_matplotlib():
    code = (
        "import sys; sys.modules['matplotlib'] = None; import elbax\n"
        "try:\n    import elbax.plot\n"
        "except ImportError as error:\n    assert 'pip install \"elbax[plot]\"' in str(error)\n"
        "else:\n    raise SystemExit(1)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


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
