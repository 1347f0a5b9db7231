# `make` prints the targets. Everything is fetched, built and tested by them; nothing has to be installed by hand beyond
# Go, Node with npm, Python 3 and make.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

include scripts/onnxruntime.mk

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
GO_FILES := $(shell git ls-files '*.go' go.mod go.sum 2>/dev/null)

.PHONY: help
help: ## Print the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

.PHONY: build
build: bin/penstock ## Build bin/penstock with ONNX Runtime inside

.PHONY: compiler
compiler:
	@scripts/system-packages.sh build

bin/penstock: $(ONNXRUNTIME_LIB) $(GO_FILES) $(shell git ls-files internal cmd 2>/dev/null) | compiler
	go build -trimpath -ldflags "-X main.stamped=$(VERSION)" -o $@ ./cmd/penstock

.PHONY: run
run: build ## Start a server on loopback with the demo models, and print calls to try (Ctrl-C stops it)
	@scripts/run-demo.sh

.PHONY: test
test: system-packages build ## Run all tests, with real PostgreSQL and real worker processes
	go vet ./...
	go test -timeout 20m ./...
	go test -race -short -timeout 20m ./...
	FUZZTIME=5s scripts/fuzz.sh

.PHONY: fuzz
fuzz: build ## Run every fuzz target for FUZZTIME (default 1m)
	scripts/fuzz.sh

.PHONY: build-gcs
build-gcs: $(ONNXRUNTIME_LIB) | compiler ## Build bin/penstock-gcs, which also knows gs:// and is 31 MB larger
	go build -tags gcs -trimpath -ldflags "-X main.stamped=$(VERSION)" -o bin/penstock-gcs ./cmd/penstock

.PHONY: conformance
conformance: $(ONNXRUNTIME_LIB) system-packages ## Run the ONNX project's own cases through every protocol, and the OCI project's against the registry; prints the counts
	go test -count=1 -v -run TestEveryCase ./test/conformance
	go test -count=1 -v ./test/conformance/oci

.PHONY: interop
interop: system-packages build ## Run clients that we did not write, and some in other languages, against a server
	test/interop/run.sh

.PHONY: bench
bench: build ## Measure against the bare runtime, then under wrk and ghz; writes tables
	test/load/bench.sh

.PHONY: soak
soak: build ## Deploys, rollbacks and kills under load, longer than in `make test`
	PENSTOCK_SOAK=1 go test -count=1 -timeout 60m -v -run 'Rollback|Killed' ./test/load/ ./test/fault/

.PHONY: soak-faults
soak-faults: build ## Random faults against a server under load, for 30 minutes or FAULTS=2h
	PENSTOCK_FAULTS=$(or $(FAULTS),30m) go test -count=1 -timeout 0 -v -run TestRandomFaults ./test/fault/

.PHONY: check
check: lint ## Format, vet, lint and the house test: clean at every commit
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo "run gofmt -w on these"; exit 1; }
	go vet ./...
	go test -count=1 .

.PHONY: lint
lint: bin/golangci-lint
	bin/golangci-lint run ./...

bin/golangci-lint: tools/go.mod tools/go.sum
	cd tools && go build -o ../$@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

.PHONY: system-packages
system-packages:
	@scripts/system-packages.sh test

.PHONY: clean
clean: ## Remove what was built; keeps the data directory
	rm -rf bin .cache
