# Two commands, each on a fresh machine: `make demo` and `make test`. The environment lies in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := runs/demo
TEST_PROCESSES ?= 2
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: demo test bench lint clean

demo: $(VENV)/.installed
	$(BIN)/python train.py --dataset-set=demo

test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/python -m pytest --numprocesses=$(TEST_PROCESSES) --dist=worksteal

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks.input_pipeline --json
	$(BIN)/python -m benchmarks.preparation --json
	$(BIN)/python -m benchmarks.synthetic --json
	$(BIN)/python -m benchmarks.train_step --json
	$(BIN)/python -m benchmarks.exact_resume --json
	$(BIN)/python -m benchmarks.max_norm_stress --json
	$(BIN)/python -m benchmarks.autoencoder --json
	$(BIN)/python -m benchmarks.metrics --json

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .

# The stamps appear only when an installation is complete, and age when the dependencies change.
$(VENV)/.installed: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; set PYTHON=")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (about 2 GB, a minute or two) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
