package oip

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/gateway"
	wire "github.com/penstock/penstock/internal/wire/oip"
)

// Settings is what can be changed while the server runs. Nothing of it outlives the process.
type Settings interface {
	LogLevel() slog.Level
	SetLogLevel(level slog.Level)

	// TraceEvery says of how many requests one is traced, -1 for none; without a collector ok is false and
	// SetTraceEvery changes nothing.
	TraceEvery() (every int, ok bool)
	SetTraceEvery(every int) (ok bool)
}

// levelSilent is above every level that the server logs at.
const levelSilent = slog.LevelError + 4

// logSettings are the extension's log settings. They are bools for what is one level here: each needs the one below it.
type logSettings struct {
	File    *string `json:"log_file"`
	Info    *bool   `json:"log_info"`
	Warning *bool   `json:"log_warning"`
	Error   *bool   `json:"log_error"`
	Verbose *uint32 `json:"log_verbose_level"`
	Format  *string `json:"log_format"`
}

func logSettingsOf(level slog.Level) logSettings {
	file, format := "", "ISO8601"
	info, warning, fault := level <= slog.LevelInfo, level <= slog.LevelWarn, level <= slog.LevelError
	verbose := uint32(0)
	if level <= slog.LevelDebug {
		verbose = 1
	}
	return logSettings{File: &file, Info: &info, Warning: &warning, Error: &fault, Verbose: &verbose, Format: &format}
}

// with gives the level that the present one becomes by what s says.
func (s *logSettings) with(present slog.Level) (slog.Level, error) {
	now := logSettingsOf(present)
	if s.File != nil && *s.File != "" {
		return 0, api.Fail(api.CodeBadRequest, "", "log_file is refused: the server logs to its standard error, which whoever starts it directs")
	}
	if s.Format != nil && *s.Format != *now.Format {
		return 0, api.Fail(api.CodeBadRequest, "", "log_format is ISO8601; whether lines are text or JSON is chosen when the server starts")
	}
	for _, field := range []struct{ from, to **bool }{{&s.Info, &now.Info}, {&s.Warning, &now.Warning}, {&s.Error, &now.Error}} {
		if *field.from != nil {
			*field.to = *field.from
		}
	}
	if s.Verbose != nil {
		now.Verbose = s.Verbose
	}
	switch {
	case *now.Verbose > 0 && !*now.Info:
		return 0, api.Fail(api.CodeBadRequest, "", "log_verbose_level over 0 needs log_info: a level includes those above it")
	case *now.Info && !*now.Warning:
		return 0, api.Fail(api.CodeBadRequest, "", "log_info needs log_warning: a level includes those above it")
	case *now.Warning && !*now.Error:
		return 0, api.Fail(api.CodeBadRequest, "", "log_warning needs log_error: a level includes those above it")
	case *now.Verbose > 0:
		return slog.LevelDebug, nil
	case *now.Info:
		return slog.LevelInfo, nil
	case *now.Warning:
		return slog.LevelWarn, nil
	case *now.Error:
		return slog.LevelError, nil
	}
	return levelSilent, nil
}

// logging gives the log settings, changed first when there is a change.
func (c *controls) logging(ctx context.Context, who *api.Principal, change *logSettings) (logSettings, error) {
	if c.settings == nil {
		return logSettings{}, missing("logging")
	}
	if change != nil {
		if err := overseer(ctx, who, "the log"); err != nil {
			return logSettings{}, err
		}
		level, err := change.with(c.settings.LogLevel())
		if err != nil {
			return logSettings{}, err
		}
		if err := c.recorded(ctx, who, "setLogLevel", "", func() (string, error) {
			c.settings.SetLogLevel(level)
			return strconv.Quote(level.String()), nil
		}); err != nil {
			return logSettings{}, err
		}
	}
	return logSettingsOf(c.settings.LogLevel()), nil
}

func (c *controls) loggingHTTP(ctx context.Context, who *api.Principal, post bool, body []byte) ([]byte, error) {
	var change *logSettings
	if post && len(body) > 0 {
		change = new(logSettings)
		if err := api.DecodeStrict(body, change); err != nil {
			return nil, err
		}
	}
	now, err := c.logging(ctx, who, change)
	if err != nil {
		return nil, err
	}
	return json.Marshal(now)
}

// LogSettings shows the log settings, changed first when the request names any.
func (s *service) LogSettings(ctx context.Context, r *wire.LogSettingsRequest) (*wire.LogSettingsResponse, error) {
	var change *logSettings
	for name, value := range r.GetSettings() {
		if change == nil {
			change = new(logSettings)
		}
		if err := change.put(name, value); err != nil {
			return nil, err
		}
	}
	now, err := s.p.controls.logging(ctx, gateway.PrincipalOf(ctx), change)
	if err != nil {
		return nil, err
	}
	text := func(s *string) *wire.LogSettingsResponse_SettingValue {
		return &wire.LogSettingsResponse_SettingValue{ParameterChoice: &wire.LogSettingsResponse_SettingValue_StringParam{StringParam: *s}}
	}
	flag := func(b *bool) *wire.LogSettingsResponse_SettingValue {
		return &wire.LogSettingsResponse_SettingValue{ParameterChoice: &wire.LogSettingsResponse_SettingValue_BoolParam{BoolParam: *b}}
	}
	return &wire.LogSettingsResponse{Settings: map[string]*wire.LogSettingsResponse_SettingValue{
		"log_file": text(now.File), "log_info": flag(now.Info), "log_warning": flag(now.Warning), "log_error": flag(now.Error),
		"log_format":        text(now.Format),
		"log_verbose_level": {ParameterChoice: &wire.LogSettingsResponse_SettingValue_Uint32Param{Uint32Param: *now.Verbose}}}}, nil
}

// put takes one setting of a message in.
func (s *logSettings) put(name string, value *wire.LogSettingsRequest_SettingValue) error {
	flags := map[string]**bool{"log_info": &s.Info, "log_warning": &s.Warning, "log_error": &s.Error}
	texts := map[string]**string{"log_file": &s.File, "log_format": &s.Format}
	ok := false
	switch v := value.GetParameterChoice().(type) {
	case *wire.LogSettingsRequest_SettingValue_BoolParam:
		if flags[name] != nil {
			*flags[name], ok = &v.BoolParam, true
		}
	case *wire.LogSettingsRequest_SettingValue_StringParam:
		if texts[name] != nil {
			*texts[name], ok = &v.StringParam, true
		}
	case *wire.LogSettingsRequest_SettingValue_Uint32Param:
		if name == "log_verbose_level" {
			s.Verbose, ok = &v.Uint32Param, true
		}
	}
	if !ok {
		return api.Fail(api.CodeBadRequest, "", "'%.64s' is no log setting, or its value is of another type", name)
	}
	return nil
}

// tracing is what the trace settings are made of, beside whether and how often is traced.
type tracing struct {
	mu    sync.Mutex // guards rate, and holds one change together
	rate  int        // one of so many, also while tracing is off
	start int        // what the server was started with
}

// rateDefault is shown while nothing is traced and nothing was ever asked for.
const rateDefault = 100

func (t *tracing) begin(s Settings) {
	every, ok := s.TraceEvery()
	if t.start = every; !ok || every < 1 {
		t.start = -1
	}
	t.rate = max(t.start, 1)
	if t.start < 0 {
		t.rate = rateDefault
	}
}

// fixed are the trace settings that have one value here; another is refused with what stands behind.
var fixed = map[string]struct{ value, why string }{
	"trace_file":    {"", "traces go to the collector that the server was started with, never to a file"},
	"trace_mode":    {"opentelemetry", "traces are OpenTelemetry's"},
	"trace_count":   {"-1", "the number of traces has no end"},
	"log_frequency": {"0", "there is no trace file to split"},
}

// trace gives the trace settings, changed first when there is a change. No value means the start's.
func (c *controls) trace(ctx context.Context, p *protocol, who *api.Principal, endpoint string, change map[string][]string) (map[string][]string, error) {
	if c.settings == nil {
		return nil, missing("trace")
	}
	if endpoint != "" {
		if err := checkTarget(endpoint, ""); err != nil {
			return nil, err
		}
		if _, err := p.server.Describe(who, api.EndpointName(endpoint), ""); err != nil && api.KindOf(err) != api.Unavailable {
			return nil, named(err, endpoint, "")
		}
	}
	t := &c.tracing
	t.mu.Lock()
	defer t.mu.Unlock()
	every, able := c.settings.TraceEvery()
	if len(change) > 0 {
		if err := overseer(ctx, who, "tracing"); err != nil {
			return nil, err
		}
		if endpoint != "" {
			return nil, api.Fail(api.CodeUnsupported, "", "trace settings are the server's: a model has none of its own").
				WithCure("Change them without naming a model.")
		}
		if err := c.recorded(ctx, who, "setTrace", "", func() (string, error) {
			next, err := t.next(every, able, change)
			if err != nil {
				return "", err
			}
			if every = next; able {
				c.settings.SetTraceEvery(every)
			}
			return strconv.Itoa(every), nil
		}); err != nil {
			return nil, err
		}
	}
	level := "TIMESTAMPS"
	if every < 1 || !able {
		level = "OFF"
	}
	out := map[string][]string{"trace_level": {level}, "trace_rate": {strconv.Itoa(t.rate)}}
	for name, f := range fixed {
		out[name] = []string{f.value}
	}
	return out, nil
}

// next needs mu. It gives of how many requests one is traced after a change, all of which is looked at before any is kept.
func (t *tracing) next(every int, able bool, change map[string][]string) (int, error) {
	on, rate := every >= 1, t.rate
	for _, name := range slices.Sorted(maps.Keys(change)) {
		values := change[name]
		one := ""
		if len(values) > 0 {
			one = values[0]
		}
		f, known := fixed[name]
		switch {
		case known && (len(values) == 0 || len(values) == 1 && one == f.value):
		case known:
			return 0, api.Fail(api.CodeBadRequest, "", "%s can only be '%s': %s", name, f.value, f.why)
		case len(values) > 1:
			return 0, api.Fail(api.CodeBadRequest, "", "%.64s takes one value", name)
		case name == "trace_level" && len(values) == 0:
			on = t.start >= 1
		case name == "trace_level" && (one == "OFF" || one == "TIMESTAMPS"):
			on = one == "TIMESTAMPS"
		case name == "trace_level":
			return 0, api.Fail(api.CodeBadRequest, "", "trace_level can be OFF or TIMESTAMPS: traces hold no tensors")
		case name == "trace_rate" && len(values) == 0:
			if rate = t.start; rate < 1 {
				rate = rateDefault
			}
		case name == "trace_rate":
			n, err := strconv.ParseUint(one, 10, 31)
			if err != nil || n == 0 {
				return 0, api.Fail(api.CodeBadRequest, "", "trace_rate must be a number from 1: one of so many requests is traced")
			}
			rate = int(n)
		default:
			return 0, api.Fail(api.CodeBadRequest, "", "'%.64s' is no trace setting", name)
		}
	}
	if !able && (on || rate != t.rate) {
		return 0, api.Fail(api.CodeBadRequest, "", "nothing can be traced: the server has no collector").
			WithCure("Start it with --otlp URL.")
	}
	t.rate = rate
	if !on {
		return -1, nil
	}
	return rate, nil
}

func (c *controls) traceHTTP(ctx context.Context, p *protocol, who *api.Principal, endpoint string, post bool, body []byte) ([]byte, error) {
	change := map[string][]string{}
	if post && len(body) > 0 {
		var request map[string]any
		if err := api.DecodeStrict(body, &request); err != nil {
			return nil, err
		}
		for name, value := range request {
			values, ok := texts(value)
			if !ok {
				return nil, api.Fail(api.CodeBadRequest, "", "'%.64s' must be a string, an array of strings, or null", name)
			}
			change[name] = values
		}
	}
	now, err := c.trace(ctx, p, who, endpoint, change)
	if err != nil {
		return nil, err
	}
	out := make(map[string]any, len(now))
	for name, values := range now {
		out[name] = values[0]
	}
	out["trace_level"] = now["trace_level"] // the one that is an array
	return json.Marshal(out)
}

// texts reads a setting's value: a string, several, or null.
func texts(value any) (values []string, ok bool) {
	switch v := value.(type) {
	case nil:
		return nil, true
	case string:
		return []string{v}, true
	case []any:
		for _, one := range v {
			s, ok := one.(string)
			if !ok {
				return nil, false
			}
			values = append(values, s)
		}
		return values, true
	}
	return nil, false
}

// TraceSetting shows the trace settings, changed first when the request names any.
func (s *service) TraceSetting(ctx context.Context, r *wire.TraceSettingRequest) (*wire.TraceSettingResponse, error) {
	change := make(map[string][]string, len(r.GetSettings()))
	for name, value := range r.GetSettings() {
		change[name] = value.GetValue()
	}
	now, err := s.p.controls.trace(ctx, s.p, gateway.PrincipalOf(ctx), r.GetModelName(), change)
	if err != nil {
		return nil, err
	}
	out := &wire.TraceSettingResponse{Settings: make(map[string]*wire.TraceSettingResponse_SettingValue, len(now))}
	for name, values := range now {
		out.Settings[name] = &wire.TraceSettingResponse_SettingValue{Value: values}
	}
	return out, nil
}
