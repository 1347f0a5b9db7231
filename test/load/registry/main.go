// Command registry measures how fast a blob goes into registries and comes out, side by side:
//
//	registry -file FILE [-pulls N] NAME=URL,REPOSITORY,PID ...
//	registry -serve FILE
//
// It makes the file another one, sends it to each side in both ways that clients use, and reads it back several times, each
// time in another order of the sides. Two more rows say what is possible: cp, which copies the file beside it, syncs and reads
// it, and bare, net/http's own http.ServeContent of the file in a process of its own (-serve, which prints its address). It
// prints a line of JSON per side: seconds, and seconds of the server's processor time.
package main

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

func main() {
	file := flag.String("file", "", "the blob; it is changed")
	serve := flag.String("serve", "", "only serve this file, as plainly as Go can")
	pulls := flag.Int("pulls", 3, "how often it is read back")
	flag.Parse()
	err := bare(*serve)
	if *serve == "" {
		err = run(*file, *pulls, flag.Args())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// bare serves one file at every path.
func bare(path string) error {
	if path == "" {
		return nil
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, err := os.Open(path)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		defer f.Close()
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(w, r, "", time.Time{}, f)
	}))
}

type caller struct{ name, base, repo, key, pid string }

// result is one measurement of one side, in seconds. Absent ways are 0.
type result struct {
	Side  string `json:"side"`
	Bytes int64  `json:"bytes"`
	Put   took   `json:"put"`   // POST, then PUT with the whole body, as oras does
	Patch took   `json:"patch"` // POST, PATCH with the body, PUT without, as docker and crane do
	Get   []took `json:"get"`
}

type took struct {
	Wall float64 `json:"wall_s"`
	CPU  float64 `json:"cpu_s"` // of the server's process
}

// measure takes the time of an act, and the processor time that a server needs for it.
func (c caller) measure(act func() error) (took, error) {
	before, began := processor(c.pid), time.Now()
	err := act()
	return took{time.Since(began).Seconds(), processor(c.pid) - before}, err
}

// processor is the processor time of a process so far, in seconds; 0 for none.
func processor(pid string) float64 {
	text, err := os.ReadFile("/proc/" + pid + "/stat")
	if pid == "" || err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(after)
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return (user + system) / 100
}

func run(path string, pulls int, args []string) error {
	var sides []caller
	results := map[string]*result{"cp": {Side: "cp"}}
	for _, arg := range args {
		name, rest, _ := strings.Cut(arg, "=")
		parts := strings.Split(rest, ",")
		if len(parts) != 3 {
			return fmt.Errorf("%q is not NAME=URL,REPOSITORY,PID", arg)
		}
		sides = append(sides, caller{name: name, base: parts[0], repo: parts[1], pid: parts[2]})
		results[name] = &result{Side: name}
	}
	for way := range 2 {
		digest, size, err := another(path)
		if err != nil {
			return err
		}
		for _, at := range mathrand.Perm(len(sides) + 1) {
			if at == len(sides) {
				if err := copyFile(path, results["cp"], way); err != nil {
					return err
				}
				continue
			}
			if err := sides[at].push(path, size, digest, way, results[sides[at].name]); err != nil {
				return fmt.Errorf("%s: %w", sides[at].name, err)
			}
		}
		for range pulls {
			for _, at := range mathrand.Perm(len(sides)) {
				t, err := sides[at].measure(func() error { return sides[at].get(digest, size) })
				if err != nil {
					return fmt.Errorf("%s: %w", sides[at].name, err)
				}
				r := results[sides[at].name]
				r.Bytes, r.Get = size, append(r.Get, t)
			}
		}
	}
	for _, r := range results {
		if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
			return err
		}
	}
	return nil
}

// push sends the file in one of the two ways. The bare server takes none.
func (c caller) push(path string, size int64, digest string, way int, r *result) error {
	if c.repo == "" {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() // the HTTP client may have done so
	if way == 0 {
		r.Put, err = c.measure(func() error { return c.put(f, size, digest) })
	} else {
		r.Patch, err = c.measure(func() error { return c.patch(f, size, digest) })
	}
	return err
}

// copyFile copies the file beside it, syncs and reads the copy.
func copyFile(path string, r *result, way int) error {
	to := path + ".copy"
	defer os.Remove(to)
	var none caller
	t, err := none.measure(func() error {
		if err := exec.Command("cp", "--reflink=never", path, to).Run(); err != nil {
			return err
		}
		f, err := os.OpenFile(to, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		return f.Sync()
	})
	if err != nil {
		return err
	}
	if r.Put = t; way == 1 {
		r.Patch = t
	}
	t, err = none.measure(func() error {
		f, err := os.Open(to)
		if err != nil {
			return err
		}
		defer f.Close()
		r.Bytes, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, make([]byte, 1<<20))
		return err
	})
	r.Get = append(r.Get, t)
	return err
}

// another makes the file one that no registry has seen, and gives its digest.
func another(path string) (digest string, size int64, _ error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	var mark [16]byte
	rand.Read(mark[:])
	if _, err := f.WriteAt(mark[:], 0); err != nil {
		return "", 0, err
	}
	sum := sha256.New()
	if size, err = io.CopyBuffer(struct{ io.Writer }{sum}, struct{ io.Reader }{f}, make([]byte, 1<<20)); err != nil {
		return "", 0, err
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil)), size, nil
}

func (c caller) do(method, at string, body io.Reader, size int64, want int) (*http.Response, error) {
	r, err := http.NewRequest(method, at, body)
	if err != nil {
		return nil, err
	}
	r.ContentLength = size
	if body != nil {
		r.Header.Set("Content-Type", "application/octet-stream")
	}
	if c.key != "" {
		r.Header.Set("Authorization", "Bearer "+c.key)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != want {
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 4096))
		answer.Body.Close()
		return nil, fmt.Errorf("%s %s: %s: %s", method, at, answer.Status, text)
	}
	return answer, nil
}

// place reads where to go on.
func place(answer *http.Response, digest string) (string, error) {
	defer answer.Body.Close()
	at, err := answer.Location()
	if err != nil || digest == "" {
		return fmt.Sprint(at), err
	}
	query := at.Query()
	query.Set("digest", digest)
	at.RawQuery = query.Encode()
	return at.String(), nil
}

func (c caller) begin(digest string) (string, error) {
	at, err := url.JoinPath(c.base, "v2", c.repo, "blobs/uploads/")
	if err != nil {
		return "", err
	}
	answer, err := c.do(http.MethodPost, at, nil, 0, http.StatusAccepted)
	if err != nil {
		return "", err
	}
	return place(answer, digest)
}

func (c caller) put(f *os.File, size int64, digest string) error {
	at, err := c.begin(digest)
	if err != nil {
		return err
	}
	answer, err := c.do(http.MethodPut, at, f, size, http.StatusCreated)
	if err != nil {
		return err
	}
	return answer.Body.Close()
}

func (c caller) patch(f *os.File, size int64, digest string) error {
	at, err := c.begin("")
	if err != nil {
		return err
	}
	answer, err := c.do(http.MethodPatch, at, f, size, http.StatusAccepted)
	if err != nil {
		return err
	}
	if at, err = place(answer, digest); err != nil {
		return err
	}
	if answer, err = c.do(http.MethodPut, at, bytes.NewReader(nil), 0, http.StatusCreated); err != nil {
		return err
	}
	return answer.Body.Close()
}

func (c caller) get(digest string, size int64) error {
	answer, err := c.do(http.MethodGet, c.base+"/v2/"+c.repo+"/blobs/"+digest, nil, 0, http.StatusOK)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{answer.Body}, make([]byte, 1<<20))
	if err == nil && n != size {
		err = fmt.Errorf("%d bytes came, want %d", n, size)
	}
	return err
}
