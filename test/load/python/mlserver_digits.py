"""The demo model under MLServer: a custom runtime as its guide "Custom Inference Runtimes" has it."""
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Digits(MLModel):
    """Runs an ONNX file with one thread per worker: as many workers as there are cores share them."""

    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(self.settings.parameters.uri, options, providers=["CPUExecutionProvider"])
        self.names = [output.name for output in self.session.get_outputs()]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        given = {i.name: NumpyCodec.decode_input(i) for i in payload.inputs}
        found = self.session.run(self.names, given)
        outputs = [NumpyCodec.encode_output(name, value) for name, value in zip(self.names, found)]
        return InferenceResponse(model_name=self.name, outputs=outputs)
