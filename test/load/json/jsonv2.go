//go:build goexperiment.jsonv2

package main

import jsonv2 "encoding/json/v2"

// experiments are decoders that need an experiment of the toolchain. With this one, encoding/json is a layer over v2.
func experiments() []*decoder {
	return []*decoder{{name: "encoding/json/v2", decode: into(func(body []byte, v any) error { return jsonv2.Unmarshal(body, v) })}}
}
