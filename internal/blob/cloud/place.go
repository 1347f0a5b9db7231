package cloud

import (
	"context"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	cloudblob "gocloud.dev/blob"
)

// place is a --blobs URL taken apart.
type place struct {
	scheme    string
	container string // bucket of S3 and GCS, container of Azure
	prefix    string // empty or ends with a slash
	options   url.Values
}

// options are the parameters that each scheme takes. An unknown one is an error: a misspelt endpoint would else send
// blobs to somebody else's cloud.
var options = map[string][]string{
	"s3":     {"endpoint", "region", "profile", "use_path_style", "ssetype", "kmskeyid", "request_checksum_calculation"},
	"gs":     {},
	"azblob": {"storage_account", "domain", "protocol", "localemu"},
}

// containerName is what S3, GCS and Azure agree on, and prefixName what needs no escaping anywhere.
var (
	containerName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]$`)
	prefixName    = regexp.MustCompile(`^([A-Za-z0-9_-][A-Za-z0-9._-]*/)*$`)
)

// Check says what is wrong with a URL, without connecting.
func Check(text string) error {
	_, err := parse(text)
	return err
}

// parse never repeats the URL in an error: what a person mistook for a place of a password must not reach a log.
func parse(text string) (place, error) {
	u, err := url.Parse(text)
	if err != nil {
		return place{}, fmt.Errorf("the blob store's URL is malformed")
	}
	allowed, known := options[u.Scheme]
	switch {
	case !known:
		return place{}, fmt.Errorf("%q is no kind of blob store; use a directory, s3://, azblob:// or gs://", u.Scheme)
	case u.User != nil:
		return place{}, fmt.Errorf("the blob store's URL holds a name or password; give credentials the way of the service, such as AWS_ACCESS_KEY_ID")
	case !containerName.MatchString(u.Host) || u.Fragment != "":
		return place{}, fmt.Errorf("the blob store's URL names no bucket; it is %s://BUCKET/PREFIX", u.Scheme)
	}
	at := place{scheme: u.Scheme, container: u.Host, prefix: strings.Trim(u.Path, "/")}
	if at.prefix != "" {
		at.prefix += "/"
	}
	if !prefixName.MatchString(at.prefix) || len(at.prefix) > 200 {
		return place{}, fmt.Errorf("the prefix of the blob store's URL holds more than letters, digits, '.', '_' and '-', or is longer than 200 characters")
	}
	if at.options, err = url.ParseQuery(u.RawQuery); err != nil {
		return place{}, fmt.Errorf("the options of the blob store's URL are malformed")
	}
	for name, values := range at.options {
		if !slices.Contains(allowed, name) {
			return place{}, fmt.Errorf("%.40q is no option of %s://; known are %s", name, u.Scheme, strings.Join(allowed, ", "))
		}
		if len(values) != 1 {
			return place{}, fmt.Errorf("the option %q stands twice in the blob store's URL", name)
		}
	}
	return at, nil
}

// open connects with the driver of the scheme.
func (at place) open(ctx context.Context, cfg Config) (*cloudblob.Bucket, partwise, error) {
	switch at.scheme {
	case "s3":
		return openS3(ctx, at, cfg)
	case "azblob":
		bucket, err := openAzure(ctx, at, cfg)
		return bucket, nil, err
	default:
		bucket, err := openGCS(ctx, at, cfg)
		return bucket, nil, err
	}
}
