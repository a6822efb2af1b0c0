/* fdu.h - private: constants that the frequency-domain update of pictures (fdu.c) and the one on the
 * tape (pssr_loss.c) share. */
#ifndef FV_FDU_H
#define FV_FDU_H

#include "fovea_diffusion.h"

#define FV_FDU_COUNT ((int)FV_FDU_GAIN + 1)
#define FV_FDU_FLOOR 1e-6f    /* of the energies of mode gain: a quarter of a step of 8 bits */
#define FV_FDU_MOST_GAIN 6.0f

#endif
