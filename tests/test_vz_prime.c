/* test_vz_prime.c - priming of small blocks: round trips with and without, what it gains, blocks
 * that stand alone, hostile texts, models that are missing, bit flips, models without a network. */
#include "../codec/vz_model.h"
#include "sanitized.h"
#include "vz_fixture.h"

static fv_ctx *ctx;

/* Prose, C, a script, markup, data: what the model's texts are made for. */
static const char *const SAMPLES[] = {
    "The options are read from the command line and from the configuration file. If the file does "
    "not exist, default values are used. See the manual page for a list of all of the options.\n",
    "#ifndef EXAMPLE_H\n#define EXAMPLE_H\n#include <stdint.h>\n#ifdef __cplusplus\nextern \"C\" {\n"
    "#endif\n/* Returns 0 on success. */\nint example_open(const char *name, uint32_t flags);\n"
    "#ifdef __cplusplus\n}\n#endif\n#endif\n",
    "#!/usr/bin/env python3\nimport os\nimport sys\n\ndef main():\n    for name in sys.argv[1:]:\n"
    "        with open(name) as f:\n            print(len(f.read()))\n    return 0\n\n"
    "if __name__ == '__main__':\n    sys.exit(main())\n",
    "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>Example</title>\n"
    "<link rel=\"stylesheet\" href=\"style.css\">\n</head>\n<body>\n<p>Text.</p>\n</body>\n</html>\n",
    "{\"name\": \"example\", \"version\": \"1.0.0\", \"description\": \"An example\", \"license\": \"MIT\"}\n",
};
enum { SAMPLE_COUNT = sizeof SAMPLES / sizeof *SAMPLES, MOST = 100000 };
static uint8_t data[MOST];

/* A sample over and over, each time changed a little. */
static void fill(int sample, size_t size)
{
    const size_t n = strlen(SAMPLES[sample]);
    uint64_t seed = 7;
    for (size_t i = 0; i < size; i++) data[i] = (uint8_t)SAMPLES[sample][i % n];
    for (size_t i = n; i < size; i += 50) data[i] = (uint8_t)('a' + test_next(&seed) % 26);
}

static fv_status pack(const void *from, size_t size, int level, int no_prime, uint8_t **vz,
                      size_t *n)
{
    fv_vzip_options o = vz_test_options(level, 0);
    o.no_prime = no_prime;
    o.verify = -1;
    return fv_vzip_compress(ctx, from, size, &o, vz, n);
}

static int models_of(const uint8_t *vz, size_t n)
{
    fv_vzip_archive *a;
    fv_vzip_frame f;
    if (fv_vzip_open_memory(ctx, &a, vz, n, NULL) != FV_OK) return -1;
    const fv_status s = fv_vzip_get_frame(a, 0, &f);
    fv_vzip_close(&a);
    const vz_model *m = vz_prime_model();
    if (s != FV_OK) return -1;
    if (f.models && (f.model_id != m->id || f.model_hash != vz_model_short_hash(m))) return -2;
    return f.models;
}

static void all_kinds_and_sizes_come_back(void)
{
    static const size_t SIZES[] = {1, 2, 5, 6, 7, 63, 300, 1000, 5000, MOST};
    const int step = TEST_SANITIZED ? 3 : 1;
    for (int k = 0; k < SAMPLE_COUNT; k++) {
        fill(k, MOST);
        for (size_t i = 0; i < FV_ARRAY_LEN(SIZES); i++) {
            if (SIZES[i] < 63 && (k + (int)i) % step) continue;
            if (SIZES[i] == MOST && k > 0) continue;
            for (int no_prime = 0; no_prime < 2; no_prime++) {
                uint8_t *vz;
                size_t n;
                OK(ctx, pack(data, SIZES[i], SIZES[i] == 5000 ? 9 : 1 + 2 * (k % 3), no_prime, &vz,
                             &n));
                CHECK(unpacks_to(ctx, vz, n, data, SIZES[i]));
                const int models = models_of(vz, n);
                CHECK(models >= 0 && models <= !no_prime);
                fv_free(ctx, vz);
            }
        }
    }
}

static void small_files_become_smaller(void)
{
    for (int k = 0; k < SAMPLE_COUNT; k++) {
        const size_t size = strlen(SAMPLES[k]);
        uint8_t *vz[2];
        size_t n[2];
        for (int i = 0; i < 2; i++) OK(ctx, pack(SAMPLES[k], size, 3, i, &vz[i], &n[i]));
        CHECK_MSG(n[0] < n[1], "sample %d: %zu bytes with, %zu without", k, n[0], n[1]);
        CHECK(models_of(vz[0], n[0]) == 1 && models_of(vz[1], n[1]) == 0);
        fv_free(ctx, vz[0]);
        fv_free(ctx, vz[1]);
    }
}

static void noise_names_no_model(void)
{
    uint8_t *vz;
    size_t n;
    put_noise(data, 3000, 3);
    OK(ctx, pack(data, 3000, 3, 0, &vz, &n));
    CHECK(models_of(vz, n) == 0 && unpacks_to(ctx, vz, n, data, 3000));
    fv_free(ctx, vz);
}

/* Small blocks of one archive: each is decoded without the others, and so is a range. */
static void primed_blocks_stand_alone(void)
{
    fv_vzip_options o = vz_test_options(0, 65536);
    fv_vzip_archive *a;
    uint8_t *vz, part[2000];
    size_t n, got;
    fill(1, MOST);
    o.long_range = -1;
    OK(ctx, fv_vzip_compress(ctx, data, MOST, &o, &vz, &n));
    CHECK(models_of(vz, n) == 1 && unpacks_to(ctx, vz, n, data, MOST));
    OK(ctx, fv_vzip_open_memory(ctx, &a, vz, n, NULL));
    OK(ctx, fv_vzip_read(ctx, a, 65000, sizeof part, part, &got));
    CHECK(got == sizeof part && memcmp(part, data + 65000, got) == 0);
    fv_vzip_close(&a);
    fv_free(ctx, vz);
}

/* The archive's bytes do not depend on the number of threads. */
static void threads_do_not_matter(void)
{
    const fv_vzip_options o = vz_test_options(0, 65536);
    vz_buf first;
    vz_buf_init(&first, ctx);
    fill(2, MOST);
    for (int t = 1; t <= 3; t += 2) {
        fv_ctx *other = vz_test_ctx(t, 0);
        uint8_t *vz;
        size_t n;
        OK(other, fv_vzip_compress(other, data, MOST, &o, &vz, &n));
        CHECK(is_as_the_first(&first, vz, n));
        fv_free(other, vz);
        fv_ctx_destroy(&other);
    }
    vz_buf_free(&first);
}

/* Small enough to be primed, whatever it is coded with. */
static const char PRIMED[] = "#include <stdio.h>\nint main(void)\n{\n    return 0;\n}\n";

static void every_bit_flip_is_found(void)
{
    uint8_t *vz;
    size_t n;
    OK(ctx, pack(PRIMED, sizeof PRIMED - 1, 1, 0, &vz, &n));
    CHECK(models_of(vz, n) == 1);
    each_flip_is_seen_or_harmless(ctx, vz, n, PRIMED, sizeof PRIMED - 1);
    fv_free(ctx, vz);
}

static void texts_that_are_not_there_are_refused(void)
{
    const vz_prior prior = {vz_prime_model(), 0, 0, NULL};
    const vz_cm_options o = {3, 22, &prior};
    vz_buf b;
    uint8_t out[100];
    uint64_t memory;
    CHECK(prior.model && prior.model->primes > 0);
    static const uint64_t BAD[] = {1u << 15, 1u << 16, UINT64_MAX};
    for (size_t i = 0; i < FV_ARRAY_LEN(BAD); i++) {
        vz_buf_init(&b, ctx);
        vz_buf_varint(&b, BAD[i]);
        vz_buf_put(&b, "\1\1abcdef", 8);
        CHECK(vz_modelled_decode(ctx, &o, b.data, b.size, out, sizeof out) == FV_ERR_FORMAT);
        CHECK(vz_modelled_memory(ctx, &o, b.data, b.size, sizeof out, &memory) == FV_ERR_FORMAT);
        vz_buf_free(&b);
    }
    /* All at once: more work, within the memory that was foretold. */
    vz_buf_init(&b, ctx);
    vz_buf_varint(&b, (1u << prior.model->primes) - 1);
    vz_buf_put(&b, "\1\1abcdefghijklmnop", 18);
    OK(ctx, vz_modelled_memory(ctx, &o, b.data, b.size, sizeof out, &memory));
    fv_memory_stats before, after;
    fv_ctx_memory_reset_peak(ctx);
    fv_ctx_memory(ctx, &before);
    const fv_status s = vz_modelled_decode(ctx, &o, b.data, b.size, out, sizeof out);
    CHECK(s == FV_OK || s == FV_ERR_TRUNCATED);
    fv_ctx_memory(ctx, &after);
    CHECK(after.peak_bytes - before.current_bytes <= memory);
    vz_buf_free(&b);
}

/* An archive of another model's: the message says which; listing works all the same. */
static void missing_model_is_named(void)
{
    uint8_t *vz, *out;
    size_t n, got;
    fv_vzip_archive *a;
    fv_vzip_frame f;
    OK(ctx, pack(PRIMED, sizeof PRIMED - 1, 3, 0, &vz, &n));
    vz[13] = 0x34; /* behind magic, version, flags, level, memory, number of models */
    vz[17] ^= 1;
    put_number(vz + 25, fv_crc32c(0, vz, 25), 4, false);
    CHECK(fv_vzip_decompress(ctx, vz, n, 1 << 20, NULL, &out, &got) == FV_ERR_MODEL);
    char hash[17];
    snprintf(hash, sizeof hash, "%016llx",
             (unsigned long long)(vz_model_short_hash(vz_prime_model()) ^ 1));
    CHECK_MSG(strstr(fv_ctx_error(ctx), "00000034") && strstr(fv_ctx_error(ctx), hash) &&
                  strstr(fv_ctx_error(ctx), ".vzm"),
              "%s", fv_ctx_error(ctx));
    OK(ctx, fv_vzip_open_memory(ctx, &a, vz, n, NULL));
    OK(ctx, fv_vzip_get_frame(a, 0, &f));
    CHECK(f.models == 1 && f.model_id == 0x34);
    CHECK(fv_vzip_read(ctx, a, 0, 4, data, &got) == FV_ERR_MODEL && got == 0);
    fv_vzip_close(&a);
    fv_free(ctx, vz);
}

/* Models that hold texts only: written, read, damaged. */
static void models_without_a_network(void)
{
    vz_model m = {.id = 9, .name = "texts", .primes = 3};
    vz_model *back;
    vz_buf b;
    m.prime[0] = (vz_model_prime){VZ_TEXT, NULL, (const uint8_t *)"abc", 3};
    m.prime[1] = (vz_model_prime){VZ_TEXT, NULL, NULL, 0};
    m.prime[2] = (vz_model_prime){VZ_BINARY, NULL, (const uint8_t *)"\0\1", 2};
    vz_buf_init(&b, ctx);
    OK(ctx, vz_model_write(ctx, &m, &b));
    OK(ctx, vz_model_read(ctx, &back, b.data, b.size));
    CHECK(back->id == 9 && !back->net && back->primes == 3 && back->prime[0].text_bytes == 3);
    CHECK(memcmp(back->prime[0].text, "abc", 3) == 0 && back->prime[2].kind == VZ_BINARY);
    vz_model_close(&back);
    for (size_t cut = 0; cut < b.size; cut++)
        CHECK(vz_model_read(ctx, &back, b.data, cut) != FV_OK && !back);
    for (size_t bit = 0; bit < 8 * b.size; bit++) {
        b.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        CHECK(vz_model_read(ctx, &back, b.data, b.size) != FV_OK && !back);
        b.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    m.prime[0].state = b.data;
    vz_buf_free(&b);
    CHECK(vz_model_write(ctx, &m, &b) == FV_ERR_ARG);
    vz_buf_free(&b);
}

static void embedded_model_is_the_file(void)
{
    const vz_model *m = vz_prime_model();
    CHECK(m && m->id == 2 && m->primes > 0 && m->net && m->vocab.size == 4096);
    for (int i = 0; i < m->primes; i++) CHECK(m->prime[i].text_bytes <= 65536);
}

/* What occurs in many samples is chosen, what is in one is not. */
static void selection_finds_what_is_common(void)
{
    enum { EACH = 6000, COUNT = 40 };
    static uint8_t all[EACH * COUNT];
    size_t sizes[COUNT];
    uint64_t seed = 5;
    vz_buf b;
    for (size_t i = 0; i < sizeof all; i++) all[i] = (uint8_t)('a' + test_next(&seed) % 26);
    for (size_t s = 0; s < COUNT; s++) {
        sizes[s] = EACH;
        for (size_t k = 0; k < 800; k++)
            all[s * EACH + 3000 + k] = (uint8_t)SAMPLES[0][k % strlen(SAMPLES[0])];
    }
    vz_buf_init(&b, ctx);
    OK(ctx, vz_prime_select(ctx, all, sizes, COUNT, 4096, &b));
    CHECK(b.size > 0 && b.size <= 4096);
    bool is_there = false;
    for (size_t i = 0; i + 40 <= b.size && !is_there; i++)
        is_there = memcmp(b.data + i, SAMPLES[0], 40) == 0;
    CHECK(is_there);
    vz_buf_free(&b);
    OK(ctx, vz_prime_select(ctx, all, sizes, 1, 8192, &b)); /* fewer bytes than wanted: all */
    CHECK(b.size == EACH);
    vz_buf_free(&b);
    sizes[0] = 3;
    OK(ctx, vz_prime_select(ctx, all, sizes, 1, 2, &b));
    CHECK(b.size <= 3);
    vz_buf_free(&b);
}

int main(void)
{
    ctx = vz_test_ctx(0, 0);
    RUN(embedded_model_is_the_file);
    RUN(all_kinds_and_sizes_come_back);
    RUN(small_files_become_smaller);
    RUN(noise_names_no_model);
    RUN(primed_blocks_stand_alone);
    RUN(threads_do_not_matter);
    RUN(every_bit_flip_is_found);
    RUN(texts_that_are_not_there_are_refused);
    RUN(missing_model_is_named);
    RUN(models_without_a_network);
    RUN(selection_finds_what_is_common);
    return vz_test_end(&ctx);
}
