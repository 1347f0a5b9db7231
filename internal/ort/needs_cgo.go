//go:build !cgo

package ort

// Without cgo this package cannot exist; the compiler then prints the name below, which says what to do.
var _ = this_needs_CGO_ENABLED_1_and_a_C_compiler_install_gcc_and_libc6_dev
