"""`gonets bench peers`: the same jobs on what one would take instead, in one run, on one machine.

command.py is the command; jobs.py says what is measured, system.py what a system is, one file each does the jobs on it
(drive.py with the native clients of ext/peerload), rounds.py says who does what when, table.py how it is shown.
"""
