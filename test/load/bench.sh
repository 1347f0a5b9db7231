#!/usr/bin/env bash
# Measures Penstock against the bare runtime and bare servers in one run. Flags are passed on; -help lists them. It takes
# about four minutes and wants the machine for itself.
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p bin
go build -trimpath -o bin/bench ./test/load/bench
bin/bench "$@"
cd test/load/json
go build -trimpath -o ../../../bin/bench-json .
GOEXPERIMENT=jsonv2 go build -trimpath -o ../../../bin/bench-jsonv2 .
../../../bin/bench-json
echo
echo "The same with GOEXPERIMENT=jsonv2:"
exec ../../../bin/bench-jsonv2
