# Nothing for Python: what is hot of ext.loadgen.
