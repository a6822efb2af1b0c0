/* emulated_module.c - the emulator of tests/cuda_emulator.h as libfovea_cuda.so: a library that finds it
 * in place of the real one has a GPU, of a kind. For tests of programs with --device cuda; the folder
 * it is built into is looked at by nobody who does not name it in LD_LIBRARY_PATH. */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include "cuda_emulator.h"
#include "fovea.h"

FV_API const fvk_api *fvi_cuda_module(void);
const fvk_api *fvi_cuda_module(void) { return &emulator_api; }
