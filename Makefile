# The list of things one can do. A fresh machine needs Python 3.11 or newer and make, nothing else.
#
#   make demo                       two hospitals and two banks train one adapter, on generated data
#   make demo DATA=DIR SITES=a,b    the same on one .jsonl.gz a site (without SITES: every file of DIR)
#   make test                       all tests; PYTEST_ARGS="-m 'not slow'" for the fast ones
#   make check                      lint, then all tests
#   make postgresql                 install a PostgreSQL server, on which the SQL connector is tested (Debian)
#   make chinese-font               install a font in which a Chinese report is printed (Debian)
#   make bench                      measured beside stock Flower
#
# On a Linux machine without a GPU the smaller CPU build of torch will do:
#   make venv PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP_ARGS ?=
PYTEST_ARGS ?=
# What tests share takes longer to make than they take: tests/conftest.py says who stays together.
TEST_JOBS ?= 2
BENCH_ARGS ?=
DATA ?=
SITES ?=
OUT ?= demo-out
SUDO ?= $(shell test "$$(id -u)" = 0 || echo sudo -n)

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# Nothing that runs here calls home, whatever a dependency's default is.
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
export HF_HUB_OFFLINE := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export TRANSFORMERS_OFFLINE := 1
export DO_NOT_TRACK := 1

.PHONY: help venv $(VENV) demo test check postgresql chinese-font lint lint-format lint-style lint-types lint-imports format bench constraints clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | sed '/^Nothing that runs/,$$d'

# The stamp is written last: an install that was cut short is done again.
$(INSTALLED): pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: expected Python 3.11 or newer as '$(PYTHON)'" >&2; \
	       echo "hint: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	@touch $@

venv: $(INSTALLED)
$(VENV): $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/python -m deploy.demo.run --out "$(OUT)" $(if $(DATA),--data "$(DATA)") $(if $(SITES),--sites "$(SITES)")

test: $(INSTALLED)
	$(BIN)/python -m pytest -n $(TEST_JOBS) --no-loadscope-reorder $(PYTEST_ARGS)

# One target each, so that `make --keep-going` shows what every one of them has to say.
lint: lint-format lint-style lint-types lint-imports

lint-format: $(INSTALLED)
	$(BIN)/ruff format --check .

lint-style: $(INSTALLED)
	$(BIN)/ruff check .

lint-types: $(INSTALLED)
	$(BIN)/mypy

lint-imports: $(INSTALLED)
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check: lint test

# For the tests of the SQL connector; Debian keeps its programs out of the path.
postgresql:
	@command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 \
	  || { $(SUDO) apt-get update --quiet && \
	       $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes --no-install-recommends postgresql; }

# For a PDF of the report in Chinese; 1.6 MB, and Apache-2.0 as we are.
chinese-font:
	@ls /usr/share/fonts/truetype/wqy/*.ttc >/dev/null 2>&1 \
	  || { $(SUDO) apt-get update --quiet && \
	       $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes --no-install-recommends fonts-wqy-microhei; }

bench: $(INSTALLED)
	$(BIN)/python -m bench round $(BENCH_ARGS)

# `+cpu` is cut off so that a machine with GPUs may take the build that fits its driver.
constraints: $(INSTALLED)
	$(BIN)/uv pip compile pyproject.toml --extra dev --extra simulation --python-version 3.11 --torch-backend cpu \
	  --allow-unsafe --no-header --no-annotate --no-emit-index-url --output-file constraints.txt
	sed -i 's/+cpu$$//' constraints.txt

clean:
	rm -rf $(VENV) demo-out build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
