//go:build pkcs11

package issuerd

import (
	"github.com/hourpass/hourpass/jwks/ring"
	"github.com/hourpass/hourpass/jwks/ring/pkcs11"
)

// havePKCS11 says whether the program can use PKCS #11 devices. They need cgo.
const havePKCS11 = true

func openPKCS11(s pkcs11Settings) (ring.Vault, func() error, error) {
	vault, err := pkcs11.Open(pkcs11.Config{Module: s.Module, Token: s.Token, PIN: s.PIN.Reveal()})
	if err != nil {
		return nil, nil, err
	}
	return vault, func() error { vault.Close(); return nil }, nil
}
