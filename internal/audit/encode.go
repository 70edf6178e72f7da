package audit

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/hourpass/hourpass/internal/strictjson"
)

// appendRecord appends r as encoding/json would write it, without the first
// brace: the writer puts the line's number and the hash there. By hand, because
// it stands in the way of every answer.
func appendRecord(b []byte, r *Record) ([]byte, error) {
	if strings.HasPrefix(r.Event, logEvents) {
		return nil, errors.New("its event is one of the log's own")
	}
	if math.IsNaN(r.Millis) || math.IsInf(r.Millis, 0) {
		return nil, errors.New("its latency is no number")
	}
	b, err := appendTime(b, r.Time)
	if err != nil {
		return nil, err
	}
	b = appendText(b, `,"decision_id":`, r.Decision)
	b = appendText(b, `,"event":`, r.Event)
	b = appendText(b, `,"outcome":`, r.Outcome)
	b = appendSome(b, `,"reason":`, r.Reason)
	b = appendSome(b, `,"detail":`, r.Detail)
	b = appendSome(b, `,"key_id":`, r.Key)
	b = appendSome(b, `,"identity":`, r.Identity)
	b = appendSome(b, `,"act":`, r.Actor)
	b = appendSome(b, `,"team":`, r.Team)
	b = appendSome(b, `,"grant":`, r.Grant)
	b = appendSome(b, `,"scope":`, r.Scope)
	b = appendSome(b, `,"jti":`, r.Token)
	b = appendInt(b, `,"exp":`, r.Expires)
	b = appendPolicies(b, r.Policies)
	if r.Generation != 0 {
		b = append(b, `,"generation":`...)
		b = strconv.AppendUint(b, r.Generation, 10)
	}
	b = appendSome(b, `,"route":`, r.Route)
	b = appendSome(b, `,"action":`, r.Action)
	b = appendSome(b, `,"model":`, r.Model)
	b = appendSome(b, `,"upstream":`, r.Upstream)
	b = appendInt(b, `,"upstream_status":`, int64(r.UpstreamStatus))
	b = appendInt(b, `,"status":`, int64(r.Status))
	b = appendInt(b, `,"bytes":`, r.Bytes)
	b = appendMillis(b, r.Millis)
	b = appendSome(b, `,"client_ip":`, r.ClientIP)
	b = appendInt(b, `,"input_tokens":`, r.Input)
	b = appendInt(b, `,"output_tokens":`, r.Output)
	b = appendInt(b, `,"cached_tokens":`, r.Cached)
	b = appendSome(b, `,"usage_source":`, r.Usage)
	b = appendChange(b, r.Change)
	return append(b, '}', '\n'), nil
}

func appendTime(b []byte, t time.Time) ([]byte, error) {
	t = t.UTC()
	if y := t.Year(); y < 0 || y > 9999 {
		return nil, fmt.Errorf("its year is %d", y)
	}
	b = append(b, `"time":"`...)
	b = t.AppendFormat(b, time.RFC3339Nano)
	return append(b, '"'), nil
}

func appendText(b []byte, name, s string) []byte {
	return strictjson.AppendText(append(b, name...), cut(s, MaxText))
}

func appendSome(b []byte, name, s string) []byte {
	if s == "" {
		return b
	}
	return appendText(b, name, s)
}

func appendInt(b []byte, name string, n int64) []byte {
	if n == 0 {
		return b
	}
	return strconv.AppendInt(append(b, name...), n, 10)
}

func appendMillis(b []byte, ms float64) []byte {
	if ms == 0 {
		return b
	}
	format := byte('f')
	if abs := math.Abs(ms); abs < 1e-6 || abs >= 1e21 {
		format = 'e'
	}
	return strconv.AppendFloat(append(b, `,"latency_ms":`...), ms, format, -1, 64)
}

func appendPolicies(b []byte, ids []string) []byte {
	if len(ids) == 0 {
		return b
	}
	b = append(b, `,"policies":`...)
	separator := byte('[')
	for i, id := range ids {
		if i == MaxPolicies {
			id = ellipsis
		}
		b = strictjson.AppendText(append(b, separator), cut(id, maxShort))
		if separator = ','; i == MaxPolicies {
			break
		}
	}
	return append(b, ']')
}

// appendChange writes the members in the order of their names, so that equal
// changes are equal lines. A name is never so long that cutting it could make two
// of one.
func appendChange(b []byte, change map[string]string) []byte {
	if len(change) == 0 {
		return b
	}
	b = append(b, `,"change":`...)
	separator := byte('{')
	names := slices.Sorted(maps.Keys(change))
	written := 0
	for _, name := range names {
		if written == MaxChange {
			break
		}
		if len(name) > maxShort || !utf8.ValidString(name) || name == ellipsis {
			continue
		}
		b = strictjson.AppendText(append(b, separator), name)
		b = strictjson.AppendText(append(b, ':'), cut(change[name], maxValue))
		separator = ','
		written++
	}
	if left := len(names) - written; left > 0 {
		b = append(b, separator)
		b = append(b, `"`+ellipsis+`":"`...)
		b = strconv.AppendInt(b, int64(left), 10)
		b = append(b, ` more"`...)
	}
	return append(b, '}')
}

const ellipsis = "…"

// cut returns s, or the beginning of it and an ellipsis, limit bytes at most.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	end := limit - len(ellipsis)
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + ellipsis
}
