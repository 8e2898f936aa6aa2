# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The doorway: connections between accept and hello, bounded in all and for each address.

Used by ext/sockets (who comes in, who is put out when it is full) and ext/inbound (who has said hello). The story: a
crowd that says nothing must not keep those out who would; and thousands of people may stand behind one carrier's
address. So a session counts here only until its hello has been accepted; when a limit is reached, who has waited
longest without a word is put out, of the same address if the limit is that address's; and the rate of an address
matters only while time is scarce (`pressed`), for places are not.

Invariants: memory is fixed. An address that finds no place in its set of entries, all of whose addresses have
connections here, is counted in the total alone. Who has said hello is never put out: it waits for us.
Cost: a look at 8 entries a connection; no allocation.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from ext.c_memory cimport pages_map, pages_unmap
from ext.c_socket cimport AF_INET, AF_INET6

import os

cdef enum:
    TIME_MAX_MS = 600_000


cdef bint address_of(const uint8_t *name, uint8_t *to) noexcept nogil:
    cdef uint32_t family = name[0] | <uint32_t>name[1] << 8  # little-endian, as are the machines that this runs on
    memset(to, 0, 16)
    if family == <uint32_t>AF_INET:
        to[10] = to[11] = 0xFF
        memcpy(to + 12, name + 4, 4)
        return True
    if family == <uint32_t>AF_INET6:
        memcpy(to, name + 8, 16)
        return True
    return False


cdef uint64_t address_key(const uint8_t *address) noexcept nogil:
    cdef uint64_t key = 0
    cdef int i, first = 0
    for i in range(10):
        if address[i]:
            break
    else:
        if address[10] == 0xFF and address[11] == 0xFF:
            first = 8
    for i in range(8):
        key = key << 8 | address[first + i]
    return key or 1


cdef class Doorway:
    def __cinit__(self, *, uint32_t places_max=20_000, uint32_t address_max=2_000, uint32_t connects_per_s=500,
                  uint32_t connects_burst=4_000, uint32_t failed_cost=20, uint32_t addresses_max=65_536, proxies=None):
        cdef bytes network
        if not (1 <= places_max <= 1 << 24 and 1 <= address_max and SET_ENTRIES <= addresses_max <= 1 << 24
                and 1 <= connects_per_s <= 1_000_000 and 1 <= connects_burst <= 1_000_000):
            raise ValueError(f"places_max = {places_max}, addresses_max = {addresses_max}, connects_burst ="
                             f" {connects_burst} or connects_per_s = {connects_per_s} is out of range")
        self.places_max, self.address_max = places_max, min(address_max, places_max)
        self.connects_per_s, self.connects_burst, self.failed_cost = connects_per_s, connects_burst, failed_cost
        self.entries_room = SET_ENTRIES
        while self.entries_room < addresses_max:
            self.entries_room *= 2
        self.seed = int.from_bytes(os.urandom(8), "little")
        self.places = <Place *>pages_map(<size_t>(places_max + 1) * sizeof(Place))
        self.entries = <Entry *>pages_map(<size_t>(self.entries_room + 1) * sizeof(Entry))
        if self.places == NULL or self.entries == NULL:
            raise MemoryError(f"no memory for a doorway of {places_max} connections")
        if proxies is not None:
            if not 1 <= len(proxies) <= NETWORKS_MAX:
                raise ValueError(f"{len(proxies)} networks of proxies; 1 to {NETWORKS_MAX} can be given")
            self.proxied = True
            for network, bits in proxies:
                if len(network) != 16 or not 0 <= bits <= 128:
                    raise ValueError(f"{network!r}/{bits} is no network of 16 bytes")
                memcpy(self.networks[self.network_count].address, <const uint8_t *>network, 16)
                self.networks[self.network_count].bits = bits
                self.network_count += 1

    def __dealloc__(self):
        if self.places != NULL:
            pages_unmap(self.places, <size_t>(self.places_max + 1) * sizeof(Place))
        if self.entries != NULL:
            pages_unmap(self.entries, <size_t>(self.entries_room + 1) * sizeof(Entry))

    def count(self):
        """Connections in the doorway."""
        return self.used

    def count_of(self, bytes address):
        """Those of an address of 16 bytes."""
        cdef uint64_t key
        if len(address) != 16:
            raise ValueError(f"{address!r} is no address of 16 bytes")
        key = address_key(address)
        return sum(self.entries[i].count for i in range(1, self.entries_room + 1) if self.entries[i].address == key)

    def memory_bytes(self):
        """What both arrays take when all of them is used."""
        return (self.places_max + 1) * sizeof(Place) + (self.entries_room + 1) * sizeof(Entry)

    # proxies

    cdef bint trusts(self, const uint8_t *address) noexcept nogil:
        cdef uint32_t i, whole, rest
        for i in range(self.network_count):
            whole, rest = self.networks[i].bits // 8, self.networks[i].bits % 8
            if memcmp(address, self.networks[i].address, whole) == 0 and (
                    rest == 0 or (address[whole] ^ self.networks[i].address[whole]) >> (8 - rest) == 0):
                return True
        return False

    # coming and going

    cdef bint is_full(self) noexcept nogil:
        return self.used >= self.places_max

    cdef uint32_t enter(self, uint32_t session) noexcept nogil:
        cdef uint32_t place = self.free_head
        if place:
            self.free_head = self.places[place].after
        elif self.high < self.places_max:
            self.high += 1
            place = self.high
        else:
            return 0
        memset(&self.places[place], 0, sizeof(Place))
        self.places[place].session = session
        self.places[place].before = self.newest
        if self.newest:
            self.places[self.newest].after = place
        else:
            self.oldest = place
        self.newest = place
        self.used += 1
        return place

    cdef bint come_from(self, uint32_t place, uint64_t address, uint32_t now_ms) noexcept nogil:
        cdef Place *p = &self.places[place]
        cdef Entry *entry = self._entry(address, now_ms)
        if entry == NULL:
            return True
        p.entry = <uint32_t>(entry - self.entries)
        entry.count += 1
        p.before_same = entry.newest
        if entry.newest:
            self.places[entry.newest].after_same = place
        else:
            entry.oldest = place
        entry.newest = place
        if entry.tokens_milli >= 1000:
            entry.tokens_milli -= 1000
            return True
        return not self.pressed

    cdef bint is_crowded(self, uint32_t place) noexcept nogil:
        return self.entries[self.places[place].entry].count > self.address_max

    cdef uint32_t first(self) noexcept nogil:
        return self.places[self.oldest].session

    cdef uint32_t first_of(self, uint32_t place) noexcept nogil:
        return self.places[self.entries[self.places[place].entry].oldest].session

    cdef void keep(self, uint32_t place, uint32_t session) noexcept nogil:
        if place <= self.places_max and self.places[place].session == session and not self.places[place].kept:
            self._unlink(place)
            self.places[place].kept = True

    cdef void fail(self, uint32_t place, uint32_t session, uint32_t now_ms) noexcept nogil:
        """A hello that was refused for its token: it costs its address as much as so many connects."""
        cdef Entry *entry
        cdef uint64_t cost = <uint64_t>self.failed_cost * 1000
        if place > self.places_max or self.places[place].session != session or self.places[place].entry == 0:
            return
        entry = &self.entries[self.places[place].entry]
        self._refill(entry, now_ms)
        entry.tokens_milli -= <uint32_t>min(cost, <uint64_t>entry.tokens_milli)

    cdef void leave(self, uint32_t place, uint32_t session) noexcept nogil:
        cdef Place *p
        if place == 0 or place > self.places_max or self.places[place].session != session:
            return  # it has left already
        p = &self.places[place]
        if not p.kept:
            self._unlink(place)
        if p.entry:
            self.entries[p.entry].count -= 1
        p.session = 0
        p.after = self.free_head
        self.free_head = place
        self.used -= 1

    cdef void _unlink(self, uint32_t place) noexcept nogil:
        """Out of both lists."""
        cdef Place *p = &self.places[place]
        cdef Entry *entry = &self.entries[p.entry]
        if p.before:
            self.places[p.before].after = p.after
        else:
            self.oldest = p.after
        if p.after:
            self.places[p.after].before = p.before
        else:
            self.newest = p.before
        if p.entry == 0:
            return
        if p.before_same:
            self.places[p.before_same].after_same = p.after_same
        else:
            entry.oldest = p.after_same
        if p.after_same:
            self.places[p.after_same].before_same = p.before_same
        else:
            entry.newest = p.before_same

    # addresses

    cdef Entry *_entry(self, uint64_t address, uint32_t now_ms) noexcept nogil:
        """That of an address; a new one takes the entry without connections that has been quiet longest."""
        cdef uint64_t mixed = (address ^ self.seed) * <uint64_t>0x9E3779B97F4A7C15
        cdef uint32_t first = 1 + <uint32_t>((mixed ^ mixed >> 32) & (self.entries_room - 1)) // SET_ENTRIES * SET_ENTRIES, i
        cdef Entry *entry
        cdef Entry *found = NULL
        for i in range(SET_ENTRIES):
            entry = &self.entries[first + i]
            if entry.address == address:
                self._refill(entry, now_ms)
                return entry
            if entry.count == 0 and (found == NULL or entry.address == 0 or found.address and <int32_t>(
                    found.at_ms - entry.at_ms) > 0):
                found = entry
        if found == NULL:
            return NULL
        memset(found, 0, sizeof(Entry))
        found.address = address
        found.at_ms = now_ms
        found.tokens_milli = self.connects_burst * 1000
        return found

    cdef void _refill(self, Entry *entry, uint32_t now_ms) noexcept nogil:
        cdef uint64_t passed_ms = min(now_ms - entry.at_ms, <uint32_t>TIME_MAX_MS)
        cdef uint64_t tokens = entry.tokens_milli + passed_ms * self.connects_per_s
        entry.tokens_milli = <uint32_t>min(tokens, <uint64_t>self.connects_burst * 1000)
        entry.at_ms = now_ms
