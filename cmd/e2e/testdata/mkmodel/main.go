// mkmodel writes a tiny random-weights LLM as a GGUF (v3) file: llama
// architecture, own small SentencePiece-style vocabulary (byte fallback), a
// ChatML template.  No input file, no dependency: standard library only.
// The text it makes is gibberish made of real words; it is deterministic for
// a seed.  With -vocab FILE it takes the tokenizer of a ggml-vocab-*.gguf.
package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"math"
	"math/rand"
	"os"
	"strings"
)

const (
	tU32, tI32, tF32, tBool, tStr, tArr = 4, 5, 6, 7, 8, 9
	ggmlF32, ggmlF16                    = 0, 1
)

type kv struct {
	key string
	raw []byte // type u32 + value
}

var le = binary.LittleEndian

func u32(v uint32) []byte  { return le.AppendUint32(nil, v) }
func u64(v uint64) []byte  { return le.AppendUint64(nil, v) }
func gstr(s string) []byte { return append(u64(uint64(len(s))), s...) }

type model struct {
	kvs   []kv
	names []string
	dims  [][]uint64
	types []uint32
	data  [][]byte
	seen  map[string]bool
}

func (m *model) put(k string, typ uint32, val []byte) {
	m.kvs = append(m.kvs, kv{k, append(u32(typ), val...)})
	m.seen[k] = true
}
func (m *model) str(k, v string)         { m.put(k, tStr, gstr(v)) }
func (m *model) u32(k string, v uint32)  { m.put(k, tU32, u32(v)) }
func (m *model) f32(k string, v float32) { m.put(k, tF32, u32(math.Float32bits(v))) }
func (m *model) boolean(k string, v bool) {
	b := byte(0)
	if v {
		b = 1
	}
	m.put(k, tBool, []byte{b})
}

func (m *model) arr(k string, typ uint32, n int, body []byte) {
	b := append(u32(typ), u64(uint64(n))...)
	m.put(k, tArr, append(b, body...))
}

func f16(f float32) uint16 { // round-to-nearest, normals and flush of tiny values
	b := math.Float32bits(f)
	s := uint16(b>>16) & 0x8000
	e := int(b>>23&0xff) - 127 + 15
	if e <= 0 {
		return s
	}
	if e >= 31 {
		return s | 0x7bff
	}
	m := b & 0x7fffff
	h := uint32(e)<<10 | m>>13
	if m&0x1000 != 0 {
		h++
	}
	return s | uint16(h)
}

// tensor adds a tensor; ne[0] is the fastest dimension (row length).
func (m *model) tensor(name string, f16s bool, ne []uint64, fn func(row, col int) float32) {
	rows := 1
	for _, d := range ne[1:] {
		rows *= int(d)
	}
	var b []byte
	for r := 0; r < rows; r++ {
		for c := 0; c < int(ne[0]); c++ {
			if f16s {
				b = le.AppendUint16(b, f16(fn(r, c)))
			} else {
				b = le.AppendUint32(b, math.Float32bits(fn(r, c)))
			}
		}
	}
	t := uint32(ggmlF32)
	if f16s {
		t = ggmlF16
	}
	m.names = append(m.names, name)
	m.dims = append(m.dims, ne)
	m.types = append(m.types, t)
	m.data = append(m.data, b)
}

const align = 32

func pad(n int) int { return (align - n%align) % align }

func (m *model) write(w io.Writer) error {
	var h bytes.Buffer
	h.WriteString("GGUF")
	h.Write(u32(3))
	h.Write(u64(uint64(len(m.names))))
	h.Write(u64(uint64(len(m.kvs))))
	for _, k := range m.kvs {
		h.Write(gstr(k.key))
		h.Write(k.raw)
	}
	off := 0
	for i, n := range m.names {
		h.Write(gstr(n))
		h.Write(u32(uint32(len(m.dims[i]))))
		for _, d := range m.dims[i] {
			h.Write(u64(d))
		}
		h.Write(u32(m.types[i]))
		h.Write(u64(uint64(off)))
		off += len(m.data[i]) + pad(len(m.data[i]))
	}
	h.Write(make([]byte, pad(h.Len())))
	if _, err := w.Write(h.Bytes()); err != nil {
		return err
	}
	for _, d := range m.data {
		w.Write(d)
		if _, err := w.Write(make([]byte, pad(len(d)))); err != nil {
			return err
		}
	}
	return nil
}

// readKVs returns the tokenizer.* key/values of a GGUF file and its vocabulary size.
func readKVs(path string) (out []kv, nvocab int, err error) {
	d, err := os.ReadFile(path)
	if err != nil {
		return nil, 0, err
	}
	p := 8
	r32 := func() uint32 { v := le.Uint32(d[p:]); p += 4; return v }
	r64 := func() uint64 { v := le.Uint64(d[p:]); p += 8; return v }
	rs := func() string { n := int(r64()); s := string(d[p : p+n]); p += n; return s }
	size := map[uint32]int{0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
	r64()
	nkv := int(r64())
	for i := 0; i < nkv; i++ {
		k := rs()
		st := p
		switch t := r32(); t {
		case tStr:
			rs()
		case tArr:
			et, n := r32(), int(r64())
			if et == tStr {
				for j := 0; j < n; j++ {
					rs()
				}
			} else {
				p += n * size[et]
			}
			if k == "tokenizer.ggml.tokens" {
				nvocab = n
			}
		default:
			p += size[t]
		}
		if strings.HasPrefix(k, "tokenizer.") {
			out = append(out, kv{k, d[st:p]})
		}
	}
	return out, nvocab, nil
}

const words = `the of and to in a is that for it as was with be by on not he his but at are this have from or had an they which one you were all her she there would their we him been has when who will no more if out so up said what its about than into them can only other time new some could these two may first then do any like my now over such our man me even most made after also did many off before must well back through years much where your way down should because long each just state those people too mister how good make world still own see men work year day get here old life between both being under three never know same last another while us might great go come since against right came take used himself few house use place during high without again home around small however found part school every water gone course away put think hand head side set number order night point child almost light enough nothing later yet war`

const template = `{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}`

func main() {
	out := flag.String("o", "tiny.gguf", "output file")
	name := flag.String("name", "tiny-random", "general.name")
	seed := flag.Int64("seed", 1, "random seed")
	dim := flag.Int("dim", 64, "embedding length (multiple of 32)")
	layers := flag.Int("layers", 2, "blocks")
	heads := flag.Int("heads", 4, "attention heads")
	kvh := flag.Int("kv-heads", 2, "key/value heads")
	ff := flag.Int("ff", 128, "feed-forward length")
	ctx := flag.Int("ctx", 8192, "context length")
	eosP := flag.Float64("eos", 60, "about one end-of-turn in this many tokens (0: never ends by itself)")
	vocab := flag.String("vocab", "", "take the tokenizer from this GGUF instead of the built-in one")
	flag.Parse()

	m := &model{seen: map[string]bool{}}
	rng := rand.New(rand.NewSource(*seed))
	m.str("general.architecture", "llama")
	m.str("general.name", *name)
	m.u32("general.file_type", 1)
	m.u32("llama.block_count", uint32(*layers))
	m.u32("llama.context_length", uint32(*ctx))
	m.u32("llama.embedding_length", uint32(*dim))
	m.u32("llama.feed_forward_length", uint32(*ff))
	m.u32("llama.attention.head_count", uint32(*heads))
	m.u32("llama.attention.head_count_kv", uint32(*kvh))
	m.f32("llama.attention.layer_norm_rms_epsilon", 1e-5)
	m.f32("llama.rope.freq_base", 10000)
	m.u32("llama.rope.dimension_count", uint32(*dim / *heads))

	var bad map[int]bool // tokens the model should not say
	eos, n := -1, 0
	if *vocab != "" {
		kvs, nv, err := readKVs(*vocab)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		for _, k := range kvs {
			m.kvs = append(m.kvs, k)
			m.seen[k.key] = true
		}
		n = nv
		if !m.seen["tokenizer.chat_template"] {
			m.str("tokenizer.chat_template", template)
		}
	} else {
		var toks []string
		var types []int32
		bad = map[int]bool{}
		idx := map[string]bool{}
		add := func(s string, typ int32) int {
			if idx[s] {
				return -1
			}
			idx[s] = true
			toks, types = append(toks, s), append(types, typ)
			return len(toks) - 1
		}
		for i, s := range []string{"<unk>", "<s>", "</s>"} {
			add(s, []int32{2, 3, 3}[i])
		}
		add("<|im_start|>", 3)
		eos = add("<|im_end|>", 3)
		for b := 0; b < 256; b++ {
			add(fmt.Sprintf("<0x%02X>", b), 6)
		}
		for i := range toks {
			bad[i] = true
		}
		first := len(toks)
		for _, w := range strings.Fields(words) {
			add("▁"+w, 1)
		}
		last := len(toks)
		for _, s := range []string{"▁", "\n", ",", ".", "!", "?", "-", "é", "ü", "你", "好", "😀"} {
			add(s, 1)
		}
		for c := 'a'; c <= 'z'; c++ {
			add(string(c), 1)
			add(strings.ToUpper(string(c)), 1)
			add("▁"+string(c), 1)
		}
		for c := '0'; c <= '9'; c++ {
			add(string(c), 1)
		}
		for _, w := range strings.Fields(words) { // prefixes, so that merges reach the words
			r := []rune("▁" + w)
			for i := 2; i < len(r); i++ {
				if k := add(string(r[:i]), 1); k >= 0 {
					bad[k] = true
				}
			}
		}
		n = len(toks)
		for i := last; i < n; i++ {
			if t := toks[i]; t != "," && t != "." && t != "\n" && t != "é" && t != "你" && t != "😀" {
				bad[i] = true
			}
		}
		_ = first
		var tb, sb, yb []byte
		for i, s := range toks {
			tb = append(tb, gstr(s)...)
			sc := float32(0)
			if types[i] == 1 {
				sc = float32(len([]rune(s))) - 20 // longer pieces win
			}
			sb = le.AppendUint32(sb, math.Float32bits(sc))
			yb = le.AppendUint32(yb, uint32(types[i]))
		}
		m.str("tokenizer.ggml.model", "llama")
		m.str("tokenizer.ggml.pre", "default")
		m.arr("tokenizer.ggml.tokens", tStr, n, tb)
		m.arr("tokenizer.ggml.scores", tF32, n, sb)
		m.arr("tokenizer.ggml.token_type", tI32, n, yb)
		m.u32("tokenizer.ggml.bos_token_id", 1)
		m.u32("tokenizer.ggml.eos_token_id", uint32(eos))
		m.u32("tokenizer.ggml.unknown_token_id", 0)
		m.boolean("tokenizer.ggml.add_bos_token", true)
		m.boolean("tokenizer.ggml.add_eos_token", false)
		m.str("tokenizer.chat_template", template)
	}
	m.u32("llama.vocab_size", uint32(n))

	D, F, hd := uint64(*dim), uint64(*ff), uint64(*dim / *heads)
	gauss := func(s float64) func(int, int) float32 {
		return func(int, int) float32 { return float32(rng.NormFloat64() * s) }
	}
	keep0 := func(s float64) func(int, int) float32 { // leaves residual channel 0 constant
		return func(r, _ int) float32 {
			v := float32(rng.NormFloat64() * s)
			if r == 0 {
				return 0
			}
			return v
		}
	}
	ones := func(int, int) float32 { return 1 }
	const c0 = 4.0 // constant channel: acts as the output bias
	m.tensor("token_embd.weight", true, []uint64{D, uint64(n)}, func(_, c int) float32 {
		if c == 0 {
			return c0
		}
		return float32(rng.NormFloat64())
	})
	s := 1 / math.Sqrt(float64(*dim))
	for i := 0; i < *layers; i++ {
		b := fmt.Sprintf("blk.%d.", i)
		m.tensor(b+"attn_norm.weight", false, []uint64{D}, ones)
		m.tensor(b+"attn_q.weight", true, []uint64{D, D}, gauss(s))
		m.tensor(b+"attn_k.weight", true, []uint64{D, hd * uint64(*kvh)}, gauss(s))
		m.tensor(b+"attn_v.weight", true, []uint64{D, hd * uint64(*kvh)}, gauss(s))
		m.tensor(b+"attn_output.weight", true, []uint64{D, D}, keep0(s))
		m.tensor(b+"ffn_norm.weight", false, []uint64{D}, ones)
		m.tensor(b+"ffn_gate.weight", true, []uint64{D, F}, gauss(s))
		m.tensor(b+"ffn_up.weight", true, []uint64{D, F}, gauss(s))
		m.tensor(b+"ffn_down.weight", true, []uint64{F, D}, keep0(1/math.Sqrt(float64(*ff))))
	}
	m.tensor("output_norm.weight", false, []uint64{D}, ones)
	sd := 1.8 / math.Sqrt(float64(*dim)) // logits of about N(0, 1.8)
	good := n - len(bad)
	x0 := c0 / math.Sqrt((c0*c0+float64(*dim)*1.6)/float64(*dim))
	m.tensor("output.weight", true, []uint64{D, uint64(n)}, func(r, c int) float32 {
		v := float32(rng.NormFloat64() * sd)
		if c != 0 {
			if r == eos {
				return 0
			}
			return v
		}
		switch {
		case r == eos && *eosP > 0:
			return float32((math.Log(float64(good)/(*eosP)) + 1.8*1.8/2) / x0)
		case bad[r]:
			return float32(-60 / x0)
		}
		return 0
	})

	f, err := os.Create(*out)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	w := bufio.NewWriter(f)
	if err := m.write(w); err == nil {
		err = w.Flush()
	}
	if err2 := f.Close(); err != nil || err2 != nil {
		fmt.Fprintln(os.Stderr, err, err2)
		os.Exit(1)
	}
	st, _ := os.Stat(*out)
	fmt.Printf("%s: %d tokens, %d tensors, %d bytes\n", *out, n, len(m.names), st.Size())
}
