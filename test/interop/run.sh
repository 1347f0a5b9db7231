#!/bin/sh
# Runs real clients against a real server: the Triton client from PyPI over HTTP and gRPC, with the demo's models.
# Needs bin/penstock. Everything else is made here: a private Python environment, a data directory, a server on free
# loopback ports. The last line says how many tests passed and failed.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
penstock=${PENSTOCK_BIN:-"$root/bin/penstock"}
if [ ! -x "$penstock" ]; then
	echo "$penstock is not there: run make build first" >&2
	exit 1
fi
env=$("$root/scripts/python-env.sh" interop "$root/test/interop/requirements.txt")
exec "$env/bin/python" "$root/test/interop/tritonclient_test.py" "$penstock" "$root/demo"
