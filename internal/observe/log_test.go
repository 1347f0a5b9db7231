package observe_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"unicode"

	"github.com/penstock/penstock/internal/observe"
)

// nilError is an error whose text cannot be had from a nil pointer.
type nilError struct{ text string }

func (e *nilError) Error() string { return e.text }

func TestLogLinesCannotBeForged(t *testing.T) {
	const secret = "psk_0123456789abcdefghijklmnopqrstuvwxyz"
	hostile := map[string]string{
		"newline": "x\nlevel=ERROR msg=forged", "carriage return": "x\rgone", "ansi": "\x1b[2J\x1b]0;title\a",
		"c1 control": "\u009b31mred", "bidi": "abc\u202egpj.exe", "delete": "a\x7f\x7f", "separator": "a\u2028b\u0085c",
		"bad utf-8": "\xff\xfe\x9b31m", "quote": `" level=ERROR msg="forged`, "json": `","level":"ERROR`,
		"zero width": "a\u200bb", "far away": "\U000e0041x", "backslash": `\u001b\n`, "nul": "a\x00b",
	}
	for _, format := range []string{"text", "json"} {
		for name, value := range hostile {
			t.Run(format+"/"+name, func(t *testing.T) {
				var out bytes.Buffer
				log, err := observe.NewLogger(&out, format, slog.LevelInfo)
				if err != nil {
					t.Fatal(err)
				}
				log.Info(value, "value", value, "error", errors.New(value), "any", struct{ X string }{value},
					slog.Group("group", "bytes", []byte(value)), value, "as key")
				line := out.String()
				if strings.Count(line, "\n") != 1 || !strings.HasSuffix(line, "\n") {
					t.Errorf("not one line: %q", line)
				}
				for _, r := range strings.TrimSuffix(line, "\n") {
					if !unicode.IsPrint(r) || r == unicode.ReplacementChar && name != "bad utf-8" {
						t.Errorf("raw %U in %q", r, line)
					}
				}
				if format == "json" {
					var got map[string]any
					if err := json.Unmarshal(out.Bytes(), &got); err != nil || got["level"] != "INFO" {
						t.Errorf("%v: %s", err, line)
					}
				} else if strings.Count(line, " level=") > 0 && !strings.Contains(line, `"`) {
					t.Errorf("unquoted: %s", line)
				}
			})
		}
		t.Run(format+"/secret", func(t *testing.T) {
			var out bytes.Buffer
			log, _ := observe.NewLogger(&out, format, slog.LevelInfo)
			log.Info("psk_ "+secret, "header", "Bearer "+secret, "hint", "psk_…wxyz")
			if strings.Contains(out.String(), secret[4:12]) || strings.Count(out.String(), "****") == 0 {
				t.Errorf("secret shown: %s", out.String())
			}
			if !strings.Contains(out.String(), "psk_…wxyz") {
				t.Errorf("hint hidden: %s", out.String())
			}
		})
	}
}

func TestLoggerBoundsAndRequestID(t *testing.T) {
	var out bytes.Buffer
	log, err := observe.NewLogger(&out, "json", slog.LevelInfo)
	if err != nil {
		t.Fatal(err)
	}
	var broken *nilError
	log.With("room", "test").DebugContext(context.Background(), "below the level")
	log.With("room", "test").InfoContext(observe.WithRequestID(context.Background(), "r-7"), "said",
		"long", strings.Repeat("x", 1<<20), "broken", broken)
	var got map[string]string
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got["request_id"] != "r-7" || got["room"] != "test" || len(got["long"]) > 9000 || got["broken"] == "" {
		t.Errorf("line of %d bytes: %.300s", out.Len(), out.String())
	}
	if _, err := observe.NewLogger(&out, "yaml", slog.LevelInfo); err == nil {
		t.Error("yaml is taken")
	}
}
