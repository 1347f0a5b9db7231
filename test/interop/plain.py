"""The Triton client's plain calls, over HTTP with binary tensors, HTTP with JSON tensors, and gRPC; then the story of a
rollback under load. Each test is given a client and runs over all three."""
import queue
import threading

import numpy as np
from tritonclient.utils import InferenceServerException

from harness import INVALID, MISSING, Client, expect, refused

ROLLBACKS = 5  # while clients loop


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

def rollback_under_load(world):
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
