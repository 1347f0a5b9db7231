#!/bin/sh
# Trains the demo models again, in a private Python environment, and compares with the committed files.
# With an argument it is passed on to train.py; `demo/check.sh --write` trains and replaces the files.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
env=$("$root/scripts/python-env.sh" demo "$root/demo/requirements.txt")
case "${1:-}" in
--write) exec "$env/bin/python" "$root/demo/train.py" ;;
*) exec "$env/bin/python" "$root/demo/train.py" --check ;;
esac
