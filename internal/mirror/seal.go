package mirror

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"

	"github.com/penstock/penstock/api"
)

// seal closes passwords of other registries, so that the database and its backups do not hold them in the clear. The key
// is made from a secret of the data directory.
type seal struct{ cipher.AEAD }

func newSeal(secret []byte) (*seal, error) {
	if len(secret) < sha256.Size {
		return nil, errors.New("mirror needs a secret of at least 32 bytes")
	}
	key, err := hkdf.Key(sha256.New, secret, nil, "penstock: passwords of other registries", 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return &seal{aead}, err
}

// close seals a login for one owner: it opens for no other, so that a row copied to another place is of no use.
func (s *seal) close(login api.RemoteLogin, owner string) (string, error) {
	if login.Username == "" && login.Password == "" {
		return "", nil
	}
	text, err := json.Marshal(login)
	if err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(s.Seal(nil, nil, text, []byte(owner))), nil
}

func (s *seal) open(sealed, owner string) (login api.RemoteLogin, _ error) {
	if sealed == "" {
		return login, nil
	}
	closed, err := base64.StdEncoding.DecodeString(sealed)
	if err == nil {
		var text []byte
		if text, err = s.Open(nil, nil, closed, []byte(owner)); err == nil {
			err = json.Unmarshal(text, &login)
		}
	}
	if err != nil {
		return login, api.Fail(api.CodeBadRequest, "", "the password for the other registry cannot be opened: the server's secret is another one now").
			WithCure("Ask for the copy again, with the password.").Because(err)
	}
	return login, nil
}
