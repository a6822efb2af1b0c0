/* test_params.c - parameters for inference: every stored type gives the same product, loading holds
 * no more than the packed weights and one copy, read pages of the file are let go, and what plans
 * use already cannot be replaced. */
#include "fovea.h"
#include "temp_dir.h"
#include "test.h"

enum { N = 96, K = 80, M = 6 };

static fv_ctx *ctx;

static fv_tensor matrix(fv_dtype type, void *data, int64_t rows, int64_t cols)
{
    return (fv_tensor){ .data = data, .dtype = type, .ndim = 2, .dim = { rows, cols } };
}

/* A file of n matrices "w0", "w1", ... [rows, cols] of one type; FV_I8 writes int8 and scale. */
static fv_status write_file(const char *path, fv_dtype type, int n, int64_t rows, int64_t cols)
{
    fv_model_writer *w;
    const size_t count = (size_t)(rows * cols), size = fv_dtype_size(type);
    uint8_t *bytes = calloc((size_t)n * count, size);
    float *v = calloc(count, sizeof *v), *scale = calloc((size_t)rows, sizeof *scale);
    fv_status s = fv_model_writer_create(ctx, &w);
    if (!bytes || !v || !scale) exit(1);
    for (int64_t r = 0; r < rows; r++) scale[r] = 1.0f / (float)(64 + r);
    for (int i = 0; i < n && s == FV_OK; i++) {
        char name[32];
        uint8_t *at = bytes + (size_t)i * count * size;
        const fv_tensor t = matrix(type, at, rows, cols), st = { scale, FV_F32, 1, { rows } };
        test_fill(v, (int64_t)count, 7 + (uint64_t)i);
        for (size_t k = 0; type == FV_I8 && k < count; k++) v[k] *= 127;
        s = fv_convert(ctx, FV_F32, v, (int64_t)count, type, at);
        snprintf(name, sizeof name, type == FV_I8 ? "w%d.int8" : "w%d", i);
        if (s == FV_OK) s = fv_model_writer_tensor(w, name, &t);
        snprintf(name, sizeof name, "w%d.scale", i);
        if (s == FV_OK && type == FV_I8) s = fv_model_writer_tensor(w, name, &st);
    }
    if (s == FV_OK) s = fv_model_writer_finish(w, path, 1);
    fv_model_writer_destroy(&w);
    free(bytes);
    free(v);
    free(scale);
    return s;
}

typedef struct net {
    fv_model *file;
    fv_params *p;
    fv_plan *plan;
    float *x;
} net;

static void net_close(net *n)
{
    fv_plan_destroy(&n->plan);
    fv_params_destroy(&n->p);
    fv_model_close(&n->file);
    free(n->x);
}

static fv_status net_open(net *n, const char *path, int count, int64_t rows, int64_t cols)
{
    const int64_t dim[2] = { rows, cols };
    memset(n, 0, sizeof *n);
    fv_status s = fv_model_open(ctx, &n->file, path, NULL);
    if (s == FV_OK) s = fv_params_create(ctx, &n->p);
    for (int i = 0; i < count && s == FV_OK; i++) {
        char name[32];
        snprintf(name, sizeof name, "w%d", i);
        if (fv_params_add(n->p, name, 2, dim, 0) != i) return FV_ERR_INTERNAL;
    }
    return s == FV_OK ? fv_params_load(n->p, n->file, "") : s;
}

/* y = x w0^T + x w1^T + ... with M rows */
static fv_status net_plan(net *n, fv_dtype precision, int64_t cols)
{
    const int64_t dim[2] = { M, cols };
    fv_tape *t;
    fv_status s = fv_tape_create(ctx, &t, n->p, FV_INFER, precision);
    if (s != FV_OK) return s;
    const fv_t x = fv_input(t, "x", FV_F32, 2, dim);
    fv_t y = 0;
    for (int i = 0; i < fv_params_count(n->p); i++) {
        const fv_t z = fv_linear_as(t, x, i, -1, FV_ACT_NONE, FV_F32);
        y = y ? fv_binary_op(t, FV_ADD, y, z) : z;
    }
    fv_output(t, "y", y);
    s = fv_tape_status(t);
    if (s == FV_OK) s = fv_plan_build(ctx, &n->plan, t, NULL);
    fv_tape_destroy(&t);
    n->x = calloc((size_t)(M * cols), sizeof *n->x);
    if (!n->x) exit(1);
    test_fill(n->x, M * cols, 3);
    return s == FV_OK ? fv_plan_bind(n->plan, "x", n->x) : s;
}

/* Element of w0 as the file holds it. */
static double stored(const net *n, fv_dtype type, int64_t r, int64_t k)
{
    fv_tensor t, scale;
    const int64_t at = r * K + k;
    if (type == FV_I8) {
        if (!fv_model_find(n->file, "w0.int8", &t) || !fv_model_find(n->file, "w0.scale", &scale))
            exit(1);
        return (double)((const int8_t *)t.data)[at] * ((const float *)scale.data)[r];
    }
    double v;
    if (!fv_model_find(n->file, "w0", &t)) exit(1);
    const uint8_t *p = (const uint8_t *)t.data + (size_t)at * fv_dtype_size(type);
    return fv_convert(ctx, type, p, 1, FV_F64, &v) == FV_OK ? v : NAN;
}

static const fv_dtype types[] = { FV_F32, FV_BF16, FV_F16, FV_F64, FV_I8 };
enum { TYPES = (int)(sizeof types / sizeof types[0]) };

static void every_stored_type_gives_the_product(void)
{
    for (int k = 0; k < 2 * TYPES; k++) {
        const fv_dtype type = types[k / 2], precision = k % 2 ? FV_BF16 : FV_F32;
            net n;
        const char *path = temp_path("p.safetensors");
        OK(ctx, write_file(path, type, 1, N, K));
        OK(ctx, net_open(&n, path, 1, N, K));
        OK(ctx, net_plan(&n, precision, K));
        OK(ctx, fv_plan_forward(n.plan));
        const float *y = fv_plan_value(n.plan, "y").data;
        /* bf16 rounds both factors: 2^-9 each, of K products at most 2 in size, averaging */
        const double tolerance = precision == FV_BF16 ? 0.1 : 1e-4;
        for (int m = 0; m < M; m++)
            for (int r = 0; r < N; r++) {
                double want = 0;
                for (int c = 0; c < K; c++) want += n.x[m * K + c] * stored(&n, type, r, c);
                NEAR(y[m * N + r], want, tolerance);
            }
        net_close(&n);
    }
}

/* Opening a file and running it holds the packed weights, the plan's work memory, some bookkeeping,
 * and while packing at most one parameter in the type of the products. */
static void memory_is_weights_and_work(void)
{
    enum { COUNT = 4, SIDE = 512 };
    for (int k = 0; k < 2 * TYPES; k++) {
        const fv_dtype type = types[k / 2], precision = k % 2 ? FV_BF16 : FV_F32;
            net n;
        fv_memory_stats start, after;
        const char *path = temp_path("m.safetensors");
        OK(ctx, write_file(path, type, COUNT, SIDE, SIDE));
        fv_ctx_memory_reset_peak(ctx);
        fv_ctx_memory(ctx, &start);
        OK(ctx, net_open(&n, path, COUNT, SIDE, SIDE));
        OK(ctx, net_plan(&n, precision, SIDE));
        OK(ctx, fv_plan_forward(n.plan));
        fv_ctx_memory(ctx, &after);
        const uint64_t weights = fv_params_bytes(n.p), work = fv_plan_work_bytes(n.plan);
        const fv_dtype used = fv_ctx_cpu(ctx) & FV_CPU_AVX512 ? precision : FV_F32;
        const uint64_t copy = type == used ? 0 : (uint64_t)SIDE * SIDE * fv_dtype_size(used);
        /* weights are held once, in the type of the products (oneDNN may pad) */
        CHECK(weights <= (uint64_t)COUNT * SIDE * SIDE * fv_dtype_size(used) * 11 / 10);
        /* the file's name index, tape, plan and oneDNN's scratchpad */
        const uint64_t some = 400 << 10, limit = weights + work * 11 / 10 + copy + some;
        CHECK_MSG(after.peak_bytes - start.current_bytes <= limit,
                  "%s for %s: peak %llu, weights %llu, work %llu", fv_dtype_name(type),
                  fv_dtype_name(used), (unsigned long long)(after.peak_bytes - start.current_bytes),
                  (unsigned long long)weights, (unsigned long long)work);
        net_close(&n);
    }
}

/* Resident pages of files in KiB, -1 where the system does not tell. */
static long resident_file_kib(void)
{
    char line[128];
    long kib = -1;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "RssFile: %ld", &kib) == 1) break;
    if (f) fclose(f);
    return kib;
}

static void read_pages_of_the_file_are_let_go(void)
{
    enum { COUNT = 4, SIDE = 1024 }; /* 16 MiB */
    net n;
    uint8_t hash[32], again[32];
    if (resident_file_kib() < 0) return;
    const char *path = temp_path("r.safetensors");
    OK(ctx, write_file(path, FV_F32, COUNT, SIDE, SIDE));
    OK(ctx, net_open(&n, path, COUNT, SIDE, SIDE));
    const long before = resident_file_kib();
    fv_model_hash(n.file, hash);
    CHECK_MSG(resident_file_kib() - before < 4096, "hash: %ld KiB stay",
              resident_file_kib() - before);
    OK(ctx, net_plan(&n, FV_F32, SIDE));
    OK(ctx, fv_plan_forward(n.plan));
    /* oneDNN's own code counts too */
    CHECK_MSG(resident_file_kib() - before < 12288, "packing: %ld KiB stay",
              resident_file_kib() - before);
    fv_model_hash(n.file, again); /* what was let go is still readable */
    CHECK(memcmp(hash, again, sizeof hash) == 0);
    net_close(&n);
}

static void values_in_use_are_not_replaced(void)
{
    net n;
    const char *path = temp_path("u.safetensors");
    OK(ctx, write_file(path, FV_F32, 1, N, K));
    OK(ctx, net_open(&n, path, 1, N, K));
    OK(ctx, fv_params_load(n.p, n.file, "")); /* no plan yet */
    OK(ctx, net_plan(&n, FV_F32, K));
    CHECK(fv_params_load(n.p, n.file, "") == FV_ERR_STATE);
    CHECK(fv_params_alloc(n.p) == FV_ERR_STATE && !fv_params_tensor(n.p, 0).data);
    OK(ctx, fv_plan_forward(n.plan));
    net_close(&n);
}

static void allocation_after_loading_keeps_the_values(void)
{
    net n;
    fv_tensor t;
    const char *path = temp_path("a.safetensors");
    OK(ctx, write_file(path, FV_F32, 1, N, K));
    OK(ctx, net_open(&n, path, 1, N, K));
    OK(ctx, fv_params_alloc(n.p));
    CHECK(fv_model_find(n.file, "w0", &t));
    CHECK(memcmp(fv_params_tensor(n.p, 0).data, t.data, (size_t)N * K * sizeof(float)) == 0);
    net_close(&n);
}

int main(void)
{
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    o.threads = 2;
    if (fv_ctx_create(&ctx, &o) != FV_OK) return 1;
    temp_dir_make("params");
    RUN(every_stored_type_gives_the_product);
    RUN(memory_is_weights_and_work);
    RUN(read_pages_of_the_file_are_let_go);
    RUN(values_in_use_are_not_replaced);
    RUN(allocation_after_loading_keeps_the_values);
    fv_ctx_destroy(&ctx);
    return test_end();
}
