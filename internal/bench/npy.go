package bench

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/tensor"
)

const (
	npyHeaderMax = 64 << 10 // bytes of the text that describes an array
	npyFilesMax  = 256      // arrays of a folder or .npz
)

// readArrays reads the arrays of a data set by the names of the inputs.
func readArrays(path string, folder bool, specs []api.TensorSpec) (map[string]tensor.Tensor, error) {
	var files map[string]func() ([]byte, error)
	var err error
	switch {
	case folder:
		files, err = filesOfFolder(path)
	case strings.EqualFold(filepath.Ext(path), ".npz"):
		archive, open := zip.OpenReader(path)
		if open != nil {
			return nil, open
		}
		defer func() { _ = archive.Close() }() // it was only read
		files, err = filesOfArchive(&archive.Reader)
	case len(specs) == 1:
		files = map[string]func() ([]byte, error){specs[0].Name: func() ([]byte, error) { return readBounded(path) }}
	default:
		err = api.Fail(api.CodeBadRequest, path, "the endpoint has %d inputs, and one array is given", len(specs)).WithCure("Give a folder with INPUT.npy for each, or an .npz file.")
	}
	if err != nil {
		return nil, err
	}
	arrays := map[string]tensor.Tensor{}
	for _, spec := range specs {
		read := files[spec.Name]
		if read == nil {
			return nil, api.Fail(api.CodeBadRequest, path, "there is no array %s.npy for the input %q", spec.Name, spec.Name).WithCure("Name each array as the input that it is for.")
		}
		text, err := read()
		if err != nil {
			return nil, err
		}
		t, err := ParseNPY(text)
		if err != nil {
			return nil, api.Fail(api.CodeBadTensor, spec.Name, "%w", err).WithCure("Save it with numpy.save, in C order and with a plain number type.")
		}
		t.Name = spec.Name
		arrays[spec.Name] = t
	}
	return arrays, nil
}

func filesOfFolder(path string) (map[string]func() ([]byte, error), error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	files := map[string]func() ([]byte, error){}
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".npy"); ok && len(files) < npyFilesMax {
			files[name] = func() ([]byte, error) { return readBounded(filepath.Join(path, e.Name())) }
		}
	}
	return files, nil
}

func filesOfArchive(archive *zip.Reader) (map[string]func() ([]byte, error), error) {
	files := map[string]func() ([]byte, error){}
	for _, f := range archive.File {
		name, ok := strings.CutSuffix(f.Name, ".npy")
		if !ok || len(files) >= npyFilesMax {
			continue
		}
		files[name] = func() ([]byte, error) {
			r, err := f.Open()
			if err != nil {
				return nil, err
			}
			defer r.Close()
			text, err := io.ReadAll(io.LimitReader(r, dataMax+1)) // whatever size the archive claims
			if err == nil && len(text) > dataMax {
				err = fmt.Errorf("%s is over %d MiB", f.Name, dataMax>>20)
			}
			return text, err
		}
	}
	return files, nil
}

var (
	npyType    = regexp.MustCompile(`'descr':\s*'([^']*)'`)
	npyFortran = regexp.MustCompile(`'fortran_order':\s*(True|False)`)
	npyShape   = regexp.MustCompile(`'shape':\s*\(([0-9, ]*)\)`)
	npyTypes   = map[string]tensor.Type{"|b1": tensor.Bool, "|u1": tensor.Uint8, "<u2": tensor.Uint16, "<u4": tensor.Uint32, "<u8": tensor.Uint64,
		"|i1": tensor.Int8, "<i2": tensor.Int16, "<i4": tensor.Int32, "<i8": tensor.Int64, "<f2": tensor.FP16, "<f4": tensor.FP32, "<f8": tensor.FP64}
)

// ParseNPY reads NumPy's file of one array. Arrays of Python objects would have to be unpickled, which runs code, and are
// refused like all that is no plain little-endian number. The tensor's data are a view of text.
func ParseNPY(text []byte) (t tensor.Tensor, err error) {
	rest, ok := bytes.CutPrefix(text, []byte("\x93NUMPY"))
	if !ok || len(rest) < 6 {
		return t, fmt.Errorf("this is no .npy file")
	}
	var size int
	switch rest[0] {
	case 1:
		size, rest = int(binary.LittleEndian.Uint16(rest[2:])), rest[4:]
	case 2, 3:
		size, rest = int(binary.LittleEndian.Uint32(rest[2:])), rest[6:]
	default:
		return t, fmt.Errorf("version %d of .npy is not known", rest[0])
	}
	if size > npyHeaderMax || size > len(rest) {
		return t, fmt.Errorf("the header of %d bytes is cut off or too long", size)
	}
	header, data := string(rest[:size]), rest[size:]
	kind, order, shape := npyType.FindStringSubmatch(header), npyFortran.FindStringSubmatch(header), npyShape.FindStringSubmatch(header)
	if kind == nil || order == nil || shape == nil {
		return t, fmt.Errorf("the array is of a kind that is not read: %s", clean(header[:min(len(header), 120)]))
	}
	if t.Type, ok = npyTypes[kind[1]]; !ok {
		return t, fmt.Errorf("numbers of the type %q are not read", clean(kind[1]))
	}
	if order[1] == "True" {
		return t, fmt.Errorf("the array is in Fortran order")
	}
	for part := range strings.SplitSeq(shape[1], ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		n, err := strconv.ParseInt(part, 10, 64)
		if err != nil {
			return t, fmt.Errorf("the shape has the size %q", part)
		}
		t.Shape = append(t.Shape, n)
	}
	t.Data = data
	return t, t.Check()
}

// rowsOf cuts arrays into requests of as many rows as the batch has. Rows that do not fill a last batch are left out.
func rowsOf(arrays map[string]tensor.Tensor, specs []api.TensorSpec, sizes Sizes) ([]*Request, error) {
	batch := max(sizes.Batch, 1)
	rows := int64(-1)
	for _, spec := range specs {
		t := arrays[spec.Name]
		if t.Type.String() != spec.Datatype {
			return nil, api.Fail(api.CodeBadTensor, spec.Name, "the array has the type %s, the input takes %s", t.Type, spec.Datatype).WithCure("Convert it with numpy's astype.")
		}
		if !fits(t.Shape, spec.Shape, batch) {
			return nil, api.Fail(api.CodeBadTensor, spec.Name, "the array has the shape %v, of which requests of %d rows do not fit %v", t.Shape, batch, spec.Shape).
				WithCure("The first dimension of the array counts rows; the others are the input's.")
		}
		if rows >= 0 && t.Shape[0] != rows {
			return nil, api.Fail(api.CodeBadTensor, spec.Name, "the arrays have %d and %d rows", rows, t.Shape[0]).WithCure("Give arrays with as many rows.")
		}
		rows = t.Shape[0]
	}
	count := rows / batch
	if count < 1 {
		return nil, api.Fail(api.CodeBadTensor, "", "there are %d rows, too few for a request of %d", max(rows, 0), batch).WithCure("Give more rows, or a smaller --batch.")
	}
	all := make([]*Request, 0, min(count, requestsMax))
	for i := range min(count, requestsMax) {
		r := &Request{}
		for _, spec := range specs {
			t := arrays[spec.Name]
			each := int64(len(t.Data)) / rows * batch
			shape := slices.Clone(t.Shape)
			shape[0] = batch
			r.Inputs = append(r.Inputs, tensor.Tensor{Name: t.Name, Type: t.Type, Shape: shape, Data: t.Data[i*each : (i+1)*each]})
		}
		all = append(all, r)
	}
	return all, nil
}

// fits reports whether rows of an array are what an input takes.
func fits(array, input []int64, batch int64) bool {
	if len(array) != len(input) || len(array) == 0 || input[0] >= 0 && input[0] != batch {
		return false
	}
	for i := 1; i < len(input); i++ {
		if input[i] >= 0 && input[i] != array[i] {
			return false
		}
	}
	return true
}
