"""Triton's extensions through the Triton client. A test that needs an extension runs when the server's metadata
advertises it; what is not advertised is counted as not run, never as passed."""
import functools

import numpy as np
from google.protobuf import json_format
from tritonclient.utils import InferenceServerException

from harness import INVALID, MISSING, NotRun, expect, refused

DURATIONS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")
# What a refusal of something that this server does not do may be called.
UNSUPPORTED = ("400", "403", "404", "405", "501", "StatusCode.INVALID_ARGUMENT", "StatusCode.UNIMPLEMENTED",
               "StatusCode.PERMISSION_DENIED", "StatusCode.NOT_FOUND")


def needs(*extensions):
    """The test runs only where every one of these is advertised."""
    def decorate(test):
        @functools.wraps(test)
        def checked(world, client):
            for extension in extensions:
                if extension not in world.extensions:
                    raise NotRun(f"extension {extension} is not advertised")
            test(world, client)
        return checked
    return decorate


def as_dict(found):
    """gRPC's messages as the dictionaries that HTTP gives, except that 64-bit numbers are text there."""
    if isinstance(found, (dict, list)):
        return found
    return json_format.MessageToDict(found, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


# ---------------------------------------------------------------- model configuration

@needs("model_configuration")
def test_model_config(_, client):
    found = as_dict(client.real.get_model_config("digits"))
    found = found.get("config", found)
    expect(found["name"] == "digits", found)
    batched = found["max_batch_size"] > 0
    expect([(i["name"], i["data_type"]) for i in found["input"]] == [("image", "TYPE_FP32")], found["input"])
    expect([int(d) for d in found["input"][0]["dims"]] == ([64] if batched else [-1, 64]), found["input"])
    expect([(o["name"], o["data_type"]) for o in found["output"]] == [("label", "TYPE_INT64"), ("probabilities", "TYPE_FP32")], found["output"])
    expect(not found.get("model_transaction_policy", {}).get("decoupled"), "a decoupled model")
    refused(lambda: client.real.get_model_config("nobody"), MISSING + INVALID, "nobody")


# ---------------------------------------------------------------- statistics

def statistics(client, name="digits"):
    return as_dict(client.real.get_inference_statistics(name))["model_stats"]


def total(entries, *path):
    """The sum of a number over the versions of a model."""
    return sum(int(functools.reduce(lambda at, key: at[key], path, entry)) for entry in entries)


@needs("statistics")
def test_statistics_have_every_number(_, client):
    for entry in statistics(client):
        expect(entry["name"] == "digits" and entry["version"], entry)
        for key in DURATIONS:
            expect(set(entry["inference_stats"][key]) >= {"count", "ns"}, f"{key}: {entry['inference_stats'].get(key)}")
        if client.protocol != "grpc":
            numbers = [entry["last_inference"], entry["inference_count"], entry["execution_count"], *(entry["inference_stats"][k]["ns"] for k in DURATIONS)]
            expect(all(type(n) is int for n in numbers), f"numbers are not numbers: {numbers}")
    everything = {entry["name"] for entry in statistics(client, "")}
    expect({"digits", "cancer"} <= everything, everything)
    refused(lambda: statistics(client, "nobody"), MISSING + INVALID, "nobody")


@needs("statistics")
def test_statistics_count_requests_and_rows(world, client):
    before = statistics(client)
    for rows in (1, 2, 4):
        client.labels(world.images[:rows])
    for _ in range(2):
        refused(lambda: client.labels(world.images[:1, :63]), INVALID)
    after = statistics(client)

    def rise(*path):
        return total(after, *path) - total(before, *path)
    expect(rise("inference_stats", "success", "count") == 3, f"successes: {rise('inference_stats', 'success', 'count')}")
    expect(rise("inference_count") == 7, f"rows: {rise('inference_count')}")
    expect(1 <= rise("execution_count") <= 3, f"executions: {rise('execution_count')}")
    expect(rise("inference_stats", "compute_infer", "ns") > 0, "no time was spent")
    expect(total(after, "last_inference") > 10**12, "last_inference is not in milliseconds since 1970")


# ---------------------------------------------------------------- model repository

def index(client):
    found = as_dict(client.real.get_model_repository_index())
    return {m["name"]: m for m in (found["models"] if isinstance(found, dict) else found)}


@needs("model_repository")
def test_repository_index(_, client):
    found = index(client)
    for name in ("digits", "cancer"):
        expect(found[name].get("state") == "READY" and found[name].get("version"), found[name])


@needs("model_repository")
def test_unload_and_load(world, client):
    def diagnoses():
        return client.labels(world.measurements[:5], "cancer", "measurements", "diagnosis")
    before = diagnoses()
    client.real.unload_model("cancer")
    try:
        world.await_(lambda: not client.real.is_model_ready("cancer"), "cancer is unloaded, but ready")
        refused(diagnoses, ("400", "404", "503", "StatusCode.INVALID_ARGUMENT", "StatusCode.NOT_FOUND", "StatusCode.UNAVAILABLE"), "cancer")
        expect(index(client).get("cancer", {}).get("state") != "READY", index(client).get("cancer"))
        expect(len(client.labels(world.images[:3])) == 3, "the other model does not answer")
    finally:
        client.real.load_model("cancer")
    world.await_(lambda: client.real.is_model_ready("cancer"), "cancer is loaded, but not ready")
    expect((diagnoses() == before).all(), "loaded again it answers something else")
    client.real.load_model("digits")  # what is loaded already may be loaded again
    expect(client.real.is_model_ready("digits"), "digits is not ready")


@needs("model_repository")
def test_load_of_an_unknown_model(_, client):
    refused(lambda: client.real.load_model("nobody"), MISSING + INVALID, "nobody")


# ---------------------------------------------------------------- classification

@needs("classification")
def test_classification(world, client):
    rows = world.images[:4]
    options = {"binary_data": True} if client.protocol == "http" else {"binary_data": False} if client.protocol == "json" else {}
    given = client.module.InferInput("image", list(rows.shape), "FP32")
    given.set_data_from_numpy(rows, **client.options)
    wanted = [client.module.InferRequestedOutput("probabilities", class_count=3, **options)]
    found = client.real.infer("digits", [given], outputs=wanted).as_numpy("probabilities")
    expect(found.shape == (4, 3), f"{found.shape}")
    expected = client.infer("digits", "image", rows).as_numpy("probabilities")
    for i, row in enumerate(found):
        parts = [(v.decode() if isinstance(v, bytes) else v).split(":") for v in row]
        expect([int(p[1]) for p in parts] == list(np.argsort(-expected[i], kind="stable")[:3]), f"row {i}: {row}")
        expect(np.allclose([float(p[0]) for p in parts], np.sort(expected[i])[::-1][:3], atol=1e-5), f"row {i}: {row}")


# ---------------------------------------------------------------- settings

def settings(found):
    """Settings as a plain dictionary: gRPC wraps each value."""
    found = as_dict(found)
    if "settings" not in found:
        return found
    return {k: next(iter(v.values())) if len(v) == 1 else v for k, v in found["settings"].items()}


@needs("logging")
def test_log_settings(_, client):
    before = settings(client.real.get_log_settings())
    expect({"log_info", "log_warning", "log_error", "log_verbose_level"} <= set(before), before)
    changed = settings(client.real.update_log_settings({"log_verbose_level": 1}))
    try:
        expect(int(changed["log_verbose_level"]) == 1, changed)
        expect(int(settings(client.real.get_log_settings())["log_verbose_level"]) == 1, "the change was not kept")
        refused(lambda: client.real.update_log_settings({"no_such_setting": True}), INVALID)
    finally:
        client.real.update_log_settings({"log_verbose_level": int(before["log_verbose_level"])})


@needs("trace")
def test_trace_settings(_, client):
    before = settings(client.real.get_trace_settings())
    expect({"trace_level", "trace_rate", "trace_count", "log_frequency"} <= set(before), before)
    refused(lambda: client.real.update_trace_settings(settings={"no_such_setting": "1"}), INVALID)
    refused(lambda: client.real.get_trace_settings("nobody"), MISSING + INVALID, "nobody")
    client.real.update_trace_settings(settings={"trace_rate": "500"})
    try:
        found = settings(client.real.get_trace_settings())["trace_rate"]
        expect(found in ("500", ["500"]), found)
    finally:
        client.real.update_trace_settings(settings={"trace_rate": None})


# ---------------------------------------------------------------- shared memory: off by default

def test_shared_memory_is_refused_or_works(world, client):
    if "system_shared_memory" in world.extensions:
        raise NotRun("extension system_shared_memory is advertised; what is tested here is its refusal")
    refused(lambda: client.real.register_system_shared_memory("region", "/penstock-interop", 256), UNSUPPORTED)
    refused(lambda: client.real.register_cuda_shared_memory("region", b"AAAA", 0, 256), UNSUPPORTED)
    given = client.module.InferInput("image", [1, 64], "FP32")
    given.set_shared_memory("region", 256)
    refused(lambda: client.real.infer("digits", [given]), UNSUPPORTED)
    expect(len(client.labels(world.images[:3])) == 3, "no answer after a refusal")


# ---------------------------------------------------------------- compressed bodies

def compressed(world, client, option, *ways):
    given = client.module.InferInput("image", list(world.images.shape), "FP32")
    given.set_data_from_numpy(world.images, **client.options)
    for how in ways:
        found = client.real.infer("digits", [given], **{option: how}).as_numpy("label")
        expect((found == world.expected).all(), f"{how}: labels differ")


def test_compressed_requests(world, client):
    if client.protocol == "grpc":
        compressed(world, client, "compression_algorithm", "gzip")
    else:
        compressed(world, client, "request_compression_algorithm", "gzip", "deflate")


def test_deflate(world, client):
    """gRPC leaves it to a server which encodings it has; one that it lacks must be refused as such."""
    if client.protocol != "grpc":
        return  # see above
    try:
        compressed(world, client, "compression_algorithm", "deflate")
    except InferenceServerException as e:
        expect(e.status() == "StatusCode.UNIMPLEMENTED" and "deflate" in e.message(), e)
        raise NotRun("the server has no deflate for gRPC messages, and says so") from None


def test_compressed_answers(world, client):
    if client.protocol == "grpc":
        return  # there it belongs to the connection, see above
    given = client.module.InferInput("image", list(world.images.shape), "FP32")
    given.set_data_from_numpy(world.images, **client.options)
    wanted = [client.module.InferRequestedOutput(o, **client.options) for o in ("label", "probabilities")]
    for how in ("gzip", "deflate"):
        found = client.real.infer("digits", [given], outputs=wanted, response_compression_algorithm=how,
                                  request_compression_algorithm="gzip")
        expect((found.as_numpy("label") == world.expected).all(), f"{how}: labels differ")
        p = client.infer("digits", "image", world.images).as_numpy("probabilities")
        expect(found.as_numpy("probabilities").tobytes() == p.tobytes(), f"{how}: probabilities differ")


# ---------------------------------------------------------------- schedule and parameters

def test_priority_timeout_and_parameters(world, client):
    given = client.module.InferInput("image", [3, 64], "FP32")
    given.set_data_from_numpy(world.images[:3], **client.options)
    found = client.real.infer("digits", [given], priority=1, timeout=10_000_000, parameters={"colour": "blue", "count": 3, "yes": True})
    expect((found.as_numpy("label") == world.expected[:3]).all(), "labels differ")
