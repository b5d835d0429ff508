# make demo      from nothing to a caption: create the environment, export the example checkpoint, caption two generated
#                pairs; BEFORE=a.png AFTER=b.png also captions a pair of yours
# make test      the tests that take a few minutes
# make test-slow the other tests, including those of the C++ engine (docs/cpp.md)
# make test-gpu  tests, then latency and throughput, on a machine with an NVIDIA GPU. Nothing is installed or downloaded:
#                PYTHON=python3 names the Python to use, and steps whose packages are missing are skipped.
#                GPU_MODEL=folder names an exported model folder; GPU_OPTIONS="--steps tests --device cuda:1" are passed
#                to benchmarks/gpu.py
# make fuzz      fuzz the readers of images, manifests, tokenizers, tables, conditions and checkpoints, SECONDS=60 for each,
#                two at the same time; the exit code is 1 if one raises another exception than those of rsicrc
# make lint      ruff, mypy, clang-format, and the tests of the import graph and of the prose
# make wheel     build the wheel
# make example   train examples/tiny.pt again (about 90 minutes)

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
MODEL := demo/model
SECONDS := 60

.PHONY: demo test test-slow test-gpu fuzz lint wheel example install clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "rsicrc needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 …" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

$(MODEL): $(VENV)/.installed examples/tiny.pt
	mkdir -p demo
	$(BIN)/rsicrc export examples/tiny.pt --output $(MODEL) --force
	touch $(MODEL)

demo: $(MODEL)
	@echo; echo "A generated pair with a change:"
	@$(BIN)/rsicrc caption examples/changed_before.png examples/changed_after.png --model $(MODEL) --heatmap demo/changed.png
	@echo; echo "A generated pair without one:"
	@$(BIN)/rsicrc caption examples/unchanged_before.png examples/unchanged_after.png --model $(MODEL) --heatmap demo/unchanged.png
	@if [ -n "$(BEFORE)$(AFTER)" ]; then \
		echo; echo "Your pair, $(BEFORE) and $(AFTER):"; \
		$(BIN)/rsicrc caption "$(BEFORE)" "$(AFTER)" --model $(MODEL) --heatmap demo/yours.png; \
	fi

test: install
	$(BIN)/pytest -m "not slow and not gpu"

test-slow: install
	$(BIN)/pytest -m "slow and not gpu"

test-gpu:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "rsicrc needs Python 3.11 or newer: make test-gpu PYTHON=/path/to/python3.11 …" >&2; exit 2; }
	@$(PYTHON) benchmarks/gpu.py $(if $(GPU_MODEL),--model $(GPU_MODEL)) $(GPU_OPTIONS)

fuzz: install
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q --noconftest -p no:cacheprovider tests/test_architecture.py tests/test_prose.py
	find runtime/cpp tests/cpp -name "*.cpp" -o -name "*.c" -o -name "*.h" -o -name "*.hpp" | xargs $(BIN)/clang-format --dry-run --Werror

wheel: install
	rm -rf dist
	$(BIN)/python -m build --wheel --outdir dist

example: install
	examples/train.sh

clean:
	rm -rf $(VENV) demo dist model runs
