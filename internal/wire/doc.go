// Package wire is the parent of the wire formats: oip (Open Inference Protocol) and hop (gateway to worker). A format
// below it turns bytes into tensors and back, in bounds, and nothing else: it opens no connection, knows no tenant and
// no model. Callers: gateway, worker and the engine drivers, through the packages below; this one holds no code.
package wire
