/* test_dataset.c - data sets made here: pictures of one colour per id with a gradient that shows
 * flips and crops. PPM holds exact values; some tests use PNG. */
#include "alloc_fail.h"
#include "engine.h"
#include "tar_writer.h"
#include "temp_dir.h"
#include "test.h"

#include <sys/stat.h>
#include <unistd.h>

#define SIDE 8

static fv_ctx *ctx;
static char tree[128], tar_path[128];
static const char *class_names[] = { "bird_a", "bird_b", "cat", "dog", "rare" };
static const int class_sizes[] = { 5, 6, 40, 10, 1 };
#define PICTURES 62

/* Red is the picture's number, green grows to the right, blue downwards. */
static size_t make_ppm(uint8_t *out, int number, int width, int height)
{
    size_t n = (size_t)sprintf((char *)out, "P6 %d %d 255\n", width, height);
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++) {
            out[n++] = (uint8_t)number;
            out[n++] = (uint8_t)(x * 10);
            out[n++] = (uint8_t)(y * 10);
        }
    return n;
}

static void write_bytes(const char *path, const void *data, size_t size)
{
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, size, f) != size || fclose(f)) exit(1);
}

/* The same pictures as a folder and as a tar in another order. */
static void make_sources(void)
{
    static uint8_t ppm[4096];
    char path[256];
    tar t = { 0 };
    temp_dir_make("dataset");
    snprintf(tree, sizeof tree, "%s/tree", temp_dir);
    snprintf(tar_path, sizeof tar_path, "%s/set.tar", temp_dir);
    if (mkdir(tree, 0700)) exit(1);
    int number = PICTURES;
    for (int c = 4; c >= 0; c--) {
        snprintf(path, sizeof path, "%s/%s", tree, class_names[c]);
        if (mkdir(path, 0700)) exit(1);
        for (int i = class_sizes[c] - 1; i >= 0; i--) {
            const size_t n = make_ppm(ppm, --number, SIDE, SIDE);
            snprintf(path, sizeof path, "%s/%s/%03d.ppm", tree, class_names[c], i);
            write_bytes(path, ppm, n);
            snprintf(path, sizeof path, "./%s/%03d.ppm", class_names[c], i);
            put_entry(&t, "", path, '0', ppm, n);
        }
    }
    snprintf(path, sizeof path, "%s/notes.txt", tree);
    write_bytes(path, "not a picture", 13);
    snprintf(path, sizeof path, "%s/cat/._000.png", tree);
    write_bytes(path, "resource fork", 13);
    put_text(&t, "notes.txt", "not a picture");
    put_end(&t);
    write_bytes(tar_path, t.data, t.size);
    drop(&t);
}

static fv_dataset_options defaults(void)
{
    static const char *sources[1];
    fv_dataset_options o = FV_DATASET_OPTIONS_INIT;
    sources[0] = tar_path;
    o.sources = sources;
    o.source_count = 1;
    o.image_size = SIDE;
    o.seed = 5;
    return o;
}

static int red(const float *picture)
{
    return (int)lrintf((picture[0] + 1.0f) * 127.5f);
}

/* One batch as comparable bytes. */
typedef struct copy {
    int64_t count;
    float images[70 * SIDE * SIDE * 3];
    int32_t labels[70];
    uint64_t ids[70];
} copy;

static fv_status take(fv_dataset *ds, uint64_t step, int batch, copy *c)
{
    fv_batch b;
    FV_TRY(fv_dataset_batch(ds, step, batch, &b));
    memset(c, 0, sizeof *c);
    c->count = b.count;
    memcpy(c->images, b.images, (size_t)b.count * SIDE * SIDE * 3 * sizeof(float));
    memcpy(c->labels, b.labels, (size_t)b.count * sizeof *c->labels);
    memcpy(c->ids, b.ids, (size_t)b.count * sizeof *c->ids);
    return FV_OK;
}

static copy first, second;

/* ---- Contents -------------------------------------------------------------------------------- */

static void labels_are_sorted_class_names(void)
{
    fv_dataset *ds;
    fv_dataset_options o = defaults();
    OK(ctx, fv_dataset_open(ctx, &ds, &o));
    CHECK(fv_dataset_count(ds) == PICTURES && fv_dataset_classes(ds) == 5 &&
          fv_dataset_bad(ds) == 0);
    uint64_t id = 0;
    for (int c = 0; c < 5; c++) {
        CHECK(strcmp(fv_dataset_class_name(ds, c), class_names[c]) == 0);
        CHECK(fv_dataset_class_count(ds, c) == (uint64_t)class_sizes[c]);
        for (int i = 0; i < class_sizes[c]; i++, id++) {
            float p[SIDE * SIDE * 3];
            int32_t label;
            OK(ctx, fv_dataset_get(ds, id, p, &label));
            CHECK(label == c && red(p) == (int)id);
        }
    }
    CHECK(!fv_dataset_class_name(ds, 5) && !fv_dataset_class_name(ds, -1));
    float p[SIDE * SIDE * 3];
    CHECK(fv_dataset_get(ds, PICTURES, p, NULL) == FV_ERR_ARG);
    fv_dataset_close(&ds);
    CHECK(!ds);
}

static void folder_and_tar_are_one_set(void)
{
    fv_dataset *a, *b;
    fv_dataset_options o = defaults();
    const char *folder[1] = { tree };
    OK(ctx, fv_dataset_open(ctx, &a, &o));
    o.sources = folder;
    OK(ctx, fv_dataset_open(ctx, &b, &o));
    OK(ctx, take(a, 3, 20, &first));
    OK(ctx, take(b, 3, 20, &second));
    CHECK(memcmp(&first, &second, sizeof first) == 0);
    fv_dataset_close(&a);
    fv_dataset_close(&b);
}

static void class_map_renames_merges_and_drops(void)
{
    static const char *const map[] = { "bird_*", "bird", "rare", "", "dog", "canine" };
    fv_dataset *ds;
    fv_dataset_options o = defaults();
    o.class_map = map;
    o.class_map_count = 3;
    OK(ctx, fv_dataset_open(ctx, &ds, &o));
    CHECK(fv_dataset_classes(ds) == 3 && fv_dataset_count(ds) == PICTURES - 1);
    CHECK(strcmp(fv_dataset_class_name(ds, 0), "bird") == 0 && fv_dataset_class_count(ds, 0) == 11);
    CHECK(strcmp(fv_dataset_class_name(ds, 1), "canine") == 0);
    CHECK(strcmp(fv_dataset_class_name(ds, 2), "cat") == 0);
    fv_dataset_close(&ds);
}

static void split_follows_the_crc_of_the_path(void)
{
    fv_dataset *train, *held;
    fv_dataset_options o = defaults();
    bool is_held[PICTURES];
    uint64_t held_count = 0;
    int n = 0;
    for (int c = 0; c < 5; c++)
        for (int i = 0; i < class_sizes[c]; i++) {
            char path[256];
            snprintf(path, sizeof path, "%s/%03d.ppm", class_names[c], i);
            is_held[n] = fv_crc32(0, path, strlen(path)) % 20 == 7;
            held_count += is_held[n++];
        }
    CHECK(held_count > 0);
    o.min_per_class = 6; /* counted before the split: bird_b with exactly 6 stays in both */
    o.split = FV_SPLIT_TRAIN;
    OK(ctx, fv_dataset_open(ctx, &train, &o));
    o.split = FV_SPLIT_HELDOUT;
    OK(ctx, fv_dataset_open(ctx, &held, &o));
    CHECK(fv_dataset_classes(train) == 3 && fv_dataset_classes(held) == 3);
    CHECK(strcmp(fv_dataset_class_name(held, 0), "bird_b") == 0);
    CHECK(fv_dataset_count(train) + fv_dataset_count(held) == 56);
    for (uint64_t i = 0; i < fv_dataset_count(held); i++) {
        float p[SIDE * SIDE * 3];
        OK(ctx, fv_dataset_get(held, i, p, NULL));
        CHECK(is_held[red(p)]);
    }
    for (uint64_t i = 0; i < fv_dataset_count(train); i++) {
        float p[SIDE * SIDE * 3];
        OK(ctx, fv_dataset_get(train, i, p, NULL));
        CHECK(!is_held[red(p)]);
    }
    fv_dataset_close(&train);
    fv_dataset_close(&held);
}

static void sources_join_and_the_manifest_names_them(void)
{
    fv_dataset *ds;
    fv_dataset_options o = defaults();
    const char *both[2] = { tar_path, tree };
    o.sources = both;
    o.source_count = 2;
    OK(ctx, fv_dataset_open(ctx, &ds, &o));
    CHECK(fv_dataset_count(ds) == 2 * PICTURES && fv_dataset_classes(ds) == 5);
    uint8_t *bytes, digest[32];
    size_t size;
    char line[128];
    OK(ctx, fv_read_file(ctx, tar_path, 1u << 20, &bytes, &size));
    fv_sha256 h;
    fv_sha256_init(&h);
    fv_sha256_update(&h, bytes, size);
    fv_sha256_final(&h, digest);
    fv_free(ctx, bytes);
    fv_hex(digest, 32, line);
    strcat(line, "  set.tar\n");
    const char *m = fv_dataset_manifest(ds);
    CHECK(strncmp(m, line, strlen(line)) == 0);
    CHECK(strlen(m) == strlen(line) + 64 + 2 + 5 && strcmp(m + strlen(m) - 7, "  tree\n") == 0);
    fv_dataset_close(&ds);
}

/* ---- Determinism ----------------------------------------------------------------------------- */

static void same_bytes_for_any_worker_count_and_order(void)
{
    static copy want[4];
    const int workers[] = { -1, 1, 3 };
    const uint64_t order[] = { 0, 1, 2, 3, 0, 2, 2, 1, 3 };
    for (int k = 0; k < 4; k++) {
        fv_dataset *ds;
        fv_dataset_options o = defaults();
        o.flip = 1;
        o.cache = k == 3;
        o.workers = workers[k % 3];
        OK(ctx, fv_dataset_open(ctx, &ds, &o));
        for (size_t i = 0; i < FV_ARRAY_LEN(order); i++) {
            const uint64_t step = order[i];
            OK(ctx, take(ds, step, 30, &first));
            if (k == 0 && i < 4) want[step] = first;
            CHECK(memcmp(&first, &want[step], sizeof first) == 0);
        }
        fv_dataset_close(&ds);
    }
    CHECK(memcmp(&want[0], &want[1], sizeof want[0]) != 0);
}

static void an_epoch_shows_each_picture_once(void)
{
    fv_dataset *ds;
    fv_dataset_options o = defaults();
    OK(ctx, fv_dataset_open(ctx, &ds, &o));
    int seen[2][PICTURES] = { { 0 } }, moved = 0;
    uint64_t order[2][PICTURES];
    for (uint64_t step = 0; step < 4; step++) { /* two epochs of two batches */
        OK(ctx, take(ds, step, PICTURES / 2, &first));
        for (int j = 0; j < PICTURES / 2; j++) {
            seen[step / 2][first.ids[j]]++;
            order[step / 2][(step % 2) * (PICTURES / 2) + (uint64_t)j] = first.ids[j];
            CHECK(red(first.images + j * SIDE * SIDE * 3) == (int)first.ids[j]);
        }
    }
    for (int i = 0; i < PICTURES; i++) {
        CHECK(seen[0][i] == 1 && seen[1][i] == 1);
        moved += order[0][i] != order[1][i];
    }
    CHECK(moved > PICTURES / 2);
    fv_dataset_close(&ds);
}

static void ranks_share_the_batch_of_one_rank(void)
{
    fv_dataset *ds;
    fv_dataset_options o = defaults();
    o.flip = 1;
    OK(ctx, fv_dataset_open(ctx, &ds, &o));
    OK(ctx, take(ds, 7, 24, &first));
    fv_dataset_close(&ds);
    o.ranks = 3;
    for (o.rank = 0; o.rank < 3; o.rank++) {
        OK(ctx, fv_dataset_open(ctx, &ds, &o));
        OK(ctx, take(ds, 7, 8, &second));
        fv_dataset_close(&ds);
        CHECK(second.count == 8);
        CHECK(memcmp(second.ids, first.ids + 8 * o.rank, 8 * sizeof *first.ids) == 0);
        CHECK(memcmp(second.labels, first.labels + 8 * o.rank, 8 * sizeof *first.labels) == 0);
        CHECK(memcmp(second.images, first.images + 8 * o.rank * SIDE * SIDE * 3,
                     8 * SIDE * SIDE * 3 * sizeof(float)) == 0);
    }
}

static void prefetched_batch_leaves_the_handed_out_one_alone(void)
{
    fv_dataset *ds;
    fv_dataset_options o = defaults();
    o.workers = 3;
    OK(ctx, fv_dataset_open(ctx, &ds, &o));
    fv_batch b;
    OK(ctx, fv_dataset_batch(ds, 0, 30, &b));
    const fv_batch handed_out = b;
    OK(ctx, fv_dataset_batch(ds, 0, 30, &b)); /* asked again: the same memory, still valid */
    CHECK(b.images == handed_out.images && b.labels == handed_out.labels && b.ids == handed_out.ids);
    OK(ctx, fv_dataset_batch(ds, 1, 30, &b)); /* was filled meanwhile, elsewhere */
    CHECK(b.images != handed_out.images && b.labels != handed_out.labels &&
          b.ids != handed_out.ids);
    OK(ctx, take(ds, 1, 12, &first)); /* another size: the prefetched 30 are dropped */
    OK(ctx, take(ds, 2, 40, &first));
    CHECK(first.count == 40);
    fv_dataset_close(&ds); /* with a prefetch in flight */
}

/* ---- Augmentation ---------------------------------------------------------------------------- */

static void flips_mirror_half_of_the_pictures(void)
{
    for (int cache = 0; cache < 2; cache++) {
        fv_dataset *ds;
        fv_dataset_options o = defaults();
        o.flip = 1;
        o.cache = cache;
        OK(ctx, fv_dataset_open(ctx, &ds, &o));
        int flipped = 0, changed = 0, was[PICTURES] = { 0 };
        for (uint64_t step = 0; step < 10; step++) {
            OK(ctx, take(ds, step, PICTURES, &first));
            for (int j = 0; j < PICTURES; j++) {
                const float *p = first.images + j * SIDE * SIDE * 3;
                const int left = (int)lrintf((p[1] + 1) * 127.5f);
                CHECK(left == 0 || left == 70);
                for (int x = 0; x < SIDE; x++)
                    CHECK((int)lrintf((p[x * 3 + 1] + 1) * 127.5f) ==
                          (left ? 70 - 10 * x : 10 * x));
                if (step > 0) changed += was[first.ids[j]] != left;
                was[first.ids[j]] = left;
                flipped += left == 70;
            }
        }
        /* 620 fair coins: 310 +- 5 sigma (62); changes between epochs: 558 coins */
        CHECK_MSG(flipped > 248 && flipped < 372, "%d", flipped);
        CHECK_MSG(changed > 220 && changed < 338, "%d", changed);
        fv_dataset_close(&ds);
    }
}

static fv_status one_picture_set(fv_dataset **ds, fv_dataset_options *o, int width, int height)
{
    static uint8_t ppm[4096];
    static char path[128];
    static const char *source[1] = { path };
    tar t = { 0 };
    const size_t n = make_ppm(ppm, 9, width, height);
    put_entry(&t, "", "only", '0', ppm, n); /* no suffix, in the root */
    put_end(&t);
    snprintf(path, sizeof path, "%s/one.tar", temp_dir);
    write_bytes(path, t.data, t.size);
    drop(&t);
    o->sources = source;
    return fv_dataset_open(ctx, ds, o);
}

static void crops_lie_inside_and_move(void)
{
    fv_dataset *ds;
    fv_dataset_options o = defaults();
    float p[SIDE * SIDE * 3];
    OK(ctx, one_picture_set(&ds, &o, 20, SIDE));
    CHECK(fv_dataset_classes(ds) == 1 && strcmp(fv_dataset_class_name(ds, 0), "all") == 0);
    OK(ctx, fv_dataset_get(ds, 0, p, NULL));
    NEAR((p[1] + 1) * 127.5, 60, 1e-3); /* centre: columns 6 to 13 */
    fv_dataset_close(&ds);
    o.random_crop = 1;
    OK(ctx, one_picture_set(&ds, &o, 20, SIDE));
    int hits[13] = { 0 };
    for (uint64_t step = 0; step < 10; step++) {
        OK(ctx, take(ds, step, 39, &first));
        for (int j = 0; j < 39; j++) {
            const long left = lrintf((first.images[j * SIDE * SIDE * 3 + 1] + 1) * 12.75f);
            CHECK(left >= 0 && left <= 12);
            hits[left]++;
        }
    }
    for (int i = 0; i < 13; i++) CHECK(hits[i] > 5 && hits[i] < 60); /* 30 +- 5.3 */
    OK(ctx, fv_dataset_get(ds, 0, p, NULL));
    NEAR((p[1] + 1) * 127.5, 60, 1e-3); /* get never crops at random */
    fv_dataset_close(&ds);
}

static void crop_scale_zooms_in(void)
{
    fv_dataset *ds;
    fv_dataset_options o = defaults();
    o.random_crop = 1;
    o.crop_scale_min = 0.5f;
    OK(ctx, one_picture_set(&ds, &o, 24, 24));
    double lo = 1e9, hi = 0;
    for (uint64_t step = 0; step < 4; step++) {
        OK(ctx, take(ds, step, 50, &first));
        for (int j = 0; j < 50; j++) {
            /* span of the green gradient, in source pixels, from middle columns */
            const float *row = first.images + j * SIDE * SIDE * 3 + 4 * SIDE * 3;
            const double span = (row[5 * 3 + 1] - row[2 * 3 + 1]) * 12.75 / 3 * SIDE;
            if (span < lo) lo = span;
            if (span > hi) hi = span;
        }
    }
    /* squares of 12 to 24 source pixels */
    CHECK_MSG(lo > 11 && lo < 14 && hi > 22 && hi < 25, "%g to %g", lo, hi);
    fv_dataset_close(&ds);
}

static void short_side_is_scaled_to_the_size(void)
{
    fv_dataset *ds;
    fv_dataset_options o = defaults();
    float p[SIDE * SIDE * 3];
    OK(ctx, one_picture_set(&ds, &o, 24, 16));
    OK(ctx, fv_dataset_get(ds, 0, p, NULL));
    fv_dataset_close(&ds);
    /* a linear gradient stays linear away from the borders: pixel x shows source 4 + 2x + 0.5 */
    for (int x = 2; x < 6; x++) NEAR((p[(4 * SIDE + x) * 3 + 1] + 1) * 127.5, 45 + 20 * x, 1.01);
}

static void grey_pictures_have_one_channel(void)
{
    fv_dataset *ds;
    fv_dataset_options o = defaults();
    o.channels = 1;
    float p[SIDE * SIDE];
    OK(ctx, fv_dataset_open(ctx, &ds, &o));
    OK(ctx, fv_dataset_get(ds, 10, p, NULL));
    NEAR((p[1] + 1) * 127.5, 0.299 * 10 + 0.587 * 10, 0.51);
    fv_dataset_close(&ds);
}

static void alpha_is_laid_over_the_background(void)
{
    fv_image img;
    uint8_t *png;
    size_t size;
    OK(ctx, fv_image_create(ctx, &img, SIDE, SIDE, 4, 8));
    OK(ctx, fv_image_encode(ctx, &img,
                            &(fv_image_write_options){ sizeof(fv_image_write_options), FV_IMAGE_PNG,
                                                       0, 0, 0, 0 },
                            &png, &size));
    fv_image_free(ctx, &img);
    char path[128];
    const char *source[1] = { path };
    tar t = { 0 };
    put_entry(&t, "", "a/clear.PNG", '0', png, size);
    put_end(&t);
    fv_free(ctx, png);
    snprintf(path, sizeof path, "%s/alpha.tar", temp_dir);
    write_bytes(path, t.data, t.size);
    drop(&t);
    fv_dataset *ds;
    fv_dataset_options o = defaults();
    o.sources = source;
    float p[SIDE * SIDE * 3];
    OK(ctx, fv_dataset_open(ctx, &ds, &o));
    OK(ctx, fv_dataset_get(ds, 0, p, NULL));
    CHECK(p[0] == 1.0f && p[100] == 1.0f);
    fv_dataset_close(&ds);
}

/* ---- Balance --------------------------------------------------------------------------------- */

/* Showings in an epoch of `total`, by class; no picture gets more than one above its share. */
static void check_showings(fv_dataset *ds, const int want[5], int total)
{
    int got[5] = { 0 }, shown[PICTURES] = { 0 };
    for (int p = 0; p < total; p++) {
        OK(ctx, take(ds, (uint64_t)p, 1, &first));
        got[first.labels[0]]++;
        shown[first.ids[0]]++;
    }
    for (int c = 0, id = 0; c < 5; c++) {
        CHECK_MSG(got[c] == want[c], "class %d: %d of %d", c, got[c], want[c]);
        for (int i = 0; i < class_sizes[c]; i++, id++)
            CHECK(shown[id] >= want[c] / class_sizes[c] &&
                  shown[id] <= want[c] / class_sizes[c] + 1);
    }
}

static void class_balance_evens_out_the_classes(void)
{
    for (int half = 0; half < 2; half++) {
        fv_dataset *ds;
        fv_dataset_options o = defaults();
        o.class_balance = half ? 0.5f : 1.0f;
        int want[5], total = 0;
        for (int c = 0; c < 5; c++) {
            want[c] =
                (int)floor(class_sizes[c] * pow(40.0 / class_sizes[c], o.class_balance) + 0.5);
            total += want[c];
        }
        OK(ctx, fv_dataset_open(ctx, &ds, &o));
        check_showings(ds, want, total);
        fv_dataset_close(&ds);
    }
}

static void class_weights_multiply_the_showings(void)
{
    static const char *const names[] = { "rare", "cat", "bird_a" };
    static const float weights[] = { 3.0f, 0.25f, 1.0f / 64 };
    static const double of_class[5] = { 1.0 / 64, 1, 0.25, 1, 3 };
    for (int half = 0; half < 2; half++) {
        fv_dataset *ds;
        fv_dataset_options o = defaults();
        int want[5], total = 0;
        o.class_balance = half ? 0.5f : 0;
        o.class_weight_name = names;
        o.class_weight = weights;
        o.class_weight_count = 3;
        for (int c = 0; c < 5; c++) {
            const double n = class_sizes[c];
            want[c] = (int)floor(n * pow(40.0 / n, o.class_balance) * of_class[c] + 0.5);
            if (want[c] == 0) want[c] = 1; /* no weight drops a class */
            total += want[c];
        }
        CHECK(want[0] == 1 && want[2] == 10);
        OK(ctx, fv_dataset_open(ctx, &ds, &o));
        check_showings(ds, want, total);
        fv_dataset_close(&ds);
    }
}

static void bad_class_weights_are_refused(void)
{
    static const float bad[] = { 0, -1, 0.01f, 64.5f, NAN, INFINITY };
    const char *names[2] = { "dog", "dog" };
    float weights[2] = { 2, 3 };
    fv_dataset *ds;
    fv_dataset_options o = defaults();
    o.class_weight_name = names;
    o.class_weight = weights;
    o.class_weight_count = 2;
    CHECK(fv_dataset_open(ctx, &ds, &o) == FV_ERR_ARG && !ds);
    CHECK(strstr(fv_ctx_error(ctx), "dog twice"));
    names[0] = "hat";
    CHECK(fv_dataset_open(ctx, &ds, &o) == FV_ERR_UNKNOWN && !ds);
    CHECK(strstr(fv_ctx_error(ctx), "names hat, which is no class"));
    names[0] = "cat";
    for (size_t i = 0; i < FV_ARRAY_LEN(bad); i++) {
        weights[1] = bad[i];
        CHECK(fv_dataset_open(ctx, &ds, &o) == FV_ERR_ARG && !ds);
    }
    weights[1] = 64;
    names[1] = NULL;
    CHECK(fv_dataset_open(ctx, &ds, &o) == FV_ERR_ARG && !ds);
    o.class_weight_name = NULL;
    CHECK(fv_dataset_open(ctx, &ds, &o) == FV_ERR_ARG && !ds);
}

/* ---- Recipes --------------------------------------------------------------------------------- */

/* The set of a recipe that has these lines; *text, if asked for, is for free(). */
static fv_status open_recipe(fv_dataset **ds, const char *lines, fv_split split, char **text)
{
    char all[512];
    fv_recipe *r;
    snprintf(all, sizeof all, "data = set.tar\nflip = no\nworkers = -1\n%s", lines);
    *ds = NULL;
    FV_TRY(fv_recipe_parse(ctx, &r, all, strlen(all)));
    fv_status s = fv_dataset_from_recipe(ctx, ds, r, temp_dir, SIDE, split);
    if (s == FV_OK) s = fv_recipe_check(r);
    if (s == FV_OK && text) *text = strdup(fv_recipe_text(r));
    fv_recipe_close(&r);
    return s;
}

static void recipes_without_class_weights_store_the_same_text(void)
{
    fv_dataset *ds;
    char *plain, *weighted;
    OK(ctx, open_recipe(&ds, "", FV_SPLIT_TRAIN, &plain));
    fv_dataset_close(&ds);
    OK(ctx, open_recipe(&ds, "class_weights = cat:2", FV_SPLIT_TRAIN, &weighted));
    fv_dataset_close(&ds);
    CHECK_MSG(strcmp(plain, "class_balance = 0\ncrop_scale_min = 0\ndata = set.tar\nflip = no\n"
                            "min_per_class = 0\nseed = 1\nworkers = -1\n") == 0, "%s", plain);
    CHECK(strstr(weighted, "class_weights = cat:2\n"));
    free(plain);
    free(weighted);
}

static void recipes_weight_classes_by_their_final_names(void)
{
    fv_dataset *ds;
    OK(ctx, open_recipe(&ds, "classes = dog:canine, cat\nclass_weights = canine:2.5 cat:0.1",
                        FV_SPLIT_ALL, NULL));
    int got[2] = { 0 };
    for (uint64_t p = 0; p < 25 + 4; p++) { /* 10 dogs, 40 cats */
        OK(ctx, take(ds, p, 1, &first));
        got[first.labels[0]]++;
    }
    CHECK(strcmp(fv_dataset_class_name(ds, 0), "canine") == 0 && got[0] == 25 && got[1] == 4);
    fv_dataset_close(&ds);
    /* Held-out pictures are shown as they are: once each. */
    OK(ctx, open_recipe(&ds, "class_weights = cat:64", FV_SPLIT_HELDOUT, NULL));
    const uint64_t held = fv_dataset_count(ds);
    int shown[PICTURES] = { 0 };
    for (uint64_t p = 0; p < held; p++) {
        OK(ctx, take(ds, p, 1, &first));
        CHECK(shown[first.ids[0]]++ == 0);
    }
    fv_dataset_close(&ds);
}

static void recipes_with_bad_class_weights_are_refused(void)
{
    static const char *const bad[] = { "hat", "hat:", "hat:x", ":2", "cat:2x", "cat:0", "cat:65",
                                       "cat:-1", "cat:nan", "cat:1e99", "dog:2, cat" };
    fv_dataset *ds;
    for (size_t i = 0; i < FV_ARRAY_LEN(bad); i++) {
        char line[64];
        snprintf(line, sizeof line, "class_weights = %s", bad[i]);
        CHECK_MSG(open_recipe(&ds, line, FV_SPLIT_TRAIN, NULL) == FV_ERR_ARG && !ds, "%s", bad[i]);
        CHECK_MSG(strstr(fv_ctx_error(ctx), "is not name:weight"), "%s", fv_ctx_error(ctx));
    }
    CHECK(open_recipe(&ds, "class_weights = hat:2", FV_SPLIT_TRAIN, NULL) == FV_ERR_UNKNOWN);
    CHECK(strstr(fv_ctx_error(ctx), "hat"));
    CHECK(open_recipe(&ds, "classes = cat:dog\nclass_weights = cat:2", FV_SPLIT_TRAIN, NULL) ==
          FV_ERR_UNKNOWN);
}

/* ---- Faults ---------------------------------------------------------------------------------- */

/* `good` pictures; `bad` with a cut body, and `alien` that are no pictures at all. */
static void make_faulty(char *path, size_t path_bytes, int good, int bad, int alien)
{
    static uint8_t ppm[4096];
    tar t = { 0 };
    for (int i = 0; i < good + bad + alien; i++) {
        char name[64];
        snprintf(name, sizeof name, "k/%04d.ppm", (i * 7919) % 10007);
        const size_t n = make_ppm(ppm, i % 200, SIDE, SIDE);
        if (i < good)
            put_entry(&t, "", name, '0', ppm, n);
        else if (i < good + bad)
            put_entry(&t, "", name, '0', ppm, n / 2);
        else
            put_entry(&t, "", name, '0', "hello", 5);
    }
    put_end(&t);
    snprintf(path, path_bytes, "%s/faulty.tar", temp_dir);
    write_bytes(path, t.data, t.size);
    drop(&t);
}

static void few_bad_pictures_are_skipped_and_counted(void)
{
    static copy want;
    char path[256];
    const char *source[1] = { path };
    make_faulty(path, sizeof path, 397, 2, 1);
    for (int k = 0; k < 4; k++) {
        fv_dataset *ds;
        fv_dataset_options o = defaults();
        o.sources = source;
        o.workers = k == 0 ? -1 : 2;
        o.cache = k == 2;
        OK(ctx, fv_dataset_open(ctx, &ds, &o));
        CHECK(fv_dataset_count(ds) == 399 && fv_dataset_bad(ds) == 1);
        if (k < 3) /* the last one resumes in the middle */
            for (uint64_t step = 0; step < 7; step++) OK(ctx, take(ds, step, 57, &first));
        OK(ctx, take(ds, 3, 57, &first));
        if (k == 0) want = first;
        CHECK(memcmp(&first, &want, sizeof want) == 0);
        if (k < 3) CHECK(fv_dataset_bad(ds) == 3);
        float p[SIDE * SIDE * 3];
        int errors = 0;
        for (uint64_t i = 0; i < 399; i++) {
            const fv_status got = fv_dataset_get(ds, i, p, NULL);
            if (got == FV_OK) continue;
            errors++;
            CHECK(got >= 20 && got < 40 && strstr(fv_ctx_error(ctx), ".ppm"));
        }
        CHECK(errors == 2 && fv_dataset_bad(ds) == 3);
        fv_dataset_close(&ds);
    }
}

static void class_names_must_fit_into_a_model_file(void)
{
    static const char *const bad[] = {"two\nlines", "latin\xe9", "\x1b[2J", "cut\xc3"};
    static const char *const good[] = {"caf\xc3\xa9", "a b"};
    char entry[64], path[200];
    const char *source[1] = {path}, *drop_it[2] = {"latin*", ""};
    uint8_t ppm[512];
    fv_dataset *ds;
    snprintf(path, sizeof path, "%s/names.tar", temp_dir);
    for (size_t i = 0; i < FV_ARRAY_LEN(bad) + FV_ARRAY_LEN(good); i++) {
        const bool is_bad = i < FV_ARRAY_LEN(bad);
        tar t = {0};
        const size_t n = make_ppm(ppm, 1, SIDE, SIDE);
        snprintf(entry, sizeof entry, "%s/1.ppm", is_bad ? bad[i] : good[i - FV_ARRAY_LEN(bad)]);
        put_entry(&t, "", entry, '0', ppm, n);
        put_entry(&t, "", "plain/1.ppm", '0', ppm, n);
        put_end(&t);
        write_bytes(path, t.data, t.size);
        drop(&t);
        fv_dataset_options o = defaults();
        o.sources = source;
        const fv_status s = fv_dataset_open(ctx, &ds, &o);
        CHECK_MSG(s == (is_bad ? FV_ERR_FORMAT : FV_OK), "%s", entry);
        CHECK(!is_bad || strstr(fv_ctx_error(ctx), "class name"));
        fv_dataset_close(&ds);
        if (i != 1) continue;
        o.class_map = drop_it;
        o.class_map_count = 1;
        OK(ctx, fv_dataset_open(ctx, &ds, &o));
        CHECK(fv_dataset_classes(ds) == 1);
        fv_dataset_close(&ds);
    }
}

static void many_bad_pictures_are_an_error(void)
{
    char path[256];
    const char *source[1] = { path };
    fv_dataset *ds;
    fv_dataset_options o = defaults();
    o.sources = source;
    make_faulty(path, sizeof path, 90, 0, 2);
    CHECK(fv_dataset_open(ctx, &ds, &o) == FV_ERR_FORMAT && !ds);
    CHECK(strstr(fv_ctx_error(ctx), "k/"));
    make_faulty(path, sizeof path, 90, 9, 0);
    for (int workers = -1; workers < 4; workers += 2) {
        o.workers = workers;
        OK(ctx, fv_dataset_open(ctx, &ds, &o));
        fv_status s = FV_OK;
        for (uint64_t step = 0; step < 9 && s == FV_OK; step++) s = take(ds, step, 11, &first);
        CHECK(s == FV_ERR_FORMAT);
        CHECK_MSG(strstr(fv_ctx_error(ctx), "k/") && strstr(fv_ctx_error(ctx), "of 99"), "%s",
                  fv_ctx_error(ctx));
        fv_dataset_close(&ds);
    }
}

static void bad_options_and_empty_sets_are_refused(void)
{
    fv_dataset *ds;
    fv_dataset_options o = defaults();
    o.image_size = 0;
    CHECK(fv_dataset_open(ctx, &ds, &o) == FV_ERR_ARG);
    o = defaults();
    o.source_count = 0;
    CHECK(fv_dataset_open(ctx, &ds, &o) == FV_ERR_ARG);
    o = defaults();
    o.channels = 2;
    CHECK(fv_dataset_open(ctx, &ds, &o) == FV_ERR_ARG);
    o = defaults();
    o.cache = 1;
    o.random_crop = 1;
    CHECK(fv_dataset_open(ctx, &ds, &o) == FV_ERR_ARG);
    o = defaults();
    o.class_balance = NAN;
    CHECK(fv_dataset_open(ctx, &ds, &o) == FV_ERR_ARG);
    o = defaults();
    o.rank = 1;
    CHECK(fv_dataset_open(ctx, &ds, &o) == FV_ERR_ARG);
    o = defaults();
    o.min_per_class = 1000;
    CHECK(fv_dataset_open(ctx, &ds, &o) == FV_ERR_FORMAT);
    const char *gone[1] = { "/nonexistent/set.tar" };
    o = defaults();
    o.sources = gone;
    CHECK(fv_dataset_open(ctx, &ds, &o) == FV_ERR_NOT_FOUND);
    fv_batch b;
    o = defaults();
    OK(ctx, fv_dataset_open(ctx, &ds, &o));
    CHECK(fv_dataset_batch(ds, 0, 0, &b) == FV_ERR_ARG);
    CHECK(fv_dataset_batch(ds, UINT64_MAX, 4, &b) == FV_ERR_ARG);
    fv_dataset_close(&ds);
    fv_dataset_close(&ds);
}

static void cancelling_stops_and_the_set_stays_usable(void)
{
    fv_dataset *ds;
    fv_dataset_options o = defaults();
    o.cache = 1;
    OK(ctx, fv_dataset_open(ctx, &ds, &o));
    fv_ctx_cancel(ctx);
    CHECK(take(ds, 0, 10, &first) == FV_ERR_CANCELLED);
    fv_ctx_uncancel(ctx);
    OK(ctx, take(ds, 0, 10, &first));
    fv_dataset_close(&ds);
}

/* ---- Failing allocations --------------------------------------------------------------------- */

static alloc_fail heap;

static void every_failed_allocation_is_survived(void)
{
    const fv_allocator al = alloc_fail_allocator(&heap);
    fv_ctx_options co = FV_CTX_OPTIONS_INIT;
    co.alloc = &al;
    co.threads = 1;
    for (int workers = -1; workers < 2; workers += 2) {
        fv_status s = FV_ERR_OOM;
        int n = 0;
        for (; s != FV_OK && n < 3000; n += 1 + n / 16) {
            fv_ctx *own;
            fv_dataset *ds;
            fv_batch b;
            fv_dataset_options o = defaults();
            o.class_balance = 0.3f;
            o.workers = workers;
            heap.left = 1000;
            if (fv_ctx_create(&own, &co) != FV_OK) exit(1);
            heap.left = n;
            s = fv_dataset_open(own, &ds, &o);
            if (s == FV_OK) s = fv_dataset_batch(ds, 0, 3, &b);
            fv_dataset_close(&ds);
            fv_memory_stats st;
            fv_ctx_memory(own, &st);
            CHECK(st.current_bytes == 0);
            CHECK_MSG(s == FV_OK || s == FV_ERR_OOM, "%s: %s", fv_status_name(s),
                      fv_ctx_error(own));
            fv_ctx_destroy(&own);
        }
        CHECK(s == FV_OK && n > 100);
    }
}

int main(void)
{
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    make_sources();
    RUN(labels_are_sorted_class_names);
    RUN(folder_and_tar_are_one_set);
    RUN(class_map_renames_merges_and_drops);
    RUN(split_follows_the_crc_of_the_path);
    RUN(sources_join_and_the_manifest_names_them);
    RUN(same_bytes_for_any_worker_count_and_order);
    RUN(an_epoch_shows_each_picture_once);
    RUN(ranks_share_the_batch_of_one_rank);
    RUN(prefetched_batch_leaves_the_handed_out_one_alone);
    RUN(flips_mirror_half_of_the_pictures);
    RUN(crops_lie_inside_and_move);
    RUN(crop_scale_zooms_in);
    RUN(short_side_is_scaled_to_the_size);
    RUN(grey_pictures_have_one_channel);
    RUN(alpha_is_laid_over_the_background);
    RUN(class_balance_evens_out_the_classes);
    RUN(class_weights_multiply_the_showings);
    RUN(bad_class_weights_are_refused);
    RUN(recipes_without_class_weights_store_the_same_text);
    RUN(recipes_weight_classes_by_their_final_names);
    RUN(recipes_with_bad_class_weights_are_refused);
    RUN(few_bad_pictures_are_skipped_and_counted);
    RUN(class_names_must_fit_into_a_model_file);
    RUN(many_bad_pictures_are_an_error);
    RUN(bad_options_and_empty_sets_are_refused);
    RUN(cancelling_stops_and_the_set_stays_usable);
    RUN(every_failed_allocation_is_survived);
    fv_ctx_destroy(&ctx);
    return test_end();
}
