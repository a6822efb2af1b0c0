/* bench_pic_speed.h - the verb `fovea bench pic-speed`. */
#ifndef FOVEA_BENCH_PIC_SPEED_H
#define FOVEA_BENCH_PIC_SPEED_H

/* argv[0] is the verb. Returns an exit code of cli.h. */
int bench_pic_speed(int argc, char **argv);

#endif
