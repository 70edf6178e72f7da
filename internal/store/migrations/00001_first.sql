-- +goose Up
-- Times are Unix seconds. Lists are JSON. Secrets are only ever stored as a keyed hash or sealed.

CREATE TABLE machine_keys (
    id           TEXT PRIMARY KEY,
    owner        TEXT NOT NULL,
    team         TEXT NOT NULL,
    description  TEXT NOT NULL,
    grants       TEXT NOT NULL,
    bindings     TEXT NOT NULL,
    identity     TEXT NOT NULL CHECK (identity IN ('required', 'none')),
    ip_ranges    TEXT NOT NULL,           -- 'null' inherits, '[]' allows none
    limits       TEXT NOT NULL,           -- 'null' inherits
    params       TEXT NOT NULL,           -- 'null' inherits
    verifier_for TEXT NOT NULL,
    jwks         TEXT NOT NULL,           -- public keys in place of secrets; '' where there are none
    state        TEXT NOT NULL CHECK (state IN ('active', 'disabled', 'quarantined', 'revoked', 'deleted')),
    state_reason TEXT NOT NULL,
    state_by     TEXT NOT NULL,           -- who put it into that state
    created_at   BIGINT NOT NULL,
    expires_at   BIGINT NOT NULL,
    rotate_after BIGINT NOT NULL,
    version      BIGINT NOT NULL,
    mac          BYTEA NOT NULL           -- HMAC-SHA-256 of the row and its secrets under the pepper
);
CREATE INDEX machine_keys_created ON machine_keys (created_at, id);
CREATE INDEX machine_keys_owner ON machine_keys (owner, created_at, id);

CREATE TABLE machine_key_secrets (
    key_id         TEXT NOT NULL REFERENCES machine_keys (id),
    number         BIGINT NOT NULL,
    mac            BYTEA NOT NULL,        -- HMAC-SHA-256 under the pepper
    created_at     BIGINT NOT NULL,
    ends_at        BIGINT NOT NULL,       -- 0: with the key
    last_used_at   BIGINT NOT NULL,       -- 0: never
    last_used_from TEXT NOT NULL,
    PRIMARY KEY (key_id, number)
);

-- A browser login on its way: from /authorize to the identity provider and back.
CREATE TABLE logins (
    state_mac  BYTEA PRIMARY KEY,
    sealed     BYTEA NOT NULL,            -- nonce, PKCE verifier and what the client asked for
    expires_at BIGINT NOT NULL
);
CREATE INDEX logins_end ON logins (expires_at);

-- A device that asks for a login (RFC 8628).
CREATE TABLE device_logins (
    device_mac BYTEA PRIMARY KEY,
    user_mac   BYTEA NOT NULL UNIQUE,
    sealed     BYTEA NOT NULL,            -- where the request came from; later, who confirms it
    state      TEXT NOT NULL CHECK (state IN ('pending', 'denied', 'approved', 'used')),
    session_id TEXT NOT NULL,
    polled_at  BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX device_logins_end ON device_logins (expires_at);

-- A finished login of a person; its refresh token rotates at each use.
CREATE TABLE sessions (
    id             TEXT PRIMARY KEY,
    client_id      TEXT NOT NULL,
    identity_mac   BYTEA NOT NULL,        -- whose it is, so that all of a person's can be ended
    sealed         BYTEA NOT NULL,        -- the identity and the provider's refresh token
    code_mac       BYTEA UNIQUE,          -- the authorization code that opens it; NULL for a device's
    code_challenge TEXT NOT NULL,
    redirect_uri   TEXT NOT NULL,
    code_ends_at   BIGINT NOT NULL,
    code_used      INTEGER NOT NULL,
    access_mac     BYTEA,                 -- the login's own access token, for the issuer's API alone
    access_ends_at BIGINT NOT NULL,
    refresh_mac    BYTEA,
    previous_mac   BYTEA,                 -- the refresh token before: good again for a few seconds, then an alarm
    rotated_at     BIGINT NOT NULL,
    busy_until     BIGINT NOT NULL DEFAULT 0, -- an issuer is asking the provider, until then at most
    ends_at        BIGINT NOT NULL,
    ended          INTEGER NOT NULL
);
CREATE INDEX sessions_identity ON sessions (identity_mac);
CREATE INDEX sessions_access ON sessions (access_mac);
CREATE INDEX sessions_refresh ON sessions (refresh_mac);
CREATE INDEX sessions_previous ON sessions (previous_mac);
CREATE INDEX sessions_end ON sessions (ends_at);

-- When a provider last vouched for a person.
CREATE TABLE people (
    identity   TEXT PRIMARY KEY,
    vouched_at BIGINT NOT NULL
);

-- Identity tokens that were exchanged. Each is good for one token.
CREATE TABLE used_assertions (
    mark      BYTEA PRIMARY KEY,          -- SHA-256 of its issuer and jti, or of its signed part where it has none
    key_id    TEXT NOT NULL,
    used_at   BIGINT NOT NULL,
    request   BYTEA NOT NULL,             -- SHA-256 of what was asked for
    sealed    BYTEA NOT NULL,             -- the answer, for an honest retry
    forget_at BIGINT NOT NULL
);
CREATE INDEX used_assertions_forget ON used_assertions (forget_at);

-- What verifiers must refuse, in the order in which it was revoked.
CREATE TABLE revocations (
    generation BIGINT PRIMARY KEY,
    what       TEXT NOT NULL CHECK (what IN ('token', 'key', 'identity', 'grant', 'signing_key', 'all')),
    value      TEXT NOT NULL,             -- '' for all
    not_before BIGINT NOT NULL,           -- tokens issued before this are refused
    until      BIGINT NOT NULL,           -- by then the last of them has expired
    reason     TEXT NOT NULL
);
CREATE INDEX revocations_until ON revocations (until);

-- Numbers that only grow. To take one locks it until the transaction ends, so
-- that whoever reads a number has also seen what belongs to those before it.
CREATE TABLE counters (
    name  TEXT PRIMARY KEY,
    value BIGINT NOT NULL
);
INSERT INTO counters (name, value) VALUES ('revocations', 0);

-- Which generation of revocations each verifier says that it enforces.
CREATE TABLE verifiers (
    key_id     TEXT NOT NULL,
    name       TEXT NOT NULL,
    generation BIGINT NOT NULL,
    seen_at    BIGINT NOT NULL,
    PRIMARY KEY (key_id, name)
);

-- Notices that were sent, so that each is sent once.
CREATE TABLE notices (
    key_id  TEXT NOT NULL,
    notice  TEXT NOT NULL,
    sent_at BIGINT NOT NULL,
    PRIMARY KEY (key_id, notice)
);

-- Alerts on their way to the sinks.
CREATE TABLE alerts (
    id         TEXT PRIMARY KEY,
    body       TEXT NOT NULL,
    mac        BYTEA NOT NULL,            -- HMAC-SHA-256 of id and body: webhooks are signed, and only for events of ours
    attempts   BIGINT NOT NULL,
    due_at     BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX alerts_due ON alerts (due_at);

-- The signing keys, sealed.
CREATE TABLE signing_ring (
    id      INTEGER PRIMARY KEY,
    version BIGINT NOT NULL,
    data    BYTEA NOT NULL
);
