# The two commands of the README are `make demo` and `make test`. Both need Python 3.11+ and nothing else:
# the first call makes .venv from constraints.txt, later calls find it there.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PEERS := $(VENV)/.ready-peers

.PHONY: demo test lint types unit test-triton test-gpu test-slow test-peers test-keras test-all docs bench clean

demo: $(READY)
	$(BIN)/stepwell compare --out stepwell-demo

test: lint types unit test-triton

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

unit: $(READY)
	$(BIN)/python -m pytest -q -n auto -m "not peers and not slow and not triton and not gpu"

# What is fused runs as Triton here, under Triton's interpreter, which is asked for before Triton is imported.
test-triton: $(READY)
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -q -n auto -k "(fused or triton or rows or sixteen) and not (several_chunks or goes_on)" \
		tests/algebra/test_triton_products.py tests/engines/test_triton.py tests/engines/test_triton_graphs.py tests/engines/test_triton_matrices.py tests/engines/test_rows_and_columns.py tests/engines/test_odd_rules.py tests/conformance/test_agreement.py \
		tests/conformance/test_storage.py tests/conformance/test_observed_steps.py tests/optimizer/test_telemetry.py

# A GPU's machine often has a torch of its own and no network: `make test-gpu WITH=python3` takes what is there.
test-gpu: $(if $(WITH),,$(READY))
	PYTHONPATH=$(CURDIR)/src$(if $(PYTHONPATH),:$(PYTHONPATH)) $(or $(WITH),$(BIN)/python) -m pytest -q -n auto --maxprocesses 8 -m gpu

test-slow: $(READY)
	$(BIN)/python -m pytest -q -m "slow and not peers and not gpu"

test-peers: $(PEERS)
	$(BIN)/python -m pytest -q -m "peers and not keras"
	$(BIN)/python -m pytest -q tests/algebra tests/schedules  # again, now that JAX is there
	$(MAKE) test-keras

# Keras takes its back end from the environment, once a process.
test-keras: $(PEERS)
	for backend in tensorflow jax torch; do \
		KERAS_BACKEND=$$backend TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/python -m pytest -q -m keras \
			tests/integrations/test_keras.py tests/test_docs.py tests/test_examples.py || exit 1; \
	done

test-all: test test-slow test-peers

docs: $(READY)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[docs]"
	DISABLE_MKDOCS_2_WARNING=true NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict

bench: $(PEERS)
	$(BIN)/python -m bench step
	$(BIN)/python -m bench memory
	$(BIN)/python -m bench start
	$(BIN)/python -m bench schedule
	$(BIN)/python -m bench checkpoint
	$(BIN)/python -m bench ranks

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("stepwell needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; name another with make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt "torch==2.13.0"
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

$(PEERS): $(READY)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev,peers]"
	@# Without what it asks for: the rest is there already, and torchvision loads beside a torch with CUDA alone.
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --no-deps timm
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build site
