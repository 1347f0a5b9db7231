package oip

import "github.com/penstock/penstock/api"

// AppendServerMetadata appends the JSON that describes the server.
func AppendServerMetadata(dst []byte, name, version string, extensions []string) []byte {
	dst = append(dst, `{"name":`...)
	dst = appendString(dst, name)
	dst = append(dst, `,"version":`...)
	dst = appendString(dst, version)
	dst = append(dst, `,"extensions":`...)
	return append(appendStrings(dst, extensions), '}')
}

// AppendModelMetadata appends the JSON that describes a model.
func AppendModelMetadata(dst []byte, name string, versions []string, platform string, signature api.Signature) []byte {
	dst = append(dst, `{"name":`...)
	dst = appendString(dst, name)
	dst = append(dst, `,"versions":`...)
	dst = appendStrings(dst, versions)
	dst = append(dst, `,"platform":`...)
	dst = appendString(dst, platform)
	dst = append(dst, `,"inputs":`...)
	dst = appendSpecs(dst, signature.Inputs)
	dst = append(dst, `,"outputs":`...)
	return append(appendSpecs(dst, signature.Outputs), '}')
}

// AppendError appends the error body of the protocol.
func AppendError(dst []byte, text string) []byte {
	return append(appendString(append(dst, `{"error":`...), text), '}')
}

// AppendModelReady appends the JSON that says that a model is ready.
func AppendModelReady(dst []byte, name string) []byte {
	dst = append(dst, `{"name":`...)
	dst = appendString(dst, name)
	return append(dst, `,"ready":true}`...)
}

func appendStrings(dst []byte, list []string) []byte {
	dst = append(dst, '[')
	for i, s := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendString(dst, s)
	}
	return append(dst, ']')
}

func appendSpecs(dst []byte, specs []api.TensorSpec) []byte {
	dst = append(dst, '[')
	for i := range specs {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"name":`...)
		dst = appendString(dst, specs[i].Name)
		dst = append(dst, `,"datatype":`...)
		dst = appendString(dst, specs[i].Datatype)
		dst = append(dst, `,"shape":`...)
		dst = append(appendShape(dst, specs[i].Shape), '}')
	}
	return append(dst, ']')
}
