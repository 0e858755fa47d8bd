PYTHON ?= python3
BIN := .venv/bin
PARITY := .venv-parity/bin/python
NEWEST := .venv-newest/bin/python
LOWEST := .venv-lowest/bin/python
PURELIB := -c "import sysconfig; print(sysconfig.get_path('purelib'))"

.PHONY: setup demo test lint bench parity newest lowest wheel
setup: .venv/.complete
.venv/.complete: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

demo: setup
	$(BIN)/python main.py compare --features random:8 --max-examples 6 --budget 14000 --max-tokens 150000

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
	$(PARITY) test.py tests/test_language_model_*.py -k lens
	$(PARITY) test.py tests/test_gelu_1l.py
.venv-parity/.complete: requirements-parity.txt .venv/.complete
	$(call beside,.venv-parity,$(PARITY),-r requirements-parity.txt)

# The newest TransformerLens there is, among our versions of all else.
newest: .venv/.complete
	$(call beside,.venv-newest,$(NEWEST),--upgrade transformer-lens)
	$(NEWEST) test.py tests/test_language_model_*.py -k lens
	$(NEWEST) test.py tests/test_gelu_1l.py

lowest: .venv-lowest/.complete
	$(LOWEST) test.py -n auto tests/test_language_model_*.py tests/test_sae_formats_*.py tests/test_corpus_*.py \
		tests/test_main_*.py tests/test_exports.py tests/test_artifacts.py tests/test_parts.py tests/test_manners.py
.venv-lowest/.complete: requirements-lowest.txt .venv/.complete
	$(call beside,.venv-lowest,$(LOWEST),-r requirements-lowest.txt)

# What is published, built, installed into an empty environment, and used from there.
wheel: setup
	rm -rf dist .venv-wheel
	$(BIN)/python -m build --quiet --installer pip
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/pip install --quiet --disable-pip-version-check -c requirements.lock dist/*.whl
	SAE_ANALYSIS=$(CURDIR)/.venv-wheel/bin/sae-analysis $(BIN)/python test.py tests/test_packaging.py

# Make an environment that has what .venv has, but for some packages, which come first: $(call beside,folder,python,packages)
define beside
$(BIN)/python -m venv --clear --without-pip $(1)
$(BIN)/pip --python $(2) install --quiet --disable-pip-version-check --no-deps $(3)
$(BIN)/python $(PURELIB) > "$$($(2) $(PURELIB))/what-both-share.pth"
touch $(1)/.complete
endef
