#!/usr/bin/env bash
# Measures Penstock against the bare runtime and bare servers in one run, then under programs of others (foreign.sh).
# Flags are for the first stage and leave the second one out; -help lists them. It takes about seven minutes and wants the
# machine for itself.
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p bin
go build -trimpath -o bin/bench ./test/load/bench
bin/bench "$@"
if [ $# -eq 0 ]; then
	printf '\nUnder wrk and ghz:\n'
	test/load/foreign.sh
fi
