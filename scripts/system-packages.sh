#!/usr/bin/env bash
# Sees to it that the Debian packages which a target needs are there: installs them when root, else names them in one line.
#   system-packages.sh build    a C compiler, for the binding to ONNX Runtime
#   system-packages.sh test     also PostgreSQL, ONNX's own cases, Python environments and curl, for the tests
set -euo pipefail
missing=()
command -v cc >/dev/null || missing+=(gcc libc6-dev)
if [ "${1:-test}" = test ]; then
	[ -x "$(compgen -G '/usr/lib/postgresql/*/bin/initdb' | tail -n 1)" ] || missing+=(postgresql)
	[ -d /usr/share/libonnx-testdata/data/node ] || missing+=(libonnx-testdata)
	command -v curl >/dev/null || missing+=(curl)
	python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
fi
for tool in go node npm python3; do
	command -v "$tool" >/dev/null || { echo "$tool is not installed; Penstock is built with Go 1.26, Node with npm, Python 3 and make" >&2; exit 1; }
done
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
