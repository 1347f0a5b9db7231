package dsse

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// The algorithms of keys.
const (
	Ed25519   = "ed25519"
	ECDSAP256 = "ecdsa-p256"
)

// KeyBytesMax bounds a key's file in bytes. Keys of both algorithms have a few hundred.
const KeyBytesMax = 4 << 10

const (
	blockPublic  = "PUBLIC KEY"
	blockPrivate = "PRIVATE KEY"
)

// PublicKey verifies. It is immutable.
type PublicKey struct {
	id  string
	der []byte
	key crypto.PublicKey
}

// PrivateKey signs. It is immutable.
type PrivateKey struct {
	key    crypto.Signer
	public *PublicKey
}

// Generate makes a new key of an algorithm.
func Generate(algorithm string) (*PrivateKey, error) {
	switch algorithm {
	case Ed25519:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		return privateKey(key)
	case ECDSAP256:
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		return privateKey(key)
	}
	return nil, fmt.Errorf("the algorithm %q is neither %s nor %s", algorithm, Ed25519, ECDSAP256)
}

func privateKey(key crypto.Signer) (*PrivateKey, error) {
	public, err := publicKey(key.Public())
	return &PrivateKey{key: key, public: public}, err
}

// publicKey takes the two algorithms only: every other is a way to be weaker by accident.
func publicKey(key crypto.PublicKey) (*PublicKey, error) {
	switch k := key.(type) {
	case ed25519.PublicKey:
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return nil, errors.New("the key's curve is not P-256")
		}
	default:
		return nil, errors.New("the key is neither Ed25519 nor ECDSA on P-256")
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(der)
	return &PublicKey{id: hex.EncodeToString(sum[:]), der: der, key: key}, nil
}

// ParsePublic reads a public key in PEM, as `openssl pkey -pubout` and cosign write it. Only the one text that encodes the
// key is taken, so that a changed byte is a changed key.
func ParsePublic(text []byte) (*PublicKey, error) {
	der, err := onlyBlock(text, blockPublic)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, errors.New("the public key cannot be read")
	}
	key, err := publicKey(parsed)
	if err != nil {
		return nil, err
	}
	if string(key.der) != string(der) {
		return nil, errors.New("the public key is not in its one form")
	}
	return key, nil
}

// ParsePrivate reads a private key in PEM: PKCS #8 without a password, as `penstock sign keygen` and `openssl genpkey` write
// it. An error shows nothing of the key.
func ParsePrivate(text []byte) (*PrivateKey, error) {
	der, err := onlyBlock(text, blockPrivate)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, errors.New("the private key cannot be read; it must be PKCS #8 without a password")
	}
	key, is := parsed.(crypto.Signer)
	if !is {
		return nil, errors.New("the private key cannot sign")
	}
	return privateKey(key)
}

// onlyBlock gives the bytes of the one PEM block that a text consists of.
func onlyBlock(text []byte, kind string) ([]byte, error) {
	if len(text) > KeyBytesMax {
		return nil, fmt.Errorf("a key's file has at most %d bytes", KeyBytesMax)
	}
	plain := strings.ReplaceAll(string(text), "\r\n", "\n")
	block, _ := pem.Decode([]byte(plain))
	if block == nil {
		return nil, fmt.Errorf("there is no PEM block %q", kind)
	}
	if block.Type != kind {
		return nil, fmt.Errorf("the PEM block is %.40q, not %q", block.Type, kind)
	}
	// The decoder passes over what stands around the block and over bits after the last byte.
	if whole := string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: block.Bytes})); plain != whole && plain+"\n" != whole {
		return nil, fmt.Errorf("the text is not exactly one PEM block %q", kind)
	}
	return block.Bytes, nil
}

// ID is the SHA-256 of the key's DER in hex: the name under which its signatures go.
func (k *PublicKey) ID() string { return k.id }

// Algorithm is ed25519 or ecdsa-p256.
func (k *PublicKey) Algorithm() string {
	if _, is := k.key.(ed25519.PublicKey); is {
		return Ed25519
	}
	return ECDSAP256
}

// PEM writes the key for ParsePublic.
func (k *PublicKey) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: blockPublic, Bytes: k.der})
}

// Public is the half that verifies.
func (k *PrivateKey) Public() *PublicKey { return k.public }

// PEM writes the key for ParsePrivate. Whoever has it can sign.
func (k *PrivateKey) PEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: blockPrivate, Bytes: der}), nil
}

func (k *PrivateKey) sign(message []byte) ([]byte, error) {
	if key, is := k.key.(ed25519.PrivateKey); is {
		return ed25519.Sign(key, message), nil
	}
	sum := sha256.Sum256(message)
	return k.key.Sign(rand.Reader, sum[:], crypto.SHA256)
}

func (k *PublicKey) verifies(message, sig []byte) bool {
	switch key := k.key.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(key, message, sig)
	case *ecdsa.PublicKey:
		sum := sha256.Sum256(message)
		return ecdsa.VerifyASN1(key, sum[:], sig)
	}
	return false
}
