package api

import (
	"encoding/json"
	"slices"
)

// BatchMode says whether requests to an instance may be run together.
type BatchMode string

// The modes. Auto, which no mode at all means too, batches where a trial at load showed that it pays and changes no result.
const (
	BatchAuto BatchMode = "auto"
	BatchOn   BatchMode = "on"
	BatchOff  BatchMode = "off"
)

// TimeoutAction is what becomes of a request that waited longer for its batch than it may.
type TimeoutAction string

// The actions: reject answers with an error; delay puts the request behind those that are still in time.
const (
	TimeoutReject TimeoutAction = "reject"
	TimeoutDelay  TimeoutAction = "delay"
)

// Limits of Batching.
const (
	BatchSizeMax       = 1024
	BatchPreferredMax  = 16
	BatchDelayUSMax    = 10_000_000
	BatchPrioritiesMax = 16
	BatchQueueMax      = 65_536
	BatchTimeoutUSMax  = 3_600_000_000
	BatchRunsMax       = 64
)

// Batching says how requests to one instance are run together along their first dimension. Zero fields are defaults.
type Batching struct {
	Mode            BatchMode     `json:"mode,omitempty" doc:"auto (default) batches where a trial at load showed that it pays and changes no result; on batches whatever has a batch dimension; off never does." enum:"auto,on,off"`
	MaxSize         int           `json:"max_size,omitempty" doc:"Most rows of one batch; chosen at load when left out." minimum:"0" maximum:"1024"`
	PreferredSizes  []int         `json:"preferred_sizes,omitempty" doc:"Sizes that are run without waiting for more rows, rising." maxItems:"16"`
	DelayUS         int64         `json:"delay_us,omitempty" doc:"Longest wait for more rows under load, in microseconds; a request that finds the instance idle never waits. Default 0." minimum:"0" maximum:"10000000"`
	Exact           *bool         `json:"exact,omitempty" doc:"Batch only sizes whose results were bit-equal to unbatched ones in the trial; true when left out."`
	Runs            int           `json:"runs,omitempty" doc:"Runs of the instance at the same time; default is the threads of the runtime." minimum:"0" maximum:"64"`
	PriorityLevels  int           `json:"priority_levels,omitempty" doc:"Levels of priority, 1 the highest; 0 and 1 are one level." minimum:"0" maximum:"16"`
	DefaultPriority int           `json:"default_priority,omitempty" doc:"Level of requests that name none; the middle one when left out." minimum:"0" maximum:"16"`
	QueueSize       int           `json:"queue_size,omitempty" doc:"Most requests waiting for a batch, per replica; default 4096." minimum:"0" maximum:"65536"`
	TimeoutUS       int64         `json:"timeout_us,omitempty" doc:"Longest wait for a batch, in microseconds; 0 is as long as the request's deadline." minimum:"0" maximum:"3600000000"`
	TimeoutAction   TimeoutAction `json:"timeout_action,omitempty" doc:"reject (default) answers with an error; delay puts the request behind those in time." enum:"reject,delay"`
}

// IsZero reports whether everything is left to the defaults.
func (b *Batching) IsZero() bool {
	if b == nil {
		return true
	}
	text, err := json.Marshal(b)
	return err == nil && string(text) == "{}"
}

// Level gives the level of a request that asks for one: 1 the highest. 0, and what lies beyond the levels, is the default.
func (b *Batching) Level(asked int) int {
	levels := max(1, b.PriorityLevels)
	switch {
	case asked >= 1 && asked <= levels:
		return asked
	case b.DefaultPriority > 0:
		return b.DefaultPriority
	}
	return (levels + 1) / 2
}

// Check reports the first fault; subject is whose settings they are.
func (b *Batching) Check(subject string) error {
	if b == nil {
		return nil
	}
	bad := func(format string, args ...any) error {
		return Fail(CodeBadRequest, subject, "batching: "+format, args...)
	}
	within := func(v, limit int64) bool { return v >= 0 && v <= limit }
	switch {
	case b.Mode != "" && b.Mode != BatchAuto && b.Mode != BatchOn && b.Mode != BatchOff:
		return bad("mode %q is not one of auto, on, off", b.Mode)
	case b.TimeoutAction != "" && b.TimeoutAction != TimeoutReject && b.TimeoutAction != TimeoutDelay:
		return bad("timeout_action %q is not one of reject, delay", b.TimeoutAction)
	case !within(int64(b.MaxSize), BatchSizeMax):
		return bad("max_size must be 0 to %d", BatchSizeMax)
	case len(b.PreferredSizes) > BatchPreferredMax:
		return bad("preferred_sizes has %d entries, limit %d", len(b.PreferredSizes), BatchPreferredMax)
	case !within(b.DelayUS, BatchDelayUSMax):
		return bad("delay_us must be 0 to %d", BatchDelayUSMax)
	case !within(int64(b.Runs), BatchRunsMax):
		return bad("runs must be 0 to %d", BatchRunsMax)
	case !within(int64(b.PriorityLevels), BatchPrioritiesMax):
		return bad("priority_levels must be 0 to %d", BatchPrioritiesMax)
	case !within(int64(b.DefaultPriority), int64(max(1, b.PriorityLevels))):
		return bad("default_priority must be 1 to priority_levels")
	case !within(int64(b.QueueSize), BatchQueueMax):
		return bad("queue_size must be 0 to %d", BatchQueueMax)
	case !within(b.TimeoutUS, BatchTimeoutUSMax):
		return bad("timeout_us must be 0 to %d", BatchTimeoutUSMax)
	}
	return b.checkPreferred(bad)
}

func (b *Batching) checkPreferred(bad func(string, ...any) error) error {
	limit := b.MaxSize
	if limit == 0 {
		limit = BatchSizeMax
	}
	for i, n := range b.PreferredSizes {
		if n < 1 || n > limit || i > 0 && n <= b.PreferredSizes[i-1] {
			return bad("preferred_sizes must rise and lie from 1 to max_size")
		}
	}
	return nil
}

// LoadOptions is how an instance is held, beyond which file it is. Instances that differ in it are loaded apart.
type LoadOptions struct {
	Batching *Batching `json:"batching,omitempty"`
	Chain    *Chain    `json:"chain,omitempty"` // in place of one model
}

// LoadOptionsMax is the most bytes of options as text.
const LoadOptionsMax = 1 << 20

// LoadOptions gives the part of the settings that an instance is loaded with, in its one normal form.
func (s *Serving) LoadOptions() LoadOptions {
	var o LoadOptions
	if b := s.Batching; b != nil {
		normal := *b
		normal.PreferredSizes = slices.Clone(b.PreferredSizes)
		if normal.Mode == BatchAuto {
			normal.Mode = ""
		}
		if normal.TimeoutAction == TimeoutReject {
			normal.TimeoutAction = ""
		}
		if normal.Mode == BatchOff {
			normal = Batching{Mode: BatchOff}
		}
		if !normal.IsZero() {
			o.Batching = &normal
		}
	}
	return o
}

// Text is the options as canonical JSON; empty when all are defaults. DecodeStrict reads it.
func (o *LoadOptions) Text() string {
	text, err := json.Marshal(o)
	if err != nil || string(text) == "{}" { // plain values cannot fail
		return ""
	}
	return string(text)
}

// BatchPlan is what loading made of an instance's Batching.
type BatchPlan struct {
	MaxSize int    `json:"max_size" doc:"Most rows of one batch; 0 or 1: requests are run one by one."`
	Exact   bool   `json:"exact" doc:"Whether only sizes are batched whose results were bit-equal to unbatched ones in the trial."`
	Why     string `json:"why" doc:"What was found, as a sentence."`

	Sizes []int `json:"-"` // rows that may be run together; nil: all up to MaxSize
}
