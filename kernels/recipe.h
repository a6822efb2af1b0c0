/* recipe.h - private: numbers as text, for recipes and tables; failures that stick. */
#ifndef FV_RECIPE_H
#define FV_RECIPE_H

#include "engine.h"

/* strtod as in the "C" locale; false unless the whole text is one finite decimal number. */
bool fvi_parse_number(const char *s, double *out);

/* The first failure of an asking, which fv_recipe_check would report; FV_OK: none. */
fv_status fvi_recipe_status(const fv_recipe *r);

#endif
