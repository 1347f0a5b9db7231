package server

// FailAudit makes the audit's files fail where f says so.
func (c *Config) FailAudit(f func(operation string) error) { c.auditFault = f }

// RoomyHeap is the size that a heap may reach before it is collected.
const RoomyHeap = roomyHeap

// PercentFor is by how much a heap may grow.
var PercentFor = percentFor

// CollectLess has the collector wait.
var CollectLess = collectLess
