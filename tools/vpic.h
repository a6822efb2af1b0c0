/* vpic.h - shared by the files of the program vpic, and by its bench. */
#ifndef FOVEA_VPIC_H
#define FOVEA_VPIC_H

#include "cli_picture.h"
#include "fovea_codec.h"

#define VPIC_SUFFIX ".rdvq"
#define VPIC_MOST_BYTES ((uint64_t)1 << 32) /* of a file that is read */

/* ---- vpic_shelf.c: models at hand ------------------------------------------------------------ */

typedef struct vpic_shelf {
    const fv_vpic_model **model;
    int count;
} vpic_shelf;
/* The given files; for encoding the library's own where none is given. Decoding finds those by
 * itself, and opens only the one that a file names. An exit code, message written; encoding without
 * any model fails. */
int vpic_shelf_open(vpic_shelf *s, fv_ctx *ctx, const cli_list *given, bool is_encoding);
void vpic_shelf_close(vpic_shelf *s); /* zeroed is closed */

/* ---- Verbs ----------------------------------------------------------------------------------- */

int vpic_encode(int argc, char **argv); /* vpic_code.c */
int vpic_decode(int argc, char **argv);
int vpic_info(int argc, char **argv);    /* vpic_info.c */
int vpic_compare(int argc, char **argv); /* vpic_compare.c */

#endif
