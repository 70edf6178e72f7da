// Package format is the form of machine keys, for whoever makes, checks or looks
// for one. It stands apart from the keys' store, so that programs without a
// database can recognise a key offline.
package format

import (
	"crypto/rand"
	"errors"
	"fmt"
	"hash/crc32"
	"math/big"
	"strings"
)

// The form of a machine key: Prefix, an id of IDLen characters, "_", a secret of
// 256 random bits in secretLen characters, and the CRC-32 (IEEE) of all that
// goes before in checkLen characters. Letters and digits of base62 only, so that
// a double click selects it, no shell quotes it, and a scanner finds it with
// hpk_[0-9A-Za-z]{16}_[0-9A-Za-z]{49}.
const (
	Prefix    = "hpk_"
	IDLen     = 16
	secretLen = 43 // 62^43 > 2^256
	checkLen  = 6  // 62^6 > 2^32
	Len       = len(Prefix) + IDLen + 1 + secretLen + checkLen
)

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// ErrFormat means that a text is not a machine key. It needs no database to see.
var ErrFormat = errors.New("not a machine key (want hpk_<id>_<secret>, with its check)")

// NewID returns 16 random characters: enough (95 bits) that ids never meet.
func NewID() string {
	id := make([]byte, IDLen)
	for i := range id {
		n, err := rand.Int(rand.Reader, big.NewInt(int64(len(base62))))
		if err != nil {
			panic(err) // Unreachable: crypto/rand.Reader never fails (Go 1.24).
		}
		id[i] = base62[n.Int64()]
	}
	return string(id)
}

// IsID tells whether a text has the form of an id.
func IsID(text string) bool { return len(text) == IDLen && strings.Trim(text, base62) == "" }

// New returns a whole key: the id, 256 fresh random bits, and the check.
func New(id string) string {
	var bits [32]byte
	_, _ = rand.Read(bits[:]) // It never fails (Go 1.24).
	body := Prefix + id + "_" + encode62(new(big.Int).SetBytes(bits[:]), secretLen)
	return body + check(body)
}

// ParseID returns the id of a machine key, or [ErrFormat]. That the check is
// right says only that nothing was mistyped or cut off.
func ParseID(key string) (string, error) {
	if len(key) != Len || !strings.HasPrefix(key, Prefix) || key[len(Prefix)+IDLen] != '_' {
		return "", ErrFormat
	}
	id, rest := key[len(Prefix):len(Prefix)+IDLen], key[len(Prefix)+IDLen+1:]
	if !IsID(id) || strings.Trim(rest, base62) != "" {
		return "", ErrFormat
	}
	if body, sum := key[:Len-checkLen], key[Len-checkLen:]; check(body) != sum {
		return "", fmt.Errorf("%w: its check does not match, so a character is wrong or missing", ErrFormat)
	}
	return id, nil
}

func check(body string) string {
	return encode62(big.NewInt(int64(crc32.ChecksumIEEE([]byte(body)))), checkLen)
}

func encode62(n *big.Int, width int) string {
	digits := make([]byte, width)
	base, rem := big.NewInt(int64(len(base62))), new(big.Int)
	for i := width - 1; i >= 0; i-- {
		n, rem = new(big.Int).DivMod(n, base, rem)
		digits[i] = base62[rem.Int64()]
	}
	return string(digits)
}
