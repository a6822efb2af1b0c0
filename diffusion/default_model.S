/* default_model.S - the bytes of the model that gen uses without --model, and of its table.
 *
 * The assembler copies the files into read-only data (C11 has no #embed, and a C array of 12 MiB
 * takes a compiler minutes). The build defines FVI_DEFAULT_MODEL and FVI_DEFAULT_TABLE as quoted
 * paths where the files exist; without them a range is empty. 64: tensors keep their alignment. */
#if defined(__ELF__)
    .section .rodata
    .balign 64
    .globl fvi_default_model, fvi_default_model_end, fvi_default_table, fvi_default_table_end
    .hidden fvi_default_model, fvi_default_model_end, fvi_default_table, fvi_default_table_end
fvi_default_model:
#ifdef FVI_DEFAULT_MODEL
    .incbin FVI_DEFAULT_MODEL
#endif
fvi_default_model_end:
    .balign 64
fvi_default_table:
#ifdef FVI_DEFAULT_TABLE
    .incbin FVI_DEFAULT_TABLE
#endif
fvi_default_table_end:
    .byte 0
    .section .note.GNU-stack, "", %progbits
#endif
