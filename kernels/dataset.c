/* dataset.c - labelled pictures for training, as batches that are a pure function of the step.
 *
 * Opening reads every source once, keeps the compressed pictures of the wanted split, and sorts
 * them by path, so that a folder and a tar of it are the same data set. Picture ids are positions
 * in that order.
 *
 *     virtual list   each id once, or more or less often for class_balance and weights
 *     position       p = step * batch * ranks + rank * batch + j
 *     picture        list[permute(seed, epoch = p / n, n, p % n)]
 *     augmentation   Philox(seed, AUGMENT, sample = id, block = epoch << 24 | copy)
 *
 * No state runs from batch to batch: worker threads may finish in any order, a rank computes only
 * its share, and resuming is asking for a later step. An unreadable picture is replaced by the next
 * readable id, which again depends on the data alone.
 *
 * Native crops (native_max >= 1): pictures are decoded once and stay in memory; a crop of
 * image_size * f pixels, f = 1 with probability 1/2, else uniform in [1, native_max], becomes
 * image_size pixels. Smaller pictures are shown whole.
 *
 * Class balance b and weights w: class c should appear in proportion to w_c n_c^(1-b). Relative to
 * the largest class (n_max) a picture of c is repeated w_c (n_max / n_c)^b times on average;
 * T_c = round(n_c * that), at least 1, is spread over the class, picture k getting
 * floor((k+1) T_c / n_c) - floor(k T_c / n_c) places.
 *
 * Threads: one job (a batch, or filling the cache) is active at a time; workers take its items
 * under `lock`. Two slots alternate: one is with the caller, the other is filled ahead. */
#include "archive.h"
#include "internal.h"
#include "utf8.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_PICTURES 10000000u
#define MAX_LIST (UINT64_C(1) << 28)
#define MAX_SIDE 16384
#define MAX_WORKERS 64
#define MAX_CLASSES 65536
#define SPLIT_MODULUS 20
#define SPLIT_HELDOUT 7
#define ROOT_CLASS "all" /* of pictures that lie directly in the root */

typedef struct picture {
    uint8_t *data;
    size_t size;
    char *path;
    uint32_t source;
    int32_t label; /* while loading: index of the class in order of appearance */
} picture;

typedef struct class_entry {
    char *name;
    uint64_t total; /* before the split */
    uint64_t count; /* in this set */
    int32_t label;  /* -1: dropped */
} class_entry;

typedef struct slot {
    bool is_valid; /* holds or is getting the batch below */
    uint64_t step;
    int batch;
    float *images;
    int32_t *labels;
    uint64_t *ids;
    int capacity;
} slot;

/* Items [0, count) to be worked on; done when next == count and none is running. */
typedef struct job {
    uint64_t count, next, running, finished;
    slot *target; /* NULL: fill the cache */
    fv_status status;
    char error[FVI_ERROR_BYTES];
} job;

typedef struct worker {
    fv_dataset *ds;
    fv_ctx *ctx;
    pthread_t thread;
    bool is_running;
} worker;

struct fv_dataset {
    fv_ctx *ctx;
    fv_ctx *own; /* one thread: for decoding on the caller's; small pictures lose by more */
    fv_dataset_options o; /* pointers inside are not used after open */
    int side, channels;
    size_t pixel_count; /* of one picture, with channels */
    float to_float[256];

    picture *pics;
    size_t count, capacity;
    class_entry *classes;
    size_t class_count, class_capacity;
    int32_t *sorted; /* indices in classes by name; later: label -> index */
    int labels;
    char *manifest;

    uint32_t *list, *list_copy; /* virtual list; NULL without class balance */
    uint64_t list_count;

    uint8_t *cache;
    fv_image *whole; /* native_max: by id; pixels NULL where unreadable */
    bool cache_ready;
    _Atomic uint8_t *is_bad;
    uint64_t bad_at_open; /* not in pics */
    uint64_t bad;         /* all; under lock */
    char first_bad[FVI_ERROR_BYTES];

    pthread_mutex_t lock;
    pthread_cond_t work, done;
    bool has_sync, quit;
    worker workers[MAX_WORKERS];
    int worker_count;
    job job;
    slot slots[2];
    int current; /* slot with the caller */
    uint64_t last; /* step that was asked for before */
};

/* ---- Loading --------------------------------------------------------------------------------- */

typedef enum { KIND_OTHER, KIND_PICTURE, KIND_UNKNOWN } member_kind;

/* By name; a name without any suffix is decided by its content. Dot files are never pictures
 * (macOS archives hold a "._x.jpg" beside each x.jpg). */
static member_kind kind_of_name(const char *path)
{
    static const char *const suffixes[] = { "png", "jpg", "jpeg", "webp", "ppm", "pgm", "pnm" };
    const char *leaf = strrchr(path, '/');
    leaf = leaf ? leaf + 1 : path;
    if (leaf[0] == '.') return KIND_OTHER;
    const char *dot = strrchr(leaf, '.');
    if (!dot) return KIND_UNKNOWN;
    for (size_t i = 0; i < FV_ARRAY_LEN(suffixes); i++) {
        size_t k = 0;
        while (suffixes[i][k] && tolower((unsigned char)dot[1 + k]) == suffixes[i][k]) k++;
        if (!suffixes[i][k] && !dot[1 + k]) return KIND_PICTURE;
    }
    return KIND_OTHER;
}

/* The class of a path after class_map; NULL = dropped. The result is `buffer` or a map entry. */
static const char *map_class(const fv_dataset_options *o, const char *path, char *buffer,
                             size_t buffer_bytes)
{
    const char *slash = strchr(path, '/');
    const size_t n = slash ? (size_t)(slash - path) : strlen(ROOT_CLASS);
    const char *name = slash ? path : ROOT_CLASS;
    for (int i = 0; i < o->class_map_count; i++) {
        const char *from = o->class_map[2 * i], *to = o->class_map[2 * i + 1];
        const size_t k = strlen(from);
        const bool fits = k > 0 && from[k - 1] == '*'
                              ? k - 1 <= n && memcmp(from, name, k - 1) == 0
                              : k == n && memcmp(from, name, n) == 0;
        if (fits) return to[0] ? to : NULL;
    }
    snprintf(buffer, buffer_bytes, "%.*s", (int)(n < buffer_bytes ? n : buffer_bytes - 1), name);
    return buffer;
}

/* Position of name in ds->sorted, or where it belongs. */
static size_t search_class(const fv_dataset *ds, const char *name, bool *is_there)
{
    size_t lo = 0, hi = ds->class_count;
    *is_there = false;
    while (lo < hi) {
        const size_t mid = lo + (hi - lo) / 2;
        const int c = strcmp(ds->classes[ds->sorted[mid]].name, name);
        if (c == 0) *is_there = true;
        if (c < 0) lo = mid + 1;
        else hi = mid;
    }
    return lo;
}

static fv_status grow_classes(fv_dataset *ds)
{
    if (ds->class_count >= MAX_CLASSES)
        return fv_fail(ds->ctx, FV_ERR_LIMIT, "data set: more than %d classes: is the class the "
                       "first folder of each path?", MAX_CLASSES);
    if (ds->class_count < ds->class_capacity) return FV_OK;
    const size_t n = ds->class_count, cap = ds->class_capacity ? ds->class_capacity * 2 : 64;
    class_entry *grown = fv_realloc(ds->ctx, ds->classes, n * sizeof *grown, cap * sizeof *grown);
    if (!grown) return FV_ERR_OOM;
    ds->classes = grown;
    int32_t *order = fv_realloc(ds->ctx, ds->sorted, n * sizeof *order, cap * sizeof *order);
    if (!order) return FV_ERR_OOM;
    ds->sorted = order;
    ds->class_capacity = cap;
    return FV_OK;
}

/* hint: the class found last; archives hold one class after the other. */
static fv_status find_class(fv_dataset *ds, const char *name, int32_t hint, int32_t *out)
{
    bool is_there;
    *out = hint;
    if (hint >= 0 && strcmp(ds->classes[hint].name, name) == 0) return FV_OK;
    const size_t at = search_class(ds, name, &is_there);
    if (is_there) {
        *out = ds->sorted[at];
        return FV_OK;
    }
    FV_TRY(grow_classes(ds));
    char *copy = fv_strdup(ds->ctx, name);
    if (!copy) return FV_ERR_OOM;
    memmove(ds->sorted + at + 1, ds->sorted + at, (ds->class_count - at) * sizeof *ds->sorted);
    ds->sorted[at] = *out = (int32_t)ds->class_count;
    ds->classes[ds->class_count++] = (class_entry){ copy, 0, 0, -1 };
    return FV_OK;
}

/* Takes over data. */
static fv_status add_picture(fv_dataset *ds, uint32_t source, const char *path, int32_t class_index,
                             uint8_t *data, size_t size)
{
    fv_status s = FV_OK;
    char *copy = NULL;
    if (ds->count >= MAX_PICTURES)
        FV_TRY_GOTO(
            fv_fail(ds->ctx, FV_ERR_LIMIT, "data set: more than %u pictures", MAX_PICTURES));
    if (ds->count == ds->capacity) {
        const size_t cap = ds->capacity ? ds->capacity * 2 : 1024;
        picture *grown = fv_realloc(ds->ctx, ds->pics, ds->count * sizeof *grown,
                                    cap * sizeof *grown);
        if (!grown) FV_TRY_GOTO(FV_ERR_OOM);
        ds->pics = grown;
        ds->capacity = cap;
    }
    copy = fv_strdup(ds->ctx, path);
    if (!copy) FV_TRY_GOTO(FV_ERR_OOM);
    ds->pics[ds->count++] = (picture){ data, size, copy, source, class_index };
    return FV_OK;
fail:
    fv_free(ds->ctx, data);
    return s;
}

static bool in_split(fv_split split, const char *path)
{
    if (split == FV_SPLIT_ALL) return true;
    const bool held_out = fv_crc32(0, path, strlen(path)) % SPLIT_MODULUS == SPLIT_HELDOUT;
    return held_out == (split == FV_SPLIT_HELDOUT);
}

/* One member: count it, and keep its bytes if it is a picture of this split. tree: running hash of
 * a folder's files, NULL for archives. */
static fv_status load_member(fv_dataset *ds, fvi_archive *a, uint32_t source, const fvi_member *m,
                             fv_sha256 *tree, int32_t *hint)
{
    char buffer[256];
    const member_kind kind = kind_of_name(m->path);
    if (kind == KIND_OTHER) return FV_OK;
    const char *name = map_class(&ds->o, m->path, buffer, sizeof buffer);
    const bool is_wanted = name && in_split(ds->o.split, m->path);
    uint8_t *data = NULL;
    size_t size = 0;
    if (is_wanted || tree || kind == KIND_UNKNOWN) FV_TRY(fvi_archive_read(a, &data, &size));
    if (tree) {
        uint8_t digest[32];
        char hex[65];
        fv_sha256 one;
        fv_sha256_init(&one);
        fv_sha256_update(&one, data, size);
        fv_sha256_final(&one, digest);
        fv_hex(digest, 32, hex);
        fv_sha256_update(tree, hex, 64);
        fv_sha256_update(tree, "  ", 2);
        fv_sha256_update(tree, m->path, strlen(m->path));
        fv_sha256_update(tree, "\n", 1);
    }
    const bool looks_good = data && fv_image_sniff(data, size) != FV_IMAGE_UNKNOWN;
    fv_status s = FV_OK;
    if (name && (kind == KIND_PICTURE || looks_good)) {
        s = find_class(ds, name, *hint, hint);
        if (s == FV_OK) ds->classes[*hint].total++;
        if (s == FV_OK && is_wanted && looks_good)
            return add_picture(ds, source, m->path, *hint, data, size);
        if (s == FV_OK && is_wanted && ds->bad_at_open++ == 0)
            snprintf(ds->first_bad, sizeof ds->first_bad,
                     "%.400s: neither PNG, JPEG, WebP nor PNM", m->path);
    }
    fv_free(ds->ctx, data);
    return s;
}

static const char *base_name(const char *path, int *length)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    size_t b = n;
    while (b > 0 && path[b - 1] != '/') b--;
    *length = (int)(n - b);
    return path + b;
}

static fv_status load_source(fv_dataset *ds, uint32_t source, fv_text *manifest)
{
    const char *path = ds->o.sources[source];
    fvi_archive *a = NULL;
    FV_TRY(fvi_archive_open(ds->ctx, &a, path, NULL));
    const uint8_t *bytes;
    size_t size;
    const bool is_file = fvi_archive_bytes(a, &bytes, &size);
    fv_sha256 hash;
    fv_sha256_init(&hash);
    if (is_file) fv_sha256_update(&hash, bytes, size);
    fv_status s = FV_OK;
    int32_t hint = -1;
    fvi_member m;
    for (uint64_t i = 0;; i++) {
        FV_TRY_GOTO(fvi_archive_next(a, &m));
        if (!m.path) break;
        FV_TRY_GOTO(load_member(ds, a, source, &m, is_file ? NULL : &hash, &hint));
        if (i % 256 == 0) FV_TRY_GOTO(fv_report(ds->ctx, "reading data", ds->count, 0, path));
    }
    uint8_t digest[32];
    char hex[65];
    int n;
    fv_sha256_final(&hash, digest);
    fv_hex(digest, 32, hex);
    const char *base = base_name(path, &n);
    fv_text_printf(manifest, "%s  %.*s\n", hex, n, base);
    s = manifest->status;
fail:
    fvi_archive_close(&a);
    return s;
}

/* ---- Order ----------------------------------------------------------------------------------- */

/* Stable for equal paths (tar may hold a file twice): data addresses do not matter, sizes do. */
static int compare_pictures(const void *x, const void *y)
{
    const picture *a = x, *b = y;
    if (a->source != b->source) return a->source < b->source ? -1 : 1;
    const int c = strcmp(a->path, b->path);
    if (c) return c;
    if (a->size != b->size) return a->size < b->size ? -1 : 1;
    return memcmp(a->data, b->data, a->size);
}

/* Names end up in model files, one a line of UTF-8: better refused here than after days of
 * training, when the model is written. */
static fv_status check_class_name(const fv_dataset *ds, const char *name)
{
    char shown[64];
    size_t n = 0;
    bool is_text = fvi_utf8_valid(name, strlen(name));
    for (const char *p = name; *p; p++) {
        const unsigned char c = (unsigned char)*p;
        if (c < 0x20 || c == 0x7f) is_text = false;
        if (n + 1 < sizeof shown) shown[n++] = c >= 0x20 && c < 0x7f ? *p : '?';
    }
    shown[n] = 0;
    if (is_text) return FV_OK;
    return fv_fail(ds->ctx, FV_ERR_FORMAT,
                   "data set: the class name \"%s\" has control characters or is not UTF-8: "
                   "rename the folder or drop it with the class map", shown);
}

/* Labels in byte order of the names, for classes that are large enough before the split: train and
 * held-out sets of the same sources then agree. */
static fv_status make_labels(fv_dataset *ds)
{
    for (size_t i = 0; i < ds->class_count; i++) {
        const int32_t index = ds->sorted[i];
        if (ds->classes[index].total < ds->o.min_per_class) continue;
        FV_TRY(check_class_name(ds, ds->classes[index].name));
        ds->classes[index].label = ds->labels;
        ds->sorted[ds->labels++] = index;
    }
    return FV_OK;
}

static void drop_and_sort(fv_dataset *ds)
{
    size_t kept = 0;
    for (size_t i = 0; i < ds->count; i++) {
        picture *p = &ds->pics[i];
        class_entry *c = &ds->classes[p->label];
        if (c->label < 0) {
            fv_free(ds->ctx, p->data);
            fv_free(ds->ctx, p->path);
            continue;
        }
        p->label = c->label;
        c->count++;
        ds->pics[kept++] = *p;
    }
    ds->count = kept;
    if (kept) qsort(ds->pics, kept, sizeof *ds->pics, compare_pictures);
}

/* Zeros become the weights. One for a class that is not there, or a second one, is a slip of the
 * recipe: say so rather than train on. */
static fv_status apply_weights(fv_dataset *ds, double *weight)
{
    for (int i = 0; i < ds->o.class_weight_count; i++) {
        int l = 0;
        while (l < ds->labels &&
               strcmp(fv_dataset_class_name(ds, l), ds->o.class_weight_name[i]) != 0)
            l++;
        if (l == ds->labels)
            return fv_fail(ds->ctx, FV_ERR_UNKNOWN,
                           "data set: class_weights names %.60s, which is no class of this data",
                           ds->o.class_weight_name[i]);
        if (weight[l] > 0)
            return fv_fail(ds->ctx, FV_ERR_ARG, "data set: class_weights names %.60s twice",
                           ds->o.class_weight_name[i]);
        weight[l] = (double)ds->o.class_weight[i];
    }
    for (int l = 0; l < ds->labels; l++)
        if (weight[l] == 0) weight[l] = 1;
    return FV_OK;
}

static fv_status make_list(fv_dataset *ds)
{
    const double b = ds->o.class_balance;
    ds->list_count = ds->count;
    if (!(b > 0) && ds->o.class_weight_count == 0) return FV_OK;
    uint64_t n_max = 1, total = 0;
    for (int l = 0; l < ds->labels; l++) {
        const uint64_t n = fv_dataset_class_count(ds, l);
        if (n > n_max) n_max = n;
    }
    uint64_t *places = fv_calloc(ds->ctx, (size_t)ds->labels, sizeof *places);
    uint64_t *seen = fv_calloc(ds->ctx, (size_t)ds->labels, sizeof *seen);
    double *weight = fv_calloc(ds->ctx, (size_t)ds->labels, sizeof *weight);
    fv_status s = FV_OK;
    if (!places || !seen || !weight) FV_TRY_GOTO(FV_ERR_OOM);
    FV_TRY_GOTO(apply_weights(ds, weight));
    for (int l = 0; l < ds->labels; l++) {
        const double n = (double)fv_dataset_class_count(ds, l);
        if (n > 0) places[l] = (uint64_t)floor(n * pow((double)n_max / n, b) * weight[l] + 0.5);
        if (n > 0 && places[l] == 0) places[l] = 1;
        total += places[l];
    }
    if (total > MAX_LIST)
        FV_TRY_GOTO(fv_fail(ds->ctx, FV_ERR_LIMIT,
                            "data set: class_balance %g and class_weights would show %llu "
                            "pictures an epoch: use smaller values or min_per_class",
                            b, (unsigned long long)total));
    ds->list = fv_calloc(ds->ctx, (size_t)total, sizeof *ds->list);
    ds->list_copy = fv_calloc(ds->ctx, (size_t)total, sizeof *ds->list_copy);
    if (!ds->list || !ds->list_copy) FV_TRY_GOTO(FV_ERR_OOM);
    ds->list_count = 0;
    for (size_t i = 0; i < ds->count; i++) {
        const int32_t l = ds->pics[i].label;
        const uint64_t n = fv_dataset_class_count(ds, l), k = seen[l]++;
        const uint64_t repeat = (k + 1) * places[l] / n - k * places[l] / n;
        for (uint64_t r = 0; r < repeat; r++) {
            ds->list[ds->list_count] = (uint32_t)i;
            ds->list_copy[ds->list_count++] = (uint32_t)r;
        }
    }
fail:
    fv_free(ds->ctx, places);
    fv_free(ds->ctx, seen);
    fv_free(ds->ctx, weight);
    return s;
}

/* ---- One picture ----------------------------------------------------------------------------- */

/* What is drawn for one showing of a picture. */
typedef struct augmentation {
    bool is_flipped;
    float scale;         /* side of the crop / short side; native crops: / image_size */
    uint32_t at_x, at_y; /* position of the crop in 1/2^32 of the free room */
} augmentation;

static const augmentation plain = { false, 1.0f, 0x80000000u, 0x80000000u };

static augmentation draw(const fv_dataset *ds, uint64_t id, uint64_t epoch, uint64_t copy)
{
    uint32_t r[4];
    augmentation g = plain;
    fv_rand_u32(ds->o.seed, FV_STREAM_AUGMENT, (uint32_t)id, (epoch << 24 | copy) * 4, 4, r);
    if (ds->o.flip) g.is_flipped = r[0] >> 31;
    if (ds->o.random_crop) {
        g.at_x = r[1];
        g.at_y = r[2];
    }
    if (ds->o.native_max >= 1) { /* bit 0: at full size */
        const float room = ds->o.native_max - 1.0f;
        g.scale = r[3] & 1 ? 1.0f : 1.0f + room * ((float)(r[3] >> 8) * (1.0f / 16777216.0f));
        return g;
    }
    const float lo = ds->o.crop_scale_min;
    if (lo > 0) g.scale = lo + (1.0f - lo) * ((float)(r[3] >> 8) * (1.0f / 16777216.0f));
    return g;
}

static int place(int room, uint32_t at)
{
    return (int)((uint64_t)(room + 1) * at >> 32);
}

/* A crop of a picture that is in memory: *out is side x side. */
static fv_status native_square(const fv_dataset *ds, fv_ctx *ctx, uint64_t id,
                               const augmentation *g, fv_image *out)
{
    const fv_image *img = &ds->whole[id];
    fv_image square = { 0 };
    const int shorter = img->width < img->height ? img->width : img->height;
    int side = (int)((float)ds->side * g->scale + 0.5f);
    if (side > shorter) side = shorter;
    FV_TRY(fv_image_crop(ctx, &square, img, place(img->width - side, g->at_x),
                         place(img->height - side, g->at_y), side, side));
    if (side == ds->side) {
        *out = square;
        return FV_OK;
    }
    const fv_status s = fv_image_resize(ctx, out, &square, ds->side, ds->side, FV_FILTER_BICUBIC);
    fv_image_free(ctx, &square);
    return s;
}

/* Decode, crop a square, resize: *out is side x side. Cropping first gives the same picture as
 * resizing the whole and cropping (but for the filter's reach over the border) for less work. */
static fv_status decode_square(const fv_dataset *ds, fv_ctx *ctx, const picture *p,
                               const augmentation *g, fv_image *out)
{
    fv_image_read_options ro = FV_IMAGE_READ_OPTIONS_INIT;
    ro.channels = ds->channels;
    ro.depth = 8;
    memcpy(ro.background, ds->o.background, sizeof ro.background);
    fv_image img = { 0 }, square = { 0 };
    fv_status s = fv_image_decode(ctx, &img, p->data, p->size, &ro);
    if (s != FV_OK) return s;
    const int shorter = img.width < img.height ? img.width : img.height;
    int side = (int)((float)shorter * g->scale + 0.5f);
    if (side < 1) side = 1;
    if (side > shorter || g->scale >= 1.0f) side = shorter;
    if (img.width != side || img.height != side) {
        s = fv_image_crop(ctx, &square, &img, place(img.width - side, g->at_x),
                          place(img.height - side, g->at_y), side, side);
        fv_image_free(ctx, &img);
        if (s != FV_OK) return s;
        img = square;
    }
    if (side == ds->side) {
        *out = img;
        return FV_OK;
    }
    s = fv_image_resize(ctx, out, &img, ds->side, ds->side, FV_FILTER_BICUBIC);
    fv_image_free(ctx, &img);
    return s;
}

static void row_to_float(const fv_dataset *ds, const uint8_t *src, bool is_flipped, float *dst)
{
    const int n = ds->side, c = ds->channels;
    if (!is_flipped) {
        for (int i = 0; i < n * c; i++) dst[i] = ds->to_float[src[i]];
        return;
    }
    for (int x = 0; x < n; x++)
        for (int k = 0; k < c; k++) dst[x * c + k] = ds->to_float[src[(n - 1 - x) * c + k]];
}

/* Picture id as floats [side, side, channels]. */
static fv_status render(const fv_dataset *ds, fv_ctx *ctx, uint64_t id, const augmentation *g,
                        float *dst)
{
    const size_t row = (size_t)ds->side * (size_t)ds->channels;
    fv_image img = { 0 };
    const uint8_t *src = ds->cache_ready && ds->cache ? ds->cache + id * ds->pixel_count : NULL;
    size_t stride = row;
    if (!src) {
        FV_TRY(ds->whole ? native_square(ds, ctx, id, g, &img)
                         : decode_square(ds, ctx, &ds->pics[id], g, &img));
        src = img.pixels;
        stride = img.stride_bytes;
    }
    for (int y = 0; y < ds->side; y++)
        row_to_float(ds, src + (size_t)y * stride, g->is_flipped, dst + (size_t)y * row);
    fv_image_free(ctx, &img);
    return FV_OK;
}

/* Faults of the picture, as against faults of the machine. */
static bool is_picture_fault(fv_status s)
{
    return (s >= 20 && s < 40) || s == FV_ERR_UNSUPPORTED;
}

static fv_status too_many_bad(fv_dataset *ds, fv_ctx *ctx)
{
    const uint64_t all = ds->count + ds->bad_at_open;
    fv_status s = FV_OK;
    pthread_mutex_lock(&ds->lock);
    if (ds->bad * 100 > all)
        s = fv_fail(ctx, FV_ERR_FORMAT,
                    "data set: %llu of %llu pictures cannot be read, first %.300s",
                    (unsigned long long)ds->bad, (unsigned long long)all, ds->first_bad);
    pthread_mutex_unlock(&ds->lock);
    return s;
}

/* Count picture id as unreadable, once; FV_ERR_FORMAT when there are too many. */
static fv_status mark_bad(fv_dataset *ds, fv_ctx *ctx, uint64_t id)
{
    if (atomic_exchange(&ds->is_bad[id], 1) == 0) {
        pthread_mutex_lock(&ds->lock);
        if (ds->bad++ == 0)
            snprintf(ds->first_bad, sizeof ds->first_bad, "%.200s: %.250s", ds->pics[id].path,
                     fv_ctx_error(ctx));
        pthread_mutex_unlock(&ds->lock);
    }
    return too_many_bad(ds, ctx);
}

/* Batch item: the picture, or the next readable one. */
static fv_status load_item(fv_dataset *ds, fv_ctx *ctx, slot *t, uint64_t j)
{
    const uint64_t ranks = (uint64_t)ds->o.ranks, batch = (uint64_t)t->batch;
    const uint64_t p = t->step * batch * ranks + (uint64_t)ds->o.rank * batch + j;
    const uint64_t epoch = p / ds->list_count;
    const uint64_t v = fv_rand_permute(ds->o.seed, epoch, ds->list_count, p % ds->list_count);
    const uint64_t first = ds->list ? ds->list[v] : v, copy = ds->list ? ds->list_copy[v] : 0;
    for (uint64_t k = 0; k < ds->count; k++) {
        const uint64_t id = (first + k) % ds->count;
        if (atomic_load(&ds->is_bad[id])) continue;
        const augmentation g = draw(ds, id, epoch, copy);
        const fv_status s = render(ds, ctx, id, &g, t->images + j * ds->pixel_count);
        if (s == FV_OK) {
            t->labels[j] = ds->pics[id].label;
            t->ids[j] = id;
            return FV_OK;
        }
        if (!is_picture_fault(s)) return fv_fail_in(ctx, s, "%.200s", ds->pics[id].path);
        FV_TRY(mark_bad(ds, ctx, id));
    }
    return fv_fail(ctx, FV_ERR_FORMAT, "data set: no picture can be read");
}

/* The picture itself, for native crops: decoded by a worker, kept in memory of the data set. */
static fv_status keep_whole(fv_dataset *ds, fv_ctx *ctx, uint64_t id, const fv_image *img)
{
    const size_t row = (size_t)img->width * (size_t)img->channels;
    uint8_t *dst = fvi_alloc_for(ds->ctx, ctx, row * (size_t)img->height);
    if (!dst) return FV_ERR_OOM;
    for (int y = 0; y < img->height; y++)
        memcpy(dst + (size_t)y * row, (uint8_t *)img->pixels + (size_t)y * img->stride_bytes, row);
    ds->whole[id] = (fv_image){ .width = img->width, .height = img->height,
                                .channels = img->channels, .depth = 8, .stride_bytes = row,
                                .pixels = dst };
    return FV_OK;
}

static fv_status whole_item(fv_dataset *ds, fv_ctx *ctx, uint64_t id)
{
    fv_image img = { 0 };
    fv_image_read_options ro = FV_IMAGE_READ_OPTIONS_INIT;
    ro.channels = ds->channels;
    ro.depth = 8;
    memcpy(ro.background, ds->o.background, sizeof ro.background);
    const picture *p = &ds->pics[id];
    fv_status s = fv_image_decode(ctx, &img, p->data, p->size, &ro);
    if (s != FV_OK && is_picture_fault(s)) return mark_bad(ds, ctx, id);
    if (s == FV_OK) s = keep_whole(ds, ctx, id, &img);
    fv_image_free(ctx, &img);
    return s == FV_OK ? FV_OK : fv_fail_in(ctx, s, "%.200s", p->path);
}

static fv_status cache_item(fv_dataset *ds, fv_ctx *ctx, uint64_t id)
{
    if (ds->whole) return whole_item(ds, ctx, id);
    const size_t row = (size_t)ds->side * (size_t)ds->channels;
    fv_image img = { 0 };
    const fv_status s = decode_square(ds, ctx, &ds->pics[id], &plain, &img);
    if (s != FV_OK && is_picture_fault(s)) return mark_bad(ds, ctx, id);
    if (s != FV_OK) return fv_fail_in(ctx, s, "%.200s", ds->pics[id].path);
    uint8_t *dst = ds->cache + id * ds->pixel_count;
    for (int y = 0; y < ds->side; y++)
        memcpy(dst + (size_t)y * row, (uint8_t *)img.pixels + (size_t)y * img.stride_bytes, row);
    fv_image_free(ctx, &img);
    return FV_OK;
}

/* ---- Jobs ------------------------------------------------------------------------------------ */

static fv_status do_item(fv_dataset *ds, fv_ctx *ctx, slot *target, uint64_t i)
{
    return target ? load_item(ds, ctx, target, i) : cache_item(ds, ctx, i);
}

/* Take the next item and do it; called and returns with the lock held. */
static void do_next(fv_dataset *ds, fv_ctx *ctx)
{
    job *j = &ds->job;
    const uint64_t i = j->next++;
    slot *target = j->target;
    j->running++;
    pthread_mutex_unlock(&ds->lock);
    const fv_status s = do_item(ds, ctx, target, i);
    pthread_mutex_lock(&ds->lock);
    j->running--;
    j->finished++;
    if (s != FV_OK && j->status == FV_OK) {
        j->status = s;
        snprintf(j->error, sizeof j->error, "%s", fv_ctx_error(ctx));
        j->next = j->count;
    }
    if (j->running == 0 && j->next == j->count) pthread_cond_broadcast(&ds->done);
}

static void *worker_main(void *arg)
{
    worker *w = arg;
    fv_dataset *ds = w->ds;
    pthread_mutex_lock(&ds->lock);
    while (!ds->quit) {
        if (ds->job.next < ds->job.count)
            do_next(ds, w->ctx);
        else
            pthread_cond_wait(&ds->work, &ds->lock);
    }
    pthread_mutex_unlock(&ds->lock);
    return NULL;
}

/* The previous job must be over. */
static void start_job(fv_dataset *ds, slot *target, uint64_t count)
{
    pthread_mutex_lock(&ds->lock);
    ds->job.target = target;
    ds->job.status = FV_OK;
    ds->job.running = ds->job.finished = ds->job.next = 0;
    ds->job.count = count;
    pthread_cond_broadcast(&ds->work);
    pthread_mutex_unlock(&ds->lock);
}

/* Wait with the lock held until woken, 50 ms at most (to see a cancellation). */
static void wait_done(fv_dataset *ds)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_nsec += 50000000;
    if (t.tv_nsec >= 1000000000) {
        t.tv_nsec -= 1000000000;
        t.tv_sec++;
    }
    pthread_cond_timedwait(&ds->done, &ds->lock, &t);
}

/* Let running items end and drop the rest. */
static void stop_job(fv_dataset *ds)
{
    pthread_mutex_lock(&ds->lock);
    ds->job.next = ds->job.count;
    while (ds->job.running) pthread_cond_wait(&ds->done, &ds->lock);
    pthread_mutex_unlock(&ds->lock);
}

/* Wait for the job; without workers, do it here. Filling the cache reports progress. */
static fv_status finish_job(fv_dataset *ds)
{
    job *j = &ds->job;
    /* Asked before waiting too: a job that is already over must not hide a cancellation. */
    fv_status s = FV_OK;
    if (fv_ctx_cancelled(ds->ctx))
        s = fv_fail(ds->ctx, FV_ERR_CANCELLED, "data set: cancelled");
    pthread_mutex_lock(&ds->lock);
    while (s == FV_OK && !(j->next == j->count && j->running == 0)) {
        if (ds->worker_count == 0)
            do_next(ds, ds->own);
        else
            wait_done(ds);
        const uint64_t finished = j->finished;
        const bool is_cache = !j->target;
        pthread_mutex_unlock(&ds->lock);
        if (is_cache)
            s = fv_report(ds->ctx, "decoding data", finished, ds->count, NULL);
        else if (fv_ctx_cancelled(ds->ctx))
            s = fv_fail(ds->ctx, FV_ERR_CANCELLED, "data set: cancelled");
        pthread_mutex_lock(&ds->lock);
    }
    pthread_mutex_unlock(&ds->lock);
    if (s != FV_OK) {
        stop_job(ds);
        return s;
    }
    return j->status == FV_OK ? FV_OK : fv_fail(ds->ctx, j->status, "%s", j->error);
}

static fv_status fill_cache(fv_dataset *ds)
{
    const bool is_native = ds->o.native_max >= 1;
    if (!(ds->o.cache || is_native) || ds->cache_ready) return FV_OK;
    if (is_native && !ds->whole) ds->whole = fv_calloc(ds->ctx, ds->count, sizeof *ds->whole);
    if (!is_native && !ds->cache) ds->cache = fv_calloc(ds->ctx, ds->count, ds->pixel_count);
    if (!ds->cache && !ds->whole) return FV_ERR_OOM;
    start_job(ds, NULL, ds->count);
    FV_TRY(finish_job(ds));
    ds->cache_ready = true;
    return FV_OK;
}

/* ---- Opening and closing --------------------------------------------------------------------- */

static fv_status check_options(fv_ctx *ctx, fv_dataset_options *o)
{
    const char *wrong = NULL;
    if (!o->sources || o->source_count < 1) wrong = "no sources given";
    for (int i = 0; !wrong && i < o->source_count; i++)
        if (!o->sources[i]) wrong = "a source is NULL";
    if (!o->channels) o->channels = 3;
    if (!o->ranks) o->ranks = 1;
    if (o->crop_scale_min == 1.0f) o->crop_scale_min = 0;
    if ((int)o->split < 0 || o->split > FV_SPLIT_HELDOUT) wrong = "unknown split";
    if (o->image_size < 1 || o->image_size > MAX_SIDE) wrong = "image_size must be 1 to 16384";
    if (o->channels != 1 && o->channels != 3) wrong = "channels must be 1 or 3";
    if (!(o->crop_scale_min >= 0 && o->crop_scale_min <= 1))
        wrong = "crop_scale_min is not in 0..1";
    if (!(o->class_balance >= 0 && o->class_balance <= 1)) wrong = "class_balance is not in 0..1";
    if (o->class_map_count < 0 || (o->class_map_count > 0 && !o->class_map))
        wrong = "bad class_map";
    for (int i = 0; !wrong && i < 2 * o->class_map_count; i++)
        if (!o->class_map[i]) wrong = "class_map holds NULL";
    if (o->class_weight_count < 0 ||
        (o->class_weight_count > 0 && (!o->class_weight_name || !o->class_weight)))
        wrong = "bad class_weight";
    for (int i = 0; !wrong && i < o->class_weight_count; i++)
        if (!o->class_weight_name[i] ||
            !(o->class_weight[i] >= 1.0f / 64 && o->class_weight[i] <= 64))
            wrong = "a class weight is not in 1/64..64";
    if (o->workers < -1 || o->workers > MAX_WORKERS) wrong = "workers must be -1 to 64";
    if (o->ranks < 1 || o->rank < 0 || o->rank >= o->ranks) wrong = "rank must be in 0..ranks-1";
    if (o->native_max != 0 && !(o->native_max >= 1 && o->native_max <= 64))
        wrong = "native_max is neither 0 nor in 1..64";
    if (o->native_max >= 1 && (o->cache || o->crop_scale_min > 0))
        wrong = "native crops go neither with cache nor with crop_scale_min";
    if (o->cache && (o->random_crop || o->crop_scale_min > 0))
        wrong = "cache keeps one crop of each picture: leave random_crop and crop_scale_min off";
    return wrong ? fv_fail(ctx, FV_ERR_ARG, "data set: %s", wrong) : FV_OK;
}

static fv_status init_sync(fv_dataset *ds)
{
    pthread_condattr_t attr;
    bool ok = pthread_condattr_init(&attr) == 0;
    if (ok) {
        ok = pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) == 0 &&
             pthread_mutex_init(&ds->lock, NULL) == 0;
        if (ok && pthread_cond_init(&ds->work, NULL) != 0) {
            pthread_mutex_destroy(&ds->lock);
            ok = false;
        }
        if (ok && pthread_cond_init(&ds->done, &attr) != 0) {
            pthread_cond_destroy(&ds->work);
            pthread_mutex_destroy(&ds->lock);
            ok = false;
        }
        pthread_condattr_destroy(&attr);
    }
    if (!ok) return fv_fail(ds->ctx, FV_ERR_OOM, "data set: no memory for locks");
    ds->has_sync = true;
    return FV_OK;
}

/* Worker threads take no signals: those belong to the application's own threads. */
static fv_status start_workers(fv_dataset *ds)
{
    const int n = ds->o.workers == -1 ? 0 : ds->o.workers == 0 ? 1 : ds->o.workers;
    fv_ctx_options co = FV_CTX_OPTIONS_INIT;
    co.threads = 1;
    co.device = FV_DEVICE_CPU;
    co.alloc = &ds->ctx->alloc;
    co.cpu_disable = ~ds->ctx->cpu;
    co.memory_cap_bytes = ds->ctx->memory_cap;
    sigset_t all, old;
    sigfillset(&all);
    const fv_status own = fv_ctx_create(&ds->own, &co);
    if (own != FV_OK) return fv_fail(ds->ctx, own, "data set: no context for decoding");
    for (int i = 0; i < n; i++) {
        worker *w = &ds->workers[i];
        w->ds = ds;
        ds->worker_count = i + 1;
        const fv_status s = fv_ctx_create(&w->ctx, &co);
        if (s != FV_OK) return fv_fail(ds->ctx, s, "data set: no context for worker %d", i);
        pthread_sigmask(SIG_SETMASK, &all, &old);
        const int r = pthread_create(&w->thread, NULL, worker_main, w);
        pthread_sigmask(SIG_SETMASK, &old, NULL);
        if (r) return fv_fail(ds->ctx, FV_ERR_OOM, "data set: worker %d not started: %s", i,
                              strerror(r));
        w->is_running = true;
    }
    return FV_OK;
}

static fv_status load_all(fv_dataset *ds)
{
    fv_text manifest;
    fv_text_init(&manifest, ds->ctx);
    fv_status s = FV_OK;
    for (int i = 0; i < ds->o.source_count; i++)
        FV_TRY_GOTO(load_source(ds, (uint32_t)i, &manifest));
    ds->manifest = fv_strdup(ds->ctx, manifest.data ? manifest.data : "");
    if (!ds->manifest) FV_TRY_GOTO(FV_ERR_OOM);
    FV_TRY_GOTO(make_labels(ds));
    drop_and_sort(ds);
    ds->bad = ds->bad_at_open;
    FV_TRY_GOTO(too_many_bad(ds, ds->ctx));
    if (ds->count == 0)
        FV_TRY_GOTO(fv_fail(ds->ctx, FV_ERR_FORMAT, "data set: %.300s holds no pictures for this "
                            "split and these classes", ds->o.sources[0]));
    FV_TRY_GOTO(make_list(ds));
    ds->is_bad = fv_calloc(ds->ctx, ds->count, sizeof *ds->is_bad);
    if (!ds->is_bad) s = FV_ERR_OOM;
fail:
    fv_text_free(&manifest);
    return s;
}

fv_status fv_dataset_open(fv_ctx *ctx, fv_dataset **out, const fv_dataset_options *opts)
{
    if (!ctx || !out) return FV_ERR_ARG;
    *out = NULL;
    fv_dataset_options o = FV_DATASET_OPTIONS_INIT;
    if (!opts) return fv_fail(ctx, FV_ERR_ARG, "data set: no options given");
    FV_TRY(FV_TAKE_OPTIONS(ctx, &o, opts, "data set"));
    FV_TRY(check_options(ctx, &o));
    fv_dataset *ds = fv_calloc(ctx, 1, sizeof *ds);
    if (!ds) return FV_ERR_OOM;
    ds->ctx = ctx;
    ds->o = o;
    ds->side = o.image_size;
    ds->channels = o.channels;
    ds->pixel_count = (size_t)o.image_size * (size_t)o.image_size * (size_t)o.channels;
    for (int i = 0; i < 256; i++) ds->to_float[i] = -1.0f + 2.0f * ((float)i / 255.0f);
    fv_status s;
    FV_TRY_GOTO(init_sync(ds));
    FV_TRY_GOTO(load_all(ds));
    FV_TRY_GOTO(start_workers(ds));
    ds->o.sources = NULL;
    ds->o.class_map = NULL;
    ds->o.class_weight_name = NULL;
    ds->o.class_weight = NULL;
    *out = ds;
    return FV_OK;
fail:
    fv_dataset_close(&ds);
    return s;
}

static void free_slot(fv_ctx *ctx, slot *t)
{
    fv_free(ctx, t->images);
    fv_free(ctx, t->labels);
    fv_free(ctx, t->ids);
    *t = (slot){ 0 };
}

void fv_dataset_close(fv_dataset **dataset)
{
    if (!dataset || !*dataset) return;
    fv_dataset *ds = *dataset;
    fv_ctx *ctx = ds->ctx;
    *dataset = NULL;
    if (ds->has_sync) {
        pthread_mutex_lock(&ds->lock);
        ds->quit = true;
        ds->job.next = ds->job.count;
        pthread_cond_broadcast(&ds->work);
        pthread_mutex_unlock(&ds->lock);
    }
    for (int i = 0; i < ds->worker_count; i++) {
        if (ds->workers[i].is_running) pthread_join(ds->workers[i].thread, NULL);
        fv_ctx_destroy(&ds->workers[i].ctx);
    }
    if (ds->has_sync) {
        pthread_cond_destroy(&ds->done);
        pthread_cond_destroy(&ds->work);
        pthread_mutex_destroy(&ds->lock);
    }
    fv_ctx_destroy(&ds->own);
    for (int i = 0; i < 2; i++) free_slot(ctx, &ds->slots[i]);
    for (size_t i = 0; i < ds->count; i++) {
        fv_free(ctx, ds->pics[i].data);
        fv_free(ctx, ds->pics[i].path);
    }
    for (size_t i = 0; i < ds->class_count; i++) fv_free(ctx, ds->classes[i].name);
    fv_free(ctx, ds->pics);
    fv_free(ctx, ds->classes);
    fv_free(ctx, ds->sorted);
    fv_free(ctx, ds->manifest);
    fv_free(ctx, ds->list);
    fv_free(ctx, ds->list_copy);
    fv_free(ctx, ds->cache);
    for (size_t i = 0; ds->whole && i < ds->count; i++) fv_free(ctx, ds->whole[i].pixels);
    fv_free(ctx, ds->whole);
    fv_free(ctx, (void *)ds->is_bad);
    fv_free(ctx, ds);
}

/* ---- Questions and batches ------------------------------------------------------------------- */

uint64_t fv_dataset_count(const fv_dataset *ds) { return ds->count; }
int fv_dataset_classes(const fv_dataset *ds) { return ds->labels; }
const char *fv_dataset_manifest(const fv_dataset *ds) { return ds->manifest; }

const char *fv_dataset_class_name(const fv_dataset *ds, int label)
{
    return label >= 0 && label < ds->labels ? ds->classes[ds->sorted[label]].name : NULL;
}

uint64_t fv_dataset_class_count(const fv_dataset *ds, int label)
{
    return label >= 0 && label < ds->labels ? ds->classes[ds->sorted[label]].count : 0;
}

uint64_t fv_dataset_bad(const fv_dataset *ds)
{
    /* The lock is not part of what the caller may see change. */
    fv_dataset *d = (fv_dataset *)(uintptr_t)ds;
    pthread_mutex_lock(&d->lock);
    const uint64_t n = d->bad;
    pthread_mutex_unlock(&d->lock);
    return n;
}

static fv_status reserve_slot(fv_dataset *ds, slot *t, int batch)
{
    if (t->capacity >= batch) return FV_OK;
    size_t n;
    free_slot(ds->ctx, t);
    if (!fv_mul_size(ds->pixel_count, (size_t)batch, &n))
        return fv_fail(ds->ctx, FV_ERR_ARG, "data set: batch %d is too large", batch);
    t->images = fv_calloc(ds->ctx, n, sizeof *t->images);
    t->labels = fv_calloc(ds->ctx, (size_t)batch, sizeof *t->labels);
    t->ids = fv_calloc(ds->ctx, (size_t)batch, sizeof *t->ids);
    if (!t->images || !t->labels || !t->ids) {
        free_slot(ds->ctx, t);
        return FV_ERR_OOM;
    }
    t->capacity = batch;
    return FV_OK;
}

static fv_status start_batch(fv_dataset *ds, slot *t, uint64_t step, int batch)
{
    t->is_valid = false;
    FV_TRY(reserve_slot(ds, t, batch));
    t->step = step;
    t->batch = batch;
    t->is_valid = true;
    start_job(ds, t, (uint64_t)batch);
    return FV_OK;
}

static bool holds(const slot *t, uint64_t step, int batch)
{
    return t->is_valid && t->step == step && t->batch == batch;
}

fv_status fv_dataset_batch(fv_dataset *ds, uint64_t step, int batch, fv_batch *out)
{
    *out = (fv_batch){ 0 };
    if (batch < 1) return fv_fail(ds->ctx, FV_ERR_ARG, "data set: batch must be at least 1");
    const uint64_t global = (uint64_t)batch * (uint64_t)ds->o.ranks;
    if (step >= (UINT64_C(1) << 62) / global)
        return fv_fail(ds->ctx, FV_ERR_ARG, "data set: step %llu is out of range",
                       (unsigned long long)step);
    slot *t = &ds->slots[ds->current];
    if (!holds(t, step, batch)) {
        slot *ahead = &ds->slots[!ds->current];
        if (!holds(ahead, step, batch)) {
            stop_job(ds);
            ahead->is_valid = false;
            FV_TRY(fill_cache(ds));
            FV_TRY(start_batch(ds, ahead, step, batch));
        }
        const fv_status s = finish_job(ds);
        if (s != FV_OK) {
            ahead->is_valid = false;
            return s;
        }
        ds->current = !ds->current;
        t->is_valid = false;
        t = ahead;
        /* Without memory for a second batch we go on without prefetching. */
        slot *next = &ds->slots[!ds->current];
        const uint64_t stride = step > ds->last ? step - ds->last : 1;
        if (ds->worker_count > 0 && start_batch(ds, next, step + stride, batch) != FV_OK)
            next->is_valid = false;
    }
    ds->last = step;
    *out = (fv_batch){ batch, t->images, t->labels, t->ids };
    return FV_OK;
}

fv_status fv_dataset_get(fv_dataset *ds, uint64_t i, float *hwc, int32_t *label)
{
    if (i >= ds->count)
        return fv_fail(ds->ctx, FV_ERR_ARG, "data set: picture %llu of %llu asked",
                       (unsigned long long)i, (unsigned long long)ds->count);
    if ((ds->o.cache || ds->o.native_max >= 1) && !ds->cache_ready) {
        stop_job(ds);
        FV_TRY(fill_cache(ds));
    }
    if (atomic_load(&ds->is_bad[i]))
        return fv_fail(ds->ctx, FV_ERR_FORMAT, "%.200s cannot be read", ds->pics[i].path);
    const fv_status s = render(ds, ds->own, i, &plain, hwc);
    if (s == FV_OK) {
        if (label) *label = ds->pics[i].label;
        return FV_OK;
    }
    fv_fail(ds->ctx, s, "%.200s: %.250s", ds->pics[i].path, fv_ctx_error(ds->own));
    if (is_picture_fault(s) && mark_bad(ds, ds->own, i) != FV_OK)
        return fv_fail(ds->ctx, FV_ERR_FORMAT, "%s", fv_ctx_error(ds->own));
    return s;
}
