/* internal.h - shared by the .c files of codec/ only.
 *
 * vzip in one picture:
 *
 *     bytes -> vz_split (segments) -> blocks of at most --block-size -> per block the smallest of
 *              store | zstd | modelled -> frame (vz_frame.c) -> file
 *
 * A modelled block is a list of segments. Segments of the context-mixing family are coded one after
 * the other by one vz_cm whose tables live as long as the block, so that statistics are shared over
 * text, code and tables of one archive. Every other kind (image, audio, bases) has a coder of its
 * own that sees only its segment. All coders are integer only: the same bytes on every machine. */
#ifndef VZ_INTERNAL_H
#define VZ_INTERNAL_H

#include "engine.h"
#include "fovea_codec.h"

/* ---- Growing byte buffer; errors stick in status: check at the end (vz_buf.c) ---------------- */
typedef struct vz_buf {
    fv_ctx *ctx;
    uint8_t *data;
    size_t size, capacity;
    fv_status status;
} vz_buf;
void vz_buf_init(vz_buf *b, fv_ctx *ctx);
void vz_buf_free(vz_buf *b);
/* Room for `extra` more bytes at data + size; NULL when out of memory. Does not change size. */
uint8_t *vz_buf_room(vz_buf *b, size_t extra);
/* Gives back what it does not use, memory permitting. */
void vz_buf_trim(vz_buf *b);
void vz_buf_put(vz_buf *b, const void *bytes, size_t n);
void vz_buf_byte(vz_buf *b, uint8_t v);
void vz_buf_le(vz_buf *b, uint64_t v, int bytes); /* little-endian */
void vz_buf_varint(vz_buf *b, uint64_t v);        /* LEB128 */

/* Reader over bytes that may lie: every get fails with FV_ERR_TRUNCATED or FV_ERR_FORMAT. */
typedef struct vz_in {
    fv_ctx *ctx;
    const uint8_t *p, *end;
} vz_in;
fv_status vz_in_le(vz_in *r, int bytes, uint64_t *out);
fv_status vz_in_varint(vz_in *r, uint64_t *out);
fv_status vz_in_take(vz_in *r, size_t n, const uint8_t **out);

/* ---- zstd in memory of the context (vz_zstd.c) ------------------------------------------------ */
#define VZ_ZSTD_BEST 19
/* *coded is 0 when the code would not fit into `room` bytes at `to`. */
fv_status vz_zstd_code(fv_ctx *ctx, int level, const uint8_t *data, size_t size, uint8_t *to,
                       size_t room, size_t *coded);
/* Exactly `size` bytes from one frame that says so and fills the n bytes. */
fv_status vz_zstd_decode(fv_ctx *ctx, const uint8_t *coded, size_t n, uint8_t *data, size_t size);

/* ---- Rows with the filters of PNG, a byte before each row says which (vz_filter.c) ------------- */
typedef struct vz_filtered {
    uint32_t count;
    size_t bytes, step; /* of a row without its filter; of a pixel */
} vz_filtered;
/* In place: (filter, filtered row)* to (filter, row)*. False for an unknown filter. */
bool vz_filtered_plain(const vz_filtered *r, uint8_t *p);
/* And back, by the filters that are there. */
void vz_filtered_again(const vz_filtered *r, uint8_t *p);
/* libpng's choice of a filter: the least sum of absolute values. above: NULL for the first row. */
int vz_filtered_likely(const vz_filtered *r, const uint8_t *row, const uint8_t *above);

/* ---- Segments -------------------------------------------------------------------------------- */
/* Numbers are part of the format: never change one, add at the end of a group. */
typedef enum vz_kind {
    /* coded by the block's shared vz_cm */
    VZ_BINARY = 0,
    VZ_TEXT = 1,
    VZ_X86 = 2,     /* machine code; call and jump targets made absolute before coding */
    VZ_ARM64 = 3,
    VZ_RECORDS = 4, /* param = record length in bytes, 2..65535 */
    /* coded alone */
    VZ_IMAGE = 16,  /* pixels with header; param: see vz_image.c */
    VZ_AUDIO = 17,  /* PCM with header */
    VZ_GENES = 18,  /* FASTA, FASTQ */
    VZ_DEFLATE = 19, /* PNG and other zlib streams, reproduced bit for bit (vz_deflate.c) */
    /* coded by the block's stream of pieces, cm_token.h; param: 1 with the model's network */
    VZ_PIECES = 20,
    VZ_KINDS = 21
} vz_kind;

FV_INLINE bool vz_kind_is_cm(vz_kind k) { return k <= VZ_RECORDS; }

typedef struct vz_segment {
    vz_kind kind;
    uint32_t param;
    uint64_t size; /* original bytes */
} vz_segment;

/* What is known about a block from before it (vz_media.c): segments at places in it, in order. */
typedef struct vz_hint {
    uint64_t at;
    vz_segment g;
} vz_hint;
typedef struct vz_hints {
    const vz_hint *list;
    size_t count;
} vz_hints;

/* Cut `size` bytes into segments (vz_split.c). Never fails for odd content: the fallback is one
 * VZ_BINARY segment. *segs is owned by the caller (fv_free); at least 1 unless size is 0.
 * hints: NULL = none. */
fv_status vz_split(fv_ctx *ctx, const uint8_t *data, size_t size, int level, const vz_hints *hints,
                   vz_segment **segs, int *count);

/* VZ_X86, VZ_ARM64, or VZ_BINARY where nothing speaks for code (cm_exe.c). */
vz_kind vz_exe_kind(const uint8_t *data, size_t size);

/* ---- The context-mixing coder of a block (cm.c) ---------------------------------------------- */
typedef struct vz_model vz_model; /* trained prior: priming bytes, vocabulary, network */

/* What is known before the first byte: the model of the frame, and which of its texts (bit i: number
 * i) are replayed before what is coded; `allowed`: which an encoder may choose for a block, and
 * whether it may use the network. */
#define VZ_ALLOW_NET 0x80000000u
typedef struct vz_prior {
    const vz_model *model;
    uint32_t primes, allowed;
    struct vz_lanes *lanes; /* where the network runs (vz_lanes.h); NULL: here */
} vz_prior;

typedef struct vz_cm_options {
    int level;         /* see vz_level */
    int memory_log2;   /* of the tables, from the frame header: 20..30 */
    const vz_prior *prior; /* NULL: none */
} vz_cm_options;
/* Bytes that stand for the past of a block that has none, replayed before coding (vz_prime.c). */
typedef struct vz_cm_prime {
    vz_kind kind;
    uint32_t param;
    const uint8_t *data;
    size_t size;
} vz_cm_prime;
#define VZ_PRIMES 16
#define VZ_PRIME_BELOW ((uint64_t)1 << 20) /* larger blocks learn no texts: they have a past soon */
/* What o->prior means for `size` bytes of context mixing: fills `list`, returns their number. */
int vz_prime_list(const vz_cm_options *o, uint64_t size, vz_cm_prime list[VZ_PRIMES]);
/* Which texts of a model are of kind VZ_TEXT: bits. */
uint32_t vz_prime_texts(const vz_model *m);
/* Bytes of all of these; does not fall as size grows. The same at most, whatever is named. */
uint64_t vz_prime_bytes(const vz_cm_options *o, uint64_t size);
uint64_t vz_prime_bytes_max(const vz_cm_options *o, uint64_t size);
/* Which of the texts o->prior->allowed suit a block best: bits, or 0. */
fv_status vz_prime_choose(fv_ctx *ctx, const vz_cm_options *o, const uint8_t *data, size_t size,
                          const vz_segment *segs, int count, uint32_t *chosen);
/* The model that is part of the library; NULL: built without. */
const vz_model *vz_prime_model(void);

/* Bytes that coding a block of `size` bytes takes at most: checked before anything is allocated. */
uint64_t vz_cm_memory(const vz_cm_options *o, uint64_t size);
/* Appends the code of all CM segments (in order; other kinds are skipped over in `data`) to out.
 * This and all coders below call fv_report(ctx, "coding", bytes done, 0, NULL) at least every 64 KiB
 * and return its status: that is how Ctrl-C reaches a block that takes minutes. */
fv_status vz_cm_encode(fv_ctx *ctx, const vz_cm_options *o, const vz_segment *segs, int count,
                       const uint8_t *data, vz_buf *out);
/* Writes into the places of the CM segments inside `data`. Hostile code gives wrong bytes or an
 * error, never more. */
fv_status vz_cm_decode(fv_ctx *ctx, const vz_cm_options *o, const vz_segment *segs, int count,
                       const uint8_t *code, size_t code_size, uint8_t *data);

/* The same for segments of pieces (vz_text_units.c); o->prior has a model with a vocabulary. */
uint64_t vz_pieces_memory(const vz_cm_options *o, uint64_t size, bool has_net);
fv_status vz_pieces_encode(fv_ctx *ctx, const vz_cm_options *o, const vz_segment *segs, int count,
                           const uint8_t *data, vz_buf *out);
fv_status vz_pieces_decode(fv_ctx *ctx, const vz_cm_options *o, const vz_segment *segs, int count,
                           const uint8_t *code, size_t code_size, uint8_t *data);
/* Makes VZ_PIECES of a block's VZ_TEXT segments unless bytes suit them better. */
fv_status vz_text_units(fv_ctx *ctx, const vz_cm_options *o, const uint8_t *data,
                        vz_segment *segs, int count);

/* ---- Coders of the other kinds --------------------------------------------------------------- */
/* encode: appends to out; when the content does not suit the coder after all, leaves out as it was
 * and sets *fits = false (the segment is then coded as VZ_BINARY). decode: exactly `size` bytes.
 * Both are pure functions of their arguments and may run on any thread with a context of its own. */
typedef struct vz_coder {
    vz_kind kind;
    const char *name;
    fv_status (*encode)(fv_ctx *ctx, const vz_cm_options *o, uint32_t param, const uint8_t *data,
                        size_t size, vz_buf *out, bool *fits);
    fv_status (*decode)(fv_ctx *ctx, const vz_cm_options *o, uint32_t param, const uint8_t *code,
                        size_t code_size, uint8_t *data, size_t size);
    uint64_t (*memory)(const vz_cm_options *o, uint32_t param, uint64_t size);
} vz_coder;
extern const vz_coder vz_image_coder, vz_audio_coder, vz_genes_coder, vz_deflate_coder;
/* Bytes of the segment of a kind that begins at data, 0: none; quick to say no. is_start: data begins
 * the block, which may be the middle of a file. */
typedef size_t vz_detect(const uint8_t *data, size_t size, bool is_start, uint32_t *param);
vz_detect vz_audio_detect, vz_genes_detect, vz_image_detect, vz_png_detect;
/* Is that code of the segment, n bytes, smaller than others would be, and can it be decoded
 * (vz_check.c)? */
fv_status vz_code_suits(fv_ctx *ctx, const vz_cm_options *o, const vz_segment *g,
                        const uint8_t *data, const uint8_t *code, size_t n, bool *suits);
/* NULL for a CM kind or an unknown one (vz_coders.c). */
const vz_coder *vz_coder_of(vz_kind kind);

/* ---- Levels (vz_frame.c) --------------------------------------------------------------------- */

#define VZ_LEVEL_DEFAULT 3
typedef struct vz_level {
    uint32_t block_size;
    int memory_log2;  /* vz_cm_options.memory_log2 */
    bool is_thorough; /* tries zstd -19 on every block */
    bool has_verify;  /* decodes every block after coding it */
} vz_level;
const vz_level *vz_level_of(int level); /* NULL: there is none of that number */
int vz_window_of(int level); /* log2 of the bytes that blocks may refer back to */
/* Strength of the models: levels 1-2, 3-5, 6 and above. */
FV_INLINE int vz_class_of(int level) { return level <= 2 ? 0 : level <= 5 ? 1 : 2; }
/* For tables in proportion to data: log2 of the first power of two that is not below x, but
 * least .. most. */
FV_INLINE int vz_log2_within(uint64_t x, int least, int most)
{
    int n = least;
    while (n < most && ((uint64_t)1 << n) < x) n++;
    return n;
}

/* ---- Container: FORMAT-vz.md says what the bytes are (vz_frame.c) ---------------------------- */

#define VZ_VERSION 1
#define VZ_MAGIC_BYTES 8
#define VZ_NAME_MAX 255
#define VZ_MODELS_MAX 16
#define VZ_HEADER_MAX 512      /* longest frame header */
#define VZ_BLOCK_HEADER_MAX 29 /* type, two varints, hash */
#define VZ_INDEX_TAIL 16       /* length of the index, magic, hash of the frame */
#define VZ_BLOCK_BYTES_MAX ((uint64_t)256 << 20)
extern const uint8_t vz_magic[VZ_MAGIC_BYTES], vz_index_magic[4];

enum {
    VZ_HAS_SIZE = 1,
    VZ_HAS_INDEX = 2,
    VZ_HAS_NAME = 4,
    VZ_HAS_TIME = 8,
    VZ_IS_SOLID = 16, /* blocks may refer to what lies before them */
    VZ_IS_SINGLE = 32 /* one block is all: no end mark, index and trailer */
};

typedef enum vz_block_type {
    VZ_STORE = 0,
    VZ_ZSTD = 1,
    VZ_MODELLED = 2,
    VZ_REFERRING = 3, /* references to what lies before, and a block of one of the types above */
    VZ_END = 0x7f
} vz_block_type;

typedef struct vz_header {
    int flags, level, memory_log2, window_log2; /* window_log2: if VZ_IS_SOLID */
    int models;
    struct {
        uint32_t id;
        uint64_t hash;
    } model[VZ_MODELS_MAX];
    uint64_t size;
    char name[VZ_NAME_MAX + 1];
    int64_t mtime_s;
    uint32_t mtime_ns;
    uint32_t mode;
    size_t bytes; /* of the header itself, checksum included */
} vz_header;

typedef struct vz_block_header {
    int type; /* vz_block_type */
    uint64_t original, coded, hash;
    size_t bytes;
} vz_block_header;

void vz_header_put(const vz_header *h, vz_buf *out);
/* FV_ERR_TRUNCATED when the bytes end inside of what may be a header, FV_ERR_FORMAT when they are
 * none; a message about "at byte N" is up to the caller. Moves r behind the header. */
fv_status vz_header_get(vz_in *r, vz_header *h);
void vz_block_header_put(const vz_block_header *h, vz_buf *out);
fv_status vz_block_header_get(vz_in *r, const fv_vzip_limits *limits, vz_block_header *h);
/* Defaults filled in. */
fv_status vz_take_limits(fv_ctx *ctx, const fv_vzip_limits *limits, fv_vzip_limits *out);
uint64_t vz_hash(const void *data, size_t size);
/* The types that a block may have in a frame of that header. */
fv_status vz_block_suits(fv_ctx *ctx, const vz_header *frame, const vz_block_header *h);

/* ---- One block (vz_block.c, vz_modelled.c): any thread, with a context of its own -------------- */

/* The smallest of the three ways; *type says which. A stored block leaves `out` empty. */
fv_status vz_block_encode(fv_ctx *ctx, const vz_cm_options *o, const uint8_t *data, size_t size,
                          const vz_hints *hints, vz_buf *out, vz_block_type *type);
/* What decoding takes: bytes of memory besides coded and original bytes, and bytes of the model's
 * texts that are learnt before. Reads the segment table. */
typedef struct vz_need {
    uint64_t memory, learnt;
} vz_need;
fv_status vz_block_need(fv_ctx *ctx, const vz_cm_options *o, const vz_block_header *h,
                        const uint8_t *coded, vz_need *out);
/* The same at most, for any block of that many original bytes. */
uint64_t vz_block_memory_max(const vz_cm_options *o, uint64_t original);
/* Fills data[0 .. h->original) and compares the hash. */
fv_status vz_block_decode(fv_ctx *ctx, const vz_cm_options *o, const vz_block_header *h,
                          const uint8_t *coded, uint8_t *data);
/* Bytes that encoding a block of `size` bytes takes besides the block itself. */
uint64_t vz_block_encode_memory(const vz_cm_options *o, uint64_t size);

/* With a model in o->prior the payload begins with the texts that are replayed; when encoding, these
 * are chosen from o->prior->allowed. */
fv_status vz_modelled_encode(fv_ctx *ctx, const vz_cm_options *o, const uint8_t *data, size_t size,
                             const vz_hints *hints, vz_buf *out);
/* Does that payload of a frame with a model use it? */
bool vz_modelled_needs_model(const uint8_t *coded, size_t size);
fv_status vz_modelled_need(fv_ctx *ctx, const vz_cm_options *o, const uint8_t *coded,
                           size_t coded_size, uint64_t size, vz_need *out);
FV_INLINE fv_status vz_modelled_memory(fv_ctx *ctx, const vz_cm_options *o, const uint8_t *coded,
                                       size_t coded_size, uint64_t size, uint64_t *out)
{
    vz_need need;
    const fv_status s = vz_modelled_need(ctx, o, coded, coded_size, size, &need);
    *out = need.memory;
    return s;
}
/* The memory at most, for any block of that size. */
uint64_t vz_modelled_memory_max(const vz_cm_options *o, uint64_t size);
fv_status vz_modelled_decode(fv_ctx *ctx, const vz_cm_options *o, const uint8_t *coded,
                             size_t coded_size, uint8_t *data, size_t size);

/* ---- The last bytes of a frame (vz_past.c) ---------------------------------------------------- */

#define VZ_PAGE_LOG2 16
#define VZ_PAGE ((size_t)1 << VZ_PAGE_LOG2)
#define VZ_WINDOW_LOG2_MIN 18
#define VZ_WINDOW_LOG2_MAX 30
typedef struct vz_past {
    fv_ctx *ctx;
    uint8_t **pages;
    int log2; /* of the window */
    uint64_t end; /* position behind the last byte; [end - window, end) are there */
} vz_past;
FV_INLINE size_t vz_past_page(const vz_past *p, uint64_t at)
{
    return (size_t)(at >> VZ_PAGE_LOG2) & (((size_t)1 << (p->log2 - VZ_PAGE_LOG2)) - 1);
}
fv_status vz_past_open(vz_past *p, fv_ctx *ctx, int log2);
void vz_past_close(vz_past *p); /* zeroed is closed */
/* Place for up to `want` bytes at the end, which stays where it is; NULL: out of memory. */
uint8_t *vz_past_room(vz_past *p, size_t want, size_t *there);
/* The bytes from `at` on, as many of `want` as lie together. */
const uint8_t *vz_past_piece(const vz_past *p, uint64_t at, uint64_t want, size_t *there);
fv_status vz_past_put(vz_past *p, const uint8_t *data, uint64_t n);
fv_status vz_past_skip(vz_past *p, uint64_t n); /* zeros */
/* The n bytes that begin `distance` before the end, once more; they may overlap. */
fv_status vz_past_repeat(vz_past *p, uint64_t distance, uint64_t n);
fv_status vz_past_take(const vz_past *p, uint64_t at, uint64_t n, vz_buf *out);
uint64_t vz_past_hash(const vz_past *p, uint64_t at, uint64_t n);

/* ---- Buffered input that counts (vz_source.c) ------------------------------------------------- */

#define VZ_SOURCE_BYTES 65536
typedef struct vz_source {
    fv_ctx *ctx;
    const fv_vzip_io *io;
    size_t at, filled;
    uint64_t offset; /* of buffer[at] in the stream */
    bool is_at_end;  /* nothing comes after what is buffered */
    bool has_read_all;
    vz_past ahead; /* looked at, and not in the buffer: from ahead_at on */
    uint64_t ahead_at;
    uint8_t buffer[VZ_SOURCE_BYTES];
} vz_source;
vz_source *vz_source_open(fv_ctx *ctx, const fv_vzip_io *io);
void vz_source_close(vz_source **s); /* NULL is closed */
/* The next `want` (at most VZ_SOURCE_BYTES / 2) bytes without taking them; fewer at the end. */
fv_status vz_source_peek(vz_source *s, size_t want, vz_in *out);
void vz_source_skip(vz_source *s, size_t n); /* of what was peeked */
/* Fewer only at the end. */
fv_status vz_source_read(vz_source *s, void *to, size_t size, size_t *got);
/* Up to `size` bytes appended to b, which grows as they arrive; fewer only at the end. */
fv_status vz_source_append(vz_source *s, vz_buf *b, uint64_t size, uint64_t *got);
/* The bytes at `distance` from what comes next, without taking them, as far as 768 MiB ahead: n of
 * them, fewer only at the end; or at least one, as many as lie together, none at the end. */
fv_status vz_source_look(vz_source *s, uint64_t distance, size_t n, uint8_t *to, size_t *got);
fv_status vz_source_piece(vz_source *s, uint64_t distance, const uint8_t **p, size_t *there);

/* ---- References (vz_dedup.c) ------------------------------------------------------------------ */

typedef struct vz_dedup vz_dedup;
uint64_t vz_dedup_memory(int window_log2);
struct vz_wholes; /* vz_whole.h: what is not to be cut; NULL: nothing */
fv_status vz_dedup_open(fv_ctx *ctx, vz_dedup **out, int window_log2, struct vz_wholes *wholes);
void vz_dedup_close(vz_dedup **d);
/* First: reads a block. Is it all, then it lies in `plain` and there is nothing to refer to. */
fv_status vz_dedup_start(vz_dedup *d, vz_source *source, uint64_t block_size, vz_buf *plain,
                         bool *is_all);
/* The next block: its plain bytes, at most block_size or what a file needs that is not to be cut, its
 * references, empty if none pay, and a vz_hint for each piece of large media in the plain bytes. */
typedef struct vz_dedup_out {
    vz_buf *plain, *refs, *hints;
    uint64_t original, hash;
} vz_dedup_out;
fv_status vz_dedup_block(vz_dedup *d, vz_source *source, uint64_t block_size, vz_dedup_out *out);
bool vz_dedup_is_empty(const vz_dedup *d); /* of bytes that were read, but are in no block yet */
uint64_t vz_dedup_hash(const vz_dedup *d); /* of all blocks so far */

typedef struct vz_ref {
    uint64_t plain, length, distance;
} vz_ref;
typedef struct vz_refs {
    vz_in in;
    uint64_t left, room, referred, distance;
} vz_refs;
/* The list at the beginning of a payload; next: while left > 0. Where distances lead is checked
 * by vz_refs_apply. */
fv_status vz_refs_open(vz_refs *r, fv_ctx *ctx, const uint8_t *payload, uint64_t size,
                       uint64_t original);
fv_status vz_refs_next(vz_refs *r, vz_ref *ref);
/* Checks the list; the block of plain bytes behind it, original 0 if there are none. */
fv_status vz_refs_inner(fv_ctx *ctx, const fv_vzip_limits *limits, const vz_block_header *h,
                        const uint8_t *payload, vz_block_header *inner, const uint8_t **code);
/* Puts the block together at the end of `past`. */
fv_status vz_refs_apply(fv_ctx *ctx, const vz_block_header *h, const uint8_t *payload,
                        const uint8_t *plain, uint64_t plain_size, vz_past *past);

/* ---- Workers that share the caller's memory (vz_crew.c) ---------------------------------------- */

/* Jobs 0 .. jobs - 1 at a time, each with a context of its own, on at most `threads` threads. */
typedef struct vz_crew vz_crew;
typedef void vz_task(void *user, fv_ctx *ctx, int job);
fv_status vz_crew_open(fv_ctx *ctx, vz_crew **out, int threads, int jobs, vz_task *task, void *user);
/* Ends what runs; buffers of jobs may be freed then. */
void vz_crew_stop(vz_crew *crew);
void vz_crew_close(vz_crew **crew);
fv_ctx *vz_crew_ctx(vz_crew *crew, int job);
/* What the caller's progress is told while it waits: stage, done + what the jobs have done, total. */
typedef struct vz_progress {
    const char *stage;
    uint64_t done, total; /* total 0: unknown */
} vz_progress;
/* Starts a job that codes so many bytes; small ones, and all when there is one thread, have ended
 * when this returns. */
void vz_crew_start(vz_crew *crew, const vz_progress *p, int job, uint64_t bytes);
/* Until the job has ended. Jobs that were told to stop fail with FV_ERR_CANCELLED. */
void vz_crew_wait(vz_crew *crew, const vz_progress *p, int job);

#endif
