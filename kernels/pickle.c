/* pickle.c - restricted interpreter of Python pickles, protocols 2 to 5 (see pickletools.py).
 *
 * A pickle is a program for a stack machine with a memo. We keep values in one array; containers
 * are lists of cells (value, next), so a value may be in many containers and cycles are possible
 * (who walks the values must limit depth and visits). Sizes are bounded: each opcode makes at most
 * one value, and values, cells, memo and stack have fixed limits.
 *
 * PyTorch: a persistent id ('storage', class, key, location, count) is a storage;
 * torch._utils._rebuild_tensor_v2(storage, offset, size, stride, ...) is a tensor. */
#include "pickle.h"
#include "utf8.h"

#include <string.h>

#define MAX_VALUES (8u << 20)
#define MAX_CELLS (16u << 20)
#define MAX_MEMO (8u << 20)
#define MAX_STACK (4u << 20)

enum {
    GLOBAL_UNKNOWN = 0, GLOBAL_DICT, GLOBAL_DEFAULTDICT, GLOBAL_SIZE, GLOBAL_TENSOR,
    GLOBAL_TENSOR_V3, GLOBAL_PARAMETER, GLOBAL_FROM_TYPE, GLOBAL_STORAGE, GLOBAL_DTYPE
};

static const struct { const char *module, *name; int id; } known_globals[] = {
    { "collections", "OrderedDict", GLOBAL_DICT },
    { "collections", "defaultdict", GLOBAL_DEFAULTDICT },
    { "builtins", "dict", GLOBAL_DICT },
    { "__builtin__", "dict", GLOBAL_DICT },
    { "torch", "Size", GLOBAL_SIZE },
    { "torch._utils", "_rebuild_tensor", GLOBAL_TENSOR },
    { "torch._utils", "_rebuild_tensor_v2", GLOBAL_TENSOR },
    { "torch._utils", "_rebuild_tensor_v3", GLOBAL_TENSOR_V3 },
    { "torch._utils", "_rebuild_parameter", GLOBAL_PARAMETER },
    { "torch._utils", "_rebuild_parameter_with_state", GLOBAL_PARAMETER },
    { "torch._tensor", "_rebuild_from_type_v2", GLOBAL_FROM_TYPE },
};

/* Storage classes and torch.<dtype> names. Types with FV_DTYPE_COUNT are skipped by size
 * only. uint16 has no storage class of its own: its tensors name their type. */
static const struct { const char *storage, *dtype; uint8_t type, bytes; } known_types[] = {
    { "FloatStorage", "float32", FV_F32, 4 },         { "DoubleStorage", "float64", FV_F64, 8 },
    { "HalfStorage", "float16", FV_F16, 2 },          { "BFloat16Storage", "bfloat16", FV_BF16, 2 },
    { "LongStorage", "int64", FV_I64, 8 },            { "IntStorage", "int32", FV_I32, 4 },
    { "ShortStorage", "int16", FV_I16, 2 },           { "CharStorage", "int8", FV_I8, 1 },
    { "ByteStorage", "uint8", FV_U8, 1 },             { "UntypedStorage", "uint16", FV_U16, 2 },
    { "BoolStorage", "bool", FV_DTYPE_COUNT, 1 },
    { "ComplexFloatStorage", "complex64", FV_DTYPE_COUNT, 8 },
    { "ComplexDoubleStorage", "complex128", FV_DTYPE_COUNT, 16 },
    { "QInt8Storage", "qint8", FV_DTYPE_COUNT, 1 },
    { "QUInt8Storage", "quint8", FV_DTYPE_COUNT, 1 },
    { "QInt32Storage", "qint32", FV_DTYPE_COUNT, 4 },
};

static fv_status fail(const fvi_pickle *p, const char *what)
{
    return fv_fail(p->ctx, FV_ERR_FORMAT, "pickle: %s before byte %zu", what, p->at);
}

/* Grow *list, of `size` bytes per element, to hold `need` elements, at most `max`. */
static fv_status reserve(const fvi_pickle *p, void **list, size_t count, size_t *capacity,
                         size_t need, size_t size)
{
    if (need <= *capacity) return FV_OK;
    size_t cap = *capacity ? *capacity * 2 : 64;
    if (cap < need) cap = need;
    void *q = fv_realloc(p->ctx, *list, count * size, cap * size);
    if (!q) return FV_ERR_OOM;
    *list = q;
    *capacity = cap;
    return FV_OK;
}

static fv_status limit(const fvi_pickle *p, const char *what)
{
    return fv_fail(p->ctx, FV_ERR_LIMIT, "pickle: too many %s before byte %zu", what, p->at);
}

/* ---- Values, stack, containers --------------------------------------------------------------- */

static fv_status new_value(fvi_pickle *p, fvi_pv_kind kind, uint32_t *out)
{
    if (p->value_count >= MAX_VALUES) return limit(p, "values");
    void *list = p->value;
    FV_TRY(reserve(p, &list, p->value_count, &p->value_capacity, p->value_count + 1,
                   sizeof *p->value));
    p->value = list;
    memset(&p->value[p->value_count], 0, sizeof *p->value);
    p->value[p->value_count].kind = (uint8_t)kind;
    *out = (uint32_t)p->value_count++;
    return FV_OK;
}

static fv_status push(fvi_pickle *p, uint32_t value)
{
    if (p->stack_count >= MAX_STACK) return limit(p, "values on the stack");
    void *list = p->stack;
    FV_TRY(reserve(p, &list, p->stack_count, &p->stack_capacity, p->stack_count + 1,
                   sizeof *p->stack));
    p->stack = list;
    p->stack[p->stack_count++] = value;
    return FV_OK;
}

static fv_status push_new(fvi_pickle *p, fvi_pv_kind kind, fvi_pv **out)
{
    uint32_t v;
    FV_TRY(new_value(p, kind, &v));
    FV_TRY(push(p, v));
    if (out) *out = &p->value[v];
    return FV_OK;
}

static fv_status push_int(fvi_pickle *p, fvi_pv_kind kind, int64_t i)
{
    fvi_pv *v;
    FV_TRY(push_new(p, kind, &v));
    v->v.i = i;
    return FV_OK;
}

/* Values above the last mark may be taken; below it they belong to an open container. */
static size_t stack_floor(const fvi_pickle *p)
{
    return p->mark_count ? p->mark[p->mark_count - 1] : 0;
}

static fv_status pop(fvi_pickle *p, uint32_t *out)
{
    if (p->stack_count <= stack_floor(p)) return fail(p, "stack is empty");
    *out = p->stack[--p->stack_count];
    return FV_OK;
}

/* The value that stays on top: the container of APPEND, SETITEM, BUILD. */
static fv_status top(const fvi_pickle *p, uint32_t *out)
{
    if (p->stack_count <= stack_floor(p)) return fail(p, "stack is empty");
    *out = p->stack[p->stack_count - 1];
    return FV_OK;
}

/* Remove the last mark; the values above it are stack[*first..stack_count). */
static fv_status pop_mark(fvi_pickle *p, size_t *first)
{
    *first = 0;
    if (p->mark_count == 0) return fail(p, "no mark");
    *first = p->mark[--p->mark_count];
    return FV_OK;
}

static fv_status add_child(fvi_pickle *p, uint32_t container, uint32_t child)
{
    if (p->cell_count >= MAX_CELLS) return limit(p, "container entries");
    void *list = p->cell;
    FV_TRY(reserve(p, &list, p->cell_count, &p->cell_capacity, p->cell_count + 1, sizeof *p->cell));
    p->cell = list;
    const uint32_t c = (uint32_t)p->cell_count++;
    p->cell[c].value = child;
    p->cell[c].next = 0;
    fvi_pv *v = &p->value[container];
    if (v->u.list.tail) p->cell[v->u.list.tail].next = c;
    else v->u.list.head = c;
    v->u.list.tail = c;
    v->u.list.count++;
    return FV_OK;
}

/* New container of the values stack[first..), which are removed. */
static fv_status collect(fvi_pickle *p, fvi_pv_kind kind, size_t first)
{
    uint32_t v;
    FV_TRY(new_value(p, kind, &v));
    for (size_t i = first; i < p->stack_count; i++) FV_TRY(add_child(p, v, p->stack[i]));
    p->stack_count = first;
    return push(p, v);
}

/* TUPLE1..3. */
static fv_status collect_top(fvi_pickle *p, size_t n)
{
    if (p->stack_count < stack_floor(p) + n) return fail(p, "stack is empty");
    return collect(p, FVI_PV_TUPLE, p->stack_count - n);
}

/* Add stack[first..) to the container below; what is opaque swallows it. */
static fv_status extend(fvi_pickle *p, fvi_pv_kind kind, size_t first)
{
    if (first <= stack_floor(p)) return fail(p, "no container");
    const uint32_t c = p->stack[first - 1];
    if (kind == FVI_PV_DICT && (p->stack_count - first) % 2) return fail(p, "a key without value");
    if (p->value[c].kind == kind) {
        for (size_t i = first; i < p->stack_count; i++) FV_TRY(add_child(p, c, p->stack[i]));
    } else if (p->value[c].kind != FVI_PV_OPAQUE) {
        return fail(p, "entries for what is no container");
    }
    p->stack_count = first;
    return FV_OK;
}

uint32_t fvi_pickle_child(const fvi_pickle *p, uint32_t container, size_t i)
{
    const fvi_pv *v = &p->value[container];
    if (v->kind != FVI_PV_TUPLE && v->kind != FVI_PV_LIST) return 0;
    uint32_t c = v->u.list.head;
    while (c && i--) c = p->cell[c].next;
    return c ? p->cell[c].value : 0;
}

/* ---- Reading arguments ----------------------------------------------------------------------- */

/* Outputs are cleared first: the compiler cannot see that a failure is never FV_OK. */
static fv_status take(fvi_pickle *p, uint64_t n, const uint8_t **out)
{
    *out = NULL;
    if (n > p->size - p->at) {
        return fv_fail(p->ctx, FV_ERR_TRUNCATED, "pickle: ends inside the opcode before byte %zu",
                       p->at);
    }
    *out = p->bytes + p->at;
    p->at += (size_t)n;
    return FV_OK;
}

static fv_status take_le(fvi_pickle *p, int bytes, uint64_t *out)
{
    const uint8_t *b;
    FV_TRY(take(p, (uint64_t)bytes, &b));
    *out = 0;
    for (int i = bytes - 1; i >= 0; i--) *out = *out << 8 | b[i];
    return FV_OK;
}

/* Text up to a newline, which is consumed but not counted. */
static fv_status take_line(fvi_pickle *p, const char **text, size_t *n)
{
    const uint8_t *start = p->bytes + p->at, *end = memchr(start, '\n', p->size - p->at);
    *text = NULL;
    *n = 0;
    if (!end) return fv_fail(p->ctx, FV_ERR_TRUNCATED, "pickle: ends inside a name");
    *text = (const char *)start;
    *n = (size_t)(end - start);
    p->at += *n + 1;
    return FV_OK;
}

/* Length of `width` bytes, then that many bytes of text. */
static fv_status push_string(fvi_pickle *p, int width)
{
    uint64_t n;
    const uint8_t *b;
    FV_TRY(take_le(p, width, &n));
    FV_TRY(take(p, n, &b));
    if (!fvi_utf8_valid(b, (size_t)n) || memchr(b, 0, (size_t)n)) return push(p, 0);
    fvi_pv *v;
    FV_TRY(push_new(p, FVI_PV_STR, &v));
    v->text = (const char *)b;
    v->bytes = (size_t)n;
    return FV_OK;
}

static fv_status push_bytes(fvi_pickle *p, int width)
{
    uint64_t n;
    const uint8_t *b;
    FV_TRY(take_le(p, width, &n));
    FV_TRY(take(p, n, &b));
    return push(p, 0);
}

/* Two's complement, little-endian, n bytes. */
static fv_status push_long(fvi_pickle *p, int width)
{
    uint64_t n;
    const uint8_t *b;
    FV_TRY(take_le(p, width, &n));
    FV_TRY(take(p, n, &b));
    if (n > 8) {
        fvi_pv *v;
        FV_TRY(push_new(p, FVI_PV_BIGINT, &v));
        v->text = (const char *)b;
        v->bytes = (size_t)n;
        return FV_OK;
    }
    uint64_t u = n && b[n - 1] & 0x80 ? UINT64_MAX : 0;
    for (size_t i = (size_t)n; i-- > 0;) u = u << 8 | b[i];
    int64_t i;
    memcpy(&i, &u, sizeof i);
    return push_int(p, FVI_PV_INT, i);
}

static fv_status push_float(fvi_pickle *p)
{
    const uint8_t *b;
    fvi_pv *v;
    uint64_t u = 0;
    FV_TRY(take(p, 8, &b));
    for (int i = 0; i < 8; i++) u = u << 8 | b[i]; /* the only big-endian number in a pickle */
    FV_TRY(push_new(p, FVI_PV_FLOAT, &v));
    memcpy(&v->v.d, &u, sizeof u);
    return FV_OK;
}

/* ---- Memo ------------------------------------------------------------------------------------ */

static fv_status memo_put(fvi_pickle *p, uint64_t index)
{
    uint32_t v;
    FV_TRY(top(p, &v));
    if (index >= MAX_MEMO) return limit(p, "memo entries");
    void *list = p->memo;
    FV_TRY(reserve(p, &list, p->memo_count, &p->memo_capacity, (size_t)index + 1, sizeof *p->memo));
    p->memo = list;
    while (p->memo_count <= index) p->memo[p->memo_count++] = 0;
    p->memo[index] = v + 1;
    return FV_OK;
}

static fv_status memo_get(fvi_pickle *p, int width)
{
    uint64_t index;
    FV_TRY(take_le(p, width, &index));
    if (index >= p->memo_count || p->memo[index] == 0) return fail(p, "memo entry is not set");
    return push(p, p->memo[index] - 1);
}

/* ---- Globals and calls ----------------------------------------------------------------------- */

static bool text_is(const char *text, size_t n, const char *literal)
{
    return strlen(literal) == n && memcmp(text, literal, n) == 0;
}

/* torch.FloatStorage, torch.cuda.HalfStorage, torch.storage.UntypedStorage, torch.uint16. */
static void recognise_torch(fvi_pv *v, bool is_torch)
{
    for (size_t i = 0; i < FV_ARRAY_LEN(known_types); i++) {
        if (is_torch && text_is(v->text, v->bytes, known_types[i].dtype)) {
            v->v.i = GLOBAL_DTYPE;
            v->dtype = known_types[i].type;
            return;
        }
        if (text_is(v->text, v->bytes, known_types[i].storage)) {
            v->v.i = GLOBAL_STORAGE;
            v->has_dtype = (uint8_t)(i + 1);
            return;
        }
    }
    if (v->bytes > 7 && text_is(v->text + v->bytes - 7, 7, "Storage")) v->v.i = GLOBAL_STORAGE;
}

static fv_status push_global(fvi_pickle *p, const char *module, size_t module_bytes,
                             const char *name, size_t name_bytes)
{
    fvi_pv *v;
    FV_TRY(push_new(p, FVI_PV_GLOBAL, &v));
    v->text = name;
    v->bytes = name_bytes;
    v->v.i = GLOBAL_UNKNOWN;
    v->dtype = FV_DTYPE_COUNT;
    for (size_t i = 0; i < FV_ARRAY_LEN(known_globals); i++) {
        if (text_is(module, module_bytes, known_globals[i].module)
            && text_is(name, name_bytes, known_globals[i].name)) {
            v->v.i = known_globals[i].id;
            return FV_OK;
        }
    }
    const bool is_torch = text_is(module, module_bytes, "torch");
    if (is_torch || text_is(module, module_bytes, "torch.storage")
        || text_is(module, module_bytes, "torch.cuda")) {
        recognise_torch(v, is_torch);
    }
    return FV_OK;
}

static fv_status op_global(fvi_pickle *p)
{
    const char *module, *name;
    size_t m, n;
    FV_TRY(take_line(p, &module, &m));
    FV_TRY(take_line(p, &name, &n));
    return push_global(p, module, m, name, n);
}

static fv_status op_stack_global(fvi_pickle *p)
{
    uint32_t name, module;
    FV_TRY(pop(p, &name));
    FV_TRY(pop(p, &module));
    const fvi_pv n = p->value[name], m = p->value[module];
    if (n.kind != FVI_PV_STR || m.kind != FVI_PV_STR) return push(p, 0);
    return push_global(p, m.text, m.bytes, n.text, n.bytes);
}

/* ('storage', class, key, location, count[, view]) where view is (key, offset, count) or None. */
static fv_status op_persistent(fvi_pickle *p)
{
    uint32_t id;
    FV_TRY(pop(p, &id));
    const fvi_pv *tag = &p->value[fvi_pickle_child(p, id, 0)];
    if (tag->kind != FVI_PV_STR || !text_is(tag->text, tag->bytes, "storage")) return push(p, 0);
    const fvi_pv *class = &p->value[fvi_pickle_child(p, id, 1)];
    const fvi_pv *key = &p->value[fvi_pickle_child(p, id, 2)];
    const fvi_pv *count = &p->value[fvi_pickle_child(p, id, 4)];
    if (class->kind != FVI_PV_GLOBAL || class->v.i != GLOBAL_STORAGE || key->kind != FVI_PV_STR
        || key->bytes > FVI_PSTORAGE_KEY_MAX || count->kind != FVI_PV_INT || count->v.i < 0) {
        return fail(p, "bad storage");
    }
    fvi_pstorage s = { .key = key->text, .key_bytes = key->bytes, .count = count->v.i };
    s.type = class->text;
    s.type_bytes = class->bytes;
    s.dtype = FV_DTYPE_COUNT;
    if (class->has_dtype) {
        const bool untyped = text_is(class->text, class->bytes, "UntypedStorage");
        s.dtype = untyped ? (uint8_t)FV_U8 : known_types[class->has_dtype - 1].type;
        s.elem_bytes = untyped ? 1 : known_types[class->has_dtype - 1].bytes;
    }
    const uint32_t view = fvi_pickle_child(p, id, 5);
    if (p->value[view].kind == FVI_PV_TUPLE) {
        const fvi_pv *offset = &p->value[fvi_pickle_child(p, view, 1)];
        if (offset->kind != FVI_PV_INT || offset->v.i < 0) return fail(p, "bad storage view");
        s.view_offset = offset->v.i;
    }
    void *list = p->storage;
    FV_TRY(
        reserve(p, &list, p->storage_count, &p->storage_capacity, p->storage_count + 1, sizeof s));
    p->storage = list;
    p->storage[p->storage_count] = s;
    return push_int(p, FVI_PV_STORAGE, (int64_t)p->storage_count++);
}

/* Arguments (storage, offset, size, stride, ...; v3: dtype is the seventh). */
static fv_status make_tensor(fvi_pickle *p, uint32_t args, bool v3)
{
    const uint32_t storage = fvi_pickle_child(p, args, 0), size = fvi_pickle_child(p, args, 2);
    const uint32_t offset = fvi_pickle_child(p, args, 1), stride = fvi_pickle_child(p, args, 3);
    const fvi_pv type = p->value[v3 ? fvi_pickle_child(p, args, 6) : 0];
    const uint8_t size_kind = p->value[size].kind, stride_kind = p->value[stride].kind;
    const int64_t start = p->value[offset].v.i;
    if (p->value[storage].kind != FVI_PV_STORAGE || p->value[offset].kind != FVI_PV_INT || start < 0
        || (size_kind != FVI_PV_TUPLE && size_kind != FVI_PV_LIST)
        || (stride_kind != FVI_PV_TUPLE && stride_kind != FVI_PV_LIST)) {
        return fail(p, "bad tensor");
    }
    fvi_pv *t;
    FV_TRY(push_new(p, FVI_PV_TENSOR, &t));
    t->u.tensor.storage = storage;
    t->u.tensor.size = size;
    t->u.tensor.stride = stride;
    t->v.i = start;
    t->has_dtype = v3;
    t->dtype = type.kind == FVI_PV_GLOBAL && type.v.i == GLOBAL_DTYPE ? type.dtype : FV_DTYPE_COUNT;
    return FV_OK;
}

/* OrderedDict([[k, v], ...]) of Python 2; without arguments: empty. */
static fv_status make_dict(fvi_pickle *p, uint32_t args)
{
    const uint32_t list = fvi_pickle_child(p, args, 0);
    uint32_t dict;
    FV_TRY(new_value(p, FVI_PV_DICT, &dict));
    if (p->value[list].kind == FVI_PV_LIST) {
        for (uint32_t c = p->value[list].u.list.head; c; c = p->cell[c].next) {
            const uint32_t pair = p->cell[c].value;
            FV_TRY(add_child(p, dict, fvi_pickle_child(p, pair, 0)));
            FV_TRY(add_child(p, dict, fvi_pickle_child(p, pair, 1)));
        }
    }
    return push(p, dict);
}

static fv_status apply(fvi_pickle *p, uint32_t callable, uint32_t args)
{
    const fvi_pv *f = &p->value[callable];
    uint32_t first = fvi_pickle_child(p, args, 0);
    if (f->kind == FVI_PV_GLOBAL && f->v.i == GLOBAL_FROM_TYPE) {
        /* (callable, type, args, state) */
        args = fvi_pickle_child(p, args, 2);
        f = &p->value[first];
        first = fvi_pickle_child(p, args, 0);
        if (f->kind == FVI_PV_GLOBAL && f->v.i == GLOBAL_FROM_TYPE) return push(p, 0);
    }
    if (f->kind != FVI_PV_GLOBAL) return push(p, 0);
    switch (f->v.i) {
    case GLOBAL_DICT: return make_dict(p, args);
    case GLOBAL_DEFAULTDICT: return make_dict(p, 0);
    case GLOBAL_TENSOR: return make_tensor(p, args, false);
    case GLOBAL_TENSOR_V3: return make_tensor(p, args, true);
    case GLOBAL_PARAMETER: return push(p, first);
    case GLOBAL_SIZE: return push(p, p->value[first].kind == FVI_PV_LIST
                                     || p->value[first].kind == FVI_PV_TUPLE ? first : 0);
    default: return push(p, 0);
    }
}

static fv_status op_call(fvi_pickle *p, bool with_keywords)
{
    uint32_t args, callable;
    if (with_keywords) FV_TRY(pop(p, &args));
    FV_TRY(pop(p, &args));
    FV_TRY(pop(p, &callable));
    return apply(p, callable, args);
}

/* ---- The machine ----------------------------------------------------------------------------- */

static fv_status op_mark(fvi_pickle *p)
{
    if (p->mark_count >= MAX_STACK) return limit(p, "marks");
    void *list = p->mark;
    FV_TRY(reserve(p, &list, p->mark_count, &p->mark_capacity, p->mark_count + 1, sizeof *p->mark));
    p->mark = list;
    p->mark[p->mark_count++] = (uint32_t)p->stack_count;
    return FV_OK;
}

/* Opcodes that push a constant. */
static fv_status step_constant(fvi_pickle *p, uint8_t op)
{
    uint64_t u;
    switch (op) {
    case 'N': return push_new(p, FVI_PV_NONE, NULL);
    case 0x88: return push_int(p, FVI_PV_BOOL, 1);
    case 0x89: return push_int(p, FVI_PV_BOOL, 0);
    case 'J': /* BININT, signed */
        FV_TRY(take_le(p, 4, &u));
        return push_int(p, FVI_PV_INT, (int64_t)u - (u >> 31 ? (int64_t)1 << 32 : 0));
    case 'K': FV_TRY(take_le(p, 1, &u)); return push_int(p, FVI_PV_INT, (int64_t)u);
    case 'M': FV_TRY(take_le(p, 2, &u)); return push_int(p, FVI_PV_INT, (int64_t)u);
    case 0x8a: return push_long(p, 1);
    case 0x8b: return push_long(p, 4);
    case 'G': return push_float(p);
    case 'U': case 0x8c: return push_string(p, 1);
    case 'T': case 'X': return push_string(p, 4);
    case 0x8d: return push_string(p, 8);
    case 'C': return push_bytes(p, 1);
    case 'B': return push_bytes(p, 4);
    case 0x8e: case 0x96: return push_bytes(p, 8);
    case ')': return push_new(p, FVI_PV_TUPLE, NULL);
    case ']': return push_new(p, FVI_PV_LIST, NULL);
    case '}': return push_new(p, FVI_PV_DICT, NULL);
    case 0x8f: return push(p, 0); /* empty set */
    default:
        return fv_fail(p->ctx, FV_ERR_UNSUPPORTED,
                       "pickle: opcode 0x%02x before byte %zu is not read", op, p->at);
    }
}

/* Opcodes that take everything above the last mark. */
static fv_status step_mark(fvi_pickle *p, uint8_t op)
{
    size_t first;
    FV_TRY(pop_mark(p, &first));
    switch (op) {
    case 't': return collect(p, FVI_PV_TUPLE, first);
    case 'l': return collect(p, FVI_PV_LIST, first);
    case 'd':
        if ((p->stack_count - first) % 2) return fail(p, "a key without value");
        return collect(p, FVI_PV_DICT, first);
    case 'e': return extend(p, FVI_PV_LIST, first);
    case 'u': return extend(p, FVI_PV_DICT, first);
    case 0x90: /* ADDITEMS to a set */
        p->stack_count = first;
        return first > stack_floor(p) ? FV_OK : fail(p, "no container");
    case 0x91: /* FROZENSET */
        p->stack_count = first;
        return push(p, 0);
    default: /* POP_MARK */
        p->stack_count = first;
        return FV_OK;
    }
}

static fv_status step(fvi_pickle *p, uint8_t op)
{
    uint32_t v;
    uint64_t u;
    switch (op) {
    case 0x80: /* PROTO */
        FV_TRY(take_le(p, 1, &u));
        return u <= 5 ? FV_OK
                      : fv_fail(p->ctx, FV_ERR_VERSION, "pickle: protocol %d is not known", (int)u);
    case 0x95: return take_le(p, 8, &u); /* FRAME: a hint for streams */
    case '(': return op_mark(p);
    case '0': return p->mark_count && p->stack_count == stack_floor(p) ? pop_mark(p, &(size_t){ 0 })
                                                                       : pop(p, &v);
    case '2': FV_TRY(top(p, &v)); return push(p, v);
    case 0x85: return collect_top(p, 1);
    case 0x86: return collect_top(p, 2);
    case 0x87: return collect_top(p, 3);
    case 't': case 'l': case 'd': case 'e': case 'u': case '1': case 0x90: case 0x91:
        return step_mark(p, op);
    case 'a': return extend(p, FVI_PV_LIST, p->stack_count - (p->stack_count > 0));
    case 's': return p->stack_count < 2 ? fail(p, "stack is empty")
                                        : extend(p, FVI_PV_DICT, p->stack_count - 2);
    case 'h': return memo_get(p, 1);
    case 'j': return memo_get(p, 4);
    case 'q': FV_TRY(take_le(p, 1, &u)); return memo_put(p, u);
    case 'r': FV_TRY(take_le(p, 4, &u)); return memo_put(p, u);
    case 0x94: return memo_put(p, p->memo_count);
    case 'c': return op_global(p);
    case 0x93: return op_stack_global(p);
    case 'Q': return op_persistent(p);
    case 'R': case 0x81: return op_call(p, false);
    case 0x92: return op_call(p, true);
    case 'b': FV_TRY(pop(p, &v)); return top(p, &v); /* BUILD: attributes are not followed */
    default: return step_constant(p, op);
    }
}

void fvi_pickle_init(fvi_pickle *p, fv_ctx *ctx)
{
    memset(p, 0, sizeof *p);
    p->ctx = ctx;
}

void fvi_pickle_free(fvi_pickle *p)
{
    fv_free(p->ctx, p->value);
    fv_free(p->ctx, p->cell);
    fv_free(p->ctx, p->storage);
    fv_free(p->ctx, p->stack);
    fv_free(p->ctx, p->mark);
    fv_free(p->ctx, p->memo);
    fvi_pickle_init(p, p->ctx);
}

fv_status fvi_pickle_run(fvi_pickle *p, const uint8_t *bytes, size_t size, size_t *at,
                         uint32_t *root)
{
    p->bytes = bytes;
    p->size = size;
    p->at = *at;
    p->stack_count = p->mark_count = p->memo_count = 0;
    if (p->value_count == 0) { /* the opaque value and the unused cell */
        uint32_t zero;
        FV_TRY(new_value(p, FVI_PV_OPAQUE, &zero));
        void *list = p->cell;
        FV_TRY(reserve(p, &list, 0, &p->cell_capacity, 1, sizeof *p->cell));
        p->cell = list;
        p->cell_count = 1;
    }
    for (;;) {
        const uint8_t *op;
        FV_TRY(take(p, 1, &op));
        if (*op == '.') break;
        FV_TRY(step(p, *op));
    }
    FV_TRY(pop(p, root));
    *at = p->at;
    return FV_OK;
}
