# Nothing for Python: only ext.loadgen and ext.loadloop call it.
