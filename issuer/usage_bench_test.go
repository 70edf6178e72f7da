package issuer_test

import (
	"database/sql"
	"fmt"
	"testing"
	"time"

	"github.com/hourpass/hourpass/internal/store"
	"github.com/hourpass/hourpass/internal/store/storetest"
	"github.com/hourpass/hourpass/issuer"
)

// BenchmarkUsage asks about a day in which 10,000 keys were used in each of its 24
// hours.
func BenchmarkUsage(b *testing.B) {
	const keys, hours = 10_000, 24
	start := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	for name, open := range map[string]func(testing.TB) storetest.Store{"sqlite": storetest.SQLite, "postgres": storetest.Postgres} {
		db := open(b).DB
		err := store.Tx(b.Context(), db, func(tx *sql.Tx) error {
			for k := range keys {
				for h := range hours {
					_, err := tx.ExecContext(b.Context(), `INSERT INTO usage (hour, key_id, identity, model, team, grant_name, requests, input_tokens, output_tokens, cached_tokens, unreported)
						VALUES ($1, $2, $3, $4, $5, 'faq', 10, 1000, 500, 0, 0)`,
						start.Add(time.Duration(h)*time.Hour).Unix(), fmt.Sprintf("key%013d", k), fmt.Sprint("corp:", k%3000), fmt.Sprint("model-", k%20), fmt.Sprint("team-", k%50))
					if err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
		for _, q := range []struct {
			name string
			by   []string
			only map[string]string
			want int
		}{
			{"by key", []string{"key"}, nil, keys},
			{"by team and model", []string{"team", "model"}, nil, 100},
			{"by hour", []string{"hour"}, nil, hours},
			{"one key by hour", []string{"hour"}, map[string]string{"key": "key0000000000042"}, hours},
		} {
			b.Run(name+"/"+q.name, func(b *testing.B) {
				for b.Loop() {
					n, err := issuer.QueryUsage(b.Context(), db, start, start.Add(24*time.Hour), q.by, q.only, "")
					if err != nil || n != q.want {
						b.Fatal(n, err)
					}
				}
			})
		}
	}
}
