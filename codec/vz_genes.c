/* vz_genes.c - the coder of FASTA and FASTQ: text into streams and back, and their codes.
 *
 *     flags: 1 | varints: lead, bases, bytes of text, layout, case, odd | length of |
 * context-mixing code of text (as VZ_TEXT), layout + case + odd (as VZ_BINARY) | range code:
 * qualities, bases
 *
 *     text    `lead` bytes from before the first whole record, then a line for each name; a name
 *             that is the one before with a number one larger is the byte 1 alone
 *     layout  FASTA: residues of a record; 2 * zigzag(change of line length) + irregular; then, if
 *             irregular, number of lines and their lengths. FASTQ: zigzag(change of read length)
 *     case    residues until the next change between upper and lower case, from upper
 *     odd     runs of residues that are no bases: distance from the last run, length, byte
 *
 * An N of a read is not odd: it follows from the quality (vz_genes_quality.c). What has other line
 * ends, alphabets or structure is left to the text model: the encoder rebuilds the text from its
 * streams and compares before it codes.
 *
 * Sources: MFCompress (Pinho and Pratas 2014) and Bonfield's fqzcomp split the formats likewise. */
#include "vz_genes.h"

#include <string.h>

enum {
    IS_FASTQ = 1,
    IS_CRLF = 2,
    NO_LAST_EOL = 4,
    PLUS_HAS_NAME = 8,
    IS_RNA = 16,
    NUMBER_SHIFT = 5,
    FLAGS_MAX = 127
};
#define NAME_MAX_BYTES 4096
#define SEGMENT_MIN 256

typedef struct streams {
    fv_ctx *ctx;
    uint32_t flags;
    size_t lead;
    vz_buf text, layout, shift, odd; /* shift: of case */
    vz_buf bases, quality, is_n, lengths;
    /* while residues are taken apart or put together */
    bool is_lower;
    uint64_t case_run, odd_gap, odd_run;
    uint8_t odd_byte;
    size_t at_base, at_residue, at_quality;
} streams;

static void streams_init(streams *s, fv_ctx *ctx)
{
    memset(s, 0, sizeof *s);
    s->ctx = ctx;
    vz_buf *all[] = {&s->text,  &s->layout,  &s->shift, &s->odd,
                     &s->bases, &s->quality, &s->is_n,  &s->lengths};
    for (size_t i = 0; i < FV_ARRAY_LEN(all); i++) vz_buf_init(all[i], ctx);
}
static fv_status streams_free(streams *s)
{
    fv_status worst = FV_OK;
    vz_buf *all[] = {&s->text,  &s->layout,  &s->shift, &s->odd,
                     &s->bases, &s->quality, &s->is_n,  &s->lengths};
    for (size_t i = 0; i < FV_ARRAY_LEN(all); i++) {
        if (all[i]->status != FV_OK) worst = all[i]->status;
        vz_buf_free(all[i]);
    }
    return worst;
}
static fv_status streams_status(const streams *s)
{
    const vz_buf *all[] = {&s->text,  &s->layout,  &s->shift, &s->odd,
                           &s->bases, &s->quality, &s->is_n,  &s->lengths};
    for (size_t i = 0; i < FV_ARRAY_LEN(all); i++) FV_TRY(all[i]->status);
    return FV_OK;
}

/* An empty buffer has no memory, and NULL + 0 is not defined. */
static vz_in reader_of(fv_ctx *ctx, const vz_buf *b)
{
    static const uint8_t none[1];
    const vz_in r = {ctx, b->size ? b->data : none, b->size ? b->data + b->size : none};
    return r;
}

static uint64_t zigzag(int64_t v)
{
    return v < 0 ? ((uint64_t)~v << 1) | 1 : (uint64_t)v << 1;
}
static int64_t unzigzag(uint64_t v)
{
    return v & 1 ? (int64_t) ~(v >> 1) : (int64_t)(v >> 1);
}

/* ---- Lines ----------------------------------------------------------------------------------- */

typedef struct line {
    const uint8_t *p;
    size_t n, next; /* without its end; offset of the next line */
    bool has_end;
} line;

static line line_at(const uint8_t *data, size_t size, size_t at, bool is_crlf)
{
    const uint8_t *end = at < size ? memchr(data + at, '\n', size - at) : NULL;
    line l = {data + at, end ? (size_t)(end - data) - at : size - at, 0, end != NULL};
    l.next = at + l.n + l.has_end;
    if (is_crlf && l.has_end && l.n > 0) l.n--;
    return l;
}

/* 0..3: a base in either case, 4: N, 5: another byte. */
static uint32_t base_of(uint8_t c)
{
    switch (c | 0x20) {
    case 'a': return 0;
    case 'c': return 1;
    case 'g': return 2;
    case 't':
    case 'u': return 3;
    case 'n': return 4;
    default: return 5;
    }
}

/* Most of what a line holds are bases; a long line of other bytes ends the look at it early. */
static bool is_bases(const uint8_t *p, size_t n)
{
    size_t good = 0;
    while (n > 0 && p[n - 1] == '\r') n--;
    for (size_t i = 0; i < n; i++) {
        good += base_of(p[i]) < 5;
        if (i % 256 == 255 && good * 10 < (i + 1) * 8) return false;
    }
    return good * 10 >= n * 8;
}
static bool is_name(const line *l, uint8_t mark)
{
    if (l->n == 0 || l->n > NAME_MAX_BYTES || l->p[0] != mark) return false;
    for (size_t i = 0; i < l->n; i++)
        if (l->p[i] < 9) return false;
    return true;
}

/* ---- Recognition ----------------------------------------------------------------------------- */

/* End of the read that begins at `at`, 0: none begins there, or it is not whole. */
static size_t read_end(const uint8_t *data, size_t size, size_t at, line l[4])
{
    if (at >= size || data[at] != '@') return 0;
    for (int i = 0; i < 4; i++) {
        if (i > 0 && !l[i - 1].has_end) return 0;
        l[i] = line_at(data, size, at, false);
        at = l[i].next;
    }
    if (!is_name(&l[0], '@') || l[2].n == 0 || l[2].p[0] != '+' || l[1].n != l[3].n) return 0;
    return is_bases(l[1].p, l[1].n) ? at : 0;
}

static size_t fastq_extent(const uint8_t *data, size_t size, size_t at)
{
    line l[4];
    for (size_t next; at < size && (next = read_end(data, size, at, l)) > 0;) at = next;
    return at;
}

static size_t fasta_extent(const uint8_t *data, size_t size, size_t at)
{
    size_t sound = 0; /* a segment ends with a line of bases, or with the data */
    while (at < size) {
        const line l = line_at(data, size, at, false);
        const bool head = l.n > 0 && l.p[0] == '>';
        if (head ? !is_name(&l, '>') : !is_bases(l.p, l.n)) break;
        at = l.next;
        if (!head || (at == size && sound > 0)) sound = at;
    }
    return sound;
}

/* Where the first whole record may begin: after a cut, some lines later. */
static size_t find_lead(const uint8_t *data, size_t size, bool *is_fastq)
{
    line l[4];
    size_t at = 0;
    if (data[0] == '>') return 0;
    for (int i = 0; i < 5 && at < size; i++) {
        *is_fastq = read_end(data, size, at, l) > 0;
        if (*is_fastq) return at;
        at = line_at(data, size, at, false).next;
    }
    const line first = line_at(data, size, 0, false);
    const bool is_sequence = first.n > 0 && is_bases(first.p, first.n);
    return is_sequence || first.n > NAME_MAX_BYTES ? 0 : first.next;
}

size_t vz_genes_detect(const uint8_t *data, size_t size, bool is_start, uint32_t *param)
{
    bool is_fastq = false;
    line l[4];
    size_t lead = 0, end;
    (void)param;
    if (size < SEGMENT_MIN || (!is_start && data[0] != '>' && data[0] != '@')) return 0;
    if (is_start)
        lead = find_lead(data, size, &is_fastq);
    else
        is_fastq = read_end(data, size, 0, l) > 0;
    if (!is_fastq && data[0] == '@') return 0;
    end = is_fastq ? fastq_extent(data, size, lead) : fasta_extent(data, size, lead);
    return end < SEGMENT_MIN ? 0 : end;
}

/* ---- Taking apart ---------------------------------------------------------------------------- */

/* The name before with its number-th number, counted from 0, one larger; 0 bytes: it has none. */
static size_t successor(const uint8_t *p, size_t n, uint32_t number, uint8_t *out)
{
    size_t i = 0, start, end;
    for (;; i = end) {
        while (i < n && (p[i] < '0' || p[i] > '9')) i++;
        if (i == n) return 0;
        start = end = i;
        while (end < n && p[end] >= '0' && p[end] <= '9') end++;
        if (number-- == 0) break;
    }
    memcpy(out, p, n);
    for (i = end; i > start; i--) {
        if (out[i - 1] != '9') {
            out[i - 1]++;
            return n;
        }
        out[i - 1] = '0';
    }
    memmove(out + start + 1, out + start, n - start);
    out[start] = '1';
    return n + 1;
}

typedef struct names {
    uint8_t last[NAME_MAX_BYTES + 2], guess[NAME_MAX_BYTES + 2];
    size_t n;
    uint32_t number;
} names;

static bool put_name(streams *s, names *m, const uint8_t *p, size_t n)
{
    if (n > NAME_MAX_BYTES) return false;
    const size_t g = successor(m->last, m->n, m->number, m->guess);
    if (n > 0 && g == n && memcmp(m->guess, p, n) == 0) {
        vz_buf_byte(&s->text, 1);
    } else {
        if (n > 0 && p[0] == 1) return false;
        vz_buf_put(&s->text, p, n);
        vz_buf_byte(&s->text, '\n');
    }
    memcpy(m->last, p, n);
    m->n = n;
    return true;
}

static void flush_odd(streams *s)
{
    if (s->odd_run == 0) return;
    vz_buf_varint(&s->odd, s->odd_gap);
    vz_buf_varint(&s->odd, s->odd_run);
    vz_buf_byte(&s->odd, s->odd_byte);
    s->odd_gap = s->odd_run = 0;
}

static void put_residues(streams *s, const uint8_t *p, size_t n)
{
    const bool is_read = s->flags & IS_FASTQ;
    const uint8_t last = s->flags & IS_RNA ? 'U' : 'T';
    for (size_t i = 0; i < n; i++) {
        const bool letter = (uint8_t)((p[i] | 0x20) - 'a') < 26, lower = letter && (p[i] & 0x20);
        uint8_t c = letter ? p[i] & 0xdf : p[i];
        if (letter && lower != s->is_lower) {
            vz_buf_varint(&s->shift, s->case_run);
            s->case_run = 0;
            s->is_lower = lower;
        }
        s->case_run++;
        const uint32_t b = c == 'A' ? 0 : c == 'C' ? 1 : c == 'G' ? 2 : c == last ? 3 : 5;
        const bool is_n = is_read && c == 'N';
        if (is_read) vz_buf_byte(&s->is_n, is_n);
        if (b < 4 || is_n) {
            flush_odd(s);
            s->odd_gap++;
            if (!is_n) vz_buf_byte(&s->bases, (uint8_t)b);
            continue;
        }
        if (s->odd_run && c != s->odd_byte) flush_odd(s);
        s->odd_byte = c;
        s->odd_run++;
    }
}

/* Lines of a record from `at` on; returns where the next one begins. */
static size_t put_record(streams *s, const uint8_t *data, size_t size, size_t at, uint64_t *width)
{
    const bool crlf = s->flags & IS_CRLF;
    uint64_t total = 0, lines = 0, first = 0, last = 0;
    bool regular = true;
    size_t end = at;
    while (end < size && data[end] != '>') {
        const line l = line_at(data, size, end, crlf);
        if (lines == 0)
            first = l.n;
        else if (last != first)
            regular = false;
        if (l.n == 0 || l.n > first) regular = false;
        put_residues(s, l.p, l.n);
        last = l.n;
        total += l.n;
        lines++;
        end = l.next;
    }
    if (lines < 2) first = first <= *width && lines ? *width : first ? first : *width;
    vz_buf_varint(&s->layout, total);
    vz_buf_varint(&s->layout, zigzag((int64_t)(first - *width)) << 1 | !regular);
    *width = first;
    if (regular) return end;
    vz_buf_varint(&s->layout, lines);
    while (at < end) {
        const line l = line_at(data, size, at, crlf);
        vz_buf_varint(&s->layout, l.n);
        at = l.next;
    }
    return end;
}

static bool split_fasta(streams *s, names *m, const uint8_t *data, size_t size)
{
    uint64_t width = 0;
    size_t at = s->lead;
    if (at < size && data[at] != '>')
        at = put_record(s, data, size, at, &width);
    else
        put_record(s, data, 0, 0, &width); /* nothing before the first name */
    while (at < size) {
        const line l = line_at(data, size, at, s->flags & IS_CRLF);
        if (!put_name(s, m, l.p + 1, l.n - 1)) return false;
        at = put_record(s, data, size, l.next, &width);
    }
    return true;
}

static bool split_fastq(streams *s, names *m, const uint8_t *data, size_t size)
{
    const bool crlf = s->flags & IS_CRLF;
    uint64_t length = 0;
    for (size_t at = s->lead; at < size;) {
        line l[4];
        for (int i = 0; i < 4; i++) {
            if (at >= size) return false;
            l[i] = line_at(data, size, at, crlf);
            at = l[i].next;
        }
        if (l[0].n == 0 || l[0].p[0] != '@' || l[1].n != l[3].n || l[1].n > UINT32_MAX)
            return false;
        if (l[2].n != (s->flags & PLUS_HAS_NAME ? l[0].n : 1)) return false;
        if (!put_name(s, m, l[0].p + 1, l[0].n - 1)) return false;
        vz_buf_varint(&s->layout, zigzag((int64_t)(l[1].n - length)));
        vz_buf_le(&s->lengths, l[1].n, 4);
        length = l[1].n;
        put_residues(s, l[1].p, l[1].n);
        for (size_t i = 0; i < l[3].n; i++) {
            if (l[3].p[i] < 33 || l[3].p[i] > 33 + VZ_QUALITY_MAX) return false;
            vz_buf_byte(&s->quality, (uint8_t)(l[3].p[i] - 33));
        }
    }
    return true;
}

/* Which number of a name counts up, from the first two names. */
static uint32_t counting_number(const uint8_t *data, size_t size, size_t at, bool is_fastq)
{
    uint8_t guess[NAME_MAX_BYTES + 2];
    const line a = line_at(data, size, at, false);
    size_t next = a.next;
    if (is_fastq) {
        for (int i = 0; i < 3; i++) next = line_at(data, size, next, false).next;
    } else {
        while (next < size && data[next] != '>') next = line_at(data, size, next, false).next;
    }
    const line b = line_at(data, size, next < size ? next : size, false);
    if (a.n > NAME_MAX_BYTES) return 0;
    for (uint32_t i = 0; i < 4; i++)
        if (b.n > 0 && successor(a.p, a.n, i, guess) == b.n && memcmp(guess, b.p, b.n) == 0)
            return i;
    return 0;
}

/* false: not for us. */
static bool split(streams *s, names *m, const uint8_t *data, size_t size)
{
    bool is_fastq = false;
    size_t ends = 0, crlf = 0, u = 0, t = 0;
    if (size < 2) return false;
    s->lead = find_lead(data, size, &is_fastq);
    if (s->lead >= size) return false;
    for (size_t i = 0; i < size; i++) {
        ends += data[i] == '\n';
        crlf += data[i] == '\n' && i > 0 && data[i - 1] == '\r';
        u += (data[i] | 0x20) == 'u';
        t += (data[i] | 0x20) == 't';
    }
    s->flags = (is_fastq ? IS_FASTQ : 0) | (ends > 0 && crlf == ends ? IS_CRLF : 0) |
               (data[size - 1] != '\n' ? NO_LAST_EOL : 0) | (u > t ? IS_RNA : 0);
    if (is_fastq) {
        line l[4];
        if (read_end(data, size, s->lead, l) > 0 && l[2].n > 2) s->flags |= PLUS_HAS_NAME;
    }
    m->number = counting_number(data, size, s->lead, is_fastq);
    s->flags |= m->number << NUMBER_SHIFT;
    vz_buf_put(&s->text, data, s->lead);
    if (!(is_fastq ? split_fastq : split_fasta)(s, m, data, size)) return false;
    flush_odd(s);
    return s->text.size <= size / 4 * 3 && s->shift.size + s->odd.size + s->layout.size <= size / 2;
}

/* ---- Putting together ------------------------------------------------------------------------ */

typedef struct output {
    uint8_t *data;
    size_t at, size; /* at: may pass size by the line end that is missing */
} output;

static bool put_bytes(output *o, const void *p, size_t n)
{
    if (o->at > o->size || n > o->size - o->at) return false;
    if (n) memcpy(o->data + o->at, p, n);
    o->at += n;
    return true;
}
static bool put_end(output *o, const streams *s)
{
    if (s->flags & IS_CRLF) {
        if (o->at < o->size) o->data[o->at] = '\r';
        o->at++;
    }
    if (o->at < o->size) o->data[o->at] = '\n';
    o->at++;
    return o->at <= o->size + 2;
}

/* The next name into m->last. */
static bool get_name(vz_in *text, names *m)
{
    if (text->p == text->end) return false;
    if (*text->p == 1) {
        m->n = successor(m->last, m->n, m->number, m->guess);
        if (m->n == 0 || m->n > NAME_MAX_BYTES) return false;
        memcpy(m->last, m->guess, m->n);
        text->p++;
        return true;
    }
    const uint8_t *end = memchr(text->p, '\n', (size_t)(text->end - text->p));
    if (!end || end - text->p > NAME_MAX_BYTES) return false;
    m->n = (size_t)(end - text->p);
    memcpy(m->last, text->p, m->n);
    text->p = end + 1;
    return true;
}

typedef struct inputs {
    vz_in text, layout, shift, odd;
} inputs;

static bool next_odd(streams *s, inputs *in)
{
    uint64_t gap = UINT64_MAX, run = 0, byte = 0;
    if (in->odd.p < in->odd.end &&
        (vz_in_varint(&in->odd, &gap) != FV_OK || vz_in_varint(&in->odd, &run) != FV_OK ||
         vz_in_le(&in->odd, 1, &byte) != FV_OK || run == 0))
        return false;
    s->odd_gap = gap;
    s->odd_run = run;
    s->odd_byte = (uint8_t)byte;
    return true;
}
static bool next_case(streams *s, inputs *in)
{
    s->case_run = UINT64_MAX;
    return in->shift.p == in->shift.end || vz_in_varint(&in->shift, &s->case_run) == FV_OK;
}

static bool get_residues(streams *s, inputs *in, output *o, uint64_t n)
{
    const char *letters = s->flags & IS_RNA ? "ACGU" : "ACGT";
    const bool is_read = s->flags & IS_FASTQ;
    if (o->at > o->size || n > o->size - o->at) return false;
    for (uint8_t *p = o->data + o->at, *end = p + n; p < end; p++) {
        uint8_t c;
        if (is_read && s->at_residue >= s->is_n.size) return false;
        if (s->odd_gap == 0) {
            c = s->odd_byte;
            if (--s->odd_run == 0 && !next_odd(s, in)) return false;
            s->at_residue++;
        } else {
            s->odd_gap--;
            const bool is_n = is_read && s->is_n.data[s->at_residue];
            s->at_residue++;
            if (!is_n && s->at_base >= s->bases.size) return false;
            c = is_n ? 'N' : (uint8_t)letters[s->bases.data[s->at_base++] & 3];
        }
        while (s->case_run == 0) {
            s->is_lower = !s->is_lower;
            if (!next_case(s, in)) return false;
        }
        s->case_run--;
        const bool letter = (uint8_t)((c | 0x20) - 'a') < 26;
        *p = letter && s->is_lower ? c | 0x20 : c;
    }
    o->at += (size_t)n;
    return true;
}

static bool get_record(streams *s, inputs *in, output *o, uint64_t *width)
{
    uint64_t total, v, lines, n;
    if (vz_in_varint(&in->layout, &total) != FV_OK || vz_in_varint(&in->layout, &v) != FV_OK)
        return false;
    *width += (uint64_t)unzigzag(v >> 1);
    if (!(v & 1)) {
        if (total > 0 && *width == 0) return false;
        for (; total > 0; total -= n) {
            n = total < *width ? total : *width;
            if (!get_residues(s, in, o, n) || !put_end(o, s)) return false;
        }
        return true;
    }
    if (vz_in_varint(&in->layout, &lines) != FV_OK) return false;
    for (; lines > 0; lines--)
        if (vz_in_varint(&in->layout, &n) != FV_OK || !get_residues(s, in, o, n) || !put_end(o, s))
            return false;
    return true;
}

static bool join_fasta(streams *s, names *m, inputs *in, output *o)
{
    uint64_t width = 0;
    if (!get_record(s, in, o, &width)) return false;
    while (in->layout.p < in->layout.end) {
        if (!get_name(&in->text, m) || !put_bytes(o, ">", 1) || !put_bytes(o, m->last, m->n) ||
            !put_end(o, s) || !get_record(s, in, o, &width))
            return false;
    }
    return true;
}

static bool join_fastq(streams *s, names *m, inputs *in, output *o)
{
    size_t q = 0;
    for (size_t r = 0; r < s->lengths.size; r += 4) {
        const uint32_t n = vz_rd32(s->lengths.data + r);
        if (!get_name(&in->text, m) || !put_bytes(o, "@", 1) || !put_bytes(o, m->last, m->n) ||
            !put_end(o, s) || !get_residues(s, in, o, n) || !put_end(o, s) || !put_bytes(o, "+", 1))
            return false;
        if ((s->flags & PLUS_HAS_NAME) && !put_bytes(o, m->last, m->n)) return false;
        if (!put_end(o, s) || o->at > o->size || n > o->size - o->at || n > s->quality.size - q)
            return false;
        for (uint32_t i = 0; i < n; i++) o->data[o->at++] = (uint8_t)(s->quality.data[q++] + 33);
        if (!put_end(o, s)) return false;
    }
    return true;
}

/* The text from its streams; false when they do not belong together. */
static bool join(streams *s, names *m, uint8_t *data, size_t size)
{
    fv_ctx *ctx = s->ctx;
    inputs in = {reader_of(ctx, &s->text), reader_of(ctx, &s->layout), reader_of(ctx, &s->shift),
                 reader_of(ctx, &s->odd)};
    output o = {data, 0, size};
    s->is_lower = false;
    s->at_base = s->at_residue = s->at_quality = 0;
    m->n = 0;
    m->number = s->flags >> NUMBER_SHIFT & 3;
    if (s->lead > s->text.size || !next_odd(s, &in) || !next_case(s, &in)) return false;
    if (!put_bytes(&o, in.text.p, s->lead)) return false;
    in.text.p += s->lead;
    if (!(s->flags & IS_FASTQ ? join_fastq : join_fasta)(s, m, &in, &o)) return false;
    const size_t end = s->flags & IS_CRLF ? 2 : 1;
    return in.text.p == in.text.end && o.at == size + (s->flags & NO_LAST_EOL ? end : 0);
}

/* ---- Codes ----------------------------------------------------------------------------------- */

static vz_cm_options small_options(const vz_cm_options *o, uint64_t size)
{
    vz_cm_options s = *o;
    int log2 = 20;
    while (log2 < o->memory_log2 && ((uint64_t)1 << (log2 - 5)) < size) log2++;
    s.memory_log2 = log2;
    return s;
}

static fv_status code_bodies(streams *s, const vz_cm_options *o, const vz_genes_bits *b)
{
    uint8_t *side = NULL;
    uint32_t *lengths = NULL;
    const size_t reads = s->lengths.size / 4;
    fv_status st = FV_OK;
    if (s->flags & IS_FASTQ) {
        side = fv_alloc(s->ctx, s->bases.size + 1);
        lengths = fv_alloc(s->ctx, (reads + 1) * sizeof *lengths);
        st = side && lengths ? FV_OK : FV_ERR_OOM;
        for (size_t i = 0; i < reads && st == FV_OK; i++)
            lengths[i] = vz_rd32(s->lengths.data + 4 * i);
        if (st == FV_OK)
            st = vz_quality_code(s->ctx, o, b, lengths, reads, s->quality.data, s->is_n.data);
        /* odd residues shift this by some places: worth nothing, hurts nothing */
        size_t k = 0;
        for (size_t i = 0; st == FV_OK && i < s->quality.size && k < s->bases.size; i++)
            if (!s->is_n.data[i])
                side[k++] = (uint8_t)vz_clamp(s->quality.data[i] >> 1, 0, VZ_GENES_SIDES - 1);
        if (st == FV_OK) memset(side + k, 0, s->bases.size - k);
    }
    if (st == FV_OK) st = vz_bases_code(s->ctx, o, b, s->bases.data, s->bases.size, side);
    fv_free(s->ctx, lengths);
    fv_free(s->ctx, side);
    return st;
}

static fv_status put_meta(streams *s, const vz_cm_options *o, vz_buf *out)
{
    vz_buf code;
    const size_t text = s->text.size, rest = s->layout.size + s->shift.size + s->odd.size;
    const vz_cm_options small = small_options(o, text + rest);
    const vz_segment segs[2] = {{VZ_TEXT, 0, text}, {VZ_BINARY, 0, rest}};
    vz_buf_byte(out, (uint8_t)s->flags);
    vz_buf_varint(out, s->lead);
    vz_buf_varint(out, s->bases.size);
    vz_buf_varint(out, text);
    vz_buf_varint(out, s->layout.size);
    vz_buf_varint(out, s->shift.size);
    vz_buf_varint(out, s->odd.size);
    vz_buf_put(&s->text, s->layout.data, s->layout.size);
    vz_buf_put(&s->text, s->shift.data, s->shift.size);
    vz_buf_put(&s->text, s->odd.data, s->odd.size);
    FV_TRY(s->text.status);
    vz_buf_init(&code, s->ctx);
    const fv_status st = vz_cm_encode(s->ctx, &small, segs, 2, s->text.data, &code);
    vz_buf_varint(out, code.size);
    vz_buf_put(out, code.data, code.size);
    vz_buf_free(&code);
    return st;
}

static fv_status encode(fv_ctx *ctx, const vz_cm_options *o, uint32_t param, const uint8_t *data,
                        size_t size, vz_buf *out, bool *fits)
{
    streams s;
    uint8_t *back = NULL;
    names *m = fv_calloc(ctx, 1, sizeof *m);
    *fits = false;
    if (!m) return FV_ERR_OOM;
    streams_init(&s, ctx);
    fv_status st = FV_OK;
    if (param == 0 && split(&s, m, data, size) && streams_status(&s) == FV_OK) {
        back = fv_alloc(ctx, size);
        if (!back) st = FV_ERR_OOM;
        *fits = back && join(&s, m, back, size) && memcmp(back, data, size) == 0;
        fv_free(ctx, back);
    }
    if (*fits) {
        vz_encoder e;
        const vz_genes_bits b = {&e, NULL};
        st = put_meta(&s, o, out);
        vz_encoder_init(&e, out);
        if (st == FV_OK) st = code_bodies(&s, o, &b);
        vz_encoder_flush(&e);
        if (st == FV_OK) st = out->status;
    }
    fv_free(ctx, m);
    const fv_status freed = streams_free(&s);
    return st == FV_OK ? freed : st;
}

/* A part of the decoded meta bytes as a stream of its own. */
static const uint8_t *take(vz_buf *b, const uint8_t *p, uint64_t n)
{
    vz_buf_put(b, p, (size_t)n);
    return p + n;
}

static fv_status get_meta(streams *s, vz_in *r, const vz_cm_options *o, size_t size)
{
    uint64_t flags, lead, bases, n[4], coded, total = 0;
    const uint8_t *code;
    FV_TRY(vz_in_le(r, 1, &flags));
    FV_TRY(vz_in_varint(r, &lead));
    FV_TRY(vz_in_varint(r, &bases));
    for (int i = 0; i < 4; i++) {
        FV_TRY(vz_in_varint(r, &n[i]));
        if (n[i] > size) total = size; /* too much already */
        total += n[i] > size ? size + 1 : n[i];
    }
    if (flags > FLAGS_MAX || lead > n[0] || bases > size || total > 2 * (uint64_t)size ||
        n[0] > size)
        return fv_fail(s->ctx, FV_ERR_FORMAT, "vzip: corrupt lengths of a segment of genes");
    FV_TRY(vz_in_varint(r, &coded));
    FV_TRY(vz_in_take(r, (size_t)(coded < SIZE_MAX ? coded : SIZE_MAX), &code));
    s->flags = (uint32_t)flags;
    s->lead = (size_t)lead;
    uint8_t *meta = fv_alloc(s->ctx, (size_t)total + 1);
    if (!meta) return FV_ERR_OOM;
    const vz_cm_options small = small_options(o, total);
    const vz_segment segs[2] = {{VZ_TEXT, 0, n[0]}, {VZ_BINARY, 0, total - n[0]}};
    fv_status st = vz_cm_decode(s->ctx, &small, segs, 2, code, (size_t)coded, meta);
    if (st == FV_OK) {
        const uint8_t *p = take(&s->text, meta, n[0]);
        p = take(&s->layout, p, n[1]);
        p = take(&s->shift, p, n[2]);
        take(&s->odd, p, n[3]);
        if (vz_buf_room(&s->bases, (size_t)bases + 1)) {
            memset(s->bases.data, 0, (size_t)bases);
            s->bases.size = (size_t)bases;
        }
        st = streams_status(s);
    }
    fv_free(s->ctx, meta);
    return st;
}

/* Read lengths, and room for qualities. */
static fv_status get_lengths(streams *s, size_t size)
{
    vz_in in = reader_of(s->ctx, &s->layout);
    uint64_t length = 0, total = 0, v;
    while (in.p < in.end) {
        FV_TRY(vz_in_varint(&in, &v));
        length += (uint64_t)unzigzag(v);
        if (length > size || s->lengths.size > size || (total += length) > size)
            return fv_fail(s->ctx, FV_ERR_FORMAT, "vzip: corrupt read lengths");
        vz_buf_le(&s->lengths, length, 4);
    }
    if (vz_buf_room(&s->quality, (size_t)total + 1) && vz_buf_room(&s->is_n, (size_t)total + 1)) {
        memset(s->quality.data, 0, (size_t)total);
        memset(s->is_n.data, 0, (size_t)total);
        s->quality.size = s->is_n.size = (size_t)total;
    }
    return streams_status(s);
}

static fv_status decode(fv_ctx *ctx, const vz_cm_options *o, uint32_t param, const uint8_t *code,
                        size_t code_size, uint8_t *data, size_t size)
{
    streams s;
    vz_decoder d;
    const vz_genes_bits b = {NULL, &d};
    vz_in r = {ctx, code, code + code_size};
    if (param != 0) return fv_fail(ctx, FV_ERR_VERSION, "vzip: unknown kind of genes segment");
    names *m = fv_calloc(ctx, 1, sizeof *m);
    if (!m) return FV_ERR_OOM;
    streams_init(&s, ctx);
    fv_status st = get_meta(&s, &r, o, size);
    if (st == FV_OK && s.flags & IS_FASTQ) st = get_lengths(&s, size);
    if (st == FV_OK) {
        vz_decoder_init(&d, r.p, (size_t)(r.end - r.p));
        st = code_bodies(&s, o, &b);
    }
    if (st == FV_OK && !join(&s, m, data, size))
        st = fv_fail(ctx, FV_ERR_FORMAT, "vzip: the streams of a segment of genes do not match");
    fv_free(ctx, m);
    (void)streams_free(&s);
    return st;
}

/* The streams take at most 2 + 4 bytes for each of the text, and twice that while they grow. */
static uint64_t memory(const vz_cm_options *o, uint32_t param, uint64_t size)
{
    (void)param;
    const vz_cm_options small = small_options(o, 2 * size);
    uint64_t most = vz_cm_memory(&small, 2 * size);
    const uint64_t bases = vz_bases_memory(o, size), quality = vz_quality_memory(o, size);
    if (bases > most) most = bases;
    if (quality > most) most = quality;
    return most + 20 * size + 65536 + sizeof(names);
}

const vz_coder vz_genes_coder = {VZ_GENES, "genes", encode, decode, memory};
