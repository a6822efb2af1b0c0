/* accel_methods.h - published ways of saving work, as plans: shared by accel_methods.c (names,
 * options, accounting), accel_baselines.c (plans known beforehand), accel_policy.c (decisions at
 * run time) and accel_clusters.c (tokens by cluster). */
#ifndef FV_ACCEL_METHODS_H
#define FV_ACCEL_METHODS_H

#include "method_text.h"
#include "soda.h"

#define FVI_METHOD_KEYS 5

struct fvi_method;
typedef struct fvi_method_entry {
    const char *name, *options, *source, *about;
    fv_method_key key[FVI_METHOD_KEYS];
    fv_status (*make)(struct fvi_method *m);
} fvi_method_entry;

/* One request on its way to a plan. */
typedef struct fvi_method {
    fv_ctx *ctx;
    const fv_dit *d;
    const fv_sens *sens; /* NULL: errors that grow with the square of the age */
    const fvi_method_entry *entry;
    double value[FVI_METHOD_KEYS];
    bool is_given[FVI_METHOD_KEYS];
    dit_schedule schedule;
    int T, K;            /* evaluations, modules */
    uint8_t *must, *full; /* [T] the number of rows changes; everything is computed */
    int *at;             /* [T] */
    fv_accel *plan;
} fvi_method;

double fvi_method_value(const fvi_method *m, const char *key);
bool fvi_method_given(const fvi_method *m, const char *key);
/* Exact FLOP / FLOP of a plan, both as papers count them (accel_methods.c says how). */
double fvi_method_flop_ratio(const fv_dit *d, const dit_schedule *s, const fv_accel *a);

fv_status fvi_make_fora(fvi_method *m);
fv_status fvi_make_toca(fvi_method *m);
fv_status fvi_make_duca(fvi_method *m);
fv_status fvi_make_taylorseer(fvi_method *m);
fv_status fvi_make_hicache(fvi_method *m);
fv_status fvi_make_spectrum(fvi_method *m);
fv_status fvi_make_cem(fvi_method *m);
fv_status fvi_make_procache(fvi_method *m);
fv_status fvi_make_dpcache(fvi_method *m);
fv_status fvi_make_teacache(fvi_method *m);
fv_status fvi_make_rfc(fvi_method *m);
fv_status fvi_make_speca(fvi_method *m);
fv_status fvi_make_clusca(fvi_method *m);
/* A policy for the pruned modules of m->plan, which compute `kept` tokens each. */
fv_status fvi_add_clusters(fvi_method *m, int kept);
#define FVI_MOST_CLUSTERS 64

typedef struct fvi_clusters {
    fv_ctx *ctx;
    int K, kept, tokens, width; /* K <= kept: tokens of a picture that are computed */
    float *centre;              /* [pictures][width][K] scratch */
    float *score;               /* [pictures][tokens] largest: computed first */
    float *draw;                /* [tokens] in 0 .. 1 */
    uint8_t *cluster;           /* [pictures][tokens] */
} fvi_clusters;
/* Clusters of h [pictures][tokens][width]; `draw` numbers the first centres. */
void fvi_find_clusters(const fvi_clusters *c, int draw, const float *h, int pictures);
/* Scores of picture p from its clusters and the draws: the `kept` best are one of each cluster,
 * then a second one of each that has it, and so on. */
void fvi_rank_tokens(const fvi_clusters *c, int p);

typedef enum fvi_basis {
    FVI_BASIS_TAYLOR = 0, /* (e - a_0)^j */
    FVI_BASIS_NEWTON,     /* the polynomial through the outputs */
    FVI_BASIS_HERMITE     /* sigma^j He_j(sigma (e - a_0)) */
} fvi_basis;
/* Weights w of outputs at evaluations a[0] > a[1] > ... (count >= 1), for a forecast of `order` at
 * e; fewer outputs lower the order. */
void fvi_forecast_weights(const int *a, int count, int order, int e, fvi_basis basis, double sigma,
                          double w[DIT_HISTORY]);
/* The same by a ridge regression on Chebyshev polynomials in time (0 .. T-1 is -1 .. 1), the
 * constant one without penalty. */
void fvi_chebyshev_weights(const int *a, int count, int degree, double ridge, int T, int e,
                           double w[DIT_HISTORY]);

#endif
