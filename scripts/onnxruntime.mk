# ONNX Runtime's shared library: fetched from npm at the locked version, packed into internal/ort/lib, skipped when there.
ONNXRUNTIME_LIB := internal/ort/lib/onnxruntime-linux-$(shell go env GOARCH).so.zst

.PHONY: onnxruntime
onnxruntime: $(ONNXRUNTIME_LIB) ## Fetch ONNX Runtime's shared library and pack it for embedding

$(ONNXRUNTIME_LIB): third_party/onnxruntime-node/package-lock.json third_party/onnxruntime-node/package.json scripts/fetch-onnxruntime/main.go
	go run ./scripts/fetch-onnxruntime
	@touch $@
