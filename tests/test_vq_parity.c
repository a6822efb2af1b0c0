/* test_vq_parity.c - official LlamaGen tokenizers (VQ-16 and VQ-8 with 32 channels) against golden
 * values of tests/parity/vq_small.py: a file with the official names and shapes and no metadata, its
 * weights made from the names of the tensors. */
#include "fovea_ar.h"
#include "golden_parity.h"
#include "temp_dir.h"

#define CODE_MARGIN 1e-5 /* codes may differ where the second best is as near as this */
#define TOLERANCE 1e-4     /* of the largest value; measured 3e-6 */

static uint64_t fnv1a(const char *name)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (; *name; name++) h = (h ^ (uint8_t)*name) * 0x100000001b3u;
    return h;
}

/* As in vq_small.py: 24 bits of a hash, in [-1, 1). */
static double hashed(uint64_t name, uint64_t i)
{
    uint64_t z = name + (i + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return (double)(z >> 40) / 8388608 - 1;
}

static void fill_weight(const char *name, const fv_tensor *t, float *out)
{
    const int64_t n = fv_tensor_count(t);
    const uint64_t key = fnv1a(name);
    const size_t length = strlen(name);
    const bool is_norm = strstr(name, "norm") && strcmp(name + length - 6, "weight") == 0;
    const float scale = (float)sqrt(3.0 / (double)(n / t->dim[0]));
    for (int64_t i = 0; i < n; i++)
        out[i] = (float)(t->ndim == 1 ? is_norm + 0.25 * hashed(key, (uint64_t)i)
                                      : hashed(key, (uint64_t)i) * scale);
}

/* One tensor for each "shape.NAME" of the golden file. */
static fv_status write_official(const fv_model *io, const char *path)
{
    fv_model_writer *w;
    float **values = calloc((size_t)fv_model_count(io), sizeof *values);
    int n = 0;
    if (!values) exit(1);
    FV_TRY(fv_model_writer_create(ctx, &w));
    fv_status s = FV_OK;
    for (int i = 0; i < fv_model_count(io) && s == FV_OK; i++) {
        const char *name = fv_model_name(io, i);
        if (strncmp(name, "shape.", 6) != 0) continue;
        const fv_tensor shape = golden_tensor(io, name);
        fv_tensor t = { .dtype = FV_F32, .ndim = (int)shape.dim[0] };
        for (int k = 0; k < t.ndim; k++) t.dim[k] = ((const int32_t *)shape.data)[k];
        values[n] = malloc((size_t)fv_tensor_count(&t) * sizeof(float));
        if (!values[n]) exit(1);
        fill_weight(name + 6, &t, values[n]);
        t.data = values[n++];
        s = fv_model_writer_tensor(w, name + 6, &t);
    }
    if (s == FV_OK) s = fv_model_writer_finish(w, path, 1);
    fv_model_writer_destroy(&w);
    while (n > 0) free(values[--n]);
    free(values);
    return s;
}

static double worst_of(const float *got, const float *want, int64_t n)
{
    double worst = 0, top = 0;
    for (int64_t i = 0; i < n; i++) {
        worst = test_worst(worst, fabs((double)got[i] - want[i]));
        top = fmax(top, fabs((double)want[i]));
    }
    return worst / top;
}

static void check_tokenizer(const char *io_name, int factor)
{
    fv_model *io = open_golden(io_name), *m;
    fv_vq *v;
    fv_vq_info info;
    const fv_tensor picture = golden_tensor(io, "picture"), codes = golden_tensor(io, "codes");
    const fv_tensor other = golden_tensor(io, "other"), want = golden_tensor(io, "decoded");
    const float *margin = golden_tensor(io, "margin").data;
    const int rows = (int)picture.dim[0] / factor, columns = (int)picture.dim[1] / factor;
    float *rgb = malloc((size_t)fv_tensor_count(&want) * sizeof *rgb);
    int32_t *index = malloc((size_t)fv_tensor_count(&codes) * sizeof *index);
    CHECK(rgb && index);
    OK(ctx, write_official(io, temp_path("official.safetensors")));
    OK(ctx, fv_model_open(ctx, &m, temp_path("official.safetensors"), NULL));
    OK(ctx, fv_vq_open(ctx, &v, m, FV_F32));
    fv_vq_get_info(v, &info);
    CHECK(info.factor == factor && info.codes == 16384 && info.code_width == 8);
    OK(ctx, fv_vq_encode(ctx, v, picture.data, 1, (int)picture.dim[0], (int)picture.dim[1], index));
    for (int i = 0; i < rows * columns; i++)
        CHECK_MSG(index[i] == ((const int32_t *)codes.data)[i] || margin[i] < CODE_MARGIN,
                  "%s: code %d is %d, margin %g", variant, i, (int)index[i], (double)margin[i]);
    OK(ctx, fv_vq_decode(ctx, v, other.data, 1, rows, columns, rgb));
    const double worst = worst_of(rgb, want.data, fv_tensor_count(&want));
    CHECK_MSG(worst <= TOLERANCE, "%s: error %g", variant, worst);
    printf("# %s: picture within %.1e\n", variant, worst);
    fv_vq_close(&v);
    fv_model_close(&m);
    fv_model_close(&io);
    free(rgb);
    free(index);
}

static void vq16_matches_the_reference(void) { check_tokenizer("vq16_small_io", 16); }
static void vq8_matches_the_reference(void) { check_tokenizer("vq8_small_io", 8); }

static void tests(void)
{
    RUN(vq16_matches_the_reference);
    RUN(vq8_matches_the_reference);
}

int main(void)
{
    temp_dir_make("vq-parity");
    return parity_main(tests);
}
