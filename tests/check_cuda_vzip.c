/* check_cuda_vzip.c - vzip's network on the emulated GPU against the CPU: the same vectors for any
 * network and any number of lanes, the same archives for any data, and what happens when the device
 * has no memory or fails. */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include "cuda_device.h"

#include <limits.h>
#include <pthread.h>

#include "../codec/vz_models.h"
#include "nn_int_fixture.h"
#include "vz_lanes.h"

static fv_ctx *cpu, *gpu;

static void check_device(void)
{
    CHECK(device_is_clean(gpu));
}

/* ---- Lanes ----------------------------------------------------------------------------------- */

/* A network of drawn numbers with pieces of one byte each, as far as lanes look. */
typedef struct rig {
    vz_model m;
    uint32_t begin[1024];
} rig;

static fv_status rig_open(rig *r, const nn_int_config *c, bool extreme)
{
    memset(r, 0, sizeof *r);
    FV_TRY(nn_int_model_create(cpu, &r->m.net, c));
    FV_TRY(nn_int_visit(r->m.net, nn_wild_field, &extreme));
    nn_int_model_ready(cpu, r->m.net);
    for (uint32_t i = 0; i < FV_ARRAY_LEN(r->begin); i++) r->begin[i] = i;
    r->m.vocab.begin = r->begin;
    return FV_OK;
}

/* A stream of both sides. */
typedef struct stream {
    const nn_int_model *net;
    vz_lane *lane;
    nn_int_state s;
    void *memory;
    uint64_t seed;
    int16_t h[NN_MAX_WIDTH];
    bool differs;
} stream;

static bool stream_open(stream *s, vz_lanes *l, const nn_int_model *net, uint64_t seed)
{
    *s = (stream){ .net = net, .seed = seed };
    s->memory = malloc(nn_int_state_bytes(net, false) + 64);
    nn_int_state_init(&s->s, net, (void *)(((uintptr_t)s->memory + 63) & ~(uintptr_t)63), false);
    for (uint64_t i = 0; i < seed % 3; i++) nn_int_step(&s->s, (int)i); /* other beginnings */
    s->lane = vz_lanes_take(l, &s->s);
    return s->lane != NULL;
}

static void stream_close(stream *s)
{
    vz_lane_give(s->lane);
    free(s->memory);
}

static int drawn_token(stream *s) { return (int)(test_next(&s->seed) % (uint32_t)s->net->cfg.tokens); }

static void step_both(stream *s, int token)
{
    nn_int_step(&s->s, token);
    vz_lane_step(s->lane, (uint32_t)token, s->h);
    if (memcmp(s->h, s->s.h, (size_t)s->net->cfg.width * sizeof *s->h) != 0) s->differs = true;
}

/* As a decoder. */
static void *walk_blindly(void *user)
{
    stream *s = user;
    for (int i = 0; i < 25; i++) step_both(s, drawn_token(s));
    return NULL;
}

/* As an encoder that sleeps now and then, and once over the end of what it announced. */
static void *walk_ahead(void *user)
{
    enum { N = 90 }; /* of a part */
    stream *s = user;
    uint16_t take[N];
    int untold = 0, last[4] = { 0 };
    for (int part = 0; part < 3; part++) {
        for (int i = 0; i < N; i++) take[i] = (uint16_t)drawn_token(s);
        vz_lane_ahead(s->lane, take, N);
        for (int i = 0; i < N; i++) {
            for (int k = 3; k > 0; k--) last[k] = last[k - 1];
            last[0] = take[i];
            untold++;
            const bool sleeps = (i > 20 && i < 23) || (i > 50 && i < 62) || (part < 2 && i > 83);
            if (sleeps) continue;
            if (untold > 4) vz_lane_skip(s->lane, (uint32_t)untold - 4);
            for (int k = untold < 4 ? untold : 4; k > 0; k--) step_both(s, last[k - 1]);
            untold = 0;
        }
    }
    return NULL;
}

/* Streams one after another, or each on a thread of its own. */
static void walk_streams(stream *s, int count, void *(*walk)(void *), bool on_threads)
{
    pthread_t thread[16];
    for (int i = 0; i < count && !on_threads; i++) walk(&s[i]);
    for (int i = 0; i < count && on_threads; i++)
        CHECK(pthread_create(&thread[i], NULL, walk, &s[i]) == 0);
    for (int i = 0; i < count && on_threads; i++) pthread_join(thread[i], NULL);
    for (int i = 0; i < count; i++) CHECK_MSG(!s[i].differs, "stream %d", i);
}

static void compare_lanes(const rig *r, int count, void *(*walk)(void *), bool on_threads)
{
    vz_lanes *l;
    stream s[16];
    OK(gpu, vz_lanes_open(gpu, &l, &r->m, count));
    CHECK(l);
    for (int i = 0; i < count; i++) CHECK(stream_open(&s[i], l, r->m.net, (uint64_t)i));
    CHECK(!vz_lanes_take(l, &s[0].s));
    walk_streams(s, count, walk, on_threads);
    for (int i = 0; i < count; i++) {
        OK(cpu, vz_lane_check(cpu, s[i].lane));
        stream_close(&s[i]);
    }
    vz_lanes_close(&l);
    check_device();
}

static void vectors_are_the_same(void)
{
    static const nn_int_config cfg[] = { { 16, 1, 16, 1, 2, 0 },   { 48, 2, 80, 5, 40, 0 },
                                         { 128, 2, 512, 8, 263, 0 }, { 32, 3, 64, 8, 263, 4 },
                                         { 80, 2, 160, 6, 64, 17 }, { 320, 1, 640, 4, 16, 3 } };
    for (size_t i = 0; i < FV_ARRAY_LEN(cfg); i++)
        for (int extreme = 0; extreme < 2; extreme++) {
            rig r;
            OK(cpu, rig_open(&r, &cfg[i], extreme));
            const bool is_large = cfg[i].width * cfg[i].hidden > 20000;
            compare_lanes(&r, 1, walk_blindly, false);
            compare_lanes(&r, is_large ? 3 : 9, walk_blindly, true);
            if (!is_large) compare_lanes(&r, 7, walk_ahead, true);
            emulator_reversed = 1;
            compare_lanes(&r, 2, is_large ? walk_blindly : walk_ahead, false);
            emulator_reversed = 0;
            nn_int_model_destroy(cpu, &r.m.net);
        }
}

/* Tokens that are known beforehand take few launches. */
static void walks_are_long(void)
{
    const nn_int_config c = { 16, 1, 16, 8, 256, 0 };
    rig r;
    vz_lanes *l;
    stream s;
    uint16_t take[1000];
    OK(cpu, rig_open(&r, &c, false));
    OK(gpu, vz_lanes_open(gpu, &l, &r.m, 1));
    CHECK(stream_open(&s, l, r.m.net, 0));
    for (int i = 0; i < 1000; i++) take[i] = (uint16_t)drawn_token(&s);
    vz_lane_ahead(s.lane, take, 1000);
    const long before = device_launches();
    for (int i = 0; i < 1000; i++) step_both(&s, take[i]);
    CHECK(!s.differs && device_launches() - before < 10);
    stream_close(&s);
    vz_lanes_close(&l);
    nn_int_model_destroy(cpu, &r.m.net);
    check_device();
}

static void networks_that_are_too_wide_are_told(void)
{
    const nn_int_config c = { 1024, 1, 2048, 1, 2, 0 };
    rig r;
    vz_lanes *l;
    OK(cpu, rig_open(&r, &c, false));
    CHECK(vz_lanes_open(gpu, &l, &r.m, 1) == FV_ERR_UNSUPPORTED && !l);
    CHECK(strstr(fv_ctx_error(gpu), "--device cpu"));
    OK(cpu, vz_lanes_open(cpu, &l, &r.m, 1));
    CHECK(!l);
    nn_int_model_destroy(cpu, &r.m.net);
    check_device();
}

/* ---- Archives -------------------------------------------------------------------------------- */

/* A model with a small network, pieces of one and two letters, and a text. */
static fv_vzip_model *open_small(void)
{
    const nn_int_config c = { 32, 2, 64, 9, 513, 0 };
    static const char prose[] = "Some prose to begin with, which is neither long nor good.\n";
    static uint8_t text[256 + 512], length[512];
    vz_model m = { .name = "small", .id = 0x4321, .primes = 1 };
    fv_vzip_model *out = NULL;
    bool extreme = false;
    vz_buf file;
    for (int i = 0; i < 256; i++) {
        text[i] = text[256 + 2 * i] = (uint8_t)i;
        text[257 + 2 * i] = (uint8_t)(i + 1);
        length[i] = 1;
        length[256 + i] = 2;
    }
    m.prime[0] = (vz_model_prime){ VZ_TEXT, NULL, (const uint8_t *)prose, sizeof prose - 1 };
    vz_buf_init(&file, cpu);
    if (nn_int_model_create(cpu, &m.net, &c) != FV_OK ||
        nn_int_visit(m.net, nn_wild_field, &extreme) != FV_OK ||
        nn_vocab_open_tree(cpu, &m.vocab, text, sizeof text, length, NULL, 512) != FV_OK ||
        vz_model_write(cpu, &m, &file) != FV_OK ||
        fv_vzip_model_open_memory(cpu, &out, file.data, file.size) != FV_OK)
        abort();
    vz_buf_free(&file);
    nn_vocab_close(&m.vocab);
    nn_int_model_destroy(cpu, &m.net);
    return out;
}

static fv_vzip_model *model;

/* Text of this tree, and every now and then a passage again. */
static void put_text(uint8_t *p, size_t n)
{
    static const char *const name[] = { "codec/fovea_codec.h", "kernels/fovea.h",
                                        "codec/FORMAT-vz.md", "codec/README.md" };
    size_t at = 0;
    for (size_t i = 0; i < FV_ARRAY_LEN(name) && at < n; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/../%s", device_data, name[i]);
        FILE *f = fopen(path, "rb");
        if (!f) abort();
        at += fread(p + at, 1, n - at, f);
        fclose(f);
    }
    if (at < n) abort();
    for (size_t i = 3000; i + 300 < n; i += 2500) memcpy(p + i, p + i - 1700, 300);
}

/* Blocks that used the device are what `launches` counts. */
static void compare_archives(const uint8_t *data, size_t size, const fv_vzip_options *o,
                             long *launches)
{
    const fv_vzip_model *const list[] = { model };
    fv_vzip_limits limits = FV_VZIP_LIMITS_INIT;
    uint8_t *vz[2], *back;
    size_t n[2], got;
    limits.models = list;
    limits.model_count = 1;
    OK(cpu, fv_vzip_compress(cpu, data, size, o, &vz[0], &n[0]));
    const long before = device_launches();
    OK(gpu, fv_vzip_compress(gpu, data, size, o, &vz[1], &n[1]));
    *launches = device_launches() - before;
    CHECK(n[0] == n[1] && memcmp(vz[0], vz[1], n[0]) == 0);
    OK(gpu, fv_vzip_decompress(gpu, vz[0], n[0], size + 1, &limits, &back, &got));
    CHECK(got == size && (size == 0 || memcmp(back, data, size) == 0));
    printf("# level %d, %zu bytes: %zu, %ld launches, then %ld\n", o->level, size, n[0], *launches,
           device_launches() - before - *launches);
    if (!on_gpu && *launches > 10 && *launches < 1500)
        CHECK(device_launches() - before > 4 * *launches);
    fv_free(gpu, back);
    fv_free(cpu, vz[0]);
    fv_free(gpu, vz[1]);
    check_device();
}

static void archives_are_the_same(void)
{
    static uint8_t data[74000];
    long launches;
    fv_vzip_options o = FV_VZIP_OPTIONS_INIT;
    o.model = model;
    put_text(data, sizeof data);
    compare_archives(data, 0, &o, &launches);
    CHECK(launches == 0);
    compare_archives(data, 1, &o, &launches);
    compare_archives(data, 7, &o, &launches);
    compare_archives(data, 7000, &o, &launches);
    CHECK(launches > 10);
    o.level = 2; /* without the network */
    compare_archives(data, 9000, &o, &launches);
    CHECK(launches == 0);
    o.level = FV_VZIP_LEVEL_ULTRA; /* two blocks */
    o.block_bytes = 65536; /* below, nothing is known beforehand */
    o.long_range = -1; /* so that passages are left, which the network sleeps in */
    o.verify = -1;
    for (size_t i = 8000; i < 60000; i++) data[i] = (uint8_t)(test_next(&nn_seed) >> 9);
    compare_archives(data, sizeof data, &o, &launches);
    CHECK(launches > 50);
    put_text(data, sizeof data);
    o.verify = 0; /* decodes what it has coded */
    compare_archives(data, 3000, &o, &launches);
    CHECK(launches > 1500);
    o.no_network = 1;
    compare_archives(data, 5000, &o, &launches);
    CHECK(launches == 0);
    o.no_network = o.level = 0;
    o.block_bytes = 0;
    for (size_t i = 0; i < 20000; i++) data[i] = (uint8_t)(test_next(&nn_seed) >> 9); /* binary */
    compare_archives(data, 20000, &o, &launches);
    compare_archives(data + 15000, 20000, &o, &launches); /* half and half */
    CHECK(launches > 10);
    memset(data, 'a', 30000);
    compare_archives(data, 30000, &o, &launches);
}

/* The library's own model, if it is built in: the real network. */
static void own_model_gives_the_same(void)
{
    static uint8_t data[600];
    long launches;
    fv_vzip_options o = FV_VZIP_OPTIONS_INIT;
    if (!fv_vzip_model_own()) SKIP(own_model, "built without");
    put_text(data, sizeof data);
    compare_archives(data, sizeof data, &o, &launches);
    CHECK(launches > 0);
}

/* ---- Failures -------------------------------------------------------------------------------- */

static void short_memory_is_told(void)
{
    static uint8_t data[3000];
    fv_vzip_options o = FV_VZIP_OPTIONS_INIT;
    uint8_t *vz;
    size_t n;
    o.model = model;
    put_text(data, sizeof data);
    void *all = fv_dev_alloc(gpu, 1, EMULATED_BYTES - ((size_t)1 << 16));
    CHECK(all);
    CHECK(fv_vzip_compress(gpu, data, sizeof data, &o, &vz, &n) == FV_ERR_OOM && !vz);
    CHECK(strstr(fv_ctx_error(gpu), "--device cpu"));
    fv_dev_free(gpu, all);
    OK(gpu, fv_vzip_compress(gpu, data, sizeof data, &o, &vz, &n));
    fv_free(gpu, vz);
    check_device();
}

/* The emulator's table, but the device stops after some launches. */
static long launches_left;
static int failing_launch(fvk_dev *d, fvk_kernel k, int64_t blocks, const void *args, size_t bytes)
{
    if (launches_left-- > 0) return emulator_launch(d, k, blocks, args, bytes);
    return emulator_say(d, FVK_FAILED, "the device is gone");
}

static void failures_of_the_device_are_told(void)
{
    static uint8_t data[20000];
    fv_ctx_options co = FV_CTX_OPTIONS_INIT;
    fv_vzip_options o = FV_VZIP_OPTIONS_INIT;
    const fv_vzip_model *const list[] = { model };
    fv_vzip_limits limits = FV_VZIP_LIMITS_INIT;
    fvk_api api = emulator_api;
    fv_ctx *sick = NULL;
    uint8_t *vz, *good;
    size_t n, good_n;
    co.device = FV_DEVICE_CPU;
    co.threads = 3;
    api.launch = failing_launch;
    OK(NULL, fv_ctx_create(&sick, &co));
    OK(sick, fvi_cuda_attach(sick, &api, NULL));
    o.model = model;
    o.level = FV_VZIP_LEVEL_ULTRA;
    o.block_bytes = 65536;
    o.verify = -1;
    limits.models = list;
    limits.model_count = 1;
    put_text(data, sizeof data);
    OK(cpu, fv_vzip_compress(cpu, data, sizeof data, &o, &good, &good_n));
    for (long after = 0; after < 30; after += 13) {
        launches_left = after;
        CHECK(fv_vzip_compress(sick, data, sizeof data, &o, &vz, &n) == FV_ERR_DEVICE && !vz);
        CHECK_MSG(strstr(fv_ctx_error(sick), "the device is gone"), "%s", fv_ctx_error(sick));
        launches_left = after;
        CHECK(fv_vzip_decompress(sick, good, good_n, sizeof data, &limits, &vz, &n) ==
              FV_ERR_DEVICE);
        CHECK_MSG(strstr(fv_ctx_error(sick), "the device is gone"), "%s", fv_ctx_error(sick));
    }
    launches_left = LONG_MAX;
    OK(sick, fv_vzip_compress(sick, data, sizeof data, &o, &vz, &n));
    CHECK(n == good_n && memcmp(vz, good, n) == 0);
    fv_free(sick, vz);
    fv_free(cpu, good);
    CHECK(fvi_cuda_of(sick)->dev->blocks == 0);
    fv_ctx_destroy(&sick);
    CHECK(device_is_whole());
}

int main(int argc, char **argv)
{
    const int code = device_open(argc, argv, 0, 4, &cpu, &gpu);
    if (code >= 0) return code;
    model = open_small();
    RUN(vectors_are_the_same);
    RUN(walks_are_long);
    RUN(networks_that_are_too_wide_are_told);
    RUN(archives_are_the_same);
    RUN(own_model_gives_the_same);
    RUN_EMULATED(short_memory_is_told);
    RUN_EMULATED(failures_of_the_device_are_told);
    fv_vzip_model_close(&model);
    return device_close(&cpu, &gpu);
}
