-- +goose Up
-- What is spent of budgets, and what was spent by whom.

-- A budget within one window.
CREATE TABLE ledger_accounts (
    name  TEXT PRIMARY KEY,
    spent BIGINT NOT NULL,
    ends  BIGINT NOT NULL                 -- 0: never
);
CREATE INDEX ledger_accounts_end ON ledger_accounts (ends);

-- What one verifier has in hand of it.
CREATE TABLE ledger_leases (
    account TEXT NOT NULL,
    holder  TEXT NOT NULL,
    spent   BIGINT NOT NULL,              -- as it told last; it only grows
    hold    BIGINT NOT NULL,
    until   BIGINT NOT NULL,              -- milliseconds
    PRIMARY KEY (account, holder)
);
CREATE INDEX ledger_leases_until ON ledger_leases (until);

-- What calls cost, by the hour.
CREATE TABLE usage (
    hour          BIGINT NOT NULL,
    key_id        TEXT NOT NULL,
    identity      TEXT NOT NULL,
    model         TEXT NOT NULL,          -- '' for calls to none
    team          TEXT NOT NULL,          -- of the key, at its last call of the hour
    grant_name    TEXT NOT NULL,
    requests      BIGINT NOT NULL,
    input_tokens  BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    cached_tokens BIGINT NOT NULL,        -- within input_tokens
    unreported    BIGINT NOT NULL,        -- requests whose tokens were counted or estimated
    PRIMARY KEY (key_id, hour, identity, model)
);
-- Holds all that is added up, so that a question about a day reads nothing else.
CREATE INDEX usage_hour ON usage (hour, key_id, identity, model, team, grant_name, requests, input_tokens, output_tokens, cached_tokens, unreported);
CREATE INDEX usage_identity ON usage (identity, hour);
CREATE INDEX usage_team ON usage (team, hour);

-- Which batch of each verifier was taken last, so that none counts twice.
CREATE TABLE usage_batches (
    holder  TEXT PRIMARY KEY,
    seq     BIGINT NOT NULL,
    lost    BIGINT NOT NULL,              -- requests that found no room in its spool
    seen_at BIGINT NOT NULL
);

-- Keys that were let go again after they had spent too much: what they spent then
-- is not too much for a while.
CREATE TABLE watch_pardons (
    key_id TEXT PRIMARY KEY,
    rate   BIGINT NOT NULL,               -- tokens an hour
    until  BIGINT NOT NULL
);
