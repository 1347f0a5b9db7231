package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/api"
)

// TestTopFitsItsWidth gives up columns, the least important first, until the table fits, and never a line that does not.
func TestTopFitsItsWidth(t *testing.T) {
	s := api.Statistics{Window: 10 * time.Second, Endpoints: []api.EndpointStatistics{
		{Endpoint: "digits", Rate: 48_231, Errors: .04, P50: 812 * time.Microsecond, P95: 12 * time.Millisecond, P99: 1200 * time.Millisecond, Rows: 15.9,
			CacheAsked: 1, CacheHits: .914, CacheBytes: 77 << 20, CacheLimit: 1 << 30, InFlight: 31, Recent: []float64{0, 1, 2, 3, 4, 5, 6, 7, 8}},
		{Endpoint: "a-name-that-is-rather-long\x1b[31m", Recent: []float64{}}},
		Shares:  []api.TenantShare{{Tenant: "acme\x1b[31m", Weight: 4, Part: .712, Spent: 38 * time.Second, Waiting: 11, Refused: map[string]int64{"over_share": 310}}},
		Workers: []api.WorkerStatistics{{Worker: api.Worker{Name: "w1", State: "ready", PID: 4242, Resident: 190 << 20, Instances: []string{"i"}}, InFlight: 3}}}
	for width := 20; width <= 220; width++ {
		picture := string(frame(drawTop(s, width), width, 50))
		for i, line := range strings.Split(picture, "\r\n") {
			text := strings.NewReplacer(screenHome, "", lineRest, "", screenRest, "").Replace(line)
			if n := len([]rune(text)); n > width || strings.Contains(text, "\x1b") {
				t.Fatalf("width %d: line %d has %d columns: %q", width, i, n, text)
			}
		}
		if !strings.Contains(picture, "REQ/S") && width > 45 {
			t.Errorf("width %d has no rate", width)
		}
	}
	wide := strings.Join(drawTop(s, 0), "\n")
	for _, want := range []string{"48.2k", "812us", "12.0ms", "1.2s", "91%", "77.0 MiB", " ▁▂▃▄▅▆▇█", "w1", "190.0 MiB", "2 endpoints", "71.2%", "310", "38.0s"} {
		if !strings.Contains(wide, want) {
			t.Errorf("%q is not in\n%s", want, wide)
		}
	}
	if low := string(frame(drawTop(s, 80), 80, 4)); strings.Count(low, "\r\n") != 3 || !strings.Contains(low, "lines more") {
		t.Errorf("four lines: %q", low)
	}
}

func TestFewCharacters(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "-", 999: "1us", 999_499: "999us", 999_600: "1.00ms", 9_994_000: "9.99ms", 9_996_000: "10.0ms",
		99_960_000: "100ms", time.Minute: "60.0s"} {
		if got := brief(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
	for f, want := range map[float64]string{0: "0", 0.04: "<0.1", 1: "1", 9.94: "9.9", 9.96: "10", 9999: "9999", 10_000: "10.0k", 999_400: "999.4k", 2.5e6: "2.5M"} {
		if got := number(f); got != want {
			t.Errorf("%v is %q, want %q", f, got, want)
		}
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "65536": 65536, "64KiB": 64 << 10, "64 MiB": 64 << 20, "1GB": 1e9, "2tib": 2 << 40, "3M": 3e6, "7B": 7,
		"": -1, "MiB": -1, "-1": -1, "1.5GiB": -1, "9999999TiB": -1, "1KiKi": -1, "1iB": -1, "1BB": -1} {
		got, err := parseSize(text)
		if err != nil {
			got = -1
		}
		if got != want {
			t.Errorf("%q is %d, want %d", text, got, want)
		}
	}
}

// terminal opens a pair of a real terminal's ends.
func terminal(t *testing.T, columns, rows uint16) (person, program *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { person.Close() })
	if err := unix.IoctlSetPointerInt(int(person.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(person.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprint("/dev/pts/", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	if err := unix.IoctlSetWinsize(int(person.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: rows}); err != nil {
		t.Fatal(err)
	}
	return person, program
}

// TestTopOnATerminal watches on a real terminal, presses q, and finds the terminal as it was before.
func TestTopOnATerminal(t *testing.T) {
	d := sit(t)
	for _, key := range []string{"q", "\x03"} {
		person, program := terminal(t, 72, 20)
		before, err := unix.IoctlGetTermios(int(program.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan int, 1)
		var errs bytes.Buffer
		go func() {
			ended <- run(t.Context(), []string{"top", "--every", "200ms"}, surroundings{in: program, out: program, err: &errs, env: func(k string) string { return d.env[k] }})
		}()
		var seen bytes.Buffer
		part := make([]byte, 4096)
		for strings.Count(seen.String(), screenRest) < 3 { // three pictures
			n, err := person.Read(part)
			if err != nil {
				t.Fatal(err)
			}
			seen.Write(part[:n])
		}
		if _, err := person.WriteString(key); err != nil {
			t.Fatal(err)
		}
		for !strings.HasSuffix(seen.String(), screenLeave) {
			n, err := person.Read(part)
			if err != nil {
				t.Fatal(err)
			}
			seen.Write(part[:n])
		}
		if code := <-ended; code != 0 {
			t.Errorf("exit %d: %s", code, errs.String())
		}
		after, err := unix.IoctlGetTermios(int(program.Fd()), unix.TCGETS)
		if err != nil || *after != *before {
			t.Errorf("the terminal stays changed: %v, %v", after, err)
		}
		if text := seen.String(); !strings.HasPrefix(text, screenEnter+screenHome) || !strings.Contains(text, "1234") || !strings.Contains(text, "digits") {
			t.Errorf("drawn: %q", text[:min(len(text), 600)])
		}
	}
}
