/* omnizip_train.c - `fovea train` for the OmniZip network.
 *
 *     preset = XS|S|M|L, or width layers hidden;  v_moe ffn_moe hira noise = 0|1
 *     experts, router = linear|mlp
 *     tokenizer = bytes|bpe, head = softmax|tree
 *     vocab = 4096 (2^8 .. 2^14), vocab_order = context|bytes, vocab_from = FILE: with bpe
 *     data = modality:path, ...    max_megabytes (of one modality)
 *     lanes, steps_per_lane (T), balance, z, eval_every, eval_pieces (of a lane)
 *     and optimiser, schedule and types as everywhere (train_recipe.c)
 *
 * Lanes: lane i reads modality i mod (number of modalities). The lanes of a modality start evenly
 * spread over its pieces and go on by one piece a step, so that where a lane stands follows from
 * the step. State and last token are carried from piece to piece within a document (truncated
 * back-propagation); a new document begins with zeros. The carried state is kept as frozen
 * parameters: it travels with checkpoints, which makes resuming exact.
 *
 * Vocabulary: learned from the run's own training data, or that of vocab_from, or of --init's
 * model; kept beside the checkpoints, in vocab.safetensors, from which a resumed run reads it. Its
 * hash is a line of the recipe in checkpoints, which a resumed run compares.
 *
 * Loss: mean cross-entropy + balance (CV^2 importance + CV^2 load) + z mean(logsumexp^2), with the
 * paper's Z. HiRA: see omnizip_hira.c. Held-out figures use the averaged weights; no noise then. */
#include "omnizip.h"

#include <math.h>
#include <string.h>

#include "fovea_codec.h"
#include "tape.h"

#define MAX_LANES 4096

typedef struct trainer {
    fv_ctx *ctx;
    oz_net full, net; /* full: trained and checkpointed; net: what the plans run */
    oz_merge *merge;
    oz_data data;
    nn_vocab vocab; /* with tokenizer = bpe; with head = tree also that of bytes */
    oz_tokenizer pieces;
    int32_t *paths; /* with head = tree: see nn_vocab_paths */
    int vocab_bits;    /* 0: bytes */
    bool vocab_is_new; /* not yet beside the checkpoints */
    nn_order vocab_order;
    const char *vocab_from;
    fv_opt *opt;
    fv_plan *plan, *eval;
    fv_dtype precision, export_type;
    int lanes, T, eval_pieces;
    float balance, z;
    uint64_t seed, drawn; /* drawn: the step in ids, labels and noise + 1; 0: none */
    int32_t *ids, *labels; /* [lanes * T] */
    float *noise[OZ_MAX_LAYERS][2];
    fv_pid shift[OZ_MAX_LAYERS], state[OZ_MAX_LAYERS]; /* carried: in full, frozen */
    float *eval_shift[OZ_MAX_LAYERS], *eval_state[OZ_MAX_LAYERS]; /* where plans read */
    double bits[OZ_MODALITIES]; /* per byte, of the last evaluation */
    const char *out_dir;
    char *recipe_text;
} trainer;

/* ---- Lanes ----------------------------------------------------------------------------------- */

typedef struct place {
    int modality;
    int64_t piece;
} place;

/* Where lane i reads at `step`. */
static place place_of(const trainer *tr, int lane, uint64_t step)
{
    const oz_data *d = &tr->data;
    const int m = d->modality[lane % d->used], turn = lane / d->used;
    const int same = (tr->lanes - lane % d->used + d->used - 1) / d->used; /* lanes of this kind */
    const oz_stream *s = &d->train[m];
    const int64_t start = s->pieces * turn / same;
    const place p = {m, (start + (int64_t)(step % (uint64_t)s->pieces)) % s->pieces};
    return p;
}

static size_t shift_floats(const trainer *tr) { return (size_t)tr->net.cfg.width; }
static size_t state_floats(const trainer *tr) { return (size_t)tr->net.cfg.width * FV_WKV_HEAD; }

/* Where plans read it: on a device in its memory. */
static float *carried(const trainer *tr, fv_pid id)
{
    return fvi_params_values(tr->full.params) + fvi_param_offset(tr->full.params, id);
}

/* "last" and "next" of each layer become the lanes' state. */
static fv_status keep_states(const fv_plan *plan, const trainer *tr, float *const shift[],
                             float *const state[])
{
    const size_t lanes = (size_t)tr->lanes;
    for (int l = 0; l < tr->net.cfg.layers; l++) {
        char name[32];
        snprintf(name, sizeof name, "last.%d", l);
        FV_TRY(fv_dev_copy(tr->ctx, shift[l], fv_plan_value(plan, name).data,
                           lanes * shift_floats(tr) * sizeof(float), FV_COPY_ON_DEVICE));
        snprintf(name, sizeof name, "next.%d", l);
        FV_TRY(fv_dev_copy(tr->ctx, state[l], fv_plan_value(plan, name).data,
                           lanes * state_floats(tr) * sizeof(float), FV_COPY_ON_DEVICE));
    }
    return FV_OK;
}

static fv_status clear_lane(const trainer *tr, int lane, float *const shift[], float *const state[])
{
    const size_t C = shift_floats(tr), N = state_floats(tr);
    for (int l = 0; l < tr->net.cfg.layers; l++) {
        FV_TRY(fv_dev_zero(tr->ctx, shift[l] + (size_t)lane * C, C * sizeof(float)));
        FV_TRY(fv_dev_zero(tr->ctx, state[l] + (size_t)lane * N, N * sizeof(float)));
    }
    return FV_OK;
}

static void draw_noise(trainer *tr, uint64_t step)
{
    const int64_t n = (int64_t)tr->lanes * tr->T * tr->net.cfg.experts;
    for (int l = 0; l < tr->net.cfg.layers; l++)
        for (int k = 0; k < 2; k++)
            if (tr->noise[l][k])
                fv_rand_normal(tr->seed ^ (step >> 32 << 8), FV_STREAM_NOISE, (uint32_t)step,
                               (uint64_t)(2 * l + k) * (uint64_t)n, n, tr->noise[l][k]);
}

static char *vocab_path(const trainer *tr)
{
    return fv_format(tr->ctx, "%s/vocab.safetensors", tr->out_dir);
}

/* With the first step: the folder is there by then, and no checkpoint yet. */
static fv_status keep_vocab(trainer *tr)
{
    if (!tr->vocab_is_new) return FV_OK;
    char *path = vocab_path(tr);
    const fv_status s = path ? nn_vocab_write(tr->ctx, &tr->vocab, NULL, path) : FV_ERR_OOM;
    fv_free(tr->ctx, path);
    tr->vocab_is_new = s != FV_OK;
    return s;
}

/* Ids, labels and noise of a step. While a device computes, the host draws those of the next. */
static void draw(trainer *tr, uint64_t step)
{
    if (tr->drawn == step + 1) return;
    for (int i = 0; i < tr->lanes; i++) {
        const place p = place_of(tr, i, step);
        (void)oz_fill_row(&tr->data, &tr->data.train[p.modality], p.modality, p.piece, tr->T,
                          tr->ids + i * tr->T, tr->labels + i * tr->T);
    }
    draw_noise(tr, step);
    tr->drawn = step + 1;
}

static fv_status feed_rows(trainer *tr, fv_plan *p)
{
    FV_TRY(fv_plan_feed(p, "ids", tr->ids));
    return fv_plan_feed(p, "labels", tr->labels);
}

static fv_status feed_noise(trainer *tr)
{
    for (int l = 0; l < tr->net.cfg.layers; l++)
        for (int k = 0; k < 2; k++) {
            char name[32];
            if (!tr->noise[l][k]) continue;
            snprintf(name, sizeof name, "noise.%c%d", k ? 'f' : 'v', l);
            FV_TRY(fv_plan_feed(tr->plan, name, tr->noise[l][k]));
        }
    return FV_OK;
}

/* States of lanes that begin a document become zeros. */
static fv_status begin_lanes(trainer *tr, uint64_t step, float *const shift[], float *const state[])
{
    for (int i = 0; i < tr->lanes; i++) {
        const place p = place_of(tr, i, step);
        if (tr->data.train[p.modality].begins[p.piece]) FV_TRY(clear_lane(tr, i, shift, state));
    }
    return FV_OK;
}

/* Ids, labels and noise go to a device, the loss comes back; states stay there. */
static fv_status train_step(void *user, uint64_t step, int micro, float scale, double *loss)
{
    trainer *tr = user;
    (void)micro; /* always one */
    float *shift[OZ_MAX_LAYERS], *state[OZ_MAX_LAYERS];
    for (int l = 0; l < tr->net.cfg.layers; l++) {
        shift[l] = carried(tr, tr->shift[l]);
        state[l] = carried(tr, tr->state[l]);
    }
    FV_TRY(keep_vocab(tr));
    draw(tr, step);
    FV_TRY(oz_merge_values(tr->merge)); /* which sends what the host has changed */
    FV_TRY(begin_lanes(tr, step, shift, state));
    FV_TRY(feed_rows(tr, tr->plan));
    FV_TRY(feed_noise(tr));
    FV_TRY(fv_plan_forward(tr->plan));
    FV_TRY(fv_plan_backward(tr->plan, "loss", scale));
    FV_TRY(keep_states(tr->plan, tr, shift, state));
    fvi_params_changed(tr->full.params, false);
    FV_TRY(oz_merge_gradients(tr->merge));
    if (fv_ctx_device(tr->ctx) != FV_DEVICE_CPU) draw(tr, step + 1);
    return fv_plan_number(tr->plan, "loss", loss);
}

/* ---- Evaluation ------------------------------------------------------------------------------ */

/* Bits per byte of one modality: its held-out pieces are dealt to the lanes in runs. */
static fv_status evaluate_modality(trainer *tr, int m, double *bits_per_byte)
{
    const oz_stream *s = &tr->data.held[m];
    double nats = 0, loss = 0;
    int64_t bytes = 0;
    tr->drawn = 0;
    for (int i = 0; i < tr->lanes; i++)
        FV_TRY(clear_lane(tr, i, tr->eval_shift, tr->eval_state));
    for (int k = 0; k < tr->eval_pieces; k++) {
        int64_t labels = 0;
        for (int i = 0; i < tr->lanes; i++) {
            const int64_t first = s->pieces * i / tr->lanes, end = s->pieces * (i + 1) / tr->lanes;
            int32_t *ids = tr->ids + i * tr->T, *label = tr->labels + i * tr->T;
            if (first + k >= end) {
                memset(ids, 0, (size_t)tr->T * sizeof *ids);
                for (int t = 0; t < tr->T; t++) label[t] = -1;
                continue;
            }
            if (s->begins[first + k])
                FV_TRY(clear_lane(tr, i, tr->eval_shift, tr->eval_state));
            bytes += oz_fill_row(&tr->data, s, m, first + k, tr->T, ids, label);
            labels += s->piece[first + k].n;
        }
        if (labels == 0) break;
        FV_TRY(feed_rows(tr, tr->eval));
        FV_TRY(fv_plan_forward(tr->eval));
        FV_TRY(fv_plan_number(tr->eval, "loss", &loss));
        nats += loss * (double)labels;
        FV_TRY(keep_states(tr->eval, tr, tr->eval_shift, tr->eval_state));
    }
    *bits_per_byte = bytes ? nats / (double)bytes / 0.69314718055994530942 : NAN;
    return FV_OK;
}

static fv_status write_figures(trainer *tr, uint64_t step, double mean)
{
    fv_text t;
    char *path = fv_format(tr->ctx, "%s/bits-per-byte.json", tr->out_dir);
    fv_text_init(&t, tr->ctx);
    fv_text_printf(&t, "{\"step\": %llu, \"mean\": %.5f", (unsigned long long)step, mean);
    for (int i = 0; i < tr->data.used; i++) {
        const int m = tr->data.modality[i];
        if (isfinite(tr->bits[m]))
            fv_text_printf(&t, ", \"%s\": %.5f", oz_modality_name[m], tr->bits[m]);
    }
    fv_text_printf(&t, "}\n");
    fv_status s = path ? t.status : FV_ERR_OOM;
    if (s == FV_OK) s = fv_write_file(tr->ctx, path, t.data, t.size, 1);
    if (s == FV_OK) {
        t.data[t.size - 1] = 0; /* without the line end */
        s = fv_report(tr->ctx, "held-out bits per byte", step, 0, t.data);
    }
    fv_text_free(&t);
    fv_free(tr->ctx, path);
    return s;
}

static fv_status evaluate(void *user, uint64_t step, double *metric)
{
    trainer *tr = user;
    double sum = 0;
    int known = 0;
    FV_TRY(oz_merge_values(tr->merge));
    for (int i = 0; i < tr->data.used; i++) {
        const int m = tr->data.modality[i];
        FV_TRY(evaluate_modality(tr, m, &tr->bits[m]));
        if (!isfinite(tr->bits[m])) continue;
        sum += tr->bits[m];
        known++;
    }
    *metric = known ? sum / known : NAN;
    return write_figures(tr, step, *metric);
}

/* The merged network without what only training needs. */
static fv_status export_model(void *user, uint64_t step, const char *path)
{
    trainer *tr = user;
    oz_config c = tr->net.cfg;
    oz_net plain;
    oz_meta meta;
    char number[32];
    c.noise = false;
    FV_TRY(oz_merge_values(tr->merge));
    FV_TRY(oz_net_create(tr->ctx, &plain, &c));
    fv_status s = fv_params_alloc(plain.params);
    if (s == FV_OK) s = oz_copy_values(tr->ctx, &tr->net, &plain);
    oz_config_meta(&c, &meta);
    const char *item[2 * (OZ_META_PAIRS + 4)];
    memcpy(item, meta.item, sizeof meta.item);
    int n = 2 * meta.pairs;
    snprintf(number, sizeof number, "%llu", (unsigned long long)step);
    const char *const more[] = {
        "fovea.tokenizer",    tr->vocab_bits ? "bpe" : "bytes",
        "fovea.train.step",   number,
        "fovea.train.recipe", tr->recipe_text,
        "fovea.train.data",   tr->data.manifest.data ? tr->data.manifest.data : ""};
    for (size_t i = 0; i < FV_ARRAY_LEN(more); i++) item[n++] = more[i];
    if (s == FV_OK)
        s = fv_params_export(tr->ctx, plain.params, tr->export_type, item, n / 2, path, 1);
    if (s == FV_OK && tr->vocab_bits) s = nn_vocab_write(tr->ctx, &tr->vocab, path, path);
    oz_net_destroy(&plain);
    return s;
}

/* ---- Set-up ---------------------------------------------------------------------------------- */

static fv_status read_tokenizer(trainer *tr, fv_recipe *r)
{
    const char *name = fv_recipe_string(r, "tokenizer", "bytes");
    const int64_t size = fv_recipe_int(r, "vocab", 4096, 256, 1 << NN_VOCAB_MAX_BITS);
    const char *order = fv_recipe_string(r, "vocab_order", nn_order_name[NN_ORDER_CONTEXT]);
    int o = 0;
    tr->vocab_from = fv_recipe_string(r, "vocab_from", "");
    while (o < NN_ORDER_COUNT && strcmp(order, nn_order_name[o]) != 0) o++;
    if (o == NN_ORDER_COUNT)
        return fv_fail(tr->ctx, FV_ERR_UNKNOWN, "recipe: vocab_order = %.40s: use context or bytes",
                       order);
    tr->vocab_order = (nn_order)o;
    if (strcmp(name, "bytes") == 0) return FV_OK;
    if (strcmp(name, "bpe") != 0)
        return fv_fail(tr->ctx, FV_ERR_UNKNOWN, "recipe: tokenizer = %.40s: use bytes or bpe",
                       name);
    while ((int64_t)1 << tr->vocab_bits < size) tr->vocab_bits++;
    if ((int64_t)1 << tr->vocab_bits != size)
        return fv_fail(tr->ctx, FV_ERR_ARG, "recipe: vocab = %lld is not a power of two",
                       (long long)size);
    return FV_OK;
}

static fv_status read_config(trainer *tr, fv_recipe *r, oz_config *c)
{
    FV_TRY(oz_preset(tr->ctx, fv_recipe_string(r, "preset", "XS"), c));
    c->width = (int)fv_recipe_int(r, "width", c->width, 16, OZ_MAX_WIDTH);
    c->layers = (int)fv_recipe_int(r, "layers", c->layers, 1, OZ_MAX_LAYERS);
    c->v_moe = fv_recipe_bool(r, "v_moe", 1) != 0;
    c->ffn_moe = fv_recipe_bool(r, "ffn_moe", 1) != 0;
    c->hira = fv_recipe_bool(r, "hira", 1) != 0;
    c->experts = (int)fv_recipe_int(r, "experts", 4, 3, FV_MAX_EXPERTS);
    c->hidden = (int)fv_recipe_int(r, "hidden", c->width * (c->ffn_moe ? 2 : 4), 1, 65536);
    c->noise = fv_recipe_bool(r, "noise", 1) != 0;
    const char *router = fv_recipe_string(r, "router", "linear");
    if (strcmp(router, "mlp") == 0) c->router_hidden = c->width / 2 > 16 ? c->width / 2 : 16;
    else if (strcmp(router, "linear") != 0)
        return fv_fail(tr->ctx, FV_ERR_UNKNOWN, "recipe: router = %.40s: use linear or mlp",
                       router);
    const char *head = fv_recipe_string(r, "head", "softmax");
    c->tree = strcmp(head, "tree") == 0;
    if (!c->tree && strcmp(head, "softmax") != 0)
        return fv_fail(tr->ctx, FV_ERR_UNKNOWN, "recipe: head = %.40s: use softmax or tree", head);
    return read_tokenizer(tr, r);
}

static fv_status load_vocab(trainer *tr, const char *path)
{
    fv_model *m;
    FV_TRY(fv_model_open(tr->ctx, &m, path, NULL));
    fv_status s = nn_vocab_load(tr->ctx, &tr->vocab, m);
    fv_model_close(&m);
    if (s == FV_OK && tr->vocab.bits != tr->vocab_bits)
        s = fv_fail(tr->ctx, FV_ERR_MODEL, "the vocabulary has %d pieces, the recipe asks for %d",
                    tr->vocab.size, 1 << tr->vocab_bits);
    return s == FV_OK ? s : fv_fail_in(tr->ctx, s, "%s", path);
}

static fv_status learn_vocab(trainer *tr, const oz_data_options *o)
{
    nn_sample sample;
    uint8_t *bytes;
    FV_TRY(oz_data_sample(&tr->data, o, &bytes, &sample.size));
    sample.bytes = bytes;
    fv_status s = nn_vocab_train(tr->ctx, &tr->vocab, tr->vocab_bits, &sample, 1, tr->vocab_order);
    fv_free(tr->ctx, bytes);
    return s == FV_OK ? s : fv_fail_in(tr->ctx, s, "recipe");
}

static bool is_there(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (f) (void)fclose(f);
    return f != NULL;
}

static fv_status choose_tokenizer(trainer *tr, const oz_data_options *data,
                                  const fv_trainer_options *o)
{
    tr->data.tok = &oz_bytes;
    if (!tr->vocab_bits) return FV_OK;
    char *kept = vocab_path(tr), *latest = fv_format(tr->ctx, "%s/latest", tr->out_dir);
    fv_status s = kept && latest ? FV_OK : FV_ERR_OOM;
    const bool has_kept = s == FV_OK && o->resume && is_there(kept);
    tr->vocab_is_new = !has_kept;
    if (has_kept) s = load_vocab(tr, kept);
    else if (s == FV_OK && tr->vocab_from[0]) s = load_vocab(tr, tr->vocab_from);
    else if (s == FV_OK && o->init) s = load_vocab(tr, o->init);
    else if (s == FV_OK && o->resume && is_there(latest))
        s = fv_fail(tr->ctx, FV_ERR_IO, "%s is missing: put it back, or begin anew", kept);
    else if (s == FV_OK) s = learn_vocab(tr, data);
    fv_free(tr->ctx, latest);
    fv_free(tr->ctx, kept);
    if (s != FV_OK) return s;
    tr->pieces = oz_pieces(&tr->vocab);
    tr->data.tok = &tr->pieces;
    return FV_OK;
}

/* What a tree's loss reads; bytes have a tree, too. */
static fv_status make_paths(trainer *tr)
{
    if (!tr->vocab_bits) FV_TRY(nn_vocab_bytes(tr->ctx, &tr->vocab));
    const size_t n = (size_t)tr->vocab.size * (size_t)tr->vocab.max_depth;
    tr->paths = fv_calloc(tr->ctx, n, sizeof *tr->paths);
    if (!tr->paths) return FV_ERR_OOM;
    nn_vocab_paths(&tr->vocab, tr->paths);
    return FV_OK;
}

/* The recipe as checkpoints hold it. */
static fv_status name_vocab(trainer *tr, const char *recipe)
{
    char hex[65] = "";
    if (tr->vocab_bits) nn_vocab_hash(&tr->vocab, hex);
    tr->recipe_text = tr->vocab_bits ? fv_format(tr->ctx, "%svocab.sha256 = %s\n", recipe, hex)
                                     : fv_strdup(tr->ctx, recipe);
    return tr->recipe_text ? FV_OK : FV_ERR_OOM;
}

static fv_status read_data(trainer *tr, fv_recipe *r, const fv_trainer_options *opts,
                           oz_config *c)
{
    const char *const *item;
    const int n = fv_recipe_list(r, "data", &item);
    const uint64_t mb = (uint64_t)fv_recipe_int(r, "max_megabytes", 64, 1, 65536);
    const oz_data_options o = {item, n, opts->data_dir, tr->T, mb << 20, tr->seed};
    if (n < 1) return fv_fail(tr->ctx, FV_ERR_ARG, "recipe: data is missing");
    c->outputs = tr->vocab_bits ? 1 << tr->vocab_bits : oz_bytes.outputs;
    c->vocab = c->outputs + OZ_MODALITIES;
    const fv_status s = oz_config_check(tr->ctx, c);
    if (s != FV_OK) return fv_fail_in(tr->ctx, FV_ERR_ARG, "recipe");
    FV_TRY(choose_tokenizer(tr, &o, opts));
    if (c->tree) FV_TRY(make_paths(tr));
    return oz_data_open(&tr->data, &o);
}

static fv_status add_carried(trainer *tr)
{
    const int64_t C = tr->full.cfg.width, shift[2] = {tr->lanes, C},
                  state[2] = {tr->lanes, C * FV_WKV_HEAD};
    for (int l = 0; l < tr->full.cfg.layers; l++) {
        char name[32];
        snprintf(name, sizeof name, "carried.shift.%d", l);
        tr->shift[l] = fv_params_add(tr->full.params, name, 2, shift, FV_PARAM_FROZEN);
        snprintf(name, sizeof name, "carried.state.%d", l);
        tr->state[l] = fv_params_add(tr->full.params, name, 2, state, FV_PARAM_FROZEN);
    }
    return fv_params_alloc(tr->full.params);
}

/* --init: merged weights become W with factors that start as in a new network, except that B is 0:
 * the product must not change what was learned. */
static fv_status load_init(trainer *tr, const char *path)
{
    oz_config c;
    oz_net plain = {.params = NULL};
    fv_model *m;
    FV_TRY(fv_model_open(tr->ctx, &m, path, NULL));
    fv_status s = oz_config_read(tr->ctx, m, &c);
    if (s == FV_OK) s = oz_net_create(tr->ctx, &plain, &c);
    if (s == FV_OK) s = fv_params_alloc(plain.params);
    if (s == FV_OK) s = fv_params_load(plain.params, m, "");
    for (int i = 0; s == FV_OK && i < fv_params_count(tr->full.params); i++) {
        const char *name = fv_params_name(tr->full.params, i);
        const fv_pid id = fv_params_find(plain.params, name);
        const fv_tensor to = fv_params_tensor(tr->full.params, i);
        if (strstr(name, "hira_b")) fv_params_fill(tr->full.params, i, 0.0f);
        if (strstr(name, "hira_") || strstr(name, "carried.") || strstr(name, "router.noise"))
            continue;
        const fv_tensor from = id >= 0 ? fv_params_tensor(plain.params, id) : (fv_tensor){0};
        if (id < 0 || fv_tensor_count(&from) != fv_tensor_count(&to))
            s = fv_fail(tr->ctx, FV_ERR_MODEL, "%s: %s does not fit the recipe's network", path,
                        name);
        else memcpy(to.data, from.data, (size_t)fv_tensor_count(&to) * sizeof(float));
    }
    oz_net_destroy(&plain);
    fv_model_close(&m);
    return s;
}

static fv_status start_nets(trainer *tr, const oz_config *c, const char *init)
{
    oz_config merged = *c;
    merged.hira = false;
    FV_TRY(oz_net_create(tr->ctx, &tr->full, c));
    FV_TRY(add_carried(tr));
    FV_TRY(oz_net_init(tr->ctx, &tr->full, tr->seed));
    if (init) FV_TRY(load_init(tr, init));
    FV_TRY(oz_net_create(tr->ctx, &tr->net, &merged));
    FV_TRY(fv_params_alloc(tr->net.params));
    return oz_merge_create(tr->ctx, &tr->merge, &tr->full, &tr->net);
}

static fv_status bind_state(fv_plan *p, int l, float *shift, float *state)
{
    char name[32];
    snprintf(name, sizeof name, "shift.%d", l);
    FV_TRY(fv_plan_bind(p, name, shift));
    snprintf(name, sizeof name, "state.%d", l);
    return fv_plan_bind(p, name, state);
}

static fv_status build_plan(trainer *tr, fv_plan **plan, fv_mode mode)
{
    const int64_t rows = (int64_t)tr->lanes * tr->T;
    fv_tape *t;
    oz_io io = {.carry = true, .balance = tr->balance, .z = tr->z};
    FV_TRY(fv_tape_create(tr->ctx, &t, tr->net.params, mode, tr->precision));
    const fv_t ids = fv_input(t, "ids", FV_I32, 1, &rows),
               labels = fv_input(t, "labels", FV_I32, 1, &rows);
    const fv_t y = oz_forward(t, &tr->net, ids, tr->lanes, tr->T, &io);
    const int64_t table[2] = {tr->vocab.size, tr->vocab.max_depth};
    const fv_t paths = tr->paths ? fv_input(t, "paths", FV_I32, 2, table) : 0;
    fv_t loss = oz_loss(t, &tr->net, y, labels, paths);
    if (io.aux) loss = fv_binary_op(t, FV_ADD, loss, io.aux);
    fv_output(t, "loss", loss);
    FV_TRY(fv_plan_finish(tr->ctx, plan, &t, NULL));
    return tr->paths ? fv_plan_feed(*plan, "paths", tr->paths) : FV_OK;
}

static fv_status build_plans(trainer *tr)
{
    const oz_config *c = &tr->net.cfg;
    const size_t B = (size_t)tr->lanes, R = B * (size_t)tr->T;
    tr->ids = fv_calloc(tr->ctx, R, sizeof *tr->ids);
    tr->labels = fv_calloc(tr->ctx, R, sizeof *tr->labels);
    if (!tr->ids || !tr->labels) return FV_ERR_OOM;
    FV_TRY(build_plan(tr, &tr->plan, FV_TRAIN));
    FV_TRY(build_plan(tr, &tr->eval, FV_INFER));
    for (int l = 0; l < c->layers; l++) {
        tr->eval_shift[l] = fv_dev_alloc(tr->ctx, B * shift_floats(tr), sizeof(float));
        tr->eval_state[l] = fv_dev_alloc(tr->ctx, B * state_floats(tr), sizeof(float));
        if (!tr->eval_shift[l] || !tr->eval_state[l]) return FV_ERR_OOM;
        FV_TRY(bind_state(tr->plan, l, carried(tr, tr->shift[l]), carried(tr, tr->state[l])));
        FV_TRY(bind_state(tr->eval, l, tr->eval_shift[l], tr->eval_state[l]));
        for (int k = 0; k < 2; k++) {
            if (!c->noise || !(k ? c->ffn_moe : c->v_moe)) continue;
            tr->noise[l][k] = fv_calloc(tr->ctx, R * (size_t)c->experts, sizeof(float));
            if (!tr->noise[l][k]) return FV_ERR_OOM;
        }
    }
    return FV_OK;
}

static void trainer_free(void *state)
{
    trainer *tr = state;
    fv_opt_destroy(&tr->opt);
    fv_plan_destroy(&tr->plan);
    fv_plan_destroy(&tr->eval);
    oz_merge_destroy(&tr->merge);
    oz_net_destroy(&tr->net);
    oz_net_destroy(&tr->full);
    oz_data_close(&tr->data);
    nn_vocab_close(&tr->vocab);
    fv_free(tr->ctx, tr->recipe_text);
    fv_free(tr->ctx, tr->paths);
    fv_free(tr->ctx, tr->ids);
    fv_free(tr->ctx, tr->labels);
    for (int l = 0; l < OZ_MAX_LAYERS; l++) {
        fv_free(tr->ctx, tr->noise[l][0]);
        fv_free(tr->ctx, tr->noise[l][1]);
        fv_dev_free(tr->ctx, tr->eval_shift[l]);
        fv_dev_free(tr->ctx, tr->eval_state[l]);
    }
}

static fv_status read_run(trainer *tr, fv_recipe *r, const fv_trainer_options *o,
                          fv_train_options *t)
{
    /* Nothing is accumulated: lanes carry their state from step to step. */
    const fv_trainer_size size = {(int64_t)tr->lanes * tr->T, 1, tr->eval_pieces > 0, tr->seed};
    return fv_trainer_read(tr->ctx, r, o, &size, t);
}

static fv_status prepare(void *state, fv_recipe *r, const fv_trainer_options *o,
                         fv_train_options *t, fv_trainer_run *run)
{
    trainer *tr = state;
    oz_config c;
    FV_TRY(fv_trainer_alone(tr->ctx, "omnizip", "its lanes carry their state from step to step"));
    tr->out_dir = o->out_dir;
    tr->seed = (uint64_t)fv_recipe_int(r, "seed", 1, 0, INT64_MAX);
    tr->lanes = (int)fv_recipe_int(r, "lanes", 32, 1, MAX_LANES);
    tr->T = (int)fv_recipe_int(r, "steps_per_lane", 128, 1, 8192);
    tr->balance = (float)fv_recipe_number(r, "balance", 0.01, 0, 100);
    tr->z = (float)fv_recipe_number(r, "z", 0.001, 0, 100);
    tr->eval_pieces = (int)fv_recipe_int(r, "eval_pieces", 16, 0, 1000000000);
    FV_TRY(read_config(tr, r, &c));
    FV_TRY(fv_trainer_types(tr->ctx, r, "f32", &tr->precision, &tr->export_type));
    FV_TRY(read_run(tr, r, o, t));
    FV_TRY(read_data(tr, r, o, &c));
    if (tr->lanes < tr->data.used)
        return fv_fail(tr->ctx, FV_ERR_ARG,
                       "recipe: %d lanes for %d modalities: use at least one each", tr->lanes,
                       tr->data.used);
    FV_TRY(start_nets(tr, &c, o->init));
    FV_TRY(fv_trainer_opt(tr->ctx, &tr->opt, tr->full.params, r));
    FV_TRY(build_plans(tr));
    FV_TRY(name_vocab(tr, fv_recipe_text(r)));
    *run = (fv_trainer_run){ tr->recipe_text, tr->full.params, tr->opt, tr->plan,
                             { tr, train_step, tr->eval_pieces ? evaluate : NULL, NULL,
                               export_model } };
    return FV_OK;
}

fv_status fv_omnizip_train(fv_ctx *ctx, fv_recipe *r, const fv_trainer_options *opts,
                           fv_train_result *result)
{
    trainer *tr = fv_calloc(ctx, 1, sizeof *tr);
    if (!tr) return FV_ERR_OOM;
    tr->ctx = tr->data.ctx = ctx;
    const fv_training all = { "omnizip", true, tr, prepare, trainer_free };
    const fv_status s = fv_trainer_train(ctx, &all, r, opts, result);
    fv_free(ctx, tr);
    return s;
}
