# Two commands do everything on a fresh Debian 12 machine (root or sudo):
#   make demo    the main job on a fabric in a box, from packets to a notification
#   make test    the tests
# Both install what they need first, say what, and are quick the second time.

PYTHON ?= python3
BIN    := .venv/bin
SETUP  := .venv/.installed
# The one that is installed, and those that `make prometheus-versions` has fetched.
PROMTOOLS = promtool $(wildcard .cache/prometheus/*/promtool)

# The tests start our commands a thousand times: each would compile its modules again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-rdma test-slow uml-kernel dashboards lint format schemas docs rules-check scenarios bench-lab bench-alerts bench-churn bench-plan bench-inference bench-diagnosis bench-probes bench-rdma bench-host-counters bench-render bench-rtt-while-rendering bench-switch bench-rules bench-dashboards bench-service pictures prometheus-versions victoria-metrics lock clean

help: ## this list
	@grep -hE '^[a-z -]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 16

setup: $(SETUP) ## install the Debian packages and the virtual environment

$(SETUP): requirements.lock pyproject.toml scripts/setup
	@PYTHON="$(PYTHON)" scripts/setup

demo: $(SETUP) ## the main job: fabric, traffic, skeleton, rules, faults, notifications (KEEP=1 leaves it up; WORKLOAD=torch trains)
	@scripts/setup --check
	@$(if $(filter torch,$(WORKLOAD)),scripts/setup --torch)
	@$(BIN)/python -m lab demo $(if $(KEEP),--keep) $(if $(SEED),--seed $(SEED)) $(if $(WORKLOAD),--workload $(WORKLOAD))

test: $(SETUP) ## all tests but the slow ones; needs what `make demo` needs
	@scripts/setup --check
	@$(if $(ARGS),,$(BIN)/python -m lab.guest prepare)
	$(if $(ARGS),$(BIN)/python -m pytest $(ARGS),scripts/test)

test-rdma: $(SETUP) ## RDMA tests alone, in a guest with soft-RoCE (docs/rdma-lab.md)
	@scripts/setup --check
	@$(BIN)/python -m lab.guest prepare
	$(BIN)/python -m pytest tests/rdma $(ARGS)

uml-kernel: ## build and cache the guest's kernel: 3 to 6 minutes, once
	@scripts/uml-kernel

test-slow: $(SETUP) ## the tests that `make test` leaves out: minutes, and PyTorch
	@scripts/setup --check
	@scripts/setup --torch
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: $(SETUP) ## ruff, mypy --strict, import-linter, dashboards, promtool, skeleton-service lint, amtool
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m grafana --check
	$(MAKE) --no-print-directory rules-check

dashboards: $(SETUP) ## compile Grafana's dashboards from grafana/boards into grafana/dashboards
	$(BIN)/python -m grafana

pictures: $(SETUP) ## draw pictures of the dashboards from incidents of the lab (needs npm and chromium)
	$(BIN)/python -m grafana.pictures

rules-check: $(SETUP) ## each promtool at hand, the linter and amtool on what is shipped and on rules generated here and now
	@PYTHON=$(BIN)/python PROMTOOLS="$(PROMTOOLS)" scripts/check-rules

bench-lab: $(SETUP) ## the lab up and down 100 times, 16 hosts: seconds, and nothing left over
	$(BIN)/python -m benchmarks.lab_cycles $(ARGS)

scenarios: $(SETUP) ## play every scenario and record it (SEED=, OUTPUT=): half an hour
	@scripts/setup --check
	@$(BIN)/python -m lab run all $(if $(SEED),--seed $(SEED)) $(if $(OUTPUT),--output $(OUTPUT))

bench-churn: $(SETUP) ## an hour of 2,000 container creations a minute, in minutes: are series and memory bounded?
	$(BIN)/python -m benchmarks.churn $(ARGS)

bench-plan: $(SETUP) ## a preload list at 512, 2,048 and 32,768 RNICs: seconds, memory, and that both stay linear
	$(BIN)/python -m benchmarks.planning

bench-probes: $(SETUP) ## the prober against fping, blackbox_exporter and an echo in C: round trips, speed, cost, loss (ARGS=--quick)
	@scripts/setup --check
	@scripts/setup --rivals
	$(BIN)/python -m benchmarks.probes $(ARGS)

bench-rdma: $(SETUP) ## RDMA probes in a guest against a bare pyverbs loop and ib_send_lat; loss, memory (ARGS=--quick)
	@scripts/setup --check
	@scripts/setup --rivals
	@scripts/uml-kernel
	$(BIN)/python -m lab.guest run --timeout 3600 $(CURDIR)/$(BIN)/python -m benchmarks.rdma $(ARGS)

bench-host-counters: $(SETUP) ## processor time of a scrape of 8 RNICs' counters, beside prometheus-node-exporter
	@scripts/setup --rivals
	$(BIN)/python -m benchmarks.host_counters $(ARGS)

bench-inference: $(SETUP) ## what inference finds of simulated jobs, how sure it is, and what it costs up to 32,768 RNICs (ARGS=--quick)
	$(BIN)/python -m benchmarks.inference $(ARGS)

bench-spread: $(SETUP) ## inference of 200 jobs on one Dask worker and on two: seconds, and the same skeletons (ARGS="--jobs 20")
	@$(BIN)/python -m benchmarks.spread $(ARGS)

bench-diagnosis: $(SETUP) ## what diagnose finds and names of simulated faults, beside 007 and deTector, and what it costs (ARGS=--quick)
	$(BIN)/python -m benchmarks.diagnosis $(ARGS)

bench-render: $(SETUP) ## processor seconds of /metrics and OTLP for 100,000 series, against the common libraries
	$(BIN)/python -m benchmarks.render $(ARGS)

bench-rtt-while-rendering: $(SETUP) ## round trips of a real prober while 100,000 series are rendered beside it
	$(BIN)/python -m benchmarks.rtt_while_rendering $(ARGS)

bench-alerts: $(SETUP) ## the rule pack beside the lab: a healthy hour, the five incidents, seconds from a lost probe to a notification (ARGS=--quick)
	@scripts/setup --check
	$(BIN)/python -m benchmarks.alerts $(ARGS)

bench-switch: $(SETUP) ## the switch poller: a row beside snmp_exporter's, 500 switches on a core, a million series (ARGS=--quick)
	@scripts/setup --rivals
	$(BIN)/python -m benchmarks.switch $(ARGS)

bench-rules: $(SETUP) ## rule evaluation at 1,000, 10,000 and 50,000 paths in real Prometheus: seconds, memory, sizes (ARGS=--sections)
	@scripts/setup --check
	$(BIN)/python -m benchmarks.rules $(ARGS)

bench-dashboards: $(SETUP) ## every query of Grafana's pages, of 512 RNICs in real Prometheus: seconds, series (ARGS="--minutes 5")
	@scripts/setup --check
	$(BIN)/python -m benchmarks.dashboards $(ARGS)

bench-service: $(SETUP) ## the live service: 5,000 exporters over TLS, a herd, 2,000 containers a minute (ARGS="--agents 500 --minutes 1")
	$(BIN)/python -m benchmarks.service $(ARGS)

prometheus-versions: ## fetch later versions of Prometheus into .cache, for rules-check, tests of rules and bench-rules
	scripts/fetch-prometheus

victoria-metrics: ## fetch VictoriaMetrics into .cache, for the tests of OTLP against it
	scripts/fetch-victoria-metrics

format: $(SETUP) ## format and mend what ruff can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

schemas docs: $(SETUP) ## regenerate docs/contracts/*.schema.json and docs/metrics.md
	$(BIN)/python -m exporter.contracts.schemas docs/contracts
	$(BIN)/fabric-exporter metrics > docs/metrics.md

lock: $(SETUP) ## resolve requirements.lock afresh from pyproject.toml
	$(BIN)/python -m pip install -q pip-tools
	$(BIN)/pip-compile -q --extra dev --extra serve --extra kubernetes --extra dask --allow-unsafe --strip-extras --generate-hashes --no-header \
	  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host -o requirements.lock pyproject.toml

clean: ## remove what the build made
	rm -rf .venv .cache dist build .pytest_cache .mypy_cache .ruff_cache
