"""Loads a live server with programs of others: wrk over HTTP, ghz over gRPC, and prints a table.

    foreign.py PENSTOCK BENCH GHZ ROOT [SECONDS]

Beside Penstock stand a bare net/http handler around the runtime and a gRPC echo that runs nothing (BENCH in its role of
peer), under the same programs with the same requests. Use test/load/foreign.sh, which makes the programs. It ends what it
started, and fails when a request failed.
"""
import contextlib
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile

CLIENTS = (1, 16)
SPARE_SECONDS = 60    # that a program may need beyond its time
COMMAND_SECONDS = 120
STOP_SECONDS = 30
PIXELS = 64
SERVICE = "inference.GRPCInferenceService"


@contextlib.contextmanager
def child(command, **options):
    """A server that prints one line of JSON when it is ready; gives that line."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, **options)
    try:
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"{command[:2]} did not start")
        yield json.loads(line)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def field(number, data):
    """A length-delimited field of a protobuf message of fewer than 2^14 bytes."""
    size = bytes([len(data)]) if len(data) < 128 else bytes([len(data) & 127 | 128, len(data) >> 7])
    return bytes([number << 3 | 2]) + size + data


def write_requests(folder):
    """The same row of the demo as JSON, as JSON with a binary tensor, as raw bytes, and as a gRPC message."""
    row = [float(i % 17) for i in range(PIXELS)]
    raw = struct.pack(f"<{PIXELS}f", *row)
    tensor = {"name": "image", "datatype": "FP32", "shape": [1, PIXELS]}
    head = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": len(raw)}}],
                       "parameters": {"binary_data_output": True}}).encode()
    (folder / "json").write_text(json.dumps({"inputs": [tensor | {"data": row}]}))
    (folder / "binary").write_bytes(head + raw)
    (folder / "raw").write_bytes(raw)
    (folder / "grpc").write_bytes(field(1, b"digits")
                                  + field(5, field(1, b"image") + field(2, b"FP32") + field(3, bytes([1, PIXELS]))) + field(7, raw))
    return len(head)


def wrk(address, path, body, clients, seconds, header=None):
    env = os.environ | {"BODY_FILE": str(body), "PATH_OF": path} | ({"HEADER_LENGTH": str(header)} if header is not None else {})
    done = subprocess.run(["wrk", "-t", "1", "-c", str(clients), "-d", f"{seconds}s", "-s",
                           str(pathlib.Path(__file__).with_name("request.lua")), f"http://{address}"],
                          env=env, capture_output=True, text=True, timeout=seconds + SPARE_SECONDS, check=True)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return found["requests"] * 1e6 / found["us"], found["p50"], found["p99"], found["failed"]


def ghz(program, root, address, body, clients, seconds):
    proto = next((root / "internal" / "wire" / "oip").glob("*.proto"))
    done = subprocess.run([program, "--insecure", "--proto", str(proto), "--import-paths", str(proto.parent),
                           "--call", SERVICE + ".ModelInfer", "--binary-file", str(body), "--concurrency", str(clients),
                           "--connections", str(clients), "--duration", f"{seconds}s", "--duration-stop", "wait",
                           "--format", "json", address],
                          capture_output=True, text=True, timeout=seconds + SPARE_SECONDS)
    if done.returncode != 0:
        raise RuntimeError(f"ghz: {done.stdout}{done.stderr}")
    found = json.loads(done.stdout)
    at = {p["percentage"]: p["latency"] / 1000 for p in found["latencyDistribution"]}
    return found["rps"], at[50], at[99], found["count"] - found["statusCodeDistribution"].get("OK", 0)


def measure(penstock, peer, folder, header, root, ghz_program, seconds):
    """Every row of the table: its name and its figures."""
    infer = "/v2/models/digits/infer"
    for clients in CLIENTS:
        yield f"wrk / net/http, raw / {clients}", wrk(peer["http"], "/tiny", folder / "raw", clients, seconds)
        yield f"wrk / penstock, binary / {clients}", wrk(penstock["http"], infer, folder / "binary", clients, seconds, header)
        yield f"wrk / penstock, raw / {clients}", wrk(penstock["http"], infer, folder / "raw", clients, seconds, 0)
        yield f"wrk / penstock, JSON / {clients}", wrk(penstock["http"], infer, folder / "json", clients, seconds)
        yield f"ghz / gRPC echo / {clients}", ghz(ghz_program, root, peer["grpc"], folder / "grpc", clients, seconds)
        yield f"ghz / penstock / {clients}", ghz(ghz_program, root, penstock["grpc"], folder / "grpc", clients, seconds)


def main():
    binary, bench, ghz_program, root = (pathlib.Path(a).resolve() for a in sys.argv[1:5])
    seconds = int(sys.argv[5]) if len(sys.argv) > 5 else 5
    failures = 0
    with tempfile.TemporaryDirectory(prefix="penstock-foreign-") as name:
        folder = pathlib.Path(name)
        header = write_requests(folder)
        # A home of its own: no configuration file or key of the person who runs this is read.
        env = {k: v for k, v in os.environ.items() if not k.startswith("PENSTOCK_")} | {"HOME": name}
        model = root / "demo" / "digits-v1.onnx"
        bare = {"Cache": str(folder / "cache"), "Models": {"tiny": {"Path": str(model), "Input": "image", "Shape": [1, PIXELS]}}}
        with child([binary, "serve", "--dev", "--log-level", "error", "--data", folder / "data", "--http", "127.0.0.1:0", "--grpc",
                    "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--oci", "", "--print-addresses"], env=env) as penstock, \
             child([bench, "peer", json.dumps(bare)], env=env) as peer:
            env["PENSTOCK_SERVER"] = "http://" + penstock["http"]
            for command in (["push", model, "digits"], ["deploy", "digits@1"]):
                subprocess.run([binary, *command], env=env, cwd=folder, check=True, capture_output=True, timeout=COMMAND_SECONDS)
            for _ in measure(penstock, peer, folder, header, root, ghz_program, 1):
                pass  # thrown away: everything has been warm once
            print("\n| program / server / clients | per second | p50 us | p99 us | failed |\n|--- |---: |---: |---: |---: |")
            for row, (rate, p50, p99, failed) in measure(penstock, peer, folder, header, root, ghz_program, seconds):
                failures += failed
                print(f"| {row} | {rate:.0f} | {p50:.0f} | {p99:.0f} | {failed} |", flush=True)
    print(f"\nload average after: {os.getloadavg()[0]:.2f}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
