package dsse_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"strings"
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/dsse"
)

var algorithms = []string{dsse.Ed25519, dsse.ECDSAP256}

func digestOf(text string) api.Digest {
	sum := sha256.Sum256([]byte(text))
	return api.Digest("sha256:" + hex.EncodeToString(sum[:]))
}

func files() map[string]api.Digest {
	return map[string]api.Digest{"model.onnx": digestOf("model"), "docs/card.md": digestOf("card")}
}

type signed struct {
	key      *dsse.PrivateKey
	envelope *dsse.Envelope
}

func sign(t testing.TB, algorithm string) signed {
	t.Helper()
	key, err := dsse.Generate(algorithm)
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := dsse.About("digits@1", digestOf("manifest"), files()).Sign(key)
	if err != nil {
		t.Fatal(err)
	}
	return signed{key, envelope}
}

func TestSignedIsVerified(t *testing.T) {
	for _, algorithm := range algorithms {
		s := sign(t, algorithm)
		text, err := s.envelope.Encode()
		if err != nil {
			t.Fatal(err)
		}
		envelope, err := dsse.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		other, _ := dsse.Generate(algorithm)
		if key, err := envelope.Verify(other.Public(), s.key.Public()); err != nil || key.ID() != s.key.Public().ID() {
			t.Errorf("%s: verified by %v: %v", algorithm, key, err)
		}
		if _, err := envelope.Verify(other.Public()); err == nil {
			t.Errorf("%s: another key verified it", algorithm)
		}
		if _, err := envelope.Verify(); err == nil {
			t.Errorf("%s: no key verified it", algorithm)
		}
		statement, err := envelope.Statement()
		if err != nil {
			t.Fatal(err)
		}
		if err := statement.Covers(digestOf("manifest"), files()); err != nil {
			t.Error(err)
		}
	}
}

// variants calls try with a text in which one byte was changed: in every place, to every other value, or only to those one
// bit away and to some that parsers treat alike.
func variants(text []byte, everyValue bool, try func(at int, changed []byte)) {
	for at := range text {
		values := map[byte]bool{}
		for bit := range 8 {
			values[text[at]^1<<bit] = true
		}
		for _, b := range []byte{0, ' ', '\n', '\r', '"', '=', 'A', 0x7f, 0xff} {
			values[b] = true
		}
		for v := range 256 {
			if v := byte(v); (everyValue || values[v]) && v != text[at] {
				changed := bytes.Clone(text)
				changed[at] = v
				try(at, changed)
			}
		}
	}
}

// Every single byte of statement, payload type, signature and key counts.
func TestEveryChangedByteIsRefused(t *testing.T) {
	for _, algorithm := range algorithms {
		s := sign(t, algorithm)
		public := s.key.Public()
		tried := map[string]int{}
		refuses := func(what string, at int, e dsse.Envelope, key *dsse.PublicKey) {
			tried[what]++
			if _, err := e.Verify(key); err == nil {
				t.Errorf("%s: a changed byte %d of the %s was taken", algorithm, at, what)
			}
		}
		variants(s.envelope.Payload, false, func(at int, changed []byte) {
			refuses("statement", at, dsse.Envelope{PayloadType: dsse.MediaStatement, Payload: changed, Signatures: s.envelope.Signatures}, public)
		})
		variants([]byte(dsse.MediaStatement), true, func(at int, changed []byte) {
			refuses("type", at, dsse.Envelope{PayloadType: string(changed), Payload: s.envelope.Payload, Signatures: s.envelope.Signatures}, public)
		})
		variants(s.envelope.Signatures[0].Bytes, true, func(at int, changed []byte) {
			refuses("signature", at, dsse.Envelope{PayloadType: dsse.MediaStatement, Payload: s.envelope.Payload, Signatures: []dsse.Signature{{Bytes: changed}}}, public)
		})
		key := func(what string, at int, text []byte) {
			tried[what]++
			if changed, err := dsse.ParsePublic(text); err == nil {
				refuses(what, at, *s.envelope, changed)
			}
		}
		block, _ := pem.Decode(public.PEM())
		variants(block.Bytes, true, func(at int, changed []byte) {
			key("key", at, pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: changed}))
		})
		variants(public.PEM(), true, func(at int, changed []byte) { key("key's text", at, changed) })
		t.Logf("%s: changes tried: %v", algorithm, tried)
	}
}

// A changed byte anywhere in the envelope's text gives an error, or what was signed: never another statement. Names of keys
// are hints, and may change.
func TestNoChangedEnvelopeSaysSomethingElse(t *testing.T) {
	for _, algorithm := range algorithms {
		s := sign(t, algorithm)
		text, err := s.envelope.Encode()
		if err != nil {
			t.Fatal(err)
		}
		from, to := bytes.Index(text, []byte(`"keyid":"`)), bytes.Index(text, []byte(`","sig"`))
		variants(text, false, func(at int, changed []byte) {
			envelope, err := dsse.Parse(changed)
			if err != nil {
				return
			}
			if _, err := envelope.Verify(s.key.Public()); err != nil {
				return
			}
			if at < from || at > to || !bytes.Equal(envelope.Payload, s.envelope.Payload) {
				t.Errorf("%s: byte %d changed to %q was taken", algorithm, at, changed[at])
			}
		})
	}
}

func TestWhatIsNotCoveredIsNamed(t *testing.T) {
	s := dsse.About("digits@1", digestOf("manifest"), files())
	with := func(change func(map[string]api.Digest)) map[string]api.Digest {
		f := files()
		change(f)
		return f
	}
	for name, c := range map[string]struct {
		manifest api.Digest
		files    map[string]api.Digest
		want     string
	}{
		"another manifest": {digestOf("other"), files(), "was made for the manifest"},
		"an extra file":    {digestOf("manifest"), with(func(f map[string]api.Digest) { f["evil.json"] = digestOf("x") }), "never signed"},
		"a missing file":   {digestOf("manifest"), with(func(f map[string]api.Digest) { delete(f, "docs/card.md") }), "is missing"},
		"a changed file":   {digestOf("manifest"), with(func(f map[string]api.Digest) { f["model.onnx"] = digestOf("x") }), "not the one that was signed"},
	} {
		if err := s.Covers(c.manifest, c.files); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestStatementsThatLieAreRefused(t *testing.T) {
	key, err := dsse.Generate(dsse.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	good := func() dsse.Statement { return dsse.About("digits@1", digestOf("manifest"), files()) }
	for name, change := range map[string]func(*dsse.Statement){
		"no subject":                func(s *dsse.Statement) { s.Subject = nil },
		"another predicate":         func(s *dsse.Statement) { s.PredicateType = "https://slsa.dev/provenance/v1" },
		"another statement":         func(s *dsse.Statement) { s.Type = "https://in-toto.io/Statement/v0.1" },
		"a resource not a subject":  func(s *dsse.Statement) { s.Subject = s.Subject[:2] },
		"a subject not a resource":  func(s *dsse.Statement) { s.Predicate.Resources = s.Predicate.Resources[:1] },
		"subject and file disagree": func(s *dsse.Statement) { s.Predicate.Resources[0].Digest = digestOf("x").Hex() },
		"a weak digest":             func(s *dsse.Statement) { s.Predicate.Resources[0].Algorithm = "md5" },
		"a path out": func(s *dsse.Statement) {
			s.Predicate.Resources[0].Name, s.Subject[1].Name = "../passwd", "../passwd"
		},
		"a file twice": func(s *dsse.Statement) {
			s.Predicate.Resources[1], s.Subject[2] = s.Predicate.Resources[0], s.Subject[1]
		},
	} {
		s := good()
		change(&s)
		envelope, err := s.Sign(key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := envelope.Statement(); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestEnvelopesInTwoFormsAreRefused(t *testing.T) {
	s := sign(t, dsse.Ed25519)
	text, err := s.envelope.Encode()
	if err != nil {
		t.Fatal(err)
	}
	payload := base64.StdEncoding.EncodeToString(s.envelope.Payload)
	for name, changed := range map[string]string{
		"empty":              ``,
		"null":               `null`,
		"a field twice":      strings.Replace(string(text), `"payloadType"`, `"payloadType":"text/plain","payloadType"`, 1),
		"in another case":    strings.Replace(string(text), `"payload"`, `"Payload"`, 1),
		"more after it":      string(text) + `{}`,
		"no signature":       `{"payloadType":"x","payload":"","signatures":[]}`,
		"an empty signature": `{"payloadType":"x","payload":"","signatures":[{"sig":""}]}`,
		"line ends inside":   strings.Replace(string(text), payload, payload[:8]+`\n`+payload[8:], 1),
		"too many":           `{"payloadType":"x","payload":"","signatures":[` + strings.TrimSuffix(strings.Repeat(`{"sig":"AA=="},`, 17), ",") + `]}`,
		"too large":          `{"payloadType":"x","payload":"` + strings.Repeat("AAAA", 1<<18) + `","signatures":[{"sig":"AA=="}]}`,
	} {
		if _, err := dsse.Parse([]byte(changed)); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestKeysOfOtherKindsAreRefused(t *testing.T) {
	s := sign(t, dsse.ECDSAP256)
	private, err := s.key.PEM()
	if err != nil {
		t.Fatal(err)
	}
	again, err := dsse.ParsePrivate(private)
	if err != nil || again.Public().ID() != s.key.Public().ID() {
		t.Errorf("a key read back: %v", err)
	}
	for name, text := range map[string]string{
		"a private key": string(private),
		"two keys":      string(s.key.Public().PEM()) + string(s.key.Public().PEM()),
		"text around":   "hello\n" + string(s.key.Public().PEM()),
		"nothing":       "",
		"too large":     strings.Repeat("x", dsse.KeyBytesMax+1),
		// RSA, 512 bits, and ECDSA on P-384: real keys of kinds that are not taken.
		"rsa": "-----BEGIN PUBLIC KEY-----\nMFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAKj34GkxFhD90vcNLYLInFEX6Ppy1tPf\n9Cnzj4p4WGeKLs1Pt8QuKUpRKfFLfRYC9AIKjbJTWit+CqvjWYzvQwECAwEAAQ==\n-----END PUBLIC KEY-----\n",
	} {
		if _, err := dsse.ParsePublic([]byte(text)); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := dsse.ParsePrivate(s.key.Public().PEM()); err == nil {
		t.Error("a public key was taken as a private one")
	}
	if _, err := dsse.Generate("rsa"); err == nil {
		t.Error("a key of rsa was made")
	}
}

// FuzzParse asks of any text: an envelope that encodes back to one that says the same, or an error.
func FuzzParse(f *testing.F) {
	for _, algorithm := range algorithms {
		text, err := sign(f, algorithm).envelope.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		e, err := dsse.Parse(text)
		if err != nil {
			return
		}
		again, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		back, err := dsse.Parse(again)
		if err != nil && len(again) <= dsse.EnvelopeBytesMax {
			t.Fatalf("not read back: %v", err)
		}
		if err == nil && !bytes.Equal(back.Payload, e.Payload) {
			t.Error("another payload after writing")
		}
		if s, err := e.Statement(); err == nil {
			if _, err := s.Files(); err != nil {
				t.Error(err)
			}
		}
	})
}
