# Every step of this project, for people and for CI alike. `make` alone lists them.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

# The release profile everywhere: what ships is what is tested, and each dependency is compiled once.
target := $(or $(CARGO_TARGET_DIR),target)
bin := $(target)/release
# Always the whole workspace: another selection of packages means other features, and compiles the dependencies again.
cargo_test := cargo test --release --workspace

# Tests that start servers live in tests/tests: those named e2e… need a cluster, the others Kafka and PostgreSQL.
unit_tests := $(basename $(notdir $(wildcard crates/*/tests/*.rs)))
server_tests := $(basename $(notdir $(wildcard tests/tests/*.rs))) $(patsubst tests/tests/%/main.rs,%,$(wildcard tests/tests/*/main.rs))
# What many pipelines cost is a measurement, not a test: see bench-controller.
e2e_tests := $(filter-out e2e_scale,$(filter e2e%,$(server_tests)))

integration_tests := $(filter-out e2e%,$(server_tests))

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##@ First steps

.PHONY: demo
demo: ## Build all, start Kafka, PostgreSQL and Kubernetes, and move 200,000 events through the operator
	tests/prepare.sh programs
	$(bin)/demo

.PHONY: clean
clean: ## Stop the demo's servers and remove everything they hold (build results and the cache stay)
	[ ! -x $(bin)/demo ] || $(bin)/demo clean

.PHONY: clean-all
clean-all: clean ## Also remove the build results and the cache of prepared programs
	cargo clean
	rm -rf "$${XDG_CACHE_HOME:-$$HOME/.cache}/analytics-pipeline"

##@ Building

.PHONY: setup
setup: ## Prepare what the test bed runs: Debian packages, Kafka, Kubernetes (cached by version)
	tests/setup/setup.sh

.PHONY: build
build: ## Build the consumer, the controller and the tools
	cargo build --release --workspace --bins

.PHONY: image
image: ## Build the container image as a docker archive in the cache, from the one Dockerfile
	tests/prepare.sh programs
	$(bin)/testbed image

.PHONY: crds
crds: build ## Generate crds/ from the Rust types, and the copies of it
	$(bin)/analytics-controller crd >crds/analyticspipelines.yaml
	$(MAKE) --no-print-directory chart

.PHONY: chart
chart: ## Bring the chart's copies and manifests/install up to date with crds/, grafana/ and the chart itself
	tests/setup/setup.sh helm
	charts/generate.sh

.PHONY: settings
settings: build ## Generate docs/reference/settings.md from the consumer's own --help
	tests/settings-reference.sh $(bin)/analytics-consumer

.PHONY: metrics
metrics: build ## Generate docs/metrics.md from what both binaries say
	tests/metrics-reference.sh $(bin)

##@ Checking

.PHONY: test
test: format-check ## Everything: formatting, lints, unit tests, integration, end to end (needs root)
	tests/prepare.sh tests
	$(MAKE) --no-print-directory deny test-unit test-integration test-e2e

.PHONY: test-unit
test-unit: ## The quick ones: no server is started
	$(cargo_test) --lib --bins --examples $(addprefix --test ,$(unit_tests))

.PHONY: test-integration
test-integration: build ## Consumer and controller against a real Kafka and PostgreSQL
	$(cargo_test) $(addprefix --test ,$(integration_tests))

.PHONY: test-e2e
test-e2e: build ## The operator on a real Kubernetes (needs root)
	$(cargo_test) $(or $(addprefix --test ,$(e2e_tests)),$(error there are no end-to-end tests in tests/tests))

.PHONY: bench
bench: ## Speed, memory, latency and growth of the consumer beside its floor and its peers (BENCH_ARGUMENTS='--only latency')
	tests/prepare.sh bench
	$(bin)/bench $(BENCH_ARGUMENTS)

.PHONY: chaos
chaos: build ## Faults at random against a running load, for ten minutes (CHAOS_SECONDS, CHAOS_SEED, CHAOS_RATE, CHAOS_FAULTS)
	CHAOS_SECONDS=$(or $(CHAOS_SECONDS),600) $(cargo_test) --test chaos -- --nocapture

.PHONY: bench-controller
bench-controller: build ## What many idle pipelines cost the controller (PIPELINES=1000)
	$(cargo_test) --test e2e_scale -- --nocapture

.PHONY: soak
soak: build ## A constant load for 20 minutes (SOAK_SECONDS=1200) on a real Kubernetes: nothing may change (needs root)
	$(cargo_test) --test e2e_scaling -- --ignored --exact --nocapture soak

.PHONY: simulate
simulate: ## Scale pipelines in simulation: the autoscaler, KEDA, Flink and others; pictures go to target/simulate
	cargo run --release -p autoscaler --example simulate -- --out $(target)/simulate

.PHONY: bench-dashboards
bench-dashboards: build ## How fast the panels are on rollups of 100 million events beside 10 million rows
	$(cargo_test) --test observability -- --ignored --nocapture --test-threads=1

.PHONY: pictures
pictures: build ## Draw docs/dashboards.md and its pictures from real data (needs root)
	command -v gnuplot >/dev/null || apt-get install -y -q gnuplot-nox
	tests/setup/setup.sh prometheus-operator prometheus
	$(cargo_test) --test e2e_monitoring -- --ignored --nocapture pictures_of_the_dashboards

.PHONY: check-runbooks
check-runbooks: build ## Cause each failure that an alert is about, and try the first commands of its runbook (SCENARIO=… for some)
	$(cargo_test) --test e2e -- --ignored --nocapture the_first_commands_of_each_runbook

.PHONY: lint
lint: ## Clippy with warnings as errors, and shellcheck if it is installed
	cargo clippy --release --workspace --all-targets -- -D warnings
	if command -v shellcheck >/dev/null; then shellcheck --external-sources .ci/run tests/*.sh tests/setup/setup.sh; else echo "shellcheck is not installed: shell scripts are not checked"; fi

.PHONY: fmt
fmt: ## Format all Rust code
	cargo fmt --all

.PHONY: format-check
format-check:
	cargo fmt --all --check

.PHONY: deny
deny: ## Check licences, sources and advisories of all dependencies (part of `make test`)
	tests/deny.sh
