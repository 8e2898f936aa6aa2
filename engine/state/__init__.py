"""State folded from the log: saved rows, overlay, views, saver."""
