#!/usr/bin/env bash
# Measures Penstock against the bare runtime and bare servers in one run, then its JSON decoder beside public ones, then
# the server under programs of others (foreign.sh), then beside servers in Python and at its limits (peers.sh), then a large
# catalogue (catalogue.sh). Flags are for the first stage and leave the others out; -help lists them. It takes about a
# quarter of an hour and wants the machine for itself.
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p bin
go build -trimpath -o bin/bench ./test/load/bench
bin/bench "$@"
[ $# -eq 0 ] || exit 0

printf '\nAn image as JSON, decoded by Penstock and by public libraries:\n'
(
	cd test/load/json
	go build -trimpath -o ../../../bin/bench-json .
	GOEXPERIMENT=jsonv2 go build -trimpath -o ../../../bin/bench-jsonv2 .
)
bin/bench-json
printf '\nThe same with GOEXPERIMENT=jsonv2:\n'
bin/bench-jsonv2

printf '\nUnder wrk and ghz:\n'
test/load/foreign.sh

printf '\nTenants beside each other:\n'
test/load/fair.sh

printf '\nBeside servers in Python, in batches, with pictures and many endpoints:\n'
test/load/peers.sh

printf '\nMany models on one machine:\n'
test/load/scale.sh

printf '\nThe registry beside the reference one and cp:\n'
test/load/registry.sh

printf '\nA catalogue of 10,000 models with 5 versions each:\n'
test/load/catalogue.sh
