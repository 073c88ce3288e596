# make demo | test | test-full | bench | lint | docs | figures | picture. The first run makes .venv; later ones install again only when
# pyproject.toml, setup.py or cpp/ have changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml setup.py $(wildcard cpp/*.cpp cpp/*.hpp)
CHROMIUM ?= chromium
# a process a core, with one thread each
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $$(nproc) --maxprocesses 4 --dist worksteal

.PHONY: demo test test-full bench lint docs figures picture

demo: $(VENV)/.installed
	$(BIN)/workbench demo --out reports/demo

test: $(VENV)/.installed-test
	@missing=; \
	command -v chromium >/dev/null || missing="$$missing chromium"; \
	command -v clang++ >/dev/null || missing="$$missing clang"; \
	test -e /usr/share/datasets/fashion-mnist || missing="$$missing dataset-fashion-mnist"; \
	test -z "$$missing" || echo "Tests are skipped that need what this installs: apt-get install -y$$missing"
	$(PYTEST)

test-full: test $(VENV)/.installed-full
	$(PYTEST) -m slow

bench: $(VENV)/.installed
	@mkdir -p reports
	$(BIN)/python benchmarks/accuracy.py --seeds 0 --store reports/accuracy.jsonl --out reports/accuracy.json
	$(BIN)/python benchmarks/search.py --out reports/search.json
	$(BIN)/python benchmarks/allocation.py --out reports/allocation.json

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/mypy

# the pages of docs/ as a site: site/index.html
docs: $(VENV)/.installed-docs
	$(BIN)/mkdocs build --strict --quiet
	@echo site/index.html

# the figures of docs/concepts.md
figures: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python docs/figures.py

# the picture in the README, of the report that `make demo` wrote
picture: demo
	$(CHROMIUM) --headless --no-sandbox --disable-gpu --disable-background-networking --hide-scrollbars \
	  --window-size=1280,1250 --screenshot=docs/report.png "file://$(CURDIR)/reports/demo/report.html"

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Workbench needs Python 3.11 or newer;" \
	  "$(PYTHON) is $$($(PYTHON) --version 2>&1). Name a newer one: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(SOURCES) | $(VENV)/.made
	@echo "Installing into $(VENV); PyTorch is large, so the first time takes minutes."
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-docs: $(SOURCES) | $(VENV)/.made
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-test: $(SOURCES) | $(VENV)/.made
	@echo "Installing into $(VENV) what the tests need; PyTorch is large, so the first time takes minutes."
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-full: $(VENV)/.installed-test
	$(BIN)/python -m pip install --quiet --editable '.[test,frameworks]'
	@touch $@
