"""Native load generator: thousands of WebSocket clients of one thread, so that measuring costs less than serving.

Python prepares what is not hot (hello bodies with tokens, publish templates) and reads results; connecting, shaking
hands, publishing, matching receipts and verifying events happen natively, without the GIL. Each connection binds a
source address of its own block in 127.0.0.0/8, hence ports are no limit. Latency counts from the intended send time:
a generator or server that falls behind shows up in it.

Invariants: a receipt is matched to one unanswered counter of its connection; sequences of a connection ascend.
Cost: one recv per ready socket, one send per publish (or per pack of them), no allocation per event.
"""
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset

import ipaddress
import socket

from ext.c_load cimport now_ns, thread_ns
from ext.loadcheck cimport (
    ARRIVE_EVEN, ARRIVE_NEVER, ARRIVE_PAUSES, ARRIVE_POISSON, STAMP, TABLE_ROWS, WINDOW, Stream, Tables, Target, Writer, stream_free,
    stream_open)
from ext.loadhdr cimport HDR_COUNTS, hdr_at, hdr_bytes, hdr_ns
from ext.loadloop cimport LoadLoop, Receipt
from ext.loadsocket cimport (
    COMMAND_BYTES_MAX, L_AWAY, L_DEAD, L_LIVE, L_NEW, NO_STREAM, NUMBERS, OUTPUT_BYTES, SLICE_NS, STREAMS, Connection)
from ext.tls cimport ClientContext

# The nonce is the RFC's own example: all connections may share one, and the expected answer is then a constant.
NONCE = "dGhlIHNhbXBsZSBub25jZQ=="
LIVES = ("new", "connecting", "upgrading", "hello", "live", "dead", "away")
ARRIVALS = {"poisson": ARRIVE_POISSON, "even": ARRIVE_EVEN, "pauses": ARRIVE_PAUSES, "never": ARRIVE_NEVER}


cdef class LoadGenerator(LoadLoop):
    # ---- what Python prepares -------------------------------------------------------------------------------------

    def add(self, const uint8_t[::1] hello, uint64_t counter=0):
        """One more client; hello is the body of its first command, counter the last one its device has used."""
        cdef Connection *c
        if self.used == self.room:
            raise ValueError(f"all {self.room} connections are in use; raise connections_max")
        c = &self.at[self.used]
        c.hello = <uint8_t *>malloc(hello.shape[0] + 1)
        if c.hello == NULL:
            raise MemoryError("no memory for a hello")
        if hello.shape[0]:
            memcpy(c.hello, &hello[0], hello.shape[0])
        c.hello_size = hello.shape[0]
        c.stream = NO_STREAM
        c.counter = counter
        self.used += 1
        return self.used - 1

    def stream(self, bytes fill, *, int in_flight=1, int per_send=1, double rate_per_s=0.0, uint64_t limit=0,
               int recipients=1, bint broadcast=False):
        """One kind of load; its number. rate_per_s makes it an open loop, else each answer brings the next publish."""
        cdef Stream *s
        if self.stream_count == STREAMS:
            raise ValueError(f"a generator has at most {STREAMS} streams")
        if not 1 <= in_flight <= WINDOW or not 1 <= per_send <= in_flight:
            raise ValueError(f"in_flight {in_flight} and per_send {per_send}: 1 <= per_send <= in_flight <= {WINDOW}")
        if rate_per_s < 0 or rate_per_s > 1e8:
            raise ValueError(f"rate_per_s is {rate_per_s}; it must be 0 (closed loop) to 1e8")
        s = &self.streams[self.stream_count]
        memset(s, 0, sizeof(Stream))
        s.in_flight, s.per_send, s.limit = in_flight, per_send, limit
        s.recipients, s.broadcast = recipients, broadcast
        s.interval_ns = <uint64_t>(1e9 * per_send / rate_per_s) if rate_per_s > 0 else 0
        try:
            stream_open(s, fill, len(fill))
        except MemoryError:
            stream_free(s)
            raise
        self.stream_count += 1
        return self.stream_count - 1

    def draw(self, uint32_t i, *, str arrivals="poisson", tuple sizes=(), tuple pauses=(), tuple profile=()):
        """What is drawn for each publish of a stream: its time, its size of sizes (bytes, weight), pauses of each
        writer (quantile, seconds), and the factor of its rate by profile (seconds since the window began, factor)."""
        cdef Stream *s = self._known_stream(i)
        cdef Tables *t
        cdef uint32_t row
        cdef double share = 0.0, weights
        if arrivals not in ARRIVALS or (arrivals == "pauses") != bool(pauses) or len(pauses) == 1:
            raise ValueError(f"arrivals {arrivals!r} with {len(pauses)} pauses: must be one of {', '.join(ARRIVALS)}, "
                             f"pauses with at least 2 rows, the others without")
        if max(len(sizes), len(pauses), len(profile)) > TABLE_ROWS:
            raise ValueError(f"a table of {max(len(sizes), len(pauses), len(profile))} rows; at most {TABLE_ROWS}")
        for size, _ in sizes:
            if not STAMP <= size <= STAMP + s.fill_size or s.per_send * (size + 256) > OUTPUT_BYTES:
                raise ValueError(f"a payload of {size} bytes, {s.per_send} in a send: must be {STAMP} to "
                                 f"{STAMP + s.fill_size}, and all of a send at most {OUTPUT_BYTES} bytes")
        if s.tables == NULL:
            s.tables = <Tables *>calloc(1, sizeof(Tables))
            if s.tables == NULL:
                raise MemoryError("no memory for the tables of a stream")
        t = s.tables
        s.arrivals = ARRIVALS[arrivals]
        weights = sum([weight for _, weight in sizes])
        for row, (size, weight) in enumerate(sizes):
            share += weight / weights
            t.size_bytes[row], t.size_share[row] = size, share
        for row, (quantile, seconds) in enumerate(pauses):
            t.pause_share[row], t.pause_ns[row] = quantile, seconds * 1e9
        for row, (at_s, factor) in enumerate(profile):
            t.profile_ns[row], t.profile_factor[row] = int(at_s * 1e9), factor
        t.sizes, t.pauses, t.profile = len(sizes), len(pauses), len(profile)

    def pace(self, uint32_t i, *, uint32_t in_flight=1, double rate_per_s=0.0, bint idle=False):
        """Another window and rate for a stream, between two runs; `idle`: it sits the next ones out."""
        cdef Stream *s = self._known_stream(i)
        if not s.per_send <= in_flight <= WINDOW:
            raise ValueError(f"in_flight = {in_flight} must be {s.per_send} to {WINDOW}")
        s.in_flight, s.limit = in_flight, 1 if idle else 0
        s.interval_ns = <uint64_t>(1e9 * s.per_send / rate_per_s) if rate_per_s > 0 and not idle else 0

    def target(self, uint32_t stream, const uint8_t[::1] body, uint32_t counter_at, uint32_t payload_at,
               uint32_t recipients):
        """Where publishes of a stream go; its number there. body is the whole command: its counter (8 bytes,
        big-endian) and its payload, the end of it, are written anew each time."""
        cdef Stream *s = self._known_stream(stream)
        cdef Target *t
        cdef uint32_t size = body.shape[0], back, mark
        if (size + 14 > OUTPUT_BYTES // s.per_send or size > COMMAND_BYTES_MAX or counter_at + 8 > size
                or payload_at + STAMP > size):
            raise ValueError(f"a template of {size} bytes (at most {min(OUTPUT_BYTES // s.per_send, COMMAND_BYTES_MAX)})"
                             f" with its counter at {counter_at} and its payload at {payload_at} does not fit")
        if s.target_count == s.target_room:
            s.target_room = s.target_room * 2 if s.target_room else 64
            t = <Target *>realloc(s.targets, s.target_room * sizeof(Target))
            if t == NULL:
                raise MemoryError("no memory for targets")
            s.targets = t
        t = &s.targets[s.target_count]
        t.body = <uint8_t *>malloc(size)
        if t.body == NULL:
            raise MemoryError("no memory for a template")
        memcpy(t.body, &body[0], size)
        t.size, t.counter_at, t.payload_at, t.recipients, t.head_size = size, counter_at, payload_at, recipients, 0
        for back, mark in ((2, 0xC4), (3, 0xC5), (5, 0xC6)):
            if payload_at >= back and body[payload_at - back] == mark:
                t.head_size = payload_at - back
        s.target_count += 1
        return s.target_count - 1

    def writer(self, uint32_t stream, uint32_t connection, uint32_t target):
        """The connection publishes to a target of the stream. It may do so for several targets, and for several
        streams of open loops, but for one closed loop only."""
        cdef Stream *s = self._known_stream(stream)
        cdef Connection *c
        cdef Writer *w
        cdef uint32_t at = s.writer_count
        self._known(connection)
        c = &self.at[connection]
        if target >= s.target_count:
            raise ValueError(f"target {target} of stream {stream} is unknown; there are {s.target_count}")
        if s.tables != NULL and s.tables.sizes and not s.targets[target].head_size:
            raise ValueError(f"target {target}: the payload of its template has no length before it: sizes can't vary")
        if c.stream != NO_STREAM and c.stream != stream and not (
                s.interval_ns and self.streams[c.stream].interval_ns):
            raise ValueError(f"connection {connection} already publishes for stream {c.stream}")
        if s.writer_count == s.writer_room:
            self._more_writers(stream)
        w = &s.writers[at]
        w.connection, w.target, w.next = connection, target, at
        if c.stream == stream:
            w.next = s.writers[c.writer].next
            s.writers[c.writer].next = at
        elif c.stream == NO_STREAM:
            c.stream, c.writer = stream, at
        s.writer_count += 1

    def publisher(self, uint32_t stream, uint32_t connection, const uint8_t[::1] body, uint32_t counter_at,
                  uint32_t payload_at):
        """A target of its own, with the stream's number of recipients, and its one writer."""
        self._known(connection)
        self.writer(stream, connection, self.target(
            stream, body, counter_at, payload_at, self._known_stream(stream).recipients))

    def _more_writers(self, uint32_t stream):
        cdef Stream *s = &self.streams[stream]
        cdef uint32_t room = s.writer_room * 2 if s.writer_room else 64
        cdef Writer *wider = <Writer *>realloc(s.writers, room * sizeof(Writer))
        cdef uint32_t *heap
        if wider == NULL:
            raise MemoryError("no memory for writers")
        s.writers = wider
        heap = <uint32_t *>realloc(s.heap, room * sizeof(uint32_t))
        if heap == NULL:
            raise MemoryError("no memory for writers")
        s.heap = heap
        s.writer_room = room

    def _known(self, uint32_t connection):
        if connection >= self.used:
            raise ValueError(f"connection {connection} is unknown; there are {self.used}")

    cdef Stream *_known_stream(self, uint32_t i) except NULL:
        if i >= self.stream_count:
            raise ValueError(f"stream {i} is unknown; there are {self.stream_count}")
        return &self.streams[i]

    # ---- what Python starts ---------------------------------------------------------------------------------------

    def connect(self, str host, int port, *, str path="/v1", str subprotocol="gonets.v1.msgpack", int pending_max=256,
                double per_second=0.0, double deadline_s=60.0, ClientContext tls=None):
        """Opens every new connection and waits until all are live; the seconds it took."""
        cdef uint64_t begun, until, spacing
        self._head(host, port, path, subprotocol, tls)
        spacing = <uint64_t>(1e9 / per_second) if per_second > 0 else 0
        begun = now_ns()
        until = begun + <uint64_t>(deadline_s * 1e9)
        while self.live + self.dead < self.used and now_ns() < until:
            self._connect(pending_max, spacing, until)
        if self.live < self.used:
            raise ConnectionError(f"{self.live} of {self.used} connections are live after {deadline_s:g} s, "
                                  f"{self.dead} dead; {self._last_words()}")
        return (now_ns() - begun) / 1e9

    def _head(self, str host, int port, str path, str subprotocol, ClientContext tls):
        head = (f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Key: {NONCE}\r\nSec-WebSocket-Version: 13\r\n"
                f"Sec-WebSocket-Protocol: {subprotocol}\r\n\r\n").encode()
        free(self.upgrade)
        self.upgrade = <uint8_t *>malloc(len(head))
        if self.upgrade == NULL:
            raise MemoryError("no memory for the request")
        memcpy(self.upgrade, <const uint8_t *>head, len(head))
        self.upgrade_size = len(head)
        where = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)
        self.address = int(ipaddress.IPv4Address(where[0][4][0]))
        self.port = port
        self.tls = tls

    cdef int _connect(self, uint32_t pending_max, uint64_t spacing_ns, uint64_t until_ns) except -1:
        cdef uint64_t slice_ns = min(until_ns, now_ns() + SLICE_NS)
        with nogil:  # no Python objects: the arrays belong to self, which the caller holds
            self._connect_until(pending_max, spacing_ns, slice_ns)
        return PyErr_CheckSignals()

    cdef int _connect_until(self, uint32_t pending_max, uint64_t spacing_ns, uint64_t until_ns) except -1 nogil:
        """Opens while few enough are under way and the next one is due; returns when all are live or dead."""
        cdef uint64_t now = now_ns(), due = now
        while self.live + self.dead < self.used and now < until_ns:
            while self.opened < self.used and self.pending < pending_max and due <= now:
                self._open(self.opened, now)
                self.opened += 1
                due += spacing_ns
            self._return(now)
            self._step(min(until_ns - now, max(due - now, <uint64_t>50_000) if due > now else <uint64_t>5_000_000))
            now = now_ns()
        return 0

    def next_counter(self, uint32_t connection):
        self._known(connection)
        return self.at[connection].counter + 1

    def command(self, uint32_t connection, const uint8_t[::1] body, *, bint counted=True):
        """Sends one command outside of the streams; a counted one carries next_counter() and brings a receipt."""
        cdef Connection *c
        self._known(connection)
        if not 1 <= body.shape[0] <= OUTPUT_BYTES - 16:
            raise ValueError(f"a command of {body.shape[0]} bytes; it must be 1 to {OUTPUT_BYTES - 16}")
        c = &self.at[connection]
        if c.life != L_LIVE:
            raise ConnectionError(f"connection {connection} is {LIVES[c.life]}; {self._last_words()}")
        if counted:
            if c.unanswered == WINDOW:
                raise ValueError(f"connection {connection} has {WINDOW} publishes unanswered; settle() first")
            self._window_of(c)
            c.counter += 1
            c.unanswered += 1
            c.slots[c.counter & (WINDOW - 1)].intended_ns = now_ns()
            c.slots[c.counter & (WINDOW - 1)].index = 0
            self.commands_open += 1
        self._send(connection, self.output, self._frame(self.output, 2, &body[0], body.shape[0]))

    def settle(self, double deadline_s=10.0):
        """Runs until everything sent is answered and delivered; False if it isn't by the deadline."""
        self._run(now_ns() + <uint64_t>(deadline_s * 1e9), True)
        return bool(self._settled())

    def take_receipts(self):
        """Receipts of commands since the last call: (connection, counter, status, conversation, sequence)."""
        cdef uint32_t i
        cdef Receipt *r
        found = []
        for i in range(self.receipt_count):
            r = &self.receipts[i]
            found.append((r.connection, r.counter, r.status[:r.status_size].decode(), r.conversation, r.sequence))
        self.receipt_count = 0
        return found

    def run(self, double seconds, *, double warmup_s=0.0, double drain_s=10.0, double ping_interval_s=0.0):
        """Drives all streams: warms up, measures for some seconds (less if all limits are reached), drains. True if
        everything was answered and delivered in the end."""
        cdef uint64_t begun = now_ns(), cpu
        cdef uint32_t i
        cdef bint limited = self.stream_count > 0
        self.ping_interval_ns = <uint64_t>(ping_interval_s * 1e9)
        self.ping_due_ns, self.ping_next = begun, 0
        self.publishing = True
        for i in range(self.stream_count):
            self.streams[i].origin_ns = begun + <uint64_t>(warmup_s * 1e9)
            self._arrange(&self.streams[i], begun)
            limited = limited and self.streams[i].limit > 0
            self._start(i)
        if warmup_s > 0:
            self._run(begun + <uint64_t>(warmup_s * 1e9), limited)
        self._window(True)
        cpu = thread_ns()
        self._run(self.window_from_ns + <uint64_t>(seconds * 1e9), limited)
        self._window(False)
        self.busy_ns = thread_ns() - cpu
        self.publishing = False
        return self.settle(drain_s)

    def _window(self, bint begins):
        """Counts and histograms of the measured seconds start or end here."""
        cdef Stream *s
        cdef uint32_t i
        for i in range(self.stream_count):
            s = &self.streams[i]
            if begins:
                s.receipts_from, s.deliveries_from, s.completed_from = s.receipts, s.deliveries, s.completed
                s.refused_from, s.sent_from = s.refused, s.sent
                if self.count_from_ns:
                    continue  # histograms hold nothing from before the window
                memset(s.receipt_ns, 0, HDR_COUNTS * 8)
                memset(s.deliver_ns, 0, HDR_COUNTS * 8)
                memset(s.refused_ns, 0, HDR_COUNTS * 8)
                memset(s.late_ns, 0, HDR_COUNTS * 8)
            else:
                s.receipts_to, s.deliveries_to, s.completed_to = s.receipts, s.deliveries, s.completed
                s.refused_to, s.sent_to = s.refused, s.sent
        if begins:
            self.window_from_ns = now_ns()
        else:
            self.window_to_ns = now_ns()

    def close(self):
        """Says goodbye (1000) on every live connection and closes it; nothing can be started again."""
        cdef uint32_t k
        cdef uint8_t goodbye[2]
        goodbye[0], goodbye[1] = 0x03, 0xE8
        self.breaks_expected = False
        for k in range(self.used):
            if self.at[k].life == L_LIVE:
                self._send(k, self.output, self._frame(self.output, 8, goodbye, 2))
            if self.at[k].life != L_NEW and self.at[k].life != L_DEAD and self.at[k].life != L_AWAY:
                self._die(k, 1000)
        self.closed = True

    # ---- what Python reads ----------------------------------------------------------------------------------------

    def _last_text(self):
        return self.last_text[:self.last_text_size].decode("utf-8", "replace")

    def _last_words(self):
        return f"last close code {self.last_close}, last words {self._last_text()!r}"

    def stats(self):
        """Counts of the generator as a whole."""
        cdef uint64_t window = self.window_to_ns - self.window_from_ns
        return {"connections": self.used, "streams": self.stream_count, "live": self.live, "dead": self.dead,
                "away": self.away_count, "pending": self.pending, "events": self.events, "others": self.others,
                "broken": self.broken, "disordered": self.disordered, "doubled": self.doubled, "missing": self.missing,
                "gaps": self.gaps, "gapped": self.gapped, "unmatched": self.unmatched, "bytes_in": self.bytes_in,
                "reads": self.reads, "sends": self.sends, "connects": self.connects, "dropped": self.dropped,
                "resumes": self.resumes, "retried": self.retried,
                "back_from_ns": self.back_from_ns, "back_to_ns": self.back_to_ns,
                "frames": {i: self.numbers[i] for i in range(NUMBERS) if self.numbers[i]},
                "window_s": window / 1e9, "cpu_share": <double>self.busy_ns / <double>window if window else 0.0,
                "last_close": self.last_close, "last_text": self._last_text(), "last_words": self._last_words()}

    def stream_stats(self, uint32_t i):
        """Counts of one stream; those in the measured window end in _in_window."""
        cdef Stream *s = self._known_stream(i)
        return {"sent": s.sent, "receipts": s.receipts, "refused": s.refused, "expected": s.expected,
                "deliveries": s.deliveries, "slow_deliveries": s.slow_deliveries, "corrupted": s.corrupted, "completed": s.completed,
                "receipts_in_window": s.receipts_to - s.receipts_from,
                "sent_in_window": s.sent_to - s.sent_from, "refused_in_window": s.refused_to - s.refused_from,
                "deliveries_in_window": s.deliveries_to - s.deliveries_from,
                "completed_in_window": s.completed_to - s.completed_from}

    cdef const uint64_t *_counts(self, uint32_t i, str which) except NULL:
        if which == "hello":
            return self.hello_ns
        if which == "resume":
            return self.resume_ns
        self._known_stream(i)
        if which == "receipt":
            return self.streams[i].receipt_ns
        if which == "refused":
            return self.streams[i].refused_ns
        return self.streams[i].late_ns if which == "late" else self.streams[i].deliver_ns

    def histogram(self, int i, str which):
        """[(nanoseconds, count)] of a stream's "receipt", "deliver", "refused" or "late", or of "hello" or "resume"
        (any stream)."""
        cdef const uint64_t *counts = self._counts(i, which)
        cdef uint32_t b
        return [(hdr_ns(b), counts[b]) for b in range(HDR_COUNTS) if counts[b]]

    def counters(self, int i, str which):
        """The same as pairs of (HdrHistogram's index, count), 8 bytes each, little-endian."""
        return hdr_bytes(self._counts(i, which))

    def bucket_middle(self, uint64_t ns):
        """The latency that a histogram shows for this one."""
        return hdr_ns(hdr_at(ns))

    def events_of(self, uint32_t connection):
        self._known(connection)
        return self.at[connection].events

    def life_of(self, uint32_t connection):
        self._known(connection)
        return LIVES[self.at[connection].life]
