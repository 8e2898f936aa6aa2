"""Load for other servers: thousands of native clients of one thread that speak RESP, NATS, MQTT 3.1.1 or JSON.

What `gonets bench peers` drives Redis, NATS, Mosquitto and Centrifugo with, as lean as ext/loadgen drives ours. Python
makes the bytes (openings, packs of messages, follow-ups); connecting, stamping, sending and checking happen natively,
without the GIL. A payload is "GNPL", its index and its intended time in hexadecimal, then the fill.

Invariants: every delivery is compared with what was sent and ascends on its connection; what isn't is counted, never
skipped. A connection that ends, ends the run. Cost: see ext/peerloop.
"""
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport malloc, realloc
from libc.string cimport memcpy

import ipaddress

from ext.c_load cimport now_ns, thread_ns
from ext.peerloop cimport (
    AGAIN_BYTES_MAX, NOBODY, S_DEAD, S_LIVE, S_NEW, SLICE_NS, Pack, Peer, PeerLoop, Samples)
from ext.peerread cimport P_JSON, P_MQTT, P_NATS, P_RESP
from ext.peerread cimport STAMP as STAMP_SIZE

PROTOCOLS = {"resp": P_RESP, "nats": P_NATS, "mqtt": P_MQTT, "json": P_JSON}
STAMP = b"GNPL" + b"0" * (STAMP_SIZE - 4)
PACK_BYTES_MAX = 8 << 20


cdef uint8_t *copied(const uint8_t[::1] data) except NULL:
    """Of its own memory, whatever the size."""
    cdef uint8_t *to = <uint8_t *>malloc(data.shape[0] + 1)
    if to == NULL:
        raise MemoryError(f"no memory for {data.shape[0]} bytes")
    if data.shape[0]:
        memcpy(to, &data[0], data.shape[0])
    return to


cdef uint32_t *places(list given) except NULL:
    """A list of byte offsets as C reads it."""
    cdef uint32_t *to = <uint32_t *>malloc(4 * len(given) + 4)
    cdef uint32_t i
    if to == NULL:
        raise MemoryError(f"no memory for {len(given)} places")
    for i in range(len(given)):
        to[i] = given[i]
    return to


cdef class PeerLoad(PeerLoop):
    # ---- what Python prepares -------------------------------------------------------------------------------------

    def __init__(self, int protocol, uint32_t payload_bytes, uint32_t connections_max, bytes fill):
        if protocol not in PROTOCOLS.values():
            raise ValueError(f"protocol {protocol} is unknown; there are {PROTOCOLS}")
        if len(fill) != payload_bytes - STAMP_SIZE:
            raise ValueError(f"a fill of {len(fill)} bytes; payloads of {payload_bytes} need {payload_bytes - STAMP_SIZE}")
        memcpy(self.fill, <const uint8_t *>fill, len(fill))
        self.remembers = True

    def add(self, const uint8_t[::1] opening, uint32_t answers=0, *, uint32_t first_bytes=0, uint32_t first_answers=0,
            follows=None):
        """One more connection; live when what it sends first has so many answers. first_bytes: these alone until they
        have theirs. follows: the publisher whose messages it is to get, and nobody else's."""
        cdef Peer *c
        if self.used == self.room:
            raise ValueError(f"all {self.room} connections are in use; raise connections_max")
        if first_bytes > opening.shape[0]:
            raise ValueError(f"first_bytes is {first_bytes}, the opening has {opening.shape[0]}")
        c = &self.at[self.used]
        c.opening = copied(opening)
        c.opening_size, c.answers = opening.shape[0], answers
        c.first_size, c.first_answers = first_bytes, first_answers
        c.follows = NOBODY if follows is None else follows
        self.used += 1
        return self.used - 1

    def follow_up(self, uint32_t connection, const uint8_t[::1] data, *, uint32_t every=0, bint named=False):
        """What the connection asks when a reply is whole, or when so many messages have come; named: the name that
        came last (RESP: an entry's id) is put behind it."""
        cdef Peer *c = self._known(connection)
        if not 1 <= data.shape[0] <= AGAIN_BYTES_MAX:
            raise ValueError(f"a follow-up of {data.shape[0]} bytes; it must be 1 to {AGAIN_BYTES_MAX}")
        if c.again_size:
            raise ValueError(f"connection {connection} has its follow-up")
        c.again = copied(data)
        c.again_size, c.again_every, c.again_named = data.shape[0], every, named

    def publisher(self, uint32_t connection, const uint8_t[::1] pack, list payloads, *, list numbers=[],
                  uint32_t answers=0):
        """The connection publishes: pack is what it sends at once, payloads are the places of its messages' payloads,
        numbers those where the number of the pack is written (16 digits), answers how many come to all of it."""
        cdef Peer *c = self._known(connection)
        cdef Pack *to = &c.pack
        cdef uint32_t *wider
        if c.pack.size:
            raise ValueError(f"connection {connection} already publishes")
        if not 1 <= pack.shape[0] <= PACK_BYTES_MAX or not payloads:
            raise ValueError(f"a pack of {len(payloads)} messages in {pack.shape[0]} bytes; at most {PACK_BYTES_MAX}")
        if min(payloads + numbers) < 0 or max(payloads) + self.payload_bytes > pack.shape[0] or (
                numbers and max(numbers) + 16 > pack.shape[0]):
            raise ValueError(f"a pack of {pack.shape[0]} bytes has no room for its payloads and numbers")
        if self.publishers == self.publisher_room:
            self.publisher_room = self.publisher_room * 2 if self.publisher_room else 64
            wider = <uint32_t *>realloc(self.publisher_at, 4 * self.publisher_room)
            if wider == NULL:
                raise MemoryError("no memory for publishers")
            self.publisher_at = wider
        to.data, to.payload_at, to.number_at = copied(pack), places(payloads), places(numbers)
        to.size, to.messages, to.numbers, to.answers = pack.shape[0], len(payloads), len(numbers), answers
        self.publisher_at[self.publishers] = connection
        self.publishers += 1

    cdef Peer *_known(self, uint32_t connection) except NULL:
        if connection >= self.used:
            raise ValueError(f"connection {connection} is unknown; there are {self.used}")
        return &self.at[connection]

    # ---- what Python starts ---------------------------------------------------------------------------------------

    def connect(self, str host, int port, *, int pending_max=256, double deadline_s=60.0):
        """Opens every new connection and waits until all are live; the seconds it took."""
        cdef uint64_t begun = now_ns(), until = begun + <uint64_t>(deadline_s * 1e9)
        self.address = int(ipaddress.IPv4Address(host))
        self.port = port
        while self.live < self.used and not self.dead and now_ns() < until:
            self._connect(pending_max, until)
        if self.live < self.used:
            raise ConnectionError(f"{self.live} of {self.used} connections are live after "
                                  f"{(now_ns() - begun) / 1e9:.1f} s, {self.dead} dead; last words {self.last_words()!r}")
        return (now_ns() - begun) / 1e9

    cdef int _connect(self, uint64_t pending_max, uint64_t until_ns) except -1:
        cdef uint64_t slice_ns = min(until_ns, now_ns() + SLICE_NS)
        with nogil:  # no Python objects: the arrays belong to self, which the caller holds
            self._connect_until(pending_max, slice_ns)
        return PyErr_CheckSignals()

    cdef int _connect_until(self, uint64_t pending_max, uint64_t until_ns) except -1 nogil:
        """Opens while few enough are under way; returns when all are live or one is dead."""
        cdef uint64_t now = now_ns()
        while self.live < self.used and not self.dead and now < until_ns:
            while self.opened < self.used and self.pending < pending_max:
                self._open(self.opened)
                self.opened += 1
            self._step(min(until_ns - now, <uint64_t>5_000_000))
            now = now_ns()
        return 0

    def run(self, double seconds, *, double warmup_s=0.0, double drain_s=10.0, uint32_t recipients=0,
            double rate_per_s=0.0, uint64_t limit=0, double stall_s=2.0):
        """Publishes: warms up, measures for some seconds (less if limit messages are sent and settled), drains, and
        counts what else has come by then. Each message goes to so many recipients (0: nobody listens); rate_per_s makes
        it an open loop of Poisson arrivals, else the next pack leaves when everybody has the last one (nobody listens:
        each publisher's when it is answered), or nothing has come for stall_s, which also ends the draining."""
        cdef uint64_t begun = now_ns(), cpu, until_ns
        cdef uint32_t i
        if not self.publishers:
            raise ValueError("nobody publishes: publisher() first")
        if rate_per_s < 0 or rate_per_s > 1e8:
            raise ValueError(f"rate_per_s is {rate_per_s}; it must be 0 (closed loop) to 1e8")
        self.recipients = recipients
        self.interval_ns = <uint64_t>(1e9 / rate_per_s) if rate_per_s > 0 else 0
        self.due_ns = self.progress_ns = begun
        self.stall_ns = <uint64_t>(stall_s * 1e9)
        self.limit = limit
        self.publishing = not self.dead
        if self.publishing and not self.interval_ns:
            for i in range(1 if recipients else self.publishers):
                self._publish(self.publisher_at[i], now_ns())
        if warmup_s > 0:
            self._run(begun + <uint64_t>(warmup_s * 1e9), 0, limit > 0)
        self.waits.count = self.late.count = 0
        self.measuring = True
        self.sent_from, self.answered_from, self.deliveries_from = self.sent, self.answered, self.deliveries
        self.window_from_ns = now_ns()
        cpu = thread_ns()
        self._run(self.window_from_ns + <uint64_t>(seconds * 1e9), 0, limit > 0)
        self.busy_ns = thread_ns() - cpu
        self.window_to_ns = now_ns()
        self.sent_to, self.answered_to, self.deliveries_to = self.sent, self.answered, self.deliveries
        self.measuring = self.publishing = False
        self.progress_ns = now_ns()
        until_ns = now_ns() + <uint64_t>(drain_s * 1e9)
        self._run(until_ns, 0, True)
        with nogil:  # no Python objects: the arrays belong to self, which the caller holds
            self._look(until_ns)

    def command(self, uint32_t connection, const uint8_t[::1] data):
        """Sends some bytes outside of all counts."""
        cdef Peer *c = self._known(connection)
        if c.life != S_LIVE:
            raise ConnectionError(f"connection {connection} isn't live; last words {self.last_words()!r}")
        if data.shape[0]:
            self._send(connection, &data[0], data.shape[0])

    def collect(self, uint64_t messages, bytes asked=b"", *, double deadline_s=60.0):
        """Asks (the first connection) and reads until so many stored messages have come, from index 1 on, their fill
        compared; the seconds it took. That fewer came is seen in the counts."""
        cdef uint64_t begun = now_ns(), cpu = thread_ns()
        self.remembers = False
        if asked:
            self.command(0, asked)
        self._run(begun + <uint64_t>(deadline_s * 1e9), messages, False)
        self.busy_ns = thread_ns() - cpu
        self.window_from_ns, self.window_to_ns = begun, now_ns()
        return (now_ns() - begun) / 1e9

    def idle(self, double seconds):
        """Answers what comes, for some seconds."""
        self._run(now_ns() + <uint64_t>(seconds * 1e9), 0, False)

    def close(self):
        """Closes every connection; nothing can be started again."""
        cdef uint32_t k
        for k in range(self.used):
            if self.at[k].life != S_NEW and self.at[k].life != S_DEAD:
                self._die(k)
        self.closed = True

    # ---- what Python reads ----------------------------------------------------------------------------------------

    def last_words(self):
        """What a server said last that was no payload."""
        return self.last_text[:self.last_text_size].decode("utf-8", "replace")

    def stats(self):
        """Counts; those of the measured window end in _in_window."""
        cdef uint64_t window = self.window_to_ns - self.window_from_ns
        return {"connections": self.used, "live": self.live, "dead": self.dead, "sent": self.sent,
                "answered": self.answered, "refused": self.refused, "deliveries": self.deliveries,
                "given_up": self.given_up, "corrupted": self.corrupted, "disordered": self.disordered,
                "strays": self.strays, "broken": self.broken, "bytes_in": self.bytes_in, "reads": self.reads,
                "sends": self.sends, "sent_in_window": self.sent_to - self.sent_from,
                "answered_in_window": self.answered_to - self.answered_from,
                "deliveries_in_window": self.deliveries_to - self.deliveries_from, "window_s": window / 1e9,
                "cpu_share": <double>self.busy_ns / <double>window if window else 0.0}

    cdef bytes _taken(self, const Samples *samples):
        return PyBytes_FromStringAndSize(<const char *>samples.ns, samples.count * sizeof(uint64_t))

    def waits_ns(self):
        """Latencies of the window, as native 64-bit integers: of deliveries from their intended time (open loop), or of
        answers where nobody listens. At most the first two million."""
        return self._taken(&self.waits)

    def late_ns(self):
        """How long after they were due the packs of an open loop left."""
        return self._taken(&self.late)
