package onnx

import (
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
)

// SketchBytesMax is how many bytes of content one sketch reads; what lies behind is told apart by type and size alone.
const SketchBytesMax = 256 << 20

// Sketch is the main graph of a model with prints in the place of content, so that two can be compared.
type Sketch struct {
	Nodes   []SketchNode
	Tensors []SketchTensor
	Partly  bool // content beyond SketchBytesMax has no print
}

// SketchNode is one operator: what it is called, does, takes and gives, and a print of its attributes.
type SketchNode struct {
	Name       string
	Operator   string // "ai.onnx::MatMul"
	Inputs     []string
	Outputs    []string
	Attributes string // print; empty when there are none
}

// SketchTensor is an initializer. Print is of all that the file says of it, empty when it was not read.
type SketchTensor struct {
	Tensor
	Print string
}

// ReadSketch reads the main graph again. The model must be one that Read took under the same limits: it is not checked anew.
func ReadSketch(source io.ReaderAt, size int64, limits Limits) (*Sketch, error) {
	model, err := Read(source, size, limits)
	if err != nil {
		return nil, err
	}
	r := &reader{scanner: newScanner(source, size, limits.withDefaults()), model: model}
	out := &Sketch{Tensors: make([]SketchTensor, 0, len(model.Constants))}
	left := int64(SketchBytesMax)
	err = r.each(modelMessage, r.size, func(f item) error {
		if f.number != 7 {
			return nil
		}
		return r.each(graphMessage, f.end, func(f item) error { return r.sketch(out, f, &left) })
	})
	return out, err
}

func (r *reader) sketch(out *Sketch, f item, left *int64) (err error) {
	switch f.number {
	case 1:
		node, err := r.sketchNode(f, left)
		out.Nodes = append(out.Nodes, node)
		return err
	case 5, 15: // in the order in which Read keeps them: dense and sparse as they stand
		if len(out.Tensors) == len(r.model.Constants) {
			return nil
		}
		t := SketchTensor{Tensor: r.model.Constants[len(out.Tensors)]}
		if f.size() > *left {
			out.Partly = true
		} else {
			*left -= f.size()
			t.Print, err = r.print(f)
		}
		out.Tensors = append(out.Tensors, t)
	}
	return err
}

func (r *reader) sketchNode(at item, left *int64) (n SketchNode, _ error) {
	domain, operator := DomainDefault, ""
	attributes := sha256.New()
	given := false
	err := r.each(nodeMessage, at.end, func(f item) error {
		if f.number == 5 {
			if given = true; f.size() > *left {
				return nil
			}
			*left -= f.size()
			return r.feed(attributes, f)
		}
		if f.number > 4 && f.number != 7 {
			return nil
		}
		part, err := r.keptText(f)
		switch f.number {
		case 1:
			n.Inputs = append(n.Inputs, part)
		case 2:
			n.Outputs = append(n.Outputs, part)
		case 3:
			n.Name = part
		case 4:
			operator = part
		case 7:
			domain = wellKnown([]byte(part))
		}
		return err
	})
	n.Operator = domain + "::" + operator
	if given {
		n.Attributes = hex.EncodeToString(attributes.Sum(nil)[:8])
	}
	return n, err
}

// print is a short digest of a field's content.
func (r *reader) print(f item) (string, error) {
	h := sha256.New()
	err := r.feed(h, f)
	return hex.EncodeToString(h.Sum(nil)[:8]), err
}

func (r *reader) feed(h hash.Hash, f item) error {
	for r.pos = f.start; r.pos < f.end; {
		part, err := r.peek(int64(cap(r.window)), f.end)
		if err != nil {
			return err
		}
		h.Write(part)
		r.pos += int64(len(part))
	}
	return nil
}
