#!/usr/bin/env bash
# Runs every fuzz target of the tree for FUZZTIME each (any duration of timeout(1)), one after the other.
# An interrupt ends them, not -fuzztime: when that runs out, Go's coordinator may see its context expired before the one
# made from it, and then calls the run failed with "context deadline exceeded", though no input failed.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${FUZZTIME:-1m}
built=$(mktemp -d)
trap 'rm -rf "$built"' EXIT
fuzz() { # FOLDER TARGET TIME
	(cd "$1" && timeout --foreground --preserve-status --signal INT --kill-after 2m "$3" \
		"$built/test" -test.run '^$' -test.fuzz "^$2\$" -test.fuzzcachedir "$(go env GOCACHE)/fuzz/penstock/$1" </dev/null)
}
git grep -l '^func Fuzz' -- '*_test.go' | xargs -n1 dirname | sort -u | while read -r folder; do
	go test -c -fuzz . -o "$built/test" "./$folder"
	for target in $(grep -ho '^func Fuzz[A-Za-z0-9_]*' "$folder"/*_test.go | sed 's/func //'); do
		echo "== ./$folder $target ($time)"
		status=0
		fuzz "$folder" "$target" "$time" || status=$?
		if [ "$status" -eq 130 ]; then # it died of the interrupt, which it hears as soon as it fuzzes
			echo "it was still gathering its seeds; once more, for 2m"
			status=0
			fuzz "$folder" "$target" 2m || status=$?
		fi
		[ "$status" -eq 0 ] || exit "$status"
	done
done
