// Does jose accept TOKEN as an access token (RFC 9068) of ISSUER for AUDIENCE,
// under the keys at JWKS_URL? Prints one JSON line: header and payload, or the
// error with jose's code.
import { createRemoteJWKSet, errors, jwtVerify } from 'jose';

const { JWKS_URL, ISSUER, AUDIENCE, TOKEN } = process.env;
try {
  const { payload, protectedHeader } = await jwtVerify(TOKEN, createRemoteJWKSet(new URL(JWKS_URL)), {
    issuer: ISSUER, audience: AUDIENCE, typ: 'at+jwt', requiredClaims: ['sub', 'client_id', 'iat', 'exp', 'jti'],
  });
  console.log(JSON.stringify({ header: protectedHeader, payload }));
} catch (err) {
  if (!(err instanceof errors.JOSEError)) throw err;
  console.log(JSON.stringify({ error: { code: err.code, message: err.message, claim: err.claim } }));
}
