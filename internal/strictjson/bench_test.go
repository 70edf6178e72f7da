package strictjson_test

import (
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/hourpass/hourpass/internal/strictjson"
)

// chat is a conversation of about that many bytes: turns of a sentence or two,
// with the escapes, names and numbers that go with it.
func chat(size int) []byte {
	const turn = `{"role":"user","content":"How many days of leave are there in a year?\nAnd who \"approves\" them – my manager?"},` +
		`{"role":"assistant","content":"There are thirty.\n\n* Your manager approves them.\n* Übertrag: until March."},`
	head := `{"model":"faq-bot","stream":true,"temperature":0.7,"max_tokens":1024,"messages":[`
	turns := strings.Repeat(turn, (size-len(head))/len(turn))
	return []byte(head + strings.TrimSuffix(turns, ",") + `]}`)
}

// BenchmarkScan beside the strict parser that comes with Go 1.27, which only
// says whether a document is valid and returns no members.
func BenchmarkScan(b *testing.B) {
	for _, body := range []struct {
		name string
		doc  []byte
	}{
		{"chat_2KB", chat(2_000)},
		{"chat_100KB", chat(100_000)},
		{"one_prompt_100KB", []byte(`{"model":"faq-bot","prompt":"` + strings.Repeat("word ", 20_000) + `"}`)},
		{"token_ids_100KB", []byte(`{"model":"faq-bot","prompt":[` + strings.Repeat("50256,", 16_600) + `0]}`)},
		{"hostile_17_names_100KB", []byte(`{"a":[` + strings.Repeat(numbers(17)+",", 760) + `0]}`)},
		{"hostile_one_object_100KB", []byte(numbers(11_000))},
	} {
		b.Run(body.name+"/ours", func(b *testing.B) {
			b.SetBytes(int64(len(body.doc)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := strictjson.Object(body.doc, strictjson.Limits{}); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(body.name+"/jsontext", func(b *testing.B) {
			b.SetBytes(int64(len(body.doc)))
			b.ReportAllocs()
			for b.Loop() {
				if !jsontext.Value(body.doc).IsValid() {
					b.Fatal("not valid")
				}
			}
		})
	}
}
