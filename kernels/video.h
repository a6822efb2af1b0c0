/* video.h - private: what the video files share. video.c: readers and writers; video_y4m.c: headers;
 * video_pixels.c: codes and colours; video_files.c: numbered pictures. */
#ifndef FV_VIDEO_H
#define FV_VIDEO_H

#include "engine.h"

/* ---- Headers (video_y4m.c) ------------------------------------------------------------------- */
#define FVI_Y4M_MAGIC "YUV4MPEG2"
#define FVI_Y4M_LINE 1024 /* longest line taken, with its end */
/* line: NUL-terminated, without its line feed. Fills all of *f but the matrix. */
fv_status fvi_y4m_parse(fv_ctx *ctx, const char *line, fv_video_format *f);
/* With its line feed. */
void fvi_y4m_print(const fv_video_format *f, char out[FVI_Y4M_LINE]);

/* ---- Frames of codes (video_pixels.c) --------------------------------------------------------- */
/* Sides, depth, layout, limit; site as far as the layout has one. */
fv_status fvi_video_check(fv_ctx *ctx, fv_video_format *f, fv_video_kind kind,
                          uint64_t max_pixels);
size_t fvi_video_bytes(const fv_video_format *f); /* of a checked format's frame */
typedef struct fvi_video_codec fvi_video_codec;
fv_status fvi_video_codec_create(fv_ctx *ctx, fvi_video_codec **out, const fv_video_format *f);
void fvi_video_codec_free(fvi_video_codec **c);
/* Allocate nothing; the same values for any number of threads. */
void fvi_video_decode(fvi_video_codec *c, const uint8_t *bytes, float *rgb);
void fvi_video_encode(fvi_video_codec *c, const float *rgb, uint8_t *bytes);

/* ---- Picture files (video_files.c) ------------------------------------------------------------- */
typedef struct fvi_video_name { char *text; int64_t number; } fvi_video_name;
typedef struct fvi_video_files {
    char *folder;            /* "." for none */
    char *before, *after;    /* of the number in a pattern; NULL: a folder */
    int digits;              /* least number of them */
    fvi_video_name *name;    /* sorted */
    size_t count, capacity;
} fvi_video_files;
/* list: look for what is there. */
fv_status fvi_video_files_open(fv_ctx *ctx, fvi_video_files *f, const char *path, bool list);
void fvi_video_files_free(fv_ctx *ctx, fvi_video_files *f);
/* Name of a number, owned: fv_free. */
char *fvi_video_files_name(fv_ctx *ctx, const fvi_video_files *f, int64_t number);

#endif
