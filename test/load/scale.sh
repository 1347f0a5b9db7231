#!/usr/bin/env bash
# Measures many models on one machine at full size: 5,000 models of 2 MB with memory for 500, the popularity that Alibaba
# published against the clairvoyant rule, and a start with 10,000 deployed models. It fails when one of the promises in
# docs/benchmarks.md is not kept. It needs 25 GB of disk, keeps what it fills in PENSTOCK_SCALE_DIR when that is set, and
# wants the machine for itself: about ten minutes, of which most goes into filling.
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p bin
go test -count=1 -v -run HitRate ./internal/fleet/cache
go test -c -trimpath -o bin/load.test ./test/load
cd test/load
# The bare sessions are made with the allocator's setting that workers have.
MALLOC_MMAP_THRESHOLD_=65536 PENSTOCK_SCALE=1 ../../bin/load.test -test.v -test.count=1 -test.timeout=60m -test.run "${1:-ManySmallModels|StartWithManyEndpoints}"
