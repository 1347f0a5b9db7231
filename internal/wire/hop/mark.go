package hop

import "encoding/binary"

// Mark is what an answer to the request has to carry beside its id. It mixes the id with the name of the instance that was
// asked. An id alone could name another request in flight when it is damaged or mixed up; then its mark does not fit, and
// no caller gets another's answer.
func (m *Message) Mark() uint64 {
	name := m.Instance
	if m.Kind == KindLoad {
		name = m.Load.Instance
	}
	const odd = 0x9e3779b97f4a7c15
	h := m.ID*odd ^ uint64(len(name))
	for ; len(name) >= 8; name = name[8:] {
		h = (h ^ binary.LittleEndian.Uint64([]byte(name[:8]))) * odd
		h ^= h >> 29
	}
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * odd
	}
	return h ^ h>>32
}

// Answers makes m the answer to a request, to go by the lane that the request names.
func (m *Message) Answers(request *Message) {
	m.ID, m.Check, m.Lane = request.ID, request.Mark(), request.Lane
}
