/* vz_audio.c - the coder of PCM audio: headers, sample formats, code layout. The model is in
 * vz_audio_model.c.
 *
 *     what: 1 | shape: 1 | head and tail lengths (varints, if odd) | range code
 *
 *     what   bits 0-1 bytes of a sample, 2-3 type, 4 list of used values, 5 lengths follow
 *     shape  bits 0-2 channels - 1, 3-7 magnitude bits
 *     range code: rate (4 bits), head, list of used values, frames, tail
 *
 * Without lengths the head is a WAV header of 44 bytes. Head and tail are coded byte by byte next
 * to what a plain header of that file would say, so that a usual one costs a few bits.
 *
 * Sizes in headers may lie: the data ends with the segment at the latest. */
#include "vz_audio.h"
#include "vz_media.h"

#include <string.h>

#define HEAD_MAX 65535
#define WAV_HEAD 44
#define MIN_FRAMES 16
#define GUESS_MIN ((size_t)1 << 16)
#define RATE_BITS 4
#define HAS_USED 16
#define HAS_LENGTHS 32

static uint32_t be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}
static uint32_t le16(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8;
}
static uint32_t be16(const uint8_t *p)
{
    return (uint32_t)p[0] << 8 | p[1];
}
static size_t frame_of(const vz_audio_format *f)
{
    return (size_t)(f->channels * f->bytes);
}

/* ---- Recognition ----------------------------------------------------------------------------- */

static bool set_format(vz_audio_format *f, uint32_t channels, uint32_t bits)
{
    if (channels < 1 || channels > VZ_AUDIO_CHANNELS) return false;
    if (bits < 5 || bits > 24) return false;
    f->channels = (int)channels;
    f->bytes = (int)(bits + 7) / 8;
    return true;
}

/* Samples from `at` on, `length` bytes of them if that is true; a pad byte belongs to the tail. */
static bool set_extent(vz_audio_format *f, size_t at, uint64_t length, size_t size)
{
    const size_t left = size - at, n = length < left ? (size_t)length : left;
    f->head = at;
    f->length = length;
    f->frames = n / frame_of(f);
    f->tail = n % frame_of(f);
    if ((n & 1) && n < left) f->tail++;
    return at <= HEAD_MAX && f->frames >= MIN_FRAMES;
}

static bool parse_wav(const uint8_t *data, size_t size, vz_audio_format *f)
{
    bool known = false;
    for (size_t at = 12; at + 8 <= size && at <= HEAD_MAX;) {
        const uint64_t n = vz_rd32(data + at + 4);
        const uint8_t *c = data + at + 8;
        if (memcmp(data + at, "fmt ", 4) == 0) {
            if (n < 16 || size - at - 8 < n) return false;
            uint32_t tag = le16(c);
            if (tag == 0xfffe && n >= 26) tag = le16(c + 24);
            known = tag == 1 && set_format(f, le16(c + 2), le16(c + 14));
            if (!known || le16(c + 12) != frame_of(f)) return false;
        } else if (memcmp(data + at, "data", 4) == 0) {
            return known && set_extent(f, at + 8, n, size);
        }
        if (n > HEAD_MAX) return false;
        at += 8 + (size_t)(n + (n & 1));
    }
    return false;
}

static bool parse_aiff(const uint8_t *data, size_t size, vz_audio_format *f)
{
    bool known = false;
    const bool is_aifc = data[11] == 'C';
    for (size_t at = 12; at + 8 <= size && at <= HEAD_MAX;) {
        const uint64_t n = be32(data + at + 4);
        const uint8_t *c = data + at + 8;
        if (memcmp(data + at, "COMM", 4) == 0) {
            if (n < 18 || size - at - 8 < n) return false;
            if (is_aifc && (n < 22 || memcmp(c + 18, "NONE", 4) != 0)) return false;
            known = set_format(f, be16(c), be16(c + 6));
            if (!known) return false;
        } else if (memcmp(data + at, "SSND", 4) == 0) {
            if (!known || n < 8 || size - at < 16) return false;
            const uint64_t offset = be32(c);
            if (offset > HEAD_MAX || offset > n - 8 || size - at - 16 < offset) return false;
            return set_extent(f, at + 16 + (size_t)offset, n - 8 - offset, size);
        }
        if (n > HEAD_MAX) return false;
        at += 8 + (size_t)(n + (n & 1));
    }
    return false;
}

bool vz_audio_parse(const uint8_t *data, size_t size, vz_audio_format *f)
{
    memset(f, 0, sizeof *f);
    if (size < 12) return false;
    f->type = VZ_AUDIO_WAV;
    if (memcmp(data, "RIFF", 4) == 0 && memcmp(data + 8, "WAVE", 4) == 0)
        return parse_wav(data, size, f);
    f->type = VZ_AUDIO_AIFF;
    return memcmp(data, "FORM", 4) == 0 && memcmp(data + 8, "AIF", 3) == 0 &&
           (data[11] == 'F' || data[11] == 'C') && parse_aiff(data, size, f);
}

static int32_t sample_get(const vz_audio_format *f, const uint8_t *p)
{
    const bool big = f->type == VZ_AUDIO_AIFF;
    uint32_t v = 0;
    for (int i = 0; i < f->bytes; i++) v |= (uint32_t)p[big ? f->bytes - 1 - i : i] << (8 * i);
    if (f->bytes == 1 && !big) return (int32_t)v - 128;
    const uint32_t sign = (uint32_t)1 << (8 * f->bytes - 1);
    return (int32_t)(v ^ sign) - (int32_t)sign;
}

static void sample_put(const vz_audio_format *f, int32_t x, uint8_t *p)
{
    const bool big = f->type == VZ_AUDIO_AIFF;
    const uint32_t v = f->bytes == 1 && !big ? (uint32_t)(x + 128) : (uint32_t)x;
    for (int i = 0; i < f->bytes; i++) p[big ? f->bytes - 1 - i : i] = (uint8_t)(v >> (8 * i));
}

/* Audio has samples close to their neighbours, whose lowest byte is as good as random (in raw
 * pictures that one is close to its neighbours, too). Returns mean |step| in 1/256 of the mean
 * |sample - mean|, or 256 for what is no audio. */
static int64_t roughness(const vz_audio_format *f, const uint8_t *p, int frames)
{
    const size_t frame = frame_of(f);
    int64_t sum = 0, spread = 0, step = 0, low = 0;
    for (int i = 0; i < frames; i++) sum += sample_get(f, p + (size_t)i * frame);
    const int64_t mean = sum / frames;
    for (int i = 1; i < frames; i++) {
        const uint8_t *q = p + (size_t)i * frame;
        const int64_t x = sample_get(f, q), d = x - sample_get(f, q - frame);
        const int wrapped = (int8_t)(uint8_t)(q[0] - *(q - frame));
        spread += x > mean ? x - mean : mean - x;
        step += d < 0 ? -d : d;
        low += wrapped < 0 ? -wrapped : wrapped;
    }
    if (low < (int64_t)frames * 48 || spread < (int64_t)frames * 128) return 256;
    return step * 256 / spread;
}

bool vz_audio_guess(const uint8_t *data, size_t size, vz_audio_format *f)
{
    enum { FRAMES = 1500, WINDOWS = 4 };
    int64_t best = 100; /* at most 100/256 */
    if (size < GUESS_MIN) return false;
    for (int kind = 0; kind < 4; kind++)
        for (size_t phase = 0; phase < (size_t)((kind & 1) + 1) * (size_t)(kind / 2 + 2); phase++) {
            vz_audio_format g = {VZ_AUDIO_RAW, (kind & 1) + 1, kind / 2 + 2, phase, 0, 0, 0};
            const size_t frame = frame_of(&g);
            int64_t worst = 0;
            g.frames = (size - phase) / frame;
            g.tail = (size - phase) % frame;
            for (size_t w = 0; w < WINDOWS && worst < best; w++) {
                const size_t at = phase + (g.frames - FRAMES) * w / (WINDOWS - 1) * frame;
                const int64_t r = roughness(&g, data + at, FRAMES);
                if (r > worst) worst = r;
            }
            if (worst < best) {
                best = worst;
                *f = g;
            }
        }
    return best < 100;
}

size_t vz_audio_detect(const uint8_t *data, size_t size, bool is_start, uint32_t *param)
{
    (void)param;
    vz_audio_format f;
    if (vz_audio_parse(data, size, &f)) return f.head + f.frames * frame_of(&f) + f.tail;
    return is_start && vz_audio_guess(data, size, &f) ? size : 0;
}

/* The parameter of a part, samples without header: bytes of a sample | type << 2 | channels - 1
 * << 4. The code says the same, so that archives need not keep it. */
bool vz_audio_describe(const uint8_t *p, size_t n, vz_media *m)
{
    vz_audio_format f;
    if (!vz_audio_parse(p, n, &f)) return false;
    const vz_audio_type type = f.type == VZ_AUDIO_AIFF ? VZ_AUDIO_AIFF : VZ_AUDIO_RAW;
    m->kind = VZ_AUDIO;
    m->param = (uint32_t)f.bytes | (uint32_t)type << 2 | (uint32_t)(f.channels - 1) << 4;
    m->unit = (uint32_t)frame_of(&f);
    m->start = 0;
    m->data = f.head;
    m->end = f.head + f.length;
    return true;
}

static bool format_of_part(uint32_t param, size_t size, vz_audio_format *f)
{
    memset(f, 0, sizeof *f);
    f->bytes = (int)(param & 3);
    f->type = (vz_audio_type)(param >> 2 & 3);
    f->channels = (int)(param >> 4 & 7) + 1;
    if (f->bytes == 0 || f->type == VZ_AUDIO_WAV || f->type > VZ_AUDIO_AIFF || param >> 7)
        return false;
    f->frames = size / frame_of(f);
    f->tail = size % frame_of(f);
    return f->frames >= MIN_FRAMES;
}

/* ---- Bytes of head and tail -------------------------------------------------------------------
 */

typedef struct byte_model {
    vz_logistic lg;
    vz_prob hit[16][8], order1[256 * 256], order2[65536];
    uint32_t streak, c2;
} byte_model;

static void byte_model_init(byte_model *m)
{
    vz_logistic_init(&m->lg);
    for (uint32_t i = 0; i < 16; i++)
        for (int k = 0; k < 8; k++) m->hit[i][k] = vz_prob_of(65000 - 4000 / (i + 1), 30);
    for (int i = 0; i < 65536; i++) m->order1[i] = m->order2[i] = vz_prob_of(32768, 0);
    m->streak = 15;
    m->c2 = 0;
}

/* expected: 0..255 or -1. */
static uint8_t code_byte(byte_model *m, const vz_audio_bits *b, int expected, uint8_t value)
{
    uint32_t node = 1;
    bool on_track = expected >= 0;
    for (int i = 7; i >= 0; i--) {
        vz_prob *o1 = &m->order1[(m->c2 & 255) << 8 | node];
        vz_prob *o2 = &m->order2[vz_hash2(m->c2, node) >> 16], *hit = &m->hit[m->streak][i];
        uint32_t p = (vz_prob_p16(*o1) + vz_prob_p16(*o2)) >> 1;
        const int guess = expected >> i & 1;
        if (on_track) p = guess ? vz_prob_p16(*hit) : 65536 - vz_prob_p16(*hit);
        const int bit = vz_audio_bit(b, vz_p16_clamp(p), value >> i & 1);
        if (on_track) vz_prob_update(&m->lg, hit, bit == guess, 60);
        vz_prob_update(&m->lg, o1, bit, 30);
        vz_prob_update(&m->lg, o2, bit, 30);
        if (on_track) on_track = bit == guess;
        node = node << 1 | (uint32_t)bit;
    }
    m->streak = on_track ? m->streak + (m->streak < 15) : expected >= 0 ? 0 : m->streak;
    m->c2 = (m->c2 << 8 | (node & 255)) & 0xffff;
    return (uint8_t)node;
}

/* ---- A plain header -------------------------------------------------------------------------- */

static const uint32_t RATES[15] = {8000,  11025, 12000, 16000, 22050, 24000,  32000, 44100,
                                   48000, 64000, 88200, 96000, 6000,  192000, 176400};

static void put32(uint8_t *p, uint64_t v)
{
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(v >> (8 * i));
}

static void plain_wav(const vz_audio_format *f, size_t size, uint32_t rate, uint8_t h[WAV_HEAD])
{
    static const uint8_t fixed[WAV_HEAD] = "RIFF\0\0\0\0WAVEfmt \x10\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0"
                                           "\0\0\0\0data";
    memcpy(h, fixed, WAV_HEAD);
    put32(h + 4, size - 8);
    h[22] = (uint8_t)f->channels;
    put32(h + 24, rate);
    put32(h + 28, (uint64_t)rate * frame_of(f));
    h[32] = (uint8_t)frame_of(f);
    h[34] = (uint8_t)(8 * f->bytes);
    put32(h + 40, f->frames * frame_of(f));
}

/* ---- Values that occur ----------------------------------------------------------------------- */

static int32_t magnitude_bits(int32_t most)
{
    int32_t bits = 0;
    while (most > (1 << bits)) bits++;
    return bits;
}

/* The list is worth its bytes where less than half of the values between the extremes occur. */
static fv_status list_used(fv_ctx *ctx, const vz_audio_format *f, const uint8_t *data,
                           int32_t **used, int32_t *count, int *bits)
{
    int32_t most = 0, lo = INT32_MAX, hi = INT32_MIN, n = 0;
    const size_t samples = f->frames * (size_t)f->channels;
    uint8_t *seen = f->bytes < 3 ? fv_calloc(ctx, VZ_AUDIO_LEVELS, 1) : NULL;
    *used = NULL;
    *count = 0;
    if (f->bytes < 3 && !seen) return FV_ERR_OOM;
    for (size_t i = 0; i < samples; i++) {
        const int32_t x = sample_get(f, data + i * (size_t)f->bytes);
        if (x < lo) lo = x;
        if (x > hi) hi = x;
        if (seen && !seen[x + 32768]) {
            seen[x + 32768] = 1;
            n++;
        }
    }
    most = hi > -lo ? hi : -lo;
    *bits = magnitude_bits(most);
    /* about 3 bits a listed value; a sample gains log2 of the share of values */
    if (seen && (uint64_t)n * 2 < (uint64_t)((int64_t)hi - lo) && samples > 2 * (size_t)n) {
        *used = fv_alloc(ctx, (size_t)n * sizeof **used);
        if (!*used) {
            fv_free(ctx, seen);
            return FV_ERR_OOM;
        }
        for (int32_t x = lo; x <= hi; x++)
            if (seen[x + 32768]) (*used)[(*count)++] = x;
    }
    fv_free(ctx, seen);
    return FV_OK;
}

/* A number below 2^17 as length and bits, both learnt: distances are much alike. */
static uint32_t code_number(const vz_logistic *lg, const vz_audio_bits *b, vz_prob (*t)[64],
                            uint32_t context, uint32_t v)
{
    uint32_t n = 0, low = 1;
    for (; n < 17; n++) {
        vz_prob *p = &t[context][n];
        const int more = vz_audio_bit(b, vz_p16_clamp(vz_prob_p16(*p)), (v + 1) >> (n + 1) != 0);
        vz_prob_update(lg, p, more, 30);
        if (!more) break;
    }
    for (uint32_t i = n; i-- > 0;) {
        vz_prob *p = &t[32 + n][low < 64 ? low : 0];
        const int bit = vz_audio_bit(b, vz_p16_clamp(vz_prob_p16(*p)), (int)((v + 1) >> i & 1));
        vz_prob_update(lg, p, bit, 30);
        low = low << 1 | (uint32_t)bit;
    }
    return low - 1;
}

/* The list: its length, its first value, distances. */
static bool code_used(const vz_logistic *lg, const vz_audio_bits *b, int32_t *used, int32_t *count)
{
    static const uint32_t least = 32768;
    vz_prob t[64][64];
    for (int i = 0; i < 64; i++)
        for (int k = 0; k < 64; k++) t[i][k] = vz_prob_of(32768, 0);
    const uint32_t n = code_number(lg, b, t, 0, (uint32_t)*count);
    if (n < 1 || n > VZ_AUDIO_LEVELS) return false;
    *count = (int32_t)n;
    uint32_t last = code_number(lg, b, t, 0, (uint32_t)used[0] + least), gap = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (i > 0) {
            gap = code_number(lg, b, t, 1 + (gap < 30 ? gap : 30),
                              (uint32_t)(used[i] - used[i - 1]) - 1);
            last += gap + 1;
        }
        if (last > 2 * least - 1) return false;
        used[i] = (int32_t)last - (int32_t)least;
    }
    return true;
}

/* ---- Both directions ------------------------------------------------------------------------- */

typedef struct job {
    fv_ctx *ctx;
    vz_audio_format f;
    vz_audio_bits b;
    vz_audio_setup set;
    byte_model *bytes;
    vz_audio_model *m;
    int32_t *used;
    uint32_t rate; /* number in RATES */
} job;

static void job_free(job *j)
{
    vz_audio_model_free(j->ctx, j->m);
    fv_free(j->ctx, j->bytes);
    fv_free(j->ctx, j->used);
}

static fv_status code_frames(job *j, uint8_t *data)
{
    int32_t x[VZ_AUDIO_CHANNELS];
    const vz_audio_format *f = &j->f;
    for (size_t i = 0; i < f->frames; i++) {
        if (j->b.e)
            for (int c = 0; c < f->channels; c++) x[c] = sample_get(f, data + c * f->bytes);
        vz_audio_frame(j->m, &j->b, x);
        if (!j->b.e)
            for (int c = 0; c < f->channels; c++) sample_put(f, x[c], data + c * f->bytes);
        data += frame_of(f);
        if (i % 4096 == 4095)
            FV_TRY(fv_report(j->ctx, "coding", f->head + i * frame_of(f), 0, NULL));
        if (!j->b.e && j->b.d->past > 4)
            return fv_fail(j->ctx, FV_ERR_TRUNCATED,
                           "vzip: the code of an audio segment ends "
                           "after %zu of %zu frames",
                           i, f->frames);
    }
    return FV_OK;
}

/* Everything behind the plain bytes; data holds the segment or takes it. */
static fv_status code_all(job *j, const vz_cm_options *o, uint8_t *data, size_t size)
{
    uint8_t plain[WAV_HEAD];
    const vz_audio_format *f = &j->f;
    j->bytes = fv_alloc(j->ctx, sizeof *j->bytes);
    if (!j->bytes) return FV_ERR_OOM;
    byte_model_init(j->bytes);
    uint32_t rate = 0;
    for (int i = RATE_BITS - 1; i >= 0; i--)
        rate = rate << 1 | (uint32_t)vz_audio_bit(&j->b, 32768, (int)(j->rate >> i & 1));
    plain_wav(f, size, RATES[rate < 15 ? rate : 0], plain);
    for (size_t i = 0; i < f->head; i++)
        data[i] = code_byte(j->bytes, &j->b, i < WAV_HEAD ? plain[i] : -1, data[i]);
    if (j->used) {
        if (!code_used(&j->bytes->lg, &j->b, j->used, &j->set.used_count))
            return fv_fail(j->ctx, FV_ERR_FORMAT,
                           "vzip: corrupt list of values in an audio segment");
        j->set.used = j->used;
    }
    j->set.level = o->level;
    j->set.channels = f->channels;
    FV_TRY(vz_audio_model_new(j->ctx, &j->set, &j->m));
    FV_TRY(code_frames(j, data + f->head));
    uint8_t *tail = data + f->head + f->frames * frame_of(f);
    for (size_t i = 0; i < f->tail; i++) tail[i] = code_byte(j->bytes, &j->b, -1, tail[i]);
    return FV_OK;
}

static uint32_t rate_of(const vz_audio_format *f, const uint8_t *data)
{
    if (f->type != VZ_AUDIO_WAV || f->head < 28) return 15;
    for (uint32_t i = 0; i < 15; i++)
        if (vz_rd32(data + 24) == RATES[i]) return i;
    return 15;
}

static bool is_usual(const vz_audio_format *f, size_t size)
{
    return f->type == VZ_AUDIO_WAV && f->head == WAV_HEAD &&
           f->tail == (size - WAV_HEAD) % frame_of(f);
}

static fv_status encode(fv_ctx *ctx, const vz_cm_options *o, uint32_t param, const uint8_t *data,
                        size_t size, vz_buf *out, bool *fits)
{
    job j = {.ctx = ctx};
    vz_encoder e;
    int bits;
    *fits = false;
    if (param ? !format_of_part(param, size, &j.f)
              : !vz_audio_parse(data, size, &j.f) && !vz_audio_guess(data, size, &j.f))
        return FV_OK;
    if (j.f.head + j.f.frames * frame_of(&j.f) + j.f.tail != size) return FV_OK;
    uint8_t *copy = fv_alloc(ctx, size);
    if (!copy) return FV_ERR_OOM;
    memcpy(copy, data, size);
    fv_status s = FV_OK;
    FV_TRY_GOTO(list_used(ctx, &j.f, data + j.f.head, &j.used, &j.set.used_count, &bits));
    const bool usual = is_usual(&j.f, size);
    vz_buf_byte(out, (uint8_t)(j.f.bytes | (int)j.f.type << 2 | (j.used ? HAS_USED : 0) |
                               (usual ? 0 : HAS_LENGTHS)));
    vz_buf_byte(out, (uint8_t)((j.f.channels - 1) | bits << 3));
    if (!usual) {
        vz_buf_varint(out, j.f.head);
        vz_buf_varint(out, j.f.tail);
    }
    j.set.bits = bits;
    j.rate = rate_of(&j.f, data);
    vz_encoder_init(&e, out);
    j.b.e = &e;
    FV_TRY_GOTO(code_all(&j, o, copy, size));
    vz_encoder_flush(&e);
    *fits = true;
    s = out->status;
fail:
    fv_free(ctx, copy);
    job_free(&j);
    return s;
}

static fv_status get_format(vz_in *r, size_t size, job *j)
{
    uint64_t what, shape, head = WAV_HEAD, tail = 0;
    vz_audio_format *f = &j->f;
    FV_TRY(vz_in_le(r, 1, &what));
    FV_TRY(vz_in_le(r, 1, &shape));
    f->bytes = (int)(what & 3);
    f->type = (vz_audio_type)(what >> 2 & 3);
    f->channels = (int)(shape & 7) + 1;
    j->set.bits = (int)(shape >> 3);
    if (what & HAS_LENGTHS) {
        FV_TRY(vz_in_varint(r, &head));
        FV_TRY(vz_in_varint(r, &tail));
    }
    if (f->bytes < 1 || f->type > VZ_AUDIO_AIFF || what > 63 || j->set.bits > 8 * f->bytes - 1 ||
        head > size || tail > size - head || tail > HEAD_MAX)
        return fv_fail(r->ctx, FV_ERR_FORMAT, "vzip: corrupt description of an audio segment");
    if (!(what & HAS_LENGTHS)) tail = (size - WAV_HEAD) % frame_of(f);
    f->head = (size_t)head;
    f->tail = (size_t)tail;
    f->frames = (size - f->head - f->tail) / frame_of(f);
    if (f->head + f->tail + f->frames * frame_of(f) != size)
        return fv_fail(r->ctx, FV_ERR_FORMAT, "vzip: corrupt lengths of an audio segment");
    if (what & HAS_USED) {
        if (f->bytes == 3)
            return fv_fail(r->ctx, FV_ERR_FORMAT, "vzip: corrupt kind of an audio segment");
        j->used = fv_calloc(r->ctx, VZ_AUDIO_LEVELS, sizeof *j->used);
        if (!j->used) return FV_ERR_OOM;
    }
    return FV_OK;
}

static fv_status decode(fv_ctx *ctx, const vz_cm_options *o, uint32_t param, const uint8_t *code,
                        size_t code_size, uint8_t *data, size_t size)
{
    job j = {.ctx = ctx};
    vz_decoder d;
    vz_in r = {ctx, code, code + code_size};
    if (param != 0) return fv_fail(ctx, FV_ERR_VERSION, "vzip: unknown kind of audio segment");
    fv_status s = get_format(&r, size, &j);
    if (s == FV_OK) {
        vz_decoder_init(&d, r.p, (size_t)(r.end - r.p));
        j.b.d = &d;
        memset(data, 0, size);
        s = code_all(&j, o, data, size);
    }
    job_free(&j);
    return s;
}

static uint64_t memory(const vz_cm_options *o, uint32_t param, uint64_t size)
{
    (void)param;
    const vz_audio_setup most = {o->level, VZ_AUDIO_CHANNELS, 23, NULL, 0};
    return size + vz_audio_model_bytes(&most) + sizeof(byte_model) +
           VZ_AUDIO_LEVELS * (sizeof(int32_t) + 1) + 4096;
}

const vz_coder vz_audio_coder = {VZ_AUDIO, "audio", encode, decode, memory};
