#!/usr/bin/env node
// A client of the Open Inference Protocol made from the protocol alone, with nothing but Node's own fetch.
//
//   client.mjs HTTP-ADDRESS GRPC-ADDRESS DEMO-FOLDER
//
// It expects the demo's digits (version 1) and cancer to be deployed. Its last line is "N passed, N failed".
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { gzipSync, deflateSync } from "node:zlib";

const [address, , demo] = process.argv.slice(2);
const base = `http://${address}/v2`;
const patience = 30_000; // milliseconds for one request

const accuracy = JSON.parse(readFileSync(`${demo}/accuracy.json`, "utf8"));
const table = readFileSync(`${demo}/digits-heldout.csv`, "utf8").trim().split("\n").slice(1).map((line) => line.split(",").map(Number));
const labels = table.map((row) => row[0]);
const pixels = table.map((row) => row.slice(1));

async function call(path, options = {}) {
	const answer = await fetch(path.startsWith("/") ? `http://${address}${path}` : base + (path && "/" + path), { signal: AbortSignal.timeout(patience), ...options });
	return { status: answer.status, headers: answer.headers, bytes: new Uint8Array(await answer.arrayBuffer()) };
}

const text = (answer) => new TextDecoder("utf-8", { fatal: true }).decode(answer.bytes);
const json = (answer) => JSON.parse(text(answer));
const post = (path, body, headers = {}) => call(path, { method: "POST", body, headers });
const infer = (model, request, headers = {}) => post(`models/${model}/infer`, JSON.stringify(request), { "content-type": "application/json", ...headers });

function ok(answer) {
	if (answer.status !== 200) assert.fail(`status ${answer.status}: ${text(answer)}`);
	return answer;
}

function refused(answer, status, word) {
	assert.equal(answer.status, status, text(answer));
	const body = json(answer);
	assert.deepEqual(Object.keys(body), ["error"]);
	assert.match(body.error, word);
}

const image = (rows, more = {}) => ({ name: "image", shape: [rows.length, 64], datatype: "FP32", data: rows.flat(), ...more });
const output = (body, name) => body.outputs.find((tensor) => tensor.name === name);

// packed makes a binary body: JSON, then the bytes of the tensors in the order of the inputs.
function packed(request, ...tensors) {
	const head = new TextEncoder().encode(JSON.stringify(request));
	const body = Buffer.concat([head, ...tensors.map((t) => Buffer.from(t.buffer, t.byteOffset, t.byteLength))]);
	return { body, headers: { "content-type": "application/octet-stream", "inference-header-content-length": String(head.length) } };
}

// unpacked takes a binary answer apart: its JSON, and the bytes of each binary output by name.
function unpacked(answer) {
	const length = Number(answer.headers.get("inference-header-content-length"));
	assert.ok(length > 0, "no Inference-Header-Content-Length");
	const body = JSON.parse(new TextDecoder().decode(answer.bytes.subarray(0, length)));
	let at = length;
	const tensors = {};
	for (const { name, parameters } of body.outputs) {
		const size = parameters?.binary_data_size;
		if (size === undefined) continue;
		tensors[name] = answer.bytes.slice(at, at + size).buffer;
		at += size;
	}
	assert.equal(at, answer.bytes.length, "the sizes do not add up to the body");
	return { body, tensors };
}

const binaryImage = (rows) => ({ name: "image", shape: [rows.length, 64], datatype: "FP32", parameters: { binary_data_size: rows.length * 256 } });

const tests = {
	async "health"() {
		for (const path of ["health/live", "health/ready", "models/digits/ready"]) ok(await call(path));
		assert.notEqual((await call("models/nobody/ready")).status, 200);
	},
	async "metadata"() {
		const server = json(ok(await call("")));
		assert.ok(server.name && server.version && Array.isArray(server.extensions));
		assert.ok(server.extensions.includes("binary_tensor_data"));
		const model = json(ok(await call("models/digits")));
		assert.equal(model.name, "digits");
		assert.deepEqual(model.inputs, [{ name: "image", datatype: "FP32", shape: [-1, 64] }]);
		assert.deepEqual(model.outputs, [{ name: "label", datatype: "INT64", shape: [-1] }, { name: "probabilities", datatype: "FP32", shape: [-1, 10] }]);
	},
	async "accuracy with JSON tensors"() {
		const body = json(ok(await infer("digits", { inputs: [image(pixels)] })));
		const found = output(body, "label");
		assert.deepEqual(found.shape, [labels.length]);
		assert.equal(found.data.filter((l, i) => l === labels[i]).length, accuracy["digits-v1"].right);
	},
	async "nested data"() {
		const flat = json(ok(await infer("digits", { inputs: [image(pixels.slice(0, 5))] })));
		const nested = json(ok(await infer("digits", { inputs: [image(pixels.slice(0, 5), { data: pixels.slice(0, 5) })] })));
		assert.deepEqual(nested.outputs, flat.outputs);
	},
	async "accuracy with binary tensors"() {
		const { body, headers } = packed({ inputs: [binaryImage(pixels)], parameters: { binary_data_output: true } }, Float32Array.from(pixels.flat()));
		const { tensors } = unpacked(ok(await post("models/digits/infer", body, headers)));
		const found = [...new BigInt64Array(tensors.label)].map(Number);
		assert.equal(found.filter((l, i) => l === labels[i]).length, accuracy["digits-v1"].right);
		assert.equal(new Float32Array(tensors.probabilities).length, labels.length * 10);
	},
	async "binary and JSON outputs in one answer"() {
		const rows = pixels.slice(0, 3);
		for (const [binary, plain] of [["label", "probabilities"], ["probabilities", "label"]]) {
			const request = { inputs: [binaryImage(rows)], parameters: { binary_data_output: false }, outputs: [{ name: binary, parameters: { binary_data: true } }, { name: plain, parameters: { binary_data: false } }] };
			const { body, headers } = packed(request, Float32Array.from(rows.flat()));
			const mixed = unpacked(ok(await post("models/digits/infer", body, headers)));
			const all = json(ok(await infer("digits", { inputs: [image(rows)] })));
			assert.deepEqual(output(mixed.body, plain).data, output(all, plain).data);
			const bytes = mixed.tensors[binary];
			const found = binary === "label" ? [...new BigInt64Array(bytes)].map(Number) : [...new Float32Array(bytes)];
			assert.deepEqual(found, output(all, binary).data.map((v) => (binary === "label" ? v : Math.fround(v))));
		}
	},
	async "JSON inputs, binary outputs"() {
		const answer = ok(await infer("digits", { inputs: [image(pixels.slice(0, 2))], parameters: { binary_data_output: true } }));
		assert.deepEqual([...new BigInt64Array(unpacked(answer).tensors.label)].length, 2);
	},
	async "a raw binary request"() {
		const { tensors } = unpacked(ok(await post("models/digits/infer", Float32Array.from(pixels[0]), { "content-type": "application/octet-stream", "inference-header-content-length": "0" })));
		const all = json(ok(await infer("digits", { inputs: [image(pixels.slice(0, 1))] })));
		assert.deepEqual([...new BigInt64Array(tensors.label)].map(Number), output(all, "label").data);
	},
	async "id and requested outputs"() {
		const id = 'ünïque "42"\n';
		const body = json(ok(await infer("digits", { id, inputs: [image(pixels.slice(0, 1))], outputs: [{ name: "label" }] })));
		assert.equal(body.id, id);
		assert.equal(body.model_name, "digits");
		assert.deepEqual(body.outputs.map((o) => o.name), ["label"]);
		assert.ok(!("id" in json(ok(await infer("digits", { inputs: [image(pixels.slice(0, 1))] })))), "an id that nobody gave");
	},
	async "a version in the path"() {
		const { versions } = json(ok(await call("models/digits")));
		ok(await call(`models/digits/versions/${versions.at(-1)}/ready`));
		const body = json(ok(await infer(`digits/versions/${versions.at(-1)}`, { inputs: [image(pixels.slice(0, 1))] })));
		assert.equal(body.model_version, versions.at(-1));
		refused(await infer("digits/versions/999999", { inputs: [image(pixels.slice(0, 1))] }), 404, /digits/);
	},
	async "query strings are ignored"() {
		ok(await call("health/ready?x=1"));
		ok(await post("models/digits/infer?a=b&a=c", JSON.stringify({ inputs: [image(pixels.slice(0, 1))] })));
	},
	async "compressed requests"() {
		const plain = JSON.stringify({ inputs: [image(pixels)] });
		for (const [encoding, body] of [["gzip", gzipSync(plain)], ["deflate", deflateSync(plain)]]) {
			const found = output(json(ok(await post("models/digits/infer", body, { "content-encoding": encoding }))), "label").data;
			assert.equal(found.filter((l, i) => l === labels[i]).length, accuracy["digits-v1"].right, encoding);
		}
	},
	async "a large answer as fetch asks for it, compressed"() {
		const answer = ok(await infer("digits", { inputs: [image(pixels)] })); // fetch sends Accept-Encoding by itself
		assert.match(answer.headers.get("content-encoding") ?? "", /^(gzip|deflate)$/);
	},
	async "version 1 of the protocol"() {
		ok(await call("/v1/models/digits"));
		const answer = await post("/v1/models/digits:predict", JSON.stringify({ instances: pixels }));
		const { predictions } = json(ok(answer));
		assert.equal(predictions.filter((p, i) => p.label === labels[i]).length, accuracy["digits-v1"].right);
		refused(await post("/v1/models/nobody:predict", '{"instances":[[1]]}'), 404, /nobody/);
		refused(await post("/v1/models/digits:predict", '{"instances":[[1]]}'), 400, /./);
		refused(await post("/v1/models/digits:predict", "{}"), 400, /./);
	},
	async "errors"() {
		const one = { inputs: [image(pixels.slice(0, 1))] };
		refused(await infer("nobody", one), 404, /nobody/);
		refused(await call("models/nobody"), 404, /nobody/);
		refused(await infer("digits", { inputs: [{ ...one.inputs[0], name: "picture" }] }), 400, /picture/);
		refused(await infer("digits", { inputs: [{ ...one.inputs[0], shape: [1, 63] }] }), 400, /image/);
		refused(await infer("digits", { inputs: [{ ...one.inputs[0], datatype: "FP64" }] }), 400, /image/);
		refused(await infer("digits", { ...one, outputs: [{ name: "nothing" }] }), 400, /nothing/);
		refused(await infer("digits", { inputs: [] }), 400, /input/);
		refused(await post("models/digits/infer", '{"inputs":['), 400, /./);
		refused(await post("models/digits/infer", '{"inputs":[]} trailing'), 400, /./);
		refused(await call("models/digits/infer"), 405, /^Method Not Allowed$/);
		refused(await call("nothing/here"), 404, /^Not Found$/);
		ok(await infer("digits", one));
	},
	async "wrong binary sizes"() {
		const data = Float32Array.from(pixels[0]);
		const request = { inputs: [binaryImage(pixels.slice(0, 1))] };
		const { body, headers } = packed(request, data);
		const name = "inference-header-content-length";
		refused(await post("models/digits/infer", body.subarray(0, body.length - 1), headers), 400, /./);
		refused(await post("models/digits/infer", Buffer.concat([body, Buffer.from([0])]), headers), 400, /./);
		for (const wrong of [String(body.length + 1), "-1", "x", String(Number(headers[name]) - 1)]) {
			refused(await post("models/digits/infer", body, { ...headers, [name]: wrong }), 400, /./);
		}
		ok(await post("models/digits/infer", body, headers));
	},
	async "many at once"() {
		const answers = await Promise.all(pixels.slice(0, 100).map((row, i) => infer("digits", { id: String(i), inputs: [image([row])] })));
		const all = output(json(ok(await infer("digits", { inputs: [image(pixels.slice(0, 100))] }))), "label").data;
		answers.forEach((answer, i) => {
			const body = json(ok(answer));
			assert.equal(body.id, String(i));
			assert.equal(output(body, "label").data[0], all[i]);
		});
	},
};

let failed = 0;
for (const [name, test] of Object.entries(tests)) {
	try {
		await test();
		console.log(`ok   javascript: ${name}`);
	} catch (e) {
		failed++;
		console.log(`FAIL javascript: ${name}: ${String(e.message ?? e).slice(0, 1000)}`);
	}
}
console.log(`${Object.keys(tests).length - failed} passed, ${failed} failed`);
process.exitCode = failed ? 1 : 0;
