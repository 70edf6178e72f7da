-- +goose Up
-- One text for SQLite and PostgreSQL. Times are Unix seconds, booleans INTEGER 0 or 1, lists JSON. Secrets are only ever stored as a
-- keyed hash or sealed. To SQLite, BYTEA is a numeric column: it keeps bytes as they are, but would turn a text of digits into a number.

CREATE TABLE machine_keys (
    id              TEXT PRIMARY KEY,
    owner           TEXT NOT NULL,
    team            TEXT NOT NULL,
    description     TEXT NOT NULL,
    grants          TEXT NOT NULL,
    bindings        TEXT NOT NULL,
    ip_ranges       TEXT,                -- NULL inherits, '[]' allows none
    state           TEXT NOT NULL CHECK (state IN ('active', 'disabled', 'quarantined')),
    disabled_reason TEXT NOT NULL,
    created_at      BIGINT NOT NULL,
    expires_at      BIGINT NOT NULL,
    rotate_after    BIGINT NOT NULL,
    last_used_at    BIGINT NOT NULL      -- 0: never
);
CREATE INDEX machine_keys_owner ON machine_keys (owner, created_at);

CREATE TABLE machine_key_secrets (
    key_id     TEXT NOT NULL REFERENCES machine_keys (id),
    number     INTEGER NOT NULL CHECK (number IN (1, 2)),
    mac        BYTEA NOT NULL,            -- HMAC-SHA-256 under the pepper
    created_at BIGINT NOT NULL,
    ends_at    BIGINT NOT NULL,          -- 0: with the key
    PRIMARY KEY (key_id, number)
);

-- A browser login on its way: from /authorize to the identity provider and back.
CREATE TABLE logins (
    state_mac  BYTEA PRIMARY KEY,
    sealed     BYTEA NOT NULL,            -- nonce, PKCE verifier and what the client asked for
    expires_at BIGINT NOT NULL
);
CREATE INDEX logins_end ON logins (expires_at);

-- A finished login of a person; its refresh token rotates at each use.
CREATE TABLE sessions (
    id             TEXT PRIMARY KEY,
    client_id      TEXT NOT NULL,
    sealed         BYTEA NOT NULL,        -- the identity and the provider's refresh token
    code_mac       BYTEA NOT NULL UNIQUE, -- the authorization code that opens it
    code_challenge TEXT NOT NULL,
    redirect_uri   TEXT NOT NULL,
    code_ends_at   BIGINT NOT NULL,
    code_used      INTEGER NOT NULL,
    access_mac     BYTEA,                 -- the login's own access token, for the issuer's API alone
    access_ends_at BIGINT NOT NULL,
    refresh_mac    BYTEA,
    previous_mac   BYTEA,                 -- the refresh token before: good again for a few seconds, then an alarm
    rotated_at     BIGINT NOT NULL,
    ends_at        BIGINT NOT NULL,
    ended          INTEGER NOT NULL
);
CREATE INDEX sessions_access ON sessions (access_mac);
CREATE INDEX sessions_refresh ON sessions (refresh_mac);
CREATE INDEX sessions_previous ON sessions (previous_mac);
CREATE INDEX sessions_end ON sessions (ends_at);

-- Identity tokens that were exchanged. Each is good for one token.
CREATE TABLE used_assertions (
    issuer      TEXT NOT NULL,
    fingerprint BYTEA NOT NULL,           -- SHA-256 of its jti, or of the whole where it has none
    key_id      TEXT NOT NULL,
    used_at     BIGINT NOT NULL,
    request     BYTEA NOT NULL,           -- SHA-256 of what was asked for
    sealed      BYTEA NOT NULL,           -- the answer, for an honest retry
    forget_at   BIGINT NOT NULL,
    PRIMARY KEY (issuer, fingerprint)
);
CREATE INDEX used_assertions_forget ON used_assertions (forget_at);
