package cloud

import (
	"context"

	cloudblob "gocloud.dev/blob"
	"gocloud.dev/blob/azureblob"
)

// openAzure connects with AZURE_STORAGE_ACCOUNT and a key, a SAS token, a connection string, or Azure's own identities.
func openAzure(ctx context.Context, at place, _ Config) (*cloudblob.Bucket, error) {
	options := azureblob.NewDefaultServiceURLOptions()
	for name, value := range map[string]*string{"storage_account": &options.AccountName, "domain": &options.StorageDomain, "protocol": &options.Protocol} {
		if given := at.options.Get(name); given != "" {
			*value = given
		}
	}
	options.IsLocalEmulator = options.IsLocalEmulator || at.options.Get("localemu") == "true"
	service, err := azureblob.NewServiceURL(options)
	if err != nil {
		return nil, err
	}
	client, err := azureblob.NewDefaultClient(service, azureblob.ContainerName(at.container))
	if err != nil {
		return nil, err
	}
	return azureblob.OpenBucket(ctx, client, nil)
}
