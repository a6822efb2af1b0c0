/* sr_own.S - the bytes of models/pssr_tiny.safetensors, the model that gen sr uses without --model.
 *
 * The build defines FVI_SR_OWN as its quoted path where the file exists; without it the range is
 * empty. 64: tensors keep their alignment. */
#if defined(__ELF__)
    .section .rodata
    .balign 64
    .globl fvi_sr_own, fvi_sr_own_end
    .hidden fvi_sr_own, fvi_sr_own_end
fvi_sr_own:
#ifdef FVI_SR_OWN
    .incbin FVI_SR_OWN
#endif
fvi_sr_own_end:
    .byte 0
    .section .note.GNU-stack, "", %progbits
#endif
