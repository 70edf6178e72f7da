// Package redisledger keeps the ledger of budgets in Redis or Valkey, version 6 or
// later, alone or as a cluster: one hash for each account, changed by a script on
// the server and by its clock. Start with [Open].
package redisledger

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/hourpass/hourpass/internal/ledger"
)

// Config says where the server is.
type Config struct {
	// URL is redis://, or rediss:// for TLS, with user and password if need be:
	// rediss://user:password@host:6379. Of a cluster, one node is enough.
	URL string

	// Password is instead of one in the URL.
	Password string

	// CA is a PEM file with the only authorities that may vouch for the server.
	// Empty: the system's.
	CA string

	// Prefix stands before the names of keys. Empty means "hourpass:ledger:".
	Prefix string
}

// How long a server may take, before it counts as lost.
const (
	dialTimeout  = time.Second
	writeTimeout = time.Second
)

// Ledger is a [ledger.Engine] and a [ledger.Book].
type Ledger struct {
	client rueidis.Client
	prefix string
}

// Open connects. Errors hold no password.
func Open(c Config) (*Ledger, error) {
	o, err := rueidis.ParseURL(c.URL)
	if err != nil {
		return nil, errors.New("opening the ledger: want a URL such as rediss://user@host:6379")
	}
	if c.Password != "" {
		o.Password = c.Password
	}
	if c.CA != "" {
		if o.TLSConfig == nil {
			return nil, errors.New("opening the ledger: an authority is of no use without rediss://")
		}
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, fmt.Errorf("opening the ledger: %w", err)
		}
		o.TLSConfig.RootCAs = x509.NewCertPool()
		if !o.TLSConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("opening the ledger: %s holds no certificate", c.CA)
		}
	}
	if o.TLSConfig != nil {
		o.TLSConfig.MinVersion = tls.VersionTLS12
	}
	o.Dialer = net.Dialer{Timeout: dialTimeout}
	o.ConnWriteTimeout = writeTimeout
	o.DisableCache = true
	client, err := rueidis.NewClient(o)
	if err != nil {
		return nil, fmt.Errorf("opening the ledger: %w", err)
	}
	l := &Ledger{client: client, prefix: c.Prefix}
	if l.prefix == "" {
		l.prefix = "hourpass:ledger:"
	}
	return l, nil
}

// Close ends the connections.
func (l *Ledger) Close() { l.client.Close() }

// sum is what all holders but one have in hand. The hash holds s, what is spent
// by all, and of each holder "p" what it has told, "h" what it has in hand and "u"
// until when, in milliseconds.
const sum = `
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local all, spent, holders = {}, 0, 0
local flat = redis.call('HGETALL', KEYS[1])
for i = 1, #flat, 2 do all[flat[i]] = flat[i + 1] end
if all['s'] then spent = tonumber(all['s']) end
local held = 0
for field, until_ in pairs(all) do
  if string.sub(field, 1, 1) == 'u' then
    holders = holders + 1
    local name = string.sub(field, 2)
    if name ~= ARGV[1] then
      if tonumber(until_) > now then
        held = held + tonumber(all['h' .. name])
      elseif spent == 0 and tonumber(until_) + tonumber(ARGV[2]) < now then
        redis.call('HDEL', KEYS[1], 'u' .. name, 'h' .. name, 'p' .. name)
      end
    end
  end
end
`

// sync is [ledger.Hold] on the server.
var sync = rueidis.NewLuaScript(sum + `
local me, limit, told, need, want = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
if not all['u' .. me] and holders >= tonumber(ARGV[9]) then return redis.error_reply('HOLDERS') end
local before = tonumber(all['p' .. me] or '0')
spent = spent + math.max(0, told - before)
local left = math.max(0, limit - spent - held)
local hold = math.min(left, math.max(need, math.min(want, math.floor(left / tonumber(ARGV[10])))))
local function text(n) return string.format('%.0f', n) end
redis.call('HSET', KEYS[1], 's', text(spent), 'p' .. me, text(math.max(before, told)), 'h' .. me, text(hold), 'u' .. me, text(now + tonumber(ARGV[7])))
if ARGV[8] == '0' then redis.call('PEXPIRE', KEYS[1], ARGV[2]) else redis.call('PEXPIREAT', KEYS[1], ARGV[8]) end
return {text(hold), text(spent), text(held)}
`)

// read is what [Ledger.Balances] asks.
var read = rueidis.NewLuaScript(sum + `
return {string.format('%.0f', spent), string.format('%.0f', held)}
`)

// key is one slot's in a cluster.
func (l *Ledger) key(account string) string { return l.prefix + "{" + account + "}" }

func number[T int | int64](n T) string { return strconv.FormatInt(int64(n), 10) }

// Sync is as [ledger.Engine] says. Each claim is a transaction of its own.
func (l *Ledger) Sync(ctx context.Context, holder string, lease time.Duration, claims []ledger.Claim) ([]ledger.Share, error) {
	if err := ledger.Check(holder, lease, claims); err != nil {
		return nil, err
	}
	execs := make([]rueidis.LuaExec, len(claims))
	for i := range claims {
		c := &claims[i]
		expires := int64(0)
		if !c.Ends.IsZero() {
			expires = c.Ends.Add(ledger.ForgetAfter).UnixMilli()
		}
		execs[i] = rueidis.LuaExec{Keys: []string{l.key(c.Account)}, Args: []string{
			holder, number(ledger.ForgetAfter.Milliseconds()), number(c.Limit), number(c.Spent), number(c.Need), number(c.Want),
			number(lease.Milliseconds()), number(expires), number(ledger.MaxHolders), number(ledger.ShareOf),
		}}
	}
	shares := make([]ledger.Share, len(claims))
	err := l.numbers(ctx, sync, execs, func(i int, n []int64) { shares[i] = ledger.Share{Hold: n[0], Spent: n[1], Held: n[2]} }, 3)
	if err != nil {
		return nil, err
	}
	return shares, nil
}

// Balances is as [ledger.Book] says.
func (l *Ledger) Balances(ctx context.Context, accounts []string) ([]ledger.Balance, error) {
	execs := make([]rueidis.LuaExec, len(accounts))
	for i, account := range accounts {
		execs[i] = rueidis.LuaExec{Keys: []string{l.key(account)}, Args: []string{"", number(ledger.ForgetAfter.Milliseconds())}}
	}
	balances := make([]ledger.Balance, len(accounts))
	err := l.numbers(ctx, read, execs, func(i int, n []int64) { balances[i] = ledger.Balance{Spent: n[0], Held: n[1]} }, 2)
	if err != nil {
		return nil, err
	}
	return balances, nil
}

// numbers runs a script for each of execs, all on their way at once, and takes
// the numbers that it returns.
func (l *Ledger) numbers(ctx context.Context, script *rueidis.Lua, execs []rueidis.LuaExec, take func(i int, n []int64), want int) error {
	for i, r := range script.ExecMulti(ctx, l.client, execs...) {
		texts, err := r.AsStrSlice()
		if refused, ok := rueidis.IsRedisErr(err); ok && refused.Error() == "HOLDERS" {
			return fmt.Errorf("%w: the account has too many holders", ledger.ErrClaim)
		}
		if err != nil {
			return fmt.Errorf("asking the ledger: %w", err)
		}
		if len(texts) != want {
			return fmt.Errorf("asking the ledger: it answers %d numbers, not %d", len(texts), want)
		}
		n := make([]int64, want)
		for j, text := range texts {
			if n[j], err = strconv.ParseInt(text, 10, 64); err != nil {
				return fmt.Errorf("asking the ledger: %w", err)
			}
		}
		take(i, n)
	}
	return nil
}
