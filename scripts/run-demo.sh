#!/usr/bin/env bash
# Starts a server on loopback with the demo models and stays with it until Ctrl-C. Running it again finds everything as
# it was left: the data lies in ./penstock-data (or $PENSTOCK_DATA).
set -euo pipefail
cd "$(dirname "$0")/.."
data=${PENSTOCK_DATA:-penstock-data}
http=${PENSTOCK_HTTP:-127.0.0.1:8000} grpc=${PENSTOCK_GRPC:-127.0.0.1:8001} metrics=${PENSTOCK_METRICS:-127.0.0.1:8002} oci=${PENSTOCK_OCI:-127.0.0.1:8003}
ready=$(mktemp -u)
mkfifo "$ready"
bin/penstock serve --dev --log-level warn --data "$data" --http "$http" --grpc "$grpc" --metrics "$metrics" --oci "$oci" --print-addresses >"$ready" &
server=$!
trap 'kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; rm -f "$ready"' EXIT
trap 'exit 0' INT TERM
if ! read -r line <"$ready"; then
	wait "$server" || true
	echo "the server did not start; its message stands above" >&2
	exit 1
fi
rm -f "$ready"
export PENSTOCK_SERVER
PENSTOCK_SERVER=http://$(sed -E 's/.*"http":"([^"]+)".*/\1/' <<<"$line")

accuracy() { python3 -c 'import json, sys; print(json.load(open("demo/accuracy.json"))[sys.argv[1]]["accuracy"])' "$1"; }
penstock() { bin/penstock --data "$data" "$@"; }
if ! penstock show digits@2 >/dev/null 2>&1; then
	penstock push demo/digits-v1.onnx digits --metric accuracy="$(accuracy digits-v1)" --why "first model: logistic regression"
	penstock push demo/digits-v2.onnx digits --metric accuracy="$(accuracy digits-v2)" --why "second model: small neural network"
	penstock push demo/cancer-v1.onnx cancer --metric accuracy="$(accuracy cancer-v1)"
fi
penstock endpoints -o json | grep -q '"name": *"digits"' || penstock deploy digits@1 --why "make run"
penstock endpoints -o json | grep -q '"name": *"cancer"' || penstock deploy cancer@1 --why "make run"

cat <<EOF

Try it (from another terminal, in this folder):

  # recognise a handwritten digit; the picture is demo/three.png
  curl -s $PENSTOCK_SERVER/v2/models/digits/infer -d @demo/three.json
  bin/penstock predict digits -f demo/three.json

  # this three is a hard one (demo/hard-three.png): version 1 gets it wrong
  bin/penstock predict digits -f demo/hard-three.json

  # put the better model into production, and take it back
  bin/penstock deploy digits@2 --why "better accuracy"
  bin/penstock predict digits -f demo/hard-three.json
  bin/penstock rollback digits --why "just to see it"
  bin/penstock rollout status digits

  # a tabular model, the metrics, the last requests
  curl -s $PENSTOCK_SERVER/v2/models/cancer/infer -d @demo/cancer.json
  curl -s http://$(sed -E 's/.*"metrics":"([^"]+)".*/\1/' <<<"$line")/metrics | grep penstock_requests_total
  bin/penstock logs

Ctrl-C stops the server.
EOF
wait "$server"
