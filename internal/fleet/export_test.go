package fleet

import "github.com/penstock/penstock/api"

// DropHints makes every event's hint be lost, as if it had never been sent.
func (c *Controller) DropHints() { c.hint = func(string) {} }

// SetWants claims as one owner; it replaces what was claimed so before.
func (c *Controller) SetWants(wants []api.Want) { c.Claim(api.EndpointKey{Endpoint: "test"}, wants) }
