"""The server under test, and what every test of it needs: clients, the demo's rows, expectations, and the count."""
import csv
import http.server
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


class Collector(http.server.ThreadingHTTPServer):
    """A collector of traces that takes whatever comes: without one the server has nothing to trace for."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    def __init__(self):
        super().__init__(("127.0.0.1", 0), self.Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Server:
    """The server under test, in a data directory of its own."""

    def __init__(self, binary):
        self.binary = binary
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="penstock-interop-"))
        self.collector = Collector()
        self.log = open(self.folder / "server.log", "wb")
        # A home of its own: no configuration file or key of the person who runs this is read.
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("PENSTOCK_")} | {"HOME": str(self.folder)}
        self.process = subprocess.Popen(
            [binary, "serve", "--dev", "--data", str(self.folder / "data"), "--http", "127.0.0.1:0",
             "--grpc", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--oci", "", "--print-addresses", "--otlp", self.collector.url],
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
        self.collector.shutdown()
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
        self.extensions, self.expected = set(), None

    def learn(self):
        """Asks what the server says of itself, and for the labels that every way of asking must give."""
        with Client(self.server, "http") as client:
            self.extensions = set(client.real.get_server_metadata().get("extensions", []))
            self.expected = client.labels(self.images)
        print(f"the server advertises: {', '.join(sorted(self.extensions)) or 'no extension'}")

    def rows(self, name):
        with open(self.demo / name, newline="") as f:
            table = list(csv.reader(f))[1:]
        return (np.array([[float(v) for v in row[1:]] for row in table], np.float32),
                np.array([int(row[0]) for row in table], np.int64))

    def deploy(self, model, version, file=None):
        if file:
            printed = self.server.command("push", str(self.demo / file), model)  # an absolute path stays what it is
            expect(f"{model}@{version}" in printed, f"push printed {printed!r}")
        self.server.command("deploy", f"{model}@{version}")
        with Client(self.server, "http") as client:
            self.await_(lambda: client.real.is_model_ready(model), f"{model} was not ready in {READY_SECONDS} s")

    @staticmethod
    def await_(true, otherwise):
        until = time.monotonic() + READY_SECONDS
        pause = threading.Event()
        while not true():
            expect(time.monotonic() < until, otherwise)
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



class NotRun(Exception):
    """A test that cannot be run here; the message says why."""


class Report:
    """Counts what was tried, and prints a line for each."""

    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def run(self, name, call):
        try:
            call()
        except NotRun as e:
            self.skip(name, e)
            return True
        except Exception as e:
            self.add(name, f"{e}" or repr(e))
            if not isinstance(e, AssertionError):
                traceback.print_exc(file=sys.stdout)
            return False
        self.add(name)
        return True

    def add(self, name, fault=None):
        self.failed += fault is not None
        self.passed += fault is None
        print(f"ok   {name}" if fault is None else f"FAIL {name}: {fault}", flush=True)

    def skip(self, name, why):
        self.skipped += 1
        print(f"not run: {name}: {why}", flush=True)

    def summary(self):
        return f"{self.passed} passed, {self.failed} failed" + (f", {self.skipped} skipped" if self.skipped else "")


def tests_of(module):
    """The functions of a module that are tests, in their order."""
    return [(n[5:], t) for n, t in vars(module).items() if n.startswith("test_")]
