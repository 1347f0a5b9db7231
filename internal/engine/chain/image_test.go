package chain_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/internal/tensor"
)

// noise is a picture of random pixels.
func noise(random *rand.Rand, width, height int) *image.NRGBA {
	p := image.NewNRGBA(image.Rect(0, 0, width, height))
	for i := range p.Pix {
		p.Pix[i] = uint8(random.Uint32())
	}
	return p
}

func asPNG(t testing.TB, p image.Image) string {
	t.Helper()
	var b bytes.Buffer
	if err := png.Encode(&b, p); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// reference resizes by the definition, one pixel of the result at a time and in both directions at once: every pixel of
// the source counts by how near its middle lies to the point asked for. window is the whole picture's size, of which the
// part at (left, top) is kept.
func reference(p *image.NRGBA, filter string, antialias bool, window image.Point, part image.Rectangle) [][3]float64 {
	weight := func(filter string, at, middle, scale, stretch float64, size int) float64 {
		x := (at + 0.5 - middle) / stretch
		switch filter {
		case "area": // how much of the pixel the new one covers
			return max(0, min(at+1, middle+scale/2)-max(at, middle-scale/2))
		case "nearest":
			if int(at) == min(max(int(middle), 0), size-1) {
				return 1
			}
			return 0
		}
		return max(0, 1-math.Abs(x))
	}
	size := p.Bounds().Size()
	scaleX, scaleY := float64(size.X)/float64(window.X), float64(size.Y)/float64(window.Y)
	stretch := func(scale float64) float64 {
		if antialias {
			return max(1, scale)
		}
		return 1
	}
	var out [][3]float64
	for y := part.Min.Y; y < part.Max.Y; y++ {
		for x := part.Min.X; x < part.Max.X; x++ {
			var sum [3]float64
			var total float64
			for v := range size.Y {
				down := weight(filter, float64(v), (float64(y)+0.5)*scaleY, scaleY, stretch(scaleY), size.Y)
				for u := range size.X {
					w := down * weight(filter, float64(u), (float64(x)+0.5)*scaleX, scaleX, stretch(scaleX), size.X)
					c := p.NRGBAAt(u, v)
					total += w
					sum[0] += w * float64(c.R)
					sum[1] += w * float64(c.G)
					sum[2] += w * float64(c.B)
				}
			}
			for i := range sum {
				sum[i] /= total
			}
			out = append(out, sum)
		}
	}
	return out
}

// TestImageAgainstReference resizes random pictures to random sizes in every mode and holds them against the definition.
func TestImageAgainstReference(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 2))
	for range 120 {
		width, height := 1+random.IntN(24), 1+random.IntN(24)
		w, h := 1+random.IntN(24), 1+random.IntN(24)
		filter := []string{"bilinear", "area", "nearest"}[random.IntN(3)]
		antialias := random.IntN(2) == 0
		window, part := image.Pt(w, h), image.Rect(0, 0, w, h)
		extra := `"mode":"stretch"`
		switch random.IntN(3) {
		case 1: // as torchvision's Resize(shorter) and CenterCrop
			shorter := max(w, h) + random.IntN(8)
			extra = fmt.Sprintf(`"mode":"crop","shorter":%d`, shorter)
			if window = image.Pt(shorter, shorter*height/width); width > height {
				window = image.Pt(shorter*width/height, shorter)
			}
			part = part.Add(image.Pt((window.X-w)/2, (window.Y-h)/2))
		case 2:
			w, h, extra = max(w, h), max(w, h), `"mode":"crop"` // a square: the shorter side decides
			if window = image.Pt(w, int(math.Round(float64(w*height)/float64(width)))); width > height {
				window = image.Pt(int(math.Round(float64(h*width)/float64(height))), h)
			}
			part = image.Rect(0, 0, w, h).Add(image.Pt((window.X-w)/2, (window.Y-h)/2))
		}
		p := noise(random, width, height)
		with := fmt.Sprintf(`{"width":%d,"height":%d,"filter":%q,"antialias":%v,"layout":"nhwc","scale":1,%s}`, w, h, filter, antialias, extra)
		got, err := alone(t, "decode_image", with, tensors{"image": texts([]int64{1}, asPNG(t, p))}, "pixels")
		if err != nil {
			t.Fatalf("%s: %v", with, err)
		}
		x := got["pixels"]
		values := x.Float32s()
		for i, want := range reference(p, filter, antialias, window, part) {
			for c := range 3 {
				if math.Abs(float64(values[3*i+c])-want[c]) > 0.01 {
					t.Fatalf("%d x %d %s: pixel %d channel %d is %v, want %v", width, height, with, i, c, values[3*i+c], want[c])
				}
			}
		}
	}
}

func TestImageForms(t *testing.T) {
	p := image.NewNRGBA(image.Rect(0, 0, 2, 1))
	p.SetNRGBA(0, 0, color.NRGBA{255, 0, 51, 255})
	p.SetNRGBA(1, 0, color.NRGBA{0, 102, 255, 1}) // nearly transparent: the colour under it counts
	grey := image.NewGray16(image.Rect(0, 0, 2, 1))
	grey.SetGray16(1, 0, color.Gray16{0xff00})
	few := image.NewPaletted(image.Rect(0, 0, 2, 1), color.Palette{color.NRGBA{255, 0, 51, 255}, color.NRGBA{0, 102, 255, 255}})
	few.SetColorIndex(1, 0, 1)
	for name, tc := range map[string]struct {
		with    string
		picture image.Image
		shape   []int64
		want    []float32
	}{
		"nchw":        {`{"width":2,"height":1}`, p, []int64{1, 3, 1, 2}, []float32{1, 0, 0, 0.4, 0.2, 1}},
		"nhwc":        {`{"width":2,"height":1,"layout":"nhwc"}`, p, []int64{1, 1, 2, 3}, []float32{1, 0, 0.2, 0, 0.4, 1}},
		"bgr":         {`{"width":2,"height":1,"order":"bgr"}`, p, []int64{1, 3, 1, 2}, []float32{0.2, 1, 0, 0.4, 1, 0}},
		"mean, std":   {`{"width":2,"height":1,"mean":[0,0.4,0],"std":[0.5,1,2]}`, p, []int64{1, 3, 1, 2}, []float32{2, 0, -0.4, 0, 0.1, 0.5}},
		"grey":        {`{"width":2,"height":1,"channels":1,"scale":1}`, p, []int64{1, 1, 1, 2}, []float32{82, 89}},
		"from 16 bit": {`{"width":2,"height":1,"scale":1}`, grey, []int64{1, 3, 1, 2}, []float32{0, 255, 0, 255, 0, 255}},
		"palette":     {`{"width":2,"height":1}`, few, []int64{1, 3, 1, 2}, []float32{1, 0, 0, 0.4, 0.2, 1}},
		"pad":         {`{"width":2,"height":3,"mode":"pad","fill":51}`, p, []int64{1, 3, 3, 2}, []float32{.2, .2, 1, 0, .2, .2, .2, .2, 0, .4, .2, .2, .2, .2, .2, 1, .2, .2}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := alone(t, "decode_image", tc.with, tensors{"image": texts([]int64{1}, asPNG(t, tc.picture))}, "pixels")
			if err != nil {
				t.Fatal(err)
			}
			x := got["pixels"]
			if fmt.Sprint(x.Shape) != fmt.Sprint(tc.shape) || !near(x.Float32s(), tc.want) {
				t.Errorf("got %v %v, want %v %v", x.Shape, x.Float32s(), tc.shape, tc.want)
			}
		})
	}
}

func TestImageBytesAndBatches(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	a, b := noise(random, 3, 3), noise(random, 3, 3)
	got, err := alone(t, "decode_image", `{"width":3,"height":3,"datatype":"UINT8","layout":"nhwc"}`, tensors{"image": texts([]int64{2, 1}, asPNG(t, a), asPNG(t, b))}, "pixels")
	if err != nil {
		t.Fatal(err)
	}
	x := got["pixels"]
	if x.Type != tensor.Uint8 || fmt.Sprint(x.Shape) != "[2 3 3 3]" || x.Data[0] != a.Pix[0] || x.Data[27] != b.Pix[0] || x.Data[53] != b.Pix[34] {
		t.Errorf("got %s %v % x", x.Type, x.Shape, x.Data)
	}
}

// TestJPEG wants a smooth picture back, within what JPEG loses.
func TestJPEG(t *testing.T) {
	p := image.NewNRGBA(image.Rect(0, 0, 32, 32))
	for y := range 32 {
		for x := range 32 {
			p.SetNRGBA(x, y, color.NRGBA{uint8(8 * x), uint8(8 * y), 128, 255})
		}
	}
	var file bytes.Buffer
	if err := jpeg.Encode(&file, p, &jpeg.Options{Quality: 95}); err != nil {
		t.Fatal(err)
	}
	for _, channels := range []int{1, 3} {
		got, err := alone(t, "decode_image", fmt.Sprintf(`{"width":32,"height":32,"channels":%d,"layout":"nhwc","scale":1}`, channels), tensors{"image": texts([]int64{1}, file.String())}, "pixels")
		if err != nil {
			t.Fatal(err)
		}
		x := got["pixels"]
		at := (5*32 + 20) * channels
		want := []float64{160, 40, 128}
		if channels == 1 {
			want = []float64{0.299*160 + 0.587*40 + 0.114*128}
		}
		for c, w := range want {
			if v := float64(x.Float32s()[at+c]); math.Abs(v-w) > 12 {
				t.Errorf("%d channels: channel %d is %v, want about %v", channels, c, v, w)
			}
		}
	}
}

// giant is a PNG that announces much and holds nothing.
func giant(width, height uint32) string {
	head := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32([]byte("IHDR"), width), height)
	head = append(head, 8, 2, 0, 0, 0)
	file := []byte("\x89PNG\r\n\x1a\n\x00\x00\x00\x0d")
	file = append(file, head...)
	return string(binary.BigEndian.AppendUint32(file, crc32.ChecksumIEEE(head)))
}

func TestImageRefusals(t *testing.T) {
	small := asPNG(t, image.NewGray(image.Rect(0, 0, 4, 4)))
	for name, tc := range map[string]struct{ with, file, fault string }{
		"a bomb":               {`{"width":8,"height":8}`, giant(50000, 50000), "50000 x 50000 pixels are over max_pixels"},
		"a limit of one's own": {`{"width":8,"height":8,"max_pixels":15}`, small, "4 x 4 pixels are over max_pixels, 15"},
		"no picture":           {`{"width":8,"height":8}`, "GIF89a", "it is neither JPEG nor PNG"},
		"empty":                {`{"width":8,"height":8}`, "", "it is neither JPEG nor PNG"},
		"cut off":              {`{"width":8,"height":8}`, small[:len(small)-30], "it cannot be decoded"},
		"no size":              {``, small, "with.width and with.height"},
		"no side":              {`{"width":8,"height":-8}`, small, "with.width and with.height"},
		"two channels":         {`{"width":8,"height":8,"channels":2}`, small, "with.channels is 2"},
		"an unknown filter":    {`{"width":8,"height":8,"filter":"lanczos"}`, small, `with.filter: "lanczos"`},
		"means of others":      {`{"width":8,"height":8,"mean":[1]}`, small, "1 values for 3 channels"},
		"shorter and stretch":  {`{"width":8,"height":8,"shorter":9}`, small, "with.shorter is for mode crop"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := alone(t, "decode_image", tc.with, tensors{"image": texts([]int64{1}, tc.file)}, "pixels")
			if err == nil || !strings.Contains(err.Error(), tc.fault) {
				t.Errorf("got %v, want %q", err, tc.fault)
			}
		})
	}
}

// TestThinPictures: one column of very many lines must not be made wide before it is made short.
func TestThinPictures(t *testing.T) {
	for _, size := range []image.Point{{1, 200_000}, {200_000, 1}} {
		file := asPNG(t, image.NewGray(image.Rect(0, 0, size.X, size.Y)))
		for _, mode := range []string{"stretch", "crop", "pad"} {
			with := fmt.Sprintf(`{"width":2000,"height":20,"channels":1,"mode":%q}`, mode)
			if _, err := alone(t, "decode_image", with, tensors{"image": texts([]int64{1}, file)}, "pixels"); err != nil {
				t.Errorf("%v %s: %v", size, mode, err)
			}
		}
	}
}

func FuzzDecodeImage(f *testing.F) {
	random := rand.New(rand.NewPCG(1, 1))
	f.Add([]byte(asPNG(f, noise(random, 3, 2))))
	f.Add([]byte(giant(70000, 3)))
	var file bytes.Buffer
	if err := jpeg.Encode(&file, noise(random, 9, 9), nil); err != nil {
		f.Fatal(err)
	}
	f.Add(file.Bytes())
	f.Fuzz(func(t *testing.T, file []byte) {
		got, err := alone(t, "decode_image", `{"width":4,"height":4,"max_pixels":100000,"mode":"crop"}`, tensors{"image": texts([]int64{1}, string(file))}, "pixels")
		if x := got["pixels"]; err == nil && len(x.Data) != 4*3*4*4 {
			t.Errorf("got %v", x.Shape)
		}
	})
}
