// How oauth4webapi, which holds each answer to its RFC, fares with the
// authorization server ISSUER. Its runs and its environment are those of
// openid-client.mjs; RESOURCE_AUDIENCE is whom the tokens are for, as which it
// validates one (RFC 9068).
import * as oauth from 'oauth4webapi';

const { ISSUER, CLI, REDIRECT_URI, PROVIDER, BEGUN, BACK, SCOPE, RESOURCE_AUDIENCE } = process.env;
const json = (name) => JSON.parse(process.env[name] ?? 'null');
const grant = (name) => `urn:ietf:params:oauth:grant-type:${name}`;
const type = (name) => `urn:ietf:params:oauth:token-type:${name}`;
const insecure = { [oauth.allowInsecureRequests]: true };

async function discover(algorithm) {
  const issuer = new URL(ISSUER);
  return oauth.processDiscoveryResponse(issuer, await oauth.discoveryRequest(issuer, { algorithm, ...insecure }));
}

async function tried(step) {
  try {
    return await step();
  } catch (err) {
    const { name, code, status, error, error_description, cause } = err;
    if (name === 'TypeError') throw err;
    const challenge = Array.isArray(cause) ? cause[0]?.scheme : undefined;
    return { error: error ?? code ?? name, status, challenge, description: error_description ?? String(err.message) };
  }
}

async function begin() {
  const as = await discover('oauth2');
  const code_verifier = oauth.generateRandomCodeVerifier();
  const state = oauth.generateRandomState();
  const url = new URL(as.authorization_endpoint);
  for (const [name, value] of Object.entries({
    client_id: CLI, redirect_uri: REDIRECT_URI, response_type: 'code', state, provider: PROVIDER,
    code_challenge: await oauth.calculatePKCECodeChallenge(code_verifier), code_challenge_method: 'S256',
  })) url.searchParams.set(name, value);
  const cli = { client_id: CLI };
  const device = await oauth.processDeviceAuthorizationResponse(as, cli, await oauth.deviceAuthorizationRequest(as, cli, oauth.None(), {}, insecure));
  const early = await tried(async () => oauth.processDeviceCodeResponse(as, cli, await oauth.deviceCodeGrantRequest(as, cli, oauth.None(), device.device_code, insecure)));
  return { authorization_url: url.href, state, code_verifier, device, early };
}

async function finish({ state, code_verifier, device }) {
  const as = await discover('oidc');
  const cli = { client_id: CLI };
  const { id, secret } = json('KEY');
  const key = { client_id: id };
  const alone = json('ALONE');
  const { id: signedID, jwk } = json('SIGNED');
  const signer = { client_id: signedID };
  const privateKey = await crypto.subtle.importKey('jwk', jwk, { name: 'ECDSA', namedCurve: 'P-256' }, false, ['sign']);
  const signs = oauth.PrivateKeyJwt({ key: privateKey, kid: jwk.kid });
  const verifier = json('VERIFIER');
  const gateway = { client_id: verifier.id };
  const basic = oauth.ClientSecretBasic(secret);
  const post = oauth.ClientSecretPost(secret);
  const identities = json('IDENTITIES');
  const generic = async (client, auth, name, parameters) => oauth.processGenericTokenEndpointResponse(as, client,
    await oauth.genericTokenEndpointRequest(as, client, auth, name, new URLSearchParams(parameters), insecure));
  const introspect = async (token) => oauth.processIntrospectionResponse(as, gateway,
    await oauth.introspectionRequest(as, gateway, oauth.ClientSecretPost(verifier.secret), token, insecure));

  const out = { server: as };
  out.login = await tried(async () => {
    const parameters = oauth.validateAuthResponse(as, cli, new URL(BACK), state);
    return oauth.processAuthorizationCodeResponse(as, cli,
      await oauth.authorizationCodeGrantRequest(as, cli, oauth.None(), parameters, REDIRECT_URI, code_verifier, insecure));
  });
  out.device = await tried(async () => oauth.processDeviceCodeResponse(as, cli,
    await oauth.deviceCodeGrantRequest(as, cli, oauth.None(), device.device_code, insecure)));
  const refresh = (auth, token, parameters = {}) => tried(async () => oauth.processRefreshTokenResponse(as, key,
    await oauth.refreshTokenGrantRequest(as, key, auth, token, { additionalParameters: new URLSearchParams(parameters), ...insecure })));
  out.refresh = await refresh(basic, out.login.refresh_token);
  out.refresh_device = await refresh(post, out.device.refresh_token, { scope: SCOPE });
  out.exchange = await tried(() => generic(key, basic, grant('token-exchange'), {
    subject_token: identities.pop(), subject_token_type: type('id_token'), scope: SCOPE, audience: RESOURCE_AUDIENCE,
  }));
  out.bearer = await tried(() => generic(signer, signs, grant('jwt-bearer'), { assertion: identities.pop() }));
  out.beside = await tried(() => generic(key, basic, 'client_credentials', {
    client_assertion: identities.pop(), client_assertion_type: 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer',
  }));
  out.alone = await tried(async () => oauth.processClientCredentialsResponse(as, { client_id: alone.id },
    await oauth.clientCredentialsGrantRequest(as, { client_id: alone.id }, oauth.ClientSecretBasic(alone.secret), {}, insecure)));
  out.narrow = await tried(() => generic(signer, signs, grant('token-exchange'), {
    subject_token: out.refresh.access_token, subject_token_type: type('access_token'), scope: SCOPE,
  }));
  out.resource = await tried(() => oauth.validateJwtAccessToken(as, new Request('http://127.0.0.1/', {
    headers: { authorization: `Bearer ${out.narrow.access_token}` },
  }), RESOURCE_AUDIENCE, insecure));
  out.introspection = await tried(() => introspect(out.narrow.access_token));
  out.revocation = await tried(async () => {
    await oauth.processRevocationResponse(await oauth.revocationRequest(as, signer, signs, out.narrow.access_token, insecure));
    return 'revoked';
  });
  out.revoked = await tried(() => introspect(out.narrow.access_token));
  out.logout = await tried(async () => {
    await oauth.processRevocationResponse(await oauth.revocationRequest(as, cli, oauth.None(), out.device.refresh_token, insecure));
    return 'revoked';
  });
  out.logged_out = await refresh(post, out.refresh_device.refresh_token);
  out.wrong_secret = await tried(() => generic(key, oauth.ClientSecretBasic(`${secret}x`), 'client_credentials', {}));
  out.wrong_scope = await refresh(basic, out.refresh.refresh_token, { scope: 'chat:other' });
  return out;
}

console.log(JSON.stringify(await (BEGUN ? finish(JSON.parse(BEGUN)) : begin())));
