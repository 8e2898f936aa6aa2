"""Power cuts and kills of a real writer, and the judgement of what is left (run.py); the writer itself (writer.py)."""
