"""More than one process: a supervisor, one sequencer, and gateway workers behind one port. See gateway/PROCESSES.md."""
