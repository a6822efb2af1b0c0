/* test_vpic_judge.c - the rule of vpic bench's gates: within both curves and beyond their ends. */
#include "test.h"
#include "vpic_bench.h"

/* Two points; every measure has the same two values. */
static pic_curve curve(double from, double to, double first, double last)
{
    pic_curve c = { .n = 2 };
    c.p[0].bpp = from;
    c.p[1].bpp = to;
    for (int i = 0; i < PIC_MEASURES; i++) {
        c.p[0].value[i] = first;
        c.p[1].value[i] = last;
    }
    return c;
}

static pic_judged judge(const pic_curve *ours, const pic_curve *theirs)
{
    return pic_judge(ours, theirs, 0.2, PIC_MS_SSIM);
}

static void within_both_the_better_one_wins(void)
{
    const pic_curve a = curve(0.1, 0.4, 0.90, 0.96), b = curve(0.1, 0.4, 0.88, 0.94);
    pic_judged r = judge(&a, &b);
    CHECK(r.state == PIC_YES && r.ours_bpp == 0.2 && r.theirs_bpp == 0.2);
    NEAR(r.ours, 0.93, 1e-9);
    NEAR(r.theirs, 0.91, 1e-9);
    CHECK(judge(&b, &a).state == PIC_NO);
    CHECK(judge(&a, &a).state == PIC_NO); /* equal is not better */
    CHECK(pic_judge(&a, &b, 0.2, PIC_GMSD).state == PIC_NO); /* less is better */
    CHECK(pic_judge(&b, &a, 0.2, PIC_WD).state == PIC_YES);
}

static void our_largest_file_stands_for_larger_ones(void)
{
    const pic_curve a = curve(0.05, 0.184, 0.90, 0.95);
    const pic_curve worse = curve(0.1, 0.4, 0.88, 0.94), better = curve(0.1, 0.4, 0.94, 0.98);
    pic_judged r = judge(&a, &worse);
    CHECK(r.state == PIC_YES && r.ours == 0.95 && r.ours_bpp == 0.184 && r.theirs_bpp == 0.2);
    r = judge(&a, &better);
    CHECK(r.state == PIC_NO && r.ours_bpp == 0.184);
    /* Not even where they have no file so small. */
    const pic_curve larger = curve(0.3, 0.4, 0.96, 0.98), poor = curve(0.3, 0.4, 0.90, 0.98);
    r = judge(&a, &larger);
    CHECK(r.state == PIC_NO && r.theirs_bpp == 0.3);
    CHECK(judge(&a, &poor).state == PIC_YES);
}

static void their_smallest_file_stands_for_smaller_ones(void)
{
    const pic_curve a = curve(0.1, 0.4, 0.90, 0.96); /* 0.93 */
    const pic_curve better = curve(0.3, 0.5, 0.95, 0.98), worse = curve(0.3, 0.5, 0.92, 0.98);
    pic_judged r = judge(&a, &worse);
    CHECK(r.state == PIC_YES && r.theirs == 0.92 && r.theirs_bpp == 0.3);
    CHECK(judge(&a, &better).state == PIC_NOTHING);
}

static void their_largest_file_stands_for_larger_ones(void)
{
    const pic_curve a = curve(0.1, 0.4, 0.90, 0.96); /* 0.93 */
    const pic_curve better = curve(0.05, 0.1, 0.90, 0.94), worse = curve(0.05, 0.1, 0.80, 0.92);
    pic_judged r = judge(&a, &better);
    CHECK(r.state == PIC_NO && r.theirs == 0.94 && r.theirs_bpp == 0.1);
    CHECK(judge(&a, &worse).state == PIC_NOTHING);
    /* Both end: the one with fewer bits may win. */
    const pic_curve small = curve(0.02, 0.08, 0.90, 0.95), big = curve(0.02, 0.15, 0.90, 0.95);
    CHECK(judge(&small, &better).state == PIC_YES);
    CHECK(judge(&big, &better).state == PIC_NOTHING);
}

static void no_file_so_small_of_ours_is_a_no(void)
{
    const pic_curve a = curve(0.3, 0.4, 0.97, 0.98), b = curve(0.1, 0.4, 0.90, 0.96);
    const pic_curve larger = curve(0.35, 0.5, 0.90, 0.91);
    const pic_judged r = judge(&a, &b);
    CHECK(r.state == PIC_NO && r.ours_bpp == 0.3);
    CHECK(judge(&a, &larger).state == PIC_NO);
}

static void a_rate_just_beyond_an_end_is_within(void)
{
    const pic_curve a = curve(0.1, 0.198, 0.90, 0.96), b = curve(0.203, 0.4, 0.90, 0.96);
    const pic_judged r = judge(&a, &b);
    CHECK(r.state == PIC_YES && r.ours_bpp == 0.2 && r.theirs_bpp == 0.2);
}

static void without_a_curve_it_is_open(void)
{
    const pic_curve a = curve(0.1, 0.4, 0.90, 0.96), none = { .n = 0 };
    CHECK(judge(&a, NULL).state == PIC_OPEN && judge(&a, &none).state == PIC_OPEN);
    CHECK(judge(&none, &a).state == PIC_OPEN && isnan(judge(&none, &a).ours));
}

int main(void)
{
    RUN(within_both_the_better_one_wins);
    RUN(our_largest_file_stands_for_larger_ones);
    RUN(their_smallest_file_stands_for_smaller_ones);
    RUN(their_largest_file_stands_for_larger_ones);
    RUN(no_file_so_small_of_ours_is_a_no);
    RUN(a_rate_just_beyond_an_end_is_within);
    RUN(without_a_curve_it_is_open);
    return test_end();
}
