package cloud

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go/logging"
	cloudblob "gocloud.dev/blob"
	"gocloud.dev/blob/s3blob"
)

// partwise is the upload in parts of a service.
type partwise interface {
	// begin opens an upload. Its parts are no object before finish.
	begin(ctx context.Context, key string) (*upload, error)
	// sweep removes uploads under a prefix that were begun before a time and never finished.
	sweep(ctx context.Context, prefix string, before time.Time) (removed int, err error)
}

// putTogether is how much longer than other answers the one to finish may take: some stores copy the parts meanwhile.
const putTogether = 20

// openS3 connects to S3 or to what speaks its protocol. Credentials come from where the AWS SDK looks for them.
func openS3(ctx context.Context, at place, cfg Config) (*cloudblob.Bucket, partwise, error) {
	client := func(stall time.Duration) *awshttp.BuildableClient {
		return awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) { watch(t, stall) })
	}
	load := []func(*config.LoadOptions) error{config.WithHTTPClient(client(cfg.Stall)), config.WithLogger(logging.Nop{}),
		config.WithRetryer(func() aws.Retryer { return patience(cfg) })}
	if profile := at.options.Get("profile"); profile != "" {
		load = append(load, config.WithSharedConfigProfile(profile))
	}
	if region := at.options.Get("region"); region != "" {
		load = append(load, config.WithRegion(region))
	}
	if cfg.Credentials != nil {
		load = append(load, config.WithCredentialsProvider(cfg.Credentials))
	}
	loaded, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return nil, nil, fmt.Errorf("read the AWS configuration: %w", err)
	}
	endpoint := at.options.Get("endpoint")
	if loaded.Region == "" {
		if endpoint == "" {
			return nil, nil, errors.New("no region is given; add ?region=NAME to the URL or set AWS_REGION")
		}
		loaded.Region = "us-east-1" // what servers other than Amazon's take
	}
	if _, err := loaded.Credentials.Retrieve(ctx); err != nil {
		return nil, nil, fmt.Errorf("no credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or a role: %w", err)
	}
	o := s3blob.Options{RequestChecksumCalculation: loaded.RequestChecksumCalculation,
		EncryptionType: types.ServerSideEncryption(at.options.Get("ssetype")), KMSEncryptionID: at.options.Get("kmskeyid")}
	switch at.options.Get("request_checksum_calculation") {
	case "":
	case "when_supported":
		o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenSupported
	case "when_required":
		o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
	default:
		return nil, nil, errors.New("request_checksum_calculation is when_supported or when_required")
	}
	c := s3.NewFromConfig(loaded, func(options *s3.Options) {
		if endpoint != "" {
			options.BaseEndpoint = aws.String(endpoint)
		}
		options.UsePathStyle = cmp.Or(at.options.Get("use_path_style"), fmt.Sprint(endpoint != "")) == "true"
		options.RequestChecksumCalculation = o.RequestChecksumCalculation
	})
	bucket, err := s3blob.OpenBucket(ctx, c, at.container, &o)
	return bucket, &s3Parts{client: c, slow: client(putTogether * cfg.Stall), bucket: at.container, options: o}, err
}

// patience is how S3's requests are repeated.
func patience(cfg Config) aws.Retryer {
	return retry.NewStandard(func(o *retry.StandardOptions) {
		o.MaxAttempts = cfg.Attempts
		o.MaxBackoff = cfg.Backoff
		o.Backoff = retry.BackoffDelayerFunc(func(attempt int, _ error) (time.Duration, error) { return delay(attempt, cfg.Backoff), nil })
		o.Retryables = append([]retry.IsErrorRetryable{retry.IsErrorRetryableFunc(func(err error) aws.Ternary {
			if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) { // an answer that was cut off
				return aws.TrueTernary
			}
			return aws.UnknownTernary
		})}, o.Retryables...)
	})
}

// s3Parts uploads to S3 in parts.
type s3Parts struct {
	client  *s3.Client
	slow    aws.HTTPClient // for putting parts together
	bucket  string
	options s3blob.Options
}

func (p *s3Parts) begin(ctx context.Context, key string) (*upload, error) {
	in := &s3.CreateMultipartUploadInput{Bucket: &p.bucket, Key: &key, ContentType: aws.String("application/octet-stream"),
		ServerSideEncryption: p.options.EncryptionType}
	if p.options.KMSEncryptionID != "" {
		in.SSEKMSKeyId = &p.options.KMSEncryptionID
	}
	if p.options.RequestChecksumCalculation != aws.RequestChecksumCalculationWhenRequired {
		in.ChecksumAlgorithm = types.ChecksumAlgorithmCrc32
	}
	out, err := p.client.CreateMultipartUpload(ctx, in)
	if err != nil {
		return nil, err
	}
	if aws.ToString(out.UploadId) == "" {
		return nil, errors.New("the store began an upload without a name")
	}
	up := &upload{s3Parts: p, key: key, id: *out.UploadId, algorithm: in.ChecksumAlgorithm, tokens: make(chan struct{}, partsAtOnce)}
	up.ctx, up.fail = context.WithCancelCause(ctx)
	up.sending, up.drop = context.WithCancel(context.WithoutCancel(ctx))
	return up, nil
}

// upload is one blob on its way in parts. Its methods are called by one goroutine; end it with finish or abort.
type upload struct {
	*s3Parts

	key, id   string
	algorithm types.ChecksumAlgorithm
	ctx       context.Context // of the one Put that it lives in; ended by the first fault
	fail      context.CancelCauseFunc
	sending   context.Context // of the parts on their way, which outlive ctx: see abort
	drop      context.CancelFunc
	tokens    chan struct{} // one per part on its way
	under     sync.WaitGroup

	mu   sync.Mutex // guards done
	done []types.CompletedPart
	last int32
}

// add sends the next part beside others, and waits when enough are on their way. back is called when body is no longer
// needed. false means that the upload failed; finish says why.
func (u *upload) add(body io.ReadSeeker, size int64, back func()) bool {
	select {
	case u.tokens <- struct{}{}:
	case <-u.ctx.Done():
		back()
		return false
	}
	u.last++
	number := u.last
	u.under.Go(func() {
		defer func() { <-u.tokens }()
		defer back()
		out, err := u.client.UploadPart(u.sending, &s3.UploadPartInput{Bucket: &u.bucket, Key: &u.key, UploadId: &u.id,
			PartNumber: &number, Body: body, ContentLength: &size, ChecksumAlgorithm: u.algorithm})
		if err != nil {
			u.fail(err)
			return
		}
		u.mu.Lock()
		defer u.mu.Unlock()
		u.done = append(u.done, types.CompletedPart{PartNumber: &number, ETag: out.ETag, ChecksumCRC32: out.ChecksumCRC32})
	})
	return u.ctx.Err() == nil
}

// finish makes the parts an object, or removes them.
func (u *upload) finish() error {
	u.under.Wait()
	err := context.Cause(u.ctx)
	if err == nil {
		slices.SortFunc(u.done, func(a, b types.CompletedPart) int { return cmp.Compare(*a.PartNumber, *b.PartNumber) })
		_, err = u.client.CompleteMultipartUpload(u.ctx, &s3.CompleteMultipartUploadInput{Bucket: &u.bucket, Key: &u.key,
			UploadId: &u.id, MultipartUpload: &types.CompletedMultipartUpload{Parts: u.done}},
			func(o *s3.Options) { o.HTTPClient = u.slow })
	}
	if err != nil {
		u.abort()
		return err
	}
	u.fail(nil)
	u.drop()
	return nil
}

// abort removes the parts, also after the sender has gone away. It waits for those on their way: a part that arrives after
// its upload was aborted would stay. What cannot be removed now is removed by a later Open.
func (u *upload) abort() {
	u.fail(context.Canceled)
	patience := time.AfterFunc(abortTime, u.drop)
	defer patience.Stop()
	u.under.Wait()
	u.drop()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(u.ctx), abortTime)
	defer cancel()
	_, _ = u.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &u.bucket, Key: &u.key, UploadId: &u.id})
}

// sweep looks at a bounded number of uploads; a store that has more is swept further the next time.
func (p *s3Parts) sweep(ctx context.Context, prefix string, before time.Time) (removed int, err error) {
	out, err := p.client.ListMultipartUploads(ctx, &s3.ListMultipartUploadsInput{Bucket: &p.bucket, Prefix: &prefix})
	if err != nil {
		return 0, err
	}
	for _, left := range out.Uploads {
		if left.Initiated == nil || !left.Initiated.Before(before) {
			continue
		}
		_, err := p.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &p.bucket, Key: left.Key, UploadId: left.UploadId})
		if err != nil {
			return removed, err
		}
		removed++
	}
	return removed, nil
}
