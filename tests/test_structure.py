"""The house rules: imports point one way, nothing happens at import, what is documented runs."""

import ast
import doctest
import importlib
import inspect
import pathlib
import pkgutil
import subprocess
import sys
import types

import jax
import matplotlib.pyplot as plt
import pytest

import elbax


ROOT = pathlib.Path(__file__).parent.parent
SOURCE = ROOT / "src" / "elbax"

# A file imports from files before it, never after.
ORDER = """
_types _shortcut _reference _program _arguments _math families estimators _state _saving _sharding _export data
_free _invariance _model _capability _door _around _tempered _network posteriors programs priors _pass _update
_elbo _rows passes _running_statistics _gradient e_steps m_steps _em _joint_gradient wrappers conjugacy starts
fitting components models beliefs diagnostics datasets plot sklearn __init__ _command __main__
""".split()


def place(path):
    """Where a file stands in the order, by its folder or name."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ORDER.index(parts[0])


def imports(path):
    """The files of ours that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = path.parents[node.level - 1]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            for name in names:
                yield base.joinpath(*name.split("."))


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: p.stem)
def test_imports_point_one_way(path):
    for imported in imports(path):
        assert place(imported) <= place(path), f"{path.name} imports {imported}"
    if path.parent.name in ("e_steps", "m_steps", "wrappers"):
        assert not any("models" in str(imported) for imported in imports(path))
    if path.parent.name == "families":
        allowed = {"_types", "_program", "_arguments", "_math", "families"}
        assert {ORDER[place(imported)] for imported in imports(path)} <= allowed


def test_import_touches_no_device():
    code = (
        "import sys, elbax, jax._src.xla_bridge as bridge; "
        "assert not bridge._backends, 'a backend was initialized at import'; "
        "assert 'matplotlib' not in sys.modules, 'elbax.plot is optional'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def modules():
    yield elbax
    for module in pkgutil.walk_packages(elbax.__path__, "elbax."):
        if not module.name.endswith("__main__"):
            yield importlib.import_module(module.name)


@pytest.mark.slow
@pytest.mark.parametrize("module", list(modules()), ids=lambda m: m.__name__)
def test_docstrings_run(module):
    jax.config.update("jax_enable_x64", False)
    try:
        failed, _ = doctest.testmod(module)
    finally:
        jax.config.update("jax_enable_x64", True)
        plt.close("all")
    assert not failed


def test_public_words_are_documented_with_an_example():
    plain = {"Info", "ELBOState", "ELBOTerms", "Result", "Restarts", "Reference", "Distribution"}
    plain |= {"Certificate", "Convergence", "Criteria", "Information", "Selection"}
    packages = elbax, elbax.wrappers, elbax.posteriors, elbax.diagnostics
    for name, word in (item for package in packages for item in vars(package).items()):
        if name.startswith("_") or not callable(word):
            continue
        assert word.__doc__, f"{name} has no docstring"
        if isinstance(word, type) and name not in plain and not name.startswith("Abstract"):
            assert ">>>" in word.__doc__ or name == "Exact", f"{name} has no example"


def public_classes():
    packages = elbax, elbax.wrappers, elbax.posteriors, elbax.components, elbax.families
    words = {
        word for package in packages for _, word in inspect.getmembers(package, inspect.isclass)
    }
    return sorted(words, key=lambda word: word.__name__)


@pytest.mark.parametrize("word", public_classes(), ids=lambda word: word.__name__)
def test_help_says_what_each_method_is(word):
    """In its own words or in those of a base class."""
    members = {name: getattr(word, name) for name in dir(word) if not name.startswith("_")}
    said = (property, types.FunctionType, types.MethodType)
    bare = [
        name for name, one in members.items() if isinstance(one, said) and not inspect.getdoc(one)
    ]
    assert not bare
