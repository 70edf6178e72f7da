package toymodel_test

import (
	"encoding/base64"
	"encoding/binary"
	"math"
	"net/http"
	"strings"
	"testing"

	"github.com/openai/openai-go/v3"
)

func TestEmbeddings(t *testing.T) {
	client, _ := start(t)
	embed := func(format openai.EmbeddingNewParamsEncodingFormat, texts ...string) *openai.CreateEmbeddingResponse {
		t.Helper()
		got, err := client.Embeddings.New(t.Context(), openai.EmbeddingNewParams{
			Model: model, Input: openai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: texts}, EncodingFormat: format,
		})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	got := embed(openai.EmbeddingNewParamsEncodingFormatFloat, "holiday rules", "rules of holiday", "gearbox oil")
	if len(got.Data) != 3 || got.Usage.PromptTokens != 7 || got.Data[2].Index != 2 || len(got.Data[0].Embedding) != 16 {
		t.Fatalf("embeddings = %s", got.RawJSON())
	}
	near, far := dot(got.Data[0].Embedding, got.Data[1].Embedding), dot(got.Data[0].Embedding, got.Data[2].Embedding)
	if near <= far || math.Abs(dot(got.Data[0].Embedding, got.Data[0].Embedding)-1) > 1e-6 {
		t.Errorf("nearness of alike = %v, of unlike = %v, want unit vectors and alike nearer", near, far)
	}

	packed := embed(openai.EmbeddingNewParamsEncodingFormatBase64, "holiday rules")
	raw, err := base64.StdEncoding.DecodeString(strings.Trim(packed.Data[0].JSON.Embedding.Raw(), `"`))
	if err != nil {
		t.Fatal(err)
	}
	floats := make([]float32, len(raw)/4)
	if _, err := binary.Decode(raw, binary.LittleEndian, floats); err != nil {
		t.Fatal(err)
	}
	for i, f := range floats {
		if f != float32(got.Data[0].Embedding[i]) {
			t.Errorf("base64[%d] = %v, float = %v", i, f, got.Data[0].Embedding[i])
		}
	}
	if len(floats) != 16 {
		t.Errorf("base64 holds %d floats, want 16", len(floats))
	}
}

// TestEmbeddingInputs counts the inputs of every shape that the API knows.
func TestEmbeddingInputs(t *testing.T) {
	_, url := start(t)
	for _, test := range []struct {
		input       string
		status      int
		count, used string
	}{
		{`"a b c"`, http.StatusOK, `"index":0`, `"prompt_tokens":3`},
		{`["a","b c"]`, http.StatusOK, `"index":1`, `"prompt_tokens":3`},
		{`[1,2,3]`, http.StatusOK, `"index":0`, `"prompt_tokens":3`},
		{`[[1,2],[3]]`, http.StatusOK, `"index":1`, `"prompt_tokens":3`},
		{`[]`, http.StatusBadRequest, "bad_input", ""},
		{`""`, http.StatusBadRequest, "bad_input", ""},
		{`null`, http.StatusBadRequest, "bad_input", ""},
		{`7`, http.StatusBadRequest, "invalid_json", ""},
	} {
		status, body := post(t, url+"/v1/embeddings", `{"model":"faq-bot","dimensions":2,"input":`+test.input+`}`)
		if status != test.status || !strings.Contains(body, test.count) || !strings.Contains(body, test.used) {
			t.Errorf("input %s: %d %s, want %d, %s, %s", test.input, status, body, test.status, test.count, test.used)
		}
	}
}

func dot(a, b []float64) (sum float64) {
	for i := range a {
		sum += a[i] * b[i]
	}
	return sum
}
