package audit

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/hourpass/hourpass/internal/strictjson"
)

// CheckpointType is the typ of a signed checkpoint: it passes for no token, and
// no token passes for it (RFC 8725, section 3.11).
const CheckpointType = "audit-checkpoint+jwt"

// Signer signs checkpoints: jwks/ring.Ring is one.
type Signer interface {
	// Sign returns payload as a compact JWS whose header holds alg, kid and typ
	// and nothing else.
	Sign(payload []byte, typ string) (string, error)
}

var headerLimits = strictjson.Limits{Depth: 1, Members: 3}

// maxCheckpoint bounds a compact JWS: RSA signatures are the longest.
const maxCheckpoint = 4 << 10

// payload is what a checkpoint signs: the last whole line before it.
func (c *chain) payload(when string) []byte {
	b := append([]byte(`{"log":"`), c.log...)
	b = strconv.AppendUint(append(b, `","seq":`...), c.seq, 10)
	return append(b, `,"hash":"`+c.hash.String()+`","time":"`+when+`"}`...)
}

// appendCheckpoint appends the line of a checkpoint. Line and signed payload say
// the same number, hash and time, so that all of the line is signed.
func (c *chain) appendCheckpoint(b []byte, when, jws string, key []byte) []byte {
	b = c.appendStart(b)
	b = append(b, `"time":"`+when+`","event":"`+eventSigned+`","jws":`...)
	b = strictjson.AppendText(b, jws)
	b = append(b, `,"key":`...)
	return append(append(b, key...), '}', '\n')
}

// sign appends a checkpoint over all lines so far. One that its own key set does
// not bear out is an error.
func (c *chain) sign(b []byte, now time.Time, s Signer, keys func() []byte) ([]byte, error) {
	quoted, err := appendTime(nil, now)
	if err != nil {
		return nil, err
	}
	when := string(quoted[len(`"time":"`) : len(quoted)-1])
	payload := c.payload(when)
	jws, err := s.Sign(payload, CheckpointType)
	if err != nil {
		return nil, err
	}
	// After signing, so that a key rotated in between is there.
	set, err := keySet(keys())
	if err != nil {
		return nil, err
	}
	_, kid, err := readHeader(jws)
	if err != nil {
		return nil, err
	}
	k := set[kid]
	if k == nil {
		return nil, fmt.Errorf("the key set has no key %.48q, which signed", kid)
	}
	if err := check(jws, payload, k); err != nil {
		return nil, err
	}
	return c.appendCheckpoint(b, when, jws, k.text), nil
}

// readHeader reads the header of a compact JWS: exactly alg, kid and typ, so that
// nothing in it can bring or point to another key, or change what is signed.
func readHeader(jws string) (alg, kid string, err error) {
	head, _, _ := strings.Cut(jws, ".")
	raw, ok := decode(head)
	if !ok || len(jws) > maxCheckpoint {
		return "", "", errors.New("its signature is no compact JWS")
	}
	members, err := strictjson.Object(raw, headerLimits)
	if err != nil {
		return "", "", errors.New("the header of its signature is not one strict JSON object of three members")
	}
	var typ string
	for _, m := range members {
		text, ok := m.Text()
		switch {
		case ok && m.Name == "alg":
			alg = text
		case ok && m.Name == "kid":
			kid = text
		case ok && m.Name == "typ":
			typ = text
		default:
			return "", "", errors.New("the header of its signature holds something else than alg, kid and typ")
		}
	}
	if typ != CheckpointType {
		return "", "", errors.New("its signature is of another kind than " + CheckpointType)
	}
	if alg == "Ed25519" { // Its newer name (RFC 9864).
		alg = eddsa
	}
	return alg, kid, nil
}

// check tells whether jws is the signature of that key over payload.
func check(jws string, payload []byte, k *publicKey) error {
	alg, _, err := readHeader(jws)
	if err != nil {
		return err
	}
	if alg != k.alg {
		return fmt.Errorf("its signature is not %s, the only algorithm of its key", k.alg)
	}
	parts := strings.Split(jws, ".")
	if len(parts) != 3 {
		return errors.New("its signature is no compact JWS")
	}
	signed, okSigned := decode(parts[1])
	signature, okSignature := decode(parts[2])
	switch {
	case !okSigned || !okSignature:
		return errors.New("its signature is not canonical base64url")
	case string(signed) != string(payload):
		return errors.New("its signature is over something else")
	case !k.verify(parts[0]+"."+parts[1], signature):
		return errors.New("its signature does not fit its key")
	}
	return nil
}

// checkpoint checks that e, which was read from line and follows c, is what
// appendCheckpoint writes, and returns the key that signed.
func (c *chain) checkpoint(e *entry, line []byte) (*publicKey, error) {
	jwk, err := strictjson.Object(e.member("key").Raw, lineLimits)
	if err != nil {
		return nil, errors.New("it has no key")
	}
	k, err := parseKey(jwk)
	if err != nil {
		return nil, fmt.Errorf("its key is not used: %w", err)
	}
	jws := e.text("jws")
	if err := check(jws, c.payload(e.when), k); err != nil {
		return nil, err
	}
	// What is not signed is fixed: there is one way to write it.
	if string(c.appendCheckpoint(nil, e.when, jws, k.text)) != string(line) {
		return nil, errors.New("it is not written as checkpoints are")
	}
	return k, nil
}
