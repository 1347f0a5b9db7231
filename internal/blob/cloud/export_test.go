package cloud

import cloudblob "gocloud.dev/blob"

// On is a store on any bucket of gocloud.dev, as Azure's and Google's are opened: without parts of its own.
func On(bucket *cloudblob.Bucket, prefix string, cfg Config) *Store {
	cfg.orDefault()
	s := newStore(cfg, prefix)
	s.bucket = bucket
	return s
}
