#!/usr/bin/env bash
# Measures Penstock against the bare runtime and bare servers in one run. Flags are passed on; -help lists them. It takes
# about four minutes and wants the machine for itself.
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p bin
go build -trimpath -o bin/bench ./test/load/bench
exec bin/bench "$@"
