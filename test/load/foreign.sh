#!/usr/bin/env bash
# Loads a live server with wrk (HTTP) and ghz (gRPC). Needs bin/penstock and bin/bench. ghz is built here at the version
# that foreign/go.mod pins; wrk is Debian's. It takes about a minute and a half.
set -euo pipefail
cd "$(dirname "$0")/../.."
if ! command -v wrk >/dev/null; then
	if [ "$(id -u)" -ne 0 ]; then
		echo "foreign load is not run: it needs wrk: sudo apt-get install wrk" >&2
		exit 1
	fi
	echo "installing the Debian package wrk"
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends wrk >/dev/null
fi
mkdir -p .cache
(cd test/load/foreign && go build -trimpath -o ../../../.cache/ghz github.com/bojand/ghz/cmd/ghz)
exec python3 test/load/foreign/foreign.py bin/penstock bin/bench .cache/ghz . "$@"
