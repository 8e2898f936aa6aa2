# The face of the load generator: what Python prepares, starts and reads. All that is hot is inherited.
from ext.loadloop cimport LoadLoop

cdef class LoadGenerator(LoadLoop):
    pass
