/* check_decode.c - kernels for decoding: every variant against double references, and that no row's
 * bits depend on its company, on how the panels are cut, or on where its keys lie.
 * `check_decode --bench` prints rates. */
#include "decode.h"
#include "test.h"

#include <omp.h>

static const struct variant { const char *name; uint32_t cpu; } variants[] = {
    { "scalar", 0 },
    { "avx2", FV_CPU_AVX2 },
    { "avx512", FV_CPU_AVX2 | FV_CPU_AVX512 },
    { "avx512vnni", FV_CPU_AVX2 | FV_CPU_AVX512 | FV_CPU_AVX512VNNI },
    { "avx512bf16", FV_CPU_AVX2 | FV_CPU_AVX512 | FV_CPU_AVX512BF16 },
};
enum { VARIANTS = (int)FV_ARRAY_LEN(variants) };
static const fv_dtype types[3] = { FV_F32, FV_BF16, FV_I8 };
static const char *const type_name[3] = { "f32", "bf16", "int8" };

static bool ops_of(int v, fvi_decode_ops *o)
{
    if ((fv_cpu_features() & variants[v].cpu) != variants[v].cpu) return false;
    fvi_decode_init(o, variants[v].cpu);
    return true;
}

static void *memory(size_t bytes) /* 64-byte aligned, zero */
{
    const size_t n = (bytes + 127) / 64 * 64;
    void *p = aligned_alloc(64, n);
    if (!p) exit(1);
    return memset(p, 0, n);
}
static float *values(int64_t n, uint64_t seed)
{
    float *x = memory((size_t)n * sizeof *x + 64);
    test_fill(x, n, seed);
    return x;
}

/* What a type holds of a row, in double. */
static void held(fv_dtype type, const float *x, int n, double *out)
{
    float most = 0;
    for (int i = 0; i < n; i++) most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    for (int i = 0; i < n; i++) {
        out[i] = type == FV_BF16 ? fv_bf16_to_f32(fv_f32_to_bf16(x[i])) : x[i];
        if (type == FV_I8) out[i] = nearbyintf(x[i] * (127.0f / most)) * (most / 127.0f);
    }
}

/* ---- Products -------------------------------------------------------------------------------- */

typedef struct job {
    fv_dtype type;
    int N, K, rows;
    float *w, *x, *bias, *start;
    void *packed;
} job;

static job job_of(fv_dtype type, int N, int K, int rows)
{
    job j = { type, N, K, rows, 0, 0, 0, 0, 0 };
    const size_t pad = fvi_dec_pad(N);
    j.w = values((int64_t)N * K, 1);
    j.x = values((int64_t)rows * K, 2);
    j.bias = memory(pad * sizeof(float));
    test_fill(j.bias, N, 3);
    j.start = values((int64_t)pad * rows, 4);
    j.packed = memory(fvi_dec_pack_bytes(type, N, K));
    fvi_dec_pack(type, N, K, j.w, j.packed, 2);
    return j;
}
static void job_free(job *j)
{
    free(j->w); free(j->x); free(j->bias); free(j->start); free(j->packed);
}

/* y [rows, N padded] += bias + w x, for rows `first` to `first + rows`; panels cut at `cut`. */
static void job_run(const fvi_decode_ops *o, const job *j, int first, int rows, int cut, float *y)
{
    const size_t bytes = fvi_dec_row_bytes(j->K), pad = fvi_dec_pad(j->N);
    fvi_dec_matrix m = fvi_dec_view(j->type, j->N, j->K, j->packed);
    uint8_t *x = memory(bytes * (size_t)rows);
    float *scale = memory((size_t)rows * sizeof *scale);
    m.bias = j->bias;
    for (int r = 0; r < rows; r++)
        o->prepare[j->type](x + (size_t)r * bytes, scale + r,
                            j->x + (size_t)(first + r) * (size_t)j->K, j->K);
    memcpy(y, j->start + (size_t)first * pad, (size_t)rows * pad * sizeof *y);
    const fvi_dec_product p = { &m, x, bytes, scale, y, pad, rows, true, j->packed };
    const int panels = (int)pad / FVI_DEC_PANEL;
    if (cut > panels) cut = panels;
    o->product[j->type](&p, 0, cut);
    o->product[j->type](&p, cut, panels);
    free(x);
    free(scale);
}

/* Largest error over its bound: 2^-23 sqrt(K) times the sum of the magnitudes. */
static double job_error(const job *j, const float *y)
{
    double *w = memory((size_t)j->K * sizeof *w), *x = memory((size_t)j->K * sizeof *x), worst = 0;
    const size_t pad = fvi_dec_pad(j->N);
    for (int r = 0; r < j->rows; r++)
        for (int n = 0; n < j->N; n++) {
            held(j->type, j->w + (size_t)n * (size_t)j->K, j->K, w);
            held(j->type, j->x + (size_t)r * (size_t)j->K, j->K, x);
            const size_t at = (size_t)r * pad + (size_t)n;
            double sum = (double)j->start[at] + j->bias[n], size = fabs(sum) + 1;
            for (int k = 0; k < j->K; k++) {
                sum += w[k] * x[k];
                size += fabs(w[k] * x[k]);
            }
            const double e = fabs(y[at] - sum) / (size * sqrt(j->K + 1.0) * 0x1p-23);
            worst = test_worst(worst, e);
        }
    free(w);
    free(x);
    return worst;
}

static const int shapes[][2] = { { 1, 4 }, { 16, 16 }, { 48, 36 }, { 33, 21 }, { 130, 7 },
                                 { 272, 100 }, { 144, 192 } };

static void products_match_double(void)
{
    for (int t = 0; t < 3; t++)
        for (size_t s = 0; s < FV_ARRAY_LEN(shapes); s++) {
            job j = job_of(types[t], shapes[s][0], shapes[s][1], 7);
            float *y = memory((size_t)j.rows * fvi_dec_pad(j.N) * sizeof *y);
            char why[100] = "";
            for (int v = 0; v < VARIANTS && !why[0]; v++) {
                fvi_decode_ops o;
                if (!ops_of(v, &o)) continue;
                job_run(&o, &j, 0, j.rows, 3, y);
                const double e = job_error(&j, y);
                if (!(e < 1))
                    snprintf(why, sizeof why, "%s %s %dx%d: %g of the bound", variants[v].name,
                             type_name[t], j.N, j.K, e);
            }
            free(y);
            job_free(&j);
            CHECK_MSG(!why[0], "%s", why);
        }
}

/* Every number of rows from 1 to 13, every cut: the bits of a row alone, uncut. */
static void rows_of_products_do_not_depend_on_company(void)
{
    int bad = 0;
    for (int v = 0; v < VARIANTS; v++) {
        fvi_decode_ops o;
        if (!ops_of(v, &o)) continue;
        for (int t = 0; t < 3; t++) {
            job j = job_of(types[t], 272, 52, 13);
            const size_t pad = fvi_dec_pad(j.N);
            float *one = memory((size_t)j.rows * pad * sizeof *one);
            float *all = memory((size_t)j.rows * pad * sizeof *all);
            for (int r = 0; r < j.rows; r++) job_run(&o, &j, r, 1, 99, one + (size_t)r * pad);
            for (int rows = 1; rows <= j.rows; rows++)
                for (int cut = 1; cut <= 17; cut += rows == 2 || rows == 6 ? 1 : 7) {
                    job_run(&o, &j, 0, rows, cut, all);
                    bad += memcmp(all, one, (size_t)rows * pad * sizeof *one) != 0;
                }
            free(one);
            free(all);
            job_free(&j);
        }
    }
    CHECK(bad == 0);
}

static void int8_products_have_the_same_bits_everywhere(void)
{
    job j = job_of(FV_I8, 130, 77, 5);
    const size_t bytes = (size_t)j.rows * fvi_dec_pad(j.N) * sizeof(float);
    float *want = memory(bytes), *y = memory(bytes);
    int bad = 0;
    for (int v = 0; v < VARIANTS; v++) {
        fvi_decode_ops o;
        if (!ops_of(v, &o)) continue;
        job_run(&o, &j, 0, j.rows, 2, v ? y : want);
        bad += v && memcmp(y, want, bytes) != 0;
    }
    free(want);
    free(y);
    job_free(&j);
    CHECK(bad == 0);
}

/* ---- Rows ------------------------------------------------------------------------------------ */

static void row_operations_match_double(void)
{
    enum { MOST = 132 };
    for (int v = 0; v < VARIANTS; v++)
        for (int n = 4; n <= MOST; n += 4) {
            fvi_decode_ops o;
            float x[MOST], w[MOST], y[MOST + 1], table[2 * MOST];
            double sq = 0;
            if (!ops_of(v, &o)) continue;
            test_fill(x, n, 1);
            test_fill(w, n, 2);
            y[n] = 42;
            for (int i = 0; i < n; i++) sq += (double)x[i] * x[i];
            o.norm(y, x, w, n, 1e-3f, false);
            for (int i = 0; i < n; i++) NEAR(y[i], x[i] / sqrt(sq / n + 1e-3) * w[i], 1e-6);
            o.norm(y, x, w, n, 1e-3f, true);
            for (int i = 0; i < n; i++) NEAR(y[i], x[i] / sqrt(sq / n + 1e-3) * w[i], 8e-3);
            fvi_dec_rope_row(table, 3, 5, n, 10000);
            o.rope(y, x, table, n);
            for (int j = 0; j < n / 2; j++) {
                const int nf = n / 4;
                const double a = (j < nf ? 3 : 5) * pow(10000, -2.0 * (j % nf) / (n / 2.0));
                NEAR(y[2 * j], x[2 * j] * cos(a) - x[2 * j + 1] * sin(a), 1e-6);
                NEAR(y[2 * j + 1], x[2 * j + 1] * cos(a) + x[2 * j] * sin(a), 1e-6);
            }
            memcpy(y, x, (size_t)n * sizeof *y);
            o.swiglu(y, w, n);
            for (int i = 0; i < n; i++) NEAR(y[i], x[i] / (1 + exp(-x[i])) * w[i], 1e-6);
            memcpy(y, x, (size_t)n * sizeof *y);
            o.guide(y, w, 4, n);
            for (int i = 0; i < n; i++) NEAR(y[i], w[i] + 4.0 * (x[i] - w[i]), 2e-6);
            CHECK(y[n] == 42);
        }
}

/* ---- Attention ------------------------------------------------------------------------------- */

enum { CONDITION = 5, SLOTS = 90 };

typedef struct memory_of_head {
    fvi_dec_cache c;
    void *block;
    float *k, *v, *q; /* [CONDITION + SLOTS][hd]: by position */
} memory_of_head;

/* Position p lies in slot place[p] (NULL: p). */
static memory_of_head head_of(const fvi_decode_ops *o, fv_dtype type, int hd, const int32_t *place)
{
    memory_of_head m;
    const int64_t n = (int64_t)(CONDITION + SLOTS) * hd;
    m.block = memory(fvi_dec_cache_bytes(type, hd, CONDITION, SLOTS));
    m.c = fvi_dec_cache_at(type, hd, CONDITION, SLOTS, m.block);
    m.k = values(n, 1);
    m.v = values(n, 2);
    m.q = values(n, 3);
    for (int i = 0; i < CONDITION; i++) o->store_condition(&m.c, i, m.v + (size_t)i * (size_t)hd);
    for (int i = 0; i < SLOTS; i++) {
        const size_t at = (size_t)(CONDITION + i) * (size_t)hd;
        o->store(&m.c, place ? place[i] : i, m.k + at, m.v + at);
    }
    return m;
}
static void head_free(memory_of_head *m)
{
    free(m->block); free(m->k); free(m->v); free(m->q);
}

/* Row at position p: condition slots from `first`, positions 0 .. p. */
static void attend_ref(const memory_of_head *m, int first, int p, double *out)
{
    const int hd = m->c.hd, n = CONDITION - first + p + 1;
    double *s = memory((size_t)n * sizeof *s), *x = memory((size_t)hd * sizeof *x);
    double top = 0, sum = 0, *q = memory((size_t)hd * sizeof *q);
    held(m->c.type == FV_I8 ? FV_I8 : FV_F32, m->q + (size_t)(CONDITION + p) * (size_t)hd, hd, q);
    for (int i = 0; i < n; i++) {
        held(m->c.type, m->k + (size_t)(first + i) * (size_t)hd, hd, x);
        for (int d = 0; d < hd && first + i >= CONDITION; d++) s[i] += q[d] * x[d] / sqrt(hd);
        if (s[i] > top) top = s[i];
    }
    for (int i = 0; i < n; i++) sum += s[i] = exp(s[i] - top);
    memset(out, 0, (size_t)hd * sizeof *out);
    for (int i = 0; i < n; i++) {
        held(m->c.type, m->v + (size_t)(first + i) * (size_t)hd, hd, x);
        for (int d = 0; d < hd; d++) out[d] += s[i] / sum * x[d];
    }
    free(s);
    free(x);
    free(q);
}

static fvi_dec_query query_at(const memory_of_head *m, int first, int p, float *o)
{
    fvi_dec_query q = { .o = o, .first = first, .zeros = CONDITION - first, .ranges = 1 };
    q.q = m->q + (size_t)(CONDITION + p) * (size_t)m->c.hd;
    q.range[0] = (fvi_dec_range){ 0, p + 1 };
    return q;
}

static const int heads[] = { 4, 8, 20, 64, 72, 100, 128 };

static void attention_matches_double(void)
{
    float *scratch = memory(fvi_dec_attend_bytes(128, CONDITION, SLOTS));
    for (int v = 0; v < VARIANTS; v++)
        for (int t = 0; t < 3; t++)
            for (size_t h = 0; h < FV_ARRAY_LEN(heads); h++) {
                const int hd = heads[h];
                fvi_decode_ops o;
                double want[128], worst = 0;
                float y[SLOTS][128];
                fvi_dec_query q[SLOTS];
                if (!ops_of(v, &o)) continue;
                memory_of_head m = head_of(&o, types[t], hd, NULL);
                for (int p = 0; p < SLOTS; p++) q[p] = query_at(&m, p % 3, p, y[p]);
                fvi_dec_attend(&o, &m.c, q, SLOTS, scratch);
                for (int p = 0; p < SLOTS; p++) {
                    attend_ref(&m, p % 3, p, want);
                    for (int d = 0; d < hd; d++) {
                        const double e = fabs(y[p][d] - want[d]);
                        worst = test_worst(worst, e);
                    }
                }
                head_free(&m);
                CHECK_MSG(worst < 2e-6, "%s %s head of %d: %g", variants[v].name, type_name[t], hd,
                          worst);
            }
    free(scratch);
}

/* Positions from 61 on lie scattered behind 61 slots, as the rows of a tree do; a ring splits those
 * before into three pieces; neighbours share their reads. */
static void rows_of_attention_do_not_depend_on_places(void)
{
    enum { PREFIX = 61, LAST = PREFIX + 9 };
    static const int32_t more[] = { 61, 64, 65, 66, 70, 75, 76, 80, 83, 88 };
    float *scratch = memory(fvi_dec_attend_bytes(64, CONDITION, SLOTS));
    int32_t place[SLOTS];
    int bad = 0;
    for (int i = 0; i < SLOTS; i++)
        place[i] = i < 8 ? i : i < 40 ? i + 21 : i < PREFIX ? i - 32 : -1;
    for (int v = 0; v < VARIANTS; v++)
        for (int t = 0; t < 3; t++) {
            fvi_decode_ops o;
            if (!ops_of(v, &o)) continue;
            memory_of_head m = head_of(&o, types[t], 64, NULL);
            memory_of_head tree = head_of(&o, types[t], 64, NULL);
            for (int p = PREFIX; p <= LAST; p++) {
                const size_t at = (size_t)(CONDITION + p) * 64;
                o.store(&tree.c, more[p - PREFIX], m.k + at, m.v + at);
            }
            memory_of_head ring = head_of(&o, types[t], 64, NULL);
            for (int p = 0; p < PREFIX; p++)
                o.store(&ring.c, place[p], m.k + (size_t)(CONDITION + p) * 64,
                        m.v + (size_t)(CONDITION + p) * 64);
            float y[64], group[5][64];
            fvi_dec_query q[5];
            for (int i = 0; i < 5; i++) {
                const int p = PREFIX + 2 * i;
                q[i] = query_at(&m, 2, p, group[i]);
                q[i].range[0].n = PREFIX;
                q[i].more = more;
                q[i].n_more = 2 * i + 1;
            }
            fvi_dec_attend(&o, &tree.c, q, 5, scratch);
            for (int i = 0; i < 5; i++) {
                const fvi_dec_query plain = query_at(&m, 2, PREFIX + 2 * i, y);
                fvi_dec_attend(&o, &m.c, &plain, 1, scratch);
                bad += memcmp(y, group[i], sizeof y) != 0;
            }
            fvi_dec_query r = query_at(&m, 0, PREFIX - 1, group[0]);
            const fvi_dec_query plain = query_at(&m, 0, PREFIX - 1, y);
            r.ranges = 3;
            r.range[0] = (fvi_dec_range){ 0, 8 };
            r.range[1] = (fvi_dec_range){ 29, 32 };
            r.range[2] = (fvi_dec_range){ 8, 21 };
            fvi_dec_attend(&o, &ring.c, &r, 1, scratch);
            fvi_dec_attend(&o, &m.c, &plain, 1, scratch);
            bad += memcmp(y, group[0], sizeof y) != 0;
            for (int i = 0; i <= LAST - PREFIX; i++)
                fvi_dec_cache_move(&tree.c, more[i], PREFIX + i);
            const fvi_dec_query moved = query_at(&m, 1, LAST, group[1]);
            const fvi_dec_query kept = query_at(&m, 1, LAST, y);
            fvi_dec_attend(&o, &tree.c, &moved, 1, scratch);
            fvi_dec_attend(&o, &m.c, &kept, 1, scratch);
            bad += memcmp(y, group[1], sizeof y) != 0;
            head_free(&m);
            head_free(&tree);
            head_free(&ring);
        }
    free(scratch);
    CHECK(bad == 0);
}

static void zero_queries_take_the_mean_of_the_condition(void)
{
    float *scratch = memory(fvi_dec_attend_bytes(64, CONDITION, SLOTS));
    for (int v = 0; v < VARIANTS; v++) {
        fvi_decode_ops o;
        float y[64];
        if (!ops_of(v, &o)) continue;
        memory_of_head m = head_of(&o, FV_F32, 64, NULL);
        const fvi_dec_query q = { .o = y, .first = 1, .zeros = 3 };
        fvi_dec_attend(&o, &m.c, &q, 1, scratch);
        for (int d = 0; d < 64; d++)
            NEAR(y[d], ((double)m.v[64 + d] + m.v[128 + d] + m.v[192 + d]) / 3, 1e-6);
        head_free(&m);
    }
    free(scratch);
}

/* ---- Threads --------------------------------------------------------------------------------- */

/* Each thread writes a number, waits, and reads the others': nobody may be early or late. */
static void a_team_meets(void)
{
    enum { THREADS = 3, TURNS = 2000 };
    fvi_team team = { 0 };
    int at[THREADS] = { 0 }, bad = 0;
#pragma omp parallel num_threads(THREADS) reduction(+ : bad)
    {
        const int me = omp_get_thread_num();
#pragma omp single
        team.threads = omp_get_num_threads();
        for (int i = 1; i <= TURNS; i++) {
            at[me] = i;
            fvi_team_wait(&team);
            for (int k = 0; k < team.threads; k++) bad += at[k] != i;
            fvi_team_wait(&team);
        }
    }
    CHECK(bad == 0);
}

/* ---- Rates ----------------------------------------------------------------------------------- */

static void bench_product(int v, fv_dtype type, int N, int K, int rows)
{
    fvi_decode_ops o;
    if (!ops_of(v, &o)) return;
    const int copies = 4; /* more than the caches hold where N K is large */
    const size_t bytes = fvi_dec_pack_bytes(type, N, K), row = fvi_dec_row_bytes(K);
    uint8_t *w = memory(bytes * (size_t)copies), *x = memory(row * (size_t)rows);
    float *y = memory((size_t)rows * fvi_dec_pad(N) * sizeof *y);
    float *scale = values(rows, 1);
    double best = 1e9;
    for (int run = 0; run < 20; run++) {
        const double start = fv_now();
        for (int i = 0; i < copies; i++) {
            const fvi_dec_matrix m = fvi_dec_view(type, N, K, w + (size_t)i * bytes);
            const fvi_dec_product p = { &m, x, row, scale, y, fvi_dec_pad(N), rows, false, NULL };
            o.product[type](&p, 0, (int)fvi_dec_pad(N) / FVI_DEC_PANEL);
        }
        const double t = (fv_now() - start) / copies;
        if (t < best) best = t;
    }
    printf("%-10s %-4s %5d x %-5d rows %3d  %8.1f us  %7.1f GB/s  %8.1f GFLOP/s\n",
           variants[v].name, type_name[type], N, K, rows, 1e6 * best, 1e-9 * (double)bytes / best,
           2e-9 * N * K * rows / best);
    free(w); free(x); free(y); free(scale);
}

static int bench(void)
{
    static const int rows[] = { 1, 2, 3, 4, 8, 16, 64, 118 };
    static const int size[][2] = { { 576, 192 }, { 768, 768 }, { 2048, 768 } };
    for (int s = 0; s < 3; s++)
        for (int t = 0; t < 3; t++)
            for (int v = 1; v < VARIANTS; v++) {
                if ((v == 3 && t != FV_I8) || (v == 4 && t != FV_BF16)) continue;
                for (size_t r = 0; r < FV_ARRAY_LEN(rows); r++)
                    bench_product(v, types[t], size[s][0], size[s][1], rows[r]);
            }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "--bench")) return bench();
    RUN(products_match_double);
    RUN(rows_of_products_do_not_depend_on_company);
    RUN(int8_products_have_the_same_bits_everywhere);
    RUN(row_operations_match_double);
    RUN(attention_matches_double);
    RUN(rows_of_attention_do_not_depend_on_places);
    RUN(zero_queries_take_the_mean_of_the_condition);
    RUN(a_team_meets);
    return test_end();
}
