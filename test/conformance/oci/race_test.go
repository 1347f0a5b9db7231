//go:build race

package oci_test

// raced says that the race detector watches: it takes several times the memory for itself.
const raced = true
