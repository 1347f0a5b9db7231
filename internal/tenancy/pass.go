package tenancy

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"strings"
	"time"

	"github.com/penstock/penstock/api"
)

// A pass is a short-lived text that stands for a key, narrowed to what its grant says; the grant is the issuer's own words.
// It is "psp_", and in base64: a HMAC, the time of its end, the key's id, a NUL and the grant. It holds no secret of the
// key, needs no table, and ends with the key: each use looks the key up again.
const (
	passPrefix = "psp_"
	passMax    = 4096 // bytes of its text
	passDomain = "penstock pass 1\x00"
)

// IssuePass makes a pass for a caller that was authenticated.
func (g *Guard) IssuePass(p *api.Principal, grant string, life time.Duration) (string, error) {
	if p == nil {
		return "", api.Fail(api.CodeUnauthenticated, "", "no API key was sent")
	}
	body := binary.BigEndian.AppendUint64(nil, uint64(api.TimeOf(g.Now().Add(life))))
	body = append(append(append(body, p.Key...), 0), grant...)
	text := passPrefix + base64.RawURLEncoding.EncodeToString(append(g.sign(body), body...))
	if len(text) > passMax {
		return "", api.Fail(api.CodeTooLarge, "", "the pass would have %d bytes, over the limit of %d", len(text), passMax)
	}
	return text, nil
}

// RedeemPass gives the caller that a pass stands for, and its grant. The principal is that of the key, with all its scopes.
func (g *Guard) RedeemPass(text string) (*api.Principal, string, error) {
	encoded, ok := strings.CutPrefix(text, passPrefix)
	if !ok || len(text) > passMax {
		return nil, "", errInvalidPass()
	}
	whole, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if err != nil || len(whole) < sha256.Size+8 || !hmac.Equal(g.sign(whole[sha256.Size:]), whole[:sha256.Size]) {
		return nil, "", errInvalidPass()
	}
	body := whole[sha256.Size:]
	key, grant, ok := bytes.Cut(body[8:], []byte{0})
	if !ok {
		return nil, "", errInvalidPass()
	}
	if g.past(api.Time(binary.BigEndian.Uint64(body))) {
		return nil, "", api.Fail(api.CodeUnauthenticated, "", "the token has expired").WithCure("Ask for another one.")
	}
	if g.dev != nil && api.KeyID(key) == devKey {
		return g.dev, string(grant), nil
	}
	p, err := g.admit(g.known.Load().byID[api.KeyID(key)])
	return p, string(grant), err
}

// IsPass reports whether a text has the form of a pass, which says nothing of its worth.
func IsPass(text string) bool { return strings.HasPrefix(text, passPrefix) }

func (g *Guard) sign(body []byte) []byte {
	// The domain keeps a pass apart from the HMACs of keys, which are made with the same pepper.
	h := hmac.New(sha256.New, g.pepper)
	h.Write([]byte(passDomain))
	h.Write(body)
	return h.Sum(nil)
}

func errInvalidPass() error {
	return api.Fail(api.CodeUnauthenticated, "", "the token is not valid").WithCure("Ask for another one.")
}
