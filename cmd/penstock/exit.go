package main

import (
	"errors"
	"fmt"

	"github.com/penstock/penstock/api"
)

// The exit codes of every command.
const (
	exitDone    = 0
	exitFailed  = 1 // the server or the network failed, a release failed, or diff found differences
	exitUsage   = 2 // the command line is wrong
	exitMissing = 3 // what was named does not exist
	exitRefused = 4 // the server understood and refused
)

// errDifferences is diff's answer that there are some; it has been printed already.
var errDifferences = errors.New("there are differences")

// exitCode maps kinds of error to exit codes, here alone.
func exitCode(err error) int {
	var ran ranError
	var used usageError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &used), !errors.As(err, &ran):
		return exitUsage
	}
	switch api.KindOf(err) {
	case api.NotFound:
		return exitMissing
	case api.Invalid, api.Refused, api.Forbidden, api.Unauthenticated, api.Conflict, api.Stale, api.TooLarge, api.Unsupported:
		return exitRefused
	}
	return exitFailed
}

// exit tells the error and its cure, and gives the exit code.
func (a *app) exit(err error) int {
	code := exitCode(err)
	if err == nil || errors.Is(err, errDifferences) {
		return code
	}
	fmt.Fprintf(a.err, "error: %s\n", printable(err.Error()))
	var ours *api.Error
	switch {
	case errors.As(err, &ours) && ours.Cure != "":
		fmt.Fprintf(a.err, "cure: %s\n", printable(ours.Cure))
	case code == exitUsage:
		fmt.Fprintln(a.err, "cure: see `penstock COMMAND --help`")
	}
	return code
}
