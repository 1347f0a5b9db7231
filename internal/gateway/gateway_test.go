package gateway_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/gateway"
)

func TestValidate(t *testing.T) {
	if err := gateway.DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
	err := gateway.Config{TensorBytes: 1 << 40}.Validate()
	for _, name := range []string{"HeaderBytes", "JSONBytes", "TensorBytes", "InFlightBytes", "InflateRatio", "StreamsPerConn", "ConnsPerAddress",
		"HeaderTimeout", "IdleTimeout", "BodyGrace", "BodyBytesPerSec", "MessageTimeout", "WriteTimeout"} {
		if err == nil || !strings.Contains(err.Error(), name+" is ") {
			t.Errorf("%s is not reported in %v", name, err)
		}
	}
	if _, err := gateway.New(gateway.Options{}); err == nil {
		t.Error("a server without limits was made")
	}
}

// TestErrorMaps goes over the whole catalogue: every code must have a fitting answer in both protocols.
func TestErrorMaps(t *testing.T) {
	want := map[api.Kind]codes.Code{api.Internal: codes.Internal, api.Invalid: codes.InvalidArgument, api.Unauthenticated: codes.Unauthenticated,
		api.Forbidden: codes.PermissionDenied, api.NotFound: codes.NotFound, api.Conflict: codes.Aborted, api.Stale: codes.Aborted,
		api.TooLarge: codes.ResourceExhausted, api.Refused: codes.FailedPrecondition, api.Exhausted: codes.ResourceExhausted,
		api.Unavailable: codes.Unavailable, api.Deadline: codes.DeadlineExceeded, api.Canceled: codes.Canceled, api.Unsupported: codes.Unimplemented,
		api.Storage: codes.Internal}
	for _, info := range api.Catalogue {
		e := api.Fail(info.Code, "", "x")
		code, status := want[info.Kind], info.Kind.HTTPStatus()
		if info.Code == api.CodeQueueFull {
			code, status = codes.Unavailable, http.StatusServiceUnavailable
		}
		if got := gateway.Code(e); got != code {
			t.Errorf("%s: gRPC %v, want %v", info.Code, got, code)
		}
		if got := gateway.HTTPStatus(e); got != status || got < 400 {
			t.Errorf("%s: HTTP %d, want %d", info.Code, got, status)
		}
	}
}

func TestMounts(t *testing.T) {
	g, err := gateway.New(gateway.Options{Config: gateway.DefaultConfig(), Ready: func() bool { return true }})
	if err != nil {
		t.Fatal(err)
	}
	g.Handle("/v2", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	for path, want := range map[string]int{"/v2": 418, "/v2/": 418, "/v2/x": 418, "/v22": 404, "/": 404, "/v1/v2": 404} {
		w := httptest.NewRecorder()
		g.Handler().ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != want {
			t.Errorf("%s: %d, want %d", path, w.Code, want)
		}
	}
}
