package toymodel

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"net/http"
	"strings"
)

// Bounds of an embedding request.
const (
	defaultDimensions = 16
	maxDimensions     = 1024
	maxInputs         = 2048
)

// embeddings answers POST /v1/embeddings.
func (s *server) embeddings(w http.ResponseWriter, r *http.Request) error {
	var req struct {
		Model          string `json:"model"`
		Input          inputs `json:"input"`
		EncodingFormat string `json:"encoding_format"`
		Dimensions     *int   `json:"dimensions"`
	}
	if _, err := decode(w, r, &req); err != nil {
		return err
	}
	if err := s.serves(req.Model); err != nil {
		return err
	}
	size := defaultDimensions
	if req.Dimensions != nil {
		size = *req.Dimensions
	}
	switch {
	case len(req.Input) == 0 || len(req.Input) > maxInputs:
		return refuse(http.StatusBadRequest, "bad_input", "There must be 1 to %d inputs.", maxInputs)
	case size < 1 || size > maxDimensions:
		return refuse(http.StatusBadRequest, "bad_dimensions", "The dimensions must be 1 to %d.", maxDimensions)
	case req.EncodingFormat != "" && req.EncodingFormat != "float" && req.EncodingFormat != "base64":
		return refuse(http.StatusBadRequest, "bad_encoding_format", "The encoding format must be float or base64.")
	}
	var list []object
	spent := 0
	for i, input := range req.Input {
		spent += input.count()
		v := embed(input, size)
		var shown any = v
		if req.EncodingFormat == "base64" { // Little-endian float32, as the SDKs unpack it.
			packed, _ := binary.Append(nil, binary.LittleEndian, v) // Never fails on floats.
			shown = base64.StdEncoding.EncodeToString(packed)
		}
		list = append(list, object{"object": "embedding", "index": i, "embedding": shown})
	}
	reply(w, http.StatusOK, object{
		"object": "list", "model": req.Model, "data": list,
		"usage": object{"prompt_tokens": spent, "total_tokens": spent},
	})
	return nil
}

// embed adds up a direction for every word, so that texts which share words lie
// near each other, and returns the unit vector.
func embed(t text, size int) []float32 {
	sum := make([]float64, size)
	for _, word := range strings.Fields(strings.ToLower(string(t))) {
		seed := fnv.New64a()
		seed.Write([]byte(word))
		axes := rand.New(rand.NewPCG(seed.Sum64(), 0)) //nolint:gosec // Not for secrets: the same for ever, for the same word.
		for i := range sum {
			sum[i] += 2*axes.Float64() - 1
		}
	}
	length := 0.0
	for _, x := range sum {
		length += x * x
	}
	v := make([]float32, size)
	for i, x := range sum {
		if length > 0 {
			v[i] = float32(x / math.Sqrt(length))
		}
	}
	return v
}

// inputs is what to embed: a text, a list of texts, one text's token ids, or a
// list of these.
type inputs []text

func (in *inputs) UnmarshalJSON(raw []byte) error {
	var ids []int
	var one string
	if json.Unmarshal(raw, &ids) == nil || json.Unmarshal(raw, &one) == nil {
		var whole text
		if err := whole.UnmarshalJSON(raw); err != nil || whole == "" {
			return err
		}
		*in = inputs{whole}
		return nil
	}
	return json.Unmarshal(raw, (*[]text)(in))
}
