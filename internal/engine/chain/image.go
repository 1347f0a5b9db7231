package chain

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"io"
	"math"
	"slices"

	"github.com/penstock/penstock/internal/tensor"
)

// Limits of pictures. A picture is measured before it is decoded: a few kilobytes may unpack to gigabytes.
const (
	sideMax       = 16384    // of the picture that comes out
	pixelsDefault = 16 << 20 // of the picture that comes in, unless the settings say otherwise
	pixelsMax     = 128 << 20
	// readStep is how much of a file the decoder gets at a time; between two steps it sees that the caller left.
	readStep = 512
)

// decodeImage turns JPEG and PNG files into a tensor of pixels: decoded, resized, cropped and normalised.
type decodeImage struct {
	imageSettings
	mean, std []float32
	typ       tensor.Type
}

type imageSettings struct {
	Width     int       `json:"width"`
	Height    int       `json:"height"`
	Channels  int       `json:"channels"`  // 3 or 1
	Order     string    `json:"order"`     // rgb or bgr
	Layout    string    `json:"layout"`    // nchw or nhwc
	Datatype  string    `json:"datatype"`  // FP32 or UINT8
	Mode      string    `json:"mode"`      // stretch, crop or pad
	Shorter   int       `json:"shorter"`   // crop: the shorter side before the centre is cut out; 0: as large as it must be
	Filter    string    `json:"filter"`    // bilinear, area or nearest
	Antialias bool      `json:"antialias"` // bilinear: wider when the picture shrinks, so that no pixel is passed over
	Fill      uint8     `json:"fill"`      // pad: value of the rim
	Scale     float32   `json:"scale"`     // of pixels 0 to 255, before mean and std
	Mean      []float32 `json:"mean,omitempty"`
	Std       []float32 `json:"std,omitempty"`
	MaxPixels int64     `json:"max_pixels"`
}

func newDecodeImage(o *options) (operation, []string, error) {
	s := imageSettings{Channels: 3, Order: "rgb", Layout: "nchw", Datatype: "FP32", Mode: "stretch", Filter: "bilinear",
		Antialias: true, Scale: 1. / 255, MaxPixels: pixelsDefault}
	if err := o.into(&s); err != nil {
		return nil, nil, err
	}
	one := func(field, value string, of ...string) error {
		if slices.Contains(of, value) {
			return nil
		}
		return fmt.Errorf("with.%s: %q is not one of %q", field, clip(value), of)
	}
	if err := errors.Join(one("order", s.Order, "rgb", "bgr"), one("layout", s.Layout, "nchw", "nhwc"), one("datatype", s.Datatype, "FP32", "UINT8"),
		one("mode", s.Mode, "stretch", "crop", "pad"), one("filter", s.Filter, "bilinear", "area", "nearest")); err != nil {
		return nil, nil, err
	}
	switch {
	case s.Width < 1 || s.Width > sideMax || s.Height < 1 || s.Height > sideMax:
		return nil, nil, fmt.Errorf("with.width and with.height: 1 to %d is wanted", sideMax)
	case s.Channels != 1 && s.Channels != 3:
		return nil, nil, fmt.Errorf("with.channels is %d; 1 (grey) or 3 (colour) is wanted", s.Channels)
	case s.Shorter != 0 && (s.Mode != "crop" || s.Shorter < max(s.Width, s.Height) || s.Shorter > sideMax):
		return nil, nil, fmt.Errorf("with.shorter is for mode crop and at least as large as width and height, at most %d", sideMax)
	case s.MaxPixels < 1 || s.MaxPixels > pixelsMax:
		return nil, nil, fmt.Errorf("with.max_pixels: 1 to %d is wanted", pixelsMax)
	case s.Datatype == "UINT8" && (len(s.Mean) > 0 || len(s.Std) > 0):
		return nil, nil, errors.New("with.mean and with.std: UINT8 holds the pixels as they are")
	}
	d := decodeImage{imageSettings: s, typ: tensor.FP32}
	if s.Datatype == "UINT8" {
		d.typ = tensor.Uint8
	}
	var err error
	if d.mean, d.std, err = meanAndStd(s.Mean, s.Std); err != nil {
		return nil, nil, err
	}
	if n := len(d.mean); n != 0 && n != s.Channels {
		return nil, nil, fmt.Errorf("with.mean and with.std have %d values for %d channels", n, s.Channels)
	}
	return d, []string{"pixels"}, nil
}

func (d decodeImage) infer(in []port) ([]port, error) {
	p := in[0]
	if p.typ != tensor.Bytes {
		return nil, fmt.Errorf("tensor \"image\" is %s; BYTES is taken, one file an element", p.typ)
	}
	rows := unknown
	if !p.open {
		var err error
		if rows, err = elementRows(p); err != nil {
			return nil, fmt.Errorf("tensor \"image\" %w", err)
		}
	}
	w, h, c := fixed(int64(d.Width)), fixed(int64(d.Height)), fixed(int64(d.Channels))
	if d.Layout == "nhwc" {
		return []port{{typ: d.typ, dims: []dim{rows, h, w, c}}}, nil
	}
	return []port{{typ: d.typ, dims: []dim{rows, c, h, w}}}, nil
}

func (d decodeImage) run(ctx context.Context, in, out []tensor.Tensor) error {
	data, rest := allocate(&out[0]), in[0].Data
	each := 0
	if n := int(out[0].Shape[0]); n > 0 {
		each = len(data) / n
	}
	for row := range out[0].Shape[0] {
		file, after, ok := tensor.NextBytes(rest)
		if !ok {
			return fmt.Errorf("tensor \"image\" is cut off at row %d", row)
		}
		rest = after
		picture, err := decodePicture(ctx, file, d.MaxPixels, d.Channels)
		if err != nil {
			return fmt.Errorf("tensor \"image\", row %d: %w", row, err)
		}
		d.place(d.fit(picture), data[int(row)*each:(int(row)+1)*each])
	}
	return nil
}

// raster is a picture as bytes, row by row, channels side by side.
type raster struct {
	width, height, channels int
	pixels                  []byte
}

// decodePicture reads a JPEG or PNG file. Transparency is left out: the colour under it is what counts, as common
// training pipelines do it.
func decodePicture(ctx context.Context, file []byte, limit int64, channels int) (raster, error) {
	var configOf func(io.Reader) (image.Config, error)
	var decode func(io.Reader) (image.Image, error)
	switch {
	case bytes.HasPrefix(file, []byte("\xff\xd8\xff")):
		configOf, decode = jpeg.DecodeConfig, jpeg.Decode
	case bytes.HasPrefix(file, []byte("\x89PNG\r\n\x1a\n")):
		configOf, decode = png.DecodeConfig, png.Decode
	default:
		return raster{}, errors.New("it is neither JPEG nor PNG")
	}
	config, err := configOf(bytes.NewReader(file))
	if err != nil {
		return raster{}, fmt.Errorf("it cannot be read: %w", err)
	}
	if config.Width < 1 || config.Height < 1 {
		return raster{}, errors.New("it has no pixels")
	}
	if int64(config.Width)*int64(config.Height) > limit {
		return raster{}, fmt.Errorf("%d x %d pixels are over max_pixels, %d", config.Width, config.Height, limit)
	}
	picture, err := decode(&watchedReader{ctx: ctx, rest: file})
	if ctx.Err() != nil {
		return raster{}, ctx.Err()
	}
	if err != nil {
		return raster{}, fmt.Errorf("it cannot be decoded: %w", err)
	}
	return rasterOf(picture, channels), nil
}

// watchedReader ends when ctx does: decoders take no context, and a crafted file keeps one busy for long.
type watchedReader struct {
	ctx  context.Context
	rest []byte
}

func (r *watchedReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	if len(r.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), readStep)], r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// rasterOf takes the pixels out; the kinds of picture that files usually hold without a call for each.
func rasterOf(picture image.Image, channels int) raster {
	b := picture.Bounds()
	r := raster{width: b.Dx(), height: b.Dy(), channels: channels}
	r.pixels = make([]byte, r.width*r.height*channels)
	at := 0
	put := func(red, green, blue uint8) {
		if channels == 1 {
			r.pixels[at] = grey(red, green, blue)
			at++
			return
		}
		r.pixels[at], r.pixels[at+1], r.pixels[at+2] = red, green, blue
		at += 3
	}
	for y := b.Min.Y; y < b.Max.Y; y++ {
		switch p := picture.(type) {
		case *image.Gray:
			row := p.Pix[p.PixOffset(b.Min.X, y):][:r.width]
			if channels == 1 {
				at += copy(r.pixels[at:], row)
				continue
			}
			for _, v := range row {
				put(v, v, v)
			}
		case *image.YCbCr:
			for x := b.Min.X; x < b.Max.X; x++ {
				i, j := p.YOffset(x, y), p.COffset(x, y)
				if channels == 1 { // what JPEG holds is the grey already
					r.pixels[at] = p.Y[i]
					at++
					continue
				}
				put(color.YCbCrToRGB(p.Y[i], p.Cb[j], p.Cr[j]))
			}
		case *image.NRGBA:
			for row := p.Pix[p.PixOffset(b.Min.X, y):][:4*r.width]; len(row) > 0; row = row[4:] {
				put(row[0], row[1], row[2])
			}
		case *image.RGBA: // PNG without transparency
			for row := p.Pix[p.PixOffset(b.Min.X, y):][:4*r.width]; len(row) > 0; row = row[4:] {
				put(row[0], row[1], row[2])
			}
		default:
			for x := b.Min.X; x < b.Max.X; x++ {
				put(plain(picture.At(x, y)))
			}
		}
	}
	return r
}

// plain gives a colour without its transparency.
func plain(c color.Color) (red, green, blue uint8) {
	switch c := c.(type) {
	case color.NRGBA:
		return c.R, c.G, c.B
	case color.NRGBA64:
		return uint8(c.R >> 8), uint8(c.G >> 8), uint8(c.B >> 8)
	}
	r, g, b, _ := c.RGBA()
	return uint8(r >> 8), uint8(g >> 8), uint8(b >> 8)
}

// grey weighs the colours as ITU-R 601 does.
func grey(red, green, blue uint8) uint8 {
	return uint8((19595*uint32(red) + 38470*uint32(green) + 7471*uint32(blue) + 1<<15) >> 16)
}

// fit resizes a picture to the step's size. What comes is floats, row by row, channels side by side, pixels 0 to 255.
func (d decodeImage) fit(r raster) []float32 {
	window := d.window(r.width, r.height)
	x := taps(r.width, window.width, window.left, min(d.Width, window.width), d.Filter, d.Antialias)
	y := taps(r.height, window.height, window.top, min(d.Height, window.height), d.Filter, d.Antialias)
	pixels := resample(r, x, y)
	if len(x) == d.Width && len(y) == d.Height {
		return pixels
	}
	return d.frame(pixels, len(x), len(y))
}

// window is the whole picture at its new size, and where the part that is kept begins.
type window struct{ width, height, left, top int }

func (d decodeImage) window(width, height int) window {
	switch d.Mode {
	case "crop":
		shorter := d.Shorter
		var w window
		switch {
		case shorter > 0 && width <= height:
			w.width, w.height = shorter, max(shorter, shorter*height/width)
		case shorter > 0:
			w.width, w.height = max(shorter, shorter*width/height), shorter
		case d.Width*height >= d.Height*width: // the width decides
			w.width, w.height = d.Width, max(d.Height, roundDiv(d.Width*height, width))
		default:
			w.width, w.height = max(d.Width, roundDiv(d.Height*width, height)), d.Height
		}
		w.left, w.top = (w.width-d.Width)/2, (w.height-d.Height)/2
		return w
	case "pad":
		if d.Width*height >= d.Height*width {
			return window{width: min(d.Width, max(1, roundDiv(d.Height*width, height))), height: d.Height}
		}
		return window{width: d.Width, height: min(d.Height, max(1, roundDiv(d.Width*height, width)))}
	}
	return window{width: d.Width, height: d.Height}
}

func roundDiv(a, b int) int { return (a + b/2) / b }

// frame puts a smaller picture into the middle of a rim.
func (d decodeImage) frame(pixels []float32, width, height int) []float32 {
	c := d.Channels
	out := make([]float32, d.Width*d.Height*c)
	for i := range out {
		out[i] = float32(d.Fill)
	}
	left, top := (d.Width-width)/2, (d.Height-height)/2
	for y := range height {
		copy(out[((top+y)*d.Width+left)*c:], pixels[y*width*c:(y+1)*width*c])
	}
	return out
}

// place writes pixels in the step's layout, order and datatype.
func (d decodeImage) place(pixels []float32, data []byte) {
	c, plane := d.Channels, d.Width*d.Height
	for i := range plane {
		for channel := range c {
			from := channel
			if d.Order == "bgr" {
				from = c - 1 - channel
			}
			v, at := pixels[i*c+from], i*c+channel
			if d.Layout == "nchw" {
				at = channel*plane + i
			}
			if d.typ == tensor.Uint8 {
				data[at] = uint8(min(max(math.RoundToEven(float64(v)), 0), 255))
				continue
			}
			v *= d.Scale
			if len(d.mean) > 0 {
				v = (v - d.mean[channel]) / d.std[channel]
			}
			putFloat(data, at, v)
		}
	}
}
