"""The demo model under LitServe.

    litserve_digits.py MODEL PORT WORKERS
"""
import os
import signal
import sys

import litserve
import numpy
import onnxruntime


class Digits(litserve.LitAPI):
    """Runs an ONNX file with one thread per worker: as many workers as there are cores share them."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def setup(self, device) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(self.path, options, providers=["CPUExecutionProvider"])

    def decode_request(self, request):
        return numpy.asarray(request["image"], dtype=numpy.float32)

    def predict(self, image):
        return self.session.run(["label", "probabilities"], {"image": image})

    def encode_response(self, output):
        return {"label": output[0].tolist(), "probabilities": output[1].tolist()}


if __name__ == "__main__":
    path, port, workers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    # Its HTTP processes outlive a parent that is told to end: the group, which is this server's own, ends as one.
    signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))
    server = litserve.LitServer(Digits(path), accelerator="cpu", workers_per_device=workers)
    server.run(host="127.0.0.1", port=port, log_level="error", generate_client_file=False, access_log=False)
