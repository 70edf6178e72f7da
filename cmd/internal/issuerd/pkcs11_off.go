//go:build !pkcs11

package issuerd

import (
	"errors"

	"github.com/hourpass/hourpass/jwks/ring"
)

// havePKCS11 says whether the program can use PKCS #11 devices. They need cgo.
const havePKCS11 = false

func openPKCS11(pkcs11Settings) (ring.Vault, func() error, error) {
	return nil, nil, errors.New("this program was built without PKCS #11")
}
