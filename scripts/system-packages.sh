#!/usr/bin/env bash
# Sees to it that the Debian packages which the tests need are there: installs them when root, else names them.
set -euo pipefail
missing=()
[ -x "$(compgen -G '/usr/lib/postgresql/*/bin/initdb' | tail -n 1)" ] || missing+=(postgresql)
command -v curl >/dev/null || missing+=(curl)
command -v cc >/dev/null || missing+=(gcc libc6-dev)
[ -d /usr/share/libonnx-testdata/data/node ] || missing+=(libonnx-testdata)
python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ]; then
	echo "missing Debian packages: run  sudo apt-get install ${missing[*]}  and try again" >&2
	exit 1
fi
echo "installing Debian packages: ${missing[*]}"
apt-get update -qq
# The tests start a PostgreSQL of their own; the package must not start one beside it.
mkdir -p /etc/postgresql-common
[ -e /etc/postgresql-common/createcluster.conf ] || echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
