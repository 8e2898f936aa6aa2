# Nothing for Python: only ext.loadloop calls it.
