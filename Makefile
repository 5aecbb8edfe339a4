# The commands this project keeps. Each sets up what it needs; a second run starts in seconds.
PYTHON ?= python3
BIN := .venv/bin
# Small tensors: a second intra-op thread costs more than it gives (docs/benchmarks.md).
export OMP_NUM_THREADS ?= 1

.PHONY: setup demo test test-slow check format lint types layers protos-check protos protos-freeze bench base clean

setup: .venv/.ready  ## create .venv and install everything, pinned by constraints.txt

.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "moontune needs Python 3.11 or newer; set PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv (about 2 GB, once) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup  ## finetune the tiny base by reinforcement on real images, serve it, write out/demo/report.html
	@$(BIN)/python -m examples.demo $(ARGS)

test: setup  ## the default tests: no GPU, no network, under 8 minutes on 2 cores
	@$(BIN)/python -m pytest $(ARGS)

test-slow: setup  ## the rest, under 45 minutes
	@$(BIN)/python -m pytest -m 'slow and not gpu' --timeout 1800 $(ARGS)

check: format lint types layers protos-check  ## what CI runs before the tests

format: setup
	@$(BIN)/ruff format --check .

lint: setup
	@$(BIN)/ruff check .

types: setup
	@$(BIN)/pyright

layers: setup
	@$(BIN)/lint-imports

protos-check: setup
	@$(BIN)/buf lint && $(BIN)/buf format --diff --exit-code && $(BIN)/buf breaking --against protos/baseline.binpb
	@$(BIN)/python -m tools.generate_protos --check

protos: setup  ## regenerate moontune/api from protos/
	@$(BIN)/buf format -w && $(BIN)/python -m tools.generate_protos

protos-freeze: setup  ## move the baseline that breaking changes are held against; write an ADR with it
	@$(BIN)/python -m tools.generate_protos --freeze

bench: setup  ## every benchmark; tables on the screen, figures in out/benchmarks/
	@for file in benchmarks/[a-z]*.py benchmarks/*/__main__.py; do name=$$(basename $${file%/__main__.py} .py); echo "== $$name"; $(BIN)/python -m benchmarks.$$name || exit 1; done

base: setup  ## make the tiny base again (40 minutes on 2 cores)
	@$(BIN)/python -m tools.tiny_base $(ARGS)

clean:
	rm -rf .venv out
