/* vz_train_net.c - the network of a model: `fovea train` (omnizip_train.c) with a recipe made for
 * the data and the time.
 *
 *     FOLDER/text.tar      the text of the training files
 *     FOLDER/probe/        PROBE steps: how fast this machine is; and the vocabulary
 *     FOLDER/recipe        as many steps as fit into the time; written last, so where it is,
 *                          training has begun and can be resumed
 *     FOLDER/run/          checkpoints, figures, the network */
#include "vz_train.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>

#define PROBE 24
#define LANES 48
#define T 64
#define STEPS_LEAST 20
#define STEPS_MOST 1000000

static const struct net_size {
    const char *name;
    int width, layers;
    uint64_t least; /* bytes of text */
} SIZES[] = {
    {"t0", 64, 2, (uint64_t)1 << 20},
    {"t1", 128, 2, (uint64_t)4 << 20},
    {"t2", 192, 2, (uint64_t)16 << 20},
};

static const struct net_size *size_of(const char *name)
{
    for (size_t i = 0; i < FV_ARRAY_LEN(SIZES); i++)
        if (strcmp(SIZES[i].name, name) == 0) return &SIZES[i];
    return NULL;
}

fv_status vz_train_size_check(fv_ctx *ctx, const char *name, uint64_t bytes)
{
    if (strcmp(name, "dict") == 0) return FV_OK;
    const struct net_size *z = size_of(name);
    if (!z)
        return fv_fail(ctx, FV_ERR_UNKNOWN, "model: size \"%.20s\": there are dict, t0, t1 and t2",
                       name);
    if (bytes >= z->least) return FV_OK;
    return fv_fail(
        ctx, FV_ERR_ARG,
        "model: %llu bytes of text are too few for a network of size %s, which wants %llu: "
        "use size %s",
        (unsigned long long)bytes, name, (unsigned long long)z->least,
        bytes >= SIZES[1].least   ? "t1"
        : bytes >= SIZES[0].least ? "t0"
                                  : "dict");
}

/* ---- The text as a tar archive --------------------------------------------------------------- */

static void put_octal(char *to, int digits, uint64_t v)
{
    for (int i = digits; i-- > 0; v >>= 3) to[i] = (char)('0' + (v & 7));
}

static void tar_header(uint8_t out[512], size_t number, size_t size)
{
    char h[512] = {0};
    unsigned sum = 0;
    snprintf(h, 100, "%06zu", number);
    put_octal(h + 100, 7, 0644);
    put_octal(h + 108, 7, 0);
    put_octal(h + 116, 7, 0);
    put_octal(h + 124, 11, size);
    put_octal(h + 136, 11, 0);
    memset(h + 148, ' ', 8);
    h[156] = '0';
    memcpy(h + 257, "ustar", 6);
    memcpy(h + 263, "00", 2);
    for (int i = 0; i < 512; i++) sum += (unsigned char)h[i];
    put_octal(h + 148, 6, sum);
    h[154] = 0;
    memcpy(out, h, 512);
}

static fv_status write_text(const vz_samples *s, const char *path)
{
    static const uint8_t zeros[1024];
    fv_out_file *f;
    uint8_t header[512];
    const uint8_t *at = s->text.data;
    FV_TRY(fv_out_open(s->ctx, &f, path, 1));
    fv_status st = FV_OK;
    for (size_t i = 0; i < s->text_sizes.size / sizeof(size_t) && st == FV_OK; i++) {
        size_t size;
        memcpy(&size, s->text_sizes.data + i * sizeof size, sizeof size);
        tar_header(header, i, size);
        st = fv_out_write(f, header, sizeof header);
        if (st == FV_OK) st = fv_out_write(f, at, size);
        if (st == FV_OK) st = fv_out_write(f, zeros, (512 - size % 512) % 512);
        at += size;
    }
    if (st == FV_OK) st = fv_out_write(f, zeros, sizeof zeros);
    if (st == FV_OK) return fv_out_commit(&f);
    fv_out_abort(&f);
    return st;
}

/* ---- The recipe ------------------------------------------------------------------------------ */

/* Each piece has to be seen often enough for its rows to be learned. */
static int pieces_for(uint64_t bytes)
{
    return bytes >= (uint64_t)4 << 20 ? 4096 : bytes >= (uint64_t)2 << 20 ? 2048 : 1024;
}

/* pieces 256: bytes. vocab: a file to take the vocabulary from; NULL: a probe, which makes it. */
static char *recipe_of(fv_ctx *ctx, const struct net_size *z, int pieces, uint64_t steps,
                       const char *vocab)
{
    char eval[64], tokens[96] = "tokenizer = bytes\n";
    const bool has_vocab = pieces > 256;
    if (has_vocab)
        snprintf(tokens, sizeof tokens, "tokenizer = bpe\nvocab = %d\nvocab_order = context\n",
                 pieces);
    snprintf(eval, sizeof eval, "eval_every = %llu\neval_pieces = 32\n",
             (unsigned long long)(steps / 10 + 1));
    return fv_format(
        ctx,
        "engine = omnizip\nwidth = %d\nlayers = %d\nv_moe = 0\nffn_moe = 0\nhira = 1\nnoise = 0\n"
        "%s%s%s%s"
        "head = tree\ndata = text:text.tar\nmax_megabytes = 256\nlanes = %d\nsteps_per_lane = %d\n"
        "steps = %llu\nprecision = bf16\nexport = bf16\nschedule = wsd\nlr = 3e-3\n"
        "lr_final = 0.05\nwarmup = %llu\nbeta1 = 0.9\nbeta2 = 0.99\nclip = 1\nema = %s\n"
        "seed = 1\nsave_every = 500\n%s",
        z->width, z->layers, tokens, vocab && has_vocab ? "vocab_from = " : "",
        vocab && has_vocab ? vocab : "", vocab && has_vocab ? "\n" : "", LANES, T,
        (unsigned long long)steps, (unsigned long long)(steps / 10 < 200 ? steps / 10 : 200),
        steps >= 10000  ? "0.999"
        : steps >= 1000 ? "0.99"
                        : "0.9",
        vocab ? eval : "eval_pieces = 0\n");
}

static fv_status make_folder(fv_ctx *ctx, const char *path)
{
    struct stat st;
    if (mkdir(path, 0777) == 0 || (errno == EEXIST && stat(path, &st) == 0 && S_ISDIR(st.st_mode)))
        return FV_OK;
    return fv_fail(ctx, FV_ERR_IO, "%s: cannot make the folder", path);
}

typedef struct places {
    char *text, *probe, *vocab, *latest, *recipe, *run, *begun, *network;
} places;

static void free_places(fv_ctx *ctx, places *p)
{
    char *const all[] = {p->text,   p->probe, p->vocab, p->latest,
                         p->recipe, p->run,   p->begun, p->network};
    for (size_t i = 0; i < FV_ARRAY_LEN(all); i++) fv_free(ctx, all[i]);
}

static fv_status make_places(fv_ctx *ctx, places *p, const char *folder)
{
    const struct {
        char **to;
        const char *name;
    } part[] = {{&p->text, "text.tar"},       {&p->probe, "probe"},
                {&p->latest, "probe/latest"}, {&p->vocab, "probe/vocab.safetensors"},
                {&p->recipe, "recipe"},       {&p->run, "run"},
                {&p->begun, "run/latest"},    {&p->network, "run/model.safetensors"}};
    for (size_t i = 0; i < FV_ARRAY_LEN(part); i++) {
        *part[i].to = fv_format(ctx, "%s/%s", folder, part[i].name);
        if (!*part[i].to) return FV_ERR_OOM;
    }
    return FV_OK;
}

static bool is_there(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

static fv_status run_recipe(fv_ctx *ctx, const char *text, const char *folder, const char *out,
                            bool resume, fv_train_result *r)
{
    fv_recipe *recipe = NULL;
    fv_trainer_options o = FV_TRAINER_OPTIONS_INIT;
    FV_TRY(fv_recipe_parse(ctx, &recipe, text, strlen(text)));
    o.data_dir = folder;
    o.out_dir = out;
    o.resume = resume;
    const fv_status s = fv_omnizip_train(ctx, recipe, &o, r);
    fv_recipe_close(&recipe);
    return s;
}

/* With fewer pieces where the text does not repeat enough for so many. */
static fv_status probe(fv_ctx *ctx, const struct net_size *z, const char *folder, const places *p,
                       int *pieces, fv_train_result *r)
{
    for (;;) {
        char *text = recipe_of(ctx, z, *pieces, PROBE, NULL);
        if (!text) return FV_ERR_OOM;
        const fv_status s = run_recipe(ctx, text, folder, p->probe, false, r);
        fv_free(ctx, text);
        if (s != FV_ERR_ARG || *pieces <= 256) return s;
        *pieces /= 2;
    }
}

/* Text, vocabulary, speed, then the recipe. */
static fv_status prepare(fv_ctx *ctx, const vz_samples *s, const struct net_size *z,
                         const char *folder, const places *p, double seconds)
{
    fv_train_result r = {0};
    int pieces = pieces_for(s->text.size);
    FV_TRY(make_folder(ctx, folder));
    FV_TRY(write_text(s, p->text));
    (void)remove(p->latest); /* of a probe that was killed */
    FV_TRY(probe(ctx, z, folder, p, &pieces, &r));
    const double steps = seconds * r.samples_per_second / (LANES * T);
    const uint64_t n = steps < STEPS_LEAST  ? STEPS_LEAST
                       : steps > STEPS_MOST ? STEPS_MOST
                                            : (uint64_t)steps;
    char *text = recipe_of(ctx, z, pieces, n, p->vocab);
    const fv_status st = text ? fv_write_file(ctx, p->recipe, text, strlen(text), 1) : FV_ERR_OOM;
    fv_free(ctx, text);
    return st;
}

static fv_status train(fv_ctx *ctx, const char *folder, const places *p, fv_vzip_train_result *out)
{
    uint8_t *bytes;
    size_t size;
    fv_train_result r = {0};
    FV_TRY(fv_read_file(ctx, p->recipe, 65536, &bytes, &size));
    char *text = fv_format(ctx, "%.*s", (int)size, (const char *)bytes);
    fv_free(ctx, bytes);
    if (!text) return FV_ERR_OOM;
    const fv_status s = run_recipe(ctx, text, folder, p->run, is_there(p->begun), &r);
    fv_free(ctx, text);
    out->steps = r.step;
    out->bits_per_byte = r.step ? r.metric : NAN;
    return s;
}

fv_status vz_train_net(fv_ctx *ctx, const vz_samples *s, const char *folder,
                       const fv_vzip_train_options *o, char **path, fv_vzip_train_result *result)
{
    places p = {0};
    const struct net_size *z = size_of(o->size);
    *path = NULL;
    FV_TRY(vz_train_size_check(ctx, o->size, s->text.size));
    fv_status st = make_places(ctx, &p, folder);
    if (st == FV_OK && is_there(p.recipe) && !o->resume)
        st = fv_fail(ctx, FV_ERR_EXISTS,
                     "%s: holds a training: resume goes on with it, or delete the folder", folder);
    if (st == FV_OK && !is_there(p.recipe))
        st = prepare(ctx, s, z, folder, &p, o->seconds > 0 ? o->seconds : 600);
    if (st == FV_OK) st = train(ctx, folder, &p, result);
    if (st == FV_OK) {
        *path = p.network;
        p.network = NULL;
    }
    free_places(ctx, &p);
    return st;
}
