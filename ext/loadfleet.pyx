"""A load generator that is one of many processes: driven in slices, told when to start, asked each second.

Used by bench/fleet_child.py. Where LoadGenerator.run does everything in one call, the parent of a fleet says here what
comes next, so that all processes publish from the same moment of CLOCK_MONOTONIC on, measure the same window, and drop
the same sessions at the same time. Connections are numbered over the whole fleet, and source addresses given.

Invariant: between two calls nothing is sent or read, so slices must be short beside what is measured.
"""
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

import ipaddress

from ext.c_load cimport EPOLLOUT, now_ns, sharp_timers, thread_ns, watch
from ext.loadhdr cimport TICK_COUNTS, tick_ns
from ext.loadsocket cimport L_LIVE, Connection
from ext.tls cimport ClientContext


cdef class FleetGenerator(LoadGenerator):
    # ---- what Python prepares -------------------------------------------------------------------------------------

    def place(self, uint32_t number_from, str source, uint32_t pending_max=256):
        """Numbers of its connections begin here; so do its source addresses, 512 connections each, 256 apart."""
        self.number_from, self.pending_max = number_from, pending_max
        self.source = int(ipaddress.IPv4Address(source))

    def slow(self, uint32_t connection):
        """It is one of those that read slowly, when they are told to."""
        self._known(connection)
        self.at[connection].slow = 1

    def read_slowly(self, uint32_t bytes_per_s):
        """How much each slow reader reads a second; 0, as in the beginning: they read like the others."""
        cdef uint32_t k
        cdef Connection *c
        self.slow_bytes_per_s = bytes_per_s
        for k in range(self.used):
            c = &self.at[k]
            if c.slow and c.life == L_LIVE:
                watch(self.epoll_fd, c.fd, self._looks_for(c) | (EPOLLOUT if c.out_size else 0), k, 1)

    # ---- connecting -----------------------------------------------------------------------------------------------

    def head(self, str host, int port, str path, ClientContext tls=None):
        """Where to. Who is answered 503 (that process is full) comes again a moment later."""
        self.comes_again = True
        self._head(host, port, path, "gonets.v1.msgpack", tls)

    def opening(self, double slice_s, double per_second=0.0):
        """Opens for some time; True when all are live or dead."""
        cdef uint64_t until = now_ns() + <uint64_t>(slice_s * 1e9)
        with nogil:  # no Python objects: the arrays belong to self, which the caller holds
            self._connect_until(self.pending_max, <uint64_t>(1e9 / per_second) if per_second > 0 else 0, until)
        PyErr_CheckSignals()
        return self.live + self.dead == self.used

    # ---- running --------------------------------------------------------------------------------------------------

    def start(self, uint64_t at_ns, uint64_t window_ns, uint64_t window_end_ns, double ping_interval_s=0.0):
        """Publishes from this moment on; what is intended within the window goes into the histograms."""
        cdef uint32_t i
        self._pending_until(at_ns)
        self.count_from_ns, self.count_to_ns = window_ns, window_end_ns
        self.ping_interval_ns = <uint64_t>(ping_interval_s * 1e9)
        self.ping_due_ns, self.ping_next = at_ns, 0
        self.publishing = True
        for i in range(self.stream_count):
            self.streams[i].origin_ns = window_ns
            self._arrange(&self.streams[i], at_ns)
            self._start(i)

    cdef int _pending_until(self, uint64_t until_ns) except -1:
        sharp_timers()
        return self._run(until_ns, False)

    def advance(self, uint64_t until_ns):
        """Drives everything until this moment of the clock."""
        self._run(until_ns, False)

    def window(self, bint begins):
        """The measured seconds begin or end here, for what is counted by when it came."""
        cdef uint64_t cpu = thread_ns()
        self._window(begins)
        if begins:
            self.cpu_from_ns = cpu
        else:
            self.busy_ns = cpu - self.cpu_from_ns

    def stop_publishing(self):
        """Nothing new from now on; answers and events still come."""
        self.publishing = False

    def publish_once(self, uint32_t stream, uint32_t writer=0):
        """One publish of a stream's writer, now, whether or not the stream publishes by itself."""
        cdef uint32_t count = self._known_stream(stream).writer_count
        if writer >= count:
            raise ValueError(f"writer {writer} of stream {stream} is unknown; there are {count}")
        self._publish(stream, writer, 1, now_ns())

    def drop(self, uint32_t connection, double away_s):
        """It breaks, and comes back later from its position; False if it isn't live."""
        self._known(connection)
        if self.at[connection].life != L_LIVE:
            return False
        self._leave(connection, now_ns(), <uint64_t>(away_s * 1e9))
        return True

    def expect_breaks(self, bint expected, double away_s):
        """Connections that the server breaks come back after that time, instead of being a fault."""
        self.breaks_expected, self.away_ns = expected, <uint64_t>(away_s * 1e9)

    # ---- what Python reads ----------------------------------------------------------------------------------------

    def tick(self):
        """Deliveries since the last tick by their latency, [(nanoseconds, count)], and the longest."""
        cdef uint32_t i
        found = {"deliver": [(tick_ns(i), self.tick_counts[i]) for i in range(TICK_COUNTS) if self.tick_counts[i]],
                 "max_ns": self.tick_max_ns}
        memset(self.tick_counts, 0, TICK_COUNTS * 8)
        self.tick_max_ns = 0
        return found
