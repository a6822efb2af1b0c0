/* accel_map.c - what a plan does at one place, for maps and statistics. */
#include "internal.h"

int fv_accel_action(const fv_accel *a, int eval, int layer, int module)
{
    if (!a || eval < 0 || eval >= a->evals || layer < 0 || layer >= a->depth || module < 0 ||
        module > 1)
        return -1;
    return a->action[((size_t)eval * (size_t)a->depth + (size_t)layer) * 2 + (size_t)module];
}
