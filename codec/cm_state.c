/* cm_state.c - bit histories in one byte.
 *
 * A history is (n0, n1, last): how often each bit was seen, older evidence discounted, and the last
 * bit where both were seen. The allowed pairs shrink as they become balanced (BOUND), since a
 * balanced history says little; there are 253 of them. A bit raises its own count and cuts the
 * other: what was sure and turned out wrong is soon forgotten. Numbers rise with n0 + n1, so that
 * the number is also the worth of a slot (vz_slots_find).
 *
 * Idea: indirect context models of PAQ6 and ZPAQ; the table itself is generated here. */
#include "cm.h"

#define SMALLER_MAX 6
#define TOTAL_MAX 64
/* Largest count beside a smaller one of 0, 1, ... 6. */
static const int BOUND[SMALLER_MAX + 1] = {48, 20, 10, 8, 7, 6, 6};

static bool is_allowed(int n0, int n1)
{
    const int small = n0 < n1 ? n0 : n1, large = n0 < n1 ? n1 : n0;
    return small <= SMALLER_MAX && large <= BOUND[small];
}

/* What is left of the count of the other bit. */
static int discounted(int n) { return n > 7 ? 7 : n > 5 ? n - 1 : n; }

static void successor(int *n0, int *n1, int bit)
{
    int *up = bit ? n1 : n0, *down = bit ? n0 : n1;
    *down = discounted(*down);
    ++*up;
    while (!is_allowed(*n0, *n1)) {
        if (*up > *down || *down == 0) --*up;
        else --*down;
    }
}

void vz_states_init(vz_states *s)
{
    uint8_t number[TOTAL_MAX][TOTAL_MAX][2];
    uint8_t n0_of[256], n1_of[256];
    int count = 0;
    for (int total = 0; total < TOTAL_MAX; total++)
        for (int n0 = 0; n0 <= total; n0++) {
            const int n1 = total - n0;
            if (!is_allowed(n0, n1)) continue;
            for (int last = 0; last < 2; last++) {
                if ((n0 == 0 || n1 == 0) && last == 1) {
                    number[n0][n1][1] = number[n0][n1][0];
                    continue;
                }
                n0_of[count] = (uint8_t)n0;
                n1_of[count] = (uint8_t)n1;
                number[n0][n1][last] = (uint8_t)count++;
            }
        }
    for (int i = 0; i < 256; i++) {
        const int from = i < count ? i : 0; /* unused numbers act as 0 */
        const uint32_t zeros = n0_of[from], ones = n1_of[from];
        s->p16[i] = (uint16_t)(65536 * (5 * ones + 2) / (5 * (zeros + ones) + 4));
        for (int bit = 0; bit < 2; bit++) {
            int n0 = (int)zeros, n1 = (int)ones;
            successor(&n0, &n1, bit);
            s->next[bit][i] = number[n0][n1][bit];
        }
    }
}
