#!/usr/bin/env bash
# Measures what tenants do to each other: shares by weight, a noisy neighbour, an overload. FLAGS go to the stage
# (`bin/bench stage fair -help` lists them); -only weights, noisy or overload measures a part.
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p bin .cache/bench
go build -trimpath -o bin/bench ./test/load/bench
bin/bench stage fair -json .cache/bench/fair.json "$@"
