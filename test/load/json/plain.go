//go:build !goexperiment.jsonv2

package main

// experiments are decoders that need an experiment of the toolchain.
func experiments() []*decoder { return nil }
