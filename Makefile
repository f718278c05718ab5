# The two commands of the README are `make demo` and `make test`; both set up what is missing first.
SHELL := /bin/bash
VENV ?= .venv
PY := $(VENV)/bin/python
# A .venv keeps its device until another one is named; one of the verifier alone can run neither demo nor tests.
DEVICE ?= $(or $(filter cpu gpu,$(shell cat $(VENV)/firesteel.device 2>/dev/null)),cpu)
SEED ?= 0
export OMP_NUM_THREADS ?= 1
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: setup demo demo-seeds demo-controls test test-fast test-long chaos fuzz dashboard sbom lint lock clean

setup:
	@VENV=$(VENV) bash requirements/setup.sh $(DEVICE)

demo: setup
	@$(PY) -m recipes.demo --seed $(SEED)

demo-seeds: setup
	@$(PY) -m recipes.demo --seeds 0,1,2,3,4

demo-controls: setup
	@$(PY) -m recipes.demo --controls --seed $(SEED)

test: setup lint
	@$(PY) -m pytest tests -m "not long"

test-fast: setup
	@$(PY) -m pytest tests -m "not long and not ray and not engine and not processes"

test-long: setup
	@$(PY) -m benchmarks.long

# Forty kills over all roles of a live run, some twenty minutes on two cores; the result is benchmarks/results/chaos.json.
chaos: setup
	@$(PY) -m benchmarks.chaos --minutes 10 --seed $(SEED) --kills 40

# A minute of invented answers: no exception, no lost worker, no slow text.
fuzz: setup
	@$(PY) -m benchmarks.fuzz_verifier --seconds 60

lint: setup
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy && $(VENV)/bin/lint-imports

# The dashboard's JSON and the PrometheusRule, from the Python and the rules that they are made of.
dashboard: setup
	@$(PY) -W ignore -m deploy.monitoring.dashboard && $(PY) deploy/base/prometheusrule.py

# What each image is made of, as CycloneDX, into dist/; the tool has an environment of its own.
SBOM := .cache/sbom
sbom: setup
	@[ -x $(SBOM)/bin/cyclonedx-py ] || { $(PY) -m venv $(SBOM) && $(SBOM)/bin/pip install --quiet cyclonedx-bom==7.5.0; }
	@mkdir -p dist && for lock in gpu cpu verifier; do \
	    PYTHONWARNINGS=ignore $(SBOM)/bin/cyclonedx-py requirements requirements/$$lock.lock --pyproject pyproject.toml --mc-type application \
	        --output-reproducible --of JSON -o dist/firesteel-$$lock.cdx.json || exit 1; done

lock:
	@bash requirements/compile.sh

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
