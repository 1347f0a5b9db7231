-- One request, again and again: PATH_OF, BODY_FILE and HEADER_LENGTH (for a binary body) come from the environment.
-- At the end it prints one line of JSON that foreign.py reads.
local file = assert(io.open(os.getenv("BODY_FILE"), "rb"))
wrk.method = "POST"
wrk.path = os.getenv("PATH_OF")
wrk.body = file:read("*a")
wrk.headers["Content-Type"] = "application/json"
if os.getenv("HEADER_LENGTH") then
	wrk.headers["Content-Type"] = "application/octet-stream"
	wrk.headers["Inference-Header-Content-Length"] = os.getenv("HEADER_LENGTH")
end
file:close()

function done(summary, latency, _)
	local e = summary.errors
	io.write(string.format('\n{"requests":%d,"us":%d,"p50":%d,"p99":%d,"failed":%d}\n', summary.requests, summary.duration,
		latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
