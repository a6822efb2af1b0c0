/* cm_number.h - numbers in records: their layout and the experts that predict them (cm_number.c,
 * cm_layout.c). */
#ifndef VZ_CM_NUMBER_H
#define VZ_CM_NUMBER_H

#include "cm_parts.h"

#define VZ_LAYOUT_BYTES 512u /* longest record with a layout */
#define VZ_LAYOUT_PHASES 8u
#define VZ_NUMBER_COLUMNS (VZ_LAYOUT_BYTES / 2)
#define VZ_NUMBER_TAPS 16
#define VZ_NUMBER_LEFT 2
#define VZ_NUMBER_INPUTS (VZ_NUMBER_TAPS + VZ_NUMBER_LEFT)
enum {
    VZ_EXPERT_ABOVE, VZ_EXPERT_MIXED, VZ_EXPERT_LINE, VZ_EXPERT_LEFT, VZ_EXPERT_MEAN,
    VZ_EXPERT_EXACT, VZ_EXPERTS
};

/* Numbers are part of the format. */
typedef enum vz_number_type {
    VZ_NO_NUMBER = 0, VZ_INT16, VZ_INT24, VZ_INT32, VZ_INT64, VZ_FLOAT32, VZ_FLOAT64,
    VZ_NUMBER_TYPES
} vz_number_type;
FV_INLINE uint32_t vz_number_bytes(int type)
{
    static const uint8_t BYTES[8] = {1, 2, 3, 4, 8, 4, 8, 1};
    return BYTES[type & 7];
}

/* Which bytes of a record are numbers. */
typedef struct vz_layout {
    uint32_t length; /* of a record; 0: there is no layout */
    uint32_t phase;  /* bytes before the first record */
    bool is_big;     /* endian */
    uint8_t type[VZ_LAYOUT_BYTES]; /* of the number that begins there, or VZ_NO_NUMBER */
} vz_layout;

/* The layout that makes these records smallest, or none; returns the bits that a record takes with
 * it by estimate, in 1/256 (cm_layout.c). */
uint32_t vz_layout_cost(const uint8_t *data, size_t size, uint32_t length, vz_layout *out);
void vz_layout_put(const vz_layout *l, vz_encoder *e);
void vz_layout_get(vz_layout *l, uint32_t length, vz_decoder *d);
/* Numbers <-> big-endian integers in the order of their values, in place. */
void vz_layout_apply(const vz_layout *l, uint8_t *data, size_t size, bool forward);

/* The number of that type as big-endian integer in the order of values, and back. */
uint64_t vz_number_order(int type, uint64_t bits);
uint64_t vz_number_bits(int type, uint64_t order);
/* Its value: an integer, or a multiple of 2^(e - 59), cut at +-2^61. */
int64_t vz_number_value(int type, uint64_t order, int32_t e);
/* The e that the number itself would have; 0 for integers. */
int32_t vz_number_scale(int type, uint64_t order);

typedef struct vz_column {
    int64_t past[VZ_NUMBER_TAPS + 1]; /* values, the last first */
    int64_t mean;
    int64_t step;              /* last value - the one before */
    uint64_t error[VZ_EXPERTS]; /* mean distances, as fixed as the values */
    int32_t weight[VZ_NUMBER_INPUTS];
    int32_t e, e_now;          /* scale of all of these, and of the newest */
    uint32_t seen;
} vz_column;

typedef struct vz_numbers {
    vz_layout layout;
    uint32_t lead;             /* bytes until the first record */
    uint64_t left;             /* bytes from there to the end of the last record */
    uint32_t at;               /* place of the next byte in the record */
    uint32_t column, byte;     /* number being coded, how many of its bytes are known */
    int type;                  /* VZ_NO_NUMBER: the next byte is none of a number */
    uint32_t bytes;
    uint64_t prefix;           /* bytes of the number so far */
    uint64_t order[VZ_EXPERTS]; /* what three of the experts say, in order */
    uint64_t last;             /* the number above, in order */
    int64_t predicted[VZ_EXPERTS]; /* less past[0] */
    uint32_t scale[VZ_EXPERTS];  /* log of the error */
    int32_t input[VZ_NUMBER_INPUTS];
    int shift;                 /* of the inputs */
    int64_t mixed;             /* what the inputs predicted, in their unit */
    uint32_t noise;            /* log2 of the best expert's error, in units of the last bit */
    vz_prob *cell[VZ_EXPERTS]; /* of the last bit */
    vz_column columns[VZ_NUMBER_COLUMNS];
    uint64_t last_order[VZ_NUMBER_COLUMNS];
    vz_prob map[VZ_EXPERTS * 1024];
    vz_prob exact[65536];
} vz_numbers;

void vz_numbers_start(vz_numbers *n, uint64_t size);
/* After each byte. */
void vz_numbers_byte(const vz_logistic *lg, vz_numbers *n, uint32_t c);
/* `count` logits for the node c0 of the current byte, which belongs to a number. */
void vz_numbers_inputs(const vz_logistic *lg, vz_numbers *n, uint32_t c0, int16_t *x, int count);

#endif
