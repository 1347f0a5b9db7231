package gguf

import (
	"regexp"
	"strings"
)

// The most that settings may be. They are far above any model, and far below what a loader allocates itself to death with.
const (
	layersMax    = 1 << 14 // blocks
	headsMax     = 1 << 16
	contextMax   = 1 << 30 // tokens
	embeddingMax = 1 << 22 // also of a feed-forward layer
	expertsMax   = 1 << 16
)

// settings are the values that loaders compute with.
type settings struct {
	numbers map[string]number
	arrays  map[string]int64 // lengths
	least   map[string]int64 // of settings by layer
	most    map[string]int64

	architecture string
	tokenizer    string
	template     int64
}

// ranges are the settings that are checked by themselves, below the architecture's name.
var ranges = []struct {
	name        string
	least, most int64
}{
	{"block_count", 1, layersMax}, {"context_length", 1, contextMax}, {"embedding_length", 1, embeddingMax},
	{"feed_forward_length", 0, embeddingMax}, {"attention.head_count", 1, headsMax}, {"attention.head_count_kv", 0, headsMax},
	{"attention.key_length", 1, embeddingMax}, {"attention.value_length", 1, embeddingMax}, {"rope.dimension_count", 1, embeddingMax},
	{"expert_count", 0, expertsMax}, {"expert_used_count", 0, expertsMax}, {"vocab_size", 1, 1 << 26},
}

// counted reports whether a value is one that the checks look at. All others are only passed over.
func counted(key string) bool {
	if key == "general.alignment" || strings.HasPrefix(key, "tokenizer.ggml.") {
		return true
	}
	for _, r := range ranges {
		if strings.HasSuffix(key, "."+r.name) {
			return true
		}
	}
	return false
}

// layer notes an element of an array that could be a setting by layer.
func (s *settings) layer(key string, n number) {
	if s.least == nil {
		s.least, s.most = map[string]int64{}, map[string]int64{}
	}
	if _, known := s.least[key]; !known {
		s.least[key], s.most[key] = n.value, n.value
	}
	s.least[key], s.most[key] = min(s.least[key], n.value), max(s.most[key], n.value)
}

// architectureRule is what names of architectures look like; loaders choose code by them, and some build paths.
var architectureRule = regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]{0,63}$`)

// escapes are names by which a chat template gets out of what renders it: Jinja is Python underneath.
var escapes = regexp.MustCompile(`__(class|mro|base|bases|subclasses|globals|builtins|import|init|dict|code|reduce|reduce_ex|getattribute|self|module|loader)__|\battr\s*\(`)

// text looks at the texts that are more than notes.
func (s *settings) text(key string, value []byte) error {
	switch {
	case key == "general.architecture":
		if !architectureRule.Match(value) || strings.Contains(string(value), "..") {
			return refuse("the architecture %.80q is no name", value)
		}
		s.architecture = string(value)
	case key == "tokenizer.ggml.model":
		s.tokenizer = string(value[:min(len(value), 64)])
	case strings.HasPrefix(key, "tokenizer.chat_template"):
		if found := escapes.Find(value); found != nil {
			return refuse("the chat template uses %q, by which templates run code of their own", found)
		}
		s.template = int64(len(value))
	}
	return nil
}

// check holds the settings against each other, before anybody divides by one or allocates after it.
func (s *settings) check(m *Model, limits Limits) error {
	if s.architecture == "" {
		return refuse("it names no general.architecture")
	}
	m.Architecture = s.architecture
	if n, given := s.numbers["general.alignment"]; given {
		if !n.whole || n.value < 8 || n.value > alignmentMax || n.value&(n.value-1) != 0 {
			return refuse("the alignment %d is not a power of two from 8 to %d", n.value, alignmentMax)
		}
		m.Alignment = n.value
	} else if _, other := m.Metadata["general.alignment"]; other {
		return refuse("the alignment is no number")
	}
	for _, c := range ranges {
		if err := s.within(c.name, c.least, c.most); err != nil {
			return err
		}
	}
	if err := s.heads(); err != nil {
		return err
	}
	return s.words(m, limits)
}

func (s *settings) key(name string) string { return s.architecture + "." + name }

// within checks one setting, given once or by layer. By layer, a layer without attention has no heads.
func (s *settings) within(name string, least, most int64) error {
	key := s.key(name)
	if n, given := s.numbers[key]; given && (!n.whole || n.value < least || n.value > most) {
		return refuse("%s is %d; %d to %d is taken", key, n.value, least, most)
	}
	if _, given := s.arrays[key]; given && s.arrays[key] > layersMax {
		return refuse("%s has %d layers, over the limit of %d", key, s.arrays[key], layersMax)
	}
	if low, given := s.least[key]; given && (low < 0 || s.most[key] > most || s.most[key] < least) {
		return refuse("%s is from %d to %d by layer; %d to %d is taken", key, low, s.most[key], least, most)
	}
	return nil
}

// heads checks what a loader computes of them: the size of a head, and whether the rotation fits into it.
func (s *settings) heads() error {
	get := func(name string) (int64, bool) {
		n, given := s.numbers[s.key(name)]
		return n.value, given
	}
	heads, some := get("attention.head_count")
	if kv, given := get("attention.head_count_kv"); some && given && kv > 0 && (kv > heads || heads%kv != 0) {
		return refuse("%d heads do not share %d heads of keys evenly", heads, kv)
	}
	size, known := get("attention.key_length")
	if embedding, given := get("embedding_length"); !known && given && some {
		size, known = embedding/heads, true
		if size == 0 {
			return refuse("%d heads share an embedding of %d", heads, embedding)
		}
	}
	if rope, given := get("rope.dimension_count"); given && known && rope > size {
		return refuse("the rotation has %d dimensions, a head %d", rope, size)
	}
	experts, _ := get("expert_count")
	if used, given := get("expert_used_count"); given && used > experts {
		return refuse("%d experts are used of %d", used, experts)
	}
	return nil
}

// words checks the tokenizer's lists, which loaders walk side by side.
func (s *settings) words(m *Model, limits Limits) error {
	tokens, given := s.arrays["tokenizer.ggml.tokens"]
	if tokens > limits.Tokens {
		return refuse("the tokenizer has %d tokens, over the limit of %d", tokens, limits.Tokens)
	}
	for _, name := range []string{"scores", "token_type"} {
		if n, there := s.arrays["tokenizer.ggml."+name]; there && (!given || n != tokens) {
			return refuse("the tokenizer has %d tokens and %d of %s", tokens, n, name)
		}
	}
	merges := s.arrays["tokenizer.ggml.merges"]
	if merges > limits.Merges {
		return refuse("the tokenizer has %d merges, over the limit of %d", merges, limits.Merges)
	}
	for key, n := range s.numbers {
		if strings.HasPrefix(key, "tokenizer.ggml.") && strings.HasSuffix(key, "_token_id") && given && (!n.whole || n.value < 0 || n.value >= tokens) {
			// Some tools write 2^32-1 for "none".
			if n.value != 1<<32-1 {
				return refuse("%s is %d, and there are %d tokens", key, n.value, tokens)
			}
		}
	}
	m.Tokenizer = Tokenizer{Kind: s.tokenizer, Tokens: tokens, Merges: merges, ChatTemplate: s.template}
	return nil
}
