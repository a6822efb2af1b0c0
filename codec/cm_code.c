/* cm_code.c - contexts of machine code: a walk over the instructions tells what the next byte is.
 *
 * x86-64: prefixes, opcode, ModRM, SIB, displacement, immediate, from two bit maps of the opcodes
 * that have a ModRM byte or an immediate. The walk need not be right in data or odd instructions:
 * it only chooses contexts, and finds back to the grid of real code within a few instructions.
 * ARM64: words of 4 bytes; the fields of the words before. */
#include "cm.h"

enum { START = 0, ESCAPED, ESCAPED_LONG, MODRM, SIB, DISPLACEMENT, IMMEDIATE };

/* One bit per opcode, eight to a byte, lowest first. */
static const uint8_t HAS_MODRM[32] = {
    0x0f, 0x0f, 0x0f, 0x0f, 0x0f, 0x0f, 0x0f, 0x0f, 0x00, 0x00, 0x00, 0x00, 0x0c, 0x0a, 0x00, 0x00,
    0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xc3, 0x00, 0x0f, 0xff, 0x00, 0x00, 0xc0, 0xc0};
static const uint8_t HAS_IMM8[32] = {
    0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x00, 0x00, 0x00, 0x00, 0x00, 0x0c, 0xff, 0xff,
    0x0d, 0x00, 0x00, 0x00, 0x00, 0x01, 0xff, 0x00, 0x43, 0x20, 0x20, 0x00, 0xff, 0x08, 0x00, 0x00};
static const uint8_t HAS_IMM32[32] = {
    0x20, 0x20, 0x20, 0x20, 0x20, 0x20, 0x20, 0x20, 0x00, 0x00, 0x00, 0x00, 0x00, 0x03, 0x00, 0x00,
    0x02, 0x00, 0x00, 0x00, 0x00, 0x02, 0x00, 0xff, 0x80, 0x00, 0x00, 0x00, 0x00, 0x03, 0x00, 0x00};
static bool has(const uint8_t map[32], uint32_t op) { return map[op >> 3] >> (op & 7) & 1; }

static void finish(vz_code *k)
{
    for (int i = 7; i > 0; i--) k->ops[i] = k->ops[i - 1];
    k->ops[0] = k->op << 8 | (k->modrm & 0xf8); /* the register fields, not the base */
    k->state = START;
    k->instruction = k->prefix = k->left = k->op = k->modrm = k->immediate = 0;
}

static void operands(vz_code *k)
{
    if (k->left == 0 && k->immediate > 0) {
        k->state = IMMEDIATE;
        k->left = k->immediate;
        k->immediate = 0;
    }
    if (k->left == 0) finish(k);
}

static void opcode(vz_code *k, uint32_t c, bool escaped)
{
    k->op = c | (escaped ? 256u : 0);
    if (escaped) {
        if (c >> 4 == 8) k->immediate = 4;
        else if ((c >= 0x70 && c <= 0x73) || c == 0xc2 || c == 0xc6 || c == 0xa4 || c == 0xba)
            k->immediate = 1;
        const bool plain = c >> 4 == 8 || c == 0x05 || c == 0x0b || c == 0xa2 || c >> 3 == 0x19;
        k->state = plain ? DISPLACEMENT : MODRM;
    } else {
        k->immediate = has(HAS_IMM8, c) ? 1 : has(HAS_IMM32, c) ? 4 : 0;
        if (c >> 3 == 0x17 && (k->prefix & 8)) k->immediate = 8;
        if (c == 0xc2) k->immediate = 2;
        k->state = has(HAS_MODRM, c) ? MODRM : DISPLACEMENT;
    }
    if (k->state != MODRM) operands(k);
}

static void modrm(vz_code *k, uint32_t c)
{
    const uint32_t mode = c >> 6, base = c & 7;
    k->modrm = c | 256;
    if ((k->op == 0xf6 || k->op == 0xf7) && (c >> 3 & 7) < 2) k->immediate = k->op == 0xf6 ? 1 : 4;
    k->left = mode == 1 ? 1 : mode == 2 || (mode == 0 && base == 5) ? 4 : 0;
    if (mode != 3 && base == 4) {
        k->state = SIB;
        return;
    }
    k->state = DISPLACEMENT;
    operands(k);
}

static void x86_byte(vz_code *k, uint32_t c)
{
    k->instruction = vz_hash2(k->instruction + 1, c);
    switch (k->state) {
    case START:
        if (c >> 4 == 4) k->prefix = c;
        else if (c == 0x0f) k->state = ESCAPED;
        else if (c != 0x66 && c != 0xf2 && c != 0xf3 && c != 0xf0 && c != 0x64 && c != 0x2e)
            opcode(k, c, false);
        break;
    case ESCAPED:
        if (c == 0x38 || c == 0x3a) {
            k->immediate = c == 0x3a;
            k->op = c | 512;
            k->state = ESCAPED_LONG;
        } else {
            opcode(k, c, true);
        }
        break;
    case ESCAPED_LONG: k->op = c | 768; k->state = MODRM; break;
    case MODRM: modrm(k, c); break;
    case SIB:
        if ((c & 7) == 5 && (k->modrm & 0xc0) == 0) k->left = 4;
        k->state = DISPLACEMENT;
        operands(k);
        break;
    default:
        if (k->left > 0) k->left--;
        if (k->left == 0) {
            if (k->state == IMMEDIATE) finish(k);
            else operands(k);
        }
    }
}

void vz_cm_code_byte(vz_cm *cm, uint32_t c)
{
    vz_code *k = &cm->code;
    if (cm->kind == VZ_X86) {
        x86_byte(k, c);
        return;
    }
    k->position = (k->position + 1) & 3;
    k->instruction = k->position == 0 ? 0 : vz_hash2(k->instruction + 1, c);
    k->state = k->position;
    if (k->position == 0) {
        for (int i = 7; i > 0; i--) k->ops[i] = k->ops[i - 1];
        k->ops[0] = (c << 24 | (cm->c4 & 0xe00000)) >> 8;
    }
}

#define ADD(v) (h[n] = vz_hash2((v), (uint32_t)(n + 1) * 0x51ab3f29u), n++)

/* The 10 contexts of the strongest class beyond the 14 of the middle one. */
static void more_contexts(const vz_cm *cm, uint32_t *h, int n, uint32_t place, uint32_t two)
{
    const vz_code *k = &cm->code;
    const uint32_t c4 = cm->c4, c8 = cm->c8, c1 = c4 & 0xff;
    ADD(vz_hash2(c4, c8 & 0xff));
    ADD(vz_hash2(c4, c8));
    ADD(c4 & 0xff00);
    ADD(c4 & 0xff0000);
    ADD(c4 & 0xff00ff);
    ADD(vz_hash2(cm->indirect1[c1], c1));
    ADD(vz_hash2(cm->text.word, c1));
    ADD(vz_hash2(vz_hash2(k->op, two), place | k->modrm << 16));
    ADD(vz_hash2(k->instruction, vz_hash2(k->ops[1], k->ops[2])));
    ADD(vz_hash2(k->op | k->modrm << 16, c1 | place << 8));
}

void vz_cm_code_contexts(vz_cm *cm)
{
    uint32_t *h = cm->hash;
    const vz_code *k = &cm->code;
    const uint32_t c4 = cm->c4, c8 = cm->c8, c1 = c4 & 0xff;
    const uint32_t place = k->state | k->left << 3;
    const uint32_t two = vz_hash2(k->ops[0], k->ops[1]);
    int n = 0;
    ADD(c1 | place << 8);
    if (cm->strength != VZ_CM_FAST) ADD(c4 & 0xffff);
    ADD(c4 & 0xffffff);
    ADD(c4);
    ADD(vz_hash2(c4, c8 & 0xffff));
    ADD(vz_hash2(k->instruction, place));
    ADD(vz_hash2(k->instruction, k->ops[0]));
    ADD(vz_hash2(k->op | k->modrm << 16, place));
    if (cm->strength == VZ_CM_FAST) return;
    ADD(vz_hash2(k->instruction, two));
    ADD(vz_hash2(k->instruction, vz_hash2(two, k->ops[2])));
    ADD(vz_hash2(vz_hash2(k->op, two), place));
    ADD(vz_hash2(k->instruction, k->ops[1]));
    ADD(c4 & 0xffff00);
    ADD(vz_hash2(cm->indirect2[c4 & 0xffff], c1));
    cm->select[0] = place & 0xff;
    cm->select[1] = k->op & 0xff;
    if (cm->strength == VZ_CM_MAX) more_contexts(cm, h, n, place, two);
}
