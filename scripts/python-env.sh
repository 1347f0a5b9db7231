#!/bin/sh
# Makes a private Python environment from a pinned requirements file and prints its folder on stdout.
#
#   scripts/python-env.sh NAME REQUIREMENTS
#
# It lives in .cache/python-NAME, which git ignores; nothing is installed for the user or the system, except Debian's
# python3-venv when it is missing and this runs as root. It is made again when the requirements file changes.
set -eu
name=${1:?name of the environment} requirements=${2:?requirements file}
root=$(cd "$(dirname "$0")/.." && pwd)
folder="$root/.cache/python-$name"
stamp="$folder/requirements.txt"

if [ -x "$folder/bin/python" ] && cmp -s "$requirements" "$stamp"; then
	echo "$folder"
	exit 0
fi

if ! command -v python3 >/dev/null || ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
	if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
		echo "Python 3 with venv is needed: sudo apt-get install python3 python3-venv" >&2
		exit 1
	fi
	{ apt-get update -q && apt-get install -q -y --no-install-recommends python3 python3-venv; } >&2
fi

mkdir -p "$root/.cache"
rm -rf "$folder"
python3 -m venv "$folder" >&2
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-input -r "$requirements" >&2
# The stamp comes last: an interrupted install is not taken for a whole one.
cp "$requirements" "$stamp"
echo "$folder"
