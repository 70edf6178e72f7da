// An identity provider for tests: npm oidc-provider, driven over its standard
// input and output, one JSON document a line. The first line in is the
// configuration, the first line out says where the provider listens; each
// further line in is a command and has one line out. When the input ends, so
// does the provider: nobody is left behind by a test that was killed.
import { generateKeyPairSync } from 'node:crypto';
import http from 'node:http';
import { createInterface } from 'node:readline';
import Provider, { errors, interactionPolicy } from 'oidc-provider';
import { createMemoryAdapter } from 'oidc-provider/lib/adapters/memory_adapter.js';

console.log = console.info = console.error; // standard output is for answers

const say = (answer) => process.stdout.write(`${JSON.stringify(answer)}\n`);

// An audience that is no URI travels in RFC 8707's resource parameter, which
// takes nothing else, behind this prefix.
const plainAudience = 'urn:audience:';

let config; // { clients: [metadata], accounts: { name: [group] }, ttl: seconds }
let keys = [];
let handler;
const disabled = new Set();
const adapter = createMemoryAdapter();

function newKey() {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  return { ...privateKey.export({ format: 'jwk' }), alg: 'ES256', use: 'sig' };
}

const live = (name) => Object.hasOwn(config.accounts, name) && !disabled.has(name);

function findAccount(ctx, name) {
  if (!live(name)) return undefined;
  return {
    accountId: name,
    claims: () => ({ sub: name, name, email: `${name}@example.org`, email_verified: true, groups: config.accounts[name] }),
  };
}

// Whoever is no account, or no longer, is sent back to the client with
// access_denied, whether fresh from the login page or with an old session.
function interactions() {
  const policy = interactionPolicy.base();
  policy.get('login').checks.add(new interactionPolicy.Check('account_live', 'the account must be live', (ctx) => {
    const { accountId } = ctx.oidc.session;
    if (accountId && !live(accountId)) throw new errors.AccessDenied('there is no such account');
    return interactionPolicy.Check.NO_NEED_TO_PROMPT;
  }), 0);
  return policy;
}

function newProvider(issuer) {
  const provider = new Provider(issuer, {
    adapter,
    jwks: { keys },
    clients: config.clients,
    clientDefaults: { id_token_signed_response_alg: 'ES256', require_auth_time: true },
    findAccount,
    interactions: { policy: interactions() },
    scopes: ['openid', 'offline_access'],
    claims: { openid: ['sub'], profile: ['name'], email: ['email', 'email_verified'], groups: ['groups'] },
    conformIdTokenClaims: false, // the claims of the scopes stand in the ID token, at each refresh too
    pkce: { required: () => true },
    cookies: { keys: ['only-for-tests'] },
    // oidc-provider drops offline_access unless the request says prompt=consent.
    // Other providers don't, so a client that may refresh always gets the token.
    issueRefreshToken: async (ctx, client) => client.grantTypeAllowed('refresh_token'),
    expiresWithSession: () => false,
    rotateRefreshToken: true,
    ttl: {
      AccessToken: config.ttl, ClientCredentials: config.ttl, IdToken: config.ttl,
      DeviceCode: 600, Grant: 86400, Interaction: 600, RefreshToken: 86400, Session: 86400,
    },
    features: {
      devInteractions: { enabled: true },
      backchannelLogout: { enabled: true },
      clientCredentials: { enabled: true },
      deviceFlow: { enabled: true },
      introspection: { enabled: true },
      revocation: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => undefined,
        getResourceServerInfo: (ctx, resource) => ({
          audience: resource.startsWith(plainAudience) ? decodeURIComponent(resource.slice(plainAudience.length)) : resource,
          scope: 'api',
          accessTokenTTL: config.ttl,
          accessTokenFormat: 'jwt',
          jwt: { sign: { alg: 'ES256' } },
        }),
      },
    },
  });
  for (const event of ['authorization.error', 'grant.error', 'server_error']) {
    provider.on(event, (ctx, err) => console.error(event, ctx.path, err.error ?? '', err.error_detail ?? err.stack));
  }
  return provider.callback();
}

async function start(line) {
  config = JSON.parse(line);
  keys = [newKey()];
  const server = http.createServer((req, res) => handler(req, res));
  await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
  // By name, so that for a browser it is another site than a program on
  // 127.0.0.1, as a provider is in life: SameSite=Strict cookies stay at home.
  const issuer = `http://localhost:${server.address().port}`;
  handler = newProvider(issuer);
  say({ issuer });
  return issuer;
}

const commands = {
  account: ({ name, groups }) => { config.accounts[name] = groups; },
  disable: ({ name }) => { disabled.add(name); },
  enable: ({ name }) => { disabled.delete(name); },
  rotate: ({ keepOld }, issuer) => {
    keys = [newKey(), ...(keepOld ? keys : [])];
    handler = newProvider(issuer); // the adapter keeps the sessions
  },
};

let issuer;
for await (const line of createInterface({ input: process.stdin })) {
  if (!issuer) {
    issuer = await start(line);
    continue;
  }
  const command = JSON.parse(line);
  commands[command.do](command, issuer);
  say({ done: command.do });
}
process.exit(0);
