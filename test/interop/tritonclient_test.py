"""Real Triton clients against a real server: tritonclient over HTTP (binary and JSON tensors) and over gRPC.

    tritonclient_test.py BINARY DEMO-FOLDER

It starts the server itself, pushes and deploys the demo models with the command line, and ends the server by its
process id. Use test/interop/run.sh, which makes the Python environment.
"""
import csv
import json
import os
import pathlib
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback

import numpy as np
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

START_SECONDS = 60    # until the server prints its addresses
READY_SECONDS = 60    # until a deployed model answers
STOP_SECONDS = 30     # from SIGTERM to the end of the process
COMMAND_SECONDS = 120
ROLLBACKS = 5         # while clients loop


class Server:
    """The server under test, in a data directory of its own."""

    def __init__(self, binary):
        self.binary = binary
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="penstock-interop-"))
        self.log = open(self.folder / "server.log", "wb")
        # A home of its own: no configuration file or key of the person who runs this is read.
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("PENSTOCK_")} | {"HOME": str(self.folder)}
        self.process = subprocess.Popen(
            [binary, "serve", "--dev", "--data", str(self.folder / "data"), "--http", "127.0.0.1:0",
             "--grpc", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--print-addresses"],
            stdout=subprocess.PIPE, stderr=self.log, stdin=subprocess.DEVNULL, env=self.env)
        lines = queue.Queue()
        threading.Thread(target=self.drain, args=(lines,), daemon=True).start()
        try:
            self.addresses = json.loads(lines.get(timeout=START_SECONDS))
        except Exception:
            self.stop()
            raise RuntimeError(f"the server printed no addresses; its log ends:\n{self.tail()}") from None
        self.env["PENSTOCK_SERVER"] = "http://" + self.addresses["http"]

    def drain(self, lines):
        for line in self.process.stdout:
            lines.put(line)
        lines.put(b"")

    def command(self, *arguments):
        """Runs one command of the command line and gives what it printed."""
        done = subprocess.run([self.binary, *arguments], env=self.env, cwd=self.folder, capture_output=True, text=True,
                              timeout=COMMAND_SECONDS, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            raise AssertionError(f"penstock {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def tail(self, size=4000):
        self.log.flush()
        return (self.folder / "server.log").read_bytes()[-size:].decode(errors="replace")

    def stop(self):
        """Ends the server by its process id; True when it ended by itself when asked to."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            code = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return False
        return code == 0

    def remove(self):
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class Client:
    """The same calls over either protocol, so that every test runs over all of them."""

    def __init__(self, server, protocol):
        self.protocol = protocol
        self.module = tritonclient.grpc if protocol == "grpc" else tritonclient.http
        self.real = self.module.InferenceServerClient(server.addresses["grpc" if protocol == "grpc" else "http"])
        self.options = {"binary_data": protocol == "http"} if protocol != "grpc" else {}

    def infer(self, model, name, rows, outputs=None, datatype="FP32", **more):
        given = self.module.InferInput(name, list(rows.shape), datatype)
        given.set_data_from_numpy(rows, **self.options)
        if outputs is None and self.protocol == "json":
            outputs = {"digits": ["label", "probabilities"], "cancer": ["diagnosis", "probabilities"]}[model]
        wanted = outputs and [self.module.InferRequestedOutput(o, **self.options) for o in outputs]
        return self.real.infer(model, [given], outputs=wanted, **more)

    def labels(self, rows, model="digits", name="image", output="label"):
        return self.infer(model, name, rows).as_numpy(output)

    def plain(self, answer):
        """An answer as plain dictionaries."""
        if self.protocol != "grpc":
            return answer
        from google.protobuf import json_format
        return json_format.MessageToDict(answer, preserving_proto_field_name=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.real.close()


class World:
    """What every test gets: the server, the held-out rows and the expected accuracies."""

    def __init__(self, server, demo):
        self.server, self.demo = server, demo
        self.accuracy = json.loads((demo / "accuracy.json").read_text())
        self.images, self.digits = self.rows("digits-heldout.csv")
        self.measurements, self.diagnoses = self.rows("cancer-heldout.csv")

    def rows(self, name):
        with open(self.demo / name, newline="") as f:
            table = list(csv.reader(f))[1:]
        return (np.array([[float(v) for v in row[1:]] for row in table], np.float32),
                np.array([int(row[0]) for row in table], np.int64))

    def deploy(self, model, version, file=None):
        if file:
            printed = self.server.command("push", str(self.demo / file), model)
            expect(f"{model}@{version}" in printed, f"push printed {printed!r}")
        self.server.command("deploy", f"{model}@{version}")
        with Client(self.server, "http") as client:
            until = time.monotonic() + READY_SECONDS
            pause = threading.Event()
            while not client.real.is_model_ready(model):
                expect(time.monotonic() < until, f"{model} was not ready in {READY_SECONDS} s")
                pause.wait(0.05)


def expect(true, otherwise):
    if not true:
        raise AssertionError(otherwise)


def refused(call, status, *words):
    """The call must raise the client's own exception, with the status and a message that has the words in it."""
    try:
        call()
    except InferenceServerException as e:
        expect(e.message(), "the error has no message")
        expect(e.status() in status, f"the status is {e.status()!r}, not one of {status}: {e}")
        for word in words:
            expect(word in e.message(), f"the message does not say {word!r}: {e.message()}")
        return
    raise AssertionError("the call was answered")


INVALID = ("400", "StatusCode.INVALID_ARGUMENT")
MISSING = ("404", "StatusCode.NOT_FOUND")


# ---------------------------------------------------------------- tests, each over every protocol

def test_health(world, client):
    expect(client.real.is_server_live(), "not live")
    expect(client.real.is_server_ready(), "not ready")
    expect(client.real.is_model_ready("digits"), "digits is not ready")
    try:
        ready = client.real.is_model_ready("nobody")
    except InferenceServerException:
        ready = False  # over gRPC the answer may be an error
    expect(not ready, "a model that does not exist is ready")


def test_server_metadata(world, client):
    found = client.plain(client.real.get_server_metadata())
    expect(found.get("name") and found.get("version"), f"name or version is missing: {found}")
    expect(client.protocol == "grpc" or isinstance(found.get("extensions"), list), f"extensions are missing: {found}")


def test_model_metadata(world, client):
    found = client.plain(client.real.get_model_metadata("digits"))

    def shape(tensor):
        return tensor["name"], tensor["datatype"], [int(n) for n in tensor["shape"]]
    expect(found["name"] == "digits", found)
    expect([shape(t) for t in found["inputs"]] == [("image", "FP32", [-1, 64])], found["inputs"])
    expect([shape(t) for t in found["outputs"]] == [("label", "INT64", [-1]), ("probabilities", "FP32", [-1, 10])], found["outputs"])


def test_accuracy(world, client):
    expected = world.accuracy["digits-v1"]
    labels = client.labels(world.images)
    expect(labels.dtype == np.int64 and labels.shape == world.digits.shape, f"{labels.dtype} {labels.shape}")
    expect(int((labels == world.digits).sum()) == expected["right"], f"{(labels == world.digits).sum()} right, expected {expected['right']}")


def test_accuracy_row_by_row(world, client):
    right = sum(int(client.labels(world.images[i:i + 1])[0] == world.digits[i]) for i in range(100))
    expect(right == int((client.labels(world.images[:100]) == world.digits[:100]).sum()), "single rows differ from a batch")


def test_accuracy_of_the_other_model(world, client):
    labels = client.labels(world.measurements, "cancer", "measurements", "diagnosis")
    right, expected = int((labels == world.diagnoses).sum()), world.accuracy["cancer-v1"]["right"]
    expect(right == expected, f"{right} right, expected {expected}")


def test_probabilities(world, client):
    answer = client.infer("digits", "image", world.images[:20])
    p = answer.as_numpy("probabilities")
    expect(p.dtype == np.float32 and p.shape == (20, 10), f"{p.dtype} {p.shape}")
    expect(np.allclose(p.sum(axis=1), 1, atol=1e-4), "probabilities do not sum to 1")
    expect((p.argmax(axis=1) == answer.as_numpy("label")).all(), "the label is not the most probable one")


def test_requested_output_and_id(world, client):
    answer = client.infer("digits", "image", world.images[:1], outputs=["label"], request_id="drop-42")
    found = client.plain(answer.get_response())
    expect([t["name"] for t in found["outputs"]] == ["label"], found)
    expect(found.get("id") == "drop-42", found)
    expect(found.get("model_name") == "digits", found)


def test_unknown_model(world, client):
    refused(lambda: client.infer("nobody", "image", world.images[:1], outputs=["label"]), MISSING, "nobody")
    refused(lambda: client.real.get_model_metadata("nobody"), MISSING, "nobody")


def test_wrong_shape(world, client):
    refused(lambda: client.labels(world.images[:1, :63]), INVALID, "image")
    refused(lambda: client.labels(world.images[0]), INVALID, "image")
    expect(len(client.labels(world.images[:3])) == 3, "no answer after an error")


def test_wrong_datatype(world, client):
    refused(lambda: client.infer("digits", "image", world.images[:1].astype(np.float64), datatype="FP64"), INVALID, "image")
    expect(len(client.labels(world.images[:3])) == 3, "no answer after an error")


def test_wrong_names(world, client):
    refused(lambda: client.infer("digits", "picture", world.images[:1]), INVALID, "picture")
    refused(lambda: client.infer("digits", "image", world.images[:1], outputs=["nothing"]), INVALID, "nothing")


def test_parallel_calls(world, client):
    if client.protocol == "grpc":
        answers = queue.Queue()
        given = client.module.InferInput("image", [1, 64], "FP32")
        given.set_data_from_numpy(world.images[:1])
        for _ in range(50):
            client.real.async_infer("digits", [given], lambda result, error: answers.put((result, error)))
        for _ in range(50):
            _, error = answers.get(timeout=30)
            expect(error is None, error)
        return
    given = client.module.InferInput("image", [1, 64], "FP32")
    given.set_data_from_numpy(world.images[:1], **client.options)
    pending = [client.real.async_infer("digits", [given]) for _ in range(50)]
    for answer in pending:
        expect(len(answer.get_result(timeout=30).as_numpy("label")) == 1, "no label")


# ---------------------------------------------------------------- the story, once, after all of the above

def test_rollback_under_load(world):
    """Version 2 replaces version 1 and is rolled back again and again; clients that loop see no error and no mixture."""
    server, batch = world.server, world.images
    with Client(server, "grpc") as client:
        first = client.labels(batch)
        world.deploy("digits", 2, "digits-v2.onnx")
        second = client.labels(batch)
    right = int((second == world.digits).sum())
    expect(right == world.accuracy["digits-v2"]["right"], f"version 2: {right} right")
    stop, failures, counts = threading.Event(), queue.Queue(), []

    def loop(protocol):
        done = 0
        with Client(server, protocol) as client:
            while not stop.is_set():
                try:
                    labels = client.labels(batch)
                    expect((labels == first).all() or (labels == second).all(), "an answer is neither version's")
                    done += 1
                except Exception as e:
                    failures.put(f"{protocol}: {e!r}")
        counts.append(done)
    threads = [threading.Thread(target=loop, args=(p,)) for p in ("http", "json", "grpc", "grpc")]
    for t in threads:
        t.start()
    try:
        with Client(server, "http") as client:
            for _ in range(ROLLBACKS):
                server.command("rollback", "digits")
                expect((client.labels(batch) == first).all(), "after the rollback version 1 does not answer")
                server.command("deploy", "digits@2")
                expect((client.labels(batch) == second).all(), "after the deploy version 2 does not answer")
            server.command("rollback", "digits")
    finally:
        stop.set()
        for t in threads:
            t.join()
    expect(failures.empty(), f"{failures.qsize()} failed requests, the first: {failures.queue[0] if failures.queue else ''}")
    expect(len(counts) == len(threads) and min(counts) > 0, f"a client was never answered: {counts}")
    with Client(server, "http") as client:
        right = int((client.labels(world.images) == world.digits).sum())
    expect(right == world.accuracy["digits-v1"]["right"], f"rolled back, but {right} right")


def run(name, call):
    try:
        call()
    except Exception as e:
        print(f"FAIL {name}: {e}")
        if not isinstance(e, AssertionError):
            traceback.print_exc(file=sys.stdout)
        return False
    print(f"ok   {name}")
    return True


def main():
    binary, demo = os.path.abspath(sys.argv[1]), pathlib.Path(sys.argv[2]).resolve()
    results = []
    server = Server(binary)
    try:
        world = World(server, demo)
        deployed = run("push and deploy", lambda: (world.deploy("digits", 1, "digits-v1.onnx"), world.deploy("cancer", 1, "cancer-v1.onnx")))
        results.append(deployed)
        if deployed:
            tests = [(n, t) for n, t in globals().items() if n.startswith("test_") and n != "test_rollback_under_load"]
            for protocol in ("http", "json", "grpc"):
                with Client(server, protocol) as client:
                    results += [run(f"{name[5:]} over {protocol}", lambda: test(world, client)) for name, test in tests]
            results.append(run("rollback under load", lambda: test_rollback_under_load(world)))
        expect(server.process.poll() is None, "the server ended by itself")
    finally:
        stopped = server.stop()
        results.append(stopped)
        print(f"{'ok  ' if stopped else 'FAIL'} stop")
        if not all(results):
            print(f"the server's log ends:\n{server.tail()}")
        server.remove()
    print(f"{results.count(True)} passed, {results.count(False)} failed")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
