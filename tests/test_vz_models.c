/* test_vz_models.c - models given to the coder: whose texts are used, who finds them, handles
 * shared by threads, options of older callers, damaged files. */
#include "../codec/vz_models.h"
#include "test.h"

#include <pthread.h>
#include <stddef.h>

static fv_ctx *ctx;

/* What no program of the world but ours has in its data. */
static const char TYPICAL[] = "Quux-zorbled frobnication of 17 wimwams: <grault corge=\"waldo\"/>; "
                              "plugh(xyzzy, thud) := blorf & snarf | gnarl;\n";
static uint8_t file[4096];
static size_t file_size;
static char sample[600];

static void make_model(void)
{
    vz_model m = {.id = 0x1234, .name = "tiny", .primes = 1};
    vz_buf b;
    m.prime[0] = (vz_model_prime){VZ_TEXT, NULL, (const uint8_t *)TYPICAL, sizeof TYPICAL - 1};
    vz_buf_init(&b, ctx);
    OK(ctx, vz_model_write(ctx, &m, &b));
    CHECK(b.size <= sizeof file);
    memcpy(file, b.data, b.size);
    file_size = b.size;
    vz_buf_free(&b);
    snprintf(sample, sizeof sample, "%.90s\n%s", TYPICAL + 10, TYPICAL);
}

static fv_vzip_model *open_model(void)
{
    fv_vzip_model *m;
    const fv_status s = fv_vzip_model_open_memory(ctx, &m, file, file_size);
    if (s != FV_OK) printf("# %s\n", fv_ctx_error(ctx));
    return m;
}

static fv_status pack(const fv_vzip_model *model, uint8_t **vz, size_t *n)
{
    fv_vzip_options o = FV_VZIP_OPTIONS_INIT;
    o.model = model;
    return fv_vzip_compress(ctx, sample, strlen(sample), &o, vz, n);
}

static bool comes_back(fv_ctx *c, const uint8_t *vz, size_t n, const fv_vzip_limits *l)
{
    uint8_t *out;
    size_t got;
    if (fv_vzip_decompress(c, vz, n, 1 << 20, l, &out, &got) != FV_OK) return false;
    const bool same = got == strlen(sample) && memcmp(out, sample, got) == 0;
    fv_free(c, out);
    return same;
}

static void a_model_that_fits_is_worth_it(void)
{
    fv_vzip_model *m = open_model();
    uint8_t *mine, *own;
    size_t n, plain;
    OK(ctx, pack(m, &mine, &n));
    OK(ctx, pack(NULL, &own, &plain));
    CHECK_MSG(n + 20 < plain, "%zu bytes with, %zu without", n, plain);
    fv_free(ctx, own);
    fv_free(ctx, mine);
    fv_vzip_model_close(&m);
    CHECK(!m);
    fv_vzip_model_close(&m);
}

typedef struct finder {
    const fv_vzip_model *model;
    int asked;
} finder;

static const fv_vzip_model *find(void *user, uint32_t id, uint64_t hash)
{
    finder *f = user;
    f->asked += id == 0x1234 && hash != 0;
    return f->model;
}

static void frames_name_the_model(void)
{
    fv_vzip_model *m = open_model();
    fv_vzip_model_info i;
    fv_vzip_archive *a;
    fv_vzip_frame f;
    uint8_t *vz, *out, part[50];
    size_t n, got;
    finder found = {m, 0}, nothing = {NULL, 0}, wrong = {fv_vzip_model_own(), 0};
    fv_vzip_limits l = FV_VZIP_LIMITS_INIT;
    fv_vzip_model_get_info(m, &i);
    OK(ctx, pack(m, &vz, &n));
    OK(ctx, fv_vzip_open_memory(ctx, &a, vz, n, NULL));
    OK(ctx, fv_vzip_get_frame(a, 0, &f));
    CHECK(f.models == 1 && f.model_id == 0x1234 && f.model_hash == i.hash);
    CHECK(fv_vzip_read(ctx, a, 0, sizeof part, part, &got) == FV_ERR_MODEL && got == 0);
    fv_vzip_close(&a);
    CHECK(fv_vzip_decompress(ctx, vz, n, 1 << 20, NULL, &out, &got) == FV_ERR_MODEL);
    CHECK(strstr(fv_ctx_error(ctx), "00001234-") && strstr(fv_ctx_error(ctx), ".vzm"));

    const fv_vzip_model *const two[] = {NULL, m};
    l.models = two;
    CHECK(!comes_back(ctx, vz, n, &l)); /* model_count is 0 */
    l.model_count = 2;
    CHECK(comes_back(ctx, vz, n, &l));
    OK(ctx, fv_vzip_open_memory(ctx, &a, vz, n, &l));
    OK(ctx, fv_vzip_read(ctx, a, 5, sizeof part, part, &got));
    CHECK(got == sizeof part && memcmp(part, sample + 5, got) == 0);
    fv_vzip_close(&a);

    l = (fv_vzip_limits)FV_VZIP_LIMITS_INIT;
    l.find_model = find;
    l.find_user = &found;
    CHECK(comes_back(ctx, vz, n, &l) && found.asked > 0);
    l.find_user = &nothing;
    CHECK(!comes_back(ctx, vz, n, &l) && nothing.asked > 0);
    l.find_user = &wrong;
    CHECK(!comes_back(ctx, vz, n, &l) && wrong.asked > 0);
    fv_free(ctx, vz);
    fv_vzip_model_close(&m);
}

typedef struct sink {
    uint8_t bytes[1000];
    size_t n;
} sink;

static int64_t read_none(void *user, void *to, size_t size)
{
    (void)user;
    (void)to;
    (void)size;
    return 0;
}

static int keep(void *user, const void *from, size_t size)
{
    sink *s = user;
    if (size > sizeof s->bytes - s->n) return 1;
    memcpy(s->bytes + s->n, from, size);
    s->n += size;
    return 0;
}

typedef struct bytes {
    const uint8_t *at;
} bytes;

static int read_at(void *user, uint64_t offset, void *to, size_t size)
{
    memcpy(to, ((bytes *)user)->at + offset, size);
    return 0;
}

static void recovery_uses_it(void)
{
    fv_vzip_model *m = open_model();
    uint8_t *vz;
    size_t n;
    uint64_t lost;
    sink s = {.n = 0};
    OK(ctx, pack(m, &vz, &n));
    bytes b = {vz};
    const fv_vzip_source source = {read_at, n, &b};
    const fv_vzip_io io = {read_none, keep, &s};
    const fv_vzip_model *const one[] = {m};
    fv_vzip_limits l = FV_VZIP_LIMITS_INIT;
    l.models = one;
    l.model_count = 1;
    OK(ctx, fv_vzip_recover(ctx, &source, &io, 1000, &l, NULL, &lost, NULL));
    CHECK(lost == 0 && s.n == strlen(sample) && memcmp(s.bytes, sample, s.n) == 0);
    fv_free(ctx, vz);
    fv_vzip_model_close(&m);
}

/* ---- Threads, and callers of before ---------------------------------------------------------- */

typedef struct worker {
    const fv_vzip_model *model;
    bool is_right;
} worker;

static void *work(void *user)
{
    worker *w = user;
    fv_ctx *own;
    fv_vzip_options o = FV_VZIP_OPTIONS_INIT;
    fv_vzip_limits l = FV_VZIP_LIMITS_INIT;
    uint8_t *vz;
    size_t n;
    o.model = w->model;
    l.models = &w->model;
    l.model_count = 1;
    w->is_right = false;
    if (fv_ctx_create(&own, NULL) != FV_OK) return NULL;
    w->is_right = true;
    for (int i = 0; i < 3 && w->is_right; i++) {
        w->is_right = fv_vzip_compress(own, sample, strlen(sample), &o, &vz, &n) == FV_OK;
        if (!w->is_right) break;
        w->is_right = comes_back(own, vz, n, &l);
        fv_free(own, vz);
    }
    fv_ctx_destroy(&own);
    return NULL;
}

static void threads_share_a_handle(void)
{
    enum { COUNT = 3 };
    pthread_t thread[COUNT];
    worker w[COUNT];
    fv_vzip_model *m = open_model();
    for (int i = 0; i < COUNT; i++) {
        w[i] = (worker){m, false};
        CHECK(pthread_create(&thread[i], NULL, work, &w[i]) == 0);
    }
    for (int i = 0; i < COUNT; i++) {
        CHECK(pthread_join(thread[i], NULL) == 0);
        CHECK(w[i].is_right);
    }
    fv_vzip_model_close(&m);
}

/* Structures from before there were models: what lies behind their end is not read. */
static void old_structures_mean_no_model(void)
{
    fv_vzip_model *m = open_model();
    const fv_vzip_model *const one[] = {m};
    fv_vzip_options o = FV_VZIP_OPTIONS_INIT;
    fv_vzip_limits l = FV_VZIP_LIMITS_INIT;
    uint8_t *vz, *mine;
    size_t n, size;
    o.model = m;
    o.struct_size = offsetof(fv_vzip_options, model);
    l.models = one;
    l.model_count = 1;
    l.struct_size = offsetof(fv_vzip_limits, models);
    OK(ctx, fv_vzip_compress(ctx, sample, strlen(sample), &o, &vz, &n));
    CHECK(comes_back(ctx, vz, n, NULL));
    OK(ctx, pack(m, &mine, &size));
    CHECK(!comes_back(ctx, mine, size, &l));
    fv_free(ctx, mine);
    fv_free(ctx, vz);
    fv_vzip_model_close(&m);
}

/* ---- Files ----------------------------------------------------------------------------------- */

static void information_is_right(void)
{
    fv_vzip_model *m = open_model();
    fv_vzip_model_info i;
    fv_vzip_model_get_info(m, &i);
    CHECK(i.id == 0x1234 && strcmp(i.name, "tiny") == 0 && i.bytes == file_size);
    CHECK(i.texts == 1 && i.text_bytes == sizeof TYPICAL - 1 && !i.has_network && !i.pieces);
    fv_vzip_model_close(&m);
    CHECK(fv_vzip_model_own());
    fv_vzip_model_get_info(fv_vzip_model_own(), &i);
    CHECK(i.texts > 0 && i.bytes > i.text_bytes && i.name[0]);
    CHECK(i.hash == vz_model_short_hash(vz_prime_model()));
}

static void damaged_files_are_refused(void)
{
    fv_vzip_model *m;
    for (size_t n = 0; n < file_size; n++)
        CHECK(fv_vzip_model_open_memory(ctx, &m, file, n) != FV_OK && !m);
    for (size_t bit = 0; bit < 8 * file_size; bit++) {
        file[bit / 8] ^= (uint8_t)(1u << bit % 8);
        CHECK(fv_vzip_model_open_memory(ctx, &m, file, file_size) != FV_OK && !m);
        file[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    CHECK(fv_vzip_model_open_memory(ctx, &m, NULL, 5) == FV_ERR_ARG && !m);
    CHECK(fv_vzip_model_open(ctx, &m, NULL) == FV_ERR_ARG && !m);
    CHECK(fv_vzip_model_open(ctx, &m, "/nonexistent/x.vzm") != FV_OK && !m);
}

int main(void)
{
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    make_model();
    RUN(a_model_that_fits_is_worth_it);
    RUN(frames_name_the_model);
    RUN(recovery_uses_it);
    RUN(threads_share_a_handle);
    RUN(old_structures_mean_no_model);
    RUN(information_is_right);
    RUN(damaged_files_are_refused);
    fv_ctx_destroy(&ctx);
    return test_end();
}
