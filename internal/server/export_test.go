package server

// FailAudit makes the audit's files fail where f says so.
func (c *Config) FailAudit(f func(operation string) error) { c.auditFault = f }
