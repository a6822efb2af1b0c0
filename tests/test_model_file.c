/* test_model_file.c - safetensors reader and writer, PyTorch reader, sharded models.
 *
 * golden/torch is written by PyTorch and the official safetensors library, see
 * make_torch_fixtures.py. */
#define _XOPEN_SOURCE 700
#include "alloc_fail.h"
#include "engine.h"
#include "temp_dir.h"
#include "test.h"

#include <dirent.h>
#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

static fv_ctx *ctx;
static const char *golden(const char *name)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/golden/torch/%s", FV_TEST_DIR, name);
    return path;
}

static int entries(void)
{
    DIR *d = opendir(temp_dir);
    int n = 0;
    if (!d) return -1;
    for (const struct dirent *e; (e = readdir(d)) != NULL;) n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

/* Read all that a model offers, so that the sanitizers see every byte. */
static uint32_t touch(const fv_model *m)
{
    uint32_t crc = 0;
    for (int i = 0; i < fv_model_count(m); i++) {
        fv_tensor t, u;
        fv_model_tensor(m, i, &t);
        crc = fv_crc32(crc, t.data, (size_t)fv_tensor_count(&t) * fv_dtype_size(t.dtype));
        if (!fv_model_find(m, fv_model_name(m, i), &u) || u.data != t.data) return 1;
    }
    for (int i = 0; i < fv_model_meta_count(m); i++) {
        const char *k, *v;
        fv_model_meta_at(m, i, &k, &v);
        crc = fv_crc32(fv_crc32(crc, k, strlen(k)), v, strlen(v));
    }
    return crc;
}

/* Open from an exact heap copy; the status. A model that opens is touched and closed. */
static fv_status open_copy(fv_ctx *c, const void *bytes, size_t n, const fv_model_options *o)
{
    uint8_t *copy = malloc(n ? n : 1);
    fv_model *m;
    if (n) memcpy(copy, bytes, n);
    const fv_status s = fv_model_open_memory(c, &m, copy, n, o);
    if (s == FV_OK) touch(m);
    fv_model_close(&m);
    free(copy);
    return s;
}

/* A file of this header text and `data` zero bytes. */
static fv_status open_header(const char *header, size_t data)
{
    const size_t n = strlen(header);
    uint8_t *file = calloc(1, 8 + n + data);
    for (int i = 0; i < 8; i++) file[i] = (uint8_t)((uint64_t)n >> 8 * i);
    memcpy(file + 8, header, n);
    const fv_status s = open_copy(ctx, file, 8 + n + data, NULL);
    free(file);
    return s;
}

/* ---- Writer and reader ----------------------------------------------------------------------- */

#define TYPES FV_DTYPE_COUNT
static uint8_t payload[TYPES][15 * 8];

/* One tensor of every type, an empty one and a scalar; odd sizes, so that there is padding. */
static fv_status write_sample(fv_ctx *c, const char *path, int overwrite)
{
    fv_model_writer *w;
    fv_status s = fv_model_writer_create(c, &w);
    if (s == FV_OK) s = fv_model_writer_meta(w, "fovea.kind", "test");
    if (s == FV_OK) s = fv_model_writer_meta(w, "note", "quote \" line\n caf\xc3\xa9");
    for (int i = 0; i < TYPES && s == FV_OK; i++) {
        char name[32];
        snprintf(name, sizeof name, "t.%s", fv_dtype_name((fv_dtype)i));
        const fv_tensor t = { payload[i], (fv_dtype)i, 3, { 3, 1, 5 } };
        s = fv_model_writer_tensor(w, name, &t);
    }
    const fv_tensor none = { NULL, FV_F32, 2, { 0, 7 } }, one = { payload[0], FV_F32, 0, { 0 } };
    if (s == FV_OK) s = fv_model_writer_tensor(w, "empty \xe2\x82\xac", &none);
    if (s == FV_OK) s = fv_model_writer_tensor(w, "scalar", &one);
    if (s == FV_OK) s = fv_model_writer_finish(w, path, overwrite);
    fv_model_writer_destroy(&w);
    return s;
}

static void all_types_round_trip_aligned(void)
{
    uint64_t seed = 11;
    for (size_t i = 0; i < sizeof payload; i++) ((uint8_t *)payload)[i] = (uint8_t)test_next(&seed);
    OK(ctx, write_sample(ctx, temp_path("a.safetensors"), 0));
    fv_model *m;
    OK(ctx, fv_model_open(ctx, &m, temp_path("a.safetensors"), NULL));
    CHECK(fv_model_count(m) == TYPES + 2); /* the padding is hidden */
    CHECK(fv_model_meta_count(m) == 2 && !strcmp(fv_model_meta(m, "fovea.kind"), "test"));
    CHECK(!strcmp(fv_model_meta(m, "note"), "quote \" line\n caf\xc3\xa9")
          && !fv_model_meta(m, "none"));
    fv_tensor t;
    for (int i = 0; i < TYPES; i++) {
        char name[32];
        snprintf(name, sizeof name, "t.%s", fv_dtype_name((fv_dtype)i));
        CHECK(!strcmp(fv_model_name(m, i), name)); /* the order of adding */
        CHECK(fv_model_find(m, name, &t) == 1 && t.dtype == (fv_dtype)i && t.ndim == 3);
        CHECK(t.dim[0] == 3 && t.dim[1] == 1 && t.dim[2] == 5);
        CHECK(((uintptr_t)t.data & 63) == 0);
        CHECK(memcmp(t.data, payload[i], 15 * fv_dtype_size(t.dtype)) == 0);
    }
    CHECK(fv_model_find(m, "empty \xe2\x82\xac", &t) && fv_tensor_count(&t) == 0 && t.data);
    CHECK(fv_model_find(m, "scalar", &t) && t.ndim == 0 && memcmp(t.data, payload[0], 4) == 0);
    CHECK(!fv_model_find(m, "t.", &t) && !t.data && !fv_model_find(m, "fovea.pad.0", &t));
    fv_model_tensor(m, -1, &t);
    CHECK(!t.data && !fv_model_name(m, TYPES + 2) && !fv_model_name(m, -1));
    fv_model_close(&m);
    CHECK(!m);
    fv_model_close(&m);
    CHECK(write_sample(ctx, temp_path("a.safetensors"), 0) == FV_ERR_EXISTS);
    OK(ctx, write_sample(ctx, temp_path("a.safetensors"), 1));
    CHECK(entries() == 1);
}

static void same_input_gives_the_same_bytes(void)
{
    uint8_t *a, *b;
    size_t an, bn;
    OK(ctx, write_sample(ctx, temp_path("b"), 1));
    OK(ctx, fv_read_file(ctx, temp_path("a.safetensors"), 0, &a, &an));
    OK(ctx, fv_read_file(ctx, temp_path("b"), 0, &b, &bn));
    CHECK(an == bn && memcmp(a, b, an) == 0);
    CHECK((8 + a[0] + 256u * a[1]) % 64 == 0); /* data begins aligned */
    fv_free(ctx, a);
    fv_free(ctx, b);
    unlink(temp_path("b"));
}

static void writer_refuses_bad_input(void)
{
    float x[4] = { 0 };
    fv_model_writer *w;
    OK(ctx, fv_model_writer_create(ctx, &w));
    fv_tensor t = { x, FV_F32, 1, { 4 } };
    OK(ctx, fv_model_writer_tensor(w, "x", &t));
    CHECK(fv_model_writer_tensor(w, "bad \xff", &t) == FV_ERR_ARG);
    CHECK(fv_model_writer_tensor(w, "__metadata__", &t) == FV_ERR_ARG);
    CHECK(fv_model_writer_tensor(w, "fovea.pad.1", &t) == FV_ERR_ARG);
    CHECK(fv_model_writer_tensor(w, NULL, &t) == FV_ERR_ARG);
    t.dim[0] = -1;
    CHECK(fv_model_writer_tensor(w, "y", &t) == FV_ERR_SHAPE);
    t.dim[0] = INT64_MAX;
    CHECK(fv_model_writer_tensor(w, "y", &t) == FV_ERR_SHAPE);
    t.dim[0] = 4;
    t.dtype = (fv_dtype)77;
    CHECK(fv_model_writer_tensor(w, "y", &t) == FV_ERR_DTYPE);
    t.dtype = FV_F32;
    t.data = NULL;
    CHECK(fv_model_writer_tensor(w, "y", &t) == FV_ERR_ARG);
    OK(ctx, fv_model_writer_meta(w, "k", "v"));
    CHECK(fv_model_writer_meta(w, "k", "w") == FV_ERR_ARG);
    CHECK(fv_model_writer_meta(w, "l", "\x80") == FV_ERR_ARG);
    CHECK(fv_model_writer_meta(w, NULL, "x") == FV_ERR_ARG);
    t.data = x;
    OK(ctx, fv_model_writer_tensor(w, "x", &t)); /* found at finish */
    CHECK(fv_model_writer_finish(w, temp_path("dup"), 0) == FV_ERR_ARG);
    CHECK(strstr(fv_ctx_error(ctx), "twice") && entries() == 1);
    fv_model_writer_destroy(&w);
    CHECK(!w);
    fv_model_writer_destroy(&w);
}

static void failed_writing_leaves_nothing(void)
{
    if (access("/dev/full", W_OK) == 0) {
        CHECK(write_sample(ctx, "/dev/full", 0) == FV_ERR_IO);
        CHECK(strstr(fv_ctx_error(ctx), strerror(ENOSPC)));
    }
    CHECK(write_sample(ctx, temp_path("none/x"), 0) == FV_ERR_NOT_FOUND);
    if (geteuid() != 0) {
        mkdir(temp_path("ro"), 0555);
        CHECK(write_sample(ctx, temp_path("ro/x"), 0) == FV_ERR_IO);
        rmdir(temp_path("ro"));
    }
    CHECK(entries() == 1);
}

static void empty_model_is_valid(void)
{
    fv_model_writer *w;
    OK(ctx, fv_model_writer_create(ctx, &w));
    OK(ctx, fv_model_writer_finish(w, temp_path("empty"), 0));
    fv_model_writer_destroy(&w);
    fv_model *m;
    OK(ctx, fv_model_open(ctx, &m, temp_path("empty"), NULL));
    CHECK(fv_model_count(m) == 0 && fv_model_meta_count(m) == 0);
    fv_model_close(&m);
    unlink(temp_path("empty"));
}

/* ---- Hostile safetensors --------------------------------------------------------------------- */

#define T(name, rest) "{\"" name "\":{\"dtype\":\"F32\"," rest "}}"

static void hostile_headers_get_their_status(void)
{
    static const struct { const char *header; size_t data; fv_status want; } cases[] = {
        {T("a", "\"shape\":[2],\"data_offsets\":[0,8]"), 8, FV_OK},
        {T("a", "\"shape\":[2],\"data_offsets\":[4,12]") "   ", 16, FV_OK}, /* gaps */
        {T("a", "\"shape\":[2],\"data_offsets\":[0,8]"), 7, FV_ERR_TRUNCATED},
        {T("a", "\"shape\":[2],\"data_offsets\":[0,4]"), 8, FV_ERR_FORMAT},
        {T("a", "\"shape\":[2],\"data_offsets\":[8,0]"), 8, FV_ERR_FORMAT},
        {T("a", "\"shape\":[2],\"data_offsets\":[-8,0]"), 8, FV_ERR_FORMAT},
        {T("a", "\"shape\":[2],\"data_offsets\":[0]"), 8, FV_ERR_FORMAT},
        {T("a", "\"shape\":[2],\"data_offsets\":[0,8,9]"), 8, FV_ERR_FORMAT},
        {T("a", "\"shape\":[2],\"data_offsets\":[0,8.0]"), 8, FV_ERR_FORMAT},
        {T("a", "\"shape\":[2]"), 8, FV_ERR_FORMAT},
        {T("a", "\"data_offsets\":[0,8]"), 8, FV_ERR_FORMAT},
        {T("a", "\"shape\":[-2],\"data_offsets\":[0,8]"), 8, FV_ERR_FORMAT},
        {T("a", "\"shape\":\"2\",\"data_offsets\":[0,8]"), 8, FV_ERR_FORMAT},
        {T("a", "\"shape\":[1,1,1,1,1,1,2],\"data_offsets\":[0,8]"), 8, FV_ERR_UNSUPPORTED},
        {T("a", "\"shape\":[4611686018427387904,2,2],\"data_offsets\":[0,0]"), 8, FV_ERR_FORMAT},
        {T("a", "\"shape\":[4611686018427387904],\"data_offsets\":[0,0]"), 8, FV_ERR_FORMAT},
        {T("a", "\"shape\":[9223372036854775807,9223372036854775807,0],\"data_offsets\":[0,0]"), 0,
         FV_ERR_FORMAT},
        {T("a", "\"shape\":[0],\"data_offsets\":[0,9223372036854775807]"), 8, FV_ERR_TRUNCATED},
        {T("a", "\"shape\":[2],\"data_offsets\":[0,99999999999999999999]"), 8, FV_ERR_FORMAT},
        {"{\"a\":{\"dtype\":\"BOOL\",\"shape\":[8],\"data_offsets\":[0,8]}}", 8,
         FV_ERR_UNSUPPORTED},
        {"{\"a\":{\"dtype\":\"F8_E4M3\",\"shape\":[8],\"data_offsets\":[0,8]}}", 8,
         FV_ERR_UNSUPPORTED},
        {"{\"a\":{\"dtype\":7,\"shape\":[8],\"data_offsets\":[0,8]}}", 8, FV_ERR_FORMAT},
        {"{\"a\":[]}", 8, FV_ERR_FORMAT},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[7,9]}}",
         16, FV_ERR_FORMAT},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]},"
         "\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[8,10]}}",
         16, FV_ERR_FORMAT},
        {"{\"__metadata__\":{\"a\":1}}", 0, FV_ERR_FORMAT},
        {"{\"__metadata__\":[]}", 0, FV_ERR_FORMAT},
        {"{\"__metadata__\":{\"a\":\"b\",\"a\":\"c\"}}", 0, FV_ERR_FORMAT},
        {"{\"bad \xff name\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0,
         FV_ERR_FORMAT},
        {"{\"a\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", 0,
         FV_ERR_LIMIT},
        {"{}", 0, FV_OK},
        {"{}x", 0, FV_ERR_FORMAT},
    };
    for (size_t i = 0; i < FV_ARRAY_LEN(cases); i++) {
        const fv_status s = open_header(cases[i].header, cases[i].data);
        CHECK_MSG(s == cases[i].want, "case %zu: %s: %s (%s)", i, cases[i].header,
                  fv_status_name(s), fv_ctx_error(ctx));
    }
    (void)open_header(T("blocks.3.w", "\"shape\":[2],\"data_offsets\":[0,4]"), 8);
    CHECK(strstr(fv_ctx_error(ctx), "blocks.3.w")); /* the tensor is named */
}

static void hostile_lengths_are_refused(void)
{
    uint8_t f[16] = { 2, 0, 0, 0, 0, 0, 0, 0, '{', '}' };
    CHECK(open_copy(ctx, f, 10, NULL) == FV_OK);
    for (size_t n = 0; n < 10; n++) CHECK(open_copy(ctx, f, n, NULL) == FV_ERR_TRUNCATED);
    f[0] = 3;
    CHECK(open_copy(ctx, f, 10, NULL) == FV_ERR_TRUNCATED);
    memset(f, 0xff, 8);
    CHECK(open_copy(ctx, f, 10, NULL) == FV_ERR_LIMIT);
    memset(f, 0, 8);
    CHECK(open_copy(ctx, f, 10, NULL) == FV_ERR_TRUNCATED); /* an empty header is no JSON */
    CHECK(open_copy(ctx, "this is not a model file", 24, NULL) == FV_ERR_FORMAT);
    fv_model *m;
    CHECK(fv_model_open_memory(ctx, &m, NULL, 10, NULL) == FV_ERR_ARG && !m);
    CHECK(fv_model_open(ctx, &m, NULL, NULL) == FV_ERR_ARG && !m);
    CHECK(fv_model_open(ctx, &m, temp_path("none"), NULL) == FV_ERR_NOT_FOUND && !m);
}

static void limits_are_obeyed(void)
{
    uint8_t *p;
    size_t n;
    OK(ctx, fv_read_file(ctx, temp_path("a.safetensors"), 0, &p, &n));
    fv_model_options o = FV_MODEL_OPTIONS_INIT;
    o.max_tensors = TYPES + 2;
    CHECK(open_copy(ctx, p, n, &o) == FV_OK);
    o.max_tensors = TYPES + 1;
    CHECK(open_copy(ctx, p, n, &o) == FV_ERR_LIMIT && strstr(fv_ctx_error(ctx), "max_tensors"));
    o.max_tensors = 0;
    o.max_header_bytes = 100;
    CHECK(open_copy(ctx, p, n, &o) == FV_ERR_LIMIT);
    o.struct_size = 0;
    CHECK(open_copy(ctx, p, n, &o) == FV_ERR_ARG);
    fv_free(ctx, p);
}

/* Cut at every byte, flip every bit of the first bytes, random bytes elsewhere. */
static void damage(const char *path, bool cut_fails)
{
    uint8_t *p;
    size_t n;
    OK(ctx, fv_read_file(ctx, path, 0, &p, &n));
    CHECK_MSG(open_copy(ctx, p, n, NULL) == FV_OK, "%s: %s", path, fv_ctx_error(ctx));
    for (size_t k = 0; k < n; k++) {
        const fv_status s = open_copy(ctx, p, k, NULL);
        CHECK_MSG(s != FV_OK || !cut_fails, "%s cut at %zu opens", path, k);
        CHECK(s != FV_ERR_INTERNAL && s != FV_ERR_ARG);
    }
    for (size_t k = 0; k < n; k++) {
        const uint8_t was = p[k];
        for (int bit = 0; bit < 8; bit += 1 + (k > 2048) * 3) {
            p[k] = (uint8_t)(was ^ 1 << bit);
            (void)open_copy(ctx, p, n, NULL);
        }
        p[k] = was;
    }
    fv_free(ctx, p);
}

static void damaged_safetensors_are_survived(void) { damage(temp_path("a.safetensors"), true); }

/* ---- Shards ---------------------------------------------------------------------------------- */

static fv_status write_shard(const char *name, const char *tensor, float value, const char *meta)
{
    fv_model_writer *w;
    const fv_tensor t = { &value, FV_F32, 1, { 1 } };
    fv_status s = fv_model_writer_create(ctx, &w);
    if (s == FV_OK) s = fv_model_writer_meta(w, "common", name);
    if (s == FV_OK) s = fv_model_writer_meta(w, meta, meta);
    if (s == FV_OK) s = fv_model_writer_tensor(w, tensor, &t);
    if (s == FV_OK) s = fv_model_writer_finish(w, temp_path(name), 1);
    fv_model_writer_destroy(&w);
    return s;
}

static void any_shard_opens_all(void)
{
    static const char *const names[3] = {"m-00001-of-00003.safetensors",
                                         "m-00002-of-00003.safetensors",
                                         "m-00003-of-00003.safetensors"};
    OK(ctx, write_shard(names[0], "a", 1, "x"));
    OK(ctx, write_shard(names[1], "b", 2, "y"));
    OK(ctx, write_shard(names[2], "c", 3, "z"));
    fv_model *m;
    for (int k = 0; k < 3; k++) {
        OK(ctx, fv_model_open(ctx, &m, temp_path(names[k]), NULL));
        fv_tensor t;
        CHECK(fv_model_count(m) == 3 && fv_model_meta_count(m) == 4);
        CHECK(fv_model_find(m, "b", &t) && *(const float *)t.data == 2);
        CHECK(!strcmp(fv_model_meta(m, "common"), names[0]) && fv_model_meta(m, "z"));
        fv_model_close(&m);
    }
    OK(ctx, write_shard(names[1], "a", 2, "y"));
    CHECK(fv_model_open(ctx, &m, temp_path(names[0]), NULL) == FV_ERR_FORMAT && !m);
    CHECK(strstr(fv_ctx_error(ctx), "twice"));
    unlink(temp_path(names[1]));
    CHECK(fv_model_open(ctx, &m, temp_path(names[2]), NULL) == FV_ERR_NOT_FOUND && !m);
    CHECK(strstr(fv_ctx_error(ctx), names[1])); /* the missing one is named */
    unlink(temp_path(names[0]));
    unlink(temp_path(names[2]));
    OK(ctx, write_shard("m-00004-of-00003.safetensors", "a", 1, "x")); /* not a shard's name */
    OK(ctx, fv_model_open(ctx, &m, temp_path("m-00004-of-00003.safetensors"), NULL));
    fv_model_close(&m);
    unlink(temp_path("m-00004-of-00003.safetensors"));
}

/* ---- Identity -------------------------------------------------------------------------------- */

static fv_status hash_of(const char *path, char hex[65])
{
    fv_model *m;
    uint8_t h[32];
    const fv_status s = fv_model_open(ctx, &m, path, NULL);
    if (s != FV_OK) return s;
    fv_model_hash(m, h);
    fv_hex(h, 32, hex);
    fv_model_close(&m);
    return FV_OK;
}

static void hash_ignores_order_and_metadata_only(void)
{
    float x[2] = { 1, 2 };
    char hex[5][65];
    for (int k = 0; k < 5; k++) {
        fv_model_writer *w;
        fv_tensor a = { x, FV_F32, 1, { 2 } }, b = { x, FV_F32, 1, { 1 } };
        if (k == 3) a.ndim = 2, a.dim[1] = 1; /* another shape */
        if (k == 4) a.dtype = FV_I32;         /* another type  */
        OK(ctx, fv_model_writer_create(ctx, &w));
        OK(ctx, fv_model_writer_tensor(w, k == 1 ? "b" : "a", k == 1 ? &b : &a));
        OK(ctx, fv_model_writer_tensor(w, k == 1 ? "a" : "b", k == 1 ? &a : &b));
        if (k == 2) OK(ctx, fv_model_writer_meta(w, "k", "v"));
        OK(ctx, fv_model_writer_finish(w, temp_path("h"), 1));
        fv_model_writer_destroy(&w);
        OK(ctx, hash_of(temp_path("h"), hex[k]));
    }
    CHECK(!strcmp(hex[0], hex[1]) && !strcmp(hex[0], hex[2]));
    CHECK(strcmp(hex[0], hex[3]) && strcmp(hex[0], hex[4]) && strcmp(hex[3], hex[4]));
    /* Frozen: files name models by it. */
    CHECK_MSG(!strcmp(hex[0], "a68f8df45150eecbfe164697d8f9618db93c161ad759bdffb9b3d525cba59161"),
              "%s", hex[0]);
    unlink(temp_path("h"));
}

/* ---- PyTorch --------------------------------------------------------------------------------- */

static void torch_formats_equal_the_official_conversion(void)
{
    static const char *const names[] = {"zip.pt", "legacy.pt", "legacy_p4.pt", "deflated.pt",
                                        "zip64.pt"};
    char want[65], got[65];
    OK(ctx, hash_of(golden("expected.safetensors"), want));
    for (size_t i = 0; i < FV_ARRAY_LEN(names); i++) {
        fv_model *m;
        fv_tensor t;
        OK(ctx, hash_of(golden(names[i]), got));
        CHECK_MSG(!strcmp(want, got), "%s", names[i]);
        OK(ctx, fv_model_open(ctx, &m, golden(names[i]), NULL));
        CHECK(fv_model_count(m) == 22 && fv_model_meta_count(m) == 4);
        CHECK(!strcmp(fv_model_meta(m, "epoch"), "3") && !strcmp(fv_model_meta(m, "done"), "true"));
        CHECK(!strcmp(fv_model_meta(m, "loss"), "0.125"));
        CHECK(!strcmp(fv_model_meta(m, "note"), "caf\xc3\xa9"));
        CHECK(fv_model_find(m, "optimizer.state.0.exp_avg", &t) && t.ndim == 2);
        CHECK(fv_model_find(m, "ema.blocks.1.weight", &t) && t.dim[2] == 5);
        CHECK(fv_model_find(m, "model.u16", &t) && t.dtype == FV_U16);
        CHECK(memcmp((const uint8_t *)t.data + 2, "\xff\xff", 2) == 0);
        fv_model_close(&m);
    }
}

static void torch_files_never_run_and_are_refused_by_name(void)
{
    fv_model *m;
    OK(ctx, fv_model_open(ctx, &m, golden("evil.pt"), NULL));
    CHECK(fv_model_count(m) == 1 && access("fovea-was-here", F_OK) != 0);
    fv_model_close(&m);
    CHECK(fv_model_open(ctx, &m, golden("bool.pt"), NULL) == FV_ERR_UNSUPPORTED && !m);
    CHECK(strstr(fv_ctx_error(ctx), "mask") && strstr(fv_ctx_error(ctx), "BoolStorage"));
    CHECK(fv_model_open(ctx, &m, golden("big_endian.pt"), NULL) == FV_ERR_UNSUPPORTED);
    CHECK(strstr(fv_ctx_error(ctx), "big-endian"));
    CHECK(fv_model_open(ctx, &m, golden("module.pt"), NULL) == FV_ERR_FORMAT);
    CHECK(strstr(fv_ctx_error(ctx), "state_dict"));
    CHECK(fv_model_open(ctx, &m, golden("loop.pt"), NULL) == FV_ERR_LIMIT);
}

static void damaged_torch_files_are_survived(void)
{
    damage(golden("zip.pt"), true);
    if (!test_bad) damage(golden("legacy.pt"), true);
    if (!test_bad) damage(golden("deflated.pt"), true);
}

/* Pickles that grow without limit, in the legacy frame. */
static fv_status open_pickle(const uint8_t *body, size_t n)
{
    static const uint8_t head[] = "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
                                  "\x80\x02M\xe9\x03.\x80\x02}.";
    const size_t h = sizeof head - 1;
    uint8_t *file = malloc(h + n + 4);
    memcpy(file, head, h);
    if (n) memcpy(file + h, body, n);
    memcpy(file + h + n, "\x80\x02].", 4);
    const fv_status s = open_copy(ctx, file, h + n + 4, NULL);
    free(file);
    return s;
}

static void pickle_bombs_are_limited(void)
{
    uint8_t b[8192];
    size_t n = 0;
    /* x0 = []; x(k+1) = [xk, xk]: 2^40 visits when followed naively. */
    b[n++] = ']';
    for (int k = 0; k < 40; k++) {
        const uint8_t piece[] = {'q',        (uint8_t)k, '0', ']',        'h',
                                 (uint8_t)k, 'a',        'h', (uint8_t)k, 'a'};
        memcpy(b + n, piece, sizeof piece);
        n += sizeof piece;
    }
    b[n++] = '.';
    CHECK(open_pickle(b, n) == FV_ERR_LIMIT);
    /* A list in itself. */
    CHECK(open_pickle((const uint8_t *)"]q\x01h\x01" "a.", 7) == FV_ERR_LIMIT);
    /* Memo index and string length beyond everything. */
    CHECK(open_pickle((const uint8_t *)"Nr\xff\xff\xff\xff.", 7) == FV_ERR_LIMIT);
    CHECK(open_pickle((const uint8_t *)"\x8d\xff\xff\xff\xff\xff\xff\xff\xff.", 10)
          == FV_ERR_TRUNCATED);
    CHECK(open_pickle((const uint8_t *)"h\x05.", 3) == FV_ERR_FORMAT);
    static const char *const broken[] = {
        "0.",     ".",     "t.",   "a.",    "Na.", "NNa.", "s.",    "Ns.",    "NNs.",
        "(N.u.",  "}(Nu.", "(Nd.", "R.",    "NR.", "Q.",   "b.",    "2.",     "\x85.",
        "]\x86.", "(e.",   "](a.", "\x93.", "e.",  "1.",   "F1\n.", "i\n\n.", "\xff."};
    for (size_t i = 0; i < FV_ARRAY_LEN(broken); i++) {
        const fv_status s = open_pickle((const uint8_t *)broken[i], strlen(broken[i]));
        CHECK_MSG(s != FV_OK && s != FV_ERR_INTERNAL, "%s", broken[i]);
    }
}

typedef struct program { uint8_t *p; size_t n; } program;

static void say(program *o, const void *bytes, size_t n)
{
    memcpy(o->p + o->n, bytes, n);
    o->n += n;
}
#define SAY(o, literal) say((o), literal, sizeof literal - 1)

/* One tensor, and one megabyte of text under 500 keys: half a gigabyte of metadata. */
static void repeated_text_is_limited(void)
{
    const uint32_t big = 1u << 20;
    program o = { malloc(big + 65536), 0 };
    CHECK(o.p);
    SAY(&o, "X");
    for (int i = 0; i < 4; i++) o.p[o.n++] = (uint8_t)(big >> 8 * i);
    memset(o.p + o.n, 'x', big);
    o.n += big;
    SAY(&o, "q\x01" "0}(");
    SAY(&o, "U\x01" "tctorch._utils\n_rebuild_tensor_v2\n((");
    SAY(&o, "U\x07storagectorch\nFloatStorage\nU\x01" "0U\x03" "cpuK\x00tQ");
    SAY(&o, "K\x00K\x00\x85K\x01\x85tR");
    const size_t end_of_tensor = o.n;
    for (int i = 0; i < 500; i++) {
        char key[16];
        snprintf(key, sizeof key, "U\x03%03d", i);
        say(&o, key, 5);
        SAY(&o, "h\x01");
    }
    SAY(&o, "u.");
    fv_ctx_memory_reset_peak(ctx);
    const fv_status s = open_pickle(o.p, o.n);
    fv_memory_stats m;
    fv_ctx_memory(ctx, &m);
    o.n = end_of_tensor;
    for (int i = 0; i < 2; i++) SAY(&o, "U\x01kK\x05"); /* a key twice */
    SAY(&o, "u.");
    const fv_status twice = open_pickle(o.p, o.n);
    CHECK_MSG(twice == FV_ERR_FORMAT && strstr(fv_ctx_error(ctx), "metadata \"k\" appears twice"),
              "%s", fv_ctx_error(ctx));
    o.n = end_of_tensor;
    SAY(&o, "u.");
    OK(ctx, open_pickle(o.p, o.n));
    free(o.p);
    CHECK_MSG(s == FV_ERR_LIMIT, "%s", fv_status_name(s));
    CHECK(m.peak_bytes < 250u << 20);
}

static void storage_keys_are_short(void)
{
    program o = { malloc(1024), 0 };
    CHECK(o.p);
    for (int n = 99; n < 101; n++) {
        o.n = 0;
        SAY(&o, "(U\x07storagectorch\nFloatStorage\nU");
        o.p[o.n++] = (uint8_t)n;
        memset(o.p + o.n, '7', (size_t)n);
        o.n += (size_t)n;
        SAY(&o, "U\x03" "cpuK\x00tQ.");
        const fv_status s = open_pickle(o.p, o.n);
        CHECK_MSG(s == FV_ERR_FORMAT && !strstr(fv_ctx_error(ctx), "bad storage") == (n == 99),
                  "%s", fv_ctx_error(ctx));
    }
    free(o.p);
}

/* ---- Failing allocations --------------------------------------------------------------------- */

static alloc_fail heap = { .left = ALLOC_ALL, .once = true };

static fv_status open_touch_close(fv_ctx *c, const char *path)
{
    fv_model *m;
    const fv_status s = fv_model_open(c, &m, path, NULL);
    if (s == FV_OK) touch(m);
    fv_model_close(&m);
    return s;
}

static void every_failed_allocation_is_reported(void)
{
    const fv_allocator al = alloc_fail_allocator(&heap);
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    o.alloc = &al;
    fv_ctx *c;
    heap.left = ALLOC_ALL;
    CHECK(fv_ctx_create(&c, &o) == FV_OK);
    fv_memory_stats before, after;
    fv_ctx_memory(c, &before);
    char paths[5][512];
    snprintf(paths[0], 512, "%s", temp_path("a.safetensors"));
    snprintf(paths[1], 512, "%s", golden("zip.pt"));
    snprintf(paths[2], 512, "%s", golden("deflated.pt"));
    snprintf(paths[3], 512, "%s", golden("legacy.pt"));
    snprintf(paths[4], 512, "%s", temp_path("oom"));
    for (int job = 0; job < 5; job++) {
        for (int k = 0;; k++) {
            CHECK(k < 2000);
            heap.left = k;
            const fv_status s =
                job == 4 ? write_sample(c, paths[4], 1) : open_touch_close(c, paths[job]);
            const bool reached = heap.left < 0;
            heap.left = ALLOC_ALL;
            fv_ctx_memory(c, &after);
            CHECK_MSG(s == (reached ? FV_ERR_OOM : FV_OK), "job %d, allocation %d: %s", job, k,
                      fv_status_name(s));
            CHECK(after.current_bytes == before.current_bytes && entries() <= 2);
            if (!reached) break;
        }
    }
    unlink(paths[4]);
    fv_ctx_destroy(&c);
}

int main(void)
{
    temp_dir_make("model");
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    RUN(all_types_round_trip_aligned);
    RUN(same_input_gives_the_same_bytes);
    RUN(writer_refuses_bad_input);
    RUN(failed_writing_leaves_nothing);
    RUN(empty_model_is_valid);
    RUN(hostile_headers_get_their_status);
    RUN(hostile_lengths_are_refused);
    RUN(limits_are_obeyed);
    RUN(damaged_safetensors_are_survived);
    RUN(any_shard_opens_all);
    RUN(hash_ignores_order_and_metadata_only);
    RUN(torch_formats_equal_the_official_conversion);
    RUN(torch_files_never_run_and_are_refused_by_name);
    RUN(damaged_torch_files_are_survived);
    RUN(pickle_bombs_are_limited);
    RUN(repeated_text_is_limited);
    RUN(storage_keys_are_short);
    RUN(every_failed_allocation_is_reported);
    unlink(temp_path("a.safetensors"));
    fv_ctx_destroy(&ctx);
    return test_end();
}
