# Foreign C: what Cython's own pages of Python's C interface declare otherwise than the C compiler wants it.
from cpython.object cimport PyTypeObject

cdef extern from "Python.h":
    object PyType_GenericAlloc(PyTypeObject *type, Py_ssize_t items)  # zeroed, its items NULL
    void PyObject_GC_UnTrack(void *object) noexcept  # cycles are not looked for through it any more
