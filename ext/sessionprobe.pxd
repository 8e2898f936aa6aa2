# Sessions without a poller, for tests and benchmarks. The thread that owns the table. Python's face only: probe_open,
# probe_close, probe_writable, probe; bare_sends, bare_drain.
