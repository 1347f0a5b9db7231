// Package api holds the nouns of Penstock: tenants, models, versions, endpoints, revisions, releases, exchanges and
// the plan, with their validation, the error kinds and the strict JSON reader. It imports nothing of ours and nothing
// beyond the standard library; every other package may import it, and rooms speak to each other in its words.
package api
