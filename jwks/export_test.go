package jwks

// VerifyBytes checks a signature over any bytes, for vectors that are not JWS.
func (s *Set) VerifyBytes(kid, signed string, signature []byte) bool {
	k, ok := s.keys[kid]
	return ok && k.verify(signed, signature)
}

// Look reads the file again, as Run does at times.
func (f *File) Look() { f.look() }
