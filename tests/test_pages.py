"""README and documentation: their code runs and prints what they say; every public name has a place."""

import contextlib
import importlib
import io
import json
import pathlib
import re

import jax
import jaxtyping
import numpy as np
import pytest
from printed import main, same

import elbax


ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
# The other pages have tests of their own, of what their code defines.
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md")), *sorted((DOCS / "guides").glob("*.md"))]
PAGES = [page for page in PAGES if page.stem not in ("extending", "modes_of_jax")]
PAGES = [page for page in PAGES if "```python" in page.read_text()]
BLOCK = re.compile(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```\n)?", re.DOTALL)


@pytest.fixture
def as_jax_starts():
    """float32, standard promotion, no type checks: the pages are for users. How they print ends with them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"), np.printoptions():
        yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_runs_and_prints_what_the_page_says(page, as_jax_starts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for code, said in BLOCK.findall(page.read_text()):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(page), "exec"), names)
        assert same(said, printed.getvalue()), (
            f"the page says\n{said}\nand not\n{printed.getvalue()}"
        )


@pytest.mark.parametrize(
    ("said", "printed", "equal"),
    [
        ("ELBO -4.155 nats", "ELBO -4.156  nats", True),
        ("ELBO -4.155 nats", "ELBO -4.157 nats", False),
        ("[0 1]", "[1 1]", False),
        ("[0 1]", "[0 1 1]", False),
        ("converged 3", "stopped 3", False),
        ("", "3", False),
        ("gap 1.2e-05", "gap 1.3e-05", True),
        ("gap 1.2e-05", "gap 1.4e-05", False),
    ],
)
def test_outputs_are_compared(said, printed, equal):
    assert same(said, printed) == equal


def test_notebooks_are_compared(tmp_path, capsys):
    """By what they print; numbers may differ by half a percent."""

    def notebook(folder, text):
        output = {"output_type": "stream", "name": "stdout", "text": [text]}
        figure = {"output_type": "display_data", "data": {"text/plain": ["<Figure size 1x1>"]}}
        cells = [{"cell_type": "code", "outputs": [output, figure]}, {"cell_type": "markdown"}]
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.ipynb").write_text(json.dumps({"cells": cells}))

    for folder, text in [("said", "ELBO -4.155"), ("near", "ELBO -4.17"), ("far", "ELBO -4.2")]:
        notebook(folder, text)
    assert main(str(tmp_path / "said"), str(tmp_path / "near")) == 0
    assert main(str(tmp_path / "said"), str(tmp_path / "far")) == 1
    assert "a.ipynb, code cell 1" in capsys.readouterr().out


PACKAGES = ["components", "conjugacy", "diagnostics", "estimators", "families", "passes"]
PACKAGES += ["posteriors", "priors", "plot", "sklearn", "starts", "wrappers", "datasets"]


def test_every_public_name_is_in_the_reference():
    """By the object: a name that two packages export has one place."""
    text = "\n".join(page.read_text() for page in (DOCS / "reference").glob("*.md"))
    entries = re.findall(r"^::: (\S+)", text, re.MULTILINE)
    assert sorted(entries) == sorted(set(entries))
    packages = [importlib.import_module(f"elbax.{name}") for name in PACKAGES]
    assert {package.__name__ for package in packages} <= set(entries)

    def public(package):
        return {
            id(item): f"{package.__name__}.{name}"
            for name, item in vars(package).items()
            if not name.startswith("_") and callable(item)
        }

    documented = {id(getattr(elbax, entry.removeprefix("elbax."), None)) for entry in entries}
    for package in packages:
        documented |= public(package).keys()
    missing = [name for key, name in public(elbax).items() if key not in documented]
    assert not missing


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    for path in re.findall(r"\]\(((?!http)[^)#]+)", text):
        assert (ROOT / path).exists(), path


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r'"([\w/-]+\.md)"', (ROOT / "zensical.toml").read_text()))
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    made = {f"notebooks/{path.stem}.md" for path in (ROOT / "notebooks").glob("*.ipynb")}
    made |= {f"benchmarks/{path.name}" for path in (ROOT / "benchmarks/results").glob("*.md")}
    assert listed == pages | made | {"changelog.md", "contributing.md"}


def test_errors_point_to_headings_of_the_guide():
    page = (DOCS / "guides" / "debugging.md").read_text()
    headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    anchors = {re.sub(r"[^\w ]", "", heading).lower().replace(" ", "-") for heading in headings}
    source = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    named = re.findall(r"guide\('([^']+)'\)", source)
    assert len(named) >= 5 and set(named) <= anchors
