#!/usr/bin/env python3
"""Trains the demo models on scikit-learn's bundled data and writes everything in this folder that is not source.

    train.py          train, write the ONNX files, the held-out rows, the requests, the picture and accuracy.json
    train.py --check  train again into a scratch folder and compare byte for byte with what is committed here

Training is deterministic: fixed seeds, one thread, a fixed order of rows, and the arithmetic kernels of NumPy and
OpenBLAS pinned to one instruction set, so that any x86-64 processor with AVX2 gives the same bits.
"""
import os

# These must stand before NumPy is loaded: it picks its kernels once, when it is imported.
os.environ.update(
    OMP_NUM_THREADS="1",
    OPENBLAS_NUM_THREADS="1",
    OPENBLAS_CORETYPE="Haswell",
    NPY_DISABLE_CPU_FEATURES="X86_V4 AVX512_ICL AVX512_SPR",
    ORT_DISABLE_ALL_LOGS="1",
)

import argparse
import csv
import json
import pathlib
import struct
import sys
import tempfile
import warnings
import zlib

warnings.filterwarnings("ignore", message=".*NPY_DISABLE_CPU_FEATURES.*")

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType

HERE = pathlib.Path(__file__).resolve().parent
SEED = 7
OPSET = 17            # every runtime of the last years takes it
IR_VERSION = 8        # the IR that belongs to that opset
DIGITS_TRAIN = 1198   # the first two thirds; the rest was written by other people
CANCER_TRAIN = 379    # two thirds of 569


# ---------------------------------------------------------------- data

def digits():
    """The rows in the order of the data set: writers of the held-out third never appear in the training part."""
    data = load_digits()
    pixels, labels = data.data.astype(np.float32), data.target.astype(np.int64)
    return (pixels[:DIGITS_TRAIN], labels[:DIGITS_TRAIN]), (pixels[DIGITS_TRAIN:], labels[DIGITS_TRAIN:])


def cancer():
    data = load_breast_cancer()
    order = np.random.RandomState(SEED).permutation(len(data.target))
    rows, labels = data.data.astype(np.float32)[order], data.target.astype(np.int64)[order]
    names = [str(n).replace(" ", "_") for n in data.feature_names]
    return (rows[:CANCER_TRAIN], labels[:CANCER_TRAIN]), (rows[CANCER_TRAIN:], labels[CANCER_TRAIN:]), names


def shifted(images, down, right):
    """Images moved by whole pixels, zeros coming in."""
    out = np.zeros_like(images)
    h, w = images.shape[-2:]
    out[..., max(down, 0):h + min(down, 0), max(right, 0):w + min(right, 0)] = \
        images[..., max(-down, 0):h + min(-down, 0), max(-right, 0):w + min(-right, 0)]
    return out


# ---------------------------------------------------------------- models

def classifier(name, doc, scores, nodes, weights):
    """Wraps the nodes that compute `scores` from `scaled` (0..1) into a graph with the demo's inputs and outputs."""
    weights = {"sixteen": np.array(16, np.float32), **weights}
    nodes = [
        helper.make_node("Div", ["image", "sixteen"], ["scaled"], name="scale"),
        *nodes,
        helper.make_node("Softmax", [scores], ["probabilities"], name="softmax", axis=1),
        helper.make_node("ArgMax", [scores], ["label"], name="pick", axis=1, keepdims=0),
    ]
    graph = helper.make_graph(
        nodes, name,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]),
         helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10])],
        initializer=[numpy_helper.from_array(np.array(v, order="C"), k) for k, v in weights.items()],
    )
    model = helper.make_model(graph, producer_name="penstock-demo", doc_string=doc,
                              opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    return model


def digits_v1(train):
    pixels, labels = train
    fitted = LogisticRegression(C=0.1, max_iter=2000).fit(pixels.astype(np.float64) / 16, labels)
    return classifier(
        "digits_logistic", "Handwritten digits 8x8: logistic regression.", "scores",
        [helper.make_node("Gemm", ["scaled", "weight", "bias"], ["scores"], name="linear")],
        {"weight": fitted.coef_.T.astype(np.float32), "bias": fitted.intercept_.astype(np.float32)})


def columns(images, k=3):
    """All k x k patches (zero padding) as rows: [n*h*w, channels*k*k]."""
    n, c, h, w = images.shape
    padded = np.pad(images, ((0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    view = np.lib.stride_tricks.sliding_window_view(padded, (k, k), axis=(2, 3))
    return view.transpose(0, 2, 3, 1, 4, 5).reshape(n * h * w, c * k * k)


def spread(patches, shape, k=3):
    """The adjoint of columns: adds each patch back to where it was taken from."""
    n, c, h, w = shape
    out = np.zeros((n, c, h + k - 1, w + k - 1), patches.dtype)
    patches = patches.reshape(n, h, w, c, k, k)
    for i in range(k):
        for j in range(k):
            out[:, :, i:i + h, j:j + w] += patches[..., i, j].transpose(0, 3, 1, 2)
    return out[:, :, k // 2:k // 2 + h, k // 2:k // 2 + w]


class Convolutional:
    """Two 3x3 convolutions, a 2x2 maximum and a linear layer, trained by Adam in plain NumPy."""

    def __init__(self, random):
        def weights(rows, cols):
            return random.normal(0, np.sqrt(2 / rows), (rows, cols))
        self.p = {"conv1": weights(9, 12), "bias1": np.zeros(12), "conv2": weights(108, 24), "bias2": np.zeros(24),
                  "dense": weights(384, 10), "bias3": np.zeros(10)}
        self.m = {k: np.zeros_like(v) for k, v in self.p.items()}
        self.v = {k: np.zeros_like(v) for k, v in self.p.items()}
        self.steps = 0

    def gradients(self, images, labels, random, drop=0.3):
        p, n = self.p, len(images)
        c1 = columns(images)
        a1 = np.maximum(c1 @ p["conv1"] + p["bias1"], 0).reshape(n, 8, 8, -1).transpose(0, 3, 1, 2)
        c2 = columns(a1)
        a2 = np.maximum(c2 @ p["conv2"] + p["bias2"], 0).reshape(n, 4, 2, 4, 2, -1)
        pooled = a2.max(axis=(2, 4))
        flat = pooled.transpose(0, 3, 1, 2).reshape(n, -1)
        kept = (random.random_sample(flat.shape) >= drop) / (1 - drop)
        scores = (flat * kept) @ p["dense"] + p["bias3"]
        e = np.exp(scores - scores.max(axis=1, keepdims=True))
        error = e / e.sum(axis=1, keepdims=True)
        error[np.arange(n), labels] -= 1
        error /= n
        g = {"dense": (flat * kept).T @ error, "bias3": error.sum(axis=0)}
        back = ((error @ p["dense"].T) * kept).reshape(n, -1, 4, 4).transpose(0, 2, 3, 1)
        back = back[:, :, None, :, None, :] * ((a2 == pooled[:, :, None, :, None, :]) & (a2 > 0))
        back = back.reshape(n * 64, -1)
        g["conv2"], g["bias2"] = c2.T @ back, back.sum(axis=0)
        back = spread(back @ p["conv2"].T, a1.shape) * (a1 > 0)
        back = back.transpose(0, 2, 3, 1).reshape(n * 64, -1)
        g["conv1"], g["bias1"] = c1.T @ back, back.sum(axis=0)
        return g

    def step(self, grads, rate, decay=1e-4):
        self.steps += 1
        for k in sorted(self.p):
            g = grads[k] + decay * self.p[k]
            self.m[k] = 0.9 * self.m[k] + 0.1 * g
            self.v[k] = 0.999 * self.v[k] + 0.001 * g * g
            m, v = self.m[k] / (1 - 0.9 ** self.steps), self.v[k] / (1 - 0.999 ** self.steps)
            self.p[k] = self.p[k] - rate * m / (np.sqrt(v) + 1e-8)


def digits_v2(train, epochs=30, batch=64):
    images, labels = train[0].astype(np.float64).reshape(-1, 1, 8, 8) / 16, train[1]
    moves = [(d, r) for d in (-1, 0, 1) for r in (-1, 0, 1)]
    random = np.random.RandomState(SEED)
    net = Convolutional(random)
    for epoch in range(epochs):
        rate = 2e-3 * 0.5 * (1 + np.cos(np.pi * epoch / epochs))
        order = random.permutation(len(labels))
        for start in range(0, len(order), batch):
            pick = order[start:start + batch]
            move = random.randint(len(moves), size=len(pick))
            moved = np.stack([shifted(images[i], *moves[m]) for i, m in zip(pick, move)])
            net.step(net.gradients(moved, labels[pick], random), rate)
    p = {k: v.astype(np.float32) for k, v in net.p.items()}
    return classifier(
        "digits_convolutional", "Handwritten digits 8x8: small convolutional network, trained with shifted images.",
        "scores",
        [helper.make_node("Reshape", ["scaled", "plane"], ["picture"], name="unfold"),
         helper.make_node("Conv", ["picture", "conv1", "bias1"], ["c1"], name="conv1", kernel_shape=[3, 3], pads=[1] * 4),
         helper.make_node("Relu", ["c1"], ["a1"], name="relu1"),
         helper.make_node("Conv", ["a1", "conv2", "bias2"], ["c2"], name="conv2", kernel_shape=[3, 3], pads=[1] * 4),
         helper.make_node("Relu", ["c2"], ["a2"], name="relu2"),
         helper.make_node("MaxPool", ["a2"], ["pooled"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
         helper.make_node("Flatten", ["pooled"], ["flat"], name="flatten", axis=1),
         helper.make_node("Gemm", ["flat", "dense", "bias3"], ["scores"], name="dense")],
        {"plane": np.array([-1, 1, 8, 8], np.int64),
         "conv1": p["conv1"].T.reshape(12, 1, 3, 3), "bias1": p["bias1"],
         "conv2": p["conv2"].T.reshape(24, 12, 3, 3), "bias2": p["bias2"],
         "dense": p["dense"], "bias3": p["bias3"]})


def cancer_v1(train):
    rows, labels = train
    fitted = GradientBoostingClassifier(n_estimators=60, max_depth=3, learning_rate=0.2, subsample=0.8,
                                        random_state=SEED).fit(rows, labels)
    model = to_onnx(fitted, initial_types=[("measurements", FloatTensorType([None, rows.shape[1]]))],
                    options={"zipmap": False}, target_opset={"": OPSET, "ai.onnx.ml": 3})
    # The converter names its outputs itself; the demo wants names that say what they are.
    names = {"label": "diagnosis"}
    for node in model.graph.node:
        node.input[:] = [names.get(n, n) for n in node.input]
        node.output[:] = [names.get(n, n) for n in node.output]
    for value in (*model.graph.input, *model.graph.output):
        value.name = names.get(value.name, value.name)
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    # The converter lists the operator sets in the order of a set, which Python shuffles from run to run.
    imports = sorted(model.opset_import, key=lambda entry: entry.domain)
    del model.opset_import[:]
    model.opset_import.extend(imports)
    model.graph.name = "cancer_boosted_trees"
    model.doc_string = "Breast cancer: gradient-boosted trees; diagnosis 0 malignant, 1 benign."
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    return model


# ---------------------------------------------------------------- what is written

def accuracy(path, rows, labels):
    """Share of right answers by ONNX Runtime, so that it measures the file and not the training library."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    label, probabilities = session.run(None, {session.get_inputs()[0].name: rows})
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-4)
    right = int((label == labels).sum())
    return {"file": path.name, "rows": len(labels), "right": right, "accuracy": round(right / len(labels), 6)}


def write_rows(path, header, rows, labels):
    with open(path, "w", newline="") as f:
        out = csv.writer(f, lineterminator="\n")
        out.writerow(["label", *header])
        for row, label in zip(rows, labels):
            out.writerow([int(label), *(format(float(v), ".9g") for v in row)])


def write_request(path, name, rows):
    """A ready body for POST /v2/models/NAME/infer."""
    data = [int(v) if float(v).is_integer() else round(float(v), 6) for v in rows.reshape(-1)]
    body = {"inputs": [{"name": name, "datatype": "FP32", "shape": list(rows.shape), "data": data}]}
    path.write_text(json.dumps(body, separators=(",", ":")) + "\n")


def write_png(path, image, zoom=16):
    """An 8x8 image, dark on white, as a greyscale PNG; written by hand to stay the same in every version of a library."""
    grey = (255 - image.reshape(8, 8) * 255 / 16).astype(np.uint8).repeat(zoom, 0).repeat(zoom, 1)
    raw = b"".join(b"\0" + line.tobytes() for line in grey)
    # Stored, not deflated: compressors differ between zlib builds, and these bytes are compared.
    blocks = [raw[i:i + 65535] for i in range(0, len(raw), 65535)]
    stream = b"\x78\x01" + b"".join(
        struct.pack("<BHH", i == len(blocks) - 1, len(b), len(b) ^ 0xFFFF) + b for i, b in enumerate(blocks)
    ) + struct.pack(">I", zlib.adler32(raw))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", grey.shape[1], grey.shape[0], 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", stream) + chunk(b"IEND", b""))


def write_ascii(path, image):
    shades = " .:-=+*#%@"
    lines = ("".join(shades[int(v * 9 // 16)] * 2 for v in row).rstrip() for row in image.reshape(8, 8))
    path.write_text("\n".join(lines) + "\n")


def build(folder):
    train, (pixels, labels) = digits()
    cancer_train, (rows, diagnoses), names = cancer()
    for name, model in (("digits-v1.onnx", digits_v1(train)), ("digits-v2.onnx", digits_v2(train)),
                        ("cancer-v1.onnx", cancer_v1(cancer_train))):
        (folder / name).write_bytes(model.SerializeToString(deterministic=True))
    measured = {
        "digits-v1": accuracy(folder / "digits-v1.onnx", pixels, labels),
        "digits-v2": accuracy(folder / "digits-v2.onnx", pixels, labels),
        "cancer-v1": accuracy(folder / "cancer-v1.onnx", rows, diagnoses),
    }
    (folder / "accuracy.json").write_text(json.dumps(measured, indent=2) + "\n")
    write_rows(folder / "digits-heldout.csv", [f"pixel_{i // 8}_{i % 8}" for i in range(64)], pixels, labels)
    write_rows(folder / "cancer-heldout.csv", names, rows, diagnoses)
    easy, hard = threes(folder, pixels, labels)
    for name, row in (("three", easy), ("hard-three", hard)):
        write_request(folder / f"{name}.json", "image", pixels[row][None])
        write_png(folder / f"{name}.png", pixels[row])
        write_ascii(folder / f"{name}.txt", pixels[row])
    write_request(folder / "digits-batch.json", "image", pixels[:10])
    write_request(folder / "cancer.json", "measurements", rows[:2])
    return measured


def threes(folder, pixels, labels):
    """Two held-out rows: the three that version 1 is most certain of, and the first that only version 2 gets right."""
    answers, certain = [], None
    for name in ("digits-v1.onnx", "digits-v2.onnx"):
        session = onnxruntime.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"])
        label, probabilities = session.run(["label", "probabilities"], {"image": pixels})
        answers.append(label)
        certain = probabilities[:, 3] if certain is None else certain
    is_three = labels == 3
    easy = np.argmax(np.where(is_three, certain, -1))
    hard = np.flatnonzero(is_three & (answers[0] != 3) & (answers[1] == 3))[0]
    return int(easy), int(hard)


def differences(committed, trained):
    """What differs between two files, as lines for a person; none when they are the same bytes."""
    if not committed.exists():
        return ["not committed"]
    a, b = committed.read_bytes(), trained.read_bytes()
    if a == b:
        return []
    if committed.suffix != ".onnx":
        at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
        return [f"{len(a)} bytes committed, {len(b)} now, first difference at byte {at}"]
    old, new = onnx.load(committed), onnx.load(trained)
    lines = []
    weights = {t.name: numpy_helper.to_array(t) for t in old.graph.initializer}
    for t in new.graph.initializer:
        was, now = weights.pop(t.name, None), numpy_helper.to_array(t)
        if was is None or was.shape != now.shape:
            lines.append(f"initializer {t.name}: new, or of another shape")
        elif not np.array_equal(was, now):
            lines.append(f"initializer {t.name}: {(was != now).sum()} of {now.size} values, largest difference {abs(was - now).max():.3g}")
    lines += [f"initializer {name}: gone" for name in weights]
    old.graph.ClearField("initializer"), new.graph.ClearField("initializer")
    for part in ("graph", "opset_import", "metadata_props"):
        if str(getattr(old, part)) != str(getattr(new, part)):
            lines.append(f"the {part} besides initializers")
    return lines or ["only the encoding of the same content"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the committed files, write nothing here")
    options = parser.parse_args()
    if not options.check:
        for name, figures in build(HERE).items():
            print(f"{name}: {figures['right']} of {figures['rows']} held-out rows right ({figures['accuracy']:.2%})")
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        build(pathlib.Path(scratch))
        wrong = 0
        for path in sorted(pathlib.Path(scratch).iterdir()):
            found = differences(HERE / path.name, path)
            wrong += bool(found)
            print(f"{path.name}: {'; '.join(found) if found else 'the same bytes'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
