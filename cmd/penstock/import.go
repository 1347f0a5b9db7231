package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/foreign"
)

// deployWait is how long import waits for one endpoint to be loaded.
const deployWait = 5 * time.Minute

type importFlags struct {
	dryRun, yes, deploy bool
	prefix              string
}

func (a *app) importCommands() []*cobra.Command {
	var flags importFlags
	var remote copyFlags
	var aliases []string
	cmd := a.withOutput(&cobra.Command{Use: "import PATH | oci://HOST/REPOSITORY:TAG MODEL", Short: "Import models: a folder, a Triton repository, an MLflow model, from a registry", Args: cobra.RangeArgs(1, 2),
		Long: `Import models that are there already. PATH is a model file, a folder of models, a Triton model repository (its config.pbtxt
is read) or a model folder of MLflow (its MLmodel is read). A plan is shown first: what becomes which version, what is
here already, what of the settings is not taken over, and what cannot be imported and why. On a terminal it is then asked
whether to go on.

What is here already, by the digests of its files, is left out: an import that broke off goes on where it was. With
--deploy, the version that the source serves is deployed to an endpoint of the model's name, with the settings of the plan.

Exit code 4 when something of the plan cannot be imported; the rest is.

With oci:// a model is copied from another registry: ModelPack, KitOps, or files that oras pushed. The server fetches it,
checks every digest, and takes it as it takes a push. The copy goes on by itself after a cut or a restart of the server.
Servers go to public addresses only; who runs one allows others with serve --egress-allow.`,
		Example: `  penstock import ./model_repository --dry-run
  penstock import ./model_repository --deploy --yes
  penstock import ./mlruns/1/models/m-0a1b/artifacts -o json
  penstock import oci://registry.example/models/fraud:v3 fraud
  penstock import oci://registry.example/models/fraud@sha256:... fraud --alias candidate --referrers
  penstock import oci://127.0.0.1:8003/acme/fraud:v3 fraud --plain-http --password-stdin < acme.key`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			scheme, _, is := strings.Cut(args[0], "://")
			switch {
			case is && scheme != "oci":
				return usage(fmt.Errorf("%s:// is not known; models come from a file, a folder or oci://", scheme))
			case is && len(args) != 2:
				return usage(errors.New("name the model that it becomes: penstock import oci://HOST/REPOSITORY:TAG MODEL"))
			case is:
				return a.fetch(ctx, c, args[0], args[1], remote, aliases)
			case len(args) != 1:
				return usage(errors.New("a file or a folder says by itself which models it holds; MODEL goes with oci:// alone"))
			}
			return a.importFrom(ctx, c, args[0], flags)
		})})
	f := cmd.Flags()
	f.BoolVar(&flags.dryRun, "dry-run", false, "show the plan and change nothing")
	f.BoolVarP(&flags.yes, "yes", "y", false, "do not ask")
	f.BoolVar(&flags.deploy, "deploy", false, "deploy what the source serves")
	f.StringVar(&flags.prefix, "prefix", "", "put this before each model's name")
	remote.add(cmd)
	f.StringArrayVar(&aliases, "alias", nil, "with oci://: alias to move to the version; may be repeated; left out, the source's tag")
	return []*cobra.Command{cmd}
}

// planned is one line of the plan, and at the end what became of it.
type planned struct {
	foreign.Candidate
	Size    int64        `json:"size"`
	Action  string       `json:"action"` // import, here or refuse
	Version string       `json:"version,omitempty"`
	Error   string       `json:"error,omitempty"`
	digests []api.Digest // of the files, in their order
	sizes   []int64      // of the files
	known   api.Version  // for here
}

const (
	actImport = "import"
	actHere   = "here"
	actRefuse = "refuse"
)

func (a *app) importFrom(ctx context.Context, c *client.Client, path string, flags importFlags) error {
	found, err := foreign.Look(path)
	if err != nil {
		return usage(err)
	}
	plan, err := a.plan(ctx, c, found, flags.prefix)
	if err != nil {
		return err
	}
	if a.output == formatTable || !flags.dryRun {
		a.showPlan(plan)
	}
	if flags.dryRun {
		if a.output != formatTable {
			if err := a.print(plan, nil); err != nil {
				return err
			}
		}
		return refusedIn(plan)
	}
	if agreed, err := a.confirm(plan, flags); err != nil || !agreed {
		return err
	}
	var failed error
	for i := range plan {
		p := &plan[i]
		if err := a.importOne(ctx, c, p, flags); err != nil {
			p.Error = api.AsError(err).Error()
			failed = errors.Join(failed, fmt.Errorf("%s: %w", p.Source, err))
			if ctx.Err() != nil {
				break
			}
		}
	}
	if a.output != formatTable {
		if err := a.print(plan, nil); err != nil {
			return err
		}
	}
	return errors.Join(failed, refusedIn(plan))
}

// plan hashes every file and asks the server what it has. Two versions of a model stay in their order.
func (a *app) plan(ctx context.Context, c *client.Client, found []foreign.Candidate, prefix string) ([]planned, error) {
	plan := make([]planned, 0, len(found))
	here := map[api.ModelName][]api.Version{}
	for _, candidate := range found {
		p := planned{Candidate: candidate, Action: actImport}
		p.Model = api.ModelName(prefix) + p.Model
		if p.Refused == "" {
			if err := api.CheckName("model", string(p.Model)); err != nil {
				p.Refused = err.Error()
			}
		}
		if p.Refused != "" {
			p.Action = actRefuse
			plan = append(plan, p)
			continue
		}
		if err := a.hashPlanned(&p); err != nil {
			return nil, err
		}
		versions, asked := here[p.Model]
		if !asked {
			var err error
			versions, err = versionsOf(ctx, c, p.Model)
			if err != nil {
				return nil, err
			}
			here[p.Model] = versions
		}
		for _, v := range versions {
			if sameFiles(&p, &v) {
				p.Action, p.known, p.Version = actHere, v, v.Ref().String()
			}
		}
		plan = append(plan, p)
	}
	return plan, nil
}

func (a *app) hashPlanned(p *planned) error {
	for _, f := range p.Files {
		digest, bytes, err := a.hashFile(localFile{f.Path, f.Name})
		if err != nil {
			return err
		}
		p.digests, p.sizes = append(p.digests, digest), append(p.sizes, bytes)
		p.Size += bytes
	}
	return nil
}

func versionsOf(ctx context.Context, c *client.Client, name api.ModelName) ([]api.Version, error) {
	all, err := collect(client.All(ctx, func(ctx context.Context, p client.Page) (api.List[api.Version], error) {
		return c.Versions(ctx, name, p)
	}))
	if api.Is(err, api.CodeModelNotFound) {
		return nil, nil
	}
	return all, err
}

// sameFiles reports whether a version is made of exactly the files of the plan.
func sameFiles(p *planned, v *api.Version) bool {
	if len(v.Artifacts) != len(p.Files) {
		return false
	}
	have := filesOf(*v)
	for i, f := range p.Files {
		if have[f.Name] != p.digests[i] {
			return false
		}
	}
	return true
}

// refusedIn is the error of a plan of which a part cannot be imported.
func refusedIn(plan []planned) error {
	n := 0
	for _, p := range plan {
		if p.Action == actRefuse {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	return api.Fail(api.CodeFormatRefused, "", "%d of %d cannot be imported", n, len(plan)).WithCure("The plan says why for each; the others are not held up by them.")
}

func (a *app) showPlan(plan []planned) {
	out := a.out
	if a.output != formatTable {
		out = a.err // standard output is for the document
	}
	was := a.out
	a.out = out
	defer func() { a.out = was }()
	rows := make([][]string, 0, len(plan))
	for _, p := range plan {
		action := p.Action
		if p.Version != "" {
			action += " as " + p.Version
		}
		rows = append(rows, []string{p.Source, p.Kind, string(p.Model), action, strconv.Itoa(len(p.Files)), size(p.Size), yesNo(p.Serve), settingsOf(p.Serving)})
	}
	a.table("SOURCE KIND MODEL ACTION FILES SIZE SERVES SETTINGS", rows)
	for _, p := range plan {
		if p.Refused != "" {
			fmt.Fprintf(out, "%s: cannot be imported: %s\n", printable(p.Source), printable(p.Refused))
		}
		for _, note := range p.Notes {
			fmt.Fprintf(out, "%s: %s\n", printable(p.Source), printable(note))
		}
	}
}

// settingsOf writes settings in a few words.
func settingsOf(s api.Serving) string {
	var parts []string
	if s.Replicas > 0 {
		parts = append(parts, fmt.Sprintf("replicas=%d", s.Replicas))
	}
	if b := s.Batching; b != nil {
		if b.Mode == api.BatchOff {
			return strings.Join(append(parts, "batching=off"), " ")
		}
		parts = append(parts, fmt.Sprintf("batch<=%d", b.MaxSize))
		if b.DelayUS > 0 {
			parts = append(parts, fmt.Sprintf("delay=%dus", b.DelayUS))
		}
	}
	return strings.Join(parts, " ")
}

// confirm asks on a terminal, and wants --yes elsewhere: a script must not wait for an answer.
func (a *app) confirm(plan []planned, flags importFlags) (bool, error) {
	todo := 0
	for _, p := range plan {
		if p.Action == actImport || p.Action == actHere && flags.deploy && p.Serve {
			todo++
		}
	}
	if todo == 0 {
		fmt.Fprintln(a.err, "nothing to import")
		return true, nil
	}
	if flags.yes {
		return true, nil
	}
	if !a.terminal {
		return false, usage(errors.New("say --yes to carry the plan out, or --dry-run to only see it"))
	}
	fmt.Fprintf(a.err, "import %d of %d? [y/N] ", todo, len(plan))
	answer, err := bufio.NewReader(a.in).ReadString('\n')
	if answer = strings.ToLower(strings.TrimSpace(answer)); answer == "y" || answer == "yes" {
		return true, nil
	}
	if err != nil && answer == "" {
		return false, usage(errors.New("no answer; say --yes"))
	}
	fmt.Fprintln(a.err, "nothing was imported")
	return false, nil
}

// importOne carries out one line of the plan.
func (a *app) importOne(ctx context.Context, c *client.Client, p *planned, flags importFlags) error {
	v := p.known
	switch p.Action {
	case actRefuse:
		return nil
	case actImport:
		up := api.Upload{Tags: p.Tags, Why: "imported from " + p.Kind}
		if p.Run != "" {
			up.Lineage = &api.LineageClaim{Run: p.Run}
		}
		for i, f := range p.Files {
			if err := a.uploadMissing(ctx, c, localFile{f.Path, f.Name}, p.digests[i], p.sizes[i]); err != nil {
				return err
			}
			up.Files = append(up.Files, api.UploadFile{Path: f.Name, Digest: p.digests[i], Size: p.sizes[i]})
		}
		var err error
		if v, err = c.Commit(ctx, p.Model, up); err != nil {
			return err
		}
		p.Version = v.Ref().String()
		if a.output == formatTable {
			fmt.Fprintf(a.out, "%s  %s\n", p.Version, printable(p.Source))
		}
	}
	if !flags.deploy || !p.Serve {
		return nil
	}
	return a.deployImported(ctx, c, p, &v)
}

func (a *app) deployImported(ctx context.Context, c *client.Client, p *planned, v *api.Version) error {
	spec := api.EndpointSpec{Variants: []api.VariantSpec{{Model: v.Ref().String(), Serving: p.Serving}}}
	endpoint := api.EndpointName(p.Model)
	if now, err := c.Endpoint(ctx, endpoint); err == nil && len(now.Spec.Variants) == 1 && now.Spec.Variants[0].Model == v.Ref().String() && now.Status.Ready {
		return nil // an import that goes on
	}
	release, err := c.Deploy(ctx, endpoint, api.DeployRequest{EndpointSpec: spec, Why: "imported from " + p.Kind}, 0, deployWait)
	if err != nil {
		return err
	}
	if release.State != api.ReleaseSucceeded {
		return api.Fail(api.CodeLoadFailed, string(endpoint), "release %d is %s: %s", release.Number, release.State, release.Reason)
	}
	if a.output == formatTable {
		fmt.Fprintf(a.out, "%s serves %s\n", endpoint, v.Ref())
	}
	return nil
}
