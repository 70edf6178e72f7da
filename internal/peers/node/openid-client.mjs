// How the certified client openid-client fares with the authorization server
// ISSUER, in two runs. The first (no BEGUN) discovers it and begins a login in a
// browser and one on a device; it prints what the second takes as BEGUN, once
// somebody has walked authorization_url, as BACK where that led, and entered
// device.user_code. The second finishes both and walks the grants as the clients
// KEY (id, secret), ALONE (the same) and SIGNED (id, private JWK), all JSON, with
// the identity tokens of the list IDENTITIES and the scope SCOPE; VERIFIER (id,
// secret) introspects. Prints one JSON line; a step that was refused is its
// error instead.
import * as oauth from 'openid-client';

const { ISSUER, CLI, REDIRECT_URI, PROVIDER, BEGUN, BACK, SCOPE } = process.env;
const json = (name) => JSON.parse(process.env[name] ?? 'null');
const grant = (name) => `urn:ietf:params:oauth:grant-type:${name}`;
const type = (name) => `urn:ietf:params:oauth:token-type:${name}`;

const as = (id, auth, algorithm = 'oidc') => oauth.discovery(new URL(ISSUER), id, undefined, auth, { execute: [oauth.allowInsecureRequests], algorithm });

async function tried(step) {
  try {
    return await step();
  } catch (err) {
    const { name, code, status, error, error_description, cause } = err;
    if (name === 'TypeError') throw err;
    return { error: error ?? cause?.error ?? code ?? name, status: status ?? cause?.status, description: error_description ?? String(err.message) };
  }
}

async function begin() {
  const cli = await as(CLI, oauth.None());
  const code_verifier = oauth.randomPKCECodeVerifier();
  const state = oauth.randomState();
  const url = oauth.buildAuthorizationUrl(cli, {
    redirect_uri: REDIRECT_URI, state, provider: PROVIDER,
    code_challenge: await oauth.calculatePKCECodeChallenge(code_verifier), code_challenge_method: 'S256',
  });
  const device = await oauth.initiateDeviceAuthorization(cli, {});
  return { authorization_url: url.href, state, code_verifier, device };
}

async function finish({ state, code_verifier, device }) {
  const cli = await as(CLI, oauth.None(), 'oauth2');
  const { id, secret } = json('KEY');
  const basic = await as(id, oauth.ClientSecretBasic(secret));
  const post = await as(id, oauth.ClientSecretPost(secret));
  const wrong = await as(id, oauth.ClientSecretBasic(`${secret}x`));
  const alone = json('ALONE');
  const lonely = await as(alone.id, oauth.ClientSecretBasic(alone.secret));
  const { id: signedID, jwk } = json('SIGNED');
  const algorithm = { name: 'ECDSA', namedCurve: 'P-256' };
  const signed = await as(signedID, oauth.PrivateKeyJwt({ key: await crypto.subtle.importKey('jwk', jwk, algorithm, false, ['sign']), kid: jwk.kid }));
  const verifier = json('VERIFIER');
  const gateway = await as(verifier.id, oauth.ClientSecretBasic(verifier.secret));
  const identities = json('IDENTITIES');

  const out = { server: cli.serverMetadata() };
  out.login = await tried(() => oauth.authorizationCodeGrant(cli, new URL(BACK), { pkceCodeVerifier: code_verifier, expectedState: state }));
  out.device = await tried(() => oauth.pollDeviceAuthorizationGrant(cli, device));
  out.refresh = await tried(() => oauth.refreshTokenGrant(basic, out.login.refresh_token));
  out.refresh_device = await tried(() => oauth.refreshTokenGrant(post, out.device.refresh_token, { scope: SCOPE }));
  out.exchange = await tried(() => oauth.genericGrantRequest(basic, grant('token-exchange'), {
    subject_token: identities.pop(), subject_token_type: type('id_token'), scope: SCOPE,
  }));
  out.bearer = await tried(() => oauth.genericGrantRequest(signed, grant('jwt-bearer'), { assertion: identities.pop() }));
  out.beside = await tried(() => oauth.clientCredentialsGrant(post, {
    client_assertion: identities.pop(), client_assertion_type: 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer',
  }));
  out.alone = await tried(() => oauth.clientCredentialsGrant(lonely));
  out.narrow = await tried(() => oauth.genericGrantRequest(signed, grant('token-exchange'), {
    subject_token: out.refresh.access_token, subject_token_type: type('access_token'), requested_token_type: type('access_token'), scope: SCOPE,
  }));
  out.introspection = await tried(() => oauth.tokenIntrospection(gateway, out.narrow.access_token));
  out.revocation = await tried(() => oauth.tokenRevocation(signed, out.narrow.access_token).then(() => 'revoked'));
  out.revoked = await tried(() => oauth.tokenIntrospection(gateway, out.narrow.access_token));
  out.logout = await tried(() => oauth.tokenRevocation(cli, out.device.refresh_token, { token_type_hint: 'refresh_token' }).then(() => 'revoked'));
  out.logged_out = await tried(() => oauth.refreshTokenGrant(post, out.refresh_device.refresh_token));
  out.wrong_secret = await tried(() => oauth.clientCredentialsGrant(wrong));
  out.wrong_scope = await tried(() => oauth.refreshTokenGrant(basic, out.refresh.refresh_token, { scope: 'chat:other' }));
  return out;
}

console.log(JSON.stringify(await (BEGUN ? finish(JSON.parse(BEGUN)) : begin())));
