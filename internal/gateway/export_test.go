package gateway

// StopTaking is the first half of Shutdown: no connection is taken any more, and net/http is not told yet.
func (s *HTTP) StopTaking() { s.stop(false) }

// HangUpTick is the time between two walks over the requests under way.
const HangUpTick = hangUpTick
