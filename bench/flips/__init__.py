"""Every bit of a log flipped (run.py): what a child process makes of it (judge.py), which can't matter (proof.py)."""
