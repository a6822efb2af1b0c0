/* prune_slice.c - from the plan of a pruning to the student: its network, values and file.
 *
 * Each tensor of the student is one of the teacher with rows and columns left out:
 *
 *     blocks.K.*                        those of block keep[K]
 *     qkv (rows, bias)                  rows of the kept heads, in each of the three parts
 *     proj                              columns of the kept heads
 *     w12 | fc1 (rows, bias)            rows of the kept channels; w12: in both halves
 *     w3 | fc2                          columns of the kept channels
 *     ada_offset                        rows of the kept blocks
 * All others stay as they are. */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

/* Rows or columns that stay: `index` counts units of `unit` values. Where a dimension is several
 * equal parts (q, k and v), the same stay in each; the teacher has `was` units in one. index NULL:
 * all stay. */
typedef struct axis {
    const int *index;
    int64_t kept, was, unit;
} axis;

static int64_t teacher_index(const axis *a, int64_t i)
{
    if (!a->index) return i;
    const int64_t length = a->kept * a->unit, part = i / length, at = i % length;
    return part * a->was * a->unit + a->index[at / a->unit] * a->unit + at % a->unit;
}

/* ---- Which tensor, which rows and columns ---------------------------------------------------- */

static axis head_axis(const fv_prune *p, int block)
{
    const prune_units *u = &p->heads;
    return (axis){ u->index ? u->index + (size_t)block * (size_t)u->kept : NULL, u->kept, u->was,
                   p->was.head_dim };
}

static axis channel_axis(const fv_prune *p, int block)
{
    const prune_units *u = &p->hidden;
    return (axis){ u->index ? u->index + (size_t)block * (size_t)u->kept : NULL, u->kept, u->was,
                   1 };
}

static bool is_one_of(const char *name, const char *const *list)
{
    for (; *list; list++)
        if (strcmp(name, *list) == 0) return true;
    return false;
}

/* Name in the teacher of a student's parameter, and what is cut from it. */
static void find_source(const fv_prune *p, const char *name, char *source, size_t size, axis *rows,
                        axis *columns)
{
    static const char *const head_rows[] = { "qkv.weight", "attn.qkv.weight", "attn.qkv.bias",
                                             NULL };
    static const char *const head_columns[] = { "proj.weight", "attn.proj.weight", NULL };
    static const char *const channel_rows[] = { "w12.weight", "mlp.fc1.weight", "mlp.fc1.bias",
                                                NULL };
    static const char *const channel_columns[] = { "w3.weight", "mlp.fc2.weight", NULL };
    const char *number = fv_after(name, "blocks.");
    memset(rows, 0, sizeof *rows);
    memset(columns, 0, sizeof *columns);
    snprintf(source, size, "%s", name);
    if (strcmp(name, "ada_offset") == 0)
        *rows = (axis){ p->block, p->now.depth, p->was.depth, 1 };
    if (!number) return;
    const int k = atoi(number); /* our own name */
    const char *part = strchr(number, '.') + 1;
    snprintf(source, size, "blocks.%d.%s", p->block[k], part);
    if (is_one_of(part, head_rows)) *rows = head_axis(p, k);
    if (is_one_of(part, head_columns)) *columns = head_axis(p, k);
    if (is_one_of(part, channel_rows)) *rows = channel_axis(p, k);
    if (is_one_of(part, channel_columns)) *columns = channel_axis(p, k);
}

/* ---- Copying --------------------------------------------------------------------------------- */

static void cut(const fv_tensor *from, const axis *rows, const axis *columns, const fv_tensor *to)
{
    const int64_t n = to->dim[0], width = fv_tensor_count(to) / n;
    const int64_t was = fv_tensor_count(from) / from->dim[0];
    for (int64_t r = 0; r < n; r++) {
        const float *x = (const float *)from->data + teacher_index(rows, r) * was;
        float *y = (float *)to->data + r * width;
        if (!columns->index) memcpy(y, x, (size_t)width * sizeof *y);
        else
            for (int64_t c = 0; c < width; c++) y[c] = x[teacher_index(columns, c)];
    }
}

/* Values of one tensor of the file as f32, whatever its type: a set with this one parameter. */
static fv_status fetch(fv_ctx *ctx, const fv_model *file, const char *name, const fv_tensor *shape,
                       fv_params **out)
{
    FV_TRY(fv_params_create(ctx, out));
    (void)fv_params_add(*out, name, shape->ndim, shape->dim, 0); /* a failure sticks */
    FV_TRY(fv_params_alloc(*out));
    return fv_params_load(*out, file, "");
}

static fv_status fill_one(fv_ctx *ctx, const fv_prune *p, const fv_model *file,
                          const fv_params *teacher, const fv_params *student, fv_pid id)
{
    char source[128];
    axis rows, columns;
    fv_params *one = NULL;
    const fv_tensor to = fv_params_tensor(student, id);
    find_source(p, fv_params_name(student, id), source, sizeof source, &rows, &columns);
    const fv_pid was = fv_params_find(teacher, source);
    if (was < 0)
        return fv_fail(ctx, FV_ERR_INTERNAL, "prune: the teacher has no parameter %s", source);
    const fv_tensor shape = fv_params_tensor(teacher, was);
    const fv_status s = fetch(ctx, file, source, &shape, &one);
    if (s == FV_OK) {
        const fv_tensor from = fv_params_tensor(one, 0);
        cut(&from, &rows, &columns, &to);
    }
    fv_params_destroy(&one);
    return s;
}

fv_status prune_net(fv_ctx *ctx, const fv_prune *p, const fv_dit_net *teacher, fv_dit_net **out)
{
    return fv_dit_net_like(ctx, out, teacher, &p->now, p->name);
}

fv_status prune_fill(fv_ctx *ctx, const fv_prune *p, const fv_model *file,
                     const fv_dit_net *teacher, fv_dit_net *student)
{
    fv_params *to = fv_dit_net_params(student);
    fv_dit_net *own;
    FV_TRY(prune_net(ctx, p, teacher, &own)); /* says which parameters are the network's */
    const int n = fv_params_count(fv_dit_net_params(own));
    fv_status s = FV_OK;
    for (int i = 0; i < n && s == FV_OK; i++)
        s = fill_one(ctx, p, file, fv_dit_net_params(teacher), to,
                     fv_params_find(to, fv_params_name(fv_dit_net_params(own), i)));
    fv_dit_net_close(&own);
    fv_params_touch(to);
    return s;
}

/* ---- File ------------------------------------------------------------------------------------ */

static fv_status add_list(fv_ctx *ctx, fv_meta *m, const char *key, const int *v, int n)
{
    fv_text t;
    fv_text_init(&t, ctx);
    for (int i = 0; i < n; i++) fv_text_printf(&t, "%s%d", i ? "," : "", v[i]);
    fv_status s = t.status;
    if (s == FV_OK) s = fv_meta_add(ctx, m, key, t.data ? t.data : "");
    fv_text_free(&t);
    return s;
}

fv_status prune_meta(fv_ctx *ctx, const fv_prune *p, fv_meta *m)
{
    static const char *const depths[] = { "uniform", "shortgpt", "learned" };
    static const char *const widths[] = { "magnitude", "diff" };
    char hex[65];
    fv_hex(p->hash, 32, hex);
    FV_TRY(fv_meta_add(ctx, m, "fovea.prune.teacher", hex));
    FV_TRY(fv_meta_add(ctx, m, "fovea.prune.teacher_name", p->was_name));
    FV_TRY(add_list(ctx, m, "fovea.prune.blocks", p->block, p->now.depth));
    FV_TRY(fv_meta_add(ctx, m, "fovea.prune.depth_method",
                       p->o.keep_count ? "list" : depths[p->o.depth]));
    if (!p->heads.index) return FV_OK;
    FV_TRY(fv_meta_add_number(ctx, m, "fovea.prune.width", p->o.width));
    return fv_meta_add(ctx, m, "fovea.prune.width_method", widths[p->o.importance]);
}

fv_status prune_meta_of(fv_ctx *ctx, const fv_model *file, fv_meta *m)
{
    static const char *const keys[] = { "teacher", "teacher_name", "blocks", "depth_method", "width",
                                        "width_method" };
    for (size_t i = 0; i < FV_ARRAY_LEN(keys); i++) {
        char key[32];
        snprintf(key, sizeof key, "fovea.prune.%s", keys[i]);
        const char *value = fv_model_meta(file, key);
        if (value) FV_TRY(fv_meta_add(ctx, m, key, value));
    }
    return FV_OK;
}

static fv_status write_student(fv_ctx *ctx, const fv_prune *p, const fv_model *teacher,
                               const fv_dit_net *net, fv_dtype type, const char *path,
                               int overwrite)
{
    const char *names = fv_model_meta(teacher, "fovea.classes");
    fv_dit_net *student;
    fv_meta m = { 0 };
    FV_TRY(prune_net(ctx, p, net, &student));
    fv_status s = fv_params_alloc(fv_dit_net_params(student));
    if (s == FV_OK) s = prune_fill(ctx, p, teacher, net, student);
    if (s == FV_OK) s = prune_meta(ctx, p, &m);
    if (s == FV_OK && names) s = fv_meta_add(ctx, &m, "fovea.classes", names);
    if (s == FV_OK)
        s = fv_dit_net_export(ctx, student, type, (const char *const *)m.item, m.pairs, teacher,
                              path, overwrite);
    fv_meta_free(ctx, &m);
    fv_dit_net_close(&student);
    return s;
}

fv_status fv_prune_write(fv_ctx *ctx, const fv_prune *p, const fv_model *teacher, fv_dtype type,
                         const char *path, int overwrite)
{
    uint8_t hash[32];
    fv_dit_net *net = NULL;
    if (!p || !teacher || !path) return fv_fail(ctx, FV_ERR_ARG, "prune: no plan, model or path");
    fv_model_hash(teacher, hash);
    if (memcmp(hash, p->hash, 32) != 0)
        return fv_fail(ctx, FV_ERR_MODEL, "prune: the plan is of another model");
    FV_TRY(fv_dit_net_open(ctx, &net, teacher));
    const fv_status s = write_student(ctx, p, teacher, net, type, path, overwrite);
    fv_dit_net_close(&net);
    return s;
}
