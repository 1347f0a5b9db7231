#!/usr/bin/env bash
# Fills a catalogue with 10,000 models of 5 versions each, in SQLite and in PostgreSQL, and prints how long that took and how
# long looking things up takes then. -help lists the flags. It takes a few minutes; PostgreSQL must be installed.
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p bin
go build -trimpath -o bin/bench-catalogue ./test/load/catalogue
bin/bench-catalogue "$@"
