# demo: segment the example photos. test: pass the tests. check: everything that must be green.
# One .venv serves all three.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml $(shell find sanseg -type f -not -path '*/__pycache__/*')
OLDEST_OPEN_CLIP := 2.24.0
# A worker for each core; the networks of the tests are too small to gain from threads. What is skipped says why.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -rs
WORDS := cat, person, helmet, coffee cup, spoon, table

.PHONY: demo test check clean

demo: $(VENV)/installed
	$(BIN)/sanseg segment examples -c "$(WORDS)" -o demo-output --overwrite

test: $(VENV)/installed-test
	$(PYTEST)

check: $(VENV)/installed-test demo
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict sanseg
	$(PYTEST)
	$(BIN)/python -m tests.demo_outputs demo-output
	rm -rf build && $(BIN)/pip wheel --quiet --no-deps --wheel-dir build/wheel .
	$(BIN)/python -m tests.wheel_contents build/wheel
	$(BIN)/pip install --quiet --no-deps --target $(VENV)/oldest-open-clip --upgrade open_clip_torch==$(OLDEST_OPEN_CLIP)
	PYTHONPATH=$(VENV)/oldest-open-clip $(BIN)/python -m pytest tests/model/test_open_clip.py

clean:
	rm -rf $(VENV) build demo-output *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(BIN)/python $(SOURCES)
	$(BIN)/pip install --quiet .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/pip install --quiet ".[test]"
	touch $@
