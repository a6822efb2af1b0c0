/* bench_quality.h - the verb `fovea bench quality`. */
#ifndef FOVEA_BENCH_QUALITY_H
#define FOVEA_BENCH_QUALITY_H

/* argv[0] is the verb. Returns an exit code of cli.h. */
int bench_quality(int argc, char **argv);

#endif
