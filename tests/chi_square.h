/* chi_square.h - is a sum of squares larger than chance makes it? */
#ifndef CHI_SQUARE_H
#define CHI_SQUARE_H

#include <math.h>

#define CHI_LIMIT 3.719 /* p = 1e-4 */

/* Standard deviations by which chi-square with that many degrees of freedom is above what is
 * expected, by Wilson and Hilferty's cube root. */
static inline double chi_excess(double chi, int freedom)
{
    const double v = 2.0 / (9.0 * freedom);
    return (cbrt(chi / freedom) - (1.0 - v)) / sqrt(v);
}

#endif
