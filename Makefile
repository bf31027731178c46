# Each target sets itself up: Python 3.11 or newer, pip and make are all it needs.
PYTHON ?= python3
VENV ?= .venv
PY = $(VENV)/bin/python
# Two processes, which share what they compile.
PYTEST = $(PY) -m pytest -n 2 --dist worksteal

# Huge pages for the arrays: a CPU step takes a third less time (docs/results.md).
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: train test test-all deviceless lint types wheel faults

train: $(VENV)/installed
	$(PY) main.py --config=configs/alexnet.py --workdir=runs/first

# Every property once, at small sizes: 5 minutes on two cores; the slow ones are 5 more.
test: $(VENV)/installed-test
	$(PYTEST) -m "not slow" $(TESTS)

test-all: $(VENV)/installed-test
	$(PYTEST) $(TESTS)

# Small steps compiled for TPUs, which need none: two minutes on two cores. libtpu stands beside the environment: inside
# of it JAX would ask it for TPUs in every process, and print that there are none.
deviceless: $(VENV)/installed-test $(VENV)/libtpu/installed
	PYTHONPATH=$(VENV)/libtpu $(PYTEST) tests/tools/test_deviceless.py

lint: $(VENV)/installed-dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: $(VENV)/installed-dev
	$(PY) -m mypy

# What a user without this checkout has: a wheel in an empty environment.
wheel: $(VENV)/installed-dev
	$(PY) tests/wheel.py

# A hundred of them, drawn and counted: about 20 minutes on two cores.
faults: $(VENV)/installed-test
	$(PY) tests/faults.py $(FAULTS)

$(PY):
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml requirements.txt | $(PY)
	$(PY) -m pip install --quiet -c requirements.txt -e ".[figures]"
	touch $@

$(VENV)/libtpu/installed: requirements.txt | $(PY)
	$(PY) -m pip install --quiet --upgrade --no-deps --target $(VENV)/libtpu -c requirements.txt libtpu
	touch $@

$(VENV)/installed-%: pyproject.toml requirements.txt | $(PY)
	$(PY) -m pip install --quiet -c requirements.txt -e ".[$*]"
	touch $@
