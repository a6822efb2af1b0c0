/* bench_distill.h - `fovea bench distill TEACHER`. */
#ifndef FOVEA_BENCH_DISTILL_H
#define FOVEA_BENCH_DISTILL_H

int bench_distill(int argc, char **argv);

#endif
