// Package bench loads an endpoint and measures how it answers: clients that wait for each answer (closed loop) or requests
// at a rate (open loop), a histogram of bounded error, a search for the highest throughput within a latency, and the
// tables and pictures of the outcome. It starts no server and knows nothing of the rooms. Callers: the command
// `penstock bench`, and test/load/bench, so that both measure with the same instrument.
package bench
