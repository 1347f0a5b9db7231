// Package dsse signs and verifies statements about models: DSSE envelopes around in-toto statements, with Ed25519 or ECDSA
// P-256 and nothing but the standard library's cryptography. An envelope means one thing or is refused: text that two readers
// could read differently is not taken. It stores nothing, fetches nothing and trusts no key by itself; the caller hands it
// keys and files' digests. Callers: registry, which holds deploys against a tenant's policy, and the command line, which
// signs, and verifies without a server.
package dsse

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/penstock/penstock/api"
)

// The media types of what is signed and of what it is wrapped in.
const (
	MediaEnvelope  = "application/vnd.dsse.envelope.v1+json"
	MediaStatement = "application/vnd.in-toto+json"
)

// The limits of an envelope.
const (
	EnvelopeBytesMax = 1 << 20 // bytes of the whole JSON
	signaturesMax    = 16      // signatures of one envelope
	signatureBytes   = 128     // bytes of one signature; those of the two algorithms have 64 and at most 72
	keyIDBytes       = 256     // bytes of one key's name
)

// Envelope is a payload with signatures over it and its type. A signature's KeyID is a hint and is not signed.
type Envelope struct {
	PayloadType string
	Payload     []byte
	Signatures  []Signature
}

// Signature is one signature of an envelope.
type Signature struct {
	KeyID string
	Bytes []byte
}

// document is an envelope as it is written.
type document struct {
	PayloadType string              `json:"payloadType"`
	Payload     string              `json:"payload"`
	Signatures  []documentSignature `json:"signatures"`
}

type documentSignature struct {
	KeyID string `json:"keyid,omitempty"`
	Sig   string `json:"sig"`
}

// Parse reads an envelope. It trusts nothing in it: whether anybody signed it, Verify says.
func Parse(text []byte) (*Envelope, error) {
	if len(text) > EnvelopeBytesMax {
		return nil, fmt.Errorf("the envelope has %d bytes, over the limit of %d", len(text), EnvelopeBytesMax)
	}
	var d document
	// No field twice, in another case or unknown: what is signed is what every reader sees.
	if err := api.DecodeStrict(text, &d); err != nil {
		return nil, fmt.Errorf("the envelope is not one that DSSE describes: %w", err)
	}
	if d.PayloadType == "" || len(d.Signatures) == 0 || len(d.Signatures) > signaturesMax {
		return nil, fmt.Errorf("an envelope has a payloadType and 1 to %d signatures; this one has the type %.80q and %d", signaturesMax, d.PayloadType, len(d.Signatures))
	}
	payload, err := decodeExactly(d.Payload)
	if err != nil {
		return nil, fmt.Errorf("the payload %w", err)
	}
	e := &Envelope{PayloadType: d.PayloadType, Payload: payload}
	for i, s := range d.Signatures {
		sig, err := decodeExactly(s.Sig)
		if err != nil {
			return nil, fmt.Errorf("signature %d %w", i+1, err)
		}
		if len(sig) == 0 || len(sig) > signatureBytes || len(s.KeyID) > keyIDBytes {
			return nil, fmt.Errorf("signature %d has %d bytes and a key's name of %d", i+1, len(sig), len(s.KeyID))
		}
		e.Signatures = append(e.Signatures, Signature{KeyID: s.KeyID, Bytes: sig})
	}
	return e, nil
}

// decodeExactly reads base64, of the standard or the URL alphabet, and takes only the one text that encodes the bytes: the
// decoder itself passes over line ends and bits after the last byte.
func decodeExactly(text string) ([]byte, error) {
	for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding} {
		if b, err := encoding.Strict().DecodeString(text); err == nil && encoding.EncodeToString(b) == text {
			return b, nil
		}
	}
	return nil, errors.New("is not base64 in its one form")
}

// Encode writes the envelope; the same envelope gives the same bytes.
func (e *Envelope) Encode() ([]byte, error) {
	d := document{PayloadType: e.PayloadType, Payload: base64.StdEncoding.EncodeToString(e.Payload)}
	for _, s := range e.Signatures {
		d.Signatures = append(d.Signatures, documentSignature{KeyID: s.KeyID, Sig: base64.StdEncoding.EncodeToString(s.Bytes)})
	}
	return json.Marshal(d)
}

// Sign makes an envelope with one signature.
func Sign(payloadType string, payload []byte, key *PrivateKey) (*Envelope, error) {
	sig, err := key.sign(preAuthentication(payloadType, payload))
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return &Envelope{PayloadType: payloadType, Payload: payload, Signatures: []Signature{{KeyID: key.Public().ID(), Bytes: sig}}}, nil
}

// Verify gives the first of the keys that made one of the signatures, or an error when none did. Every signature is tried
// with every key: the name of a key that stands beside a signature is a hint, and proves nothing.
func (e *Envelope) Verify(keys ...*PublicKey) (*PublicKey, error) {
	message := preAuthentication(e.PayloadType, e.Payload)
	for _, key := range keys {
		for _, s := range e.Signatures {
			if key.verifies(message, s.Bytes) {
				return key, nil
			}
		}
	}
	return nil, fmt.Errorf("none of its %d signatures was made by any of the %d keys", len(e.Signatures), len(keys))
}

// preAuthentication is DSSE's PAE: type and payload with their lengths, so that no two pairs give the same bytes.
func preAuthentication(payloadType string, payload []byte) []byte {
	b := append([]byte("DSSEv1 "), strconv.Itoa(len(payloadType))...)
	b = append(append(b, ' '), payloadType...)
	b = append(append(b, ' '), strconv.Itoa(len(payload))...)
	return append(append(b, ' '), payload...)
}
