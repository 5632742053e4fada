# `make demo` and `make test` are all one needs: each makes .venv, installs what it needs, and runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# pip 25.1 is the first that knows dependency groups.
INSTALL = $(BIN)/python -m pip install --quiet -c constraints.txt

# Tests and notebooks start many processes, each of which would compile all of elbax for itself.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test quick lint types notebooks docs dist installed benchmark clean

demo: $(VENV)/demo.done
	$(BIN)/python -m elbax

test: $(VENV)/test.done
	$(BIN)/python -m pytest -n 2 --dist worksteal

quick: $(VENV)/test.done
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

lint: $(VENV)/lint.done
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/lint.done $(VENV)/test.done
	$(BIN)/pyright --pythonpath $(BIN)/python

# Half of their time would be compilation: the options of tests/conftest.py.
notebooks: export JAX_DISABLE_MOST_OPTIMIZATIONS = 1
notebooks: export JAX_TRACEBACK_IN_LOCATIONS_LIMIT = 0
notebooks: export XLA_FLAGS = --xla_cpu_use_fusion_emitters=false --xla_llvm_force_inline_before_split=false \
	--xla_cpu_parallel_codegen_split_count=1
notebooks: $(VENV)/notebooks.done
	ls notebooks/*.ipynb | xargs -P 2 -n 1 $(BIN)/jupyter nbconvert --to notebook --execute --output-dir $(VENV)/notebooks
	$(BIN)/python tests/printed.py notebooks $(VENV)/notebooks

# From docs/, docstrings, notebooks as they are committed, and the results of the benchmarks.
docs: $(VENV)/docs.done
	rm -rf build/pages build/docs && mkdir -p build && cp -r docs build/pages
	cp -r benchmarks/results build/pages/benchmarks
	cp CHANGELOG.md build/pages/changelog.md && cp CONTRIBUTING.md build/pages/contributing.md
	$(BIN)/jupyter nbconvert --to markdown --output-dir build/pages/notebooks notebooks/*.ipynb
	$(BIN)/zensical build --strict

# What is published, and the wheel without extras in an environment of its own.
dist: $(VENV)/dist.done
	rm -rf dist build/bare
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv build/bare
	build/bare/bin/python -m pip install --quiet -c constraints.txt dist/*.whl
	cd build/bare && bin/python -m elbax

# Everything that the targets above need, one after the other: then they may run side by side.
installed: $(VENV)/lint.done $(VENV)/notebooks.done $(VENV)/docs.done $(VENV)/dist.done

benchmark: $(VENV)/test.done
	$(BIN)/python -m pytest benchmarks --benchmark-only --override-ini="filterwarnings=default"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "pip>=25.1"

$(VENV)/demo.done: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) -e ".[plot,progress]"
	touch $@

$(VENV)/test.done: $(VENV)/demo.done
	$(INSTALL) --group test
	touch $@

$(VENV)/lint.done: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) --group lint
	touch $@

$(VENV)/notebooks.done: $(VENV)/test.done
	$(INSTALL) --group notebooks
	touch $@

$(VENV)/docs.done: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) --group docs
	touch $@

$(VENV)/dist.done: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) --group dist
	touch $@

clean:
	rm -rf $(VENV) build dist
