"""The demo on the user's own file: one clear line for what is wrong with it, and nothing written."""

import pathlib

import jax
import numpy as np
import pytest

from elbax import __main__ as demo


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "data.csv: no such file"),
        ("", "the file is empty"),
        ("a,b\n", "the file has a header but no rows"),
        ("a,b\n1,2\n3,x\n5,6\n", "line 3, b: 'x' is not a number"),
        ("a,b\n1,2\n3,\n5,6\n", "line 3, b: the cell is empty"),
        ("a,b\n1,2\n3\n", "line 3 has 1 cells, but the first line has 2"),
        ("a,b\n1,2\n3,nan\n", "line 3, b: nan is not finite"),
        ("1,2\n3,inf\n", "line 2, column 2: inf is not finite"),
        ("a,b\n1,2\n", "got 1 rows for 2 components"),
        ("a,b\n1,2\n1,3\n1,5\n", "a has the same value in every row; remove this column"),
    ],
)
def test_unusable_data(text, message, capsys):
    if text is not None:
        pathlib.Path("data.csv").write_text(text)
    assert demo.main(["data.csv"]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert len(printed.err.splitlines()) == 1
    assert not printed.out
    assert {path.name for path in pathlib.Path().iterdir()} <= {"data.csv"}


def test_unusable_number_of_components(capsys):
    assert demo.main(["--components", "0"]) == 2
    assert "must be at least 1, got 0" in capsys.readouterr().err


def test_a_binary_file_is_refused(capsys):
    pathlib.Path("data.csv").write_bytes(b"\xff\xfe\x00\x01")
    assert demo.main(["data.csv"]) == 2
    assert "not a text file" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("dim", [1, 3])
def test_a_table_of_ones_own(dim, capsys, monkeypatch):
    monkeypatch.setattr(demo, "SWEEPS", 40)
    rows = np.random.default_rng(0).normal(size=(60, dim)) + 4 * (np.arange(60) % 3)[:, None]
    np.savetxt("data.csv", rows, delimiter=",")
    jax.config.update("jax_numpy_dtype_promotion", "standard")  # As users run it.
    try:
        assert demo.main(["data.csv", "--components", "3"]) == 0
    finally:
        jax.config.update("jax_numpy_dtype_promotion", "strict")
    printed = capsys.readouterr().out
    assert f"60 rows, {dim} columns" in printed
    for word in ("EM", "expected gradient", "amortized EM", "VAE", "KL gap"):
        assert word in printed
    assert pathlib.Path(demo.FIGURE).stat().st_size > 10_000
