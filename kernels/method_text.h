/* method_text.h - private to the engines: options of a method by name, as in "toca:N=3,r0=0.07". */
#ifndef FV_METHOD_TEXT_H
#define FV_METHOD_TEXT_H

#include "engine.h"

#define FV_METHOD_TEXT_MAX 256 /* bytes of a description, its NUL included */

/* One option of a method. */
typedef struct fv_method_key {
    const char *name;
    double lo, hi, value; /* range and default; hi of -1: `top` below */
    bool is_whole;
    const char *words;    /* "official|newton": the value is the number of the word; else NULL */
} fv_method_key;

/* A method, and what its description says. */
typedef struct fv_method_text {
    fv_ctx *ctx;
    const char *name, *about; /* about: its options in words, for messages */
    const fv_method_key *key;
    int keys;
    double top;
    double *value;            /* [keys] */
    bool *is_given;           /* [keys] */
} fv_method_text;

/* Copies "name:options" and cuts it: *options is NULL where there are none. FV_ERR_ARG: too long. */
fv_status fv_method_split(fv_ctx *ctx, const char *text, char name[FV_METHOD_TEXT_MAX],
                          char **options);
/* Values from "key=value,key=value" (cut to pieces; NULL: all are the defaults). FV_ERR_ARG: a value
 * that is out of range or given twice; FV_ERR_UNKNOWN names the nearest key. */
fv_status fv_method_read(fv_method_text *m, char *options);
/* Number of a key, -1 if there is none. */
int fv_method_find_key(const fv_method_key *key, int keys, const char *name);
/* Word number i of "official|newton" into out, "" if there is none. */
void fv_method_word(const char *words, int i, char *out, size_t size);

#endif
