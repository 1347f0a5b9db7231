package hook

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/penstock/penstock/api"
)

// Secrets and signatures have the form of the Standard Webhooks specification.
const (
	secretPrefix = "whsec_"
	secretLength = 32 // bytes
)

// newSecret makes the key of a webhook's signatures.
func newSecret() []byte {
	secret := make([]byte, secretLength)
	rand.Read(secret)
	return secret
}

func writeSecret(secret []byte) string {
	return secretPrefix + base64.StdEncoding.EncodeToString(secret)
}

// sign makes the header webhook-signature: one signature for each live secret.
func sign(secrets [][]byte, id, stamp string, body []byte) string {
	parts := make([]string, 0, len(secrets))
	for _, secret := range secrets {
		mac := hmac.New(sha256.New, secret)
		fmt.Fprintf(mac, "%s.%s.", id, stamp) // a hash never fails
		mac.Write(body)
		parts = append(parts, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	return strings.Join(parts, " ")
}

// sealer encrypts secrets for the store, which is copied to more places than the key is.
type sealer struct{ aead cipher.AEAD }

func newSealer(key []byte) (sealer, error) {
	if len(key) < secretLength {
		return sealer{}, errors.New("hook: the key that seals secrets is too short")
	}
	// A key of its own, so that what else the same bytes are used for cannot help against it.
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("penstock webhook secrets"))
	block, err := aes.NewCipher(mac.Sum(nil))
	if err != nil {
		return sealer{}, err
	}
	aead, err := cipher.NewGCM(block)
	return sealer{aead}, err
}

// place binds a sealed secret to its webhook: a row that is copied to another tenant opens nothing.
func place(t api.TenantID, id api.WebhookID) []byte { return []byte(string(t) + "/" + string(id)) }

func (s sealer) close(t api.TenantID, id api.WebhookID, secret []byte) string {
	nonce := make([]byte, s.aead.NonceSize())
	rand.Read(nonce)
	return base64.StdEncoding.EncodeToString(s.aead.Seal(nonce, nonce, secret, place(t, id)))
}

func (s sealer) open(t api.TenantID, id api.WebhookID, sealed string) ([]byte, error) {
	text, err := base64.StdEncoding.DecodeString(sealed)
	if n := s.aead.NonceSize(); err == nil && len(text) > n {
		var secret []byte
		if secret, err = s.aead.Open(nil, text[:n], text[n:], place(t, id)); err == nil {
			return secret, nil
		}
	}
	return nil, api.Fail(api.CodeInternal, string(id), "the webhook's secret cannot be read").
		WithCure("Rotate it with `penstock webhook rotate %s`. It was sealed with another server's secrets/pepper.", id)
}

// secrets gives those that sign now, the newest first.
func (c *Courier) secrets(ctx context.Context, w api.Webhook) ([][]byte, error) {
	kept, err := c.cfg.Store.WebhookSecrets(ctx, w.Tenant, w.ID)
	if err != nil {
		return nil, err
	}
	now, err := c.seal.open(w.Tenant, w.ID, kept.Now)
	if err != nil {
		return nil, err
	}
	all := [][]byte{now}
	if kept.Old != "" && c.now() < kept.OldUntil {
		if old, err := c.seal.open(w.Tenant, w.ID, kept.Old); err == nil {
			all = append(all, old)
		}
	}
	return all, nil
}
