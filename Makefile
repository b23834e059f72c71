PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev

.PHONY: course test quick lint drills compat bench gpu-check install clean

course: install
	@$(BIN)/python -m lmlab run all; status=$$?; $(BIN)/python -m lmlab report && exit $$status

# the notebooks last, two at a time; before them everything else, a file of tests on each of two cores
test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not course and not drill and not compat"
	$(BIN)/python -m pytest -m course

# the unmarked ones alone: what a change breaks is mostly seen here
quick: install $(DEV_STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not course and not drill and not compat and not slow and not browser and not gpu"

lint: install $(DEV_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

# kills, full disks, fuzz: what takes too long for every day
drills: install $(DEV_STAMP)
	$(BIN)/python -m pytest -m drill

# other versions of the libraries, in environments of their own under .compat; make compat ENVIRONMENTS=colab for one
compat:
	$(PYTHON) tests/compat.py $(ENVIRONMENTS)

# one alone: .venv/bin/python benchmarks training
bench: install $(DEV_STAMP)
	$(BIN)/python benchmarks

# installs nothing: a rented machine has its own torch. make gpu-check ARGS="--wheels wheels --data FOLDER"
gpu-check:
	@$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) benchmarks/gpu_check.py $(ARGS)

install: $(STAMP)

$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "lmlab needs Python 3.11 or newer, got %d.%d; name one: make PYTHON=python3.12" % sys.version_info[:2])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q torch==2.13.0
	$(BIN)/python -m pip install --disable-pip-version-check -q -r requirements.txt
	$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps -e .
	touch $@

# without dependencies: requirements.txt has pinned what they share
$(DEV_STAMP): $(STAMP) requirements-dev.txt
	$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps -r requirements-dev.txt
	touch $@

clean:
	rm -rf runs site
