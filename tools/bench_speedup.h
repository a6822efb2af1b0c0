/* bench_speedup.h - the verb `fovea bench speedup`. */
#ifndef FOVEA_BENCH_SPEEDUP_H
#define FOVEA_BENCH_SPEEDUP_H

/* argv[0] is the verb. Returns an exit code of cli.h. */
int bench_speedup(int argc, char **argv);

#endif
