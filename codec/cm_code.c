/* cm_code.c - contexts of machine code. */
#include "cm.h"

void vz_cm_code_byte(vz_cm *cm, uint32_t c)
{
    (void)cm;
    (void)c;
}

int vz_cm_code_contexts(vz_cm *cm) { return vz_cm_binary_contexts(cm); }
