package onnx

import (
	"io"
	"slices"

	"github.com/penstock/penstock/internal/tensor"
)

// Read reads a model of the given size and refuses what breaks a rule or a limit, with a *Refusal. Any other error is
// the source's own. A model with external data must also pass CheckFiles before anything opens it.
//
// Every tensor is visited, wherever it stands: initializers, attributes, subgraphs, function bodies, training graphs.
// The source is read in pieces of 64 KiB; content of weights is stepped over.
func Read(source io.ReaderAt, size int64, limits Limits) (*Model, error) {
	limits = limits.withDefaults()
	switch {
	case size <= 0:
		return nil, refuse(RuleWire, "the file is empty")
	case size > limits.FileBytes:
		return nil, overLimit("FileBytes", limits.FileBytes, "the file has %d bytes", size)
	}
	r := &reader{
		scanner:   newScanner(source, size, limits),
		model:     &Model{Opsets: make(map[string]int64), Ops: make(map[string]int64)},
		locations: make(map[string]string),
	}
	if err := r.countFunctions(); err != nil {
		return nil, err
	}
	if err := r.outline(); err != nil {
		return nil, err
	}
	if err := r.content(); err != nil {
		return nil, err
	}
	if err := r.expand(); err != nil {
		return nil, err
	}
	return r.model, nil
}

// reader is one reading of one file.
type reader struct {
	*scanner
	model     *Model
	imports   []uint64          // domains that the model imports
	functions map[uint64]int32  // by function key: the place in bodies
	bodies    []body            // of the functions, in file order, and after them the main graph and training graphs
	spare     []*scope          // scopes to be used again
	locations map[string]string // external locations, so that a thousand tensors of one file share one text
	kept      int64             // bytes of names kept in the model, against limits.AllNamesBytes
	external  int64             // external tensors, against limits.Initializers

	// Scratch, valid for a few lines: the operator of the node that is being read, in full and in parts, and the name
	// and dimensions of the tensor that is being read.
	key, operatorName, overload []byte
	tensor                      []byte
	dims                        [tensor.MaxRank]int64
}

// keep makes a name part of the answer.
func (r *reader) keep(name []byte) (string, error) {
	if r.kept += int64(len(name)); r.kept > r.limits.AllNamesBytes {
		return "", overLimit("AllNamesBytes", r.limits.AllNamesBytes, "the names in the file are too long together")
	}
	return string(name), nil
}

// outline reads what must be known before the graphs: versions, imports and the functions' names. In the file these
// may stand behind the graph.
func (r *reader) outline() error {
	var version string
	hasGraph := false
	r.pos = 0
	err := r.each(modelMessage, r.size, func(f item) (err error) {
		switch f.number {
		case 1:
			r.model.IRVersion = int64(f.value)
		case 2:
			r.model.Producer, err = r.keptText(f)
		case 3:
			version, err = r.keptText(f)
		case 7:
			hasGraph = true
		case 8:
			r.imports, err = r.opset(f, r.imports, r.model.Opsets)
		case 25:
			err = r.declare(f)
		}
		return err
	})
	if err != nil {
		return err
	}
	if version != "" {
		r.model.Producer += " " + version
	}
	switch {
	case r.model.IRVersion < MinIRVersion || r.model.IRVersion > MaxIRVersion:
		return refuse(RuleVersion, "IR version %d is not one of %d to %d", r.model.IRVersion, MinIRVersion, MaxIRVersion)
	case !hasGraph:
		return refuse(RuleGraph, "the model has no graph")
	case len(r.imports) == 0:
		return refuse(RuleVersion, "the model imports no operator set")
	}
	r.model.Functions = len(r.bodies)
	return nil
}

func (r *reader) keptText(f item) (string, error) {
	name, err := r.text(f)
	if err != nil {
		return "", err
	}
	return r.keep(name)
}

// opset reads one import, adds its domain to list, and notes the version in versions unless that is nil.
func (r *reader) opset(f item, list []uint64, versions map[string]int64) ([]uint64, error) {
	if len(list) >= maxOpsetImports {
		return list, overLimit("opset imports", maxOpsetImports, "too many operator sets are imported")
	}
	domain, version := DomainDefault, int64(0) // both spellings of the default domain may be left out
	err := r.each(opsetMessage, f.end, func(f item) error {
		if f.number == 2 {
			version = int64(f.value)
			return nil
		}
		name, err := r.text(f)
		domain = wellKnown(name)
		return err
	})
	if err != nil {
		return list, err
	}
	if newest := newestOpset(domain); newest > 0 && (version < 1 || version > newest) {
		return list, refuse(RuleVersion, "operator set %d of %s is not one of 1 to %d", version, domain, newest)
	}
	key := r.hash([]byte(domain))
	if slices.Contains(list, key) {
		return list, refuse(RuleVersion, "the operator sets of %q are imported twice", domain)
	}
	if versions != nil {
		if r.kept += int64(len(domain)); r.kept > r.limits.AllNamesBytes {
			return list, overLimit("AllNamesBytes", r.limits.AllNamesBytes, "the names in the file are too long together")
		}
		versions[domain] = version
	}
	return append(list, key), nil
}

// wellKnown is a domain's name as a string; the default domain has two spellings and gets the longer one.
func wellKnown(domain []byte) string {
	switch string(domain) {
	case "", DomainDefault:
		return DomainDefault
	case DomainML:
		return DomainML
	case DomainMicrosoft:
		return DomainMicrosoft
	}
	return string(domain)
}

// newestOpset is the newest operator set of an allowed domain; 0 for every other domain.
func newestOpset(domain string) int64 {
	switch domain {
	case DomainDefault:
		return MaxOpset
	case DomainML:
		return MaxOpsetML
	case DomainMicrosoft:
		return MaxOpsetMicrosoft
	}
	return 0
}

// content reads the graphs, function bodies and training graphs, now that everything they may name is known. Training
// graphs see the main graph's names, so they are read after it.
func (r *reader) content() error {
	main := &scope{imports: r.imports, owner: r.newBody()}
	walk := func(number int, visit func(item) error) error {
		r.pos = 0
		return r.each(modelMessage, r.size, func(f item) error {
			if f.number == number {
				return visit(f)
			}
			return nil
		})
	}
	if err := walk(7, func(f item) error { return r.graph(f, main, true) }); err != nil {
		return err
	}
	next := int32(0)
	err := walk(25, func(f item) error {
		next++
		return r.function(f, next-1)
	})
	if err != nil {
		return err
	}
	err = walk(20, func(f item) error {
		return r.each(trainingMessage, f.end, func(f item) error {
			if f.number > 2 {
				return nil
			}
			in := r.enter(main, r.newBody())
			defer r.leave(in)
			return r.graph(f, in, false)
		})
	})
	if err != nil {
		return err
	}
	return walk(14, r.entry)
}

// entry walks a key and value pair, so that its texts are checked.
func (r *reader) entry(f item) error {
	return r.each(entryMessage, f.end, func(item) error { return nil })
}
