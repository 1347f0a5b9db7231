package cloud

import (
	"context"
	"errors"
	"net/http"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"
	"gocloud.dev/gcerrors"

	"github.com/penstock/penstock/api"
)

// fault is what an error of the store means to a person.
type fault struct{ why, cure string }

// lasting are the faults that no patience cures, by the code that S3 gives them. The rest is transient.
var lasting = func() map[string]fault {
	bucket := fault{"the bucket does not exist", "Make the bucket, or correct the URL in --blobs; Penstock makes none itself."}
	credentials := fault{"its credentials are not accepted", "Correct the access key and secret that the server was started with."}
	expired := fault{"its credentials have expired", "Renew the session token, or use a role that renews itself."}
	denied := fault{"access is denied", "Allow s3:GetObject, s3:PutObject, s3:DeleteObject, s3:ListBucket, s3:AbortMultipartUpload and s3:ListBucketMultipartUploads on the bucket."}
	region := fault{"the bucket lies in another region", "Correct region in the URL of --blobs."}
	clock := fault{"this machine's clock differs too much from the store's", "Set the clock; run a time service."}
	full := fault{"it is full or over its quota", "Free space in the blob store, or raise its quota."}
	return map[string]fault{
		"NoSuchBucket": bucket, "ContainerNotFound": bucket, "InvalidBucketName": bucket,
		"InvalidAccessKeyId": credentials, "SignatureDoesNotMatch": credentials, "InvalidToken": credentials, "UnrecognizedClientException": credentials, "XAdminUserNotFound": credentials,
		"InvalidSecurity": credentials, "AuthFailure": credentials, "AuthenticationFailed": credentials,
		"ExpiredToken": expired, "ExpiredTokenException": expired, "TokenRefreshRequired": expired,
		"AccessDenied": denied, "Forbidden": denied, "AllAccessDisabled": denied, "AccountProblem": denied, "MethodNotAllowed": denied,
		"PermanentRedirect": region, "AuthorizationHeaderMalformed": region, "MovedPermanently": region,
		"RequestTimeTooSkewed": clock, "RequestExpired": clock,
		"QuotaExceeded": full, "XMinioStorageFull": full, "InsufficientStorage": full, "EntityTooLarge": full,
	}
}()

// fail turns an error of the store into one of ours. The store's own text goes to the log only: it names buckets, hosts
// and keys. It holds no secrets; the SDKs put none into errors.
func (s *Store) fail(act string, digest api.Digest, err error) error {
	if ours := (*api.Error)(nil); errors.As(err, &ours) || err == nil {
		return err
	}
	absent := gcerrors.Code(err) == gcerrors.NotFound
	if operation := (*smithy.OperationError)(nil); errors.As(err, &operation) {
		err = operation // without the frames that gocloud.dev adds for its own debugging
	}
	if errors.Is(err, context.Canceled) {
		return api.Fail(api.CodeCanceled, string(digest), "the call was broken off").Because(err)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return api.Fail(api.CodeDeadline, string(digest), "the blob store took too long to %s", act).Because(err)
	}
	known, found := meaning(err)
	if found {
		return api.Fail(api.CodeStorage, string(digest), "the blob store cannot %s: %s", act, known.why).WithCure("%s", known.cure).Because(err)
	}
	if digest != "" && absent {
		return api.Fail(api.CodeBlobNotFound, string(digest), "no such blob").Because(err)
	}
	return api.Fail(api.CodeUnavailable, string(digest), "the blob store is away or overloaded: it could not %s after %d tries", act, s.cfg.Attempts).
		WithCure("Try again later; the server's log has the store's own words.").Because(err)
}

// passing are refusals that are none: what was asked for was disturbed, or is no longer there.
var passing = map[string]bool{"NoSuchKey": true, "NotFound": true, "NoSuchUpload": true, "RequestTimeout": true, "IncompleteBody": true,
	"BadDigest": true, "OperationAborted": true, "ConditionalRequestConflict": true, "RequestCanceled": true, "BlobNotFound": true}

func meaning(err error) (fault, bool) {
	code := ""
	if named := smithy.APIError(nil); errors.As(err, &named) {
		code = named.ErrorCode()
		if known, found := lasting[code]; found {
			return known, true
		}
	}
	if answer := (*awshttp.ResponseError)(nil); errors.As(err, &answer) {
		switch status := answer.HTTPStatusCode(); {
		case passing[code] || status == http.StatusRequestTimeout || status == http.StatusConflict || status == http.StatusTooManyRequests:
			return fault{}, false
		case status == http.StatusUnauthorized || status == http.StatusForbidden: // HEAD has no body that could name a reason
			return lasting["AccessDenied"], true
		case status == http.StatusMovedPermanently:
			return lasting["PermanentRedirect"], true
		case status == http.StatusInsufficientStorage:
			return lasting["InsufficientStorage"], true
		case status >= 400 && status < 500:
			return fault{"it refuses the request", "Look into the server's log for the store's own words, and at the URL in --blobs."}, true
		}
		return fault{}, false
	}
	switch gcerrors.Code(err) {
	case gcerrors.PermissionDenied:
		return lasting["AccessDenied"], true
	case gcerrors.ResourceExhausted:
		return lasting["QuotaExceeded"], true
	}
	return fault{}, false
}

// spool is a fault of this machine's disk.
func spool(err error) error {
	return api.Fail(api.CodeStorage, "", "the blob could not be held on its way to the blob store").
		WithCure("Free space on the disk of the data directory.").Because(err)
}
