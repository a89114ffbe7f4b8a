# `make` or `make help` lists the targets. The first call sets up .venv; later calls find it ready.
#   make train WORKDIR=runs/mine CONFIG=configs/base.py:tiny ARGS='--config.seed=1'
#   make test ARGS='tests/test_optim.py -k lamb'

PYTHON ?= python3
CONFIG ?= configs/base.py
WORKDIR ?= runs/base
# Processes that run tests side by side; each takes up to 3 GiB.
JOBS ?= 2
ARGS ?=
# Extra words for pip, such as an index of CPU builds: on Linux the usual one gives PyTorch (tests only)
# with CUDA.
PIP_ARGS ?=

# The newest jax and flax need a newer Python than 3.11.
CONSTRAINTS := $(shell $(PYTHON) -c 'import sys; print("constraints.txt" if sys.version_info < (3, 12) \
  else "constraints-3.12.txt")')

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) $(PIP_ARGS)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help train study explore test check lint docs clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile
	@echo "Variables: PYTHON=$(PYTHON) CONFIG=$(CONFIG) WORKDIR=$(WORKDIR) ARGS= PIP_ARGS="

train: $(VENV)/.installed  ## install, then train on the shapes world: CONFIG, WORKDIR, ARGS
	$(PY) -m miro_jax.main --config=$(CONFIG) --workdir=$(WORKDIR) $(ARGS)

study: $(VENV)/.installed  ## which of the paper's claims show: an hour, in runs/study; ARGS
	$(PY) -m miro_jax.main --config=configs/study.py --workdir=runs/study --stage=study $(ARGS)

explore: $(VENV)/.installed  ## a page with sliders of the run in WORKDIR, in out/explorer: ARGS
	$(PY) -m miro_jax explore --checkpoint=$(WORKDIR) --batch-size=64 --out=out/explorer $(ARGS)

test: $(VENV)/.installed-test  ## install with the test extras, then run the whole suite: ARGS
	$(PY) -m pytest -n $(JOBS) --dist=loadfile --no-loadscope-reorder $(ARGS)

check: $(VENV)/.installed-test  ## lint, types and the quick tests: minutes
	$(MAKE) --no-print-directory lint
	$(PY) -m pytest -n $(JOBS) --dist=loadfile --no-loadscope-reorder \
	  -m "not slow and not over_a_second" $(ARGS)

lint: $(VENV)/.installed-lint  ## check format, style and types, changing nothing
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/basedpyright --pythonpath $(PY)

docs: $(VENV)/.installed-docs  ## the site, in build/site: ARGS
	$(PY) -m sphinx -W --keep-going -q -b html docs build/site $(ARGS)
	@echo build/site/index.html

clean:  ## remove the environment, caches and builds; runs and data stay
	rm -rf $(VENV) .pytest_cache .ruff_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp for each thing installed: newer than what it was installed from means nothing to do.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "miro_jax needs Python 3.11 to 3.13; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." \
	         "Install one and call: make PYTHON=python3.11 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: setup.py $(CONSTRAINTS) | $(VENV)/.created
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-test: setup.py $(CONSTRAINTS) tests/requirements-oracle.txt | $(VENV)/.created
	$(PIP) --editable '.[test,demo,docs]'
	$(PIP) --no-deps --requirement tests/requirements-oracle.txt
	@touch $(VENV)/.installed $@

$(VENV)/.installed-docs: setup.py $(CONSTRAINTS) | $(VENV)/.created
	$(PIP) --editable '.[docs]'
	@touch $(VENV)/.installed $@

# The types of jax and others come from the packages themselves.
$(VENV)/.installed-lint: setup.py $(CONSTRAINTS) | $(VENV)/.created
	$(PIP) --editable '.[dev]'
	@touch $(VENV)/.installed $@
