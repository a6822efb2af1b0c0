/* vpic.h - shared by the files of the program vpic only. */
#ifndef FOVEA_VPIC_H
#define FOVEA_VPIC_H

#include "cli_picture.h"

int vpic_compare(int argc, char **argv); /* vpic_compare.c */

#endif
