/* cm_text.c - contexts of text: prose, source code, logs, tables, markup.
 *
 * Beside the last 1 to 8 bytes: the word and those before it; the bytes above in the line before,
 * once by column and once by field, for tables and logs; the value inside its key, tag or column of
 * JSON, XML and CSV; and what followed the last bytes earlier (indirect). A field is what stands
 * between two of the separators  , ; : = | tab " ' ( ) [ ] { } < > newline. */
#include "cm.h"

enum { LETTER = 1, DIGIT = 2, SPACE = 3, SEPARATOR = 4, OTHER = 0 };

static uint32_t class_of_byte(uint32_t c)
{
    if ((c | 32) - 'a' < 26 || c >= 128 || c == '_') return LETTER;
    if (c - '0' < 10) return DIGIT;
    switch (c) {
    case ' ': return SPACE;
    case ',': case ';': case ':': case '=': case '|': case '\t': case '"': case '\'': case '(':
    case ')': case '[': case ']': case '{': case '}': case '<': case '>': case '\n':
        return SEPARATOR;
    default: return OTHER;
    }
}

static void word_byte(vz_cm *cm, uint32_t c, uint32_t kind)
{
    vz_text *t = &cm->text;
    if (kind == LETTER || kind == DIGIT) {
        t->word = vz_hash2(t->word + 1, c);
        t->folded = vz_hash2(t->folded + 1, kind == LETTER && c < 128 ? c | 32 : c);
    } else if (t->word) {
        if (!t->first_word) t->first_word = t->word;
        t->word_prev2 = t->word_prev;
        t->word_prev = t->word;
        t->folded_prev = t->folded;
        t->ending = cm->c4 >> 8 & 0xffffff;
        t->word = t->folded = 0;
    }
    t->number = kind == DIGIT ? t->number * 2 + 2 : c == '.' || c == '-' ? t->number * 2 + 1 : 0;
}

static void field_byte(vz_cm *cm, uint32_t c, uint32_t kind)
{
    vz_text *t = &cm->text;
    if (kind != SEPARATOR) {
        t->field_hash = vz_hash2(t->field_hash + 1, c);
        return;
    }
    if (c == ':' || c == '=' || c == '>') t->key = t->field_hash ? t->field_hash : t->key;
    if (c == '"' && t->field_hash) t->tag = t->field_hash;
    t->field_hash = 0;
    t->field_start = cm->pos;
    if (c == '{' || c == '[' || c == '(') t->depth++;
    if ((c == '}' || c == ']' || c == ')') && t->depth > 0) t->depth--;
    if (t->field < 63) t->field++;
    t->fields_now[t->field] = cm->pos;
}

static void new_line(vz_cm *cm)
{
    vz_text *t = &cm->text;
    for (uint32_t i = 0; i < 64; i++) {
        t->fields_prev[i] = i <= t->field ? t->fields_now[i] : 0;
        t->fields_now[i] = 0;
    }
    t->line_prev = t->line_start;
    t->line_start = t->field_start = cm->pos;
    t->fields_now[0] = cm->pos;
    t->field = 0;
    t->first = t->indent = t->first_word = 0;
}

void vz_cm_text_byte(vz_cm *cm, uint32_t c)
{
    vz_text *t = &cm->text;
    const uint32_t kind = class_of_byte(c);
    word_byte(cm, c, kind);
    field_byte(cm, c, kind);
    t->column_kind = t->column_kind << 4 | kind;
    const uint32_t column = cm->pos - t->line_start;
    if (column <= 4) t->first = t->first << 8 | c;
    if (c == ' ' && t->indent == column - 1) t->indent = column;
    if (c == '\n') new_line(cm);
}

void vz_cm_word_byte(vz_cm *cm, uint32_t c) { word_byte(cm, c, class_of_byte(c)); }

/* The byte `ahead` places on in the line above, 0 at its end. */
static uint32_t above_of(const vz_cm *cm, uint32_t ahead)
{
    const uint32_t at = cm->text.line_prev + (cm->pos - cm->text.line_start) + ahead;
    return at < cm->text.line_start ? cm->hist[at] : 0;
}
/* The same inside the field of the same number. */
static uint32_t above_field(const vz_cm *cm, uint32_t ahead)
{
    const uint32_t start = cm->text.fields_prev[cm->text.field];
    if (start == 0 && cm->text.field > 0) return 0;
    const uint32_t at = start + (cm->pos - cm->text.field_start) + ahead;
    return at < cm->text.line_start ? cm->hist[at] : 0;
}

/* Context number n has the value v; the number keeps equal values of different contexts apart. */
#define ADD(v) (h[n] = vz_hash2((v), (uint32_t)(n + 1) * 0x3d4d51cbu), n++)

/* Share of letters, spaces and the marks of sentences from which on text counts as prose. */
#define PROSE_PERCENT 93
#define SAMPLE_BYTES ((size_t)1 << 16)

bool vz_cm_is_prose(const uint8_t *data, size_t size)
{
    const size_t n = size < SAMPLE_BYTES ? size : SAMPLE_BYTES;
    size_t prose = 0;
    for (size_t i = 0; i < n; i++) {
        const uint32_t c = data[i], kind = class_of_byte(c);
        prose += (kind == LETTER && c != '_') || c == ' ' || c == ',' || c == '.' || c == '\'' ||
                 c == '\n' || c == '-';
    }
    return prose * 100 >= n * PROSE_PERCENT;
}

/* In place of the contexts of lines and fields: words at a distance, endings, one more order. */
static void prose_contexts(const vz_cm *cm, uint32_t *h)
{
    const vz_text *t = &cm->text;
    const uint32_t c4 = cm->c4, c8 = cm->c8, c1 = c4 & 0xff;
    static const uint8_t AT[6] = {7, 9, 10, 11, 12, 19};
    const bool is_fast = cm->strength == VZ_CM_FAST;
    const uint32_t v[6] = {is_fast ? vz_hash2(c4, c8 & 0xff) : vz_hash2(t->word, t->word_prev2),
                           vz_hash2(c4 & 0xffffff, t->word_prev),
                           vz_hash2(t->word, t->column_kind & 0xffff),
                           vz_hash2(c4, c8 & 0xffffff),
                           vz_hash2(t->folded, t->folded_prev),
                           vz_hash2(t->word, t->ending | c1 << 24)};
    const uint32_t count = is_fast ? 1 : cm->strength == VZ_CM_MID ? 5 : 6;
    for (uint32_t i = 0; i < count; i++)
        h[is_fast ? 6 : AT[i]] = vz_hash2(v[i], (AT[i] + 1) * 0x6b43a9b5u);
}

/* The 10 contexts of the strongest class beyond the 14 of the middle one. */
static void more_contexts(const vz_cm *cm, uint32_t *h, int n)
{
    const vz_text *t = &cm->text;
    const uint32_t c4 = cm->c4, c8 = cm->c8, c1 = c4 & 0xff;
    ADD(vz_hash2(c4, c8));
    ADD(vz_hash2(t->word, t->word_prev * 3 + t->word_prev2));
    ADD(vz_hash2(t->folded, c1));
    ADD(vz_hash2(cm->indirect1[c1], c1));
    ADD(c4 & 0xffff00);
    ADD(vz_hash2(t->first, cm->pos - t->line_start));
    ADD(vz_hash2(t->word_prev, c1));
    ADD(vz_hash2(t->number | t->field << 16, t->key));
    ADD(vz_hash2(t->column_kind, c1));
    ADD(vz_hash2(t->field_hash, vz_hash2(t->tag, t->key)));
}

void vz_cm_text_contexts(vz_cm *cm)
{
    uint32_t *h = cm->hash;
    const vz_text *t = &cm->text;
    const uint32_t c4 = cm->c4, c8 = cm->c8, c1 = c4 & 0xff;
    const uint32_t above = above_field(cm, 0);
    int n = 0;
    if (cm->strength != VZ_CM_FAST) ADD(c1);
    ADD(c4 & 0xffff);
    ADD(c4 & 0xffffff);
    ADD(c4);
    ADD(vz_hash2(c4, c8 & 0xffff));
    ADD(vz_hash2(t->word, c1));
    ADD(vz_hash2(t->word, t->word_prev));
    ADD(vz_hash2(above | c1 << 8, t->field));
    if (cm->strength != VZ_CM_FAST) {
        ADD(vz_hash2(c4, c8 & 0xff));
        ADD(vz_hash2(above_of(cm, 0) | above_of(cm, 1) << 8, c1));
        ADD(vz_hash2(above | above_field(cm, 1) << 8, c1 | t->field << 8));
        ADD(vz_hash2(t->field_hash, t->key));
        ADD(vz_hash2(t->field_hash, t->field));
        ADD(vz_hash2(cm->indirect2[c4 & 0xffff], c1));
        if (cm->strength == VZ_CM_MAX) more_contexts(cm, h, n);
        cm->select[0] = (t->column_kind & 7) | (t->column_kind >> 1 & 0x38) |
                        (t->column_kind >> 2 & 0xc0);
        cm->select[1] = t->field < 31 ? t->field * 8 + (t->column_kind & 7) : 255;
    }
    if (cm->is_prose) prose_contexts(cm, h);
}
