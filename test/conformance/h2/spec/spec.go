// Package spec only pins the conformance suite of HTTP/2 as a tool: see go.mod.
package spec
