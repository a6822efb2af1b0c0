/* op_tree_avx512.c - see op_tree_body.h. */
#define TREE_INIT fvi_tree_init_avx512
#include "op_tree_body.h"
