/* fovea.h - public interface of the tensor and kernel core.
 *
 * Order of this header: version and status, context, tensors, random numbers, images, model files,
 * data sets, metrics and plots, then the tape (recorded ops), plans (allocation-free execution) and
 * training. The engines (fovea_diffusion.h, ...) stand on it; most applications need only an engine
 * header and sections 1, 2 and 5 of this one.
 *
 * Rules that hold everywhere:
 * - Every function that can fail returns an fv_status. fv_ctx_error(ctx) then holds one sentence
 *   that says what failed, where, and what to do.
 * - The library never prints, exits or aborts, has no global mutable state, and reads no
 * environment variable. Files are written to a temporary name in the same folder, fsynced and
 * renamed.
 * - Create and open functions return the new handle through their first parameter after the
 *   context; on failure it is NULL. Destroy and close functions take the handle's address, accept
 *   NULL, and set it to NULL.
 * - Option structs start with struct_size (use the _INIT macros); zero means default. A caller
 *   compiled with a shorter struct gets the defaults for the rest. Options are read during the call
 *   only, unless said. An options pointer may be NULL where nothing in it is required.
 * - What a create or open function gives belongs to the context that it was called with: that one
 *   must outlive it, and is the one to use it with, unless said.
 * - NULL where an object, name or array is required is the caller's bug: FV_ERR_ARG where a check
 *   costs nothing, undefined in getters and op functions.
 * - A context belongs to one thread at a time; different contexts are independent and may run
 *   concurrently. Opened models are immutable and may be shared by contexts.
 * - CPU parallelism is OpenMP: do not fork() between two uses of a context with threads >
 * 1. */
#ifndef FOVEA_H
#define FOVEA_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define FV_API __attribute__((visibility("default")))
#define FV_NODISCARD __attribute__((warn_unused_result))
#else
#define FV_API
#define FV_NODISCARD
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- 1. Version and status ------------------------------------------------------------------- */

#define FV_VERSION_MAJOR 0
#define FV_VERSION_MINOR 1
#define FV_VERSION_PATCH 0
#define FV_VERSION_STRING "0.1.0"
#define FV_VERSION_NUMBER (FV_VERSION_MAJOR * 10000 + FV_VERSION_MINOR * 100 + FV_VERSION_PATCH)

/* Version of the library that is running, to compare with FV_VERSION_NUMBER. */
FV_API int fv_version(void);
FV_API const char *fv_version_string(void);

/* One list for all engines; numbers never change meaning. 1-19 caller, 20-39 input data,
 * 40-59 environment, 60+ internal. */
typedef enum fv_status {
    FV_OK = 0,
    FV_ERR_ARG = 1,         /* an argument is out of range or NULL                       */
    FV_ERR_SHAPE = 2,       /* tensor shapes do not fit together                         */
    FV_ERR_DTYPE = 3,       /* element type not accepted here                            */
    FV_ERR_CAPACITY = 4,    /* a fixed capacity or buffer is too small                   */
    FV_ERR_UNSUPPORTED = 5, /* valid, but this build or device does not do it            */
    FV_ERR_INPLACE = 6,     /* a tensor needed for backward was overwritten              */
    FV_ERR_STATE = 7,       /* calls in the wrong order                                  */
    FV_ERR_EXISTS = 8,      /* output exists and overwriting was not allowed             */
    FV_ERR_UNKNOWN = 9,     /* an unknown name (class, sampler, key, preset)             */
    FV_ERR_FORMAT = 20,     /* input is corrupt or not of the expected format            */
    FV_ERR_TRUNCATED = 21,  /* input ends too early                                      */
    FV_ERR_VERSION = 22,    /* a format version that this library does not read          */
    FV_ERR_LIMIT = 23,      /* input exceeds a limit (pixels, header bytes, tensors)     */
    FV_ERR_MODEL = 24,      /* not the model that this file or call needs                */
    FV_ERR_CHECKSUM = 25,   /* stored checksum differs                                   */
    FV_ERR_OOM = 40,        /* out of memory, or the caller's memory cap is reached      */
    FV_ERR_DEVICE = 41,     /* device missing or failed                                  */
    FV_ERR_IO = 42,         /* reading or writing failed (message has the system's text) */
    FV_ERR_CANCELLED = 43,  /* progress callback or fv_ctx_cancel asked to stop          */
    FV_ERR_COMM = 44,       /* communication between ranks failed                        */
    FV_ERR_NOT_FOUND = 45,  /* file or folder does not exist                             */
    FV_ERR_INTERNAL = 60,   /* a bug in fovea                                            */
    FV_ERR_NUMERIC = 61     /* NaN or infinity where none may be                         */
} fv_status;

/* Short name such as "FV_ERR_SHAPE"; "FV_ERR_?" for a number that is not in the list. */
FV_API const char *fv_status_name(fv_status s);

/* ---- 2. Context ------------------------------------------------------------------------------ */

typedef struct fv_ctx fv_ctx;

/* The host application's heap. alloc returns NULL on failure; align is a power of two >= 16.
 * Must be callable from any thread. */
typedef struct fv_allocator {
    void *(*alloc)(void *user, size_t bytes, size_t align);
    void (*free)(void *user, void *ptr); /* ptr may be NULL */
    void *user;
} fv_allocator;

/* Progress of a long call. total is 0 when unknown. Return nonzero to stop: the call then returns
 * FV_ERR_CANCELLED within one step. Called on the thread that made the call. */
typedef struct fv_progress {
    const char *stage;  /* "sampling", "calibrating", "training", ... static string            */
    uint64_t done, total;
    const char *detail; /* one short line for people (loss, file name) or NULL; valid in the call */
} fv_progress;
typedef int (*fv_progress_fn)(void *user, const fv_progress *p);

typedef enum fv_device { FV_DEVICE_AUTO = 0, FV_DEVICE_CPU = 1, FV_DEVICE_CUDA = 2 } fv_device;

/* CPU features; a context uses those that exist and are not masked out. */
enum {
    FV_CPU_AVX2 = 1u << 0,        /* AVX2 + FMA + F16C                      */
    FV_CPU_AVX512 = 1u << 1,      /* AVX-512 F, BW, VL, DQ                  */
    FV_CPU_AVX512VNNI = 1u << 2,
    FV_CPU_AVX512BF16 = 1u << 3
};
/* Parts of the CUDA backend, each of which is done without where it is missing. */
enum {
    FV_CUDA_EPILOGUES = 1u << 0, /* activations, sums and bf16 biases in products */
    FV_CUDA_INT8 = 1u << 1,      /* integer products on tensor cores              */
    FV_CUDA_FP8 = 1u << 2,
    FV_CUDA_FP8_ROWS = 1u << 3,  /* scales of rows and columns in fp8 products    */
    FV_CUDA_CUDNN = 1u << 4      /* convolutions and attention of cuDNN           */
};
FV_API uint32_t fv_cpu_features(void);

typedef struct fv_ctx_options {
    size_t struct_size;
    fv_device device;
    int threads;                /* 0 = all cores this process may use                          */
    uint32_t cpu_disable;       /* FV_CPU_* bits not to use (tests, comparisons)               */
    uint64_t memory_cap_bytes;  /* 0 = none; allocations beyond it fail with FV_ERR_OOM        */
    const fv_allocator *alloc;  /* NULL = the C library's; copied                              */
    fv_progress_fn progress;    /* may be NULL                                                 */
    void *user;                 /* passed to progress                                          */
    uint32_t cuda_disable;      /* FV_CUDA_* parts not to use (tests, comparisons)             */
    int cuda_tries;             /* algorithms to time for each product when a plan is built;   */
                                /* 0 = none; bits may then differ from run to run              */
    int cuda_device;            /* which one; beyond the last they are counted from 0 again,   */
                                /* as for ranks of one machine                                 */
    int cuda_tf32;              /* not 0: f32 on tensor cores, with 10 bits of each factor     */
} fv_ctx_options;
#define FV_CTX_OPTIONS_INIT { .struct_size = sizeof(fv_ctx_options) }

/* opts may be NULL. The only failure without a context to ask is out of memory or bad options. */
FV_API FV_NODISCARD fv_status fv_ctx_create(fv_ctx **out, const fv_ctx_options *opts);
FV_API void fv_ctx_destroy(fv_ctx **ctx);
/* Message of the last failure in this context, "" if none; valid until the next call with it. */
FV_API const char *fv_ctx_error(const fv_ctx *ctx);
/* From any thread or signal handler: the running call stops within one step (FV_ERR_CANCELLED).
 * Stays set until fv_ctx_uncancel. Signal handlers of a program that computes need a stack of their
 * own (sigaltstack, SA_ONSTACK): oneDNN's products without AVX-512 point the stack pointer to the
 * heap, where a signal's frame would overwrite something. */
FV_API void fv_ctx_cancel(fv_ctx *ctx);
FV_API void fv_ctx_uncancel(fv_ctx *ctx);
FV_API int fv_ctx_threads(const fv_ctx *ctx);
/* Data-parallel runs: a loss whose gradient depends on the whole batch (fv_loss_place) calls fn in
 * each forward, on the thread that runs the plan, to replace n sums by their sums over all ranks;
 * what it returns other than FV_OK is the forward's status. All ranks must then run the same
 * forwards, in the same order. NULL: this process is alone. Between runs of plans only. */
typedef fv_status (*fv_reduce_fn)(void *user, double *sums, int n);
FV_API void fv_ctx_set_reduce(fv_ctx *ctx, fv_reduce_fn fn, void *user);
/* The ranks that trainings of this context are divided among (section 10), NULL: none but this. Not
 * owned. Between calls only. */
typedef struct fv_comm fv_comm;
FV_API void fv_ctx_set_comm(fv_ctx *ctx, fv_comm *comm);
FV_API fv_comm *fv_ctx_comm(const fv_ctx *ctx);
FV_API fv_device fv_ctx_device(const fv_ctx *ctx);

/* A GPU as its driver describes it. Versions: 13000 is 13.0; driver: the newest runtime that the
 * installed driver serves. */
typedef struct fv_cuda_info {
    char name[128];
    int major, minor; /* compute capability */
    int multiprocessors, runtime, driver;
    uint64_t memory_bytes;
    char libraries[160]; /* a sentence: cuDNN and its version, or why it is not used */
} fv_cuda_info;
/* Device `index`, from 0, of this machine; ctx, of any device, is for messages only. Nothing stays
 * open. FV_ERR_NOT_FOUND: there are not so many; FV_ERR_DEVICE: none can be used, and fv_ctx_error
 * says why (module, driver, versions, no device). */
FV_API FV_NODISCARD fv_status fv_cuda_device(fv_ctx *ctx, int index, fv_cuda_info *out);
/* Features in use by this context: what the CPU has, is not masked out, and oneDNN may use too
 * (with ONEDNN_MAX_CPU_ISA=AVX2 in the environment no AVX-512 and no bf16). */
FV_API uint32_t fv_ctx_cpu(const fv_ctx *ctx);

typedef struct fv_memory_stats {
    uint64_t current_bytes, peak_bytes; /* through this context's allocator */
    uint64_t allocations;               /* calls so far; constant during inference loops */
} fv_memory_stats;
FV_API void fv_ctx_memory(const fv_ctx *ctx, fv_memory_stats *out);
/* peak := current, for measuring one phase. */
FV_API void fv_ctx_memory_reset_peak(fv_ctx *ctx);

/* ---- Files that appear complete or not at all ---- */

/* Opens PATH.tmp.PID for writing, or PATH.tmp.PID.N, and locks it (flock) until fv_temp_publish, or
 * until it is closed. Files of that name without a lock, which killed writers of the same path left,
 * are removed first. temp: its name, size at least strlen(path) + FV_TEMP_ROOM. -1: errno says why.
 * Any thread. */
#define FV_TEMP_ROOM 48
FV_API int fv_temp_open(const char *path, unsigned mode, char *temp, size_t size);
/* Brings it to the disk, closes fd, gives the file its name. -1: errno says why (EEXIST without
 * overwrite: there is one already), the temporary file is still there. */
FV_API int fv_temp_publish(int fd, const char *temp, const char *path, int overwrite);

/* ---- 3. Tensors ------------------------------------------------------------------------------ */

typedef enum fv_dtype {
    FV_F32 = 0, FV_BF16 = 1, FV_I8 = 2, FV_I32 = 3, FV_F64 = 4, FV_F16 = 5,
    FV_I64 = 6, FV_I16 = 7, FV_U16 = 8, FV_U8 = 9, FV_DTYPE_COUNT = 10,
    FV_F8 = 16 /* e4m3: a precision of inference on CUDA, not a type of tensors */
} fv_dtype;
FV_API size_t fv_dtype_size(fv_dtype t);        /* bytes per element */
FV_API const char *fv_dtype_name(fv_dtype t);   /* "f32", "bf16", ... */
/* What users call the types of weights: "f32", "bf16", "int8" (FV_I8). NULL for others; 0 and *out
 * as it was for an unknown name (NULL is one). */
FV_API const char *fv_weights_name(fv_dtype t);
FV_API int fv_weights_find(const char *name, fv_dtype *out);

#define FV_MAX_DIMS 6

/* Contiguous row-major array; the last dimension varies fastest. A plain view: it never owns. */
typedef struct fv_tensor {
    void *data;
    fv_dtype dtype;
    int ndim;
    int64_t dim[FV_MAX_DIMS];
} fv_tensor;

/* Elements (1 for ndim 0), -1 if a dimension is negative or the product overflows. */
FV_API int64_t fv_tensor_count(const fv_tensor *t);
/* Copy n elements with conversion (round to nearest even; integers saturate); no aliasing. */
FV_API FV_NODISCARD fv_status fv_convert(fv_ctx *ctx, fv_dtype src_type, const void *src, int64_t n,
                                         fv_dtype dst_type, void *dst);

/* ---- 4. Random numbers ----------------------------------------------------------------------- */

/* Philox4x32-10, counter based: a value depends on (seed, stream, sample, index) alone, never on
 * thread count, order of calls or device. Streams keep uses apart. */
enum {
    FV_STREAM_INIT = 1,
    FV_STREAM_SHUFFLE,
    FV_STREAM_AUGMENT,
    FV_STREAM_TIMESTEP,
    FV_STREAM_NOISE,
    FV_STREAM_DROPOUT,
    FV_STREAM_CLASS_DROP,
    FV_STREAM_GUMBEL,
    FV_STREAM_SAMPLING,
    FV_STREAM_DEGRADE,
    FV_STREAM_CLIP,
    FV_STREAM_USER = 64
};

/* 4 x 32 random bits for block number `block` (Salmon et al. 2011). */
FV_API void fv_philox(uint64_t seed, uint32_t stream, uint32_t sample, uint64_t block,
                      uint32_t out[4]);
FV_API void fv_rand_u32(uint64_t seed, uint32_t stream, uint32_t sample, uint64_t first, int64_t n,
                        uint32_t *out);
/* Uniform in [0,1), 24 bits. Element i of the stream is out[i - first]. */
FV_API void fv_rand_uniform(uint64_t seed, uint32_t stream, uint32_t sample, uint64_t first,
                            int64_t n, float *out);
/* Standard normal by Box-Muller with our own polynomial log/sincos: same values on every
 * machine. */
FV_API void fv_rand_normal(uint64_t seed, uint32_t stream, uint32_t sample, uint64_t first,
                           int64_t n, float *out);
/* Position i of a keyed pseudo-random permutation of [0, n) (cycle-walking Feistel); O(1). */
FV_API uint64_t fv_rand_permute(uint64_t seed, uint64_t epoch, uint64_t n, uint64_t i);

/* ---- 5. Images ------------------------------------------------------------------------------- */

/* Interleaved rows from the top. depth 8: uint8_t; depth 16: uint16_t in machine byte order. */
typedef struct fv_image {
    int width, height;
    int channels;           /* 1 grey, 2 grey+alpha, 3 RGB, 4 RGBA */
    int depth;              /* 8 or 16 */
    size_t stride_bytes;
    void *pixels;           /* owned; release with fv_image_free */
    /* Optional, owned, may be NULL. Text keys are Latin-1 keywords, values UTF-8. */
    uint8_t *icc;   size_t icc_bytes;
    uint8_t *exif;  size_t exif_bytes;
    char **text;    int text_count; /* key, value, key, value: 2 * text_count strings */
} fv_image;

typedef enum fv_image_format {
    FV_IMAGE_UNKNOWN = 0, FV_IMAGE_PNG, FV_IMAGE_JPEG, FV_IMAGE_WEBP, FV_IMAGE_PNM
} fv_image_format;

typedef struct fv_image_read_options {
    size_t struct_size;
    int channels;           /* convert to 1..4; 0 = as stored (palette and low depths expand)  */
    int depth;              /* convert to 8 or 16; 0 = as stored                               */
    float background[3];    /* colour under alpha when channels 1 or 3 is asked, 0..1          */
    uint64_t max_pixels;    /* refuse larger images; 0 = FV_IMAGE_MAX_PIXELS                    */
    int keep_metadata;      /* fill icc, exif and text                                          */
} fv_image_read_options;
#define FV_IMAGE_READ_OPTIONS_INIT { .struct_size = sizeof(fv_image_read_options) }
#define FV_IMAGE_MAX_PIXELS 268435456u

typedef struct fv_image_write_options {
    size_t struct_size;
    fv_image_format format; /* UNKNOWN = by the suffix (.png .jpg .jpeg .webp .ppm .pgm .pnm)  */
    int quality;            /* JPEG and lossy WebP 1..100; 0 = 90                               */
    int lossless;           /* WebP lossless                                                    */
    int overwrite;          /* 0 = FV_ERR_EXISTS when the file is there                         */
    int effort;             /* PNG zlib level / WebP method; 0 = default                        */
} fv_image_write_options;
#define FV_IMAGE_WRITE_OPTIONS_INIT { .struct_size = sizeof(fv_image_write_options) }

/* Allocate zeroed pixels. All image memory comes from ctx's allocator: free it with the context
 * that made it. Sides below 1, channels or depths that do not exist: FV_ERR_ARG. *out is zeroed on
 * failure, here and below. */
FV_API FV_NODISCARD fv_status fv_image_create(fv_ctx *ctx, fv_image *out, int width, int height,
                                              int channels, int depth);
FV_API void fv_image_free(fv_ctx *ctx, fv_image *img);
/* Add a text entry (copied). */
FV_API FV_NODISCARD fv_status fv_image_add_text(fv_ctx *ctx, fv_image *img, const char *key,
                                                const char *value);
FV_API const char *fv_image_text(const fv_image *img, const char *key); /* NULL if absent */
FV_API fv_image_format fv_image_sniff(const void *bytes, size_t size);
/* The format is found from the content. Hostile input gives a status, never undefined behaviour;
 * *out is zeroed on failure. */
FV_API FV_NODISCARD fv_status fv_image_decode(fv_ctx *ctx, fv_image *out, const void *bytes,
                                              size_t size, const fv_image_read_options *opts);
FV_API FV_NODISCARD fv_status fv_image_read(fv_ctx *ctx, fv_image *out, const char *path,
                                            const fv_image_read_options *opts);
/* *bytes is owned by the caller: fv_free(ctx, bytes). */
FV_API FV_NODISCARD fv_status fv_image_encode(fv_ctx *ctx, const fv_image *img,
                                              const fv_image_write_options *opts, uint8_t **bytes,
                                              size_t *size);
/* Atomic: the file appears complete or not at all. */
FV_API FV_NODISCARD fv_status fv_image_write(fv_ctx *ctx, const fv_image *img, const char *path,
                                             const fv_image_write_options *opts);
typedef enum fv_filter {
    FV_FILTER_BOX = 0,
    FV_FILTER_BILINEAR,
    FV_FILTER_BICUBIC /* a=-0.5 */,
    FV_FILTER_LANCZOS3,
    FV_FILTER_NEAREST
} fv_filter;
/* Antialiased separable resize, as PIL does it; same channels and depth. */
FV_API FV_NODISCARD fv_status fv_image_resize(fv_ctx *ctx, fv_image *out, const fv_image *in,
                                              int width, int height, fv_filter filter);
/* Copy a rectangle (must lie inside). */
FV_API FV_NODISCARD fv_status fv_image_crop(fv_ctx *ctx, fv_image *out, const fv_image *in, int x,
                                            int y, int width, int height);
/* n images of equal size, channels and depth -> one grid with `columns` columns (0 = near square)
 * and `gap` pixels between. */
FV_API FV_NODISCARD fv_status fv_image_grid(fv_ctx *ctx, fv_image *out, const fv_image *imgs, int n,
                                            int columns, int gap);
/* HWC float [height, width, channels] <-> pixels: value = lo + (hi - lo) * pixel / max; on the way
 * back clamped and rounded, NaN becomes pixel 0. */
FV_API void fv_image_to_float(const fv_image *img, float lo, float hi, float *hwc);
FV_API void fv_image_from_float(fv_image *img, float lo, float hi, const float *hwc);

/* Memory handed out by the library (fv_image_encode, ...). */
FV_API void fv_free(fv_ctx *ctx, void *ptr);

/* ---- 6. Model files -------------------------------------------------------------------------- */

/* A safetensors file (memory-mapped) or a PyTorch checkpoint (zip or legacy; tensors only, nothing
 * is executed); the content decides. Immutable after opening, so it may be shared by threads.
 * Every offset, size and name is checked at open: later calls cannot read outside the file. */
typedef struct fv_model fv_model;

typedef struct fv_model_options {
    size_t struct_size;
    uint64_t max_header_bytes;  /* 0 = 100 MiB   */
    uint32_t max_tensors;       /* 0 = 1,000,000 */
} fv_model_options;
#define FV_MODEL_OPTIONS_INIT { .struct_size = sizeof(fv_model_options) }

/* A shard NAME-00001-of-00003.safetensors opens all shards. */
FV_API FV_NODISCARD fv_status fv_model_open(fv_ctx *ctx, fv_model **out, const char *path,
                                            const fv_model_options *opts);
/* From memory; `bytes` must outlive the model (embedded models, tests). */
FV_API FV_NODISCARD fv_status fv_model_open_memory(fv_ctx *ctx, fv_model **out, const void *bytes,
                                                   size_t size, const fv_model_options *opts);
FV_API void fv_model_close(fv_model **m);
FV_API int fv_model_count(const fv_model *m);
FV_API const char *fv_model_name(const fv_model *m, int i);
/* View into the mapping, valid until close. *out zeroed if absent (returns 0), else returns 1.
 * Alignment of data is only that of the file: convert or copy where SIMD loads need more. */
FV_API int fv_model_find(const fv_model *m, const char *name, fv_tensor *out);
FV_API void fv_model_tensor(const fv_model *m, int i, fv_tensor *out);
/* Metadata value (safetensors __metadata__), NULL if absent; valid until close, UTF-8 as in the
 * file: it may hold control characters. */
FV_API const char *fv_model_meta(const fv_model *m, const char *key);
FV_API int fv_model_meta_count(const fv_model *m);
FV_API void fv_model_meta_at(const fv_model *m, int i, const char **key, const char **value);
/* SHA-256 over sorted tensor names, types, shapes and bytes: identity independent of layout, file
 * format and metadata. Reads the whole file once. */
FV_API void fv_model_hash(const fv_model *m, uint8_t sha256[32]);

/* Writer: add everything, then finish, once. Keys, values, names and shapes are copied; tensor data
 * is read at finish, so it must stay valid until then. A name or key given twice is FV_ERR_ARG. */
typedef struct fv_model_writer fv_model_writer;
FV_API FV_NODISCARD fv_status fv_model_writer_create(fv_ctx *ctx, fv_model_writer **out);
FV_API FV_NODISCARD fv_status fv_model_writer_meta(fv_model_writer *w, const char *key,
                                                   const char *value);
FV_API FV_NODISCARD fv_status fv_model_writer_tensor(fv_model_writer *w, const char *name,
                                                     const fv_tensor *t);
/* Atomic write; tensors aligned to 64 bytes, sorted by the order of adding. */
FV_API FV_NODISCARD fv_status fv_model_writer_finish(fv_model_writer *w, const char *path,
                                                     int overwrite);
FV_API void fv_model_writer_destroy(fv_model_writer **w);

/* ---- 7. Image data sets ---------------------------------------------------------------------- */

/* Labelled pictures for training: folders (class = first path component below the root), .tar,
 * .tar.gz, .tar.xz; several sources may be joined. Class names may be merged or renamed. The
 * compressed pictures are kept in memory; decoding runs on worker threads, a few batches ahead.
 * Batches are a pure function of (options, step): any worker count, any rank layout, exact
 * resume. */
typedef struct fv_dataset fv_dataset;

typedef enum fv_split {
    FV_SPLIT_ALL = 0,
    FV_SPLIT_TRAIN,
    FV_SPLIT_HELDOUT /* CRC32(path) % 20 == 7 */
} fv_split;

typedef struct fv_dataset_options {
    size_t struct_size;
    const char *const *sources;   /* paths */
    int source_count;
    fv_split split;
    int image_size;               /* side in pixels; short side is scaled, then square crop     */
    int channels;                 /* 1 or 3; alpha is laid over `background`                     */
    float background[3];          /* 0..1; the _INIT macro sets white                          */
    int flip;                     /* random horizontal flip                                     */
    int random_crop;              /* crop position drawn; 0 = centre                            */
    float crop_scale_min;         /* random scale in [crop_scale_min, 1] of the short side; 0 = 1 */
    const char *const *class_map; /* pairs "from", "to": rename or merge classes ("to" "" drops);
                                     a trailing * in "from" matches a prefix                     */
    int class_map_count;          /* number of pairs                                            */
    uint32_t min_per_class;       /* drop smaller classes                                       */
    float class_balance;          /* 0 = as the data is, 1 = every class equally often          */
    const char *const *class_weight_name; /* classes (by their final names) shown class_weight[i] */
    const float *class_weight;    /* times as often as class_balance would: 1/64..64; others 1  */
    int class_weight_count;
    uint64_t seed;
    int workers;                  /* decoding threads; 0 = 1; -1 = decode on the calling thread  */
    int cache;                    /* keep decoded, resized pictures in memory (no random crop)   */
    int rank, ranks;              /* ranks 0 = 1                                                */
    float native_max;             /* at least 1: crops of image_size to native_max * image_size
                                     pixels of the pictures as they are, which are decoded once and
                                     kept; 0 = crops relative to the short side                 */
} fv_dataset_options;
#define FV_DATASET_OPTIONS_INIT \
    { .struct_size = sizeof(fv_dataset_options), .background = { 1, 1, 1 } }

typedef struct fv_batch {
    int64_t count;
    float *images; /* [count, size, size, channels] in [-1, 1]; owned by the data set, valid until
                      the next fv_dataset_batch                                                */
    int32_t *labels;  /* [count]                                                                  */
    uint64_t *ids;    /* [count] index of the picture (identity for augmentation and statistics)  */
} fv_batch;

/* Unreadable pictures are skipped and counted; more than 1 % is FV_ERR_FORMAT naming the first. */
FV_API FV_NODISCARD fv_status fv_dataset_open(fv_ctx *ctx, fv_dataset **out,
                                              const fv_dataset_options *opts);
FV_API void fv_dataset_close(fv_dataset **ds);
FV_API uint64_t fv_dataset_count(const fv_dataset *ds);
FV_API int fv_dataset_classes(const fv_dataset *ds);
FV_API const char *fv_dataset_class_name(const fv_dataset *ds, int label);
FV_API uint64_t fv_dataset_class_count(const fv_dataset *ds, int label);
/* Pictures that could not be read. */
FV_API uint64_t fv_dataset_bad(const fv_dataset *ds);
/* The batch of `step` (global batch = batch * ranks; position p of epoch e shows picture
 * permute(seed, e, n, p)). Prefetches the step as far ahead as this is from the one before. */
FV_API FV_NODISCARD fv_status fv_dataset_batch(fv_dataset *ds, uint64_t step, int batch,
                                               fv_batch *out);
/* Picture i as stored in the set (no augmentation): for evaluation. hwc: [size, size, channels]. */
FV_API FV_NODISCARD fv_status fv_dataset_get(fv_dataset *ds, uint64_t i, float *hwc,
                                             int32_t *label);
/* SHA-256 of every source file, hex, one "hash  name" line each: the data manifest. Owned by ds. */
FV_API const char *fv_dataset_manifest(const fv_dataset *ds);

/* ---- 8. Metrics and plots -------------------------------------------------------------------- */

/* Images of equal size and channels, 8 or 16 bit; alpha is ignored. */
FV_API FV_NODISCARD fv_status fv_psnr(fv_ctx *ctx, const fv_image *a, const fv_image *b,
                                      double *db); /* equal: INFINITY */
/* Wang et al. 2004: 11x11 Gaussian, sigma 1.5, on luma (BT.601); K 0.01, 0.03. */
FV_API FV_NODISCARD fv_status fv_ssim(fv_ctx *ctx, const fv_image *a, const fv_image *b,
                                      double *ssim);
/* Five scales; the short side must be at least 176 pixels. */
FV_API FV_NODISCARD fv_status fv_ms_ssim(fv_ctx *ctx, const fv_image *a, const fv_image *b,
                                         double *ms_ssim);
/* Xue et al. 2014, on luma; 0 = equal. */
FV_API FV_NODISCARD fv_status fv_gmsd(fv_ctx *ctx, const fv_image *a, const fv_image *b,
                                      double *gmsd);

/* Distance of textures, a Wasserstein distortion [Qiu et al. 2024] on fixed steerable filters, see
 * op_picture_body.h; 0 = equal. Picture a is judged by b, the original, whose contrast hides errors:
 * the other way round the value differs. Both sides at least 72 pixels. */
FV_API FV_NODISCARD fv_status fv_texture(fv_ctx *ctx, const fv_image *a, const fv_image *b,
                                         double *distance);

/* How well a clip keeps still along its motion: frames a and b, one after the other, f32
 * [height, width, 3] in [0, 1], and flow [height, width, 2] from a to b in pixels, (right, down):
 *
 *     error = sum over p of M(p) |a(p) - b(p + flow(p))|^2 / sum of M
 *
 * with b interpolated linearly, squares summed over the channels. M is 1 where p + flow(p) lies in
 * the frame and, unless back is NULL, where the way forth and back ends near its start:
 * |flow + back|^2 < 0.01 (|flow|^2 + |back|^2) + 0.5, back the flow from b to a, taken at
 * p + flow(p) [Lai et al. 2018; Sundaram et al. 2010]. A clip's figure is the mean of its pairs.
 * *seen (may be NULL): mean of M; where it is 0, *error is too. Allocates nothing. Not finite where M
 * may be 1: FV_ERR_NUMERIC. */
FV_API FV_NODISCARD fv_status fv_warping_error(fv_ctx *ctx, const float *a, const float *b,
                                               int width, int height, const float *flow,
                                               const float *back, double *error, double *seen);

/* Frechet distance |m1-m2|^2 + tr(S1 + S2 - 2 (S1 S2)^1/2) between two sets of features [n, dim],
 * computed in double with a symmetric eigen-solver. */
FV_API FV_NODISCARD fv_status fv_frechet(fv_ctx *ctx, const float *a, int64_t na, const float *b,
                                         int64_t nb, int dim, double *out);

typedef struct fv_curve {
    const char *name;
    const double *x, *y;
    int n;
    int dots; /* 1 = markers only */
} fv_curve;
typedef struct fv_plot_options {
    size_t struct_size;
    const char *title, *x_label, *y_label;
    int width, height;      /* 0 = 800 x 500 */
    int log_x, log_y;
} fv_plot_options;
#define FV_PLOT_OPTIONS_INIT { .struct_size = sizeof(fv_plot_options) }
/* Line plot with axes, ticks and legend (built-in bitmap font). */
FV_API FV_NODISCARD fv_status fv_plot(fv_ctx *ctx, fv_image *out, const fv_curve *curves, int n,
                                      const fv_plot_options *opts);
/* Matrix as a colour map [rows, cols] with a value scale (lo == hi: from the data). */
FV_API FV_NODISCARD fv_status fv_plot_map(fv_ctx *ctx, fv_image *out, const float *v, int rows,
                                          int cols, double lo, double hi,
                                          const fv_plot_options *opts);
/* Latin text into an image at x,y (top left); scale 1 = 6x12 pixels a character. */
FV_API void fv_plot_text(fv_image *img, int x, int y, int scale, const uint8_t rgb[3],
                         const char *text);

/* ---- 9. Parameters, tape, plan --------------------------------------------------------------- */

/* A model is a C function that calls op functions on handles. The tape records one node per call,
 * checks shapes and computes nothing. fv_plan_build then decides buffers, kernels and the backward
 * order; fv_plan_forward / fv_plan_backward run it without allocating. The same model code serves
 * training (one tape of everything) and inference (one small tape per module).
 *
 *     fv_t x = fv_input(t, "x", FV_F32, 2, (int64_t[]){ 64, 256 });
 *     fv_t y = fv_linear(t, x, w, b, FV_ACT_SILU);
 *     if (fv_tape_status(t) != FV_OK) ...      one check: after a failed op every handle is 0
 */
typedef struct fv_params fv_params;
typedef struct fv_tape fv_tape;
typedef struct fv_plan fv_plan;
typedef uint32_t fv_t;    /* tensor in a tape; 0 = none */
typedef int32_t fv_pid;   /* parameter in an fv_params; -1 = none */

enum {
    FV_PARAM_DECAY = 1,   /* weight decay applies */
    FV_PARAM_FROZEN = 2,  /* no gradient */
    FV_PARAM_TRAINER = 4  /* in checkpoints, not in exported models: discriminators */
};

/* Named parameters in a fixed order. Training keeps one flat f32 array (masters), one flat gradient
 * array, and bf16 copies of matrices when asked; inference keeps each parameter once, packed for
 * the matrix kernel that first uses it, or f32. In inference an fv_params may be shared by contexts
 * on several threads (packing is locked). */
FV_API FV_NODISCARD fv_status fv_params_create(fv_ctx *ctx, fv_params **out);
FV_API void fv_params_destroy(fv_params **p);
/* Name and shape are copied. Returns the id, or -1 (the failure sticks and is returned by alloc and
 * load): a shape that is empty or too large, a name given twice, after alloc, or out of memory. */
FV_API fv_pid fv_params_add(fv_params *p, const char *name, int ndim, const int64_t *dim,
                            uint32_t flags);
FV_API int fv_params_count(const fv_params *p);
FV_API fv_pid fv_params_find(const fv_params *p, const char *name);
FV_API const char *fv_params_name(const fv_params *p, fv_pid id);
/* Shape; data is the f32 master in training, NULL in inference. */
FV_API fv_tensor fv_params_tensor(const fv_params *p, fv_pid id);
FV_API fv_tensor fv_params_grad(const fv_params *p, fv_pid id);
FV_API int64_t fv_params_elements(const fv_params *p);
/* Training storage: masters (zero, or what was loaded before) and zeroed gradients. FV_ERR_STATE
 * after the first plan of an inference. */
FV_API FV_NODISCARD fv_status fv_params_alloc(fv_params *p);
/* Fill from a model file: each name, with `prefix` in front, must exist with the same shape. Names
 * NAME.int8 [N,K] i8 with NAME.scale [N] f32 are accepted for NAME. With training storage the
 * values are copied as f32; without, the model is kept by reference (it must outlive p) and read
 * when plans pack it; after the first of them: FV_ERR_STATE. What is FV_PARAM_TRAINER stays. */
FV_API FV_NODISCARD fv_status fv_params_load(fv_params *p, const fv_model *m, const char *prefix);
/* Draw values (uniform Xavier on the 2-D view for xavier, else N(0, std)); std 0 = zeros. */
FV_API void fv_params_init_normal(fv_params *p, fv_pid id, uint64_t seed, float std);
FV_API void fv_params_init_xavier(fv_params *p, fv_pid id, uint64_t seed);
FV_API void fv_params_fill(fv_params *p, fv_pid id, float value);
FV_API void fv_params_zero_grad(fv_params *p);
/* Masters changed (loading, optimiser): refresh the bf16 copies on the next forward. */
FV_API void fv_params_touch(fv_params *p);
/* Bytes held (packed and plain), for memory reports. */
FV_API uint64_t fv_params_bytes(const fv_params *p);

typedef enum fv_mode { FV_INFER = 0, FV_TRAIN = 1 } fv_mode;
/* precision FV_F32 or FV_BF16: type of matrix-product inputs and of the activations between them;
 * sums, norms, softmax statistics, residuals and losses are f32 in both. FV_BF16 without AVX-512
 * falls back to FV_F32. */
FV_API FV_NODISCARD fv_status fv_tape_create(fv_ctx *ctx, fv_tape **out, fv_params *params,
                                             fv_mode mode, fv_dtype precision);
FV_API void fv_tape_destroy(fv_tape **t);
FV_API fv_status fv_tape_status(const fv_tape *t);
FV_API fv_mode fv_tape_mode(const fv_tape *t);
FV_API fv_dtype fv_tape_precision(const fv_tape *t);
/* Shape and type of a handle (data NULL). */
FV_API fv_tensor fv_tape_tensor(const fv_tape *t, fv_t x);

/* Tensor supplied by the caller at run time (fv_plan_bind). needs_grad: backward also fills
 * fv_plan_grad(plan, x). Names must be unique. */
FV_API fv_t fv_input(fv_tape *t, const char *name, fv_dtype dtype, int ndim, const int64_t *dim);
FV_API fv_t fv_input_grad(fv_tape *t, const char *name, fv_dtype dtype, int ndim,
                          const int64_t *dim);
FV_API fv_t fv_param(fv_tape *t, fv_pid id);               /* as an operand */
FV_API fv_t fv_param_row(fv_tape *t, fv_pid id,
                         int64_t row); /* row of a parameter [L, ...] -> [...] */
/* Keep x readable after the run, and let the caller bind its storage. */
FV_API void fv_output(fv_tape *t, const char *name, fv_t x);

typedef enum fv_act {
    FV_ACT_NONE = 0,
    FV_ACT_RELU,
    FV_ACT_SILU,
    FV_ACT_GELU_TANH,
    FV_ACT_GELU_ERF,
    FV_ACT_SIGMOID,
    FV_ACT_TANH,
    FV_ACT_LRELU /* 0.2 */,
    FV_ACT_SQUARE,
    FV_ACT_EXP,
    FV_ACT_LOG,
    FV_ACT_SQRT,
    FV_ACT_ABS,
    FV_ACT_SOFTPLUS,
    FV_ACT_COUNT
} fv_act;
typedef enum fv_binary { FV_ADD = 0, FV_SUB, FV_MUL, FV_DIV } fv_binary;

/* y = act(x w^T + b). x [..., K], w [N, K] (or [N, ...] with K elements a row), b [N] or -1 ->
 * [..., N] in the tape's precision, or in `out` type with fv_linear_as. oneDNN; sums in f32. */
FV_API fv_t fv_linear(fv_tape *t, fv_t x, fv_pid w, fv_pid b, fv_act act);
FV_API fv_t fv_linear_as(fv_tape *t, fv_t x, fv_pid w, fv_pid b, fv_act act, fv_dtype out);
typedef struct fv_conv {
    int stride, pad_top, pad_left, pad_bottom, pad_right;
    fv_act act;
} fv_conv;
/* x [B, H, W, C], w [O, C, kh, kw], b [O] or -1 -> [B, H', W', O]. stride 0 = 1. oneDNN. */
FV_API fv_t fv_conv2d(fv_tape *t, fv_t x, fv_pid w, fv_pid b, fv_conv c);
FV_API fv_t fv_conv2d_as(fv_tape *t, fv_t x, fv_pid w, fv_pid b, fv_conv c, fv_dtype out);
FV_API fv_t fv_cast(fv_tape *t, fv_t x, fv_dtype dtype);
FV_API fv_t fv_reshape(fv_tape *t, fv_t x, int ndim, const int64_t *dim); /* view */
FV_API fv_t fv_detach(fv_tape *t, fv_t x); /* view that no gradient passes */
FV_API fv_t fv_activate(fv_tape *t, fv_t x, fv_act act);
FV_API fv_t fv_affine(fv_tape *t, fv_t x, float scale, float shift);      /* scale*x + shift */
/* a op b; b has a's shape, or is broadcast: a trailing part of it ([C] on [B,T,C]) or [B] on
 * [B,...]. */
FV_API fv_t fv_binary_op(fv_tape *t, fv_binary op, fv_t a, fv_t b);

typedef enum fv_norm_kind { FV_NORM_LAYER = 0, FV_NORM_RMS = 1 } fv_norm_kind;
/* y = norm(x)*weight (+bias); then y*(1 + scale) + shift with scale, shift = chunks of mod.
 * x [B, T, C] f32 or bf16; weight, bias [C] or 0; mod [B, n*C] f32 or 0, chunk c covers columns
 * c*C .. c*C+C-1; -1 = not used. Output in the tape's precision. LayerNorm: biased variance. */
typedef struct fv_norm {
    fv_norm_kind kind;
    float eps;
    fv_t weight, bias, mod;
    int shift_chunk, scale_chunk;
} fv_norm;
FV_API fv_t fv_norm_modulate(fv_tape *t, fv_t x, fv_norm n);
/* h + gate*y; h [B,T,C] f32, y [B,T,C], gate = chunk of mod [B, n*C] (mod 0: plain addition) ->
 * f32. The output may be bound to h's storage. With a vector mod [C], the gate of all samples, h
 * may have any dimensions and type, which the output then has too. */
FV_API fv_t fv_gate_residual(fv_tape *t, fv_t h, fv_t y, fv_t mod, int gate_chunk);
/* h + gate * sum over k < count of weight[k] y[k]: a linear forecast of y from its past, for
 * sampling only (no gradient). h [B,T,C] f32; weight [count] f32; y[k] [B,T,C], all of one type;
 * mod and gate_chunk as above. The output may be bound to h's storage. */
#define FV_FORECAST_MAX 5
FV_API fv_t fv_gate_forecast(fv_tape *t, fv_t h, const fv_t *y, int count, fv_t weight, fv_t mod,
                             int gate_chunk);
/* x [..., 2H] -> silu(x[..., :H]) * x[..., H:] */
FV_API fv_t fv_swiglu(fv_tape *t, fv_t x);
/* Softmax attention. qkv [B, T, 3, h, hd]; scale 0 = hd^-0.5 -> [B, T, h*hd]. hd a multiple of
 * 4. */
FV_API fv_t fv_sdpa(fv_tape *t, fv_t qkv, float scale, int causal);
/* The same where query t sees keys 0 .. visible[t] - 1: visible i32 [T], at least 1 and never less
 * than the one before (FV_ERR_ARG when the plan runs). */
FV_API fv_t fv_sdpa_prefix(fv_tape *t, fv_t qkv, float scale, fv_t visible);
/* Attention to another sequence: q [B, T, h, hd], keys and values kv [B, S, 2, h, hd] of the same type,
 * bias f32 [S] added to the scaled scores of each key (0: none; no gradient), scale 0 = hd^-0.5 ->
 * [B, T, h*hd]. A key that stands for n equal ones has the bias ln n. */
FV_API fv_t fv_cross_attention(fv_tape *t, fv_t q, fv_t kv, fv_t bias, float scale);
/* Cosine attention: rows of q and k divided by max(length, eps), those of q then times
 * exp(min(scale[head], most)); v passes. */
FV_API fv_t fv_unit_qk(fv_tape *t, fv_t qkv, fv_t scale, float eps, float most);
/* RMS norm of q and k per head (weights [hd]; 0 = no norm) or over all heads together (weights
 * [h*hd], as in Wan2.1), then 2-D rotary embedding from `table`
 * (an input or constant [T, 2, hd/2] f32: cos then sin; 0 = none). v passes. See fv_rope_table. */
FV_API fv_t fv_qk_norm_rope(fv_tape *t, fv_t qkv, fv_t q_weight, fv_t k_weight, float eps,
                            fv_t table);
/* The embedding alone, in LLaMA's order: pair j is (2j, 2j+1) and turns by angle j of the table. A
 * token whose row is all zero, cosines too, gets q = k = 0. */
FV_API fv_t fv_rope_pairs(fv_tape *t, fv_t qkv, fv_t table);
/* table [h*w, 2, hd/2]. Head split in halves of d2 = hd/2: first by row index, second by column;
 * in a half, pairs (i, i + d2/2), angle = position * theta^(-2i/d2), i < d2/2. */
FV_API void fv_rope_table(int rows, int columns, int head_dim, double theta, float *table);
/* DiT's fixed position code, [h*w, C]: first half from the column, second from the row, each
 * [sin | cos], frequencies 10000^(-k/(C/4)). */
FV_API void fv_sincos_table(int rows, int columns, int channels, float *table);
/* t [B] f32 -> [B, dim] f32: cos(s*t*f_j) | sin(s*t*f_j), f_j = exp(-ln(10000) j / den), j < dim/2.
 * den 0 = dim/2 (official DiT). No gradient. */
FV_API fv_t fv_timestep_embed(fv_tape *t, fv_t time, int dim, float scale, float den);
/* ids [n] i32 -> [n, D]. Ids out of range: FV_ERR_ARG when the plan runs. */
FV_API fv_t fv_embed(fv_tape *t, fv_pid table, fv_t ids);
/* x [B,H,W,C] -> [B, (H/p)*(W/p), p*p*C]; channel_first: token order (c,di,dj), else (di,dj,c). */
FV_API fv_t fv_patchify(fv_tape *t, fv_t x, int p, int channel_first);
FV_API fv_t fv_unpatchify(fv_tape *t, fv_t x, int height, int width, int p, int channel_first);
/* GroupNorm over [B,H,W,C] with affine weight, bias [C], then act (NONE, SILU or RELU). */
FV_API fv_t fv_groupnorm(fv_tape *t, fv_t x, fv_t weight, fv_t bias, int groups, float eps,
                         fv_act act);
FV_API fv_t fv_upsample2x(fv_tape *t, fv_t x);        /* nearest, [B,H,W,C] -> [B,2H,2W,C] */
FV_API fv_t fv_mean_axis1(fv_tape *t, fv_t x);        /* [B, T, C] -> [B, C] (f32) */
FV_API fv_t fv_slice(fv_tape *t, fv_t x, int64_t first,
                     int64_t n); /* columns of the last dimension */
/* a, then b, along dimension `axis`; same type and other dimensions. */
FV_API fv_t fv_concat(fv_tape *t, fv_t a, fv_t b, int axis);
/* A fixed filter on every channel of f32 [B,H,W,C]; edge pixels go on beyond the edge. Sobel: slope
 * per pixel. Stride 1 or 2 (sides are halved, rounded up). */
typedef enum fv_image_filter {
    FV_FILTER_SOBEL_X = 0, FV_FILTER_SOBEL_Y, FV_FILTER_BLUR5, FV_FILTER_COUNT
} fv_image_filter;
FV_API fv_t fv_filter_image(fv_tape *t, fv_t x, fv_image_filter kind, int stride);
/* Vector quantiser. fv_l2norm: rows of the last dimension, y = x / max(|x|, eps), f32.
 * fv_vq_nearest: z f32 [.., D], codes f32 [V, D] -> for each row the code with the largest product,
 * f32 [.., D], and *index, i32 [rows], ties to the lowest, the same on every CPU; straight through:
 * the output's gradient goes to z, none to codes. fv_loss_vq: scalar (1 + beta) mean (code - z)^2;
 * gradient of mean (code - stop z)^2 + beta mean (stop code - z)^2. */
#define FV_VQ_MAX_CODES 1048576
FV_API fv_t fv_l2norm(fv_tape *t, fv_t x, float eps);
FV_API fv_t fv_vq_nearest(fv_tape *t, fv_t z, fv_t codes, fv_t *index);
FV_API fv_t fv_loss_vq(fv_tape *t, fv_t z, fv_t codes, fv_t index, float beta);
/* Bits per row that logits f32 [n, V] cost when code v is taken with p = softmax(2 z.code / tau):
 * scalar, mean of -sum_v p_v log2 softmax(logits)_v. z [.., D] (n rows) and codes [V, D] f32 of
 * unit length, tau [1]; gradients to z, codes and logits. */
FV_API fv_t fv_soft_rate(fv_tape *t, fv_t z, fv_t codes, fv_t logits, fv_t tau);
/* y[b, r] = sum over k of weight[r, k] x[b, index[r, k]]; x f32 [B, T, C], index i32 [R, n] (-1:
 * nothing; beyond T: FV_ERR_ARG when the plan runs), weight f32 [R, n], without a gradient ->
 * [B, R, C]. */
FV_API fv_t fv_mix_rows(fv_tape *t, fv_t x, fv_t index, fv_t weight);
/* Square windows of a map for attention: [B, H, W, C] -> [B*n, size*size, C], windows and what is in
 * them in raster order. Window 0 begins `shift` < size rows and columns before the map; where windows
 * reach beyond it they hold its nearest pixel. n = ceil((H + shift)/size) * ceil((W + shift)/size).
 * fv_unwindows takes the map of that height and width back out. */
FV_API fv_t fv_windows(fv_tape *t, fv_t x, int size, int shift);
FV_API fv_t fv_unwindows(fv_tape *t, fv_t x, int height, int width, int size, int shift);
/* Haar bands of 2x2 blocks: [B, H, W, C] -> [B, H/2, W/2, 4C], C channels of LL, LH, HL and HH; and
 * back. Orthogonal. */
FV_API fv_t fv_haar_down(fv_tape *t, fv_t x);
FV_API fv_t fv_haar_up(fv_tape *t, fv_t x);
/* Pictures f32 [B, H, W, 3] in [-1, 1], scalars; no gradient to the target. ms_ssim: 1 - MS-SSIM of
 * luma as fv_ms_ssim, with the weights of the first `scales` of its 5 scales made to sum to 1;
 * sides of at least 11 << (scales - 1). texture: Wasserstein distortion as fv_texture, luma on `scales`
 * scales (2..5), sides of at least 9 << (scales - 1). */
FV_API fv_t fv_loss_ms_ssim(fv_tape *t, fv_t a, fv_t target, int scales);
FV_API fv_t fv_loss_texture(fv_tape *t, fv_t a, fv_t target, int scales);
/* Butterworth low-pass 1 / (1 + (r / cutoff)^(2 order)), r in cycles a pixel, of every channel of f32
 * [B, H, W, C], reflected at its edges. cutoff in (0, 1], order 1..8. */
FV_API fv_t fv_low_pass(fv_tape *t, fv_t x, float cutoff, int order);
/* Scalar: mean over frequencies of | |F a| - |F target| |, F the orthonormal Fourier transform of each
 * channel of each patch of patch x patch pixels, which tile f32 [B, H, W, C]; patch a product of 2, 3
 * and 5, at most 1024. No gradient to the target. */
FV_API fv_t fv_loss_spectrum(fv_tape *t, fv_t a, fv_t target, int patch);
/* Scalar: mean of sqrt((a - target)^2 + eps^2), of one shape [Charbonnier et al. 1994]. */
FV_API fv_t fv_loss_charbonnier(fv_tape *t, fv_t a, fv_t target, float eps);
/* Scalars [1] f32. weight [B] or 0 (ones): mean over all elements of weight[b]*(a - target)^2. */
FV_API fv_t fv_loss_mse(fv_tape *t, fv_t a, fv_t target, fv_t weight);
/* The same of d^2/2 where |d| < 1, else |d| - 1/2. */
FV_API fv_t fv_loss_smooth_l1(fv_tape *t, fv_t a, fv_t target, fv_t weight);
/* Mean over rows of weight[n] * -sum_v p log q, p = softmax(target), q = softmax(logits); f32
 * [n, V], no gradient flows into target. weight [n] or 0 (ones). */
FV_API fv_t fv_loss_soft_cross_entropy(fv_tape *t, fv_t logits, fv_t target, fv_t weight);
/* Mean of |a - target|; target 0: of |a|. At 0 the gradient is 0. */
FV_API fv_t fv_loss_l1(fv_tape *t, fv_t a, fv_t target);
/* Mean cross-entropy of logits [n, V] and labels [n] i32 (label -1 is ignored). */
FV_API fv_t fv_loss_cross_entropy(fv_tape *t, fv_t logits, fv_t labels);
/* Mean loss of labels [n] i32 (-1 is ignored), each coded as binary decisions. paths: input [L, K]
 * i32, K up to 24; the row of a label has one entry 2m + bit, m >= 1, for each of its decisions,
 * and 0 behind the last: node m decides with the logit w_m . h + bias_m. h [n, D], w [V, D] (row 0
 * is not used), bias [V]. */
FV_API fv_t fv_loss_tree(fv_tape *t, fv_t h, fv_pid w, fv_pid bias, fv_t labels, fv_t paths);

/* Distillation: student and teacher of one shape, samples first, f32 or bf16; no gradient to the
 * teacher. What is not finite: FV_ERR_NUMERIC when the plan runs; skip the step.
 *
 * Scalar [1] f32: mean of (k(student) - k(teacher))^2 over all elements, k(f) = f where |f - mean|
 * is below `deviations` standard deviations of f, else 0; mean and deviation over each sample of
 * each side, constants for the gradient [TinyFusion, Fang et al. 2025: 2]. deviations 0: the plain
 * mean. */
FV_API fv_t fv_loss_masked_mse(fv_tape *t, fv_t student, fv_t teacher, float deviations);

/* LIFT and PLACE [Han, Yeo, Yoo, CVPR 2026]. Elements of each sample and channel are sorted by
 * |teacher - student| and cut into groups of K; teacher ~ b0 + b1 student is fitted in each, and
 *     loss = coarse + w fine
 *     coarse = mean of |b1 - 1| + |b0|,  fine = mean of (b0 + b1 student - teacher)^2
 * with b0, b1 and w constants in the second term. kernels/op_place.c has all formulas. */
typedef enum fv_place_kind {
    FV_PLACE_GROUPS = 0, /* PLACE                                                         */
    FV_LIFT_CHANNEL,     /* LIFT: one group of each sample and channel, nothing is sorted */
    FV_LIFT_SAMPLE       /* LIFT: one group of each sample                                */
} fv_place_kind;
typedef enum fv_place_weight {
    FV_PLACE_ADAPTIVE = 0, /* w = 1 - min(1, m), m = mean of |b1 - 1| + |b0| over the batch, that
                              of all ranks with fv_ctx_set_reduce                             */
    FV_PLACE_CONSTANT,     /* w = constant                                                    */
    FV_PLACE_GIVEN         /* w is a tensor of the tape, such as an input that follows a schedule */
} fv_place_weight;
typedef struct fv_place_options {
    size_t struct_size;
    fv_place_kind kind;
    int group;       /* K, from 2; 0 = 16. The last group of a row takes the remainder: on its own
                        from K/2 on, else with the group before                          */
    int channels;    /* the first ones alone take part, the others' gradient is 0 (a learned
                        variance); 0 = all                                               */
    int squared;     /* coarse = mean of (b1 - 1)^2 + b0^2; m, and so w, stay as they are */
    float eps;       /* added to the student's variance; 0 = 1e-6                        */
    int eps_of_sum;  /* eps / n is added instead, n elements in a group                  */
    int unguarded;   /* as published: no least variance of the student beside the teacher's, no
                        limit of a group's part of m, a cost where both are equal and constant */
    fv_place_weight weight;
    float constant;
    fv_t given;      /* f32 [1], no gradient                                             */
} fv_place_options;
#define FV_PLACE_OPTIONS_INIT { .struct_size = sizeof(fv_place_options) }
/* As the authors' code does it, without guards. For pixels it has a sum over each sample, which is
 * C H W times ours. */
typedef enum fv_place_reference {
    FV_PLACE_PIXEL = 0, FV_PLACE_STABLE_DIFFUSION, FV_PLACE_DIT
} fv_place_reference;
FV_API fv_place_options fv_place_as(fv_place_reference which);
/* Entries of *parts, f32 [FV_PLACE_PARTS], but for m and w of this rank's batch. DECILE + k: mean
 * of coarse over tenth k of the groups of each row by error, 0 where there is none. */
enum {
    FV_PLACE_COARSE = 0, FV_PLACE_FINE, FV_PLACE_W, FV_PLACE_M, FV_PLACE_DECILE,
    FV_PLACE_PARTS = FV_PLACE_DECILE + 10
};
/* student, teacher [B, .., C] with 3 dimensions or more -> scalar [1] f32. opts may be NULL: PLACE
 * with K = 16, adaptive. parts may be NULL; an output (fv_output) can be read after a run. Threads
 * do not change a bit, nor CPUs a group. When gradients accumulate, each forward has its own w. */
FV_API fv_t fv_loss_place(fv_tape *t, fv_t student, fv_t teacher, const fv_place_options *opts,
                          fv_t *parts);

/* a + (b - a)*mix; a, b of one shape [..., C], mix f32 [C]. */
FV_API fv_t fv_lerp(fv_tape *t, fv_t a, fv_t b, fv_t mix);
/* The same with b = x one step earlier. x [B, T, C]; prev: input f32 [B, C], the row before the
 * first (no gradient flows into it), or 0: zeros. */
FV_API fv_t fv_token_shift(fv_tape *t, fv_t x, fv_t mix, fv_t prev);
/* coef[0]*a + coef[1]*b; coef f32 [2]. */
FV_API fv_t fv_mix2(fv_tape *t, fv_t a, fv_t b, fv_t coef);
/* RWKV-7 as OmniZip reduces it (static decay and rate; heads of 16). Per head, S [16 values, 16
 * keys]: kk = k/|k|, S <- S diag(decay) - (S kk) (kk*rate)^T + v (k*key_scale)^T, y = S r.
 * r, k, v [B, T, C]; decay, rate, key_scale f32 [C]; state f32 [B, C/16, 16, 16] or 0: zeros. No
 * gradient flows into the state. state_out may be NULL, else the state after the last step, to be
 * made an output. */
#define FV_WKV_HEAD 16
typedef struct fv_wkv { fv_t r, k, v, decay, rate, key_scale, state; } fv_wkv;
FV_API fv_t fv_wkv7(fv_tape *t, const fv_wkv *w, fv_t *state_out);
/* Group norm of y per head with weight and bias [C], then + (sum over the head of r*k*bonus)*v. Of
 * *w only r, k and v are used; bonus [C] includes key_scale. */
FV_API fv_t fv_wkv7_head(fv_tape *t, fv_t y, const fv_wkv *w, fv_t weight, fv_t bias, fv_t bonus,
                         float eps);
/* Gates of the two best experts: softmax over their two logits, 0 for all others; the lower index
 * wins a tie. f32 [R, E] -> [R, E], E from 3 to FV_MAX_EXPERTS. */
#define FV_MAX_EXPERTS 64
FV_API fv_t fv_route_top2(fv_tape *t, fv_t logits);
/* Scalar [1]: balance*(CV^2 of the gates' column sums + CV^2 of the expected loads) + z*mean of
 * logsumexp(clean)^2 (Shazeer et al. 2017). noisy = clean + noise of deviation std; all [R, E]. */
FV_API fv_t fv_route_balance(fv_tape *t, fv_t clean, fv_t noisy, fv_t std, fv_t gate, float balance,
                             float z);
/* Sum over experts e of gate_e * down_e relu(up_e x)^2; up -1: gate_e * down_e x. x [..., K] with R
 * rows, gate [R, E], up [E*H, K], down [E*N, H] -> f32 [..., N]. Experts with gate 0 are not
 * computed, and their gates get no gradient. */
FV_API fv_t fv_moe(fv_tape *t, fv_t x, fv_t gate, fv_pid up, fv_pid down);

typedef struct fv_plan_options {
    size_t struct_size;
    int keep_all;      /* no buffer reuse: every value can be read after a run (debugging, tests) */
    int external_work; /* the caller supplies the activation memory with fv_plan_set_work         */
} fv_plan_options;
#define FV_PLAN_OPTIONS_INIT { .struct_size = sizeof(fv_plan_options) }

/* The tape may be destroyed afterwards; params and ctx must outlive the plan. */
FV_API FV_NODISCARD fv_status fv_plan_build(fv_ctx *ctx, fv_plan **out, const fv_tape *t,
                                            const fv_plan_options *opts);
FV_API void fv_plan_destroy(fv_plan **p);
FV_API uint64_t fv_plan_work_bytes(const fv_plan *p);      /* activations, gradients, scratch */
/* Several plans that never run at the same time may share one block (64-byte aligned). The caller
 * keeps it. Until it is set, running is FV_ERR_STATE; a smaller one is FV_ERR_CAPACITY. */
FV_API FV_NODISCARD fv_status fv_plan_set_work(fv_plan *p, void *work, uint64_t bytes);
/* Storage of an input or output, by name (FV_ERR_UNKNOWN if there is none); the caller's, as large
 * as the tensor, 64-byte alignment advised. Stays until changed. NULL: unbound. On a GPU memory of the
 * host is FV_ERR_UNSUPPORTED. */
FV_API FV_NODISCARD fv_status fv_plan_bind(fv_plan *p, const char *name, void *data);
/* Inputs must be bound, and with external_work outputs too (else FV_ERR_STATE). Plans of one
 * context run one at a time, also when they share no memory. FV_ERR_CANCELLED between two ops;
 * outputs are then incomplete. */
FV_API FV_NODISCARD fv_status fv_plan_forward(fv_plan *p);
/* After fv_plan_forward: gradients of `loss` (the differentiable scalar output) times `scale`,
 * added to the parameters' gradients; those of inputs (fv_input_grad) are overwritten. */
FV_API FV_NODISCARD fv_status fv_plan_backward(fv_plan *p, const char *loss, float scale);
/* Value or gradient after a run: of outputs and inputs, gradients only of fv_input_grad; of
 * everything with keep_all. The plan's or the bound memory, valid until the next run; data NULL if
 * there is none. */
FV_API fv_tensor fv_plan_value(const fv_plan *p, const char *name);
FV_API fv_tensor fv_plan_grad(const fv_plan *p, const char *name);
FV_API fv_tensor fv_plan_value_of(const fv_plan *p, fv_t x);
/* FLOP of one forward (2 per multiply-add; matrix products, convolutions and attention). */
FV_API double fv_plan_flop(const fv_plan *p);
/* Per-op time table as text (after fv_plan_profile(p, 1) and some runs); owned by the plan. */
FV_API void fv_plan_profile(fv_plan *p, int on);
FV_API const char *fv_plan_profile_text(fv_plan *p);

/* How fast single ops run on the device of ctx, on random values at the sizes of the large networks, for
 * benchmarks; the first ones are the ceilings that the others are held against: a copy, and a matrix
 * product in bf16 and f32. `seconds`: about how long for each; is_small: tiny sizes, to see that it
 * works. out: room for FV_OP_SPEEDS. Takes up to 5 GB of the device's memory. */
typedef struct fv_op_speed {
    char name[32], shape[40];
    fv_dtype type;              /* of the activations, FV_I8: integers                         */
    double seconds;             /* median of a run                                            */
    double flop, bytes;         /* computed; read or written at least                         */
} fv_op_speed;
#define FV_OP_SPEEDS 48
FV_API FV_NODISCARD fv_status fv_measure_ops(fv_ctx *ctx, double seconds, int is_small,
                                             fv_op_speed *out, int room, int *count);
/* Seconds of a loss between f32 pictures [dim], forward and backward, n times, warm. */
typedef enum fv_measured_loss {
    FV_MEASURED_MSE = 0, FV_MEASURED_LIFT, FV_MEASURED_PLACE, FV_MEASURED_LOSSES
} fv_measured_loss;
FV_API FV_NODISCARD fv_status fv_measure_loss(fv_ctx *ctx, fv_measured_loss which,
                                              const int64_t dim[4], double *seconds, int n);

/* ---- 10. Training ---------------------------------------------------------------------------- */

/* Recipes: text files of "key = value" lines, # comments. Unknown keys are errors. */
typedef struct fv_recipe fv_recipe;
FV_API FV_NODISCARD fv_status fv_recipe_read(fv_ctx *ctx, fv_recipe **out, const char *path);
FV_API FV_NODISCARD fv_status fv_recipe_parse(fv_ctx *ctx, fv_recipe **out, const char *text,
                                              size_t size);
FV_API void fv_recipe_close(fv_recipe **r);
FV_API FV_NODISCARD fv_status fv_recipe_set(fv_recipe *r, const char *key_equals_value); /* --set */
/* A value, marking the key as known; missing: `fallback`. A value that is not a number, or outside
 * [lo, hi], is a failure that fv_recipe_check returns. */
FV_API const char *fv_recipe_string(fv_recipe *r, const char *key, const char *fallback);
FV_API double fv_recipe_number(fv_recipe *r, const char *key, double fallback, double lo,
                               double hi);
FV_API int64_t fv_recipe_int(fv_recipe *r, const char *key, int64_t fallback, int64_t lo,
                             int64_t hi);
FV_API int fv_recipe_bool(fv_recipe *r, const char *key, int fallback);
/* Comma or space separated items of a value; the array and strings are owned by the recipe. */
FV_API int fv_recipe_list(fv_recipe *r, const char *key, const char *const **items);
/* First failure so far, or a key that nobody asked for (named, with the nearest known key). */
FV_API FV_NODISCARD fv_status fv_recipe_check(fv_recipe *r);
/* Canonical "key = value" text of all keys in effect, for logs and metadata. */
FV_API const char *fv_recipe_text(fv_recipe *r);

/* AdamW (Loshchilov & Hutter 2019), decoupled decay on FV_PARAM_DECAY parameters, global-norm
 * clipping, exponential moving average; all f32, one pass. */
typedef struct fv_opt fv_opt;
typedef struct fv_opt_options {
    size_t struct_size;
    float beta1, beta2, eps, weight_decay; /* 0 = 0.9, 0.95, 1e-8, 0                             */
    float clip;                            /* global gradient norm; 0 = no clipping               */
    float ema_decay;                       /* 0 = no EMA; effective min(ema_decay, (1+t)/(10+t))  */
} fv_opt_options;
#define FV_OPT_OPTIONS_INIT { .struct_size = sizeof(fv_opt_options) }
typedef struct fv_opt_info { double grad_norm; int skipped; } fv_opt_info;
FV_API FV_NODISCARD fv_status fv_opt_create(fv_ctx *ctx, fv_opt **out, fv_params *params,
                                            const fv_opt_options *opts);
FV_API void fv_opt_destroy(fv_opt **o);
/* One update from params' gradients, which are zeroed. A non-finite norm skips the update
 * (counted); ten in a row are FV_ERR_NUMERIC. Same bits for any thread count. */
FV_API FV_NODISCARD fv_status fv_opt_step(fv_opt *o, float lr, fv_opt_info *info);
FV_API uint64_t fv_opt_steps(const fv_opt *o);
/* Exchange masters and EMA (to evaluate, sample or export with the average); call again to undo. */
FV_API void fv_opt_swap_ema(fv_opt *o);

typedef enum fv_schedule_kind {
    FV_LR_CONSTANT = 0,
    FV_LR_COSINE,
    FV_LR_LINEAR,
    FV_LR_WSD
} fv_schedule_kind;
/* Linear warm-up over `warmup` steps to peak, then towards peak*final at `total`. WSD: constant,
 * linear decay over the last 20 %. A pure function of step. */
FV_API double fv_schedule(fv_schedule_kind kind, uint64_t step, uint64_t total, uint64_t warmup,
                          double peak, double final);

/* The loop that every `fovea train` shares: accumulation, schedule, progress, metrics.csv,
 * loss.png, checkpoints (atomic, CRC per tensor, three kept), exact resume after any kill, export
 * at the end. */
typedef struct fv_train_hooks {
    void *user;
    /* Forward and backward of micro-batch `micro` of `step`: add gradients scaled by `scale`, set
     * *loss. */
    fv_status (*step)(void *user, uint64_t step, int micro, float scale, double *loss);
    /* Optional; called with EMA weights in place: held-out metric (a loss, or what the trainer
     * says; nothing is decided by it). */
    fv_status (*evaluate)(void *user, uint64_t step, double *metric);
    /* Optional; EMA weights in place: write pictures to `path_stem`.png. */
    fv_status (*sample)(void *user, uint64_t step, const char *path_stem);
    /* EMA weights in place: write the finished model file. */
    fv_status (*export_model)(void *user, uint64_t step, const char *path);
} fv_train_hooks;

typedef struct fv_train_options {
    size_t struct_size;
    const char *out_dir; /* made if missing: ckpt-*.safetensors, latest, metrics.csv, loss.png,
                            model.safetensors */
    const char *export_path;      /* NULL = out_dir/model.safetensors */
    uint64_t steps, start_step;   /* start_step: position in data and schedule for --init runs */
    int accumulate;               /* micro-batches a step; 0 = 1 */
    uint64_t samples_per_step;    /* for the rate shown */
    fv_schedule_kind schedule;
    double lr, lr_final;          /* peak; final fraction */
    uint64_t warmup;
    uint64_t save_every, eval_every, sample_every, log_every; /* steps; 0 = 500, never, never, 10 */
    double save_seconds;          /* also save when this much time passed; 0 = 300 */
    int resume; /* go on from the newest intact checkpoint; without: FV_ERR_EXISTS if out_dir has
                   one */
    const char *recipe_text; /* stored in checkpoints; a resume with another text is refused (steps
                                and *_every may differ) */
    uint64_t seed;
    /* Further columns of metrics.csv, at most FV_TRAIN_EXTRAS; their names with commas between. Each
     * row asks for values, with the hooks' user: means since the row before, NaN where there are
     * none. */
    const char *extra_names;
    int extras;
    void (*extra)(void *user, double *values);
    /* 0, or a power of two: a step's sums of gradients have the order of a tree of so many slices of
     * the batch, whatever the number of ranks, which must divide it. accumulate is a multiple. */
    int slices;
} fv_train_options;
#define FV_TRAIN_EXTRAS 12
#define FV_TRAIN_OPTIONS_INIT { .struct_size = sizeof(fv_train_options) }
typedef struct fv_train_result {
    uint64_t step;
    double loss, metric, seconds, samples_per_second;
} fv_train_result;
/* Cancelled (fv_ctx_cancel or progress callback): saves a checkpoint first, then
 * FV_ERR_CANCELLED. */
FV_API FV_NODISCARD fv_status fv_train_run(fv_ctx *ctx, fv_params *params, fv_opt *opt,
                                           const fv_train_hooks *hooks,
                                           const fv_train_options *opts, fv_train_result *result);
/* ---- Ranks: processes that train one model ---- */

/* All ranks of a run make the same calls in the same order; what they have in common is the same to
 * the last bit afterwards. A rank that is lost is FV_ERR_COMM in every later call. The calling
 * thread waits; one call at a time per comm. A comm of NULL is one rank alone.
 *
 * With a comm in the context, fv_train_run shares its micro-batches, the gradients' sums, and the
 * state that rank 0 resumed; only rank 0 writes files, evaluates and reports, and its result is the
 * one to show. */
#define FV_MAX_RANKS 4096
/* Back end. Sends to rank `to` and receives from rank `from` at the same time; -1: does not. Both
 * sides know the sizes. Returns nonzero when a rank is gone, with the reason in `why`; does not wait
 * for ever for one that is. */
typedef struct fv_comm_link {
    size_t struct_size;
    int rank, size;
    void *user;
    int (*exchange)(void *user, int to, const void *send, size_t send_bytes, int from, void *recv,
                    size_t recv_bytes, char *why, size_t why_size);
} fv_comm_link;
#define FV_COMM_LINK_INIT { .struct_size = sizeof(fv_comm_link), .size = 1 }
/* link may be NULL: alone. It and ctx must outlive the comm. FV_ERR_ARG: rank not below size. */
FV_API FV_NODISCARD fv_status fv_comm_create(fv_ctx *ctx, fv_comm **out, const fv_comm_link *link);
FV_API void fv_comm_destroy(fv_comm **comm);
FV_API int fv_comm_rank(const fv_comm *c);
FV_API int fv_comm_size(const fv_comm *c);
/* Was a rank lost? */
FV_API int fv_comm_broken(const fv_comm *c);
/* x[n] becomes its sum over the ranks. In buckets of 4 to 8 MiB, the last first; each rank sends
 * 2 (R-1)/R of the bytes: halving and doubling (Rabenseifner 2004) where R is a power of two, with
 * the sums of a binary tree over the ranks, else a ring, whose sums begin at another rank for each
 * R-th of a bucket. */
FV_API FV_NODISCARD fv_status fv_comm_sum_f32(fv_comm *c, float *x, int64_t n);
/* The same of at most 256 numbers, in the order of a tree for any R. */
FV_API FV_NODISCARD fv_status fv_comm_sum_f64(fv_comm *c, double *x, int n);
/* data of rank 0 to all. */
FV_API FV_NODISCARD fv_status fv_comm_broadcast(fv_comm *c, void *data, size_t bytes);
/* all [size][bytes] := what each rank has in `mine`. */
FV_API FV_NODISCARD fv_status fv_comm_gather(fv_comm *c, const void *mine, size_t bytes, void *all);
FV_API FV_NODISCARD fv_status fv_comm_barrier(fv_comm *c);
typedef struct fv_comm_stats {
    uint64_t summed_bytes; /* size of what fv_comm_sum_f32 summed */
    uint64_t sum_bytes;    /* that this rank sent for it          */
    uint64_t other_bytes;  /* sent by all other calls             */
    double seconds;        /* in all calls, waiting included      */
} fv_comm_stats;
FV_API void fv_comm_get_stats(const fv_comm *c, fv_comm_stats *out);

/* What every trainer reads from its recipe, with the same keys and fallbacks everywhere
 * (train_recipe.c lists them). data_dir (may be NULL) stands before relative paths; the data set is
 * RGB. HELDOUT: as stored, decoded once; else with the recipe's augmentation (fv_dataset_get shows
 * pictures without). */
FV_API FV_NODISCARD fv_status fv_dataset_from_recipe(fv_ctx *ctx, fv_dataset **out, fv_recipe *r,
                                                     const char *data_dir, int image_size,
                                                     fv_split split);
FV_API FV_NODISCARD fv_status fv_opt_from_recipe(fv_ctx *ctx, fv_opt **out, fv_params *params,
                                                 fv_recipe *r);
/* Fills steps, schedule, lr, lr_final, warmup, save_every, sample_every and log_every of *opts. */
FV_API FV_NODISCARD fv_status fv_train_options_from_recipe(fv_ctx *ctx, fv_recipe *r,
                                                           fv_train_options *opts);
/* "f32", "bf16" or "int8" (FV_I8). */
FV_API FV_NODISCARD fv_status fv_dtype_from_recipe(fv_ctx *ctx, fv_recipe *r, const char *key,
                                                   const char *fallback, fv_dtype *out);
/* State of params and optimiser (masters, moments, EMA, step) as one checkpoint file. */
FV_API FV_NODISCARD fv_status fv_checkpoint_write(fv_ctx *ctx, const fv_params *params,
                                                  const fv_opt *opt, uint64_t step,
                                                  const char *recipe_text, const char *path);
FV_API FV_NODISCARD fv_status fv_checkpoint_read(fv_ctx *ctx, fv_params *params, fv_opt *opt,
                                                 uint64_t *step, const char *recipe_text,
                                                 const char *path);
/* Write params (current masters) as a model file. quantise: FV_F32, FV_BF16 or FV_I8 (per row,
 * matrices only; vectors stay f32). meta: key, value pairs. */
FV_API FV_NODISCARD fv_status fv_params_export(fv_ctx *ctx, const fv_params *params, fv_dtype type,
                                               const char *const *meta, int meta_pairs,
                                               const char *path, int overwrite);

/* What the trainers of all engines take: fv_classifier_train, fv_dit_train, ... Each of them asks
 * the recipe for all its keys, so one that is unknown is FV_ERR_UNKNOWN before the first step. */
typedef struct fv_trainer_options {
    size_t struct_size;
    const char *data_dir; /* put before relative data paths; may be NULL                       */
    const char *out_dir, *export_path; /* as in fv_train_options                                */
    const char *init;     /* start from the weights of this model file; NULL = none. A trainer that
                             cannot says FV_ERR_UNSUPPORTED                                     */
    uint64_t start_step;  /* with init: position in data and schedule                          */
    int resume;
} fv_trainer_options;
#define FV_TRAINER_OPTIONS_INIT { .struct_size = sizeof(fv_trainer_options) }
typedef fv_status (*fv_trainer)(fv_ctx *ctx, fv_recipe *recipe, const fv_trainer_options *o,
                                fv_train_result *result);

/* ---- 11. Feature classifier ------------------------------------------------------------------ */

/* A small residual network that tells the classes of a data set apart. Its answers and its pooled
 * features judge generated pictures: share of samples recognised as what was asked for, and Frechet
 * distance to real pictures. Figures compare only where the classifier file is the same. */
typedef struct fv_classifier fv_classifier;
typedef struct fv_classifier_info {
    int size;             /* side of its pictures in pixels  */
    int classes, features;
    int64_t parameters;
} fv_classifier_info;
/* `file` must outlive the classifier. Belongs to ctx: use it with that context only. f32. */
FV_API FV_NODISCARD fv_status fv_classifier_open(fv_ctx *ctx, fv_classifier **out,
                                                 const fv_model *file);
FV_API void fv_classifier_close(fv_classifier **c);
FV_API void fv_classifier_get_info(const fv_classifier *c, fv_classifier_info *out);
FV_API const char *fv_classifier_class_name(const fv_classifier *c,
                                            int i); /* NULL if out of range */
FV_API int fv_classifier_class_find(const fv_classifier *c,
                                    const char *name); /* exact; -1 if none */
/* Pictures [B, size, size, 3] in [-1, 1] -> logits [B, classes] and features [B, features]; either
 * may be NULL. Allocates nothing; a picture's values do not depend on B or the thread count. */
FV_API FV_NODISCARD fv_status fv_classifier_run(fv_ctx *ctx, fv_classifier *c, const float *hwc,
                                                int64_t B, float *logits, float *features);
typedef struct fv_class_score { uint64_t count, correct; } fv_class_score;
/* Every picture of a data set of that size (without augmentation); classes are matched by name.
 * total, per_class [classes] and features [fv_dataset_count, features] may be NULL. */
FV_API FV_NODISCARD fv_status fv_classifier_score(fv_ctx *ctx, fv_classifier *c, fv_dataset *ds,
                                                  fv_class_score *total, fv_class_score *per_class,
                                                  float *features);

/* `fovea train` for recipes with engine = classifier. The metric is the share of held-out pictures
 * that are not recognised. */
FV_API FV_NODISCARD fv_status fv_classifier_train(fv_ctx *ctx, fv_recipe *recipe,
                                                  const fv_trainer_options *o,
                                                  fv_train_result *result);

/* ---- 12. Perceptual distances ---------------------------------------------------------------- */

/* LPIPS 0.1 on VGG-16 or AlexNet [Zhang et al. 2018, arXiv 1801.03924] and DISTS on VGG-16 [Ding et
 * al. 2020, arXiv 2004.07728]: how far apart features of two pictures are; 0 = equal. The weights
 * are not part of fovea: fv_perceptual_convert makes a model file of what their authors publish.
 *
 *     VGG-16    5 stages of 2, 2, 3, 3 and 3 convolutions 3x3 with ReLU; 64, 128, 256, 512 and 512
 *               channels; between them the maximum of 2x2, in DISTS an L2 pooling
 *     AlexNet   convolutions 11x11 of stride 4, 5x5, 3x3, 3x3, 3x3; before the second and third the
 *               maximum of 3x3, every second pixel
 *     LPIPS     sum over stages of mean over pixels of w (a/|a| - b/|b|)^2
 *     DISTS     1 - sum over picture, stages and channels of alpha l(means) + beta s(deviations)
 *
 * Pictures are taken as they are: who compares with figures of others resizes as they did. */
typedef struct fv_perceptual fv_perceptual;
/* `file` must outlive it. Belongs to ctx. FV_ERR_MODEL: no such model. */
FV_API FV_NODISCARD fv_status fv_perceptual_open(fv_ctx *ctx, fv_perceptual **out,
                                                 const fv_model *file);
FV_API void fv_perceptual_close(fv_perceptual **p);
/* "LPIPS" or "DISTS". */
FV_API const char *fv_perceptual_name(const fv_perceptual *p);
/* Least side of its pictures: 16, with AlexNet 31. */
FV_API int fv_perceptual_side(const fv_perceptual *p);
/* Between pictures of equal size, 8 or 16 bit; grey counts as RGB, alpha is ignored. In f32; memory
 * is about 0.7 KB a pixel beside 120 MB of weights with VGG-16. Pictures of one size after another
 * share a plan. */
FV_API FV_NODISCARD fv_status fv_perceptual_distance(fv_ctx *ctx, fv_perceptual *p,
                                                     const fv_image *a, const fv_image *b,
                                                     double *distance);
/* The same as a loss, scalar, mean over the batch: a, target f32 [B, H, W, 3] in [-1, 1], no
 * gradient to the target. The tape must be on these parameters, which are frozen; a tape of FV_TRAIN
 * makes masters of them, and comes before the first fv_perceptual_distance. */
FV_API fv_params *fv_perceptual_params(fv_perceptual *p);
FV_API fv_t fv_loss_perceptual(fv_tape *t, const fv_perceptual *p, fv_t a, fv_t target);

/* Does the file hold features that fv_perceptual_convert takes as `net`? */
FV_API int fv_perceptual_is_checkpoint(const fv_model *net);
/* `fovea convert`. net: torchvision's vgg16 or alexnet (features.N.weight, .bias), or the features as
 * LPIPS and DISTS hold them (net.sliceK.N, stageK.N); weights: LPIPS's linK.model.1.weight or
 * DISTS's alpha and beta, NULL when net has them. type f32, bf16 or int8 (FV_I8) of the
 * convolutions; figures of others are of f32. A tensor that is missing, of another shape or not
 * understood: FV_ERR_MODEL; not finite: FV_ERR_NUMERIC. */
FV_API FV_NODISCARD fv_status fv_perceptual_convert(fv_ctx *ctx, const fv_model *net,
                                                    const fv_model *weights, fv_dtype type,
                                                    const char *out_path, int overwrite);

/* ---- 13. Degradations ------------------------------------------------------------------------ */

/* Pictures made worse, for training and measuring super-resolution: blur, resizing, noise and JPEG,
 * in the order and with the ranges of two public programs. What happens to a picture is a list of
 * steps that is drawn from (seed, stream, sample, frame) alone, or given by the caller. All pictures
 * are f32 [height, width, 3] in [0, 1]. */
typedef enum fv_degrade_kind {
    FV_DEGRADE_CLEAN = 0,  /* antialiased bicubic                                             */
    FV_DEGRADE_PSSR,       /* one resize, as the program of PS-SR runs [Wu et al. 2026]: blur, noise,
                              JPEG, blur, resize, noise, sinc, JPEG                            */
    FV_DEGRADE_TWO_STAGE   /* Real-ESRGAN [Wang et al. 2021, arXiv 2107.10833, fig. 2 and 3.3] */
} fv_degrade_kind;

/* Kernels, p = (x, y) from the centre, q = p' S^-1 p with S of the two deviations turned by
 * `rotation`, r = |p|: Gauss exp(-q / 2), generalised exp(-q^beta / 2), plateau 1 / (1 + q^beta),
 * sinc omega J1(omega r) / (2 pi r); then scaled to sum 1. */
typedef enum fv_blur_kind {
    FV_BLUR_GAUSS = 0, FV_BLUR_GENERAL, FV_BLUR_PLATEAU, FV_BLUR_SINC
} fv_blur_kind;
#define FV_BLUR_SIZE_MAX 21
typedef struct fv_blur {
    fv_blur_kind kind;
    int size;                /* side, odd, 1..FV_BLUR_SIZE_MAX        */
    float sigma[2];          /* pixels, > 0; equal: isotropic         */
    float rotation;          /* radians, from the x axis to the y axis */
    float beta;              /* GENERAL, PLATEAU; > 0                 */
    float omega;             /* SINC: cut-off in radians a pixel, 0..pi */
} fv_blur;
/* k [size, size], rows first. FV_ERR_ARG: a value out of range. */
FV_API FV_NODISCARD fv_status fv_blur_kernel(fv_ctx *ctx, const fv_blur *b, float *k);

typedef enum fv_degrade_op {
    FV_DEGRADE_BLUR = 0, /* picture continued by reflection without its edge                   */
    FV_DEGRADE_RESIZE,
    FV_DEGRADE_GAUSS,    /* x + strength n, n normal                                           */
    FV_DEGRADE_POISSON,  /* x + strength (P(v x) / v - x); v: number of different 8-bit values of
                            the picture, rounded up to a power of 2                            */
    FV_DEGRADE_JPEG,     /* libjpeg, colour at half resolution                                 */
    FV_DEGRADE_ROUND     /* to multiples of 1/255                                              */
} fv_degrade_op;
typedef enum fv_degrade_filter {
    FV_DEGRADE_AREA = 0, FV_DEGRADE_BILINEAR, FV_DEGRADE_BICUBIC /* a = -0.75 */,
    FV_DEGRADE_BICUBIC_SOFT /* a = -0.5 */
} fv_degrade_filter;
typedef struct fv_degrade_step {
    fv_degrade_op op;
    fv_blur blur;
    int width, height;          /* RESIZE: to this size                                      */
    fv_degrade_filter filter;
    int antialias;              /* RESIZE: the kernel widens as the picture shrinks          */
    float strength;             /* GAUSS, POISSON; 0..1 and 0..8                             */
    int is_grey;                /* the same noise in all channels                            */
    int quality;                /* JPEG, 1..100                                              */
} fv_degrade_step;              /* each step ends by clamping to [0, 1], but for BLUR        */
#define FV_DEGRADE_STEPS 12
typedef struct fv_degrade_list {
    int count;
    fv_degrade_step step[FV_DEGRADE_STEPS];
} fv_degrade_list;

typedef struct fv_degrade_options {
    size_t struct_size;
    int max_width, max_height; /* of pictures that come in, required                           */
    uint64_t seed;
    uint32_t stream;           /* 0 = FV_STREAM_DEGRADE                                        */
    int parallel;              /* pictures at a time; 0 = the context's threads. Memory is about
                                  110 bytes a pixel for each                                   */
    float antialias;           /* share of resizes with antialiasing; the programs use none    */
    int all_per_frame;         /* 0: frames of a sample share blur and resize, noise and JPEG are
                                  drawn for each; 1: but for resize all is, as in PS-SR         */
    float clean_a;             /* bicubic of CLEAN: -0.5 or -0.75; 0 = one of them, drawn       */
} fv_degrade_options;
#define FV_DEGRADE_OPTIONS_INIT { .struct_size = sizeof(fv_degrade_options), .antialias = 1 }

typedef struct fv_degrade_job {
    const float *hq;
    float *lq;                  /* [lq_height, lq_width, 3]; may not be hq                      */
    int width, height, lq_width, lq_height; /* lq sides up to those of the options              */
    fv_degrade_kind kind;
    uint32_t sample, frame;     /* frame below 2^23; pictures that are no clip: 0               */
} fv_degrade_job;

typedef struct fv_degrade fv_degrade;
FV_API FV_NODISCARD fv_status fv_degrade_create(fv_ctx *ctx, fv_degrade **out,
                                                const fv_degrade_options *opts);
FV_API void fv_degrade_destroy(fv_degrade **d);
/* What a job will undergo. Pointers of the job are not used. */
FV_API FV_NODISCARD fv_status fv_degrade_draw(fv_degrade *d, const fv_degrade_job *job,
                                              fv_degrade_list *out);
/* All jobs, several at a time; the same values for any number of threads and order of jobs.
 * Allocates nothing (libjpeg does for a JPEG step, and frees it). */
FV_API FV_NODISCARD fv_status fv_degrade_run(fv_degrade *d, const fv_degrade_job *jobs, int count);
/* One job with these steps instead of drawn ones; noise is still drawn for (sample, frame). The last
 * size must be that of lq (FV_ERR_SHAPE); sides between may reach 1.5 x those of the options. */
FV_API FV_NODISCARD fv_status fv_degrade_apply(fv_degrade *d, const fv_degrade_job *job,
                                               const fv_degrade_list *steps);

/* ---- 14. Clips made of stills ---------------------------------------------------------------- */

/* A camera that moves over a picture: frames with known motion, for training and for metrics. Frame t
 * shows at pixel p = (x, y), counted from 0 at the centre of the upper left one, the picture at
 *
 *     (X / Z, Y / Z),  (X, Y, Z) = to_source[t] (x, y, 1)
 *
 * interpolated by a cubic (a = -0.5, exact at whole pixels), times gain[t], clamped to [0, 1]. Beyond
 * its edges the picture goes on by reflection, so the flow is exact everywhere. */
#define FV_CLIP_FRAMES_MAX 64
typedef struct fv_clip_path {
    int frames;
    double to_source[FV_CLIP_FRAMES_MAX][9]; /* rows first */
    float gain[FV_CLIP_FRAMES_MAX];
} fv_clip_path;

typedef struct fv_clip_options {
    size_t struct_size;
    int frames, width, height;   /* of the clip; frames 1..FV_CLIP_FRAMES_MAX                   */
    int source_width, source_height;
    uint64_t seed;
    uint32_t stream;             /* 0 = FV_STREAM_CLIP                                          */
    float pan;                   /* largest shift, pixels a frame                               */
    float zoom;                  /* largest change of scale a frame, 0.01 = 1 %                 */
    float rotate;                /* largest turn, radians a frame                               */
    float tilt;                  /* perspective: largest change of scale from centre to edge    */
    float shake;                 /* deviation of each frame's place, pixels                     */
    float light;                 /* largest change of brightness, 0.05 = 5 %                    */
    float closest;               /* smallest picture pixels per clip pixel, 0.5..1; the largest is 1 */
} fv_clip_options;
#define FV_CLIP_OPTIONS_INIT                                                               \
    { .struct_size = sizeof(fv_clip_options), .frames = 5, .pan = 3, .zoom = 0.015f,       \
      .rotate = 0.015f, .tilt = 0.08f, .shake = 0.7f, .light = 0.05f, .closest = 0.7f }

/* The path of a sample, from (seed, stream, sample) alone. Each kind of motion is there in about half
 * of the clips, with a strength up to the option's; in some nothing moves. */
FV_API FV_NODISCARD fv_status fv_clip_draw(fv_ctx *ctx, const fv_clip_options *opts, uint32_t sample,
                                           fv_clip_path *out);
/* Frame t: source f32 [source_height, source_width, 3] -> out [height, width, 3]. Allocates
 * nothing; the same values for any number of threads. FV_ERR_NUMERIC: the path is no map here (a
 * value is not finite, or Z <= 0 at a corner). */
FV_API FV_NODISCARD fv_status fv_clip_frame(fv_ctx *ctx, const fv_clip_path *path, int t,
                                            const float *source, int source_width,
                                            int source_height, float *out, int width, int height);
/* Motion of each pixel of frame `from` to frame `to`: flow [height, width, 2], (right, down), so that
 * frame `to` at p + flow(p) shows what frame `from` does at p. */
FV_API FV_NODISCARD fv_status fv_clip_flow(fv_ctx *ctx, const fv_clip_path *path, int from, int to,
                                           float *flow, int width, int height);

/* ---- 15. Video ------------------------------------------------------------------------------- */

/* Uncompressed video as pipes carry it, frame by frame as f32 RGB [height, width, 3] with 0 black and
 * 1 white: Y4M, raw frames, numbered picture files. Memory is a few frames, however long the video.
 * Values beyond 0..1 that a frame's colours may have are kept, so that what is written from them
 * equals what was read. */
typedef enum fv_video_kind { FV_VIDEO_Y4M = 0, FV_VIDEO_RAW, FV_VIDEO_FILES } fv_video_kind;
typedef enum fv_video_layout {
    FV_VIDEO_GREY = 0, FV_VIDEO_420, FV_VIDEO_422, FV_VIDEO_444, /* planes Y, Cb, Cr           */
    FV_VIDEO_RGB,                                                /* interleaved: rgb24, rgb48le */
    FV_VIDEO_GBR                                                 /* planes G, B, R: gbrp        */
} fv_video_layout;
/* Where in its 2 x 2 pixels the colour of FV_VIDEO_420 belongs: C420jpeg, C420mpeg2, C420paldv. */
typedef enum fv_chroma_site {
    FV_CHROMA_CENTRE = 0, FV_CHROMA_LEFT, FV_CHROMA_TOP_LEFT
} fv_chroma_site;
typedef enum fv_video_matrix { FV_MATRIX_BT601 = 0, FV_MATRIX_BT709 } fv_video_matrix;
typedef struct fv_video_format {
    int width, height;
    fv_video_layout layout;
    int depth;              /* bits a sample, 8..16; above 8 two bytes, the low one first        */
    int full_range;         /* of Y, Cb, Cr; 0: 16..235 and 16..240, times 2^(depth - 8)         */
    fv_chroma_site site;    /* read by Y4M; more than 8 bits are FV_CHROMA_LEFT there            */
    fv_video_matrix matrix; /* no header says it: what the caller takes it for                   */
    int64_t rate[2];        /* frames a second as a fraction; 0, 0: not said                     */
    int64_t aspect[2];      /* of a pixel; 0, 0: not said                                        */
} fv_video_format;

typedef struct fv_video_options {
    size_t struct_size;
    fv_video_kind kind;
    int fd;                 /* Y4M and RAW: a file, pipe or socket, the caller's. Not with these: */
    /* Like read(2) and write(2): bytes moved, 0 at the end, -1 with errno set. */
    int64_t (*read)(void *user, void *bytes, size_t size);
    int64_t (*write)(void *user, const void *bytes, size_t size);
    void *user;
    const char *path;       /* FILES: a folder, or a pattern with one %d or %0Nd in its last part  */
    fv_video_format format; /* reading RAW and writing: of the frames. Reading Y4M: the matrix     */
    uint64_t max_pixels;    /* refuse larger frames; 0 = FV_IMAGE_MAX_PIXELS                      */
    int64_t first;          /* writing FILES: number of the first                                 */
    int overwrite;          /* writing FILES: 0 = FV_ERR_EXISTS when one is there                 */
} fv_video_options;
#define FV_VIDEO_OPTIONS_INIT { .struct_size = sizeof(fv_video_options), .fd = -1 }

/* Reads the header, or finds the files (in natural order: f9 before f10) and reads the first. A
 * reader belongs to ctx; options are copied, path too. FV_ERR_FORMAT, FV_ERR_LIMIT,
 * FV_ERR_TRUNCATED: the header; FV_ERR_UNSUPPORTED: interlaced, 4:1:1, alpha; FV_ERR_NOT_FOUND: no
 * files. */
typedef struct fv_video_reader fv_video_reader;
FV_API FV_NODISCARD fv_status fv_video_open(fv_ctx *ctx, fv_video_reader **out,
                                            const fv_video_options *opts);
FV_API void fv_video_close(fv_video_reader **r);
/* Of the frames. FILES: FV_VIDEO_RGB with the depth of the first. */
FV_API void fv_video_get_format(const fv_video_reader *r, fv_video_format *out);
/* Next frame into rgb, in [0, 1] but for codes of Y, Cb, Cr that lie beyond; *got = 0: the video has
 * ended. FV_ERR_TRUNCATED: it ends within a frame, those before are complete; FV_ERR_SHAPE: the size
 * changes; FV_ERR_FORMAT: what follows is no frame. After them a stream has ended, while FILES go on behind the file that failed, or is missing in the
 * numbers (FV_ERR_NOT_FOUND; FV_ERR_LIMIT: more than 1000 in a row, and the video has ended).
 * FV_ERR_CANCELLED, also while it waits for a stream. Alpha of files is laid over black. */
FV_API FV_NODISCARD fv_status fv_video_read(fv_video_reader *r, float *rgb, int *got);
/* FILES: name without folder of the frame read last, NULL before; the reader's until its next call. */
FV_API const char *fv_video_name(const fv_video_reader *r);
/* FILES of a pattern: number of the first; else -1. */
FV_API int64_t fv_video_first(const fv_video_reader *r);

/* Y4M: writes the header. A folder is made if missing. Colour at half resolution is averaged such that
 * what fv_video_read made of it comes out again. Grey video is luma. */
typedef struct fv_video_writer fv_video_writer;
FV_API FV_NODISCARD fv_status fv_video_create(fv_ctx *ctx, fv_video_writer **out,
                                              const fv_video_options *opts);
FV_API void fv_video_destroy(fv_video_writer **w);
/* Next frame, rounded to the nearest code, half to even, NaN to 0. name: of the file in a folder, with
 * its suffix; NULL: the next number. Whole frames are given to the stream at once. FV_ERR_IO: the disk
 * is full, the pipe is closed (the caller has to ignore SIGPIPE). FV_ERR_CANCELLED, also while it
 * waits for a stream, which may have taken a part of the frame. */
FV_API FV_NODISCARD fv_status fv_video_write(fv_video_writer *w, const float *rgb,
                                             const char *name);

#ifdef __cplusplus
}
#endif
#endif
