package body_test

import (
	"strings"
	"testing"

	"github.com/hourpass/hourpass/internal/token"
	"github.com/hourpass/hourpass/verifier/internal/body"
)

var chatBody = []byte(`{"model":"small","messages":[{"role":"user","content":"` +
	strings.Repeat("What is the capital of France? ", 29) + `"}],"temperature":0.7,"max_tokens":100,"stream":true,"user":"ada"}`)

// BenchmarkChat is the body of a chat call of 1 KiB, read and written anew.
func BenchmarkChat(b *testing.B) {
	rules := membersOf(b, "POST", "/v1/chat/completions")
	for _, row := range []struct {
		name   string
		bounds body.Bounds
	}{
		{"without bounds", body.Bounds{}},
		{"within bounds", body.Bounds{Params: token.Params{Bounds: map[string]token.Range{"max_tokens": {Max: 200}, "n": {Max: 1}}}}},
	} {
		b.Run(row.name, func(b *testing.B) {
			b.SetBytes(int64(len(chatBody)))
			b.ReportAllocs()
			for b.Loop() {
				d, err := body.Parse(chatBody, rules)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := d.Write("small", row.bounds); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
