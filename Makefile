# Secateur's verbs. `make help` lists them.
SHELL := bash
PYTHON ?= python3
LOCK_HASH := $(shell sha256sum requirements-dev.lock | cut -c1-16)
VENV ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/secateur/venv-$(LOCK_HASH)
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP_COMPILE := CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --upgrade --generate-hashes --strip-extras \
  --allow-unsafe --no-emit-index-url --no-emit-find-links
export PYTHONPATH := $(CURDIR)

.DEFAULT_GOAL := help
.PHONY: help install demo test hosts faults fuzz images lint audit sbom lock clean

help: ## list the verbs
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(READY) ## make the virtual environment from the lock file

# The folder is named after the lock file: a change of it makes another one.
$(READY): | requirements-dev.lock
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements-dev.lock
	touch $@

demo: $(READY) ## run the main job over HTTP; DATA= ARCH= WEIGHTS= CLASSES= BUDGET= take yours
	$(BIN)/python -m bench demo $(if $(DATA),--data "$(DATA)") $(if $(ARCH),--arch "$(ARCH)") \
	  $(if $(WEIGHTS),--weights "$(WEIGHTS)") $(if $(CLASSES),--classes "$(CLASSES)") $(if $(BUDGET),--budget "$(BUDGET)") $(ARGS)

# One thread a process: threads of several would wait for each other. One process more than cores, as many tests wait.
test: $(READY) lint ## lint, type-check and run every test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $$(($$(getconf _NPROCESSORS_ONLN) + 1)) --dist loadfile --no-loadscope-reorder --max-worker-restart 0 $(ARGS)

hosts: $(READY) ## two hosts and a network that fails between them, in namespaces; as root, 6 minutes
	$(BIN)/python -m tests.hosts $(ARGS)

faults: $(READY) ## 200 runs of a service with a random fault each; ARGS="--shipped", "--faults NAME.."
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults $(ARGS)

images: $(READY) ## build the image and run docker-compose.yml without a docker engine; as root on Debian
	$(BIN)/python deploy/verify_images.py $(ARGS)

fuzz: $(READY) ## 5,000 requests made up from the API's description, in chains; ARGS="--cases N --database sqlite --seed N"
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz $(ARGS)

lint: $(READY) ## ruff, mypy --strict, import directions, Dockerfile and compose file
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

audit: $(READY) ## look the locked packages up among known vulnerabilities
	$(BIN)/python deploy/audit.py $(ARGS)

sbom: $(READY) ## write sbom.json: every locked package with its hashes, CycloneDX
	$(BIN)/cyclonedx-py requirements requirements.lock --pyproject pyproject.toml --output-reproducible --validate --output-file sbom.json

lock: $(READY) ## pin every dependency again, with hashes
	$(PIP_COMPILE) --extra server --extra worker --extra tracing --output-file requirements.lock pyproject.toml
	$(PIP_COMPILE) --extra server --extra worker --extra dev --output-file requirements-dev.lock pyproject.toml

clean: ## remove what runs left here (the virtual environment stays)
	rm -rf demo-out sbom.json build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
