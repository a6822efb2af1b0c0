/* prune_choice.c - what a pruning has chosen, kept in a training's folder, so that a run that goes on
 * need not learn or measure it again.
 *
 *     OUT/choice.safetensors   blocks i32 [kept], influence f64 [depth], hidden and heads i32 [kept, n]:
 *                              each only where there is one
 *         fovea.choice = of which teacher, by which options; fovea.check = CRC-32C of that and of all
 *                              tensors
 *
 * A damaged file counts as none. One of another choice is refused, as checkpoints of another recipe
 * are, before anything is learned. */
#include "internal.h"

#include <string.h>

enum { LIST_BLOCKS, LIST_INFLUENCE, LIST_HIDDEN, LIST_HEADS, LISTS };
static const char *const list_name[LISTS] = { "blocks", "influence", "hidden", "heads" };

bool prune_is_slow(const fv_prune_options *o)
{
    return (!o->keep_count && o->depth != FV_PRUNE_UNIFORM) ||
           (o->width > 0 && o->width < 1 && o->importance == FV_PRUNE_DIFF);
}

/* The question that the choice answers. */
static char *question(const fv_prune *p)
{
    const fv_prune_options *o = &p->o;
    char hex[65];
    fv_hex(p->hash, 32, hex);
    return fv_format(p->ctx, "%s %d of %d method %d width %.17g by %d samples %d seed %llu steps %d",
                     hex, p->now.depth, p->was.depth, o->keep_count ? -1 : (int)o->depth, o->width,
                     (int)o->importance, o->samples, (unsigned long long)o->seed, o->steps);
}

/* Where list k of the plan is; data NULL: it has none. */
static fv_tensor list_of(const fv_prune *p, int k)
{
    const prune_units *u = k == LIST_HIDDEN ? &p->hidden : &p->heads;
    fv_tensor t = { .dtype = FV_I32, .ndim = 1, .dim = { p->now.depth }, .data = p->block };
    if (k == LIST_INFLUENCE)
        return (fv_tensor){ .dtype = FV_F64, .ndim = 1, .dim = { p->was.depth },
                            .data = p->influence };
    if (k == LIST_BLOCKS) return t;
    t.ndim = 2;
    t.dim[1] = u->kept;
    t.data = u->index;
    return t;
}

static uint32_t add_crc(uint32_t crc, const fv_tensor *t)
{
    return fv_crc32c(crc, t->data, (size_t)fv_tensor_count(t) * fv_dtype_size(t->dtype));
}

static fv_status put_all(const fv_prune *p, fv_model_writer *w, const char *asked)
{
    char check[16];
    uint32_t crc = fv_crc32c(0, asked, strlen(asked));
    FV_TRY(fv_model_writer_meta(w, "fovea.kind", "choice"));
    FV_TRY(fv_model_writer_meta(w, "fovea.choice", asked));
    for (int k = 0; k < LISTS; k++) {
        const fv_tensor t = list_of(p, k);
        if (!t.data) continue;
        FV_TRY(fv_model_writer_tensor(w, list_name[k], &t));
        crc = add_crc(crc, &t);
    }
    snprintf(check, sizeof check, "%08x", (unsigned)crc);
    return fv_model_writer_meta(w, "fovea.check", check);
}

fv_status prune_choice_write(const fv_prune *p, const char *path)
{
    fv_model_writer *w = NULL;
    char *asked = question(p);
    fv_status s = asked ? fv_model_writer_create(p->ctx, &w) : FV_ERR_OOM;
    if (s == FV_OK) s = put_all(p, w, asked);
    if (s == FV_OK) s = fv_model_writer_finish(w, path, 1);
    fv_model_writer_destroy(&w);
    fv_free(p->ctx, asked);
    return s;
}

/* Ascending numbers below `most`, in rows? They index weights. */
static bool is_ascending(const fv_tensor *t, int most)
{
    const int64_t n = t->dim[t->ndim - 1];
    const int32_t *v = t->data;
    for (int64_t i = 0; i < fv_tensor_count(t); i++)
        if (v[i] < 0 || v[i] >= most || (i % n > 0 && v[i] <= v[i - 1])) return false;
    return true;
}

static bool is_intact(const fv_prune *p, const fv_model *m, const char *asked)
{
    const int most[LISTS] = { p->was.depth, 0, p->was.hidden, p->was.heads };
    const char *check = fv_model_meta(m, "fovea.check");
    char want[16];
    if (!check) return false;
    uint32_t crc = fv_crc32c(0, asked, strlen(asked));
    for (int k = 0; k < LISTS; k++) {
        const fv_tensor mine = list_of(p, k);
        fv_tensor t;
        if (!mine.data) continue;
        if (!fv_model_find(m, list_name[k], &t) || t.dtype != mine.dtype || t.ndim != mine.ndim ||
            memcmp(t.dim, mine.dim, (size_t)t.ndim * sizeof *t.dim) != 0 ||
            (t.dtype == FV_I32 && !is_ascending(&t, most[k])))
            return false;
        crc = add_crc(crc, &t);
    }
    snprintf(want, sizeof want, "%08x", (unsigned)crc);
    return strcmp(want, check) == 0;
}

static void take(fv_prune *p, const fv_model *m)
{
    for (int k = 0; k < LISTS; k++) {
        const fv_tensor mine = list_of(p, k);
        fv_tensor t;
        if (!mine.data || !fv_model_find(m, list_name[k], &t)) continue;
        memcpy(mine.data, t.data, (size_t)fv_tensor_count(&t) * fv_dtype_size(t.dtype));
    }
}

/* Was it made for other blocks than those that are asked for by number? */
static bool keeps_others(const fv_prune *p, const fv_model *m)
{
    fv_tensor t;
    return p->o.keep_count && fv_model_find(m, list_name[LIST_BLOCKS], &t) &&
           memcmp(t.data, p->o.keep, (size_t)p->o.keep_count * sizeof *p->o.keep) != 0;
}

fv_status prune_choice_read(fv_prune *p, const char *path, bool *found)
{
    fv_model *m = NULL;
    *found = false;
    fv_status s = fv_model_open(p->ctx, &m, path, NULL);
    if (s != FV_OK) return s == FV_ERR_OOM ? s : FV_OK;
    const char *choice = fv_model_meta(m, "fovea.choice");
    char *asked = question(p);
    if (!asked) {
        s = FV_ERR_OOM;
    } else if (choice) {
        const bool is_same = strcmp(choice, asked) == 0;
        *found = is_same && is_intact(p, m, asked);
        if (!is_same || (*found && keeps_others(p, m)))
            s = fv_fail(p->ctx, FV_ERR_MODEL, "%s: belongs to another teacher or pruning; use the "
                        "same recipe or another output folder", path);
        else if (*found) take(p, m);
    }
    fv_free(p->ctx, asked);
    fv_model_close(&m);
    return s;
}
