"""Power cuts and kills of a real writer (run.py, writer.py, steps.py), and the judgement of what is left (judge.py)."""
