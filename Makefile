PYTHON ?= python3
BIN := .venv/bin
PARITY := .venv-parity/bin/python
PURELIB := -c "import sysconfig; print(sysconfig.get_path('purelib'))"

.PHONY: setup demo test lint bench parity
setup: .venv/.complete
.venv/.complete: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

demo: setup
	$(BIN)/python main.py compare --features random:8 --max-examples 6 --budget 14000

test: setup
	$(BIN)/python test.py -n auto

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

bench: setup
	$(BIN)/python benchmarks/real.py

# Our readers against the libraries that wrote the files, and TransformerLens before version 4.
parity: .venv-parity/.complete
	$(PARITY) test.py tests/parity
	$(PARITY) test.py tests/test_language_model.py -k lens
	$(PARITY) test.py tests/test_gelu_1l.py
.venv-parity/.complete: requirements-parity.txt .venv/.complete
	$(BIN)/python -m venv --clear --without-pip .venv-parity
	$(BIN)/pip --python $(PARITY) install --quiet --disable-pip-version-check --no-deps -r requirements-parity.txt
	$(BIN)/python $(PURELIB) > "$$($(PARITY) $(PURELIB))/what-both-share.pth"
	touch $@
