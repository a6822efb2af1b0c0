/* test_vocab.c - the networks' vocabulary: every byte string comes back, hostile files are refused,
 * learning is reproducible and finds what repeats. */
#include "alloc_fail.h"
#include "nn_vocab.h"
#include "temp_dir.h"
#include "test.h"

static fv_ctx *ctx;

/* Text with words, numbers, marks and indentation that repeat. */
static size_t make_text(uint8_t *out, size_t size, uint64_t seed)
{
    static const char *const word[] = {
        "the",  " network", " of", " bytes", "\n    return",      " value", "(", ");\n", " = ",
        "1024", " and",     ", ",  "\t\t",   "\xc3\xa9t\xc3\xa9", ".\n\n"};
    size_t at = 0;
    while (at < size) {
        const char *w = word[test_next(&seed) % FV_ARRAY_LEN(word)];
        for (; *w && at < size; w++) out[at++] = (uint8_t)*w;
        if (at < size && test_next(&seed) % 16 == 0) out[at++] = (uint8_t)test_next(&seed);
        for (int i = 0; at < size && test_next(&seed) % 3 && i < 6; i++)
            out[at++] = (uint8_t)('a' + test_next(&seed) % 12);
    }
    return at;
}

#define TEXT_BYTES 300000
static uint8_t text[TEXT_BYTES], back[TEXT_BYTES];
static uint16_t ids[TEXT_BYTES];

static void check_round_trip(const nn_vocab *v, const uint8_t *p, size_t n)
{
    const size_t count = nn_vocab_encode(v, p, n, ids);
    CHECK(count <= n);
    for (size_t i = 0; i < count; i++) CHECK(ids[i] < v->size);
    CHECK(nn_vocab_decode(v, ids, count, back) == n);
    CHECK(memcmp(back, p, n) == 0);
}

static void every_byte_string_comes_back(void)
{
    nn_vocab v;
    uint64_t seed = 7;
    const nn_sample sample = {text, make_text(text, sizeof text, 1)};
    OK(ctx, nn_vocab_train(ctx, &v, 10, &sample, 1, NN_ORDER_BYTES));
    CHECK(v.size == 1024 && v.bits == 10);
    for (int k = 0; k < 200 && !test_bad; k++) {
        uint8_t p[512];
        const size_t n = test_next(&seed) % sizeof p;
        for (size_t i = 0; i < n; i++)
            p[i] = k & 1 ? (uint8_t)test_next(&seed) : text[(1000 * (size_t)k + i) % TEXT_BYTES];
        check_round_trip(&v, p, n);
    }
    check_round_trip(&v, text, sizeof text);
    CHECK(nn_vocab_encode(&v, text, sizeof text, ids) < sizeof text * 2 / 3);
    nn_vocab_close(&v);
    OK(ctx, nn_vocab_bytes(ctx, &v));
    check_round_trip(&v, text, 1000);
    CHECK(nn_vocab_encode(&v, text, 1000, ids) == 1000 && ids[5] == text[5] && v.bits == 8);
    nn_vocab_close(&v);
}

/* The id at each place is that of the longest piece there. */
static void matches_are_the_longest(void)
{
    nn_vocab v;
    const nn_sample sample = {text, sizeof text};
    OK(ctx, nn_vocab_train(ctx, &v, 9, &sample, 1, NN_ORDER_CONTEXT));
    for (size_t at = 0; at < 2000; at++) {
        const int id = nn_vocab_next(&v, text + at, sizeof text - at);
        int longest = 0;
        for (int i = 0; i < v.size; i++) {
            const int n = nn_vocab_length(&v, i);
            if (n > longest && memcmp(text + at, v.text + v.begin[i], (size_t)n) == 0) longest = n;
        }
        CHECK(nn_vocab_length(&v, id) == longest);
    }
    const int end = nn_vocab_next(&v, text, 1);
    CHECK(nn_vocab_length(&v, end) == 1);
    nn_vocab_close(&v);
}

static void learning_is_reproducible(void)
{
    const nn_sample whole = {text, sizeof text},
                    parts[3] = {{text, 100000}, {text, 0}, {text + 100000, sizeof text - 100000}};
    for (int order = 0; order < NN_ORDER_COUNT; order++) {
        nn_vocab a, b;
        OK(ctx, nn_vocab_train(ctx, &a, 10, &whole, 1, (nn_order)order));
        OK(ctx, nn_vocab_train(ctx, &b, 10, &whole, 1, (nn_order)order));
        CHECK(a.begin[1024] == b.begin[1024] && !memcmp(a.text, b.text, a.begin[1024]));
        CHECK(!memcmp(a.depth, b.depth, 1024));
        CHECK(!memcmp(a.begin, b.begin, 1025 * sizeof *a.begin));
        nn_vocab_close(&b);
        OK(ctx, nn_vocab_train(ctx, &b, 10, parts, 3, (nn_order)order));
        CHECK(b.size == 1024);
        nn_vocab_close(&a);
        nn_vocab_close(&b);
    }
}

/* Pieces stay within words, with one exception: a space before a word. */
static void pieces_stay_within_words(void)
{
    nn_vocab v;
    const nn_sample sample = {text, sizeof text};
    int found = 0;
    OK(ctx, nn_vocab_train(ctx, &v, 10, &sample, 1, NN_ORDER_BYTES));
    for (int id = 0; id < v.size; id++) {
        const uint8_t *p = v.text + v.begin[id];
        const int n = nn_vocab_length(&v, id);
        for (int i = 1; i + 1 < n; i++) CHECK(p[i] != ' ' || p[0] == '\n' || p[0] == ' ');
        found += n == 8 && memcmp(p, " network", 8) == 0;
        if (id) { /* in the order of bytes */
            const uint8_t *q = v.text + v.begin[id - 1];
            const int m = nn_vocab_length(&v, id - 1), c = memcmp(q, p, (size_t)(m < n ? m : n));
            CHECK(c < 0 || (c == 0 && m < n));
        }
    }
    CHECK(found == 1);
    nn_vocab_close(&v);
}

static void too_little_text_is_refused(void)
{
    nn_vocab v;
    const nn_sample few = {text, 200}, none = {text, 0};
    CHECK(nn_vocab_train(ctx, &v, 12, &few, 1, NN_ORDER_BYTES) == FV_ERR_ARG);
    CHECK(strstr(fv_ctx_error(ctx), "more data") != NULL && v.text == NULL);
    CHECK(nn_vocab_train(ctx, &v, 12, &none, 1, NN_ORDER_BYTES) == FV_ERR_ARG);
    CHECK(nn_vocab_train(ctx, &v, 12, &none, 0, NN_ORDER_BYTES) == FV_ERR_ARG);
    CHECK(nn_vocab_train(ctx, &v, 7, &few, 1, NN_ORDER_BYTES) == FV_ERR_ARG);
    CHECK(nn_vocab_train(ctx, &v, 15, &few, 1, NN_ORDER_BYTES) == FV_ERR_ARG);
}

static void hostile_vocabularies_are_refused(void)
{
    static uint8_t piece[512 * 16], length[512];
    nn_vocab v;
    size_t bytes = 0;
    for (int i = 0; i < 512; i++) { /* b, then "xb" */
        length[i] = (uint8_t)(i < 256 ? 1 : 2);
        if (i >= 256) piece[bytes++] = 'x';
        piece[bytes++] = (uint8_t)i;
    }
    OK(ctx, nn_vocab_open(ctx, &v, piece, bytes, length, 512));
    CHECK(v.bits == 9);
    nn_vocab_close(&v);
    CHECK(nn_vocab_open(ctx, &v, piece, bytes, length, 511) == FV_ERR_MODEL);
    CHECK(nn_vocab_open(ctx, &v, piece, bytes, length, 0) == FV_ERR_MODEL && v.text == NULL);
    CHECK(nn_vocab_open(ctx, &v, piece, bytes - 1, length, 512) == FV_ERR_MODEL);
    CHECK(nn_vocab_open(ctx, &v, piece, bytes + 1, length, 512) == FV_ERR_MODEL);
    length[300] = 0;
    CHECK(nn_vocab_open(ctx, &v, piece, bytes, length, 512) == FV_ERR_MODEL);
    length[300] = 17;
    CHECK(nn_vocab_open(ctx, &v, piece, bytes + 15, length, 512) == FV_ERR_MODEL);
    length[300] = 2;
    piece[7] = 8; /* the byte 7 is missing, 8 is there twice */
    CHECK(nn_vocab_open(ctx, &v, piece, bytes, length, 512) == FV_ERR_MODEL);
    piece[7] = 7;
    piece[256 + 2 * 7 + 1] = 8; /* "x8" twice */
    CHECK(nn_vocab_open(ctx, &v, piece, bytes, length, 512) == FV_ERR_MODEL);
    CHECK(strstr(fv_ctx_error(ctx), "same") != NULL);
    length[7] = 2;
    length[256 + 7] = 1;
    CHECK(nn_vocab_open(ctx, &v, piece, bytes, length, 512) == FV_ERR_MODEL);
}

/* Room for the worst tree allowed: one leaf after another, the rest balanced. */
static void make_depths(uint8_t depth[512])
{
    int at = 0, level = 0;
    while (at < 6) depth[at++] = (uint8_t)++level; /* 1 .. 6, 506 leaves are left below level 6 */
    for (int i = 0; i < 506; i++) depth[at++] = (uint8_t)(level + (i < 6 ? 8 : 9));
    /* 2^-6 is left: 6 leaves of 2^-14 and 500 of 2^-15 are 512 of 2^-15 */
}

/* A tree from depths: paths lead to each leaf and nowhere else; gaps and overlaps are refused. */
static void depths_make_a_tree(void)
{
    static uint8_t piece[512 * 16], length[512], depth[512];
    static int32_t paths[512 * NN_VOCAB_MAX_DEPTH];
    nn_vocab v;
    size_t bytes = 0;
    for (int i = 0; i < 512; i++) {
        length[i] = (uint8_t)(i < 256 ? 1 : 2);
        if (i >= 256) piece[bytes++] = 'x';
        piece[bytes++] = (uint8_t)i;
    }
    make_depths(depth);
    OK(ctx, nn_vocab_open_tree(ctx, &v, piece, bytes, length, depth, 512));
    CHECK(v.max_depth == 15 && v.bits == 9);
    nn_vocab_paths(&v, paths);
    for (int i = 0; i < 512 && !test_bad; i++) {
        const int32_t *p = paths + i * v.max_depth;
        int low = 0, high = 512; /* leaves that are left */
        for (int k = 0; k < v.max_depth; k++) {
            CHECK((p[k] != 0) == (k < depth[i]));
            if (p[k] == 0) continue;
            const int split = p[k] >> 1;
            CHECK(split > low && split < high && (p[k] & 1) == (i >= split));
            if (p[k] & 1) low = split;
            else high = split;
        }
        CHECK(low == i && high == i + 1);
    }
    nn_vocab_close(&v);
    for (int i = 0; i < 512; i += 73) {
        static const int wrong[] = {-1, 1, -20, 100};
        for (size_t k = 0; k < FV_ARRAY_LEN(wrong); k++) {
            make_depths(depth);
            depth[i] = (uint8_t)(depth[i] + wrong[k]);
            CHECK(nn_vocab_open_tree(ctx, &v, piece, bytes, length, depth, 512) == FV_ERR_MODEL);
            CHECK(strstr(fv_ctx_error(ctx), "tree") != NULL && v.text == NULL);
        }
    }
    memset(depth, 10, sizeof depth); /* half of it is missing */
    CHECK(nn_vocab_open_tree(ctx, &v, piece, bytes, length, depth, 512) == FV_ERR_MODEL);
    memset(depth, 8, sizeof depth);
    CHECK(nn_vocab_open_tree(ctx, &v, piece, bytes, length, depth, 512) == FV_ERR_MODEL);
}

static uint64_t decisions(const nn_vocab *v, const uint16_t *id, size_t n)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++) sum += v->depth[id[i]];
    return sum;
}

/* Frequent pieces lie higher; encoding takes no more decisions than the longest match. */
static void frequent_pieces_are_cheap(void)
{
    const nn_sample sample = {text, sizeof text};
    for (int order = 0; order < NN_ORDER_COUNT; order++) {
        nn_vocab v;
        uint64_t longest = 0;
        OK(ctx, nn_vocab_train(ctx, &v, 9, &sample, 1, (nn_order)order));
        for (size_t at = 0; at < sizeof text;) {
            const int id = nn_vocab_next(&v, text + at, sizeof text - at);
            longest += v.depth[id];
            at += (size_t)nn_vocab_length(&v, id);
        }
        const size_t n = nn_vocab_encode(&v, text, sizeof text, ids);
        const uint64_t best = decisions(&v, ids, n);
        CHECK_MSG(best <= longest && best < 9 * n * 9 / 10, "%llu, %llu, %zu pieces",
                  (unsigned long long)best, (unsigned long long)longest, n);
        nn_vocab_close(&v);
    }
}

/* Two digits never share a piece. */
static void digits_stay_alone(void)
{
    nn_vocab v;
    const nn_sample sample = {text, sizeof text};
    OK(ctx, nn_vocab_train(ctx, &v, 10, &sample, 1, NN_ORDER_BYTES));
    for (int id = 0; id < v.size; id++)
        for (uint32_t i = v.begin[id]; i < v.begin[id + 1]; i++)
            CHECK(nn_vocab_length(&v, id) == 1 || v.text[i] < '0' || v.text[i] > '9');
    nn_vocab_close(&v);
}

static void files_keep_a_vocabulary(void)
{
    nn_vocab v, w;
    fv_model_writer *out;
    fv_model *m;
    static uint8_t length[512];
    char hash[2][65];
    const nn_sample sample = {text, sizeof text};
    OK(ctx, nn_vocab_train(ctx, &v, 9, &sample, 1, NN_ORDER_CONTEXT));
    for (int i = 0; i < 512; i++) length[i] = (uint8_t)nn_vocab_length(&v, i);
    OK(ctx, nn_vocab_write(ctx, &v, NULL, temp_path("w")));
    OK(ctx, fv_model_open(ctx, &m, temp_path("w"), NULL));
    OK(ctx, nn_vocab_load(ctx, &w, m));
    fv_model_close(&m);
    nn_vocab_hash(&v, hash[0]);
    nn_vocab_hash(&w, hash[1]);
    CHECK(!memcmp(w.depth, v.depth, 512) && strlen(hash[0]) == 64 && !strcmp(hash[0], hash[1]));
    nn_vocab_close(&w);
    for (int half = 0; half < 3; half++) { /* without depths; 511 pieces; 511 depths */
        const int pieces = 512 - (half == 1);
        fv_tensor t = {.dtype = FV_U8, .ndim = 1, .dim = {(int64_t)v.begin[512]}, .data = v.text};
        fv_tensor l = {.dtype = FV_U8, .ndim = 1, .dim = {pieces}, .data = length};
        fv_tensor d = {.dtype = FV_U8, .ndim = 1, .dim = {511}, .data = v.depth};
        OK(ctx, fv_model_writer_create(ctx, &out));
        OK(ctx, fv_model_writer_tensor(out, "vocab.text", &t));
        OK(ctx, fv_model_writer_tensor(out, "vocab.length", &l));
        if (half == 2) OK(ctx, fv_model_writer_tensor(out, "vocab.depth", &d));
        OK(ctx, fv_model_writer_finish(out, temp_path("v"), 1));
        fv_model_writer_destroy(&out);
        OK(ctx, fv_model_open(ctx, &m, temp_path("v"), NULL));
        const fv_status s = nn_vocab_load(ctx, &w, m);
        fv_model_close(&m);
        CHECK(s == (half ? FV_ERR_MODEL : FV_OK));
        if (half) continue;
        CHECK(w.bits == 9 && !memcmp(w.text, v.text, v.begin[512]) && w.max_depth == 9);
        nn_vocab_hash(&w, hash[1]);
        CHECK(strcmp(hash[0], hash[1]) != 0);
        nn_vocab_close(&w);
    }
    nn_vocab_close(&v);
}

static void running_out_of_memory_leaves_nothing(void)
{
    const nn_sample sample = {text, 20000};
    for (int64_t n = 0;; n++) {
        alloc_fail heap = {.left = ALLOC_ALL};
        const fv_allocator al = alloc_fail_allocator(&heap);
        fv_ctx_options o = FV_CTX_OPTIONS_INIT;
        fv_ctx *c;
        nn_vocab v;
        o.alloc = &al;
        o.threads = 1;
        if (fv_ctx_create(&c, &o) != FV_OK) exit(1);
        const int64_t before = atomic_load(&heap.live);
        atomic_store(&heap.left, n);
        const fv_status s = nn_vocab_train(c, &v, 9, &sample, 1, NN_ORDER_CONTEXT);
        atomic_store(&heap.left, ALLOC_ALL);
        CHECK(s == FV_OK || s == FV_ERR_OOM);
        nn_vocab_close(&v);
        CHECK(atomic_load(&heap.live) == before);
        fv_ctx_destroy(&c);
        if (s == FV_OK) break;
        CHECK(n < 1000);
    }
}

int main(void)
{
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    o.threads = 1;
    if (fv_ctx_create(&ctx, &o) != FV_OK) return 1;
    temp_dir_make("vocab");
    RUN(every_byte_string_comes_back);
    RUN(matches_are_the_longest);
    RUN(learning_is_reproducible);
    RUN(pieces_stay_within_words);
    RUN(too_little_text_is_refused);
    RUN(hostile_vocabularies_are_refused);
    RUN(depths_make_a_tree);
    RUN(frequent_pieces_are_cheap);
    RUN(digits_stay_alone);
    RUN(files_keep_a_vocabulary);
    RUN(running_out_of_memory_leaves_nothing);
    temp_dir_remove();
    fv_ctx_destroy(&ctx);
    return test_end();
}
