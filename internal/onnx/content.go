package onnx

import (
	"bytes"
	"path"
	"strconv"
	"strings"

	"github.com/penstock/penstock/internal/tensor"
)

// facts are what is known of one tensor without its content. Its name is in reader.tensor and its dimensions are in
// reader.dims until the next tensor is read.
type facts struct {
	element Element
	rank    int
	count   int64 // elements
	bytes   int64 // of the content
}

// stored is how a tensor's content is written: by at most one of raw bytes, a typed field or another file.
type stored struct {
	raw      bool
	rawBytes int64
	entries  [12]int64 // by number of the typed field
	text     int64     // bytes of string_data
	external bool
	location place
}

// dense reads a tensor and checks that type, dimensions and content fit together.
func (r *reader) dense(at item) (facts, error) {
	var found facts
	var content stored
	r.tensor = r.tensor[:0]
	err := r.each(tensorMessage, at.end, func(f item) (err error) {
		switch f.number {
		case 1:
			return r.numbers(f, func(value uint64) error { return r.dimension(&found, value) })
		case 2:
			found.element = Element(int32(f.value))
		case 4, 5, 7, 10, 11:
			var n int64
			n, err = r.count(tensorMessage, f)
			content.entries[f.number] += n
		case 6:
			content.entries[f.number]++
			content.text += f.size()
		case 8:
			var name []byte
			name, err = r.text(f)
			r.tensor = append(r.tensor[:0], name...)
		case 9:
			content.raw, content.rawBytes = true, f.size()
		case 13:
			err = r.externalEntry(f, &content.location)
		case 14:
			if f.value > 1 {
				err = refuse(RuleTensor, "a tensor's data_location is %d", f.value)
			}
			content.external = f.value == 1
		case 16:
			err = r.entry(f)
		}
		return err
	})
	if err != nil {
		return found, err
	}
	if err := r.fit(&found, &content); err != nil {
		return found, placed(err, at.start)
	}
	return found, nil
}

func (r *reader) dimension(found *facts, value uint64) error {
	if found.rank == len(r.dims) {
		return refuse(RuleTensor, "a tensor has more than %d dimensions", len(r.dims))
	}
	r.dims[found.rank] = int64(value)
	found.rank++
	return nil
}

// fit checks the parts of a tensor against each other.
func (r *reader) fit(found *facts, content *stored) (err error) {
	if !found.element.known() {
		return refuse(RuleTensor, "the tensor %.80q has the element type %d, which does not exist", r.tensor, int32(found.element))
	}
	if found.count, err = tensor.Elements(r.dims[:found.rank]); err != nil {
		return refuse(RuleTensor, "the tensor %.80q: %v", r.tensor, err)
	}
	found.bytes = found.element.bytes(found.count)
	typed := elements[found.element].field
	for number, n := range content.entries {
		if n > 0 && (storage(number) != typed || content.raw || content.external) {
			return refuse(RuleTensor, "the tensor %.80q of %s has data in %s, which is not where it belongs",
				r.tensor, found.element, tensorMessage.fields[number].name)
		}
	}
	switch {
	case content.external:
		return r.fitExternal(found, content)
	case content.location.entries > 0:
		return refuse(RuleExternal, "the tensor %.80q names external data, but its data_location does not say so", r.tensor)
	case content.raw && found.element == String:
		return refuse(RuleTensor, "the tensor %.80q of strings has raw data", r.tensor)
	case content.raw && content.rawBytes != found.bytes:
		return refuse(RuleTensor, "the tensor %.80q of %s %v needs %d bytes, its raw data has %d",
			r.tensor, found.element, r.dims[:found.rank], found.bytes, content.rawBytes)
	case !content.raw && content.entries[typed] != found.element.entries(found.count):
		return refuse(RuleTensor, "the tensor %.80q of %s %v needs %d entries, %d are there",
			r.tensor, found.element, r.dims[:found.rank], found.element.entries(found.count), content.entries[typed])
	}
	if found.element == String {
		found.bytes = content.text
	}
	return nil
}

// sparse reads a sparse tensor. Values are a list; indices are a list of places, or a table with one column per
// dimension.
func (r *reader) sparse(at item) (facts, error) {
	var values, indices facts
	var indexDims, dims [tensor.MaxRank]int64
	var name []byte
	rank, parts := 0, 0
	err := r.each(sparseMessage, at.end, func(f item) (err error) {
		switch f.number {
		case 1:
			values, err = r.dense(f)
			name = append(name, r.tensor...)
			parts |= 1
		case 2:
			indices, err = r.dense(f)
			indexDims = r.dims
			parts |= 2
		case 3:
			err = r.numbers(f, func(value uint64) error {
				if rank == len(dims) {
					return refuse(RuleTensor, "a sparse tensor has more than %d dimensions", len(dims))
				}
				dims[rank] = int64(value)
				rank++
				return nil
			})
		}
		return err
	})
	if err != nil {
		return values, err
	}
	if _, err := tensor.Elements(dims[:rank]); err != nil {
		return values, placed(refuse(RuleTensor, "the sparse tensor %.80q: %v", name, err), at.start)
	}
	listed := indices.rank == 1 && indexDims[0] == values.count
	table := indices.rank == 2 && indexDims[0] == values.count && indexDims[1] == int64(rank)
	if parts != 3 || rank == 0 || values.rank != 1 || indices.element != Int64 || !listed && !table {
		return values, placed(refuse(RuleTensor, "the sparse tensor %.80q: values, indices and dimensions do not fit together", name), at.start)
	}
	// For the caller it is the tensor that it stands for.
	r.tensor = append(r.tensor[:0], name...)
	r.dims = dims
	values.rank = rank
	values.bytes += indices.bytes
	return values, nil
}

// place is where external data says that it lies, as read from its entries.
type place struct {
	entries   int
	seen      uint8 // a bit per key
	location  string
	offset    int64
	length    int64
	hasLength bool
}

// externalEntry reads one key and value of a tensor's external data. An unknown key is refused: it could mean something
// to the runtime that was not checked here.
func (r *reader) externalEntry(at item, to *place) error {
	if to.entries++; to.entries > maxExternalEntries {
		return overLimit("external entries", maxExternalEntries, "a tensor's external data has more keys and values")
	}
	key := -1
	err := r.each(entryMessage, at.end, func(f item) error {
		if f.number != 1 {
			return nil
		}
		name, err := r.text(f)
		for i, known := range []string{"location", "offset", "length", "checksum"} {
			if string(name) == known {
				key = i
			}
		}
		if err == nil && key < 0 {
			err = refuse(RuleExternal, "external data has the unknown key %.80q", name)
		}
		return err
	})
	if err != nil {
		return err
	}
	if key < 0 || to.seen&(1<<key) != 0 {
		return refuse(RuleExternal, "external data has an entry without a key, or a key twice")
	}
	to.seen |= 1 << key
	r.pos = at.start
	return r.each(entryMessage, at.end, func(f item) error {
		if f.number != 2 {
			return nil
		}
		value, err := r.text(f)
		if err != nil {
			return err
		}
		switch key {
		case 0:
			to.location, err = r.internLocation(value)
		case 1:
			to.offset, err = wholeNumber("offset", value)
		case 2:
			to.length, err = wholeNumber("length", value)
			to.hasLength = true
		}
		return err
	})
}

// wholeNumber reads digits only: no sign, no space, no base, nothing that two parsers could read differently.
func wholeNumber(key string, value []byte) (int64, error) {
	n, err := strconv.ParseInt(string(value), 10, 64)
	if err != nil || len(value) == 0 || value[0] < '0' || value[0] > '9' || bytes.ContainsAny(value, "_") {
		return 0, refuse(RuleExternal, "external data has the %s %.40q, which is not a whole number", key, value)
	}
	return n, nil
}

// internLocation checks a location and returns it, the same text for the same location.
func (r *reader) internLocation(value []byte) (string, error) {
	if known, ok := r.locations[string(value)]; ok {
		return known, nil
	}
	if err := checkLocation(string(value)); err != nil {
		return "", err
	}
	if int64(len(r.locations)) >= r.limits.ExternalFiles {
		return "", overLimit("ExternalFiles", r.limits.ExternalFiles, "external tensors lie in more files")
	}
	location, err := r.keep(value)
	if err == nil {
		r.locations[location] = location
	}
	return location, err
}

// checkLocation takes only the plain name of a file beside the model or in a folder beside it.
func checkLocation(location string) error {
	why := ""
	switch {
	case location == "":
		why = "is empty"
	case strings.HasPrefix(location, "/"):
		why = "is absolute"
	case strings.ContainsAny(location, `\:*?"<>|`):
		why = "has a backslash, a drive, a URL or a pattern in it"
	case strings.HasPrefix(location, "../") || location == ".." || strings.Contains(location, "/../") || strings.HasSuffix(location, "/.."):
		why = `leads out of the model's folder by ".."`
	case path.Clean(location) != location || location == ".":
		why = "is not written in its shortest form"
	default:
		return nil
	}
	return refuse(RuleExternal, "the location %.200q of external data %s", location, why)
}

// fitExternal checks what can be checked without the other file, and notes the rest for CheckFiles.
func (r *reader) fitExternal(found *facts, content *stored) error {
	at := &content.location
	switch {
	case content.raw:
		return refuse(RuleExternal, "the tensor %.80q has its data both here and in another file", r.tensor)
	case found.element == String:
		return refuse(RuleExternal, "the tensor %.80q of strings has external data", r.tensor)
	case at.location == "":
		return refuse(RuleExternal, "the external data of the tensor %.80q has no location", r.tensor)
	case at.hasLength && at.length != found.bytes:
		return refuse(RuleExternal, "the tensor %.80q of %s %v needs %d bytes, its external data has %d",
			r.tensor, found.element, r.dims[:found.rank], found.bytes, at.length)
	}
	if r.external++; r.external > r.limits.Initializers {
		return overLimit("Initializers", r.limits.Initializers, "the file has more external tensors")
	}
	name, err := r.keep(r.tensor)
	if err != nil {
		return err
	}
	r.model.External = append(r.model.External, External{Tensor: name, Location: at.location, Offset: at.offset, Length: found.bytes})
	return nil
}

// CheckFiles checks the external tensors against the files that came with the model: siblings holds their sizes in bytes
// by path relative to the model's folder. Every location must be one of them, with enough bytes in it.
func (m *Model) CheckFiles(siblings map[string]int64) error {
	for i := range m.External {
		e := &m.External[i]
		size, there := siblings[e.Location]
		switch {
		case !there:
			return refuse(RuleExternal, "the tensor %.80q lies in %.200q, which was not given with the model", e.Tensor, e.Location)
		case e.Offset < 0 || e.Length < 0 || e.Offset > size || e.Length > size-e.Offset:
			return refuse(RuleExternal, "the tensor %.80q takes %d bytes from byte %d of %.200q, which has %d bytes",
				e.Tensor, e.Length, e.Offset, e.Location, size)
		}
	}
	return nil
}
