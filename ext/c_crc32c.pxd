# Foreign C: the CRC32C instruction of the processor at hand, or a table. Chosen once a process, at run time.
# Castagnoli's polynomial, reflected, as in RFC 3720 section 12.1 and RFC 7143: crc32c("123456789") = 0xE3069283.
from libc.stdint cimport uint8_t, uint32_t

cdef extern from *:
    """
    #include <stddef.h>
    #include <stdint.h>
    #include <string.h>

    static uint32_t crc32c_table[8][256];

    /* Eight bytes a step through eight tables, for processors without the instruction. */
    static uint32_t crc32c_by_table(uint32_t crc, const uint8_t *at, size_t size) {
        while (size >= 8) {
            uint64_t word;
            memcpy(&word, at, 8);
            word ^= crc;
            crc = crc32c_table[7][word & 255] ^ crc32c_table[6][(word >> 8) & 255]
                ^ crc32c_table[5][(word >> 16) & 255] ^ crc32c_table[4][(word >> 24) & 255]
                ^ crc32c_table[3][(word >> 32) & 255] ^ crc32c_table[2][(word >> 40) & 255]
                ^ crc32c_table[1][(word >> 48) & 255] ^ crc32c_table[0][word >> 56];
            at += 8;
            size -= 8;
        }
        while (size--) crc = (crc >> 8) ^ crc32c_table[0][(crc ^ *at++) & 255];
        return crc;
    }

    #if defined(__x86_64__)
    __attribute__((target("sse4.2")))
    static uint32_t crc32c_by_instruction(uint32_t crc, const uint8_t *at, size_t size) {
        uint64_t wide = crc, word;
        while (size >= 8) {
            memcpy(&word, at, 8);
            wide = __builtin_ia32_crc32di(wide, word);
            at += 8;
            size -= 8;
        }
        crc = (uint32_t)wide;
        while (size--) crc = __builtin_ia32_crc32qi(crc, *at++);
        return crc;
    }
    static int crc32c_has_instruction(void) { __builtin_cpu_init(); return __builtin_cpu_supports("sse4.2"); }
    #elif defined(__aarch64__)
    #include <sys/auxv.h>
    __attribute__((target("+crc")))
    static uint32_t crc32c_by_instruction(uint32_t crc, const uint8_t *at, size_t size) {
        uint64_t word;
        while (size >= 8) {
            memcpy(&word, at, 8);
            crc = __builtin_aarch64_crc32cx(crc, word);
            at += 8;
            size -= 8;
        }
        while (size--) crc = __builtin_aarch64_crc32cb(crc, *at++);
        return crc;
    }
    static int crc32c_has_instruction(void) { return (getauxval(AT_HWCAP) >> 7) & 1; } /* HWCAP_CRC32 */
    #else
    #define crc32c_by_instruction crc32c_by_table
    static int crc32c_has_instruction(void) { return 0; }
    #endif

    static uint32_t (*crc32c_run)(uint32_t, const uint8_t *, size_t) = crc32c_by_table;

    /* Once, before any other call: fills the tables, chooses. */
    static void crc32c_choose(void) {
        for (uint32_t byte = 0; byte < 256; byte++) {
            uint32_t crc = byte;
            for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ (0x82F63B78u & (0u - (crc & 1)));
            crc32c_table[0][byte] = crc;
        }
        for (int step = 1; step < 8; step++)
            for (int byte = 0; byte < 256; byte++)
                crc32c_table[step][byte] = (crc32c_table[step - 1][byte] >> 8)
                                         ^ crc32c_table[0][crc32c_table[step - 1][byte] & 255];
        crc32c_run = crc32c_has_instruction() ? crc32c_by_instruction : crc32c_by_table;
    }
    """
    void crc32c_choose() noexcept nogil
    bint crc32c_has_instruction() noexcept nogil
    uint32_t crc32c_run(uint32_t crc, const uint8_t *at, size_t size) noexcept nogil  # without the two inversions
    uint32_t crc32c_by_table(uint32_t crc, const uint8_t *at, size_t size) noexcept nogil
