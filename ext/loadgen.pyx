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
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

import ipaddress

from ext.c_load cimport now_ns, thread_ns
from ext.loadcheck cimport BUCKETS, STAMP, WINDOW, Stream, bucket_ns, bucket_of, stream_free, stream_open
from ext.loadloop cimport (
    L_DEAD, L_LIVE, L_NEW, NO_STREAM, NUMBERS, OUTPUT_BYTES, SLICE_NS, STREAMS, TEMPLATE_BYTES_MAX,
    Connection, LoadLoop, Receipt)
from ext.tls cimport ClientContext

# The nonce is the RFC's own example: all connections may share one, and the expected answer is then a constant.
NONCE = "dGhlIHNhbXBsZSBub25jZQ=="
LIVES = ("new", "connecting", "upgrading", "hello", "live", "dead")


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

    def pace(self, uint32_t i, *, uint32_t in_flight=1, double rate_per_s=0.0, bint idle=False):
        """Another window and rate for a stream, between two runs; `idle`: it sits the next ones out."""
        cdef Stream *s
        if i >= self.stream_count:
            raise ValueError(f"stream {i} is unknown; there are {self.stream_count}")
        s = &self.streams[i]
        if not s.per_send <= in_flight <= WINDOW:
            raise ValueError(f"in_flight = {in_flight} must be {s.per_send} to {WINDOW}")
        s.in_flight, s.limit = in_flight, 1 if idle else 0
        s.interval_ns = <uint64_t>(1e9 * s.per_send / rate_per_s) if rate_per_s > 0 and not idle else 0

    def publisher(self, uint32_t stream, uint32_t connection, const uint8_t[::1] body, uint32_t counter_at,
                  uint32_t payload_at):
        """The connection publishes for the stream: body is the whole command, its counter (8 bytes, big-endian) and
        the first 32 bytes of its payload are written anew each time."""
        cdef Stream *s
        cdef Connection *c
        self._known(connection)
        if stream >= self.stream_count:
            raise ValueError(f"stream {stream} is unknown; there are {self.stream_count}")
        if body.shape[0] > TEMPLATE_BYTES_MAX or counter_at + 8 > body.shape[0] or payload_at + STAMP > body.shape[0]:
            raise ValueError(f"a template of {body.shape[0]} bytes (at most {TEMPLATE_BYTES_MAX}) with its counter at "
                             f"{counter_at} and its payload at {payload_at} does not fit")
        s = &self.streams[stream]
        c = &self.at[connection]
        if c.stream != NO_STREAM:
            raise ValueError(f"connection {connection} already publishes for stream {c.stream}")
        if s.publishers == s.publisher_room:
            self._more_publishers(stream)
        c.publish.body = <uint8_t *>malloc(body.shape[0])
        if c.publish.body == NULL:
            raise MemoryError("no memory for a template")
        memcpy(c.publish.body, &body[0], body.shape[0])
        c.publish.size, c.publish.counter_at, c.publish.payload_at = body.shape[0], counter_at, payload_at
        c.stream = stream
        s.publisher_at[s.publishers] = connection
        s.publishers += 1

    def _more_publishers(self, uint32_t stream):
        cdef Stream *s = &self.streams[stream]
        cdef uint32_t room = s.publisher_room * 2 if s.publisher_room else 64
        cdef uint32_t *wider = <uint32_t *>realloc(s.publisher_at, room * sizeof(uint32_t))
        if wider == NULL:
            raise MemoryError("no memory for publishers")
        s.publisher_at = wider
        s.publisher_room = room

    def _known(self, uint32_t connection):
        if connection >= self.used:
            raise ValueError(f"connection {connection} is unknown; there are {self.used}")

    # ---- what Python starts ---------------------------------------------------------------------------------------

    def connect(self, str host, int port, *, str path="/v1", str subprotocol="gonets.v1.msgpack", int pending_max=256,
                double per_second=0.0, double deadline_s=60.0, ClientContext tls=None):
        """Opens every new connection and waits until all are live; the seconds it took."""
        cdef uint64_t begun, until, spacing
        head = (f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Key: {NONCE}\r\nSec-WebSocket-Version: 13\r\n"
                f"Sec-WebSocket-Protocol: {subprotocol}\r\n\r\n").encode()
        free(self.upgrade)
        self.upgrade = <uint8_t *>malloc(len(head))
        if self.upgrade == NULL:
            raise MemoryError("no memory for the request")
        memcpy(self.upgrade, <const uint8_t *>head, len(head))
        self.upgrade_size = len(head)
        self.address = int(ipaddress.IPv4Address(host))
        self.port = port
        self.tls = tls
        spacing = <uint64_t>(1e9 / per_second) if per_second > 0 else 0
        begun = now_ns()
        until = begun + <uint64_t>(deadline_s * 1e9)
        while self.live + self.dead < self.used and now_ns() < until:
            self._connect(pending_max, spacing, until)
        if self.live < self.used:
            raise ConnectionError(f"{self.live} of {self.used} connections are live after {deadline_s:g} s, "
                                  f"{self.dead} dead; {self._last_words()}")
        return (now_ns() - begun) / 1e9

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
            c.counter += 1
            c.unanswered += 1
            c.intended_ns[c.counter & (WINDOW - 1)] = now_ns()
            c.command_bits |= <uint64_t>1 << (c.counter & (WINDOW - 1))
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
            self.streams[i].due_ns = begun
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
                memset(s.receipt_ns, 0, BUCKETS * 8)
                memset(s.deliver_ns, 0, BUCKETS * 8)
                memset(s.refused_ns, 0, BUCKETS * 8)
                memset(s.late_ns, 0, BUCKETS * 8)
                s.refused_from = s.refused
            else:
                s.receipts_to, s.deliveries_to, s.completed_to = s.receipts, s.deliveries, s.completed
                s.refused_to = s.refused
        if begins:
            self.window_from_ns = now_ns()
        else:
            self.window_to_ns = now_ns()

    def close(self):
        """Says goodbye (1000) on every live connection and closes it; nothing can be started again."""
        cdef uint32_t k
        cdef uint8_t goodbye[2]
        goodbye[0], goodbye[1] = 0x03, 0xE8
        for k in range(self.used):
            if self.at[k].life == L_LIVE:
                self._send(k, self.output, self._frame(self.output, 8, goodbye, 2))
            if self.at[k].life != L_NEW and self.at[k].life != L_DEAD:
                self._die(k, 1000)
        self.closed = True

    # ---- what Python reads ----------------------------------------------------------------------------------------

    def _last_words(self):
        text = self.last_text[:self.last_text_size].decode("utf-8", "replace")
        return f"last close code {self.last_close}, last words {text!r}"

    def stats(self):
        """Counts of the generator as a whole."""
        cdef uint64_t window = self.window_to_ns - self.window_from_ns
        return {"connections": self.used, "streams": self.stream_count, "live": self.live, "dead": self.dead, "events": self.events,
                "others": self.others, "broken": self.broken,
                "disordered": self.disordered, "unmatched": self.unmatched, "bytes_in": self.bytes_in, "reads": self.reads,
                "sends": self.sends, "frames": {i: self.numbers[i] for i in range(NUMBERS) if self.numbers[i]},
                "window_s": window / 1e9, "cpu_share": <double>self.busy_ns / <double>window if window else 0.0,
                "last_close": self.last_close, "last_words": self._last_words()}

    def stream_stats(self, uint32_t i):
        """Counts of one stream; those in the measured window end in _in_window."""
        cdef Stream *s
        if i >= self.stream_count:
            raise ValueError(f"stream {i} is unknown; there are {self.stream_count}")
        s = &self.streams[i]
        return {"sent": s.sent, "receipts": s.receipts, "refused": s.refused, "deliveries": s.deliveries,
                "corrupted": s.corrupted, "completed": s.completed,
                "receipts_in_window": s.receipts_to - s.receipts_from,
                "refused_in_window": s.refused_to - s.refused_from,
                "deliveries_in_window": s.deliveries_to - s.deliveries_from,
                "completed_in_window": s.completed_to - s.completed_from}

    def histogram(self, int i, str which):
        """[(nanoseconds, count)] of a stream's "receipt", "deliver", "refused" or "late", or of "hello" (any stream)."""
        cdef uint64_t *counts = self.hello_ns
        cdef uint32_t b
        if which != "hello":
            self.stream_stats(i)
            counts = self.streams[i].receipt_ns if which == "receipt" else self.streams[i].deliver_ns
            if which == "refused":
                counts = self.streams[i].refused_ns
            elif which == "late":
                counts = self.streams[i].late_ns
        return [(bucket_ns(b), counts[b]) for b in range(BUCKETS) if counts[b]]

    def bucket_middle(self, uint64_t ns):
        """The latency that a histogram shows for this one."""
        return bucket_ns(bucket_of(ns))

    def events_of(self, uint32_t connection):
        self._known(connection)
        return self.at[connection].events

    def life_of(self, uint32_t connection):
        self._known(connection)
        return LIVES[self.at[connection].life]
