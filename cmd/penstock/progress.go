package main

import (
	"io"

	"github.com/schollz/progressbar/v3"
)

// progress is a bar on a terminal, and nothing elsewhere.
type progress struct{ bar *progressbar.ProgressBar }

// progress begins a bar of so many bytes; -1 is unknown.
func (a *app) progress(bytes int64, what string) progress {
	if !a.terminal {
		return progress{}
	}
	return progress{progressbar.NewOptions64(bytes, progressbar.OptionSetWriter(a.err), progressbar.OptionSetDescription(printable(what)),
		progressbar.OptionShowBytes(true), progressbar.OptionClearOnFinish(), progressbar.OptionSetWidth(30), progressbar.OptionThrottle(65_000_000))}
}

// Write counts bytes that pass.
func (p progress) Write(b []byte) (int, error) {
	if p.bar == nil {
		return len(b), nil
	}
	return p.bar.Write(b)
}

func (p progress) set(bytes int64) {
	if p.bar != nil {
		_ = p.bar.Set64(bytes) // a bar that cannot be drawn is not drawn
	}
}

func (p progress) finish() {
	if p.bar != nil {
		_ = p.bar.Finish()
	}
}

var _ io.Writer = progress{}
