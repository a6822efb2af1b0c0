/* driver.c - main for fuzz targets where there is no libFuzzer.
 *
 *     fuzz_x FILE|FOLDER ...                  run the target once on every file (regression test)
 *     fuzz_x -mutate N SEED FILE|FOLDER ...   then on N mutations of them, reproducible from SEED
 *     fuzz_x -max_total_time=S FILE|FOLDER ...  as many mutations as fit into S seconds, from seed 1
 *
 * Other options of libFuzzer (-runs=...) are ignored, so that one command line serves both. Before
 * each mutation nothing is printed; -v prints its number, to find the one that crashed.
 *
 * One to six changes each: bits, bytes, numbers at the edge of a type, runs moved, doubled and taken
 * out, the end cut off, the tail of another file. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define INPUT_BYTES_MAX ((size_t)1 << 24)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct input {
    uint8_t *data;
    size_t size;
} input;
typedef struct corpus {
    input *items;
    size_t count, capacity;
} corpus;

static void *must(void *p)
{
    if (p) return p;
    fprintf(stderr, "fuzz driver: out of memory\n");
    exit(1);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void add_file(corpus *c, const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f) {
        fprintf(stderr, "fuzz driver: cannot open %s\n", path);
        exit(1);
    }
    input in = {must(malloc(4096)), 0};
    size_t capacity = 4096, got;
    while ((got = fread(in.data + in.size, 1, capacity - in.size, f)) > 0) {
        in.size += got;
        if (in.size == capacity && capacity < INPUT_BYTES_MAX)
            in.data = must(realloc(in.data, capacity *= 2));
    }
    fclose(f);
    if (c->count == c->capacity) {
        c->capacity = c->capacity ? 2 * c->capacity : 64;
        c->items = must(realloc(c->items, c->capacity * sizeof *c->items));
    }
    c->items[c->count++] = in;
}

/* A file, or a folder with everything below it, in the order of names. */
static void add_path(corpus *c, const char *path)
{
    struct stat st;
    if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode)) {
        add_file(c, path);
        return;
    }
    DIR *d = must(opendir(path));
    char **names = NULL;
    size_t n = 0;
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] == '.') continue;
        const size_t bytes = strlen(path) + strlen(e->d_name) + 2;
        names = must(realloc(names, (n + 1) * sizeof *names));
        names[n] = must(malloc(bytes));
        snprintf(names[n++], bytes, "%s/%s", path, e->d_name);
    }
    closedir(d);
    if (n) qsort(names, n, sizeof *names, by_name);
    for (size_t i = 0; i < n; i++) {
        add_path(c, names[i]);
        free(names[i]);
    }
    free(names);
}

static void run(const uint8_t *data, size_t size)
{
    uint8_t *exact = must(malloc(size ? size : 1)); /* a sanitizer sees reads beyond the end */
    memcpy(exact, data, size);
    LLVMFuzzerTestOneInput(exact, size);
    free(exact);
}

/* ---- Mutations --------------------------------------------------------------------------------- */

static uint64_t next(uint64_t *s) /* splitmix64 */
{
    uint64_t z = *s += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static size_t below(uint64_t *s, size_t n)
{
    return n ? (size_t)(next(s) % n) : 0;
}

/* Keep a head of b and append a tail of another input. */
static void splice(input *b, const input *other, uint64_t *s)
{
    const size_t head = below(s, b->size + 1), from = below(s, other->size + 1),
                 tail = other->size - from;
    if (head + tail > INPUT_BYTES_MAX) return;
    b->data = must(realloc(b->data, head + tail + 1));
    if (tail) memcpy(b->data + head, other->data + from, tail);
    b->size = head + tail;
}

/* A run is copied and put in before `at`, or taken out. */
static void change_length(input *b, size_t at, int insert, uint64_t *s)
{
    const size_t most = below(s, 8) ? 16 : b->size, from = below(s, b->size);
    size_t n = 1 + below(s, most);
    if (insert) {
        if (n > b->size - from) n = b->size - from;
        if (b->size + n > INPUT_BYTES_MAX) return;
        uint8_t *grown = must(malloc(b->size + n));
        memcpy(grown, b->data, at);
        memcpy(grown + at, b->data + from, n);
        memcpy(grown + at + n, b->data + at, b->size - at);
        free(b->data);
        b->data = grown;
        b->size += n;
    } else {
        if (n > b->size - at) n = b->size - at;
        memmove(b->data + at, b->data + at + n, b->size - at - n);
        b->size -= n;
    }
}

/* A number of 2, 4 or 8 bytes of either byte order, at the edge of some type. */
static void put_number(input *b, size_t at, uint64_t *s)
{
    static const int bits[] = {0, 1, 7, 8, 15, 16, 31, 32, 63, 64};
    const int k = bits[below(s, sizeof bits / sizeof *bits)], big = (int)below(s, 2);
    const size_t n = (size_t)2 << below(s, 3);
    const uint64_t v = (k < 64 ? (uint64_t)1 << k : 0) - below(s, 2);
    for (size_t i = 0; i < n && at + i < b->size; i++)
        b->data[at + i] = (uint8_t)(v >> 8 * (big ? n - 1 - i : i));
}

static void mutate_once(input *b, const corpus *c, uint64_t *s)
{
    static const uint8_t edges[] = {0, 1, 0x7f, 0x80, 0xfe, 0xff, '0', '9', '-', '<', '"', ' '};
    const size_t at = below(s, b->size);
    switch (below(s, 16)) {
    case 0: b->size = at; break;
    case 1: splice(b, &c->items[below(s, c->count)], s); break;
    case 2: /* a run moves: lengths and offsets no longer fit */
        if (b->size) {
            const size_t from = below(s, b->size), most = b->size - (from > at ? from : at);
            memmove(b->data + at, b->data + from, below(s, most + 1));
        }
        break;
    case 3:
    case 4:
    case 5:
        if (b->size) b->data[at] = edges[below(s, sizeof edges)];
        break;
    case 6:
        if (b->size) b->data[at] = (uint8_t)next(s);
        break;
    case 7:
    case 8:
        if (b->size) change_length(b, at, (int)below(s, 2), s);
        break;
    case 9:
    case 10: put_number(b, at, s); break;
    default:
        if (b->size) b->data[at] ^= (uint8_t)(1u << below(s, 8));
        break;
    }
}

/* Up to n mutations, in at most `seconds` (0: no limit); how many. */
static uint64_t mutate(const corpus *c, uint64_t n, uint64_t seed, double seconds, int verbose)
{
    const time_t start = time(NULL);
    for (uint64_t i = 0; i < n; i++) {
        if (seconds > 0 && i % 16 == 0 && difftime(time(NULL), start) >= seconds) return i;
        uint64_t s = seed * 0x2545f4914f6cdd1du + i; /* each mutation stands alone */
        next(&s);
        const input *from = &c->items[below(&s, c->count)];
        input b = {must(malloc(from->size + 1)), from->size};
        memcpy(b.data, from->data, from->size);
        for (size_t k = 1 + below(&s, 6); k > 0; k--) mutate_once(&b, c, &s);
        if (verbose) {
            fprintf(stderr, "mutation %llu: %zu bytes\n", (unsigned long long)i, b.size);
            fflush(stderr);
        }
        run(b.data, b.size);
        free(b.data);
    }
    return n;
}

int main(int argc, char **argv)
{
    corpus c = {0};
    uint64_t mutations = 0, seed = 1;
    double seconds = 0;
    int verbose = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "-mutate") == 0 && i + 2 < argc) {
            mutations = strtoull(argv[++i], NULL, 10);
            seed = strtoull(argv[++i], NULL, 10);
        } else if (strncmp(argv[i], "-max_total_time=", 16) == 0) {
            seconds = strtod(argv[i] + 16, NULL);
            mutations = UINT64_MAX;
        } else if (strcmp(argv[i], "-v") == 0) {
            verbose = 1;
        } else if (argv[i][0] != '-') {
            add_path(&c, argv[i]);
        }
    }
    run((const uint8_t *)"", 0);
    for (size_t i = 0; i < c.count; i++) run(c.items[i].data, c.items[i].size);
    uint64_t done = 0;
    if (mutations && c.count) done = mutate(&c, mutations, seed, seconds, verbose);
    printf("%zu files, %llu mutations\n", c.count, (unsigned long long)done);
    for (size_t i = 0; i < c.count; i++) free(c.items[i].data);
    free(c.items);
    return 0;
}
