package queue

// Next is the tenant whose turn is next in a pool that somebody waits for.
func (p *Pool) Next() *Flow { return p.lines.first().flow }
