/* rdvq_own.S - the bytes of the models of vpic that are part of the library, from low to high rate
 * (rdvq_model.c).
 *
 * The build defines FVI_RDVQ_OWN0 .. 3 as quoted paths where the files exist; without them a range
 * is empty. 64: tensors keep their alignment. */
#if defined(__ELF__)
    .section .rodata
    .macro fvi_range number
    .globl fvi_rdvq_own\number, fvi_rdvq_own_end\number
    .hidden fvi_rdvq_own\number, fvi_rdvq_own_end\number
    .endm
    fvi_range 0
    fvi_range 1
    fvi_range 2
    fvi_range 3
    .balign 64
fvi_rdvq_own0:
#ifdef FVI_RDVQ_OWN0
    .incbin FVI_RDVQ_OWN0
#endif
fvi_rdvq_own_end0:
    .balign 64
fvi_rdvq_own1:
#ifdef FVI_RDVQ_OWN1
    .incbin FVI_RDVQ_OWN1
#endif
fvi_rdvq_own_end1:
    .balign 64
fvi_rdvq_own2:
#ifdef FVI_RDVQ_OWN2
    .incbin FVI_RDVQ_OWN2
#endif
fvi_rdvq_own_end2:
    .balign 64
fvi_rdvq_own3:
#ifdef FVI_RDVQ_OWN3
    .incbin FVI_RDVQ_OWN3
#endif
fvi_rdvq_own_end3:
    .byte 0
    .section .note.GNU-stack, "", %progbits
#endif
