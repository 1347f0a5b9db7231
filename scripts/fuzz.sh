#!/usr/bin/env bash
# Runs every fuzz target of the tree for FUZZTIME each, one after the other.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${FUZZTIME:-1m}
git grep -l '^func Fuzz' -- '*_test.go' | xargs -n1 dirname | sort -u | while read -r folder; do
	for target in $(grep -ho '^func Fuzz[A-Za-z0-9_]*' "$folder"/*_test.go | sed 's/func //'); do
		echo "== ./$folder $target ($time)"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "./$folder"
	done
done
