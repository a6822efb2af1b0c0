/* vz_image_ols.c - least-squares prediction: window and scalar variant. See vz_image_ols.h. */
#include "vz_image_ols.h"

#include <string.h>

static void gram_c(const int16_t *batch, int m, int32_t *c)
{
    for (int i = 0; i < m; i++)
        for (int j = 0; j <= i; j++) {
            int32_t sum = 0;
            for (int p = 0; p < VZ_OLS_BLOCK / 2; p++) {
                const int16_t *b = batch + p * m * 2;
                sum += b[i * 2] * b[j * 2] + b[i * 2 + 1] * b[j * 2 + 1];
            }
            c[i * m + j] += sum;
        }
}

static int64_t dot_c(const int32_t *a, const int32_t *b, int n)
{
    int64_t sum = 0;
    for (int k = 0; k < n; k++) sum += (int64_t)a[k] * b[k];
    return sum;
}

static void solve_c(const int32_t *c, int m, int32_t *weights)
{
    vz_ols_solve(c, m, weights, dot_c);
}

const vz_ols_ops vz_ols_ops_c = {gram_c, solve_c};

const vz_ols_ops *vz_ols_ops_for(uint32_t cpu)
{
#if defined(__x86_64__)
    if (cpu & FV_CPU_AVX2) return &vz_ols_ops_avx2;
#else
    (void)cpu;
#endif
    return &vz_ols_ops_c;
}

/* ---- Window ---------------------------------------------------------------------------------- */

static int blocks_of(uint32_t width)
{
    const uint32_t n = (width + VZ_OLS_BLOCK - 1) / VZ_OLS_BLOCK;
    return n < VZ_OLS_COLUMNS ? (int)n : VZ_OLS_COLUMNS;
}
static size_t matrix_bytes(int m)
{
    return (size_t)m * (size_t)m * sizeof(int32_t);
}

size_t vz_ols_bytes(int m, uint32_t width)
{
    const size_t batch = (size_t)m * VZ_OLS_BLOCK * sizeof(int16_t);
    return ((size_t)blocks_of(width) + 2) * matrix_bytes(m) + (batch + 63) / 64 * 64;
}

void vz_ols_init(vz_ols *o, const vz_ols_ops *ops, void *memory, int m, uint32_t width,
                 int fade_above, int fade_row)
{
    const size_t cells = (size_t)m * (size_t)m;
    memset(o, 0, sizeof *o);
    o->ops = ops;
    o->m = m;
    o->blocks = blocks_of(width);
    o->fade_above = fade_above;
    o->fade_row = fade_row;
    o->above = memory;
    o->row = o->above + (size_t)o->blocks * cells;
    o->sum = o->row + cells;
    o->batch = (int16_t *)(o->sum + cells);
}

static int32_t *block_at(const vz_ols *o, uint32_t block)
{
    return o->above + (size_t)(block % (uint32_t)o->blocks) * (size_t)o->m * (size_t)o->m;
}

static void prepare(vz_ols *o)
{
    const int m = o->m, cells = m * m;
    const int32_t *a = block_at(o, o->block);
    const int32_t *left = o->block > 0 ? block_at(o, o->block - 1) : a;
    const int32_t *right = block_at(o, o->block + 1);
    for (int i = 0; i < cells; i++) o->sum[i] = (left[i] + right[i] + 2 * a[i]) / 2 + o->row[i];
    o->ops->solve(o->sum, m, o->weights);
}

void vz_ols_start_row(vz_ols *o)
{
    const int cells = o->m * o->m;
    for (int i = 0; i < cells; i++) o->row[i] = 0;
    o->block = 0;
    o->fill = 0;
    prepare(o);
}

void vz_ols_add(vz_ols *o, const int16_t *v)
{
    const int m = o->m, cells = m * m;
    int16_t *b = o->batch + (o->fill >> 1) * (uint32_t)m * 2 + (o->fill & 1);
    for (int i = 0; i < m; i++) b[i * 2] = v[i];
    if (++o->fill < VZ_OLS_BLOCK) return;
    o->fill = 0;
    int32_t *a = block_at(o, o->block);
    for (int i = 0; i < cells; i++) {
        a[i] -= vz_sar(a[i], o->fade_above);
        o->row[i] -= vz_sar(o->row[i], o->fade_row);
    }
    o->ops->gram(o->batch, m, a);
    o->ops->gram(o->batch, m, o->row);
    o->block++;
    prepare(o);
}
