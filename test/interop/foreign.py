"""Programs of others: Triton's perf_analyzer, and the clients in other languages that know only the protocol."""
import csv
import os
import re
import subprocess

from harness import Client, NotRun, expect

CLIENT_SECONDS = 120
ANALYZER_SECONDS = 60
CONCURRENCY = 4


def client(world, report, name, program):
    """Runs a client and adds its count. It prints a line per test and "N passed, N failed" last."""
    if program.startswith("!"):
        report.skip(name, program[1:])
        return
    addresses = world.server.addresses
    done = subprocess.run([program, addresses["http"], addresses["grpc"], str(world.demo)], capture_output=True, text=True,
                          timeout=CLIENT_SECONDS, stdin=subprocess.DEVNULL)
    lines = done.stdout.splitlines()
    for line in lines[:-1]:
        print(line)
    count = re.fullmatch(r"(\d+) passed, (\d+) failed", lines[-1]) if lines else None
    if count is None or (done.returncode == 0) != (count[2] == "0") or count[1] == "0":
        report.add(name, f"exit {done.returncode}, its last words: {(done.stdout + done.stderr)[-2000:]}")
        return
    report.passed += int(count[1])
    report.failed += int(count[2])
    print(f"{name}: {lines[-1]}")


def perf_analyzer(world, protocol):
    """A short run must end by itself with a throughput, and without a failed request."""
    for extension in ("model_configuration", "statistics"):
        if extension not in world.extensions:
            raise NotRun(f"extension {extension} is not advertised")
    program = os.environ.get("PERF_ANALYZER", "!PERF_ANALYZER does not say where it is")
    if program.startswith("!"):
        raise NotRun(program[1:])
    with Client(world.server, "http") as http:
        batched = http.real.get_model_config("digits")["max_batch_size"] > 0
    table = world.server.folder / f"perf-{protocol}.csv"
    done = subprocess.run([program, "-m", "digits", "-i", protocol, "-u", world.server.addresses[protocol], "-b", "1",
                           "--shape", "image:64" if batched else "image:1,64", "--concurrency-range", str(CONCURRENCY), "-p", "1000", "--max-trials", "5",
                           "-s", "50", "-f", str(table)],
                          capture_output=True, text=True, timeout=ANALYZER_SECONDS, stdin=subprocess.DEVNULL,
                          cwd=world.server.folder)
    said = (done.stdout + done.stderr)[-3000:]
    with open(table, newline="") if table.exists() else open(os.devnull) as f:
        rows = list(csv.DictReader(f))
    found = [float(row["Inferences/Second"]) for row in rows]
    # On a busy machine the windows may differ too much for its taste, which it says by exit 2 and still measures.
    unstable = done.returncode == 2 and "Failed to obtain stable measurement" in said
    expect(done.returncode == 0 or unstable, f"exit {done.returncode}: {said}")
    expect(found and min(found) > 0, f"no throughput: {said}")
    print(f"     perf_analyzer over {protocol}: {found[0]:.0f} inferences/s at concurrency {CONCURRENCY}{', not stable' if unstable else ''}")
