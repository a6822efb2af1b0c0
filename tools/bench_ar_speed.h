/* bench_ar_speed.h - the verb `fovea bench ar-speed`. */
#ifndef FOVEA_BENCH_AR_SPEED_H
#define FOVEA_BENCH_AR_SPEED_H

/* argv[0] is the verb. Returns an exit code of cli.h. */
int bench_ar_speed(int argc, char **argv);

#endif
