package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
)

const (
	waitDefault = 5 * time.Minute
	waitOnce    = 30 * time.Second // longest wait in one request
)

type deployFlags struct {
	endpoint, strategy, why string
	variants                []string
	replicas                int
	pool                    string
	sticky                  bool
	batching                string
	batchSize               int
	batchDelay              time.Duration
	cache                   string
	cacheTTL                time.Duration
	keep                    string
	keepPriority            int
	wait                    waitFlags
}

// waitFlags say how long a person wants to wait for a release.
type waitFlags struct {
	timeout time.Duration
	not     bool
}

func (w *waitFlags) add(cmd *cobra.Command) {
	cmd.Flags().DurationVar(&w.timeout, "timeout", waitDefault, "how long to wait until it is done")
	cmd.Flags().BoolVar(&w.not, "no-wait", false, "do not wait until it is done")
}

func (w *waitFlags) first() time.Duration {
	if w.not {
		return 0
	}
	return max(min(w.timeout, waitOnce), time.Millisecond)
}

func (a *app) deployCommands() []*cobra.Command {
	var flags deployFlags
	cmd := a.withOutput(&cobra.Command{Use: "deploy [REF...]", Short: "Put versions behind an endpoint",
		Long: `Put versions behind an endpoint. The new revision is loaded and warmed beside the one that serves, then takes its place
without a failed request; the one before stays loaded for a rollback. With one REF the endpoint keeps its other
settings. Several REFs, or --variant, share the traffic by weight.`,
		Example: `  penstock deploy digits@1
  penstock deploy digits:champion --endpoint ocr --why "release 12"
  penstock deploy --endpoint digits --variant old=digits@1:90 --variant new=digits@2:10`,
		RunE: does(func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && len(flags.variants) == 0 {
				return usage(fmt.Errorf("name a REF such as digits@1, or --variant"))
			}
			return a.asks(func(ctx context.Context, c *client.Client, args []string) error {
				return a.deploy(ctx, cmd, c, args, flags)
			})(cmd, args)
		})})
	f := cmd.Flags()
	f.StringVar(&flags.endpoint, "endpoint", "", "endpoint; the first model's name when left out")
	f.StringVar(&flags.strategy, "strategy", "", "blue-green (default) or direct")
	f.StringArrayVar(&flags.variants, "variant", nil, "arm NAME=REF or NAME=REF:WEIGHT (weight 1 when left out); may be repeated")
	f.IntVar(&flags.replicas, "replicas", 0, "loaded instances of each variant; 0 is one per worker")
	f.StringVar(&flags.pool, "pool", "", "workers that hold it: shared (default), or the tenant's or the endpoint's alone")
	f.StringVar(&flags.batching, "batching", "", "run requests together: auto (default), on or off")
	f.IntVar(&flags.batchSize, "batch-size", 0, "most rows of one batch; chosen at load when left out")
	f.DurationVar(&flags.batchDelay, "batch-delay", 0, "longest wait for more rows under load")
	f.StringVar(&flags.cache, "cache", "", "memory for answers that identical requests get again, such as 64MiB; 0 keeps none")
	f.DurationVar(&flags.cacheTTL, "cache-ttl", 0, "how long a kept answer may be given again; 0 as long as there is room")
	f.StringVar(&flags.keep, "keep", "", "loaded: never sleeps while memory is short")
	f.IntVar(&flags.keepPriority, "keep-priority", 0, "when memory is short, count as used twice as often for each step")
	f.BoolVar(&flags.sticky, "sticky", false, "keep each Penstock-Unit on one variant")
	f.StringVar(&flags.why, "why", "", "reason, kept in the release")
	flags.wait.add(cmd)
	return []*cobra.Command{cmd}
}

func (a *app) deploy(ctx context.Context, cmd *cobra.Command, c *client.Client, refs []string, flags deployFlags) error {
	spec, endpoint, err := flags.spec(refs)
	if err != nil {
		return usage(err)
	}
	match := client.IfMatch(0)
	switch present, err := c.Endpoint(ctx, endpoint); {
	case err == nil:
		match = client.IfMatch(present.Generation)
		if err := keepSettings(&spec, present.Spec, cmd, flags); err != nil {
			return usage(err)
		}
	case !api.Is(err, api.CodeEndpointNotFound):
		return err
	}
	if flags.cacheTTL != 0 && (flags.cacheTTL < 0 || spec.Variants[0].Serving.Cache == nil) {
		return usage(fmt.Errorf("--cache-ttl is a duration from 0, and needs --cache"))
	}
	release, err := c.Deploy(ctx, endpoint, api.DeployRequest{EndpointSpec: spec, Why: flags.why}, match, flags.wait.first())
	if err != nil {
		return err
	}
	return a.finishRelease(ctx, c, release, flags.wait)
}

// spec reads the arms from the command line.
func (f deployFlags) spec(refs []string) (spec api.EndpointSpec, endpoint api.EndpointName, err error) {
	spec.Strategy, spec.Sticky = api.Strategy(f.strategy), f.sticky
	for _, text := range refs {
		ref, err := api.ParseRef(text)
		if err != nil {
			return spec, "", err
		}
		arm := api.VariantSpec{Model: text}
		if len(refs)+len(f.variants) > 1 {
			arm.Name = armName(ref)
		}
		spec.Variants = append(spec.Variants, arm)
	}
	for _, text := range f.variants {
		arm, err := parseVariant(text)
		if err != nil {
			return spec, "", err
		}
		spec.Variants = append(spec.Variants, arm)
	}
	for i := range spec.Variants {
		spec.Variants[i].Serving.Replicas = f.replicas
		spec.Variants[i].Serving.Keep, spec.Variants[i].Serving.KeepPriority = api.Keep(f.keep), f.keepPriority
		spec.Variants[i].Serving.Pool = api.Pool(f.pool)
		spec.Variants[i].Serving.Batching = f.batchSettings(nil)
		if spec.Variants[i].Serving.Cache, err = f.cacheSettings(nil); err != nil {
			return spec, "", err
		}
		if len(spec.Variants) > 1 {
			spec.Variants[i].Weight = max(1, spec.Variants[i].Weight) // left out beside a written one is still a share here
		}
	}
	endpoint = api.EndpointName(f.endpoint)
	if endpoint == "" {
		ref, err := api.ParseRef(spec.Variants[0].Model)
		if err != nil {
			return spec, "", err
		}
		endpoint = api.EndpointName(ref.Model)
	}
	return spec, endpoint, api.CheckName("endpoint", string(endpoint))
}

// batchSettings gives present settings with what the command line says changed; nil when nothing is left of them.
func (f deployFlags) batchSettings(present *api.Batching) *api.Batching {
	var b api.Batching
	if present != nil {
		b = *present
	}
	if f.batching != "" {
		b.Mode = api.BatchMode(f.batching)
	}
	if f.batchSize > 0 {
		b.MaxSize = f.batchSize
	}
	if f.batchDelay > 0 {
		b.DelayUS = f.batchDelay.Microseconds()
	}
	if b.IsZero() {
		return nil
	}
	return &b
}

// cacheSettings gives present settings with what the command line says changed; nil for no cache.
func (f deployFlags) cacheSettings(present *api.ResponseCache) (*api.ResponseCache, error) {
	var c api.ResponseCache
	if present != nil {
		c = *present
	}
	if f.cache != "" {
		var err error
		if c.Bytes, err = parseSize(f.cache); err != nil {
			return nil, fmt.Errorf("--cache: %w", err)
		}
	}
	if f.cacheTTL > 0 {
		c.TTLMS = max(1, f.cacheTTL.Milliseconds())
	}
	if c.Bytes == 0 {
		return nil, nil
	}
	return &c, nil
}

// armName names an arm by its reference: fraud-3, fraud-champion.
func armName(ref api.Ref) api.VariantName {
	switch {
	case ref.Version > 0:
		return api.VariantName(fmt.Sprintf("%s-%d", ref.Model, ref.Version))
	case ref.Alias != "":
		return api.VariantName(fmt.Sprintf("%s-%s", ref.Model, ref.Alias))
	case ref.Digest != "":
		return api.VariantName(fmt.Sprintf("%s-%s", ref.Model, ref.Digest.Short()))
	}
	return api.VariantName(ref.Model)
}

// parseVariant reads NAME=REF or NAME=REF:WEIGHT. What follows the last colon is the weight when it is a number; an
// alias that looks like a number needs its weight written out.
func parseVariant(text string) (arm api.VariantSpec, err error) {
	name, ref, ok := strings.Cut(text, "=")
	if !ok {
		return arm, fmt.Errorf("--variant %q is not NAME=REF:WEIGHT", text)
	}
	arm.Name = api.VariantName(name)
	if err := api.CheckName("variant", name); err != nil {
		return arm, err
	}
	if i := strings.LastIndexByte(ref, ':'); i >= 0 && !strings.HasSuffix(ref[:i], "@sha256") {
		if weight, err := strconv.ParseInt(ref[i+1:], 10, 64); err == nil {
			if weight < 1 {
				return arm, fmt.Errorf("--variant %q: the weight is a number from 1", text)
			}
			arm.Weight, ref = weight, ref[:i]
		}
	}
	arm.Model = ref
	_, err = api.ParseRef(ref)
	return arm, err
}

// keepSettings leaves an endpoint's settings as they are when one version takes the place of another.
func keepSettings(spec *api.EndpointSpec, present api.EndpointSpec, cmd *cobra.Command, flags deployFlags) (err error) {
	if !cmd.Flags().Changed("strategy") {
		spec.Strategy = present.Strategy
	}
	if len(spec.Variants) != 1 || len(present.Variants) != 1 {
		return nil
	}
	if !cmd.Flags().Changed("sticky") {
		spec.Sticky = present.Sticky
	}
	serving := present.Variants[0].Serving
	if cmd.Flags().Changed("replicas") {
		serving.Replicas = spec.Variants[0].Serving.Replicas
	}
	if cmd.Flags().Changed("keep") {
		serving.Keep = api.Keep(flags.keep)
	}
	if cmd.Flags().Changed("keep-priority") {
		serving.KeepPriority = flags.keepPriority
	}
	if flags.pool != "" {
		serving.Pool = api.Pool(flags.pool)
	}
	serving.Batching = flags.batchSettings(serving.Batching)
	if serving.Cache, err = flags.cacheSettings(serving.Cache); err != nil {
		return err
	}
	spec.Variants[0].Serving = serving
	if spec.Variants[0].Name == "" {
		spec.Variants[0].Name = present.Variants[0].Name
	}
	return nil
}

// finishRelease waits for a release as long as the person wants, and tells how it ended.
func (a *app) finishRelease(ctx context.Context, c *client.Client, release api.Release, wait waitFlags) error {
	release, err := awaitRelease(ctx, c, release, wait)
	if err != nil {
		return err
	}
	if err := a.print(release, func() { a.tellRelease(release) }); err != nil {
		return err
	}
	return releaseError(release, wait)
}

func awaitRelease(ctx context.Context, c *client.Client, release api.Release, wait waitFlags) (api.Release, error) {
	deadline := time.Now().Add(wait.timeout)
	for !wait.not && !release.State.Final() {
		left := time.Until(deadline)
		if left <= 0 {
			break
		}
		later, err := c.Release(ctx, release.Endpoint, release.Number, min(left, waitOnce))
		if err != nil {
			return release, err
		}
		release = later
	}
	return release, nil
}

func (a *app) tellRelease(r api.Release) {
	switch {
	case r.State == api.ReleaseSucceeded && r.Kind == api.ReleaseRollback:
		fmt.Fprintf(a.out, "%s: revision %d serves again (release %d, in effect after %s)\n", r.Endpoint, r.To, r.Number, millis(time.Duration(r.EffectUS)*time.Microsecond))
	case r.State == api.ReleaseSucceeded:
		fmt.Fprintf(a.out, "%s: revision %d serves (release %d)\n", r.Endpoint, r.To, r.Number)
	case !r.State.Final():
		fmt.Fprintf(a.out, "%s: revision %d is %s (release %d)\n", r.Endpoint, r.To, r.State, r.Number)
	}
	if !r.Durable {
		fmt.Fprintln(a.err, "warning: the release is in effect, but its record could not be written to disk")
	}
}

// releaseError is how a release that did not succeed ends a command.
func releaseError(r api.Release, wait waitFlags) error {
	subject := fmt.Sprintf("%s release %d", r.Endpoint, r.Number)
	switch {
	case r.State == api.ReleaseFailed:
		return api.Fail(api.CodeUnavailable, subject, "failed: %s", r.Reason).WithCure("The revision before it keeps serving. Correct the cause and deploy again.")
	case r.State == api.ReleaseAborted:
		return api.Fail(api.CodeUnavailable, subject, "was aborted").WithCure("The revision before it keeps serving.")
	case !r.State.Final() && !wait.not:
		return api.Fail(api.CodeDeadline, subject, "is still %s after %s", r.State, wait.timeout).
			WithCure("It goes on; watch it with `penstock rollout status %s`, or stop it with `penstock rollout abort %s`.", r.Endpoint, r.Endpoint)
	}
	return nil
}
