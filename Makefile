# make            build, lint and test
# make demo       the whole of Hourpass on this machine, in one process
#
# make demo ARGS='…'   make fuzz FUZZTIME=5m   make bench BENCH=Verify

GOLANGCI_LINT_VERSION := v2.15.0
GOFUMPT_VERSION       := v0.12.0
GOVULNCHECK_VERSION   := v1.9.0

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
FUZZTIME ?= 30s
BENCH    ?= .

# Each tool stands in a folder of its version: a new version is a new file.
TOOLS         := $(CURDIR)/bin/tools
GOLANGCI_LINT := $(TOOLS)/golangci-lint-$(GOLANGCI_LINT_VERSION)/golangci-lint
GOFUMPT       := $(TOOLS)/gofumpt-$(GOFUMPT_VERSION)/gofumpt
GOVULNCHECK   := $(TOOLS)/govulncheck-$(GOVULNCHECK_VERSION)/govulncheck

.PHONY: all build test test-real lint fmt fuzz bench bench-issuer bench-verifier drill drill-overshoot drill-watch demo vuln

all: build lint test

build:
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X github.com/hourpass/hourpass/cmd/internal/program.Version=$(VERSION)" -o bin/ ./cmd/...

# No cached results: tests run programs, which the cache does not look at.
test:
	@scripts/test-deps
	go test -race -count=1 -timeout 25m -tags pkcs11 ./...

lint: $(GOLANGCI_LINT)
	$(GOLANGCI_LINT) run --build-tags pkcs11 ./...
	go mod tidy -diff

fmt: $(GOFUMPT)
	$(GOFUMPT) -w .

# The verifier before a real model server, Ollama, which is built once.
test-real:
	@scripts/test-deps
	@scripts/ollama >/dev/null
	go test -count=1 -timeout 20m -tags real -run '^TestOllama$$' ./cmd/e2e

fuzz:
	@scripts/fuzz $(FUZZTIME)

bench:
	go test -run '^$$' -bench '$(BENCH)' -benchmem ./...

# The issuer under load, on PostgreSQL and SQLite. The last line is one JSON
# object: SQLite's figures.
bench-issuer:
	@mkdir -p bin
	@scripts/test-deps
	@HOURPASS_BENCH_OUT=$(CURDIR)/bin/bench-issuer.json go test -run '^$$' -bench '^BenchmarkIssuer$$' -benchtime 1x ./cmd/e2e | grep -E 'exchanges|FAIL|bench_test' || true
	@cat bin/bench-issuer.json

# Calls through the verifier, the standard library's reverse proxy and HAProxy.
# The last line is one JSON object.
bench-verifier:
	@mkdir -p bin
	@scripts/test-deps
	@HOURPASS_BENCH_OUT=$(CURDIR)/bin/bench-verifier.json go test -run '^$$' -bench '^BenchmarkVerifier$$' -benchtime 1x -timeout 20m ./cmd/e2e | grep -E 'CPU|FAIL|bench_test|ReverseProxy|bare|verifier,|HAProxy|start to' || true
	@cat bin/bench-verifier.json

# A test that takes its time: the issuer killed 200 times under load, on either
# store.
drill:
	@scripts/test-deps
	HOURPASS_TEST_CRASHES=200 go test -count=1 -timeout 30m -run '^TestCrashes$$' ./cmd/e2e
	HOURPASS_TEST_CRASHES=200 HOURPASS_TEST_STORE=postgres go test -count=1 -timeout 30m -run '^TestCrashes$$' ./cmd/e2e

# The drill of budgets: eight verifiers, 200 clients, one budget, kills, restarts
# and a network that is cut, with each engine of the ledger. The last lines are one
# JSON object for each.
drill-overshoot:
	@mkdir -p bin
	@scripts/test-deps
	HOURPASS_TEST_DRILL=overshoot HOURPASS_DRILL_OUT=$(CURDIR)/bin/drill-overshoot.json go test -count=1 -timeout 30m -run '^TestOvershoot$$' ./cmd/e2e
	@cat bin/drill-overshoot.json

# A key that begins to spend ten times what is usual, 50 times: how long until it
# is off.
drill-watch:
	@scripts/test-deps
	HOURPASS_TEST_DRILL=watch go test -count=1 -timeout 30m -v -run '^TestWatch$$' ./cmd/e2e | grep -E 'p50|^ok|FAIL'

demo: build
	bin/hourpass-dev $(ARGS)

vuln: $(GOVULNCHECK)
	@scripts/vuln $(GOVULNCHECK)

$(GOLANGCI_LINT):
	GOBIN=$(@D) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)

$(GOFUMPT):
	GOBIN=$(@D) go install mvdan.cc/gofumpt@$(GOFUMPT_VERSION)

$(GOVULNCHECK):
	GOBIN=$(@D) go install golang.org/x/vuln/cmd/govulncheck@$(GOVULNCHECK_VERSION)
