# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The header of the PROXY protocol: which client a load balancer brings, in text (version 1) or binary (version 2).

Before the first byte of the client's own; ext/inbound reads it where the operator says that proxies are in front. A
wrong byte is refused when it comes, not at the end of a header that never ends.

Strict, because the sender is a program that the operator runs: one space between fields, no leading zeros, ports to
65535, the family that was named; of version 2 only what fits a TCP connection. Additions behind the addresses (TLVs)
are passed over. Cost: one pass over the header, no allocation.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp, memcpy, memset

from ext.c_socket cimport AF_INET, AF_INET6, c_inet_pton

cdef enum:
    TEXT_BYTES_MAX = 107  # "PROXY UNKNOWN" with two IPv6 addresses and ports, CR LF included
    BINARY_HEAD_BYTES = 16
    SIGNATURE_BYTES = 12
    ADDRESS_TEXT_BYTES_MAX = 39

cdef const uint8_t *SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
cdef const uint8_t *WORD = b"PROXY "

cdef struct Text:
    const uint8_t *at
    size_t size


cdef int proxied_read(const uint8_t *data, size_t size, Proxied *out) noexcept nogil:
    cdef size_t known
    memset(out, 0, sizeof(Proxied))
    if size == 0:
        return PX_MORE
    if data[0] == SIGNATURE[0]:
        known = min(size, <size_t>SIGNATURE_BYTES)
        return PX_BAD if memcmp(data, SIGNATURE, known) else _binary(data, size, out)
    known = min(size, <size_t>6)
    return PX_BAD if memcmp(data, WORD, known) else _text(data, size, out)


# ---- version 2 -------------------------------------------------------------------------------------------------------

cdef int _binary(const uint8_t *data, size_t size, Proxied *out) noexcept nogil:
    cdef uint32_t length, needed
    if size > 12 and data[12] != 0x20 and data[12] != 0x21:
        return PX_BAD  # version 2, LOCAL or PROXY
    if size > 13 and not _is_stream(data[13]):
        return PX_BAD
    if size < BINARY_HEAD_BYTES:
        return PX_MORE
    length = <uint32_t>data[14] << 8 | data[15]
    needed = 0
    if data[12] == 0x21:
        needed = 12 if data[13] == 0x11 else 36 if data[13] == 0x21 else 216 if data[13] == 0x31 else 0
    if length < needed or BINARY_HEAD_BYTES + length > PROXIED_BYTES_MAX:
        return PX_BAD
    if size < BINARY_HEAD_BYTES + length:
        return PX_MORE
    out.size = BINARY_HEAD_BYTES + length
    if data[12] == 0x20:
        return PX_DONE  # LOCAL: the proxy's own, whatever it says of addresses
    if data[13] == 0x11:
        _take_ipv4(data + BINARY_HEAD_BYTES, out)
    elif data[13] == 0x21:
        memcpy(out.address, data + BINARY_HEAD_BYTES, 16)
        out.family = 6
    return PX_DONE


cdef bint _is_stream(uint8_t family) noexcept nogil:
    """Unspecified, or a stream over IPv4, IPv6 or a Unix socket."""
    return family == 0x00 or family == 0x11 or family == 0x21 or family == 0x31


cdef void _take_ipv4(const uint8_t *address, Proxied *out) noexcept nogil:
    out.address[10] = out.address[11] = 0xFF
    memcpy(out.address + 12, address, 4)
    out.family = 4


# ---- version 1 -------------------------------------------------------------------------------------------------------

cdef int _text(const uint8_t *data, size_t size, Proxied *out) noexcept nogil:
    cdef size_t end = 0, i
    for i in range(min(size, <size_t>TEXT_BYTES_MAX)):
        if data[i] == 13:
            if i + 1 == size:
                return PX_MORE if size < TEXT_BYTES_MAX else PX_BAD
            if data[i + 1] != 10 or i + 2 > TEXT_BYTES_MAX:
                return PX_BAD
            end = i
            break
        if not 32 <= data[i] <= 126:
            return PX_BAD
    if end == 0:
        return PX_MORE if size < TEXT_BYTES_MAX else PX_BAD
    out.size = <uint32_t>end + 2
    return _fields(data + 6, end - 6, out)


cdef int _fields(const uint8_t *data, size_t size, Proxied *out) noexcept nogil:
    """Behind "PROXY ": the protocol, two addresses, two ports."""
    cdef Text parts[5]
    cdef uint8_t other[16]
    cdef size_t i, begin = 0
    cdef int count = 0
    if size >= 7 and memcmp(data, b"UNKNOWN", 7) == 0 and (size == 7 or data[7] == 32):
        return PX_DONE  # whatever follows is to be ignored
    for i in range(size + 1):
        if i < size and data[i] != 32:
            continue
        if count == 5 or i == begin:
            return PX_BAD
        parts[count].at, parts[count].size = data + begin, i - begin
        count += 1
        begin = i + 1
    if count != 5 or parts[0].size != 4 or memcmp(parts[0].at, b"TCP", 3) or not _is_port(parts[3]) or not _is_port(
            parts[4]):
        return PX_BAD
    if parts[0].at[3] == 52:  # "4"
        if not _address(parts[1], AF_INET, other) or not _address(parts[2], AF_INET, other + 4):
            return PX_BAD
        _take_ipv4(other, out)
        return PX_DONE
    if parts[0].at[3] != 54 or not _address(parts[1], AF_INET6, out.address) or not _address(
            parts[2], AF_INET6, other):
        return PX_BAD
    out.family = 6
    return PX_DONE


cdef bint _is_port(Text text) noexcept nogil:
    cdef uint32_t value = 0
    cdef size_t i
    if not 1 <= text.size <= 5 or text.size > 1 and text.at[0] == 48:
        return False
    for i in range(text.size):
        if not 48 <= text.at[i] <= 57:
            return False
        value = value * 10 + text.at[i] - 48
    return value <= 65535


cdef bint _address(Text text, int family, uint8_t *to) noexcept nogil:
    cdef char copy[40]
    if text.size > ADDRESS_TEXT_BYTES_MAX:
        return False
    memcpy(copy, text.at, text.size)
    copy[text.size] = 0
    return c_inet_pton(family, copy, to) == 1


def read_header(const uint8_t[::1] data):
    """(verdict, size, family, address) for tests."""
    cdef Proxied found
    cdef int verdict = proxied_read(&data[0] if data.shape[0] else NULL, <size_t>data.shape[0], &found)
    return verdict, found.size, found.family, <bytes>found.address[:16]
