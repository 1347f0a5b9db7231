package main

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
)

const (
	requestMax = 32 << 20 // bytes of a request file; the server's limit for JSON
	cellsMax   = 8        // values of one output row that a table shows
)

type predictFlags struct {
	file    string
	inputs  []string
	options client.InferOptions
}

func (a *app) predictCommands() []*cobra.Command {
	var flags predictFlags
	cmd := a.withOutput(&cobra.Command{Use: "predict ENDPOINT", Short: "Call an endpoint", Args: cobra.ExactArgs(1),
		Long: `Call an endpoint. The input is a JSON request of the Open Inference Protocol, rows of comma-separated values (a file that
ends in .csv), a picture (a file that ends in .png, .jpg or .jpeg) for an endpoint that takes one, or values on the
command line; shapes and datatypes come from the endpoint, but for those of JSON.`,
		Example: `  penstock predict digits -f request.json
  penstock predict digits -f rows.csv
  penstock predict reader -f picture.png
  penstock predict iris --input x=5.1,3.5,1.4,0.2
  echo '{"inputs":[...]}' | penstock predict digits -f - -o json`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			return a.predict(ctx, c, api.EndpointName(args[0]), flags)
		})})
	f := cmd.Flags()
	f.StringVarP(&flags.file, "file", "f", "", "request in JSON, or rows in .csv; - is standard input")
	f.StringArrayVar(&flags.inputs, "input", nil, "input NAME=VALUE,VALUE,...; may be repeated")
	f.StringVar(&flags.options.Unit, "unit", "", "unit that stays on one variant (Penstock-Unit)")
	f.StringVar(&flags.options.Variant, "variant", "", "variant to force; the key needs the scope variant")
	return []*cobra.Command{cmd}
}

func (a *app) predict(ctx context.Context, c *client.Client, endpoint api.EndpointName, flags predictFlags) error {
	if err := api.CheckName("endpoint", string(endpoint)); err != nil {
		return usage(err)
	}
	if (flags.file == "") == (len(flags.inputs) == 0) {
		return usage(errors.New("give either -f FILE or --input"))
	}
	response, err := a.infer(ctx, c, endpoint, flags)
	if err != nil {
		return err
	}
	return a.print(response, func() { a.showOutputs(response.Outputs) })
}

func (a *app) infer(ctx context.Context, c *client.Client, endpoint api.EndpointName, flags predictFlags) (client.InferResponse, error) {
	switch strings.ToLower(filepath.Ext(flags.file)) {
	case ".png", ".jpg", ".jpeg":
		return a.inferPicture(ctx, c, endpoint, flags)
	}
	request, err := a.inferRequest(ctx, c, endpoint, flags)
	if err != nil {
		return client.InferResponse{}, err
	}
	return c.Infer(ctx, endpoint, request, flags.options)
}

// inferPicture sends a file as it is, to an endpoint whose one input holds bytes.
func (a *app) inferPicture(ctx context.Context, c *client.Client, endpoint api.EndpointName, flags predictFlags) (out client.InferResponse, err error) {
	content, err := a.readInput(flags.file)
	if err != nil {
		return out, usage(err)
	}
	metadata, err := c.Metadata(ctx, endpoint)
	if err != nil {
		return out, err
	}
	inputs := slices.DeleteFunc(metadata.Inputs, func(s api.TensorSpec) bool { return s.Datatype != "BYTES" || len(s.Shape) != 1 || s.Shape[0] >= 0 })
	if len(inputs) != 1 {
		return out, usage(fmt.Errorf("endpoint %s has no input for a picture, or several: BYTES of shape [-1]", endpoint))
	}
	return c.InferFile(ctx, endpoint, inputs[0].Name, content, flags.options)
}

func (a *app) inferRequest(ctx context.Context, c *client.Client, endpoint api.EndpointName, flags predictFlags) (in client.InferRequest, err error) {
	var text []byte
	if flags.file != "" {
		if text, err = a.readInput(flags.file); err != nil {
			return in, usage(err)
		}
		if !strings.EqualFold(filepath.Ext(flags.file), ".csv") {
			return in, usage(parseRequest(text, &in))
		}
	}
	metadata, err := c.Metadata(ctx, endpoint)
	if err != nil {
		return in, err
	}
	if flags.file != "" {
		in.Inputs, err = tensorsOfRows(text, metadata.Inputs)
	} else {
		in.Inputs, err = tensorsOfFlags(flags.inputs, metadata.Inputs)
	}
	return in, usage(err)
}

// parseRequest reads a JSON request strictly, so that a field that is misspelt is told here, with its place.
func parseRequest(text []byte, into *client.InferRequest) error {
	if err := api.DecodeStrict(text, into); err != nil {
		return err
	}
	if len(into.Inputs) == 0 {
		return api.Fail(api.CodeBadJSON, "$.inputs", "the request has no inputs").
			WithCure(`Write {"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}.`)
	}
	return nil
}

// readInput reads a file or standard input within the limit.
func (a *app) readInput(path string) ([]byte, error) {
	source := a.in
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		source = file
	}
	text, err := io.ReadAll(io.LimitReader(source, requestMax+1))
	if err == nil && len(text) > requestMax {
		return nil, fmt.Errorf("%s is over the limit of %d bytes", path, requestMax)
	}
	return text, err
}

// tensorsOfFlags makes inputs of NAME=V,V,V. With one input the name may be left out.
func tensorsOfFlags(given []string, specs []api.TensorSpec) ([]client.Tensor, error) {
	var tensors []client.Tensor
	for _, text := range given {
		name, values, named := strings.Cut(text, "=")
		if !named && len(specs) == 1 {
			name, values = specs[0].Name, text
		}
		spec, err := findSpec(specs, name)
		if err != nil {
			return nil, err
		}
		tensor, err := makeTensor(spec, strings.Split(values, ","), 0)
		if err != nil {
			return nil, err
		}
		tensors = append(tensors, tensor)
	}
	return tensors, nil
}

func findSpec(specs []api.TensorSpec, name string) (api.TensorSpec, error) {
	names := make([]string, 0, len(specs))
	for _, s := range specs {
		if s.Name == name {
			return s, nil
		}
		names = append(names, s.Name)
	}
	return api.TensorSpec{}, fmt.Errorf("there is no input %q; the inputs are %s", name, strings.Join(names, ", "))
}

// tensorsOfRows makes inputs of comma-separated rows. One input takes all columns of a row; several take a column each,
// by the names in the first row.
func tensorsOfRows(text []byte, specs []api.TensorSpec) ([]client.Tensor, error) {
	reader := csv.NewReader(strings.NewReader(strings.TrimPrefix(string(text), "\ufeff")))
	reader.TrimLeadingSpace = true
	rows, err := reader.ReadAll()
	if err != nil {
		return nil, err
	}
	var header []string
	if len(rows) > 0 && !numeric(rows[0]) {
		header, rows = rows[0], rows[1:]
	}
	if len(rows) == 0 {
		return nil, errors.New("there are no rows")
	}
	if len(specs) == 1 {
		var values []string
		for _, row := range rows {
			values = append(values, row...)
		}
		tensor, err := makeTensor(specs[0], values, len(rows))
		return []client.Tensor{tensor}, err
	}
	if header == nil {
		return nil, fmt.Errorf("the endpoint has %d inputs: the first row must name them", len(specs))
	}
	tensors := make([]client.Tensor, 0, len(header))
	for column, name := range header {
		spec, err := findSpec(specs, name)
		if err != nil {
			return nil, err
		}
		values := make([]string, len(rows))
		for i, row := range rows {
			values[i] = row[column]
		}
		tensor, err := makeTensor(spec, values, len(rows))
		if err != nil {
			return nil, err
		}
		tensors = append(tensors, tensor)
	}
	return tensors, nil
}

func numeric(row []string) bool {
	for _, cell := range row {
		if _, err := strconv.ParseFloat(cell, 64); err != nil {
			return false
		}
	}
	return true
}

// makeTensor fits values into a shape. rows is the first dimension when it is known.
func makeTensor(spec api.TensorSpec, values []string, rows int) (client.Tensor, error) {
	t := client.Tensor{Name: spec.Name, Datatype: spec.Datatype}
	var err error
	if t.Shape, err = fitShape(spec, len(values), rows); err != nil {
		return t, err
	}
	items := make([]json.RawMessage, len(values))
	for i, text := range values {
		if items[i], err = element(spec, strings.TrimSpace(text)); err != nil {
			return t, err
		}
	}
	t.Data, err = json.Marshal(items)
	return t, err
}

func element(spec api.TensorSpec, text string) (json.RawMessage, error) {
	switch {
	case spec.Datatype == "BYTES":
		return json.Marshal(text)
	case spec.Datatype == "BOOL":
		b, err := strconv.ParseBool(text)
		if err != nil {
			return nil, fmt.Errorf("input %s: %q is not true or false", spec.Name, text)
		}
		return json.Marshal(b)
	case strings.HasPrefix(spec.Datatype, "FP") || spec.Datatype == "BF16":
		if f, err := strconv.ParseFloat(text, 64); err == nil {
			if number, err := json.Marshal(f); err == nil { // infinities are no JSON
				return number, nil
			}
		}
	case strings.HasPrefix(spec.Datatype, "UINT"):
		if n, err := strconv.ParseUint(text, 10, 64); err == nil {
			return json.Marshal(n)
		}
	default:
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			return json.Marshal(n)
		}
	}
	return nil, fmt.Errorf("input %s: %q is not a %s", spec.Name, text, spec.Datatype)
}

// fitShape finds sizes for the dimensions that take any: the first takes the rows, one other takes what is left over.
func fitShape(spec api.TensorSpec, values, rows int) ([]int64, error) {
	fitted := make([]int64, len(spec.Shape))
	known, open := int64(1), -1
	for i, n := range spec.Shape {
		switch {
		case n >= 0:
		case i == 0 && rows > 0:
			n = int64(rows)
		case open < 0:
			open = i
			continue
		case open == 0:
			// Two are open: one row, and the second takes the values.
			fitted[0], open = 1, i
			continue
		default:
			return nil, fmt.Errorf("input %s has the shape %s; send it as JSON with its shape", spec.Name, shape(spec))
		}
		fitted[i] = n
		known *= n
	}
	if open >= 0 && known > 0 && int64(values)%known == 0 {
		fitted[open] = int64(values) / known
		known = int64(values)
	}
	if known != int64(values) {
		return nil, fmt.Errorf("input %s has the shape %s, which %d values do not fit", spec.Name, shape(spec), values)
	}
	return fitted, nil
}

// showOutputs prints outputs that share their first dimension as columns of one table, and others one by one.
func (a *app) showOutputs(outputs []client.Tensor) {
	columns := make([][]string, len(outputs))
	together := true
	for i, t := range outputs {
		columns[i] = outputRows(t)
		together = together && len(columns[i]) == len(columns[0])
	}
	if !together {
		for i, t := range outputs {
			fmt.Fprintf(a.out, "%s %s %s\n", cleanCell(t.Name), t.Datatype, shape(api.TensorSpec{Shape: t.Shape}))
			for _, row := range columns[i] {
				fmt.Fprintf(a.out, "  %s\n", cleanCell(row))
			}
		}
		return
	}
	header := "ROW"
	for _, t := range outputs {
		header += " " + strings.ReplaceAll(cleanCell(t.Name), " ", "_")
	}
	var rows [][]string
	for i := range columns[0] {
		row := []string{strconv.Itoa(i)}
		for _, column := range columns {
			row = append(row, column[i])
		}
		rows = append(rows, row)
	}
	a.table(header, rows)
}

// outputRows writes each entry along the first dimension as one cell.
func outputRows(t client.Tensor) []string {
	flat := flatten(nil, t.Data)
	count := 1
	if len(t.Shape) > 0 {
		count = int(max(0, min(t.Shape[0], int64(len(flat)))))
	}
	if count == 0 || len(flat)%count != 0 {
		return []string{string(t.Data)}
	}
	rows, each := make([]string, count), len(flat)/count
	for i := range rows {
		cells := flat[i*each : (i+1)*each]
		rows[i] = strings.Join(cells[:min(cellsMax, each)], ", ")
		if each > cellsMax {
			rows[i] += fmt.Sprintf(", … %d more", each-cellsMax)
		}
	}
	return rows
}

// flatten lists the values of a flat or nested array as text.
func flatten(into []string, data json.RawMessage) []string {
	var parts []json.RawMessage
	if json.Unmarshal(data, &parts) == nil {
		for _, part := range parts {
			into = flatten(into, part)
		}
		return into
	}
	var s string
	if json.Unmarshal(data, &s) == nil {
		return append(into, s)
	}
	if f, err := strconv.ParseFloat(string(data), 64); err == nil && strings.ContainsAny(string(data), ".eE") {
		return append(into, strconv.FormatFloat(f, 'g', 6, 64))
	}
	return append(into, string(data))
}
