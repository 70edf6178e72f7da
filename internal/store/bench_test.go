package store_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hourpass/hourpass/internal/store/storetest"
)

// BenchmarkCommit is what an answer waits for whose row must be durable: one
// INSERT, committed, of one row or of a group of rows whose callers share the
// wait. cpu-µs/row is of this process alone: a PostgreSQL server has its own.
func BenchmarkCommit(b *testing.B) {
	engines := []struct {
		name string
		make func(testing.TB) storetest.Store
	}{{"sqlite", storetest.SQLite}, {"postgres", storetest.Postgres}}
	for _, engine := range engines {
		for _, rows := range []int{1, 10, 100, 1000} {
			b.Run(fmt.Sprintf("%s/rows=%d", engine.name, rows), func(b *testing.B) {
				db := engine.make(b).DB
				query := insertRows(rows)
				var n uint64
				args := make([]any, 3*rows)
				before := cpu(b)
				b.ReportAllocs()
				for b.Loop() {
					for i := range rows {
						args[3*i], args[3*i+1], args[3*i+2] = rowKey(n), make([]byte, 200), n
						n++
					}
					if _, err := db.ExecContext(b.Context(), query, args...); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64((cpu(b)-before).Nanoseconds())/1e3/float64(n), "cpu-µs/row")
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/1e3/float64(n), "µs/row")
			})
		}
	}
}

// insertRows is insertLogin for several rows.
func insertRows(rows int) string {
	var s strings.Builder
	s.WriteString(`INSERT INTO logins (state_mac, sealed, expires_at) VALUES `)
	for i := range rows {
		if i > 0 {
			s.WriteByte(',')
		}
		fmt.Fprintf(&s, "($%d,$%d,$%d)", 3*i+1, 3*i+2, 3*i+3)
	}
	return s.String()
}

// cpu is the processor time that this process has used.
func cpu(tb testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
