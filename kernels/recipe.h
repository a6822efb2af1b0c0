/* recipe.h - private: numbers as text, for recipes and tables. */
#ifndef FV_RECIPE_H
#define FV_RECIPE_H

#include "engine.h"

/* strtod as in the "C" locale; false unless the whole text is one finite decimal number. */
bool fvi_parse_number(const char *s, double *out);

#endif
