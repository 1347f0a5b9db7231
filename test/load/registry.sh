#!/bin/bash
# Measures pushes and pulls of one large blob against the reference registry, cp, and net/http serving the same file, in the same
# run, turn by turn: registry.sh [BYTES] [ROUNDS]. It prints a table: median seconds and GB/s, the ratio to the reference,
# the server's processor time, and the most memory that each server held. PULLS is how often each blob is read back. PENSTOCK names another binary to measure. Everything listens on loopback and lies in one folder, which is removed.
set -eu -o pipefail
cd "$(dirname "$0")"
bytes=${1:-2147483648}
rounds=${2:-3}
root=$(cd ../.. && pwd)
cache=$root/.cache/registry
work=$(mktemp -d "${REGISTRY_DIR:-$root/.cache}/registry-XXXXXX")
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$work"' EXIT
mkdir -p "$cache"
if [ -z "${REGISTRY_BUILT:-}" ]; then
	(cd registry && go build -trimpath -o "$cache/reference" github.com/distribution/distribution/v3/cmd/registry && go build -trimpath -o "$cache/load" .)
fi

cat > "$work/reference.yml" <<YML
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: $work/reference}, cache: {blobdescriptor: inmemory}}
http: {addr: 127.0.0.1:0}
YML
# The reference does not tell the port that it got, so one is chosen for it.
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
sed -i "s/127.0.0.1:0/127.0.0.1:$port/" "$work/reference.yml"
OTEL_TRACES_EXPORTER=none "$cache/reference" serve "$work/reference.yml" > "$work/reference.log" 2>&1 &
pids+=($!)
"${PENSTOCK:-$root/bin/penstock}" serve --dev --data "$work/penstock" --http 127.0.0.1:0 --grpc 127.0.0.1:0 --metrics 127.0.0.1:0 --oci 127.0.0.1:0 \
	--workers 1 --log-level error --print-addresses > "$work/addresses" 2> "$work/penstock.log" &
pids+=($!)
for _ in $(seq 300); do
	[ -s "$work/addresses" ] && curl -sf "http://127.0.0.1:$port/v2/" > /dev/null && break
	sleep 0.1
done
oci=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["oci"])' "$work/addresses")

head -c "$bytes" /dev/urandom > "$work/blob"
"$cache/load" -serve "$work/blob" > "$work/bare" &
pids+=($!)
while ! [ -s "$work/bare" ]; do sleep 0.1; done
for round in $(seq 0 "$rounds"); do
	[ "$round" = 1 ] && rm -f "$work/all.jsonl" # the first warms everything up
	"$cache/load" -file "$work/blob" -pulls "${PULLS:-3}" "reference=http://127.0.0.1:$port,blob,${pids[0]}" "penstock=http://$oci,blob,${pids[1]}" \
		"bare=http://$(cat "$work/bare"),,${pids[2]}" >> "$work/all.jsonl"
	rm -rf "$work"/penstock/blobs/sha256/*/* "$work"/reference/docker/registry/v2/blobs/sha256/* # room for the next round
done
uptime
python3 - "$work" "$bytes" "${pids[@]}" <<'PY'
import json, statistics, sys
work, size, reference, penstock, bare = sys.argv[1], int(sys.argv[2]), *sys.argv[3:6]
rows = {}
for line in open(f"{work}/all.jsonl"):
    r = json.loads(line)
    side = rows.setdefault(r["side"], {"put": [], "patch": [], "get": []})
    for way in side:
        side[way].append(r[way] if isinstance(r[way], list) else [r[way]])
def peak(pid):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("VmHWM"): return int(line.split()[1]) / 1024
def flat(side, way, what): return [t[what] for r in rows[side][way] for t in r]
gb = size / 1e9
def cell(side, way):
    walls = flat(side, way, "wall_s")
    if not any(walls): return ""
    wall, cpu = statistics.median(walls), statistics.median(flat(side, way, "cpu_s"))
    # Sides that stood beside each other met the same neighbours, so ratios are taken round by round.
    ratio = statistics.median(statistics.median(t["wall_s"] for t in b) / statistics.median(t["wall_s"] for t in a)
        for a, b in zip(rows[side][way], rows["reference"][way]))
    return f"{wall:.2f} ({gb / wall:.2f}) {ratio:.2f}x" + (f", {cpu / gb:.2f}" if side != "cp" else "")
print(f"{gb:.2f} GB, {len(rows['cp']['put'])} rounds: median seconds (GB/s), times the reference's speed, processor seconds of the server per GB\n")
print("| | push in one PUT | push by PATCH | pull | most memory |\n|---|---|---|---|---|")
for side, label, pid in (("cp", "`cp` and fsync; read", 0), ("bare", "`http.ServeContent` of the file", bare), ("reference", "reference registry", reference), ("penstock", "Penstock", penstock)):
    print(f"| {label} | " + " | ".join(cell(side, way) for way in ("put", "patch", "get")) + (f" | {peak(pid):.0f} MB |" if pid else " | |"))
PY
