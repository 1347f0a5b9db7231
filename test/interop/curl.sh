#!/usr/bin/env bash
# A client of the Open Inference Protocol made of curl alone.
#
#   curl.sh HTTP-ADDRESS GRPC-ADDRESS DEMO-FOLDER
#
# It expects the demo's digits (version 1) to be deployed. Its last line is "N passed, N failed".
set -uo pipefail
base=http://$1/v2 demo=$3
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
passed=0 failed=0

call() { curl -sS --max-time 30 "$@"; }
status() { call -o "$folder/body" -w '%{http_code}' "$@"; }

# check NAME EXPECTED FOUND
check() {
	if [ "$2" = "$3" ]; then
		passed=$((passed + 1))
		echo "ok   curl: $1"
	else
		failed=$((failed + 1))
		echo "FAIL curl: $1: expected '$2', found '${3:0:500}'"
	fi
}

# refused NAME STATUS WORD ARGUMENTS...: the status, and a body of the form {"error":"... WORD ..."}
refused() {
	local name=$1 want=$2 word=$3 found
	shift 3
	found=$(status "$@")
	check "$name" "$want" "$found"
	grep -qE '^\{"error":".*'"$word"'.*"\}$' "$folder/body"
	check "$name, its message" 0 $?
}

# request ROWS: the first rows that were held out, as JSON tensors
request() {
	head -n $(($1 + 1)) "$demo/digits-heldout.csv" | tail -n "$1" | cut -d, -f2- | paste -sd, - |
		sed 's/.*/{"id":"c-1","inputs":[{"name":"image","datatype":"FP32","shape":['"$1"',64],"data":[&]}]}/'
}

# labels: the label tensor's data of an answer
labels() { sed -E 's/.*"name":"label"[^}]*"data":\[([^]]*)\].*/\1/'; }

for path in health/live health/ready models/digits/ready; do check "$path" 200 "$(status "$base/$path")"; done
check "server metadata" 200 "$(status "$base")"
check "server metadata has extensions" 1 "$(grep -c '"extensions":\[' "$folder/body")"
check "model metadata" 200 "$(status "$base/models/digits")"
check "model metadata names the input" 1 "$(grep -c '"name":"image","datatype":"FP32","shape":\[-1,64\]' "$folder/body")"

check "a three" 3 "$(call "$base/models/digits/infer" -d @"$demo/three.json" | labels)"
total=$(($(wc -l <"$demo/digits-heldout.csv") - 1))
right=$(request "$total" | call "$base/models/digits/infer" --data-binary @- | labels | tr , '\n' | paste -d, - <(tail -n +2 "$demo/digits-heldout.csv" | cut -d, -f1) | awk -F, '$1 == $2' | wc -l)
check "accuracy" "$(tr -d ' \n' <"$demo/accuracy.json" | sed -E 's/.*"digits-v1":\{[^}]*"right":([0-9]+).*/\1/')" "$right"

request 1 >"$folder/one.json"
check "the id comes back" 1 "$(call "$base/models/digits/infer" -d @"$folder/one.json" | grep -c '"id":"c-1"')"
gzip -c "$folder/one.json" >"$folder/one.gz"
check "a gzip body" 200 "$(status "$base/models/digits/infer" -H 'Content-Encoding: gzip' --data-binary @"$folder/one.gz")"
for encoding in gzip deflate; do
	request 300 | call "$base/models/digits/infer" -H "Accept-Encoding: $encoding" --compressed -D "$folder/headers" -o "$folder/body" --data-binary @-
	check "an answer in $encoding" 1 "$(grep -ciE "^content-encoding: $encoding" "$folder/headers")"
	check "an answer in $encoding is the same" "$(request 300 | call "$base/models/digits/infer" --data-binary @- | labels)" "$(labels <"$folder/body")"
done
check "version 1 of the protocol" 3 "$(sed -E 's/.*("data":)(\[[^]]*\]).*/{"instances":[\2]}/' "$demo/three.json" | call "http://$1/v1/models/digits:predict" --data-binary @- | sed -E 's/.*"label":([0-9]+).*/\1/')"
check "a body in chunks" 200 "$(status "$base/models/digits/infer" -H 'Transfer-Encoding: chunked' --data-binary @"$folder/one.json")"
check "a body announced with Expect" 200 "$(status "$base/models/digits/infer" -H 'Expect: 100-continue' --data-binary @"$folder/one.json")"
check "HTTP/1.0" 200 "$(status -0 "$base/models/digits/infer" --data-binary @"$folder/one.json")"
check "HEAD of health" 200 "$(status -I "$base/health/ready")"

# 64 floats of zero: a raw binary request, and the same with a JSON header
head -c 256 /dev/zero >"$folder/zeros"
check "a raw binary request" 200 "$(status "$base/models/digits/infer" -H 'Content-Type: application/octet-stream' -H 'Inference-Header-Content-Length: 0' --data-binary @"$folder/zeros")"
printf '{"inputs":[{"name":"image","datatype":"FP32","shape":[1,64],"parameters":{"binary_data_size":256}}]}' >"$folder/head"
cat "$folder/head" "$folder/zeros" >"$folder/binary"
length=$(stat -c %s "$folder/head")
check "a binary tensor" 200 "$(status "$base/models/digits/infer" -H "Inference-Header-Content-Length: $length" --data-binary @"$folder/binary")"
binary=$(labels <"$folder/body")
zeros=$(printf '0,%.0s' {1..63})0
check "the same as JSON" "$binary" "$(call "$base/models/digits/infer" -d '{"inputs":[{"name":"image","datatype":"FP32","shape":[1,64],"data":['"$zeros"']}]}' | labels)"

refused "an unknown model" 404 nobody "$base/models/nobody/infer" -d @"$folder/one.json"
refused "an unknown path" 404 'Not Found' "$base/nothing"
refused "a wrong method" 405 'Method Not Allowed' "$base/models/digits/infer"
refused "no JSON" 400 . "$base/models/digits/infer" -d 'hello'
refused "an empty body" 400 . "$base/models/digits/infer" -X POST -H 'Content-Length: 0'
refused "a wrong shape" 400 image "$base/models/digits/infer" -d "$(sed 's/\[1,64\]/[64,1]/' "$folder/one.json")"
refused "too short a binary tensor" 400 . "$base/models/digits/infer" -H "Inference-Header-Content-Length: $length" --data-binary @"$folder/head"
check "an answer after all that" 200 "$(status "$base/models/digits/infer" -d @"$folder/one.json")"

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
