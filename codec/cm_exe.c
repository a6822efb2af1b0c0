/* cm_exe.c - makes the targets of calls, jumps and data references of machine code absolute: then
 * two references to one place look alike. Exactly invertible for any bytes.
 *
 * x86: the walk looks only at opcode bytes, never inside an operand, changed or not, so that both
 * directions stop at the same places. A relative value r at place p of a segment of n bytes with
 * -p <= r < n - p becomes p + r in [0, n); the values n - p <= r < n give way and become r - n in
 * [-p, 0). Together a bijection of [-p, n); all others stay (as in the "E8 translation" of CAB).
 * ARM64: sums modulo the width of the field, a bijection by itself. */
#include "cm.h"

static void put32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(v >> 8 * i);
}

/* place: of the byte after the operand. */
static void move_operand(uint8_t *operand, size_t place, size_t size, bool forward)
{
    const int64_t p = (int64_t)place, n = (int64_t)size;
    int64_t v = vz_rd32(operand);
    if (v >= (int64_t)1 << 31) v -= (int64_t)1 << 32;
    if (v < -p || v >= n) return;
    if (forward) v = v < n - p ? v + p : v - n;
    else v = v >= 0 ? v - p : v + n;
    put32(operand, (uint32_t)(v & 0xffffffff));
}

/* Bytes before the 32-bit operand of an instruction at b with a relative target; 0: none. */
static size_t x86_lead(const uint8_t *b)
{
    if (b[0] == 0xe8 || b[0] == 0xe9) return 1;
    if (b[0] == 0x0f && (b[1] & 0xf0) == 0x80) return 2;
    if (b[0] == 0xff && (b[1] == 0x15 || b[1] == 0x25)) return 2;
    if ((b[0] & 0xf8) == 0x48 && (b[2] & 0xc7) == 0x05 &&
        (b[1] == 0x8b || b[1] == 0x8d || b[1] == 0x89 || b[1] == 0x3b || b[1] == 0x39))
        return 3;
    return 0;
}

void vz_exe_x86(uint8_t *data, size_t size, bool forward)
{
    if (size < 8 || size >= (size_t)1 << 30) return;
    for (size_t i = 0; i + 8 <= size;) {
        const size_t lead = x86_lead(data + i);
        if (lead) move_operand(data + i + lead, i + lead + 4, size, forward);
        i += lead ? lead + 4 : 1;
    }
}

void vz_exe_arm64(uint8_t *data, size_t size, bool forward)
{
    for (size_t i = 0; i + 4 <= size; i += 4) {
        uint32_t w = vz_rd32(data + i);
        const uint32_t sign = forward ? 1u : 0xffffffffu;
        if (w >> 26 == 0x25) { /* BL imm26 */
            w = (w & 0xfc000000u) | ((w + sign * (uint32_t)(i >> 2)) & 0x03ffffffu);
        } else if ((w & 0x9f000000u) == 0x90000000u) { /* ADRP: immhi 23..5, immlo 30..29 */
            uint32_t v = (w >> 3 & 0x1ffffcu) | (w >> 29 & 3u);
            v = (v + sign * (uint32_t)(i >> 12)) & 0x1fffffu;
            w = (w & 0x9f00001fu) | (v & 0x1ffffcu) << 3 | (v & 3u) << 29;
        } else {
            continue;
        }
        put32(data + i, w);
    }
}

/* ---- Where machine code is --------------------------------------------------------------------
 * Near calls and jumps with small targets, and 64-bit moves, are 3 to 8 % of x86 code and 0.02 % of
 * random bytes. Branches with link, page addresses, loads, moves and returns are more than 10 % of
 * the words of ARM64. */
vz_kind vz_exe_kind(const uint8_t *p, size_t size)
{
    size_t x86 = 0, arm = 0;
    for (size_t i = 0; i + 6 <= size; i++) {
        const uint8_t a = p[i], b = p[i + 1];
        if ((a & 0xfe) == 0xe8) x86 += (uint8_t)(p[i + 4] + 1) < 2;
        else if (a == 0x0f && (b & 0xf0) == 0x80) x86 += (uint8_t)(p[i + 5] + 1) < 2;
        else if ((a & 0xfb) == 0x48) x86 += b == 0x89 || b == 0x8b || b == 0x8d;
    }
    for (size_t i = 0; i + 4 <= size; i += 4) {
        const uint32_t w = vz_rd32(p + i);
        arm += w >> 26 == 0x25 || (w & 0x9f000000u) == 0x90000000u || w == 0xd65f03c0u ||
               (w & 0xffc00000u) == 0xf9400000u || (w & 0x7fe0ffe0u) == 0x2a0003e0u;
    }
    if (size == 0) return VZ_BINARY;
    return x86 * 80 >= size ? VZ_X86 : arm * 40 >= size ? VZ_ARM64 : VZ_BINARY;
}
