# Everything runs from .venv, which holds the versions of requirements.lock.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test check lock clean

# The whole line on real pictures: see demo/report.html when it ends.
demo: $(READY)
	$(BIN)/juzhou build recipes/demo.yaml
	@echo "Look at demo/report.html; ask with: $(BIN)/juzhou sql demo/corpus \"FROM corpus LIMIT 5\""

# Two files at a time; most of a test's time is spent waiting for processes that it started.
test: $(READY)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "Python 3.11 to 3.13 is wanted: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-deps -r requirements.lock
	$(BIN)/pip install --quiet --no-deps --editable .
	touch $(READY)

# Resolve pyproject.toml anew. Each pin is what a build was seen to pass with; commit the file after `make test`.
lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet torch==2.14.1 torchvision==0.29.1
	.venv-lock/bin/pip install --quiet -e '.[lite,demo,clip,dev]'
	.venv-lock/bin/pip freeze --exclude-editable --exclude opencv-python > requirements.lock
	rm -rf .venv-lock

clean:
	rm -rf demo .pytest_cache .ruff_cache .mypy_cache
