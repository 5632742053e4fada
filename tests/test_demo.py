"""The command: the demo, and the clusters of the user's own file; one clear line for what is wrong with it."""

import csv
import pathlib
import sys
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pyarrow
import pytest
from pyarrow import parquet
from scipy import stats
from sklearn import mixture

import elbax
from elbax import __main__ as command
from elbax._command import clusters, demo, extras, tables


RANDOM = np.random.default_rng(0)
# Two groups, apart in the second and third column.
GROUP = np.arange(60) % 2
TABLE = RANDOM.normal(size=(60, 3)) + np.outer(GROUP, [0, 8, 8])


def named(values: np.ndarray) -> tables.Table:
    names, rows = list("abcdef"[: values.shape[1]]), np.arange(len(values)) + 1
    return tables.Table(pathlib.Path("data.csv"), names, values, rows)


@pytest.fixture(autouse=True)
def as_users_run_it(tmp_path, monkeypatch):
    """In a folder of its own, with JAX's own promotion."""
    monkeypatch.chdir(tmp_path)
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "data.csv: no such file"),
        ("", "the file is empty"),
        ("a,b\n", "the file has a header but no rows"),
        ("a,b\n1,2\n3,x\n5,6\n", "line 3, b: 'x' is not a number"),
        ("a,b\n1,2\n3\n", "line 3 has 1 cells, but the first line has 2"),
        ("1,2\n3,inf\n", "line 2, column 2: inf is not finite"),
        (
            "a,b,c d\n1,x,u\n2,y,v\n",
            "b, c d are columns of text; leave out by --without b --without 'c d'",
        ),
        ("a,b\n1,NA\n2,NA\n", "b has no number; leave it out by --without b"),
        ("a,b\n1,2\n", "a has the same value in every row; leave it out by --without a"),
        ("a,b\n1,2\n2,3\n", "got 2 rows for 2 components; expected more rows than components"),
    ],
)
def test_unusable_data(text, message, capsys):
    if text is not None:
        pathlib.Path("data.csv").write_text(text)
    assert command.main(["data.csv", "--components", "2"]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert len(printed.err.splitlines()) == 1
    assert not printed.out
    assert {path.name for path in pathlib.Path().iterdir()} <= {"data.csv"}


@pytest.mark.parametrize("arguments", [[], ["data.csv"]])
def test_unusable_number_of_components(arguments, capsys):
    pathlib.Path("data.csv").write_text("1,2\n3,4\n5,7\n")
    assert command.main([*arguments, "--components", "0"]) == 2
    assert "must be at least 1, got 0" in capsys.readouterr().err


def test_a_binary_file_is_refused(capsys):
    pathlib.Path("data.csv").write_bytes(b"\xff\xfe\x00\x01")
    assert command.main(["data.csv"]) == 2
    assert "not a text file" in capsys.readouterr().err


def test_columns_are_left_out(capsys):
    pathlib.Path("data.csv").write_text("id;name;a b;c\n1;x;2;1\n2;y;;4\n3;z;5;1\n")
    table = tables.read("data.csv", ["name", "1"])
    assert table.names == ["a b", "c"]
    np.testing.assert_array_equal(table.values, [[2, 1], [np.nan, 4], [5, 1]])
    for without, message in [("nme", "the columns are id, name, a b"), ("5", "no such column")]:
        assert command.main(["data.csv", "--without", without]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "names", "values"),
    [
        ("1,2\n3,4\n", ["column 1", "column 2"], [[1, 2], [3, 4]]),
        ("name,2019\n1,2\n3,4\n", ["name", "2019"], [[1, 2], [3, 4]]),
        (",0,1\n0,5,6\n1,7,9\n", ["column 1", "0", "1"], [[0, 5, 6], [1, 7, 9]]),
        ("NA,2\n3,4\n5,6\n", ["column 1", "column 2"], [[np.nan, 2], [3, 4], [5, 6]]),
        ('"a, mm";b\n1,5;2\n-3;4\n', ["a, mm", "b"], [[1.5, 2], [-3, 4]]),
        ('"a; b","c"\n1,2\n3,4\n', ["a; b", "c"], [[1, 2], [3, 4]]),
        ("a\tb\n1\t2\n3\t4\n", ["a", "b"], [[1, 2], [3, 4]]),
        ("1.0 2.0\n3.0  4.0\n", ["column 1", "column 2"], [[1, 2], [3, 4]]),
    ],
)
def test_how_files_are_read(text, names, values):
    pathlib.Path("data.csv").write_text(text)
    table = tables.read("data.csv")
    assert table.names == names
    np.testing.assert_array_equal(table.values, values)


def test_a_row_of_words_is_no_header_where_words_follow():
    """Rows end in a word: the first one is data."""
    pathlib.Path("data.csv").write_text("5.1,3.5,setosa\n4.9,3.0,setosa\n")
    table = tables.read("data.csv", ["3"])
    assert table.names == ["column 1", "column 2"] and len(table.values) == 2


def test_rows_without_any_number_are_left_out():
    pathlib.Path("data.csv").write_text("a,b\n1,2\nNA,\n3,NaN\n5,1\n,\n")
    table = tables.read("data.csv")
    np.testing.assert_array_equal(table.values, [[1, 2], [3, np.nan], [5, 1]])
    assert table.rows.tolist() == [1, 3, 4] and table.left_out == 2


def test_options_of_a_file_need_one(capsys):
    """As --without takes one column at a time, it does not take the file for another."""
    for arguments in (["--without", "a"], ["--covariance", "full"]):
        with pytest.raises(SystemExit):
            command.main(arguments)
        assert "need a FILE" in capsys.readouterr().err
    pathlib.Path("data.csv").write_text("a,b\n1,2\n")
    assert command.main(["--without", "b", "data.csv"]) == 2
    assert "a has the same value in every row" in capsys.readouterr().err


def test_parquet(monkeypatch, capsys):
    parquet.write_table(pyarrow.table({"a": [1.0, 2.5, None], "b": [1, 2, 3]}), "data.parquet")
    table = tables.read("data.parquet")
    np.testing.assert_array_equal(table.values, [[1, 1], [2.5, 2], [np.nan, 3]])
    pathlib.Path("broken.parquet").write_text("no")
    assert command.main(["broken.parquet"]) == 2
    assert "broken.parquet: cannot be read" in capsys.readouterr().err


def test_parquet_without_pyarrow(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert command.main(["data.parquet"]) == 2
    assert "reading Parquet needs pyarrow; run pip install pyarrow" in capsys.readouterr().err


@pytest.mark.slow
def test_the_demo(capsys, monkeypatch):
    monkeypatch.setattr(demo, "SWEEPS", 40)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert command.main([]) == 0
    printed = capsys.readouterr().out
    assert "Old Faithful: 272 rows, 2 columns" in printed
    for word in ("EM", "expected gradient", "amortized EM", "VAE", "KL gap"):
        assert word in printed
    assert pathlib.Path(demo.FIGURE).stat().st_size > 10_000


def test_without_matplotlib(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with extras.drawing() as pyplot:
        assert pyplot is None
    assert 'Run pip install "elbax[plot]"' in capsys.readouterr().out


@pytest.mark.slow
def test_clusters_of_a_file(capsys):
    values = np.column_stack([np.arange(60), TABLE])
    values[7, 2] = np.nan
    values[9, 1] = 40
    values[11] = np.nan
    np.savetxt("data.csv", values, delimiter=",", header="id,a,b,c", comments="")
    assert command.main(["data.csv", "--components", "2", "--covariance", "diagonal"]) == 0
    printed = capsys.readouterr().out
    assert "59 rows, 4 columns, 1 of 236 values missing, 1 without any number left out" in printed
    assert "Rows unlike all components: row 10" in printed
    with open("data-labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    labels = np.array([int(row["component"]) for row in rows])
    assert len(set(zip(labels.tolist(), np.delete(GROUP, 11).tolist()))) == 2
    assert min(rows, key=lambda row: float(row["chi2_tail"]))["row"] == "10"
    assert pathlib.Path("data-components.png").stat().st_size > 10_000


@pytest.mark.slow
def test_one_column_and_one_component(capsys):
    np.savetxt("data.csv", TABLE[:, :1])
    assert command.main(["data.csv", "--components", "1", "--covariance", "tied"]) == 0
    assert "60 of 60 rows belong to one component" in capsys.readouterr().out
    assert pathlib.Path("data-components.png").exists()


def test_means_have_the_digits_of_their_deviations():
    assert clusters._about(630.412, 123.4) == "630 ± 123"
    assert clusters._about(0.24612, 0.10433) == "0.25 ± 0.10"
    assert clusters._about(3.4e-9, 1.2e-10) == "3.4e-09 ± 1.2e-10"


def test_a_collapse_names_its_cause():
    values = np.column_stack([TABLE[:, 0], np.where(GROUP == 1, 3.0, TABLE[:, 1])])
    values[0, 0] = np.nan
    said = clusters._collapsed(named(values))
    assert "on equal values (b is 3 in 30 of 60 rows); use fewer" in said


@pytest.mark.slow
def test_the_choice_is_that_of_separate_fits():
    """Components without weight stay without: one program fits every size."""
    selection = clusters.choose(named(TABLE), range(1, 4), ["diagonal"])
    assert selection.best == "2 diagonal"
    for size in (1, 2):
        peer = mixture.GaussianMixture(
            size, covariance_type="diag", tol=1e-9, n_init=3, random_state=0
        )
        found = selection.rows[f"{size} diagonal"]
        assert found is not None
        np.testing.assert_allclose(found.bic, peer.fit(TABLE).bic(TABLE), rtol=1e-5)


@pytest.mark.parametrize("structure", clusters.STRUCTURES)
def test_the_number_of_params(structure):
    peer: Any = mixture.GaussianMixture(4)
    peer.covariance_type = structure.replace("diagonal", "diag")
    peer.means_ = np.zeros((4, 3))
    model = elbax.GaussianMixture(4, structure)
    assert clusters.num_free_params(model, 3) == peer._n_parameters()


def test_rows_unlike_all():
    described = {"means": np.zeros((1, 2)), "covariances": np.array([[[2.0, 0.5], [0.5, 1.0]]])}
    values = np.array([[1.0, 2.0], [np.nan, 3.0], [0.5, np.nan]])
    tails = clusters.unlike_all(values, described)
    squares = [np.array([1, 2]) @ np.linalg.solve([[2.0, 0.5], [0.5, 1.0]], [1, 2]), 9.0, 0.125]
    np.testing.assert_allclose(tails, stats.chi2.sf(squares, [2, 1, 1]), rtol=1e-5)


def test_columns_that_determine_one_another():
    related = np.column_stack([TABLE, 2 * TABLE[:, 0] - TABLE[:, 2] + 1])
    assert clusters.columns_that_depend(named(related)) == ["a", "c", "d"]
    assert clusters.columns_that_depend(named(TABLE)) == []
    assert clusters.columns_that_depend(named(TABLE[:, :1])) == []


def test_the_columns_that_are_drawn():
    covariances = np.array([np.eye(3), np.diag([1.0, 1.0, 9.0])])
    described = {"weights": np.array([0.5, 0.5]), "covariances": covariances}
    apart = {**described, "means": np.array([[0.0, 0, 0], [0, 4, 8]])}
    assert clusters.columns_apart(apart) == (1, 2)
    one = {
        "weights": np.ones(1),
        "means": np.zeros((1, 3)),
        "covariances": np.array([[[1.0, 0.1, 0.9], [0.1, 1, 0], [0.9, 0, 1]]]),
    }
    assert clusters.columns_apart(one) == (0, 2)


def test_what_is_noted():
    values = np.column_stack([np.arange(60), np.where(GROUP == 1, 2.0, TABLE[:, 1])])
    table = named(values)
    model = elbax.GaussianMixture(2, "diagonal")
    params = model.from_description(
        weights=[0.5, 0.5], means=[[0, 0], [0, 2]], covariances=[np.eye(2), np.diag([1, 1e-6])]
    )
    best = SimpleNamespace(state=SimpleNamespace(params=params))
    restarts = SimpleNamespace(best=best, rejected=np.array([True, False]))
    said = " ".join(clusters.notes(table, model, restarts, GROUP))
    assert "1 of 2 fits were rejected" in said and "b is 2 in 30 of 60 rows" in said
    assert "b is 2 in all 30 rows of component 1" in said and "a counts the rows" in said
    assert "component 1 (30 rows) is 30 times as narrow" in said
