/* dit_runner.h - what a runner holds; shared by dit_engine.c, dit_evaluate.c and dit_device.c only. */
#ifndef FV_DIT_RUNNER_H
#define FV_DIT_RUNNER_H

#include "internal.h"

/* Plans for one number of rows. */
typedef struct module_set {
    int rows;
    fv_plan *embed, *final, *probe;
    fv_plan *forecast[DIT_HISTORY]; /* from 1, 2, ... outputs of a module */
    fv_plan *skip, *less;           /* from all of the step history; what was added to h0 */
    fv_plan **module;               /* [depth * 2] */
    fv_plan **pruned;               /* [depth][DIT_PRUNED] or NULL */
} module_set;

/* Tokens of pruned modules, for each picture of the batch. */
typedef struct pruning {
    dit_score score;
    int tokens[DIT_PRUNED];
    float *h, *input; /* gathered; [depth][B][N][D] input of each token's last run (DRIFT) */
    uint8_t *y;
    int32_t *index;   /* [B][largest] ascending */
    uint16_t *stale;  /* [depth][B][N] evaluations since the last run */
    float *value;     /* [B][N] scores, then room for sorting */
    dit_choice choice; /* what it points to is where the tokens are */
    int32_t *place;   /* device: [B][N] place in index, -1: not chosen */
    float *given;     /* device: of choice */
    uint8_t *cluster;
} pruning;

/* What is done with a module: dit_action REUSE is LINEAR of one output. at: the slot that is written
 * (FULL), or of the newest output. */
typedef struct dit_deed { uint8_t action, count, size, at; } dit_deed;

/* An evaluation, resolved: all that its launches depend on, compared as bytes. */
typedef struct dit_course {
    uint8_t is_guided, is_skipped, keeps, past; /* keeps: for skips; past: place of the newest one */
    uint8_t is_chosen, pad[3];                  /* there is a choice of tokens */
    int32_t clusters;
    float spread;
    dit_deed deed[];                            /* [2 * depth] */
} dit_course;

struct dit_graphs;
struct dit_runner {
    fv_ctx *ctx;
    const dit_net *net;
    const dit_schedule *schedule;
    fv_dtype precision, feature_type;
    bool fp8;                   /* linear layers, beside bf16 */
    int B, depth, tokens;
    int64_t state;              /* values of one picture's state */
    bool keep, is_sketch;       /* is_sketch: only to count what it would hold */
    bool on_device, near;       /* near: states and outputs stay there */
    module_set guided, single;  /* 2B rows, B rows; unused ones are empty */
    float *x, *h, *out, *mod, *mod_final, *pos, *rope; /* device */
    float *host_out;            /* NULL: near */
    uint8_t *cache;             /* [depth*2][history] slots, or one shared slot */
    size_t slot_bytes;
    int history;
    int *valid_rows;            /* [depth*2][history] rows of the slot that hold an output */
    int *newest;                /* [depth*2] */
    dit_course *course;         /* of the evaluation at work */
    size_t course_bytes;
    /* [2*depth + 2][DIT_HISTORY]: of each module's forecast, of a skip, and a -1; on the host what
     * the evaluation wants, and what was sent */
    float *weight, *host_weight, *sent_weight;
    dit_skip skip;
    bool past_of_anchors;
    int past_count, past_newest, past_rows[DIT_HISTORY]; /* ring of evaluations not skipped */
    size_t past_bytes;
    uint8_t *past;
    float *h0;                  /* what the embedding gave (SKIP_RESIDUAL) */
    float *probe;
    bool prunes, probes, checks;
    float *last;                /* what went into the last block; after a check, what came out */
    uint8_t *last_y;            /* outputs of its modules in a check */
    int last_rows;              /* 0: nothing to check */
    pruning prune;
    uint8_t *work;
    /* bank */
    fv_plan *cond;
    float *bank_t, *bank, *bank_final;
    int32_t *bank_y;
    float *host_t;                    /* [chunk * most_labels], and labels: filled, then copied */
    int32_t *host_y;
    int chunk, chunk_first, labels;   /* chunk_first -1: empty */
    int most_labels;                  /* B, and the null label where guidance is on */
    int *label_of_row;                /* [2B] index into the distinct labels */
    int32_t *label_near;              /* device: the same */
    int32_t *distinct;
    struct dit_graphs *graphs;        /* device */
    double flop;
    int64_t full, reused, pruned;
    uint64_t activation_bytes, cache_bytes;
};

/* ---- dit_engine.c ---- */

/* Output of module k in place `at` of its ring. */
uint8_t *dit_slot(const dit_runner *r, int k, int at);
float *dit_mod_of(const dit_runner *r, int l);
fv_status dit_bind_module(dit_runner *r, fv_plan *p, int l, int m);
/* "y0", "y1", ...: inputs of a forecast */
extern const char *const dit_past_name[DIT_HISTORY];
/* The bank holds evaluation e; then its modulations in the order of the batch, and states, which are
 * [B, state] where the runner's are (device; NULL: not). */
fv_status dit_fill_bank(dit_runner *r, int first);
fv_status dit_need_bank(dit_runner *r, int e);
fv_status dit_take_mods(dit_runner *r, int e, int rows, const float *x);

/* ---- dit_evaluate.c ---- */

/* Queues the launches of r->course; nothing of the host's is changed. */
fv_status dit_run_course(dit_runner *r, module_set *s);

/* ---- dit_device.c: runners whose context is not a CPU's ---- */

fv_status dit_graphs_create(dit_runner *r);
void dit_graphs_destroy(dit_runner *r);
/* dit_run_course, as one graph where this course ran before. */
fv_status dit_graphs_run(dit_runner *r, module_set *s);
/* What runs of `queue` take, each of several queued at once. */
fv_status dit_device_time(dit_runner *r, fv_status (*queue)(void *user), void *user,
                          double *seconds);
/* MLP k computed for some tokens, as d says. */
fv_status dit_device_prune(dit_runner *r, module_set *s, int k, const dit_deed *d);
/* All tokens of `blocks` MLPs from l on are older by one, or new with h as their input. */
fv_status dit_device_age(dit_runner *r, int l, int blocks, bool is_new);

#endif
