/* vpic_bench_judge.c - is our curve better than another at a rate? Curves end somewhere, and what is
 * compared then must not have more bits than what it is compared with:
 *
 * - Ours ends below the rate: our largest file stands for it, with fewer bits. It is better or it is
 *   not; what our codec cannot reach is no excuse.
 * - Theirs begins above the rate: their smallest file stands for it, with more bits. Being better
 *   than that counts, not being better says nothing.
 * - Theirs ends below the rate: their largest file stands for it, with fewer bits. Not being better
 *   than that counts against us, being better says nothing.
 * - Ours begins above the rate: we have nothing to show. */
#include "vpic_bench.h"

#include <math.h>

typedef struct reading {
    double value, bpp;
    bool is_smallest; /* all of its files are larger than asked for */
    bool is_largest;  /* all are smaller */
} reading;

static reading read_at(const pic_curve *c, double bpp, int measure)
{
    reading r = {pic_value_at(c, bpp, measure), bpp, false, false};
    if (!isnan(r.value)) return r;
    r.is_smallest = c->p[0].bpp > bpp;
    r.is_largest = !r.is_smallest;
    const pic_point *end = &c->p[r.is_smallest ? 0 : c->n - 1];
    r.value = end->value[measure];
    r.bpp = end->bpp;
    return r;
}

static pic_state state_of(const reading *a, const reading *b, bool is_better)
{
    if (a->is_smallest) return PIC_NO;
    if (is_better) return a->bpp <= b->bpp ? PIC_YES : PIC_NOTHING;
    return b->is_smallest && !a->is_largest ? PIC_NOTHING : PIC_NO;
}

pic_judged pic_judge(const pic_curve *ours, const pic_curve *theirs, double bpp, int measure)
{
    pic_judged r = {PIC_OPEN, NAN, bpp, NAN, bpp};
    if (ours->n == 0) return r;
    const reading a = read_at(ours, bpp, measure);
    r.ours = a.value;
    r.ours_bpp = a.bpp;
    if (!theirs || theirs->n == 0) return r;
    const reading b = read_at(theirs, bpp, measure);
    r.theirs = b.value;
    r.theirs_bpp = b.bpp;
    r.state = state_of(&a, &b, pic_measures[measure].more_is_better ? a.value > b.value
                                                                    : a.value < b.value);
    return r;
}
