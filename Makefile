# rigserve: `make serve` and `make test` are all a fresh machine needs (Debian, Python 3.11+, make).
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Without cached bytecode every process of the tests would compile its imports again.
unexport PYTHONDONTWRITEBYTECODE
ENGINE ?=
PORT ?= 8000
HAS_NODE := { command -v npm && node -e 'process.exit(process.versions.node.split(".")[0] < 20 ? 1 : 0)'; }

.PHONY: help install serve up down engines test test-fast dashboard browser screenshots clients clients-env docs reliability fuzz soak check faults footprint gpu accuracy bench bench-routing bench-swap load load-env clean
help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(VENV)/.installed ## the light environment: CLI, gateway, sizing, tests' needs

$(VENV)/.installed: requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "rigserve needs Python 3.11 or newer; this is $$($(PYTHON) --version). Set PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "Could not make a virtual environment: on Debian, apt install python3-venv"; exit 1; }
	@echo "Installing the light environment into $(VENV) ..."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps -r requirements/dev.txt
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

serve: install ## set up, plan and run the stack (ENGINE=llamacpp for the light one, PORT=8000)
	@exec $(BIN)/rigserve serve --port $(PORT) $(if $(ENGINE),--engine $(ENGINE))

up: install ## the same in containers: plan, compose file, images that are missing, docker compose up (ENGINE=, PORT= as above)
	@$(BIN)/rigserve compose --port $(PORT) $(if $(ENGINE),--engine $(ENGINE))
	@exec $(BIN)/rigserve up --build

down: install ## stop what `make up` started; weights stay
	@exec $(BIN)/rigserve down

engines: install ## install every engine and fetch the weights of the built-in models
	@$(BIN)/rigserve fetch
	@$(BIN)/rigserve fetch --engine llamacpp

LIGHT := not engine and not gpu and not compose and not reliability and not browser and not clients
test: install engines load-env browser clients-env ## everything, with the real engines (installs them when missing) and, where there are such, Chromium and a docker engine
	@$(BIN)/pytest -q -n 4 -m "$(LIGHT)" tests
	@$(BIN)/pytest -q -n 2 -m browser tests/dashboard
	@$(BIN)/pytest -q -m clients tests/clients
	@$(BIN)/pytest -m "engine and not gpu and not compose" tests
	@$(BIN)/pytest -m "compose and not gpu" -rs tests

test-fast: install ## unit tests on a fake engine, under a minute
	@$(BIN)/pytest -q -n 4 -m "$(LIGHT) and not slow" tests

dashboard: dashboard/node_modules/.installed ## check and build the dashboard of dashboard/ into services/gateway/dashboard (needs Node 20 or newer)
	@cd dashboard && npm run -s check && npm run -s build

dashboard/node_modules/.installed: dashboard/package.json dashboard/package-lock.json
	@command -v npm >/dev/null || { echo "No npm here; the built dashboard is in the repository, so only those who change it need Node."; exit 1; }
	@cd dashboard && npm ci --no-audit --no-fund --loglevel=error
	@touch $@

browser: $(VENV)/.browser ## what the tests in a browser need beside Debian's chromium: Playwright, axe-core and, where npm is, the dashboard's own tools
	@! $(HAS_NODE) >/dev/null 2>&1 || $(MAKE) -s dashboard/node_modules/.installed

$(VENV)/.browser: requirements/browser.txt $(VENV)/.installed
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps -r requirements/browser.txt
	@touch $@

screenshots: install browser ## the browser tests, and the pictures of docs/dashboard.md taken anew
	@RIGSERVE_WRITE_DOCS=1 RIGSERVE_REQUIRE_BROWSER=1 $(BIN)/pytest -q -m browser tests/dashboard

CLIENTS := .venvs/clients
clients: clients-env ## openai-python, openai-node, LangChain, llm and curl against a gateway over fake engines
	@$(BIN)/pytest -q -m clients tests/clients

clients-env: install $(CLIENTS)/.installed
	@! $(HAS_NODE) >/dev/null 2>&1 || $(MAKE) -s tests/clients/node_modules/.installed

$(CLIENTS)/.installed: requirements/clients.txt
	@$(PYTHON) -m venv $(CLIENTS) || { echo "Could not make a virtual environment: on Debian, apt install python3-venv"; exit 1; }
	@echo "Installing the clients' test environment into $(CLIENTS) ..."
	@$(CLIENTS)/bin/python -m pip install -qq --disable-pip-version-check --no-deps -r requirements/clients.txt
	@touch $@

tests/clients/node_modules/.installed: tests/clients/package.json tests/clients/package-lock.json
	@cd tests/clients && npm ci --no-audit --no-fund --loglevel=error
	@touch $@

docs: install ## what is made of the docs: the card table of README.md, docs/api.md
	@$(BIN)/python -m tests.docs

reliability: install ## the fault scenarios on fake engines, write docs/reliability.md
	@$(BIN)/python -m tests.reliability

N ?= 100000
fuzz: install ## N=100000 random requests, bytes and fields: no 500, no traceback, no loop held up
	@FUZZ_INPUTS=$(N) $(BIN)/pytest -q -n 2 tests/reliability/test_fuzz.py tests/reliability/test_fuzz_openapi.py

MINUTES ?= 30
soak: install ## MINUTES=30 of mixed traffic and faults: memory, descriptors and threads flat
	@$(BIN)/python -m tests.reliability.soak --minutes $(MINUTES)

check: install ## ruff, mypy --strict and the import borders
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/pytest -q tests/test_borders.py

faults: install ## break real containers while clients ask, write docs/faults.md
	@RIGSERVE_WRITE_DOCS=1 $(BIN)/pytest -q -m compose tests/compose/test_faults.py tests/compose/test_faults_daemon.py

footprint: install ## measure the memory of every process of a stack, write docs/footprint.md
	@$(BIN)/python -m tests.e2e.footprint

gpu: install ## on a machine with an NVIDIA card: predicted beside measured memory on small cards, emulated; write docs/gpu-validation.md
	@$(BIN)/python -m tests.gpu

# Measured runs, one JSON object a line; not part of the repository.
ACCURACY_RUNS ?= ../shared/facts/fit_truth.jsonl
accuracy: install ## score the sizing against measured runs (ACCURACY_RUNS=FILE.jsonl), beside two naive estimators
	@test -r $(ACCURACY_RUNS) || { echo "No measured runs at $(ACCURACY_RUNS); give a file with ACCURACY_RUNS=FILE.jsonl"; exit 1; }
	@$(BIN)/python -m tests.accuracy.score $(ACCURACY_RUNS) --out docs/accuracy.md

bench: install ## the gateway beside nginx, vllm-router, sglang-router, smg and litellm, in one run, write docs/performance.md
	@$(BIN)/python -m tests.bench --out docs/performance.md

bench-routing: install ## who gets a request: our queue beside other policies on simulated cards, write docs/routing.md
	@$(BIN)/python -m tests.bench.routing

bench-swap: install ## which models stay in memory: our decision beside LRU, LFU and GreedyDual on simulated cards, write docs/swapping.md
	@$(BIN)/python -m tests.bench.swap

# Locust has an environment of its own; the light one does not know it.
LOADTEST := .venvs/loadtest
load-env: $(LOADTEST)/.installed

$(LOADTEST)/.installed: requirements/loadtest.txt
	@$(PYTHON) -m venv $(LOADTEST) || { echo "Could not make a virtual environment: on Debian, apt install python3-venv"; exit 1; }
	@echo "Installing the load test into $(LOADTEST) ..."
	@$(LOADTEST)/bin/python -m pip install -qq --disable-pip-version-check --no-deps -r requirements/loadtest.txt
	@touch $@

URL ?= http://127.0.0.1:$(PORT)
MODEL ?=
DURATION ?= 60
OUT ?= run/load
load: load-env ## load any OpenAI-compatible server (URL=, MODEL=, DURATION= seconds, OUT=folder), write report.html and result.json
	@$(LOADTEST)/bin/python -m loadtest run --url '$(URL)' $(if $(MODEL),--model '$(MODEL)') --duration '$(DURATION)' --out '$(OUT)' $(LOAD_ARGS)

clean: ## remove environments and caches of this checkout (not the weights cache)
	rm -rf $(VENV) .venvs .mypy_cache .ruff_cache run
