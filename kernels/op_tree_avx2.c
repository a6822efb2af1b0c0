/* op_tree_avx2.c - see op_tree_body.h. */
#define TREE_INIT fvi_tree_init_avx2
#include "op_tree_body.h"
