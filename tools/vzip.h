/* vzip.h - shared by the files of the program vzip only. */
#ifndef FOVEA_VZIP_H
#define FOVEA_VZIP_H

#include <sys/stat.h>

#include "cli.h"
#include "fovea_codec.h"

#define VZIP_SUFFIX ".vz"
#define VZIP_TAR_SUFFIX ".tvz" /* .tar.vz */

typedef enum vzip_mode { VZIP_COMPRESS, VZIP_DECOMPRESS, VZIP_TEST, VZIP_LIST } vzip_mode;

/* ---- vzip_models.c: models at hand ----------------------------------------------------------- */

#define VZIP_SHELF 32 /* models of archives that are kept open */
typedef struct vzip_shelf {
    fv_ctx *ctx;
    fv_vzip_model *given; /* --model, or NULL */
    fv_vzip_model *found[VZIP_SHELF];
    int count;
} vzip_shelf;
/* model: a file, or the name of one in the folders of VZIP_MODEL_PATH; NULL: none. An exit code. */
int vzip_shelf_open(vzip_shelf *s, fv_ctx *ctx, const char *model);
void vzip_shelf_close(vzip_shelf *s); /* zeroed is closed */
/* vzip's own, the given one, or one in the folders of VZIP_MODEL_PATH; NULL: not at hand. */
const fv_vzip_model *vzip_shelf_find(vzip_shelf *s, uint32_t id, uint64_t hash);
/* Decoders look for models there. */
void vzip_shelf_limits(vzip_shelf *s, fv_vzip_limits *l);

/* How archives and people call a model: number and hash, in hexadecimal. */
#define VZIP_MODEL_ID 32
void vzip_model_id(uint32_t id, uint64_t hash, char out[VZIP_MODEL_ID]);

/* What the options say. */
typedef struct vzip_job {
    vzip_mode mode;
    cli_common common;
    int level;
    bool is_ultra; /* instead of a level */
    bool to_stdout, remove_input, recursive, keep_name, verify, no_prime, no_neural, keep_broken;
    bool recover;
    const char *out, *model;
    uint64_t memory_bytes, block_bytes, max_output;
    fv_ctx *ctx;
    vzip_shelf *shelf;
} vzip_job;

/* ---- vzip_file.c: files that come and go safely ---------------------------------------------- */

typedef struct vzip_in {
    const char *name; /* for messages */
    int fd;
    bool is_stdin;
    struct stat st;
    int err; /* errno of a failed read */
} vzip_in;

typedef struct vzip_out {
    const char *name; /* for messages */
    char *path, *temp; /* NULL: standard output, a device or nothing */
    int fd;            /* -1: what is written vanishes (test) */
    bool is_stdout, may_replace;
    int err;
} vzip_out;

/* Exit codes, message written. Path NULL = standard input or output. VZIP_SKIP: leave the file out
 * (a note was written), which is no failure. */
#define VZIP_SKIP (-1)
int vzip_open_in(const vzip_job *j, vzip_in *in, const char *path);
void vzip_close_in(vzip_in *in);
int vzip_open_out(const vzip_job *j, vzip_out *out, const char *path, const vzip_in *in);
/* The file appears: synced, with times, mode and owner of the input; stored ones win. */
int vzip_commit(vzip_out *out, const vzip_in *in, const fv_vzip_frame *stored);
void vzip_abort(vzip_out *out); /* after commit too */
/* Deletes the input, unless it has other names. */
int vzip_remove_input(const vzip_job *j, const vzip_in *in);
int64_t vzip_read(void *user, void *to, size_t size); /* user: vzip_pipe */
int vzip_write(void *user, const void *from, size_t size);
/* Source of a regular file. */
int vzip_read_at(void *user, uint64_t offset, void *to, size_t size); /* user: vzip_pipe */
typedef struct vzip_pipe {
    vzip_in *in;
    vzip_out *out;
    int damages;
} vzip_pipe;

/* Calls `each` for a file, or with -r for all files in a folder; the first code that is not 0. */
int vzip_each(const vzip_job *j, const char *path,
              int (*each)(const vzip_job *j, const char *path, void *user), void *user);
bool vzip_has_suffix(const char *path);

/* ---- Verbs ----------------------------------------------------------------------------------- */

int vzip_compress_file(const vzip_job *j, const char *path, void *user); /* vzip_code.c */
int vzip_decompress_file(const vzip_job *j, const char *path, void *user);
int vzip_list_files(const vzip_job *j, const char *const *files, int count); /* vzip_list.c */
int vzip_train(int argc, char **argv);                                       /* vzip_train.c */
int vzip_models(int argc, char **argv);                                      /* vzip_models.c */

#endif
