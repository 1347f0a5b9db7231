package foreign

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/penstock/penstock/api"
)

const versionsMax = 1000 // numbered folders of one model

// numbered lists the folders of a model that are its versions, by number. Triton's rule: whole numbers from 1, without
// zeros before them.
func numbered(dir string) []int64 {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var all []int64
	for _, e := range entries {
		n, err := strconv.ParseInt(e.Name(), 10, 64)
		if err == nil && n > 0 && strconv.FormatInt(n, 10) == e.Name() && e.Type()&fs.ModeSymlink == 0 && e.IsDir() && len(all) < versionsMax {
			all = append(all, n)
		}
	}
	slices.Sort(all)
	return all
}

// triton reads one model of a Triton repository: every version of it, as one candidate each.
func triton(dir, source string) ([]Candidate, error) {
	base := Candidate{Kind: KindTriton, Source: source, Model: nameOf(source + ".")}
	config := message{}
	if has(dir, "config.pbtxt") {
		text, err := readConfig(filepath.Join(dir, "config.pbtxt"))
		if err != nil {
			return nil, err
		}
		if config, err = parsePBTXT(text); err != nil {
			base.Refused = "its config.pbtxt cannot be read: " + err.Error()
			return []Candidate{base}, nil
		}
	} else {
		base.note("has no config.pbtxt: everything is left to the defaults")
	}
	if name := config.string("name"); name != "" && name != source {
		base.note("names itself %.63q in config.pbtxt; the folder's name is taken", name)
	}
	if reason := notONNX(config); reason != "" {
		base.Refused = reason
		return []Candidate{base}, nil
	}
	if err := base.takeServing(config); err != nil {
		base.Refused = "its config.pbtxt cannot be taken over: " + err.Error()
		return []Candidate{base}, nil
	}
	numbers := numbered(dir)
	if len(numbers) == 0 {
		base.Refused = "it has no numbered version folder"
		return []Candidate{base}, nil
	}
	served, err := policy(config, numbers)
	if err != nil {
		base.Refused = "its config.pbtxt cannot be taken over: " + err.Error()
		return []Candidate{base}, nil
	}
	file := config.string("default_model_filename")
	if file == "" {
		file = "model.onnx"
	}
	var all []Candidate
	for i, n := range numbers {
		c := base
		c.Number, c.Source, c.Serve = n, source+"/"+strconv.FormatInt(n, 10), slices.Contains(served, n)
		c.Notes = slices.Clone(base.Notes)
		if i != len(numbers)-1 {
			c.Notes = nil // said once, with the newest
		}
		c.Tags = map[string]string{"triton.version": strconv.FormatInt(n, 10)}
		c.tritonFiles(filepath.Join(dir, strconv.FormatInt(n, 10)), file)
		all = append(all, c)
	}
	return all, nil
}

// tritonFiles takes the model of a version's folder with the data beside it.
func (c *Candidate) tritonFiles(dir, file string) {
	if !filepath.IsLocal(filepath.FromSlash(file)) {
		c.Refused = fmt.Sprintf("its default_model_filename %.80q leads out of the folder", file)
		return
	}
	path := filepath.Join(dir, filepath.FromSlash(file))
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.Refused = fmt.Sprintf("there is no %s in it", file)
	case err != nil:
		c.Refused = err.Error()
	case linked(dir, filepath.FromSlash(file)) || !info.IsDir() && !info.Mode().IsRegular():
		c.Refused = fmt.Sprintf("%s is a link or no plain file; links are not followed", file)
	case info.IsDir(): // Triton also takes a folder of that name with the files in it
		err := c.addFolder(path, func(string) bool { return true })
		if err != nil {
			c.Refused = err.Error()
		}
	default:
		name := filepath.Base(path)
		if !modelFile(name) {
			name += ".onnx"
		}
		c.Files = append(c.Files, File{path, name})
		c.addData(path, "")
	}
}

// notONNX says why a model of a repository cannot be run here.
func notONNX(config message) string {
	platform, backend := config.string("platform"), config.string("backend")
	switch {
	case len(config["ensemble_scheduling"]) > 0 || platform == "ensemble":
		return "it is an ensemble; write it as a chain of steps"
	case len(config["sequence_batching"]) > 0:
		return "it keeps state between requests (sequence_batching), which is not done here"
	case platform != "" && platform != "onnxruntime_onnx":
		return fmt.Sprintf("its platform is %.63q; only onnxruntime_onnx is taken, so export the model to ONNX", platform)
	case backend != "" && backend != "onnxruntime":
		return fmt.Sprintf("its backend is %.63q; only onnxruntime is taken, so export the model to ONNX", backend)
	}
	return ""
}

// policy gives the versions that the repository's owner lets serve: the newest one when nothing is said.
func policy(config message, numbers []int64) ([]int64, error) {
	v, given := config.one("version_policy")
	if !given {
		return numbers[len(numbers)-1:], nil
	}
	if _, all := v.inside.one("all"); all {
		return numbers, nil
	}
	if latest, is := v.inside.one("latest"); is {
		n, err := latest.inside.integer("num_versions")
		if err != nil {
			return nil, fmt.Errorf("version_policy: %w", err)
		}
		if n < 0 {
			return nil, fmt.Errorf("version_policy: num_versions is %d", n)
		}
		return numbers[max(0, len(numbers)-int(min(max(n, 1), versionsMax))):], nil
	}
	var chosen []int64
	if specific, is := v.inside.one("specific"); is {
		for _, text := range specific.inside["versions"] {
			n, err := strconv.ParseInt(text.text, 10, 64)
			if err != nil {
				return nil, fmt.Errorf("version_policy: %.40q is no number", text.text)
			}
			chosen = append(chosen, n)
		}
	}
	return chosen, nil
}

// taken are fields of a configuration that are read here, or say what the model's file says anyway.
var taken = []string{"name", "platform", "backend", "version_policy", "max_batch_size", "input", "output", "dynamic_batching", "instance_group",
	"default_model_filename"}

// takeServing maps what a configuration says about serving, and notes what has no counterpart.
func (c *Candidate) takeServing(config message) error {
	batch, err := config.integer("max_batch_size")
	if err != nil {
		return err
	}
	dynamic, asked := config.one("dynamic_batching")
	if batch > 0 && asked {
		b := &api.Batching{MaxSize: int(min(batch, api.BatchSizeMax))}
		if err := c.takeBatching(b, dynamic.inside); err != nil {
			return err
		}
		c.Serving.Batching = b
		if batch > api.BatchSizeMax {
			c.note("max_batch_size %d becomes %d", batch, api.BatchSizeMax)
		}
	} else {
		c.Serving.Batching = &api.Batching{Mode: api.BatchOff} // as Triton: nothing is joined unless it is asked for
	}
	replicas := int64(0)
	for _, group := range config["instance_group"] {
		n, err := group.inside.integer("count")
		if err != nil {
			return err
		}
		replicas += max(n, 1)
		if kind := group.inside.string("kind"); kind != "" && kind != "KIND_AUTO" && kind != "KIND_CPU" {
			c.note("instance_group %s: models run on the processor here", kind)
		}
	}
	if replicas > 64 {
		c.note("%d instances become 64 replicas", replicas)
	}
	c.Serving.Replicas = int(min(replicas, 64))
	for _, name := range slices.Sorted(maps.Keys(config)) {
		switch {
		case name == "response_cache":
			c.note("response_cache is not taken over: give the endpoint serving.cache with a size")
		case !slices.Contains(taken, name):
			c.note("%s is not taken over", name)
		}
	}
	return nil
}

// takeBatching maps dynamic_batching.
func (c *Candidate) takeBatching(b *api.Batching, d message) error {
	for _, v := range d["preferred_batch_size"] {
		n, err := strconv.ParseInt(v.text, 10, 64)
		if err != nil || n < 1 {
			return fmt.Errorf("preferred_batch_size %.40q is no size", v.text)
		}
		if n <= int64(b.MaxSize) && len(b.PreferredSizes) < api.BatchPreferredMax {
			b.PreferredSizes = append(b.PreferredSizes, int(n))
		} else {
			c.note("the preferred size %d is not taken over", n)
		}
	}
	slices.Sort(b.PreferredSizes)
	b.PreferredSizes = slices.Compact(b.PreferredSizes)
	queue, _ := d.one("default_queue_policy")
	var size, levels, level int64
	for _, f := range []struct {
		from message
		name string
		into *int64
		most int64
	}{
		{d, "max_queue_delay_microseconds", &b.DelayUS, api.BatchDelayUSMax}, {d, "priority_levels", &levels, api.BatchPrioritiesMax},
		{d, "default_priority_level", &level, api.BatchPrioritiesMax}, {queue.inside, "default_timeout_microseconds", &b.TimeoutUS, api.BatchTimeoutUSMax},
		{queue.inside, "max_queue_size", &size, api.BatchQueueMax},
	} {
		n, err := f.from.integer(f.name)
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		if n < 0 {
			return fmt.Errorf("%s: %d is below 0", f.name, n)
		}
		if n > f.most {
			c.note("%s %d becomes %d", f.name, n, f.most)
		}
		*f.into = min(n, f.most)
	}
	b.QueueSize, b.PriorityLevels, b.DefaultPriority = int(size), int(levels), int(level)
	if strings.EqualFold(queue.inside.string("timeout_action"), "DELAY") {
		b.TimeoutAction = api.TimeoutDelay
	}
	for _, name := range slices.Sorted(maps.Keys(d)) {
		if name == "preserve_ordering" || name == "priority_queue_policy" {
			c.note("dynamic_batching.%s is not taken over", name)
		}
	}
	return b.Check(string(c.Model))
}
