# Linux, Go and make are all that build, demo and test need: no C compiler, no packages.
PREFIX  ?= /usr/local
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null)
LDFLAGS := -X github.com/splitd/splitd/internal/build.version=$(VERSION)
GOLINT  := go tool -modfile=golangci-lint.mod golangci-lint
export SPLITD_BIN := $(CURDIR)/bin

.DEFAULT_GOAL := help
.PHONY: help build demo test test-race e2e-real e2e-kernel bench bench-kernel soak lint fmt install clean

help: ## show what can be made
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

build: ## build bin/splitd and bin/splitctl
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o bin/ ./cmd/splitd ./cmd/splitctl

demo: build ## play a whole mail migration in network namespaces, with real mail
	@bin/splitd demo

test: build ## unit, kernel and end-to-end tests, as any user; -count=1: no cache knows of kernels
	CGO_ENABLED=0 go test -count=1 -timeout 20m ./...

test-race: build ## the same with the race detector, but for e2e, whose programs it is not in; needs a C compiler
	@command -v "$$(go env CC)" >/dev/null || { echo "test-race needs the C compiler $$(go env CC): apt-get install gcc"; exit 1; }
	CGO_ENABLED=1 go test -race -count=1 -timeout 20m $$(go list ./... | grep -v '/e2e$$')

e2e-real: build ## Postfix and nginx behind a split; as root, installs Debian packages
	e2e/real/packages.sh
	CGO_ENABLED=0 go test -count=1 -timeout 20m -tags e2ereal ./e2e/real/...

e2e-kernel: build ## the kernel tests on Debian's kernels in qemu; as root, half an hour
	e2e/kernel/run.sh $(SUITES)

bench: build ## splitd beside nft by hand, iptables, HAProxy and nginx; writes bench/results.md
	bench/run.sh $(if $(PARTS),-parts $(PARTS))

bench-kernel: PARTS = kernel
bench-kernel: bench ## of bench, what is in the kernel alone

soak: build ## a mixed load for SOAK, half an hour if not said: nothing grows, no client fails
	CGO_ENABLED=0 go test -count=1 -v -timeout 0 -tags soak ./e2e/soak -args -for $(or $(SOAK),30m)

lint: ## linters, vet, go fix and go mod tidy; changes nothing
	$(GOLINT) run
	go vet -tags e2ereal,soak ./...
	go fix -tags e2ereal,soak -diff ./...
	go mod tidy -diff

fmt: ## format every Go file
	$(GOLINT) fmt

install: $(if $(shell command -v go),build) ## install below DESTDIR and PREFIX; keeps an existing configuration
	DESTDIR=$(DESTDIR) PREFIX=$(PREFIX) packaging/install.sh

clean: ## remove what make built
	rm -rf bin
