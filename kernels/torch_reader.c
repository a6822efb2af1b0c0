/* torch_reader.c - tensors of PyTorch checkpoints (torch.save), without running anything in them.
 *
 * Zip (since 1.6):   NAME/data.pkl     the object, storages by persistent id
 *                    NAME/data/KEY     raw storage, usually stored: we point into the mapping
 *                    NAME/byteorder    "little" or "big" (since 2.0)
 * Legacy stream:     pickle: magic 0x1950a86a20f9469cfc6c | pickle: 1001 | pickle: system facts |
 *                    pickle: the object | pickle: [KEY, ...] | per KEY: count u64, raw elements
 *
 * Dictionaries and lists are flattened to dotted names ("model.blocks.0.attn.weight"); simple
 * values at the top level become metadata. Containers may be shared or contain themselves, so the
 * walk is limited in depth, visits and bytes of names, and metadata in bytes. A tensor that is not contiguous in its
 * storage is copied once; what we copy or inflate is limited in proportion to the file. */
#include "model_file.h"
#include "pickle.h"
#include "zip_reader.h"

#include <stdlib.h>
#include <string.h>

#define MAX_DEPTH 64
#define MAX_VISITS (8u << 20)
#define PATH_BYTES 4096
/* Copies may take 64 times the file and 64 MiB: a stride of 0 makes a few bytes into anything. */
#define COPY_RATIO 64u
#define COPY_FREE ((size_t)64 << 20)

typedef struct reader {
    fv_model *m;
    fvi_pickle pickle;
    fvi_zip zip;          /* zip format only */
    const char *prefix;   /* "NAME/" in the archive */
    size_t prefix_bytes;
    uint8_t *unpacked;    /* data.pkl if it was compressed */
    const uint8_t *bytes;
    size_t size;
    size_t copy_left, text_left; /* text: names and metadata */
    uint32_t visits;
    char path[PATH_BYTES];
} reader;

bool fvi_torch_sniff(const uint8_t *bytes, size_t size)
{
    if (size < 16) return false;
    return memcmp(bytes, "PK\003\004", 4) == 0
           || (bytes[0] == 0x80 && bytes[1] >= 2 && bytes[1] <= 5);
}

/* ---- Storages -------------------------------------------------------------------------------- */

static fv_status take_budget(reader *r, const char *name, size_t bytes, void **out)
{
    *out = NULL;
    if (bytes > r->copy_left) {
        return fv_fail(r->m->ctx, FV_ERR_LIMIT,
                       "tensor \"%.200s\" expands to far more than the file", name);
    }
    r->copy_left -= bytes;
    *out = fvi_model_alloc(r->m, bytes);
    return *out ? FV_OK : FV_ERR_OOM;
}

/* A checkpoint may use one long text many times. */
static fv_status take_text(reader *r, size_t bytes)
{
    if (bytes > r->text_left)
        return fv_fail(r->m->ctx, FV_ERR_LIMIT, "tensor names and metadata are too long");
    r->text_left -= bytes;
    return FV_OK;
}

static bool storage_bytes(const fvi_pstorage *s, size_t *out)
{
    *out = 0;
    return (uint64_t)s->count <= SIZE_MAX && fv_mul_size((size_t)s->count, s->elem_bytes, out);
}

/* Zip: find NAME/data/KEY, inflate it if needed. */
static fv_status load_member(reader *r, fvi_pstorage *s, const char *name)
{
    fv_ctx *ctx = r->m->ctx;
    char path[512];
    size_t need;
    fvi_zip_member *e = NULL;
    if (r->prefix_bytes < 300) {
        const int n = snprintf(path, sizeof path, "%.*sdata/%.*s", (int)r->prefix_bytes, r->prefix,
                               (int)s->key_bytes, s->key);
        e = fvi_zip_find(&r->zip, path, (size_t)n);
    }
    if (!e) {
        return fv_fail(ctx, FV_ERR_FORMAT,
                       "tensor \"%.200s\": its storage %.*s is not in the archive", name,
                       (int)s->key_bytes, s->key);
    }
    if (!storage_bytes(s, &need) || need > e->size) {
        return fv_fail(ctx, FV_ERR_TRUNCATED, "tensor \"%.200s\": its storage has %llu bytes only",
                       name, (unsigned long long)e->size);
    }
    if (!e->data && e->method == 0) {
        FV_TRY(fvi_zip_packed(&r->zip, e, &e->data));
    } else if (!e->data) {
        void *p;
        FV_TRY(take_budget(r, name, (size_t)e->size, &p));
        FV_TRY(fvi_zip_extract(&r->zip, e, p));
        e->data = p;
    }
    s->data = e->data;
    return FV_OK;
}

static fv_status load_storage(reader *r, fvi_pstorage *s, const char *name)
{
    if (s->data) return FV_OK;
    if (r->zip.count) return load_member(r, s, name);
    return fv_fail(r->m->ctx, FV_ERR_FORMAT, "tensor \"%.200s\": its storage is not in the file",
                   name);
}

/* ---- Tensors --------------------------------------------------------------------------------- */

typedef struct layout {
    int64_t stride[FV_MAX_DIMS];
    size_t start, bytes; /* first element's byte offset; bytes of the contiguous result */
    bool contiguous;
} layout;

static fv_status read_dims(reader *r, uint32_t list, const char *name, int64_t *dim, int *ndim)
{
    const fvi_pickle *p = &r->pickle;
    const fvi_pv *v = &p->value[list];
    *ndim = 0;
    if (v->u.list.count > FV_MAX_DIMS) {
        return fv_fail(r->m->ctx, FV_ERR_UNSUPPORTED,
                       "tensor \"%.200s\" has %u dimensions, at most %d are read", name,
                       v->u.list.count, FV_MAX_DIMS);
    }
    for (uint32_t c = v->u.list.head; c; c = p->cell[c].next) {
        const fvi_pv *d = &p->value[p->cell[c].value];
        if (d->kind != FVI_PV_INT || d->v.i < 0) {
            return fv_fail(r->m->ctx, FV_ERR_FORMAT, "tensor \"%.200s\" has a bad dimension", name);
        }
        dim[(*ndim)++] = d->v.i;
    }
    return FV_OK;
}

/* Check that every element lies inside the storage and see whether they are contiguous. */
static bool plan_layout(const fv_tensor *t, const fvi_pstorage *s, int64_t offset, layout *l)
{
    const size_t elem = fv_dtype_size(t->dtype);
    const int64_t count = fv_tensor_count(t);
    size_t stored, first, last;
    if (count < 0 || (uint64_t)count > SIZE_MAX || !fv_mul_size((size_t)count, elem, &l->bytes))
        return false;
    if (!storage_bytes(s, &stored)) return false;
    if ((uint64_t)offset > SIZE_MAX || (uint64_t)s->view_offset > SIZE_MAX) return false;
    if (!fv_add_size((size_t)offset, (size_t)s->view_offset, &first)) return false;
    last = first;
    l->contiguous = true;
    int64_t expect = 1;
    for (int d = t->ndim - 1; d >= 0 && count > 0; d--) {
        size_t reach;
        if ((uint64_t)l->stride[d] > SIZE_MAX) return false;
        if (!fv_mul_size((size_t)(t->dim[d] - 1), (size_t)l->stride[d], &reach)) return false;
        if (!fv_add_size(last, reach, &last)) return false;
        if (t->dim[d] > 1 && l->stride[d] != expect) l->contiguous = false;
        expect *= t->dim[d];
    }
    if (count > 0 && last >= stored / elem) return false;
    l->start = count > 0 ? first * elem : 0;
    return true;
}

static void copy_strided(const fv_tensor *t, const layout *l, const uint8_t *from, uint8_t *to)
{
    const size_t elem = fv_dtype_size(t->dtype);
    const int last = t->ndim - 1; /* not contiguous: at least one dimension */
    const size_t step = (size_t)l->stride[last] * elem;
    int64_t at[FV_MAX_DIMS] = { 0 };
    for (;;) {
        const uint8_t *row = from;
        for (int d = 0; d < last; d++) row += (size_t)at[d] * (size_t)l->stride[d] * elem;
        for (int64_t i = 0; i < t->dim[last]; i++, to += elem)
            memcpy(to, row + (size_t)i * step, elem);
        int d = last - 1;
        while (d >= 0 && ++at[d] == t->dim[d]) at[d--] = 0;
        if (d < 0) return;
    }
}

static fv_status add_tensor(reader *r, uint32_t value, const char *name, size_t name_bytes)
{
    fv_ctx *ctx = r->m->ctx;
    fvi_pv *v = &r->pickle.value[value];
    fvi_pstorage *s = &r->pickle.storage[r->pickle.value[v->u.tensor.storage].v.i];
    const uint8_t type = v->has_dtype ? v->dtype : s->dtype;
    fv_tensor t = { 0 };
    layout l;
    int strides;
    if (type >= FV_DTYPE_COUNT || s->elem_bytes == 0) {
        return fv_fail(ctx, FV_ERR_UNSUPPORTED,
                       "tensor \"%.200s\" has a type (%.*s) that is not read", name,
                       s->type_bytes < 60 ? (int)s->type_bytes : 60, s->type);
    }
    t.dtype = (fv_dtype)type;
    FV_TRY(read_dims(r, v->u.tensor.size, name, t.dim, &t.ndim));
    FV_TRY(read_dims(r, v->u.tensor.stride, name, l.stride, &strides));
    if (strides != t.ndim || !plan_layout(&t, s, v->v.i, &l)) {
        return fv_fail(ctx, FV_ERR_FORMAT, "tensor \"%.200s\" lies outside its storage", name);
    }
    FV_TRY(take_text(r, name_bytes));
    if (l.bytes == 0) {
        t.data = (void *)(uintptr_t)r->bytes; /* nothing there, but not NULL */
        return fvi_model_add(r->m, name, name_bytes, &t);
    }
    FV_TRY(load_storage(r, s, name));
    if (!l.contiguous && !v->text) {
        void *copy;
        FV_TRY(take_budget(r, name, l.bytes, &copy));
        copy_strided(&t, &l, s->data + l.start, copy);
        v->text = copy;
    }
    t.data = (void *)(uintptr_t)(l.contiguous ? s->data + l.start : (const uint8_t *)v->text);
    return fvi_model_add(r->m, name, name_bytes, &t);
}

/* ---- Flattening ------------------------------------------------------------------------------ */

/* Append ".key" (or "key" at the start); returns the new length, 0 if it does not fit. */
static size_t append_key(reader *r, size_t n, const fvi_pv *key)
{
    char number[24];
    const char *text = "?"; /* tuples, None and such as keys: collisions are found later */
    size_t bytes = 1;
    if (key->kind == FVI_PV_STR) {
        text = key->text;
        bytes = key->bytes;
    } else if (key->kind == FVI_PV_INT) {
        bytes = (size_t)snprintf(number, sizeof number, "%lld", (long long)key->v.i);
        text = number;
    }
    if (bytes + 2 > PATH_BYTES - n) return 0;
    if (n) r->path[n++] = '.';
    memcpy(r->path + n, text, bytes);
    r->path[n + bytes] = 0;
    return n + bytes;
}

static fv_status walk(reader *r, uint32_t value, size_t path, int depth);

static fv_status walk_child(reader *r, const fvi_pv *key, uint32_t child, size_t path, int depth)
{
    const uint8_t kind = r->pickle.value[child].kind;
    if (++r->visits > MAX_VISITS)
        return fv_fail(r->m->ctx, FV_ERR_LIMIT, "checkpoint has too many values");
    if (kind < FVI_PV_TUPLE || kind == FVI_PV_GLOBAL || kind == FVI_PV_STORAGE) return FV_OK;
    const size_t n = append_key(r, path, key);
    if (n == 0 && (path > 0 || key->bytes > 0)) {
        return fv_fail(r->m->ctx, FV_ERR_LIMIT, "a tensor's name is longer than %d bytes",
                       PATH_BYTES);
    }
    return walk(r, child, n, depth);
}

static fv_status walk(reader *r, uint32_t value, size_t path, int depth)
{
    const fvi_pickle *p = &r->pickle;
    const fvi_pv *v = &p->value[value];
    if (v->kind == FVI_PV_TENSOR) return add_tensor(r, value, r->path, path);
    if (depth == MAX_DEPTH) {
        return fv_fail(r->m->ctx, FV_ERR_LIMIT, "checkpoint is nested deeper than %d, or in itself",
                       MAX_DEPTH);
    }
    fvi_pv key = { .kind = FVI_PV_INT, .bytes = 1 };
    for (uint32_t c = v->u.list.head; c; c = p->cell[c].next) {
        if (v->kind == FVI_PV_DICT) {
            key = p->value[p->cell[c].value];
            c = p->cell[c].next; /* pairs are complete: checked when they were added */
        }
        FV_TRY(walk_child(r, &key, p->cell[c].value, path, depth + 1));
        if (v->kind != FVI_PV_DICT) key.v.i++;
    }
    return FV_OK;
}

/* Numbers and strings of the top dictionary. */
static fv_status add_metadata(reader *r, const fvi_pv *key, const fvi_pv *value)
{
    fv_text k, v;
    fv_ctx *ctx = r->m->ctx;
    fv_status s = FV_OK;
    fv_text_init(&k, ctx);
    fv_text_init(&v, ctx);
    if (key->kind == FVI_PV_STR && key->bytes < PATH_BYTES) {
        switch (value->kind) {
        case FVI_PV_BOOL: fv_text_printf(&v, "%s", value->v.i ? "true" : "false"); break;
        case FVI_PV_INT: fv_text_printf(&v, "%lld", (long long)value->v.i); break;
        case FVI_PV_FLOAT: fv_text_printf(&v, "%.17g", value->v.d); break;
        case FVI_PV_STR: /* printf takes an int; a longer text is not simple anyway */
            if (value->bytes <= (1 << 24))
                fv_text_printf(&v, "%.*s", (int)value->bytes, value->text);
            break;
        default: break;
        }
    }
    if (v.data) s = take_text(r, key->bytes + v.size);
    if (v.data && s == FV_OK) {
        fv_text_printf(&k, "%.*s", (int)key->bytes, key->text);
        s = k.status == FV_OK ? fvi_model_add_meta(r->m, k.data, v.data) : k.status;
    }
    if (s == FV_OK) s = v.status;
    fv_text_free(&k);
    fv_text_free(&v);
    return s;
}

static fv_status flatten(reader *r, uint32_t root)
{
    const fvi_pickle *p = &r->pickle;
    const fvi_pv *v = &p->value[root];
    if (v->kind == FVI_PV_TENSOR) return add_tensor(r, root, "tensor", 6);
    if (v->kind == FVI_PV_DICT || v->kind == FVI_PV_LIST || v->kind == FVI_PV_TUPLE) {
        FV_TRY(walk(r, root, 0, 0));
    }
    if (r->m->count == 0) {
        return fv_fail(r->m->ctx, FV_ERR_FORMAT,
                       "no tensors in the checkpoint: only dictionaries and lists of "
                       "tensors are read, not pickled modules; save the module's state_dict()");
    }
    if (v->kind != FVI_PV_DICT) return FV_OK;
    for (uint32_t c = v->u.list.head; c; c = p->cell[c].next) {
        const fvi_pv *key = &p->value[p->cell[c].value];
        c = p->cell[c].next;
        FV_TRY(add_metadata(r, key, &p->value[p->cell[c].value]));
    }
    return FV_OK;
}

/* ---- Zip format ------------------------------------------------------------------------------ */

/* "data.pkl" or "NAME/data.pkl": the one with the shortest name. */
static const fvi_zip_member *find_pickle(reader *r)
{
    static const char tail[] = "data.pkl";
    const size_t n = sizeof tail - 1;
    const fvi_zip_member *best = NULL;
    for (size_t i = 0; i < r->zip.count; i++) {
        const fvi_zip_member *e = &r->zip.member[i];
        if (e->name_bytes < n || memcmp(e->name + e->name_bytes - n, tail, n) != 0) continue;
        if (e->name_bytes > n && e->name[e->name_bytes - n - 1] != '/') continue;
        if (!best || e->name_bytes < best->name_bytes) best = e;
    }
    if (best) {
        r->prefix = best->name;
        r->prefix_bytes = best->name_bytes - n;
    }
    return best;
}

static fv_status check_byte_order(reader *r)
{
    char path[512];
    uint8_t text[8] = { 0 };
    if (r->prefix_bytes >= 300) return FV_OK; /* its storages cannot be found either */
    const int n = snprintf(path, sizeof path, "%.*sbyteorder", (int)r->prefix_bytes, r->prefix);
    const fvi_zip_member *e = fvi_zip_find(&r->zip, path, (size_t)n);
    if (!e || e->size >= sizeof text) return FV_OK;
    FV_TRY(fvi_zip_extract(&r->zip, e, text));
    if (strcmp((const char *)text, "big") != 0) return FV_OK;
    return fv_fail(r->m->ctx, FV_ERR_UNSUPPORTED, "checkpoint was written on a big-endian machine");
}

static fv_status read_zip(reader *r)
{
    fv_ctx *ctx = r->m->ctx;
    const size_t most =
        r->m->max_tensors > SIZE_MAX / 4 ? SIZE_MAX / 2 : r->m->max_tensors * 2 + 1024;
    FV_TRY(fvi_zip_open(ctx, &r->zip, r->bytes, r->size, most));
    const fvi_zip_member *e = find_pickle(r);
    if (!e)
        return fv_fail(ctx, FV_ERR_FORMAT,
                       "zip archive without data.pkl: not a PyTorch checkpoint");
    if (e->size > r->m->max_header_bytes) {
        return fv_fail(ctx, FV_ERR_LIMIT, "data.pkl of %llu bytes exceeds the limit of %llu",
                       (unsigned long long)e->size, (unsigned long long)r->m->max_header_bytes);
    }
    FV_TRY(check_byte_order(r));
    /* Stored or not, a copy: its checksum is verified, and it is small. */
    r->unpacked = fv_alloc(ctx, (size_t)e->size + 1);
    if (!r->unpacked) return FV_ERR_OOM;
    FV_TRY(fvi_zip_extract(&r->zip, e, r->unpacked));
    size_t at = 0;
    uint32_t root;
    FV_TRY(fvi_pickle_run(&r->pickle, r->unpacked, (size_t)e->size, &at, &root));
    return flatten(r, root);
}

/* ---- Legacy stream --------------------------------------------------------------------------- */

static int compare_key(const char *a, size_t an, const char *b, size_t bn)
{
    const int c = memcmp(a, b, an < bn ? an : bn);
    return c ? c : (an > bn) - (an < bn);
}

static int compare_storages(const void *a, const void *b)
{
    const fvi_pstorage *x = *(fvi_pstorage *const *)a, *y = *(fvi_pstorage *const *)b;
    return compare_key(x->key, x->key_bytes, y->key, y->key_bytes);
}

/* First of the sorted storages with this key, n if there is none. */
static size_t first_storage(fvi_pstorage **sorted, size_t n, const fvi_pv *key)
{
    size_t lo = 0, hi = n;
    while (lo < hi) {
        const size_t mid = lo + (hi - lo) / 2;
        if (compare_key(sorted[mid]->key, sorted[mid]->key_bytes, key->text, key->bytes) < 0)
            lo = mid + 1;
        else hi = mid;
    }
    if (lo < n && compare_key(sorted[lo]->key, sorted[lo]->key_bytes, key->text, key->bytes) == 0)
        return lo;
    return n;
}

/* One [count u64 | elements] record at *at, for all storages of this key. */
static fv_status place_storage(reader *r, fvi_pstorage **sorted, const fvi_pv *key, size_t *at)
{
    fv_ctx *ctx = r->m->ctx;
    const size_t n = r->pickle.storage_count;
    size_t i = first_storage(sorted, n, key), bytes;
    if (i == n || sorted[i]->elem_bytes == 0 || sorted[i]->data) {
        return fv_fail(ctx, FV_ERR_FORMAT,
                       "checkpoint lists a storage that no tensor uses or that is unknown");
    }
    if (r->size - *at < 8)
        return fv_fail(ctx, FV_ERR_TRUNCATED, "checkpoint ends inside its storages");
    const uint64_t count = fvi_le(r->bytes + *at, 8);
    *at += 8;
    const uint8_t elem = sorted[i]->elem_bytes;
    if (count > SIZE_MAX || !fv_mul_size((size_t)count, elem, &bytes) || bytes > r->size - *at) {
        return fv_fail(ctx, FV_ERR_TRUNCATED, "checkpoint ends inside storage %.*s",
                       key->bytes < 60 ? (int)key->bytes : 60, key->text);
    }
    for (; i < n && compare_key(sorted[i]->key, sorted[i]->key_bytes, key->text, key->bytes) == 0;
         i++) {
        if (sorted[i]->elem_bytes != elem || (uint64_t)sorted[i]->count > count) {
            return fv_fail(ctx, FV_ERR_FORMAT, "checkpoint contradicts itself on storage %.*s",
                           key->bytes < 60 ? (int)key->bytes : 60, key->text);
        }
        sorted[i]->data = r->bytes + *at;
    }
    *at += bytes;
    return FV_OK;
}

static fv_status place_storages(reader *r, uint32_t keys, size_t at)
{
    fvi_pickle *p = &r->pickle;
    fvi_pstorage **sorted = fv_calloc(r->m->ctx, p->storage_count + 1, sizeof *sorted);
    if (!sorted) return FV_ERR_OOM;
    fv_status s = FV_OK;
    for (size_t i = 0; i < p->storage_count; i++) sorted[i] = &p->storage[i];
    qsort(sorted, p->storage_count, sizeof *sorted, compare_storages);
    const bool is_list = p->value[keys].kind == FVI_PV_LIST;
    if (!is_list) s = fv_fail(r->m->ctx, FV_ERR_FORMAT, "checkpoint has no list of storages");
    for (uint32_t c = is_list ? p->value[keys].u.list.head : 0; c && s == FV_OK;
         c = p->cell[c].next) {
        const fvi_pv *key = &p->value[p->cell[c].value];
        s = key->kind == FVI_PV_STR
                ? place_storage(r, sorted, key, &at)
                : fv_fail(r->m->ctx, FV_ERR_FORMAT, "checkpoint has a bad storage key");
    }
    fv_free(r->m->ctx, sorted);
    return s;
}

static fv_status check_system(reader *r, uint32_t facts)
{
    static const char name[] = "little_endian";
    const fvi_pickle *p = &r->pickle;
    if (p->value[facts].kind != FVI_PV_DICT) return FV_OK;
    for (uint32_t c = p->value[facts].u.list.head; c; c = p->cell[c].next) {
        const fvi_pv *key = &p->value[p->cell[c].value];
        c = p->cell[c].next;
        const fvi_pv *v = &p->value[p->cell[c].value];
        if (key->kind == FVI_PV_STR && key->bytes == sizeof name - 1
            && memcmp(key->text, name, sizeof name - 1) == 0 && v->kind == FVI_PV_BOOL && !v->v.i) {
            return fv_fail(r->m->ctx, FV_ERR_UNSUPPORTED,
                           "checkpoint was written on a big-endian machine");
        }
    }
    return FV_OK;
}

static fv_status run_legacy(reader *r, size_t *at, uint32_t *root)
{
    size_t end = r->size; /* the limit on header bytes holds for each pickle */
    if (end - *at > r->m->max_header_bytes) end = *at + (size_t)r->m->max_header_bytes;
    const fv_status s = fvi_pickle_run(&r->pickle, r->bytes, end, at, root);
    if (s == FV_ERR_TRUNCATED && end < r->size) {
        return fv_fail(r->m->ctx, FV_ERR_LIMIT,
                       "checkpoint's pickle exceeds the limit of %llu bytes",
                       (unsigned long long)r->m->max_header_bytes);
    }
    return s;
}

static fv_status read_legacy(reader *r)
{
    static const char magic[10] = "\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
    const fvi_pickle *p = &r->pickle;
    fv_ctx *ctx = r->m->ctx;
    size_t at = 0;
    uint32_t v, root;
    FV_TRY(run_legacy(r, &at, &v));
    if (p->value[v].kind != FVI_PV_BIGINT || p->value[v].bytes != sizeof magic
        || memcmp(p->value[v].text, magic, sizeof magic) != 0) {
        return fv_fail(ctx, FV_ERR_FORMAT, "a pickle, but not a PyTorch checkpoint");
    }
    FV_TRY(run_legacy(r, &at, &v));
    if (p->value[v].kind != FVI_PV_INT || p->value[v].v.i != 1001) {
        return fv_fail(ctx, FV_ERR_VERSION, "checkpoint's protocol is not 1001");
    }
    FV_TRY(run_legacy(r, &at, &v));
    FV_TRY(check_system(r, v));
    FV_TRY(run_legacy(r, &at, &root));
    FV_TRY(run_legacy(r, &at, &v));
    FV_TRY(place_storages(r, v, at));
    return flatten(r, root);
}

fv_status fvi_torch_read(fv_model *m, const uint8_t *bytes, size_t size)
{
    reader *r = fv_calloc(m->ctx, 1, sizeof *r);
    if (!r) return FV_ERR_OOM;
    r->m = m;
    r->bytes = bytes;
    r->size = size;
    r->zip.ctx = m->ctx;
    if (!fv_mul_size(size, COPY_RATIO, &r->copy_left)
        || !fv_add_size(r->copy_left, COPY_FREE, &r->copy_left)) {
        r->copy_left = SIZE_MAX;
    }
    r->text_left = m->max_header_bytes < SIZE_MAX ? (size_t)m->max_header_bytes : SIZE_MAX;
    fvi_pickle_init(&r->pickle, m->ctx);
    const fv_status s = bytes[0] == 'P' ? read_zip(r) : read_legacy(r);
    fvi_pickle_free(&r->pickle);
    fvi_zip_close(&r->zip);
    fv_free(m->ctx, r->unpacked);
    fv_free(m->ctx, r);
    return s;
}
