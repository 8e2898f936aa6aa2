"""Signing of documents: a reader of the event stream, with the signing services behind a port."""
