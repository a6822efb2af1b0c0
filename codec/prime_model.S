/* prime_model.S - the bytes of models/default.vzm, the model that is part of the library.
 *
 * The assembler copies the file into read-only data, from which it is unpacked once (vz_prime.c). The build
 * defines FVI_PRIME_MODEL as its quoted path; archives name this model by its hash, so a library
 * without it, or with another, cannot decode what others made. */
#if defined(__ELF__)
    .section .rodata
    .balign 64
    .globl fvi_prime_model, fvi_prime_model_end
    .hidden fvi_prime_model, fvi_prime_model_end
fvi_prime_model:
#ifdef FVI_PRIME_MODEL
    .incbin FVI_PRIME_MODEL
#endif
fvi_prime_model_end:
    .byte 0
    .section .note.GNU-stack, "", %progbits
#endif
