/* tape_loss.c - recording of what trainings and measures need beside networks: vector quantiser,
 * losses of pictures, spectra, features and differences. As tape.c. */
#include "tape_record.h"

/* ---- Vector quantiser ------------------------------------------------------------------------ */

fv_t fv_l2norm(fv_tape *t, fv_t x, float eps)
{
    if (!fvi_handle_ok(t, "l2norm", x, false)) return 0;
    x = fv_cast(t, x, FV_F32);
    if (t->status != FV_OK) return 0;
    const fv_tensor s = t->v[x].t;
    const fvi_attr a = { { 0 }, { eps } };
    return fvi_record(t, FVI_OP_L2NORM, &a, &x, 1, FV_F32, s.ndim, s.dim);
}

/* Latents f32 [.., D] and codes f32 [V, D]? Codes are numbered exactly in f32 by the search. */
static bool codes_ok(fv_tape *t, const char *op, fv_t z, fv_t codes)
{
    const fv_tensor *s = &t->v[z].t, *e = &t->v[codes].t;
    if (s->dtype == FV_F32 && e->dtype == FV_F32 && e->ndim == 2 && e->dim[1] == fvi_last_dim(s) &&
        e->dim[0] <= FV_VQ_MAX_CODES && fv_tensor_count(s) / e->dim[1] <= INT32_MAX)
        return true;
    BAD(t, FV_ERR_SHAPE, "%s: latents f32 [.., D] and codes f32 [V, D], V up to %d, expected", op,
        FV_VQ_MAX_CODES);
    return false;
}

fv_t fv_vq_nearest(fv_tape *t, fv_t z, fv_t codes, fv_t *index)
{
    const fv_t in[2] = { z, codes };
    *index = 0;
    if (!fvi_handle_ok(t, "vq", z, false) || !fvi_handle_ok(t, "vq", codes, false) ||
        !codes_ok(t, "vq", z, codes))
        return 0;
    const fv_tensor s = t->v[z].t;
    const fvi_attr at = { { 0 }, { 0 } };
    const int64_t n = fv_tensor_count(&s) / fvi_last_dim(&s);
    const fv_t q = fvi_record(t, FVI_OP_VQ, &at, in, 2, FV_F32, s.ndim, s.dim);
    *index = q ? fvi_new_value(t, FV_I32, 1, &n) : 0;
    if (!*index) return 0;
    t->v[*index].kind = FVI_NODE;
    t->v[*index].node = t->nn - 1;
    t->v[*index].slot = 1;
    t->n[t->nn - 1].out[1] = *index;
    return q;
}

fv_t fv_loss_vq(fv_tape *t, fv_t z, fv_t codes, fv_t index, float beta)
{
    const fv_t in[3] = { z, codes, index };
    for (int k = 0; k < 3; k++)
        if (!fvi_handle_ok(t, "loss_vq", in[k], false)) return 0;
    if (!codes_ok(t, "loss_vq", z, codes)) return 0;
    const fv_tensor s = t->v[z].t, i = t->v[index].t;
    if (i.ndim != 1 || i.dtype != FV_I32 || i.dim[0] != fv_tensor_count(&s) / fvi_last_dim(&s))
        return BAD(t, FV_ERR_SHAPE, "loss_vq: one i32 index for each latent expected");
    const fvi_attr at = { { 0 }, { beta } };
    const int64_t one = 1;
    return fvi_record(t, FVI_OP_LOSS_VQ, &at, in, 3, FV_F32, 1, &one);
}

fv_t fv_soft_rate(fv_tape *t, fv_t z, fv_t codes, fv_t logits, fv_t tau)
{
    const fv_t in[4] = { z, codes, logits, tau };
    for (int k = 0; k < 4; k++)
        if (!fvi_handle_ok(t, "soft_rate", in[k], false)) return 0;
    if (!codes_ok(t, "soft_rate", z, codes) || !fvi_vector_ok(t, "soft_rate", tau, 1)) return 0;
    const fv_tensor s = t->v[z].t, x = t->v[logits].t;
    if (x.ndim != 2 || x.dtype != FV_F32 || x.dim[0] != fv_tensor_count(&s) / fvi_last_dim(&s) ||
        x.dim[1] != t->v[codes].t.dim[0])
        return BAD(t, FV_ERR_SHAPE, "soft_rate: f32 logits [latents, codes] expected");
    const fvi_attr at = { { 0 }, { 0 } };
    const int64_t one = 1;
    return fvi_record(t, FVI_OP_SOFT_RATE, &at, in, 4, FV_F32, 1, &one);
}

/* ---- Losses ---------------------------------------------------------------------------------- */

/* Between pictures f32 [B, H, W, 3]; sides of at least `least` at the coarsest scale. */
static fv_t picture_loss(fv_tape *t, fvi_op op, const fv_t in[2], int scales, int least)
{
    const bool is_texture = op == FVI_OP_LOSS_TEXTURE;
    const char *name = is_texture ? "loss_texture" : "loss_ms_ssim";
    for (int k = 0; k < 2; k++)
        if (!fvi_handle_ok(t, name, in[k], false)) return 0;
    const fv_tensor s = t->v[in[0]].t, goal = t->v[in[1]].t;
    if (s.ndim != 4 || s.dim[3] != 3 || s.dtype != FV_F32 || goal.dtype != FV_F32 ||
        !fvi_same_dims(&s, &goal))
        return BAD(t, FV_ERR_SHAPE, "%s: two f32 [B, H, W, 3] expected", name);
    if (scales < 1 + is_texture || scales > 5 || s.dim[1] >> (scales - 1) < least ||
        s.dim[2] >> (scales - 1) < least || s.dim[1] > 16384 || s.dim[2] > 16384)
        return BAD(t, FV_ERR_SHAPE, "%s: %d scales of sides of at least %d expected", name, scales,
                   least);
    if (t->v[in[1]].needs_grad)
        return BAD(t, FV_ERR_UNSUPPORTED, "%s: the target has no gradient", name);
    const fvi_attr at = { { scales, is_texture }, { 0 } };
    const int64_t one = 1;
    const fv_t y = fvi_record(t, op, &at, in, 2, FV_F32, 1, &one);
    fvi_record_saved(t, 1, FV_F32, 4, s.dim);
    return y;
}

fv_t fv_loss_ms_ssim(fv_tape *t, fv_t a, fv_t target, int scales)
{
    return picture_loss(t, FVI_OP_LOSS_SSIM, (fv_t[2]){ a, target }, scales, 11);
}

fv_t fv_loss_texture(fv_tape *t, fv_t a, fv_t target, int scales)
{
    return picture_loss(t, FVI_OP_LOSS_TEXTURE, (fv_t[2]){ a, target }, scales, 9);
}

/* ---- Frequencies ----------------------------------------------------------------------------- */

fv_t fv_low_pass(fv_tape *t, fv_t x, float cutoff, int order)
{
    if (!fvi_handle_ok(t, "low_pass", x, false)) return 0;
    const fv_tensor s = t->v[x].t;
    if (s.ndim != 4 || s.dtype != FV_F32 || s.dim[1] > 16384 || s.dim[2] > 16384)
        return BAD(t, FV_ERR_SHAPE, "low_pass: f32 [B, H, W, C] with sides of at most 16384 "
                   "expected");
    if (!(cutoff > 0 && cutoff <= 1) || order < 1 || order > 8)
        return BAD(t, FV_ERR_ARG, "low_pass: order %d at %g cycles a pixel; order is 1 to 8, and "
                   "the cutoff above 0, at most 1", order, (double)cutoff);
    const fvi_attr at = { { order }, { cutoff } };
    return fvi_record(t, FVI_OP_LOW_PASS, &at, &x, 1, FV_F32, 4, s.dim);
}

fv_t fv_loss_spectrum(fv_tape *t, fv_t a, fv_t target, int patch)
{
    const fv_t in[2] = { a, target };
    for (int k = 0; k < 2; k++)
        if (!fvi_handle_ok(t, "loss_spectrum", in[k], false)) return 0;
    const fv_tensor s = t->v[a].t, goal = t->v[target].t;
    if (s.ndim != 4 || s.dtype != FV_F32 || goal.dtype != FV_F32 || !fvi_same_dims(&s, &goal))
        return BAD(t, FV_ERR_SHAPE, "loss_spectrum: two f32 [B, H, W, C] expected");
    if (patch < 1 || patch > 1024 || fvi_fft_size(patch) != patch || s.dim[1] % patch ||
        s.dim[2] % patch)
        return BAD(t, FV_ERR_SHAPE, "loss_spectrum: patches of %d in pictures of %lld x %lld: sides "
                   "must be multiples of it, and its only factors 2, 3 and 5", patch,
                   (long long)s.dim[2], (long long)s.dim[1]);
    if (t->v[target].needs_grad)
        return BAD(t, FV_ERR_UNSUPPORTED, "loss_spectrum: the target has no gradient");
    const fvi_attr at = { { patch }, { 0 } };
    const int64_t one = 1;
    const fv_t y = fvi_record(t, FVI_OP_LOSS_SPECTRUM, &at, in, 2, FV_F32, 1, &one);
    fvi_record_saved(t, 1, FV_F32, 4, s.dim);
    return y;
}

/* ---- Perceptual distances (perceptual.c) ----------------------------------------------------- */

fv_t fvi_pool2d(fv_tape *t, fv_t x, fvi_pool kind, int size, int stride)
{
    if (!fvi_handle_ok(t, "pool", x, false)) return 0;
    const fv_tensor s = t->v[x].t;
    const int pad = kind == FVI_POOL_L2 ? 2 : 0;
    if (s.ndim != 4 || s.dtype != FV_F32 || s.dim[1] + pad < size || s.dim[2] + pad < size)
        return BAD(t, FV_ERR_SHAPE, "pool: f32 [B, H, W, C] with sides of at least %d expected",
                   size - pad);
    const int64_t d[4] = { s.dim[0], (s.dim[1] + pad - size) / stride + 1,
                           (s.dim[2] + pad - size) / stride + 1, s.dim[3] };
    const fvi_attr a = { { (int32_t)kind, size, stride }, { 0 } };
    return fvi_record(t, FVI_OP_POOL, &a, &x, 1, FV_F32, 4, d);
}

/* in: a, b and one or two weights [C] */
static fv_t feature_loss(fv_tape *t, fvi_op op, const fv_t *in, int n)
{
    for (int k = 0; k < n; k++)
        if (!fvi_handle_ok(t, "feature_loss", in[k], false)) return 0;
    const fv_tensor a = t->v[in[0]].t, b = t->v[in[1]].t;
    const int64_t one = 1;
    if (!fvi_same_dims(&a, &b) || a.dtype != FV_F32 || b.dtype != FV_F32)
        return BAD(t, FV_ERR_SHAPE, "feature_loss: two f32 maps of one size expected");
    for (int k = 1; k < n; k++)
        if (t->v[in[k]].needs_grad)
            return BAD(t, FV_ERR_UNSUPPORTED, "feature_loss: only the first map has a gradient");
    for (int k = 2; k < n; k++)
        if (!fvi_vector_ok(t, "feature_loss", in[k], fvi_last_dim(&a))) return 0;
    const fvi_attr at = { { 0 }, { 0 } };
    return fvi_record(t, op, &at, in, n, FV_F32, 1, &one);
}

fv_t fvi_loss_lpips(fv_tape *t, fv_t a, fv_t b, fv_t w)
{
    return feature_loss(t, FVI_OP_LOSS_LPIPS, (fv_t[3]){ a, b, w }, 3);
}

fv_t fvi_loss_dists(fv_tape *t, fv_t a, fv_t b, fv_t alpha, fv_t beta)
{
    return feature_loss(t, FVI_OP_LOSS_DISTS, (fv_t[4]){ a, b, alpha, beta }, 4);
}

/* ---- Distillation ---------------------------------------------------------------------------- */

/* Two float tensors of one shape, of which only the first has a gradient? */
static bool pair_ok(fv_tape *t, const char *name, fv_t student, fv_t teacher, int least_dims)
{
    if (!fvi_handle_ok(t, name, student, false) || !fvi_handle_ok(t, name, teacher, false))
        return false;
    const fv_tensor a = t->v[student].t, b = t->v[teacher].t;
    if (a.ndim < least_dims || !fvi_same_dims(&a, &b) || !fvi_is_float(a.dtype) ||
        !fvi_is_float(b.dtype))
        BAD(t, FV_ERR_SHAPE, "%s: student and teacher of one shape with at least %d dimensions, "
            "f32 or bf16, expected", name, least_dims);
    else if (t->v[teacher].needs_grad)
        BAD(t, FV_ERR_UNSUPPORTED, "%s: the teacher has no gradient; use fv_detach", name);
    return t->status == FV_OK;
}

fv_t fv_loss_masked_mse(fv_tape *t, fv_t student, fv_t teacher, float deviations)
{
    if (!pair_ok(t, "loss_masked_mse", student, teacher, 1)) return 0;
    if (!(deviations >= 0 && deviations < 1e6f))
        return BAD(t, FV_ERR_ARG, "loss_masked_mse: %g deviations; 0 keeps every value",
                   (double)deviations);
    if (deviations == 0) return fv_loss_mse(t, student, teacher, 0);
    const fvi_attr at = { { 0 }, { deviations } };
    const int64_t one = 1, keep[2] = { t->v[student].t.dim[0], 4 };
    const fv_t y = fvi_record(t, FVI_OP_LOSS_MASKED, &at, (fv_t[2]){ student, teacher }, 2, FV_F32,
                              1, &one);
    fvi_record_saved(t, 1, FV_F32, 2, keep);
    return y;
}

fv_place_options fv_place_as(fv_place_reference which)
{
    fv_place_options o = FV_PLACE_OPTIONS_INIT;
    o.unguarded = 1;
    o.eps = which == FV_PLACE_PIXEL ? 1e-7f : which == FV_PLACE_DIT ? 1e-4f : 1e-8f;
    o.eps_of_sum = which != FV_PLACE_PIXEL;
    o.squared = which == FV_PLACE_DIT;
    return o;
}

static bool place_options_ok(fv_tape *t, const fv_place_options *o, int64_t channels)
{
    if ((unsigned)o->kind > FV_LIFT_SAMPLE || (unsigned)o->weight > FV_PLACE_GIVEN)
        BAD(t, FV_ERR_ARG, "loss_place: unknown kind %d or weight %d", (int)o->kind,
            (int)o->weight);
    else if (o->group < 0 || o->group == 1)
        BAD(t, FV_ERR_ARG, "loss_place: groups of %d elements; 2 at least", o->group);
    else if (o->channels < 0 || o->channels > channels)
        BAD(t, FV_ERR_ARG, "loss_place: %d of %lld channels", o->channels, (long long)channels);
    else if (!(o->eps >= 0 && o->eps < 1e6f) || !(o->constant >= 0 && o->constant < 1e6f))
        BAD(t, FV_ERR_ARG, "loss_place: eps %g and w %g; neither can be negative", (double)o->eps,
            (double)o->constant);
    else if (o->weight == FV_PLACE_GIVEN && (!fvi_handle_ok(t, "loss_place", o->given, false) ||
                                             !fvi_vector_ok(t, "loss_place", o->given, 1)))
        return false;
    else if (o->weight == FV_PLACE_GIVEN && t->v[o->given].needs_grad)
        BAD(t, FV_ERR_UNSUPPORTED, "loss_place: w has no gradient");
    return t->status == FV_OK;
}

fv_t fv_loss_place(fv_tape *t, fv_t student, fv_t teacher, const fv_place_options *opts,
                   fv_t *parts)
{
    fv_place_options o = FV_PLACE_OPTIONS_INIT;
    if (parts) *parts = 0;
    if (!pair_ok(t, "loss_place", student, teacher, 3)) return 0;
    const fv_status s = FV_TAKE_OPTIONS(t->ctx, &o, opts, "loss_place");
    if (s != FV_OK) return fvi_poison(t, s);
    const fv_tensor x = t->v[student].t;
    const int64_t C = fvi_last_dim(&x), one = 1, count = FV_PLACE_PARTS;
    if (!place_options_ok(t, &o, C)) return 0;
    const int32_t flags = (int32_t)o.kind | (o.squared ? FVI_PLACE_SQUARED : 0) |
                          (o.unguarded ? 0 : FVI_PLACE_GUARDED) |
                          (o.eps_of_sum ? FVI_PLACE_EPS_OF_SUM : 0);
    const fvi_attr at = { { o.group ? o.group : 16, o.channels ? o.channels : (int32_t)C, flags,
                            (int32_t)o.weight },
                          { o.eps > 0 ? o.eps : 1e-6f, o.constant } };
    const fv_t in[3] = { student, teacher, o.weight == FV_PLACE_GIVEN ? o.given : 0 };
    const fv_t y = fvi_record(t, FVI_OP_LOSS_PLACE, &at, in, 3, FV_F32, 1, &one);
    const fv_t list = y ? fvi_new_value(t, FV_F32, 1, &count) : 0;
    if (!list) return 0;
    t->v[list].kind = FVI_NODE;
    t->v[list].node = t->nn - 1;
    t->v[list].slot = 1;
    t->n[t->nn - 1].out[1] = list;
    if (parts) *parts = list;
    const int64_t terms[2] = { 2, fv_tensor_count(&x) };
    fvi_record_saved(t, 2, FV_F32, 2, terms);
    return y;
}

/* ---- Differences ----------------------------------------------------------------------------- */

static fv_t loss_difference(fv_tape *t, const char *name, const fv_t in[3], int kind)
{
    for (int k = 0; k < 3; k++)
        if (!fvi_handle_ok(t, name, in[k], k == 2)) return 0;
    const fv_tensor s = t->v[in[0]].t, goal = t->v[in[1]].t;
    if (!fvi_same_dims(&s, &goal) || !fvi_is_float(s.dtype) || !fvi_is_float(goal.dtype))
        return BAD(t, FV_ERR_SHAPE, "%s: prediction and target differ in shape", name);
    if (!fvi_vector_ok(t, name, in[2], s.dim[0])) return 0;
    const fvi_attr at = { { kind }, { 0 } };
    const int64_t one = 1;
    return fvi_record(t, FVI_OP_LOSS_MSE, &at, in, 3, FV_F32, 1, &one);
}

fv_t fv_loss_mse(fv_tape *t, fv_t a, fv_t target, fv_t weight)
{
    return loss_difference(t, "loss_mse", (fv_t[3]){ a, target, weight }, 0);
}

fv_t fv_loss_smooth_l1(fv_tape *t, fv_t a, fv_t target, fv_t weight)
{
    return loss_difference(t, "loss_smooth_l1", (fv_t[3]){ a, target, weight }, 1);
}

fv_t fv_loss_soft_cross_entropy(fv_tape *t, fv_t logits, fv_t target, fv_t weight)
{
    const fv_t in[3] = { logits, target, weight };
    for (int k = 0; k < 3; k++)
        if (!fvi_handle_ok(t, "loss_soft_cross_entropy", in[k], k == 2)) return 0;
    const fv_tensor s = t->v[logits].t, goal = t->v[target].t;
    if (s.ndim != 2 || !fvi_same_dims(&s, &goal) || s.dtype != FV_F32 || goal.dtype != FV_F32)
        return BAD(t, FV_ERR_SHAPE,
                   "loss_soft_cross_entropy: logits and target must both be f32 [n, V]");
    if (t->v[target].needs_grad)
        return BAD(t, FV_ERR_UNSUPPORTED, "loss_soft_cross_entropy: the target has no gradient");
    if (!fvi_vector_ok(t, "loss_soft_cross_entropy", weight, s.dim[0])) return 0;
    const fvi_attr at = { { 0 }, { 0 } };
    const int64_t one = 1;
    const fv_t y = fvi_record(t, FVI_OP_LOSS_SOFT_CE, &at, in, 3, FV_F32, 1, &one);
    fvi_record_saved(t, 1, FV_F32, 2, s.dim);
    return y;
}

fv_t fv_loss_cross_entropy(fv_tape *t, fv_t logits, fv_t labels)
{
    if (!fvi_handle_ok(t, "loss_cross_entropy", logits, false) ||
        !fvi_handle_ok(t, "loss_cross_entropy", labels, false))
        return 0;
    const fv_tensor s = t->v[logits].t, l = t->v[labels].t;
    if (s.ndim != 2 || l.ndim != 1 || l.dtype != FV_I32 || l.dim[0] != s.dim[0] ||
        !fvi_is_float(s.dtype))
        return BAD(t, FV_ERR_SHAPE,
                   "loss_cross_entropy: logits [n, V] and labels i32 [n] expected");
    const fvi_attr a = { { 0 }, { 0 } };
    const fv_t in[2] = { logits, labels };
    const int64_t one = 1;
    const fv_t y = fvi_record(t, FVI_OP_LOSS_CE, &a, in, 2, FV_F32, 1, &one);
    fvi_record_saved(t, 1, FV_F32, 2, s.dim);
    return y;
}

fv_t fv_loss_tree(fv_tape *t, fv_t h, fv_pid w, fv_pid bias, fv_t labels, fv_t paths)
{
    if (!fvi_handle_ok(t, "loss_tree", h, false) || !fvi_handle_ok(t, "loss_tree", labels, false) ||
        !fvi_handle_ok(t, "loss_tree", paths, false))
        return 0;
    const fv_t in[5] = { h, fv_param(t, w), fv_param(t, bias), labels, paths };
    if (t->status != FV_OK) return 0;
    const fv_tensor s = t->v[h].t, l = t->v[labels].t, m = t->v[in[1]].t, b = t->v[in[2]].t,
                    p = t->v[paths].t;
    if (m.ndim != 2 || m.dim[0] < 2 || b.ndim != 1 || b.dim[0] != m.dim[0] || s.ndim != 2 ||
        !fvi_is_float(s.dtype) || s.dim[1] != m.dim[1] || l.ndim != 1 || l.dtype != FV_I32 ||
        l.dim[0] != s.dim[0] || p.ndim != 2 || p.dtype != FV_I32 || p.dim[1] > FVI_TREE_DEPTH)
        return BAD(t, FV_ERR_SHAPE,
                   "loss_tree: h [n, D], weight [V, D], bias [V], labels i32 [n] and paths i32 "
                   "[L, K] with K up to 24 expected");
    const fvi_attr a = { { 0 }, { 0 } };
    const int64_t one = 1, err[2] = { s.dim[0], p.dim[1] };
    const fv_t y = fvi_record(t, FVI_OP_LOSS_TREE, &a, in, 5, FV_F32, 1, &one);
    fvi_record_saved(t, 1, FV_F32, 2, err);
    return y;
}

fv_t fv_loss_l1(fv_tape *t, fv_t a, fv_t target)
{
    const fv_t in[2] = { a, target };
    for (int k = 0; k < 2; k++)
        if (!fvi_handle_ok(t, "loss_l1", in[k], k == 1)) return 0;
    const fv_tensor s = t->v[a].t;
    if (!fvi_is_float(s.dtype) ||
        (target && (!fvi_same_dims(&s, &t->v[target].t) || !fvi_is_float(t->v[target].t.dtype))))
        return BAD(t, FV_ERR_SHAPE, "loss_l1: prediction and target differ in shape");
    const fvi_attr at = { { 0 }, { 0 } };
    const int64_t one = 1;
    return fvi_record(t, FVI_OP_LOSS_L1, &at, in, 2, FV_F32, 1, &one);
}
