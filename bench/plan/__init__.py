"""The plan: from what was measured on one machine to the machines of a nation, with every step shown.

`assumptions` (what people do, what is bought) and `measured` (what a core does, from reports) go through `formulas`,
`lattice` and `tail` (queues) to `sizing`; `simulation` plays the same tier event by event and is held against it;
`sensitivity` moves each assumption; `costs` measures; `show` and `run` are the command.
"""
