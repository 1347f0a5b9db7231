#!/usr/bin/env bash
# Runs real clients against a real server: Triton's client and perf_analyzer from PyPI, and clients in Go, JavaScript and
# curl made from the protocol alone. Needs bin/penstock. Everything else is made here, in .cache: private Python
# environments, the Go client, a server on free loopback ports. The last line says how many tests passed and failed.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
penstock=${PENSTOCK_BIN:-"$root/bin/penstock"}
if [ ! -x "$penstock" ]; then
	echo "$penstock is not there: run make build first" >&2
	exit 1
fi
env=$("$root/scripts/python-env.sh" interop "$here/requirements.txt")

# analyzer prints the path of a program that runs perf_analyzer, or ! and why there is none.
analyzer() {
	local folder library
	if [ "$(uname -s)-$(uname -m)" != Linux-x86_64 ]; then
		echo "!PyPI has perf_analyzer for Linux on x86_64 only"
		return
	fi
	if ! ldconfig -p | grep -q 'libb64\.so\.0d'; then
		if [ "$(id -u)" -ne 0 ] || ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends libb64-0d; } >/dev/null 2>&1; then
			echo "!it needs libb64: sudo apt-get install libb64-0d"
			return
		fi
	fi
	folder=$("$root/scripts/python-env.sh" perf-analyzer "$here/perf-analyzer.txt") || { echo "!its Python packages cannot be installed"; return; }
	library=$(dirname "$(find "$folder/lib" -name 'libcudart.so.12' | head -n 1)")
	printf '#!/bin/sh\nLD_LIBRARY_PATH=%q exec %q "$@"\n' "$library" "$folder/bin/perf_analyzer" >"$folder/bin/analyze"
	chmod +x "$folder/bin/analyze"
	if ! library=$("$folder/bin/analyze" --version 2>&1); then
		echo "!it does not start: $(head -n 1 <<<"$library")"
		return
	fi
	echo "$folder/bin/analyze"
}

(cd "$here/go" && go build -trimpath -o "$root/.cache/interop-go" .)
javascript="!node is not there"
if command -v node >/dev/null; then javascript="$here/js/client.mjs"; fi
PERF_ANALYZER=${PERF_ANALYZER:-$(analyzer)}
export PERF_ANALYZER PYTHONDONTWRITEBYTECODE=1
exec "$env/bin/python" "$here/main.py" "$penstock" "$root/demo" \
	"go=$root/.cache/interop-go" "javascript=$javascript" "curl=$here/curl.sh"
