# Picks the records of some conversations out of a block. Any thread; borrows what it is given, copies what it returns.
# Python's face only: sift, block_span.
