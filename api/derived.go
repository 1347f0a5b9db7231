package api

// Derived is content that is made of a version when it is asked for: its digest is known, its bytes are kept nowhere.
type Derived struct {
	Repository
	Digest    ContentDigest
	Version   Digest // of the manifest that it is made of
	MediaType string // of a manifest; empty for a blob
	Size      int64
	Pieces    []Piece // one after the other
}

// Piece is a run of bytes: a text, a blob, or as many zeros.
type Piece struct {
	Text []byte `json:",omitempty"`
	Blob Digest `json:",omitempty"`
	Size int64
}
