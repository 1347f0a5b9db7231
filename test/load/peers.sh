#!/usr/bin/env bash
# Measures Penstock beside servers of others and at its limits, a table and its floors per stage:
#
#   test/load/peers.sh [STAGE...] [-- FLAGS]
#
#   python   MLServer, BentoML and LitServe from PyPI, the same model in the same runtime
#   batch    a model that gains from batches, batching off and on, under load and idle
#   image    pictures of 600 KB: gigabytes a second and memory
#   routes   10 to 10,000 endpoints
#
# Without a stage all run, one to three minutes each. FLAGS go to every stage (bin/bench stage python -help lists them).
# The figures are also written to .cache/bench/STAGE.json. Needs Go; the Python servers are installed into .cache, in an
# environment for each, with versions and hashes pinned.
set -euo pipefail
cd "$(dirname "$0")/../.."
stages=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
	stages+=("$1")
	shift
done
[ $# -eq 0 ] || shift
[ ${#stages[@]} -gt 0 ] || stages=(python batch image routes)
mkdir -p bin .cache/bench
go build -trimpath -o bin/bench ./test/load/bench

failed=0
for stage in "${stages[@]}"; do
	printf '\n## Stage %s\n\n' "$stage"
	flags=()
	if [ "$stage" = python ]; then
		for server in mlserver bentoml litserve; do
			if folder=$(scripts/python-env.sh "bench-$server" "test/load/python/$server.txt"); then
				flags+=(-env "$server=$folder")
			else
				echo "$server is not measured: its packages cannot be installed" >&2
				failed=1
			fi
		done
	fi
	bin/bench stage "$stage" -json ".cache/bench/$stage.json" "${flags[@]}" "$@" || failed=1
done
exit $failed
