/* test_default_model.c - the embedded model and table are the files, and they fit each other. */
#include "fovea_diffusion.h"
#include "test.h"

#define MODELS FV_TEST_DIR "/../diffusion/models/"

/* Whole file, malloced; NULL if there is none. */
static unsigned char *read_all(const char *path, size_t *size)
{
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    fseek(f, 0, SEEK_END);
    const long n = ftell(f);
    rewind(f);
    unsigned char *p = malloc((size_t)n + 1);
    *size = p ? fread(p, 1, (size_t)n, f) : 0;
    fclose(f);
    return p;
}

static void check_bytes(const char *path, const void *bytes, size_t size)
{
    size_t n = 0;
    unsigned char *file = read_all(path, &n);
    const int is_equal = file && FV_EMBED ? bytes && n == size && memcmp(file, bytes, n) == 0
                                          : !bytes && size == 0;
    free(file);
    CHECK_MSG(is_equal, "%s: %zu bytes embedded, %zu in the file", path, size, n);
}

static void model_is_the_file(void)
{
    size_t size = 1;
    const void *bytes = fv_dit_default_model(&size);
    check_bytes(MODELS "f64c.safetensors", bytes, size);
    CHECK(test_bad || fv_dit_default_model(NULL) == bytes);
    CHECK((uintptr_t)bytes % 64 == 0);
}

static void table_is_the_file(void)
{
    size_t size = 1;
    const void *bytes = fv_dit_default_table(&size);
    check_bytes(MODELS "f64c.fvsens", bytes, size);
}

static void model_opens_and_the_table_fits(void)
{
    size_t size, table_size;
    const void *bytes = fv_dit_default_model(&size), *table = fv_dit_default_table(&table_size);
    fv_ctx *ctx = NULL;
    fv_model *file = NULL;
    fv_dit *dit = NULL;
    fv_sens *sens = NULL;
    CHECK(fv_ctx_create(&ctx, NULL) == FV_OK);
    OK(ctx, fv_model_open_memory(ctx, &file, bytes, size, NULL));
    OK(ctx, fv_dit_open(ctx, &dit, file, NULL));
    fv_dit_info info;
    fv_dit_get_info(dit, &info);
    CHECK(info.image_size == 64 && !info.is_latent && info.classes > 1);
    for (int i = 0; i < info.classes; i++) CHECK(fv_dit_class_name(dit, i) != NULL);
    if (table) {
        const fv_generate_options o = FV_GENERATE_OPTIONS_INIT; /* the model's own settings */
        OK(ctx, fv_sens_parse(ctx, &sens, table, table_size));
        OK(ctx, fv_sens_match(ctx, sens, dit, &o));
    }
    fv_sens_free(&sens);
    fv_dit_close(&dit);
    fv_model_close(&file);
    fv_ctx_destroy(&ctx);
}

static void super_resolution_is_the_file(void)
{
    size_t size = 1;
    const void *bytes = fv_sr_default_model(&size);
    check_bytes(MODELS "pssr_tiny.safetensors", bytes, size);
    CHECK(test_bad || fv_sr_default_model(NULL) == bytes);
}

static void super_resolution_opens(void)
{
    size_t size;
    const void *bytes = fv_sr_default_model(&size);
    fv_ctx *ctx = NULL;
    fv_model *file = NULL;
    fv_sr *sr = NULL;
    fv_sr_info info;
    CHECK(fv_ctx_create(&ctx, NULL) == FV_OK);
    OK(ctx, fv_model_open_memory(ctx, &file, bytes, size, NULL));
    OK(ctx, fv_sr_open(ctx, &sr, file, FV_F32));
    fv_sr_get_info(sr, &info);
    CHECK(strcmp(info.name, "pssr-tiny") == 0 && info.steps >= 1);
    fv_sr_close(&sr);
    fv_model_close(&file);
    fv_ctx_destroy(&ctx);
}

int main(void)
{
    RUN(model_is_the_file);
    RUN(table_is_the_file);
    if (fv_dit_default_model(NULL)) RUN(model_opens_and_the_table_fits);
    else SKIP(model_opens_and_the_table_fits, "no model is embedded");
    RUN(super_resolution_is_the_file);
    if (fv_sr_default_model(NULL)) RUN(super_resolution_opens);
    else SKIP(super_resolution_opens, "no model is embedded");
    return test_end();
}
