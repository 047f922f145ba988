# millrace: everything that is built, shown, tested and measured.
# `make help` prints the targets.

PREFIX    ?= /usr/local
DESTDIR   ?=
CASE      ?= p2p
PAIRS     ?= 5
FUZZTIME  ?= 5m
RESULTS   ?= docs/results

VERSION   := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LINTER    := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

# AVX2 and BMI are in every x86 server of the last ten years. Other machines ignore GOAMD64.
export GOAMD64 ?= v3
# The version comes from VERSION, so Go need not ask git (which refuses a clone that another user owns).
export GOFLAGS += -buildvcs=false

.PHONY: help build demo test bench lint fuzz generate install clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## bin/millrace, one static binary, and the CNI plugin bin/millrace-cni
	CGO_ENABLED=0 go build -trimpath -ldflags '-X main.version=$(VERSION)' -o bin/millrace ./cmd/millrace
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.release=$(VERSION)' -o bin/millrace-cni ./cmd/millrace-cni

demo: build ## two ports, real traffic, no root, no packages
	bin/millrace demo

test: ## all checks and tests; as root on Debian installs the peers first
	go run ./hack/testrun

bench: build ## side by side with OVS-DPDK and others, as root: CASE=p2p|vhost|flows|ct|kernel|egress|all|... (go run ./perf/bench -h) PAIRS=5 RESULTS=docs/results
	go run ./perf/bench -case "$(CASE)" -pairs $(PAIRS) -results "$(RESULTS)"

lint: ## gofmt, go vet, golangci-lint
	@unformatted=$$(gofmt -l .); test -z "$$unformatted" || { echo "gofmt -w needed:"; echo "$$unformatted"; exit 1; }
	go vet ./...
	go run $(LINTER) run ./...

fuzz: ## every fuzz target for FUZZTIME=5m, one after another
	go run ./hack/fuzzrun -time $(FUZZTIME)

generate: ## Go code from the .proto files, and the XDP program (needs protobuf-compiler clang llvm libbpf-dev)
	hack/generate
	dataplane/afxdp/bpf/generate

install: build ## binary, database schema and shell completions below DESTDIR/PREFIX
	install -D -m 0755 bin/millrace $(DESTDIR)$(PREFIX)/bin/millrace
	install -D -m 0755 bin/millrace-cni $(DESTDIR)$(PREFIX)/libexec/cni/millrace-cni
	install -D -m 0644 control/ovsdb/schema/millrace.ovsschema $(DESTDIR)$(PREFIX)/share/millrace/millrace.ovsschema
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	install -d $(DESTDIR)$(PREFIX)/share/zsh/site-functions
	install -d $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	bin/millrace completion bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/millrace
	bin/millrace completion zsh > $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_millrace
	bin/millrace completion fish > $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/millrace.fish

clean: ## what build and test left
	rm -rf bin dist
