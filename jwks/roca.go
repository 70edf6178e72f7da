package jwks

import "math/big"

// The primes by which the generator of CVE-2017-15361 (ROCA) betrays itself.
var rocaPrimes = []int64{
	3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109, 113,
	127, 131, 137, 139, 149, 151, 157, 163, 167,
}

// madeByROCA tells whether an RSA modulus comes from the broken generator of
// Infineon's chips, by the test of its finders (Nemec et al., "The Return of
// Coppersmith's Attack", section 2.3): such a modulus is a power of 65537 by
// each of the primes. Of good keys one in 2²⁷ is.
func madeByROCA(n *big.Int) bool {
	for _, p := range rocaPrimes {
		rest := new(big.Int).Mod(n, big.NewInt(p)).Int64()
		power, found := int64(1), false
		for range p {
			found = found || power == rest
			power = power * 65537 % p
		}
		if !found {
			return false
		}
	}
	return true
}
