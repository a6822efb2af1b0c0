/* fovea_codec.h - public interface of vzip, the lossless compressor, and of vpic, the picture codec
 * with learned codes (section 8; the rest is about vzip).
 *
 * An archive (suffix .vz) is one or more frames; a frame is a list of blocks that are coded apart
 * from each other, each the smallest of stored, zstd -19 and modelled (context mixing). Blocks run
 * in parallel on the context's threads; the archive's bytes do not depend on their number. The
 * format is written down in FORMAT-vz.md, and its version 1 will be read for ever.
 *
 * A model comes with the library: a vocabulary, in whose pieces text is coded, a small network, and
 * typical data, as if which had come before blocks below 1 MiB. A frame's header names the model that
 * it needs, and every version of the library has its own; section 6 is about others.
 *
 *     fv_vzip_compress(ctx, text, bytes, NULL, &vz, &n);               memory to memory
 *     fv_vzip_decompress(ctx, vz, n, 1 << 20, NULL, &back, &size);     at most 1 MiB comes out
 *
 * With a context of CUDA streams (section 3) and calls in memory run the network there, the rest on the
 * CPU; bytes are the same. The device is busy with that call alone.
 *
 * Rules of fovea.h hold: every failure is a status and one sentence in fv_ctx_error; a context is
 * used by one thread at a time, different contexts are independent. Callbacks are called on the
 * thread that made the call, never two at a time. */
#ifndef FOVEA_CODEC_H
#define FOVEA_CODEC_H

#include "fovea.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- 1. Options ------------------------------------------------------------------------------ */

#define FV_VZIP_NO_LIMIT UINT64_MAX
#define FV_VZIP_LEVEL_ULTRA 10 /* above 9, and text takes three times as long: the network reads all */

typedef struct fv_vzip_model fv_vzip_model; /* section 6 */

typedef struct fv_vzip_options {
    size_t struct_size;
    int level;             /* 1 fastest .. 9, or FV_VZIP_LEVEL_ULTRA; 0 = 3. Decoding takes as
                              long as encoding                                                   */
    uint64_t block_bytes;  /* 0 = the level's (8 MiB; from 6 on 32, at 9 64); at most 256 MiB    */
    uint64_t memory_bytes; /* 0 = none; else smaller tables and fewer threads until it fits      */
    uint64_t size;         /* of the input when it is known beforehand, to be written into the
                              header; a different number of bytes is then FV_ERR_IO. 0 = unknown */
    int verify;            /* decode each block and compare: 1 yes, -1 no, 0 = at level 10 only  */
    int no_index;          /* 1: leave out the index (random access then scans the archive)      */
    const char *name;      /* file name to keep, UTF-8, at most 255 bytes; NULL = none           */
    int has_time;          /* keep mtime and mode                                                */
    int64_t mtime_s;
    uint32_t mtime_ns;
    uint32_t mode;         /* permission bits                                                    */
    int long_range;        /* blocks refer to data that repeats: 1 up to 256 MiB back, -1 not at
                              all, 0 = 256 MiB from level 6 on, 16 MiB below                     */
    int no_prime;          /* 1: nothing is known before the first byte: no vocabulary, network and
                              typical data. The archive is larger, and needs no model to be
                              decoded                                                            */
    int no_network;        /* 1: the model without its network, which small texts from level 3 on
                              and all text at level 10 wait for                                  */
    const fv_vzip_model *model; /* NULL = the library's own                                      */
} fv_vzip_options;
#define FV_VZIP_OPTIONS_INIT { .struct_size = sizeof(fv_vzip_options) }

/* What a decoder accepts. An archive beyond it is refused before memory is taken. */
typedef struct fv_vzip_limits {
    size_t struct_size;
    uint64_t memory_bytes;    /* 0 = 1 GiB; FV_ERR_OOM says how much would be needed */
    uint64_t max_block_bytes; /* 0 = 256 MiB                                         */
    uint64_t max_expansion;   /* original : coded bytes of a block, 0 = 1,000,000    */
    /* Models that frames may name, beside the library's own. They, the array and what find_model
     * returns must outlive the call, or the archive's handle. */
    const fv_vzip_model *const *models;
    int model_count;
    /* Asked for a model that is in none of these; NULL = there is none. May be NULL. */
    const fv_vzip_model *(*find_model)(void *user, uint32_t id, uint64_t hash);
    void *find_user;
    /* A block may learn up to 32 KiB and four times its own bytes of a model's texts before it is
     * decoded, which takes as long as decoding so much. Where a whole archive is decoded, this
     * bounds what exceeds eight times the output: blocks of a few bytes each. 0 = 4 GiB. */
    uint64_t max_learnt_bytes;
} fv_vzip_limits;
#define FV_VZIP_LIMITS_INIT { .struct_size = sizeof(fv_vzip_limits) }

typedef struct fv_vzip_stats {
    uint64_t input_bytes, output_bytes;
    uint64_t frames, blocks;
    uint64_t stored, zstd, modelled; /* blocks of each kind                                     */
    uint64_t failed_checks;          /* blocks that did not pass `verify` and were coded simply:
                                        the archive is right, the coder has a bug               */
    uint64_t referring;              /* blocks that refer to data before them as well           */
} fv_vzip_stats;

/* ---- 2. Memory to memory --------------------------------------------------------------------- */

/* *out belongs to the caller: fv_free(ctx, *out). On failure it is NULL. */
FV_API FV_NODISCARD fv_status fv_vzip_compress(fv_ctx *ctx, const void *data, size_t size,
                                               const fv_vzip_options *opts, uint8_t **out,
                                               size_t *out_size);
/* All frames of an archive. More than max_output bytes: FV_ERR_LIMIT. */
FV_API FV_NODISCARD fv_status fv_vzip_decompress(fv_ctx *ctx, const void *archive, size_t size,
                                                 uint64_t max_output, const fv_vzip_limits *limits,
                                                 uint8_t **out, size_t *out_size);

/* ---- 3. Streams ------------------------------------------------------------------------------ */

/* read: up to `size` bytes, 0 at the end, negative on failure; short reads are fine.
 * write: all of it; nonzero on failure. Either makes the call return FV_ERR_IO. */
typedef struct fv_vzip_io {
    int64_t (*read)(void *user, void *to, size_t size);
    int (*write)(void *user, const void *from, size_t size);
    void *user;
} fv_vzip_io;

/* One frame from all that `read` gives. Memory: a block for each thread plus what coding takes; it
 * does not grow with the input. stats may be NULL. */
FV_API FV_NODISCARD fv_status fv_vzip_compress_stream(fv_ctx *ctx, const fv_vzip_io *io,
                                                      const fv_vzip_options *opts,
                                                      fv_vzip_stats *stats);
/* All frames. Blocks are written in order, each only after its checksum was found right: on a
 * failure what has been written is a correct beginning. max_output is required; programs for people
 * may pass FV_VZIP_NO_LIMIT. */
FV_API FV_NODISCARD fv_status fv_vzip_decompress_stream(fv_ctx *ctx, const fv_vzip_io *io,
                                                        uint64_t max_output,
                                                        const fv_vzip_limits *limits,
                                                        fv_vzip_stats *stats);

/* ---- 4. Archives at rest: information, random access, recovery ------------------------------- */

/* read_at: exactly `size` bytes from `offset`, 0; nonzero on failure. Never beyond `size` below. */
typedef struct fv_vzip_source {
    int (*read_at)(void *user, uint64_t offset, void *to, size_t size);
    uint64_t size;
    void *user;
} fv_vzip_source;

typedef struct fv_vzip_archive fv_vzip_archive;

/* Finds the blocks from the indexes, or from the block headers where there is none; decodes
 * nothing. `user` and `archive` bytes must outlive the handle, which belongs to ctx. */
FV_API FV_NODISCARD fv_status fv_vzip_open(fv_ctx *ctx, fv_vzip_archive **out,
                                           const fv_vzip_source *source,
                                           const fv_vzip_limits *limits);
FV_API FV_NODISCARD fv_status fv_vzip_open_memory(fv_ctx *ctx, fv_vzip_archive **out,
                                                  const void *archive, size_t size,
                                                  const fv_vzip_limits *limits);
FV_API void fv_vzip_close(fv_vzip_archive **archive);

typedef struct fv_vzip_info {
    uint64_t archive_bytes, original_bytes;
    uint64_t frames, blocks;
    uint64_t block_bytes;  /* largest block, original bytes               */
    uint64_t memory_bytes; /* that decoding with one thread takes at most */
    int has_index;         /* every block was found through an index      */
} fv_vzip_info;
FV_API void fv_vzip_get_info(const fv_vzip_archive *a, fv_vzip_info *out);

typedef struct fv_vzip_frame {
    uint64_t archive_offset, original_offset, original_bytes, blocks;
    int version, level, memory_log2;
    int models;          /* trained models that the frame needs: a decoder without one fails
                            with FV_ERR_MODEL. Of the first, if there is one: */
    uint32_t model_id;
    uint64_t model_hash;
    const char *name;    /* NULL = none; not a path, but check it all the same;
                            valid until close                               */
    int has_time;
    int64_t mtime_s;
    uint32_t mtime_ns, mode;
} fv_vzip_frame;
/* FV_ERR_ARG beyond the last frame. */
FV_API FV_NODISCARD fv_status fv_vzip_get_frame(const fv_vzip_archive *a, uint64_t i,
                                                fv_vzip_frame *out);

/* Original bytes [offset, offset + size) into `to`; *got is less only at the end. Decodes the
 * blocks that cover the range and keeps the last one for the next call. On failure *got is 0. */
FV_API FV_NODISCARD fv_status fv_vzip_read(fv_ctx *ctx, fv_vzip_archive *a, uint64_t offset,
                                           size_t size, void *to, size_t *got);

/* A part of the original that could not be recovered and was written as zeros. size is 0 for the
 * last one when it is not known how much is missing. */
typedef struct fv_vzip_damage {
    uint64_t offset, size;
    const char *why; /* valid in the call */
} fv_vzip_damage;
/* Writes what can be read of a damaged archive, zeros for the rest, and tells each damaged range.
 * FV_OK when all of it has been written, damaged or not; *lost_bytes counts the zeros. Blocks
 * behind a damaged block header are found through the index; without one the rest is lost. */
FV_API FV_NODISCARD fv_status fv_vzip_recover(fv_ctx *ctx, const fv_vzip_source *source,
                                              const fv_vzip_io *io, uint64_t max_output,
                                              const fv_vzip_limits *limits,
                                              void (*on_damage)(void *user, const fv_vzip_damage *d),
                                              uint64_t *lost_bytes, fv_vzip_stats *stats);

/* ---- 5. OmniZip's network -------------------------------------------------------------------- */

/* Does the file hold a checkpoint of the official OmniZip code? */
FV_API int fv_omnizip_is_checkpoint(const fv_model *m);
/* Such a checkpoint to one fovea model file; type of the matrices f32, bf16 or int8 (FV_I8). HiRA's
 * factors are merged. A tensor that is missing, of another size or not understood: FV_ERR_MODEL. */
FV_API FV_NODISCARD fv_status fv_omnizip_convert(fv_ctx *ctx, const fv_model *in, fv_dtype type,
                                                 const char *out_path, int overwrite);

/* `fovea train` for recipes with engine = omnizip: byte streams of up to seven modalities, read by
 * lanes that carry their state on. The metric is the mean of the modalities' held-out bits per
 * byte; each of them is in out_dir/bits-per-byte.json. Keys: omnizip_train.c. */
FV_API FV_NODISCARD fv_status fv_omnizip_train(fv_ctx *ctx, fv_recipe *recipe,
                                               const fv_trainer_options *o,
                                               fv_train_result *result);

/* `fovea train` for recipes with engine = rdvq: the learned image codec, in the stages tokenizer,
 * entropy and joint, each from the model of the one before (o->init). The metric of held-out
 * pictures is their PSNR in dB, in the stage entropy the bits per pixel. Keys: rdvq_train.c. */
FV_API FV_NODISCARD fv_status fv_rdvq_train(fv_ctx *ctx, fv_recipe *recipe,
                                            const fv_trainer_options *o, fv_train_result *result);

/* Does the file hold a trained rdvq model, or one that was made from it for use? */
FV_API int fv_rdvq_is_model(const fv_model *m);
/* Is it a checkpoint of the published RDVQ code? */
FV_API int fv_rdvq_is_checkpoint(const fv_model *m);
/* A trained rdvq model to a file for use: codebook and transforms as f32, bf16 or int8 (FV_I8), the
 * entropy model in integers, so that coded pictures can be decoded on every machine. The model is
 * named after the file. Models of the published geometry: FV_ERR_UNSUPPORTED. A checkpoint of the
 * published code becomes such a model, in floating point; a tensor that is missing, of another shape
 * or not understood: FV_ERR_MODEL, one that is not finite: FV_ERR_NUMERIC. */
FV_API FV_NODISCARD fv_status fv_rdvq_convert(fv_ctx *ctx, const fv_model *in, fv_dtype type,
                                              const char *out_path, int overwrite);

/* ---- 6. Models: what is known before the first byte ------------------------------------------ */

/* A model file (.vzm, FORMAT-vzm.md). The handle is read-only: any number of calls on any threads,
 * of any contexts, may use it at the same time. Its memory, about the file's size, belongs to ctx,
 * which must outlive it; open and close on ctx's thread (find_model may open one). Close after all
 * calls and archive handles that use it. Any damage is an error: FV_ERR_FORMAT, _TRUNCATED,
 * _VERSION, _CHECKSUM, _LIMIT, _MODEL. */
FV_API FV_NODISCARD fv_status fv_vzip_model_open(fv_ctx *ctx, fv_vzip_model **out,
                                                 const char *path);
/* The bytes are copied. */
FV_API FV_NODISCARD fv_status fv_vzip_model_open_memory(fv_ctx *ctx, fv_vzip_model **out,
                                                        const void *bytes, size_t size);
FV_API void fv_vzip_model_close(fv_vzip_model **m);
/* The one that is part of the library, never to be closed; NULL: built without. */
FV_API const fv_vzip_model *fv_vzip_model_own(void);

typedef struct fv_vzip_model_info {
    const char *name;  /* UTF-8, at most 31 bytes; valid until close                 */
    uint32_t id;       /* id and hash are what frames name                           */
    uint64_t hash;
    uint64_t bytes;    /* of the file                                                */
    int texts;         /* typical texts that small blocks begin with, and their bytes */
    uint64_t text_bytes;
    int has_network;   /* the rest is 0 without                                      */
    int width, layers, experts;
    int pieces;        /* of the vocabulary                                          */
    int states;        /* texts with a state of the network                          */
} fv_vzip_model_info;
FV_API void fv_vzip_model_get_info(const fv_vzip_model *m, fv_vzip_model_info *out);

/* ---- 7. Making models ------------------------------------------------------------------------ */

/* Makes a model file (.vzm, FORMAT-vzm.md) for data like that of `inputs`: texts that small blocks
 * begin with and, unless size is "dict", a network for text. Every fifth input file is held out and
 * measured in the end. A network is trained in the folder out_path.train, which stays: a call that
 * was stopped goes on with `resume`. Texts are the same for the same inputs; how many steps a
 * network is trained follows from `seconds` and the machine. FV_ERR_ARG: too little data. */
typedef struct fv_vzip_train_options {
    size_t struct_size;
    const char *out_path;      /* appears complete or not at all                                */
    int overwrite;             /* of out_path                                                   */
    const char *const *inputs; /* files, folders and tar archives                               */
    int input_count;
    const char *texts;         /* a model file whose texts are taken as they are, a folder that
                                  recipes/collect_prime.py wrote, or NULL                       */
    const char *network;       /* a network that fovea train made, which is put in, or NULL     */
    const char *size;          /* "dict" (the default), or a network to train: "t0", "t1", "t2" */
    const char *name;          /* at most 31 bytes; NULL: out_path's without folder and suffix  */
    uint32_t id;               /* 0: of the name. Below 256: models that come with vzip         */
    double seconds;            /* of training; 0 = 600                                          */
    int resume;                /* go on with what is in out_path.train, if there is any         */
} fv_vzip_train_options;
#define FV_VZIP_TRAIN_OPTIONS_INIT { .struct_size = sizeof(fv_vzip_train_options) }

typedef struct fv_vzip_train_result {
    uint32_t id;
    uint64_t hash;           /* id and hash are what archives name                              */
    uint64_t model_bytes;
    int texts;               /* of the model, and their bytes                                   */
    uint64_t text_bytes;
    uint64_t files, bytes;   /* read from the inputs, those held out among them                 */
    uint64_t held_files, held_bytes; /* that were compressed at level 3, apart from each other: */
    uint64_t held_own, held_new;     /* with the library's own model, and with this one         */
    uint64_t steps;          /* of training, if there was any                                   */
    double bits_per_byte;    /* of the network alone, held out; NaN if not measured             */
} fv_vzip_train_result;
/* result may be NULL. */
FV_API FV_NODISCARD fv_status fv_vzip_train(fv_ctx *ctx, const fv_vzip_train_options *o,
                                            fv_vzip_train_result *result);

/* ---- 8. vpic: pictures by learned codes (.rdvq, FORMAT-rdvq.md) ----------------------------- */

/* A picture becomes tokens of a trained model; the same model is needed to read it. One model
 * serves one range of rates; a list of them is a ladder from which the encoder takes what a
 * requested quality, rate or size needs.
 *
 *     fv_vpic_encode(ctx, &img, NULL, &bytes, &n, NULL);            own models, quality 50
 *     fv_vpic_limits limits = FV_VPIC_LIMITS_INIT;
 *     limits.max_pixels = 1 << 24;
 *     fv_vpic_decode(ctx, bytes, n, &limits, &back, NULL);
 *
 * Tokens that come out of a file are the same on every machine; pixels may differ by a few levels
 * between types of CPU (f32, or bf16 where the CPU has it), not with the number of threads. */

/* The handle is read-only: any number of calls on any threads, of any contexts, may use it at the
 * same time. Its memory belongs to the context that opened it, which must outlive it; open and
 * close on that context's thread, close after all calls that use it. */
typedef struct fv_vpic_model fv_vpic_model;

/* A model file of kind rdvq with its entropy model in integers (fovea convert --type int8 makes
 * it of a training's). FV_ERR_MODEL: another kind, tensors missing, or weights of a training.
 * FV_ERR_FORMAT, _TRUNCATED, _VERSION, _LIMIT: the file is damaged. */
FV_API FV_NODISCARD fv_status fv_vpic_model_open(fv_ctx *ctx, fv_vpic_model **out,
                                                 const char *path);
/* `bytes` must outlive the model. */
FV_API FV_NODISCARD fv_status fv_vpic_model_open_memory(fv_ctx *ctx, fv_vpic_model **out,
                                                        const void *bytes, size_t size);
/* Accepts NULL, sets *m = NULL. */
FV_API void fv_vpic_model_close(fv_vpic_model **m);
/* Models that are part of the library, from low to high rate; 0: built without. */
FV_API int fv_vpic_own_count(void);
/* FV_ERR_ARG: there is none of that number. */
FV_API FV_NODISCARD fv_status fv_vpic_model_open_own(fv_ctx *ctx, fv_vpic_model **out, int i);

#define FV_VPIC_LAYERS 5 /* most that a model has */
typedef struct fv_vpic_model_info {
    const char *name;    /* printable, without spaces; valid until close                        */
    uint32_t id, hash;   /* what files name: registry number (0: none), hash of the integers    */
    int64_t parameters;  /* of transforms, codebook and entropy model                           */
    uint64_t bytes;      /* held in memory, without what plans pack                              */
    int codes, layers, slices; /* codes of the book, layers of tokens, slices of all layers      */
    int window;          /* side in pixels of what the entropy model sees at once                */
    double nominal_bpp;  /* bits per pixel of held-out pictures after training; 0: unknown       */
} fv_vpic_model_info;
FV_API void fv_vpic_model_get_info(const fv_vpic_model *m, fv_vpic_model_info *out);

typedef struct fv_vpic_options {
    size_t struct_size;
    const fv_vpic_model *const *models; /* the ladder, in any order; none: the library's own, opened
                                           for the call (which takes longer)                     */
    int model_count;
    /* One of the three; size before bpp before quality.
     * quality: (0, 100], 0 = 50. The ladder is ordered by nominal_bpp and cut into equal parts of
     * [0, 100], one a model; in its part the weight of bits against nearness of codes falls from
     * what costs most quality to none. One pass.
     * bpp, size: bits per pixel or bytes of the whole file, metadata included: within 2 %, or as
     * near as the ladder allows. Several passes; smaller than the smallest model's range: slices
     * are left out. */
    double quality;
    double bpp;
    uint64_t size;
    int slices;          /* code only so many slices, the decoder makes up the rest; 0 = all, or as
                            many as the size asks for                                            */
    int tile_log2;       /* 8..12: side of the tiles that can be decoded alone; 0 = 9            */
    int segment_crcs;    /* 1 yes, -1 no, 0 = if the file is larger than 64 KiB                  */
    int sampled;         /* slices that are left out are drawn, instead of the likeliest         */
    uint32_t seed;       /* of what is drawn                                                     */
    int drop_metadata;   /* leave out ICC profile, EXIF and XMP                                  */
    uint64_t memory_bytes; /* 0 = 1.5 GiB beside the picture; FV_ERR_OOM: it cannot be done in it */
} fv_vpic_options;
#define FV_VPIC_OPTIONS_INIT { .struct_size = sizeof(fv_vpic_options) }

/* What a decoder accepts. A file beyond it is refused before memory is taken. */
typedef struct fv_vpic_limits {
    size_t struct_size;
    uint64_t max_pixels;   /* required: a file of 40 bytes may stand for so much work            */
    uint64_t memory_bytes; /* 0 = 1.5 GiB beside the picture; FV_ERR_OOM says how much is needed */
    int strict;            /* 1: a file that is cut is FV_ERR_TRUNCATED; 0: what is missing is
                              made up, stats say how much                                        */
    int slices;            /* decode only so many; 0 = all                                       */
    int region[4];         /* x, y, width, height inside the picture; all 0 = whole              */
    const fv_vpic_model *const *models; /* looked through before the library's own               */
    int model_count;
} fv_vpic_limits;
#define FV_VPIC_LIMITS_INIT { .struct_size = sizeof(fv_vpic_limits) }

typedef struct fv_vpic_stats {
    uint64_t pixels;         /* that were coded, or that came out                                */
    uint64_t bytes;          /* of the file                                                      */
    uint64_t chunk_bytes;    /* of it ICC, EXIF, XMP and alpha                                   */
    uint64_t segment_bytes;  /* of it tokens; the rest is header, index and checksums            */
    double bits;             /* encoding: what tokens cost by the model                          */
    uint64_t tokens;
    char model[64];          /* name of the model                                                */
    double mu;               /* encoding: weight of a bit against half the squared distance of
                                code and latent                                                  */
    int passes;              /* encoding: times that tokens were coded                           */
    int tiles;               /* decoding: that were read, a region needs some                    */
    int short_tiles;         /* decoding: tiles that lack slices since the file is cut           */
    int slices;              /* coded in the file                                                */
    int slices_decoded;      /* decoding: least of all tiles; the rest was made up               */
    int is_truncated;        /* decoding: bytes are missing at the end                           */
    double pixel_seconds, token_seconds; /* networks between pixels and latents; entropy model
                                            and coder                                            */
    double pixel_flop;       /* done by the former: two a multiply-add                           */
    uint64_t memory_bytes;   /* most at a time, beside the picture                               */
} fv_vpic_stats;

/* Picture of 1 to 4 channels, 8 or 16 bits -> file. Pixels with alpha 0 lose their colour; alpha
 * itself is kept exactly, ICC, EXIF and XMP too, other text is not. *out belongs to the caller:
 * fv_free(ctx, *out); on failure it is NULL. opts, stats may be NULL. FV_ERR_MODEL: no model at all.
 * FV_ERR_LIMIT: sides above 65535 or more than 2^28 pixels. */
FV_API FV_NODISCARD fv_status fv_vpic_encode(fv_ctx *ctx, const fv_image *img,
                                             const fv_vpic_options *opts, uint8_t **out,
                                             size_t *out_size, fv_vpic_stats *stats);
/* File -> picture with the channels of the source; 8 bits a channel, or 16 if the source had more
 * than 8. limits with max_pixels is required. *out belongs to the caller (fv_image_free), zeroed on
 * failure. FV_ERR_FORMAT, _CHECKSUM, _TRUNCATED, _VERSION: damage; FV_ERR_LIMIT: beyond limits;
 * FV_ERR_MODEL: no model at hand is the one that the file names. */
FV_API FV_NODISCARD fv_status fv_vpic_decode(fv_ctx *ctx, const void *file, size_t size,
                                             const fv_vpic_limits *limits, fv_image *out,
                                             fv_vpic_stats *stats);

typedef struct fv_vpic_info {
    int width, height;
    int channels;            /* 1..4 as fv_image                                                 */
    int depth;               /* of the source: 8, 10, 12, 16                                     */
    int colour;              /* 0 sRGB, 1 Display P3, 2 Rec. 2020 PQ, 3 Rec. 2020 HLG, 4 linear
                                sRGB, 5 by the ICC profile                                       */
    uint32_t model_id, model_hash;
    int tile;                /* side in pixels */
    int tiles_x, tiles_y;
    int slices, layers;      /* coded */
    int has_segment_crcs, is_sampled;
    uint32_t seed;
    uint64_t header_bytes;   /* up to the first segment, chunks included                         */
    uint64_t icc_bytes, exif_bytes, alpha_bytes; /* in the file                                  */
    uint64_t layer_bytes[FV_VPIC_LAYERS];
    uint64_t whole_bytes;    /* of the file when it is not cut                                   */
    int is_truncated;
    uint64_t xmp_bytes;      /* in the file                                                      */
} fv_vpic_info;
/* Header, chunks and index, without a model; a file cut behind these is fine. Checksums that lie
 * before the segments are checked. *out is zeroed on failure. */
FV_API FV_NODISCARD fv_status fv_vpic_read_info(fv_ctx *ctx, const void *file, size_t size,
                                                fv_vpic_info *out);

#ifdef __cplusplus
}
#endif
#endif
