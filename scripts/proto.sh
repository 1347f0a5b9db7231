#!/bin/sh
# Generates the Go code of internal/wire/oip from its schema. Only who changes oip.proto needs this: the result is committed.
# The compiler comes from the Python package grpcio-tools, the Go plugins from their own modules, at the versions below.
set -eu
cd "$(dirname "$0")/.."
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
protobuf=$(go list -m -f '{{.Version}}' google.golang.org/protobuf)
python3 -m venv "$tools/venv"
"$tools/venv/bin/pip" --quiet install 'grpcio-tools==1.85.1'
GOBIN="$tools/bin" go install "google.golang.org/protobuf/cmd/protoc-gen-go@$protobuf"
GOBIN="$tools/bin" go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2
PATH="$tools/bin:$PATH" "$tools/venv/bin/python" -m grpc_tools.protoc -I internal/wire/oip \
	--go_out=internal/wire/oip --go_opt=paths=source_relative \
	--go-grpc_out=internal/wire/oip --go-grpc_opt=paths=source_relative oip.proto
