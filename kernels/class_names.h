/* class_names.h - private to the engines: names of a model's classes, and near misses. */
#ifndef FV_CLASS_NAMES_H
#define FV_CLASS_NAMES_H

#include "engine.h"

/* Lines of a list of names, one a line; a newline at the end begins no further one. */
int fv_count_lines(const char *list);
/* Edit distance of two names, for "did you mean"; letters' case does not count. Names longer than
 * 63 are cut. */
int fv_name_distance(const char *a, const char *b);
/* Metadata fovea.classes of a model of n classes: *name [n] into *text, both owned by the caller;
 * NULL where the file has none. They may go to a terminal: no control characters. */
fv_status fv_class_names_read(fv_ctx *ctx, const fv_model *m, int n, char ***name, char **text);
/* The names of a data set as metadata fovea.classes. */
fv_status fv_class_names_add(fv_ctx *ctx, const fv_dataset *ds, fv_meta *out);
/* Class number by name (any case) or number. name may be NULL: only numbers. FV_ERR_UNKNOWN names
 * the nearest class, *out is then 0. */
fv_status fv_class_names_find(fv_ctx *ctx, char *const *name, int n, const char *wanted, int *out);

#endif
