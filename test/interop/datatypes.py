"""Every datatype there and back through a model of Identity nodes, over HTTP with binary tensors, HTTP with JSON tensors
(the types that have no JSON form stay binary, so those requests are mixtures), and gRPC."""
import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper

from harness import INVALID, expect, refused

MODEL = "mirror"
OPSET, IR = 17, 9  # what runtimes of the last years read
ONLY_BINARY = ("FP16", "BF16")


def integers(dtype):
    limit = np.iinfo(dtype)
    return np.array([[limit.min, 0, 1], [limit.max, limit.max - 1, 7]], dtype)


def floats(dtype):
    limit = ml_dtypes.finfo(dtype)
    return np.array([[0, -0.0, limit.smallest_normal], [limit.max, limit.min, 1 / 3]], dtype)


# datatype: the runtime's element type, values at the edges of the type
VALUES = {
    "BOOL": (TensorProto.BOOL, np.array([[True, False, True], [False, False, True]])),
    **{f"{sign}INT{bits}": (getattr(TensorProto, f"{sign}INT{bits}"), integers(f"{sign.lower()}int{bits}"))
       for sign in ("U", "") for bits in (8, 16, 32, 64)},
    "FP16": (TensorProto.FLOAT16, floats(np.float16)),
    "FP32": (TensorProto.FLOAT, floats(np.float32)),
    "FP64": (TensorProto.DOUBLE, floats(np.float64)),
    "BF16": (TensorProto.BFLOAT16, floats(ml_dtypes.bfloat16)),
    "BYTES": (TensorProto.STRING, np.array([["", "a", "ünïcode \U0001f34f"], ['quote " \\ and \n line', "x" * 5000, "0"]], object)),
}


def make(path):
    """A model with one Identity for each datatype: input FP32 is mirrored as output FP32_out, and so on."""
    nodes, inputs, outputs = [], [], []
    for name, (kind, _) in VALUES.items():
        nodes.append(helper.make_node("Identity", [name], [name + "_out"]))
        inputs.append(helper.make_tensor_value_info(name, kind, ["rows", name + "_columns"]))
        outputs.append(helper.make_tensor_value_info(name + "_out", kind, ["rows", name + "_columns"]))
    model = helper.make_model(helper.make_graph(nodes, "mirror", inputs, outputs),
                              opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def filler(values, rows):
    """One column of zeros, or of empty strings."""
    return np.full((rows, 1), "" if values.dtype == object else 0, values.dtype)


def mirror(client, given, outputs, binary=None):
    """Sends the given tensors and fillers for all others; gives the answer. binary decides per type in HTTP."""
    rows = next(iter(given.values())).shape[0]
    binary = binary or (lambda name: client.protocol == "http" or name in ONLY_BINARY)
    inputs, wanted = [], []
    for name, (_, values) in VALUES.items():
        tensor = given.get(name, filler(values, rows))
        made = client.module.InferInput(name, list(tensor.shape), name)
        made.set_data_from_numpy(tensor, **({} if client.protocol == "grpc" else {"binary_data": binary(name)}))
        inputs.append(made)
    for name in outputs:
        wanted.append(client.module.InferRequestedOutput(
            name + "_out", **({} if client.protocol == "grpc" else {"binary_data": binary(name)})))
    return client.real.infer(MODEL, inputs, outputs=wanted or None)


def same(name, found, sent):
    expect(found is not None, f"{name}: no such output")
    if name == "BYTES":
        found = np.array([v.decode() if isinstance(v, bytes) else v for v in found.reshape(-1)], object).reshape(found.shape)
        expect((found == sent).all() and found.shape == sent.shape, f"{name}: {found}, sent {sent}")
        return
    # The Triton client widens BF16 to float32 when it reads an answer; that loses nothing.
    if name == "BF16" and found.dtype == np.float32:
        found = found.astype(sent.dtype)
    expect(found.dtype == sent.dtype, f"{name}: the answer is {found.dtype}")
    expect(found.shape == sent.shape and found.tobytes() == sent.tobytes(), f"{name}: {found}, sent {sent}")


def of(name):
    """The test of one datatype."""
    def test(_, client):
        sent = VALUES[name][1]
        same(name, mirror(client, {name: sent}, [name]).as_numpy(name + "_out"), sent)
        empty = sent[:0]
        found = mirror(client, {name: empty}, [name]).as_numpy(name + "_out")
        expect(found is not None and found.shape == empty.shape, f"no rows: {found}")
    return test


def test_metadata_names_every_type(_, client):
    found = client.plain(client.real.get_model_metadata(MODEL))
    expect({t["name"]: t["datatype"] for t in found["inputs"]} == {n: n for n in VALUES}, found["inputs"])


def test_all_types_in_one_request(_, client):
    sent = {name: values for name, (_, values) in VALUES.items()}
    answer = mirror(client, sent, VALUES)
    for name, values in sent.items():
        same(name, answer.as_numpy(name + "_out"), values)


def test_mixtures_of_json_and_binary(_, client):
    if client.protocol == "grpc":
        return  # it has no JSON form
    for turn in range(2):
        def binary(name):
            return name in ONLY_BINARY or (list(VALUES).index(name) + turn) % 2 == 0
        sent = {name: values for name, (_, values) in VALUES.items()}
        answer = mirror(client, sent, VALUES, binary)
        for name, values in sent.items():
            same(name, answer.as_numpy(name + "_out"), values)


def test_not_numbers(_, client):
    odd = {"FP32": np.array([[np.inf, -np.inf, np.nan]], np.float32), "FP64": np.array([[np.inf, -np.inf, np.nan]], np.float64)}
    if client.protocol == "json":
        # JSON has no such numbers: the client's NaN must be refused, not read as something else.
        refused(lambda: mirror(client, odd, odd), INVALID)
        return
    answer = mirror(client, odd, odd)
    for name, values in odd.items():
        same(name, answer.as_numpy(name + "_out"), values)


def test_wrong_byte_counts(_, client):
    """Raw bytes that do not make the shape are refused, and the next request is answered."""
    if client.protocol == "json":
        return
    given = client.module.InferInput("image", [1, 64], "FP32")
    for size in (0, 1, 255, 257):
        given._raw_data, given._raw_content = b"x" * size, b"x" * size  # the client itself would refuse to make this
        if client.protocol == "http":
            given._parameters["binary_data_size"] = size
        refused(lambda: client.real.infer("digits", [given]), INVALID)
    expect(client.real.is_server_ready(), "not ready after refused requests")
