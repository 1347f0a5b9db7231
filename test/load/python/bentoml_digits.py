"""The demo model under BentoML. The file's path is in MODEL."""
import os

import bentoml
import numpy
import onnxruntime


# One worker per core is what "Parallelize requests handling" recommends for work that the processor bounds.
@bentoml.service(workers="cpu_count", metrics={"enabled": False}, logging={"access": {"enabled": False}})
class Digits:
    """Runs an ONNX file with one thread per worker: as many workers as there are cores share them."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])

    @bentoml.api
    def predict(self, image: numpy.ndarray) -> dict:
        label, probabilities = self.session.run(["label", "probabilities"], {"image": image.astype(numpy.float32, copy=False)})
        return {"label": label.tolist(), "probabilities": probabilities.tolist()}
