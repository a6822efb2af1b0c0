/* vz_train_data.c - what a model is learned from: files of folders and tar archives, cut into
 * segments as blocks are.
 *
 * Every fifth file is held out. The text segments of the others are grouped by the suffix of their
 * file, the suffixes with most text first; machine code and other binary data are a group each. Of
 * more than TOTAL bytes files are left out evenly, by the hash of their path. */
#include "vz_train.h"

#include <string.h>

#include "archive.h"
#include "cm.h"

#define TOTAL ((uint64_t)192 << 20) /* bytes of files that are read */
#define FILE_MOST ((size_t)4 << 20) /* of one file */
#define GROUP_MOST ((size_t)24 << 20)
#define GROUP_LEAST                                                                                \
    20u /* a suffix has one in so many bytes of the text, or it is one of the others */
#define SEGMENT_LEAST 64
#define HELD_EVERY 5
#define HELD_MOST ((size_t)1 << 20) /* of one file */
#define HELD_TOTAL ((uint64_t)2 << 20)
#define LEAST 1024 /* bytes to learn from */
#define SUFFIXES 256

typedef struct suffix_count {
    char suffix[16];
    uint64_t bytes;
} suffix_count;

typedef struct gathering {
    vz_samples *s;
    const char *skip;
    bool with_text;
    uint64_t all, number; /* bytes of all files; files so far */
    suffix_count *suffix; /* [SUFFIXES] */
    int suffixes;
} gathering;

/* ---- Files ----------------------------------------------------------------------------------- */

typedef fv_status visit_fn(gathering *g, const char *path, uint64_t size, fvi_archive *a,
                           const char *single);

/* What vzip made itself is no data. */
static bool is_skipped(const gathering *g, const char *path)
{
    const char *dot = strrchr(path, '.');
    if (dot && (strcmp(dot, ".vz") == 0 || strcmp(dot, ".vzm") == 0)) return true;
    return g->skip && strstr(path, g->skip) != NULL;
}

/* A path that is neither folder nor archive is one file. */
static fv_status visit_input(gathering *g, const char *input, visit_fn *visit)
{
    fv_ctx *ctx = g->s->ctx;
    fvi_archive *a = NULL;
    fv_status s = fvi_archive_open(ctx, &a, input, NULL);
    uint64_t members = 0;
    for (fvi_member m = {NULL, 0}; s == FV_OK; members++) {
        s = fvi_archive_next(a, &m);
        if (s != FV_OK || !m.path) break;
        if (!is_skipped(g, m.path)) s = visit(g, m.path, m.size, a, NULL);
    }
    fvi_archive_close(&a);
    if (members > 0 || (s != FV_ERR_FORMAT && s != FV_ERR_TRUNCATED && s != FV_ERR_CHECKSUM))
        return s;
    fv_mapping map;
    FV_TRY(fv_map_file(ctx, &map, input));
    const size_t size = map.size;
    fv_unmap(&map);
    return visit(g, input, size, NULL, input);
}

static fv_status visit_all(gathering *g, const char *const *inputs, int count, visit_fn *visit)
{
    g->number = 0;
    for (int i = 0; i < count; i++) FV_TRY(visit_input(g, inputs[i], visit));
    return FV_OK;
}

/* What stands behind the last dot of the name, in small letters. */
static void suffix_of(const char *path, char suffix[16])
{
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    const char *dot = strrchr(base, '.');
    const size_t n = dot && dot > base ? strlen(dot + 1) : 0;
    memset(suffix, 0, 16);
    for (size_t i = 0; n < 16 && i < n; i++)
        suffix[i] = (char)(dot[1 + i] >= 'A' && dot[1 + i] <= 'Z' ? dot[1 + i] + 32 : dot[1 + i]);
}

static fv_status count_file(gathering *g, const char *path, uint64_t size, fvi_archive *a,
                            const char *single)
{
    char suffix[16];
    int i = 0;
    (void)a;
    (void)single;
    if (size > FILE_MOST) size = FILE_MOST;
    g->all += size;
    suffix_of(path, suffix);
    while (i < g->suffixes && strcmp(g->suffix[i].suffix, suffix) != 0) i++;
    if (i == SUFFIXES) return FV_OK; /* among the others */
    if (i == g->suffixes) memcpy(g->suffix[g->suffixes++].suffix, suffix, sizeof suffix);
    g->suffix[i].bytes += size;
    return FV_OK;
}

/* ---- Groups ---------------------------------------------------------------------------------- */

static void add_group(vz_samples *s, vz_kind kind, const char *suffix, size_t want)
{
    vz_group *g = &s->group[s->groups++];
    g->kind = kind;
    g->want = want;
    snprintf(g->suffix, sizeof g->suffix, "%s", suffix);
    vz_buf_init(&g->bytes, s->ctx);
    vz_buf_init(&g->sizes, s->ctx);
    vz_buf_init(&g->text, s->ctx);
}

/* Up to six suffixes with most bytes, then the rest; sizes as in models/prime.md. */
static void make_groups(gathering *g)
{
    for (int n = 0; n < 6; n++) {
        int best = -1;
        for (int i = 0; i < g->suffixes; i++)
            if (g->suffix[i].bytes * GROUP_LEAST > g->all && g->suffix[i].suffix[0] &&
                (best < 0 || g->suffix[i].bytes > g->suffix[best].bytes))
                best = i;
        if (best < 0) break;
        add_group(g->s, VZ_TEXT, g->suffix[best].suffix, 65536);
        g->suffix[best].bytes = 0;
    }
    add_group(g->s, VZ_TEXT, "", 65536);
    add_group(g->s, VZ_BINARY, "", 57344);
    add_group(g->s, VZ_X86, "", 40960);
    add_group(g->s, VZ_ARM64, "", 40960);
}

static vz_group *group_of(vz_samples *s, vz_kind kind, const char *suffix)
{
    vz_group *others = NULL;
    if (kind == VZ_RECORDS) kind = VZ_BINARY;
    for (int i = 0; i < s->groups; i++) {
        vz_group *g = &s->group[i];
        if (g->kind != kind) continue;
        if (!g->suffix[0]) others = g;
        else if (strcmp(g->suffix, suffix) == 0) return g;
    }
    return others;
}

/* Machine code is learnt as it is coded: with absolute targets. */
static void add_segment(vz_samples *s, vz_kind kind, const char *suffix, uint8_t *data, size_t size)
{
    vz_group *g = group_of(s, kind, suffix);
    if (!g || size < SEGMENT_LEAST || g->bytes.size >= GROUP_MOST) return;
    if (kind == VZ_X86) vz_exe_x86(data, size, true);
    if (kind == VZ_ARM64) vz_exe_arm64(data, size, true);
    vz_buf_put(&g->bytes, data, size);
    vz_buf_put(&g->sizes, &size, sizeof size);
    if (g->bytes.status == FV_OK) g->bytes.status = g->sizes.status;
}

static fv_status add_file(gathering *g, const char *suffix, uint8_t *data, size_t size)
{
    vz_samples *s = g->s;
    vz_segment *segs;
    int count;
    size_t at = 0;
    const size_t before = s->text.size;
    FV_TRY(vz_split(s->ctx, data, size, VZ_LEVEL_DEFAULT, NULL, &segs, &count));
    for (int i = 0; i < count; at += (size_t)segs[i++].size) {
        if (segs[i].kind == VZ_TEXT && g->with_text)
            vz_buf_put(&s->text, data + at, (size_t)segs[i].size);
        if (vz_kind_is_cm(segs[i].kind))
            add_segment(s, segs[i].kind, suffix, data + at, (size_t)segs[i].size);
    }
    fv_free(s->ctx, segs);
    const size_t added = s->text.size - before;
    if (added > 0) vz_buf_put(&s->text_sizes, &added, sizeof added);
    if (s->text.status != FV_OK) return s->text.status;
    return s->text_sizes.status;
}

static fv_status read_file(vz_samples *s, fvi_archive *a, const char *single, uint8_t **data,
                           size_t *size)
{
    return a ? fvi_archive_read(a, data, size)
             : fv_read_file(s->ctx, single, (uint64_t)1 << 30, data, size);
}

static fv_status take_file(gathering *g, const char *path, uint64_t claimed, fvi_archive *a,
                           const char *single)
{
    vz_samples *s = g->s;
    uint8_t *data;
    size_t size;
    char suffix[16];
    const uint32_t hash = fv_crc32(0, path, strlen(path));
    (void)claimed;
    const uint64_t number = g->number++;
    if (g->all > TOTAL && (uint64_t)hash * (g->all >> 16) > (TOTAL >> 16) * UINT32_MAX)
        return FV_OK;
    FV_TRY(read_file(s, a, single, &data, &size));
    s->files++;
    s->bytes += size;
    if (number % HELD_EVERY == HELD_EVERY - 1) {
        if (size > 0 && size <= HELD_MOST && s->held_count < VZ_HELD &&
            s->held_bytes + size <= HELD_TOTAL) {
            s->held[s->held_count++] = (vz_held){data, size};
            s->held_bytes += size;
            return FV_OK;
        }
        fv_free(s->ctx, data);
        return FV_OK;
    }
    suffix_of(path, suffix);
    const fv_status st = add_file(g, suffix, data, size < FILE_MOST ? size : FILE_MOST);
    fv_free(s->ctx, data);
    if (st != FV_OK) return st;
    return fv_report(s->ctx, "reading", s->bytes, g->all > TOTAL ? TOTAL : g->all, path);
}

/* ---- Samples that recipes/collect_prime.py has gathered -------------------------------------- */

/* NAME.bin holds samples one after the other, NAME.sizes their sizes in bytes, one a line. Texts in
 * the order of the model's; sizes by what a text of twice the size gained: little. */
static const struct collected {
    const char *name;
    vz_kind kind;
    size_t want;
} COLLECTED[] = {
    {"prose", VZ_TEXT, 65536}, {"c", VZ_TEXT, 65536},    {"script", VZ_TEXT, 65536},
    {"web", VZ_TEXT, 65536},   {"data", VZ_TEXT, 65536}, {"binary", VZ_BINARY, 57344},
    {"x86", VZ_X86, 40960},
};

static fv_status read_part(fv_ctx *ctx, const char *folder, const char *name, const char *suffix,
                           uint8_t **bytes, size_t *size)
{
    char *path = fv_format(ctx, "%s/%s.%s", folder, name, suffix);
    if (!path) return FV_ERR_OOM;
    const fv_status s = fv_read_file(ctx, path, (uint64_t)1 << 28, bytes, size);
    fv_free(ctx, path);
    return s;
}

/* Cuts the samples; false: sizes and bytes do not fit together. */
static bool add_samples(vz_samples *s, vz_group *g, const uint8_t *sizes, size_t count,
                        uint8_t *bytes, size_t left)
{
    for (size_t at = 0; at < count; at++) {
        size_t n = 0;
        for (; at < count && sizes[at] >= '0' && sizes[at] <= '9'; at++) {
            n = 10 * n + (size_t)(sizes[at] - '0');
            if (n > left) return false;
        }
        if (at < count && sizes[at] != '\n') return false;
        if (g->kind == VZ_X86) vz_exe_x86(bytes, n, true);
        vz_buf_put(&g->bytes, bytes, n);
        vz_buf_put(&g->sizes, &n, sizeof n);
        bytes += n;
        left -= n;
        s->files++;
    }
    return left == 0;
}

static void start_samples(vz_samples *s, fv_ctx *ctx)
{
    memset(s, 0, sizeof *s);
    s->ctx = ctx;
    vz_buf_init(&s->text, ctx);
    vz_buf_init(&s->text_sizes, ctx);
}

fv_status vz_samples_collected(fv_ctx *ctx, vz_samples *s, const char *folder)
{
    start_samples(s, ctx);
    for (size_t i = 0; i < FV_ARRAY_LEN(COLLECTED); i++) {
        const struct collected *c = &COLLECTED[i];
        uint8_t *bytes = NULL, *sizes = NULL;
        size_t size, count;
        add_group(s, c->kind, "", c->want);
        vz_group *g = &s->group[s->groups - 1];
        fv_status st = read_part(ctx, folder, c->name, "bin", &bytes, &size);
        if (st == FV_OK) st = read_part(ctx, folder, c->name, "sizes", &sizes, &count);
        if (st == FV_OK && !add_samples(s, g, sizes, count, bytes, size))
            st = fv_fail(ctx, FV_ERR_FORMAT, "%s/%s.sizes: are not the sizes of the samples in %s.bin",
                         folder, c->name, c->name);
        if (st == FV_OK) st = g->bytes.status;
        if (st == FV_OK) st = g->sizes.status;
        fv_free(ctx, sizes);
        fv_free(ctx, bytes);
        if (st != FV_OK) return st;
    }
    return FV_OK;
}

/* ---- All of it ------------------------------------------------------------------------------- */

fv_status vz_samples_read(fv_ctx *ctx, vz_samples *s, const char *const *inputs, int count,
                          bool with_text, const char *skip)
{
    gathering g = {.s = s, .with_text = with_text, .skip = skip};
    start_samples(s, ctx);
    g.suffix = fv_calloc(ctx, SUFFIXES, sizeof *g.suffix);
    fv_status st = g.suffix ? visit_all(&g, inputs, count, count_file) : FV_ERR_OOM;
    if (st == FV_OK) {
        make_groups(&g);
        st = visit_all(&g, inputs, count, take_file);
    }
    uint64_t bytes = 0;
    for (int i = 0; i < s->groups; i++) {
        bytes += s->group[i].bytes.size;
        if (st == FV_OK) st = s->group[i].bytes.status;
    }
    if (st == FV_OK && bytes < LEAST)
        st = fv_fail(
            ctx, FV_ERR_ARG,
            "model: %llu bytes of text, tables or code in %llu files to learn from: too few, "
            "some 100,000 are worth it",
            (unsigned long long)bytes, (unsigned long long)s->files);
    fv_free(ctx, g.suffix);
    return st;
}

fv_status vz_samples_choose(vz_samples *s)
{
    int n = 0;
    for (int i = 0; i < s->groups; i++) {
        vz_group *g = &s->group[i];
        FV_TRY(fv_report(s->ctx, "choosing texts", (uint64_t)i, (uint64_t)s->groups, g->suffix));
        if (g->bytes.size < LEAST) {
            vz_buf_free(&g->bytes);
            vz_buf_free(&g->sizes);
            continue;
        }
        /* The buffer is from the allocator, which aligns for any type. */
        FV_TRY(vz_prime_select(s->ctx, g->bytes.data, (const size_t *)(const void *)g->sizes.data,
                               g->sizes.size / sizeof(size_t), g->want, &g->text));
        if (n < i) {
            s->group[n] = *g;
            memset(g, 0, sizeof *g);
        }
        n++;
    }
    s->groups = n;
    return FV_OK;
}

void vz_samples_close(vz_samples *s)
{
    for (int i = 0; i < VZ_GROUPS; i++) {
        if (!s->group[i].bytes.ctx) continue;
        vz_buf_free(&s->group[i].bytes);
        vz_buf_free(&s->group[i].sizes);
        vz_buf_free(&s->group[i].text);
    }
    for (int i = 0; i < s->held_count; i++) fv_free(s->ctx, s->held[i].bytes);
    if (!s->ctx) return;
    vz_buf_free(&s->text);
    vz_buf_free(&s->text_sizes);
    s->held_count = 0;
}
