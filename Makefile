# Sekisho. `make help` lists every target with one line.
#
# Recipes start with `exec` and hand on $$PPID, the pid of make: GNU make passes SIGTERM on to what it runs but not SIGINT,
# so what it runs looks for itself whether make was interrupted.

ENGINE ?= vllm
UPSTREAM ?=
MODEL ?=
PORT ?=
OPS_PORT ?=
ADMIN_PORT ?=
DATA_DIR ?= .sekisho
TORCH_INDEX_URL ?=
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do command -v $$p && break; done)

LOCK = --quiet --generate-hashes --allow-unsafe --strip-extras --no-emit-index-url --no-emit-find-links \
  --no-emit-trusted-host --no-emit-options --no-header

INSTALL = exec $(or $(PYTHON),python3.11) install.py --parent $$PPID --data-dir '$(DATA_DIR)'
SERVING = --serving --torch-index-url '$(TORCH_INDEX_URL)'

.DEFAULT_GOAL := help
.PHONY: help up install install-serving install-dev check test lock bench bench-overhead bench-kill bench-settle bench-licence bench-limits simulate load soak

help: ## this list
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | sort | sed 's/:.*## /\t/' | expand -t 20

up: ## start everything and print a curl line (ENGINE=vllm|scripted, UPSTREAM=url, MODEL, PORT, OPS_PORT, ADMIN_PORT, DATA_DIR)
	@$(INSTALL) $(if $(UPSTREAM),,$(if $(filter vllm,$(ENGINE)),$(SERVING)))
	@exec .venv/bin/sekisho up --parent $$PPID --engine '$(ENGINE)' --data-dir '$(DATA_DIR)' \
	  $(if $(UPSTREAM),--upstream '$(UPSTREAM)') $(if $(MODEL),--model '$(MODEL)') \
	  $(if $(PORT),--port '$(PORT)') $(if $(OPS_PORT),--ops-port '$(OPS_PORT)') $(if $(ADMIN_PORT),--admin-port '$(ADMIN_PORT)')

install: ## the gateway's environment, .venv, from its hashed lock
	@$(INSTALL)

install-serving: ## .venv and the engine's environment, .venv-serving (TORCH_INDEX_URL: index of torch's CPU build)
	@$(INSTALL) $(SERVING)

install-dev:
	@$(INSTALL) --dev

check: install-dev ## lint, types, import contracts and unit tests
	@exec .venv/bin/python -m tests.parts lint unit

test: ## everything that CI runs: check, end to end, kills, real vLLM; prints minutes per part
	@$(INSTALL) --dev $(SERVING)
	@exec .venv/bin/python -m tests.parts

lock: install-dev ## write the hashed locks of .venv anew from pyproject.toml (serving/README.md says how for .venv-serving)
	@.venv/bin/pip-compile $(LOCK) --all-build-deps -o requirements.lock pyproject.toml
	@exec .venv/bin/pip-compile $(LOCK) --extra dev -c requirements.lock -o requirements-dev.lock pyproject.toml

bench: bench-overhead bench-kill bench-settle bench-licence bench-limits load ## every measurement, in bounded time; figures in reports/

bench-overhead: install-dev ## what the gateway adds: CPU, latency, 500 streams (BASE=revision to compare; needs wrk and nginx)
	@exec .venv/bin/python -m loadtests.overhead $(if $(BASE),--base '$(BASE)')

bench-kill: install-dev ## SIGKILL of gateway, worker, engine, PostgreSQL and Valkey at every step, then the books are checked
	@exec .venv/bin/python -m loadtests.kill

bench-settle: install-dev ## settlements per second into PostgreSQL by group commit
	@exec .venv/bin/python -m loadtests.settle_bench

bench-licence: install-dev ## licence decisions, agreement with an independent judge, revocation on three gateways
	@exec .venv/bin/python -m loadtests.licence

bench-limits: install-dev ## pairs of reserve and settle a second through the limiter; microseconds of Valkey per script
	@exec .venv/bin/python -m loadtests.limits_bench

simulate: install-dev ## the fair queue under several patterns of traffic, beside FIFO and strict priority; table and drawing in reports/
	@exec .venv/bin/python -m loadtests.fairsim

soak: install-dev ## what is too long for CI: 10^6 licence decisions compared with the independent judge, 10^4 kills
	@.venv/bin/python -m loadtests.licence --oracle-cases 1000000
	@exec .venv/bin/python -m loadtests.kill --kills 10000

load: install-dev ## Locust against the scripted engine, bounded
	@exec .venv/bin/python -m loadtests.load
