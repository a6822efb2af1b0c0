/* bench_ar_methods.c - what `fovea bench ar` compares: lists by name, and methods as text. */
#include "bench_ar.h"

#include <stdlib.h>
#include <string.h>

/* A line that begins with # names the group. What follows others has no echoes, as they have
 * none. */
static const char *const lossless[] = {
    "#lossless: the tokens of plain decoding",
    "sd:draft=chain,depth=1",
    "sd:draft=chain,depth=2",
    "sd:draft=chain",
    "sd:nodes=4",
    "sd:nodes=8",
    "sd",
    "sd:depth=6,children=8,nodes=32",
    "sd:depth=8,children=16,nodes=64",
    "sd:adaptive=1",
    "sd:draft=chain,depth=2,echo=0",
    "sd:echo=0",
    "sd:draft=static,depth=5,echo=0",
    "sd:draft=static,depth=5,shape=chain5,echo=0",
    "sd:draft=eagle2,depth=5,children=10,nodes=59,echo=0",
    "vvs:interval=2,selector=coupled,post=strict",
    "jacobi:window=4",
    "jacobi:window=8",
    "jacobi",
    "jacobi:window=32",
    "jacobi:first=above",
    "#lossless in distribution: other draws",
    "sd:draft=pq",
    "sd:draft=pq,depth=6,children=8,nodes=32",
    "sd:draft=static,depth=5,echo=0,reference=1",
    "sd:draft=eagle2,depth=5,children=10,nodes=59,echo=0,reference=1",
    NULL,
};

static const char *const relaxed[] = {
    "#relaxed rules",
    "sd:rule=lantern,delta=0.05",
    "sd:rule=lantern",
    "sd:rule=lantern,delta=0.2",
    "sd:rule=lantern,delta=0.3",
    "sd:rule=lantern,delta=0.4",
    "sd:draft=static,depth=5,echo=0,rule=lantern++,neighbours=10",
    "sd:draft=static,depth=5,echo=0,rule=lantern++,neighbours=10,lambda=10",
    "sd:draft=static,depth=5,echo=0,rule=lantern++,neighbours=10,lambda=20",
    "sd:draft=static,depth=5,echo=0,rule=cool,delta=1.1",
    "sd:draft=static,depth=5,echo=0,rule=cool,delta=2",
    "sd:draft=static,depth=5,echo=0,rule=cool,delta=4",
    "sd:draft=static,depth=5,echo=0,rule=gsd,group=3",
    "sd:draft=static,depth=5,echo=0,rule=gsd",
    "sd:draft=static,depth=5,echo=0,rule=gsd,group=50",
    NULL,
};

#define EXACT "vvs:selector=coupled,"
#define VVS "vvs:rule=lantern,selector=coupled,"
static const char *const vvs[] = {
    "#VVS-U: a check in every i is skipped",
    EXACT "interval=2",         VVS "interval=2,delta=0.1", VVS "interval=2,delta=0.2",
    EXACT "interval=3",         VVS "interval=3,delta=0.1", VVS "interval=3,delta=0.2",
    EXACT "interval=4",         VVS "interval=4,delta=0.1", VVS "interval=4,delta=0.2",
    EXACT "interval=5",         VVS "interval=5,delta=0.1", VVS "interval=5,delta=0.2",
    EXACT "interval=6",         VVS "interval=6,delta=0.1", VVS "interval=6,delta=0.2",
    EXACT "interval=3,depth=6,children=8,nodes=32",
    EXACT "interval=4,depth=6,children=8,nodes=32",
    EXACT "interval=6,depth=6,children=8,nodes=32",
    VVS "interval=3,delta=0.2,post=relaxed",
    "#VVS-D: skipped where the paths of the tree are similar",
    VVS "schedule=dynamic,threshold=0.5,delta=0.1",
    VVS "schedule=dynamic,threshold=0.5,delta=0.2",
    VVS "schedule=dynamic,threshold=0.6,delta=0.1",
    VVS "schedule=dynamic,threshold=0.6,delta=0.2",
    VVS "schedule=dynamic,threshold=0.7,delta=0.1",
    VVS "schedule=dynamic,threshold=0.7,delta=0.2",
    VVS "schedule=dynamic,threshold=0.8,delta=0.1",
    VVS "schedule=dynamic,threshold=0.8,delta=0.2",
    VVS "schedule=dynamic,threshold=0.9,delta=0.1",
    VVS "schedule=dynamic,threshold=0.9,delta=0.2",
    NULL,
};
#undef VVS
#undef EXACT

/* The tree and the order of the paper [VVS, arXiv 2511.13587]. */
#define PAPER "vvs:draft=eagle2,depth=5,children=10,nodes=59,echo=0,rule=lantern,"
static const char *const ablation[] = {
    "#selector and truncation, i = 3, delta 0.1",
    PAPER "interval=3",
    PAPER "interval=3,selector=confidence",
    PAPER "interval=3,selector=confidence,truncation=off",
    PAPER "interval=3,selector=coupled",
    "#selector and truncation, i = 3, delta 0.2",
    PAPER "interval=3,delta=0.2",
    PAPER "interval=3,delta=0.2,selector=confidence",
    PAPER "interval=3,delta=0.2,selector=confidence,truncation=off",
    PAPER "interval=3,delta=0.2,selector=coupled",
    "#features of a verifying and of a skipping step: fresh (-1), cached (0), older",
    PAPER "interval=3,stale_verify=-1,stale_skip=0",
    PAPER "interval=3,stale_verify=0,stale_skip=0",
    PAPER "interval=3,stale_verify=-1,stale_skip=3",
    PAPER "interval=3,keep_stale=1",
    "#interval, delta 0.1",
    PAPER "interval=2", PAPER "interval=3", PAPER "interval=4", PAPER "interval=5",
    PAPER "interval=6",
    "#threshold of the dynamic schedule, delta 0.1",
    PAPER "schedule=dynamic,threshold=0.5",
    PAPER "schedule=dynamic,threshold=0.6",
    PAPER "schedule=dynamic,threshold=0.65",
    PAPER "schedule=dynamic",
    PAPER "schedule=dynamic,threshold=0.8",
    PAPER "schedule=dynamic,threshold=0.9",
    "#skipped tokens looked at afterwards",
    PAPER "interval=3,post=relaxed",
    PAPER "interval=3,post=strict",
    NULL,
};
#undef PAPER

static const struct {
    const char *name;
    const char *const *part[3];
} list[] = {
    {"all", {lossless, relaxed, vvs}},
    {"lossless", {lossless}},
    {"relaxed", {relaxed}},
    {"vvs", {vvs}},
    {"ablation", {ablation}},
};
#define LISTS (sizeof list / sizeof *list)

static ar_kind kind_of(fv_ar_mode mode, const fv_ar_expert *e)
{
    const bool is_vvs = mode == FV_AR_VVS && e->post != FV_AR_POST_STRICT;
    if (mode == FV_AR_PLAIN) return e->is_uniform ? AR_KIND_DRAWN : AR_KIND_PLAIN;
    if (is_vvs) return e->is_dynamic ? AR_KIND_VVS_D : AR_KIND_VVS_U;
    if (mode != FV_AR_JACOBI && e->rule != FV_AR_RULE_EXACT)
        return e->rule == FV_AR_RULE_COOL  ? AR_KIND_COOL
               : e->rule == FV_AR_RULE_GSD ? AR_KIND_GSD
                                           : AR_KIND_LANTERN;
    return e->is_uniform || e->is_reference || e->draft == FV_AR_DRAFT_PQ ? AR_KIND_DRAWN
                                                                          : AR_KIND_SAME;
}

/* METHOD@TYPE in two; the second part is named. */
static int read_weights(ar_line *l, char *method)
{
    char *at = strchr(method, '@');
    if (!at) return CLI_OK;
    *at++ = 0;
    l->has_weights = fv_weights_find(at, &l->weights) != 0;
    if (l->has_weights) return CLI_OK;
    return cli_fail(CLI_USAGE, "--methods: @%s: weights are f32, bf16 or int8", at);
}

/* Plain decoding is line 0 already. The same method again stays: lists repeat one in each group. */
static int add_method(ar_bench *b, const char *text, const char *title)
{
    ar_line *l = &b->line[b->lines];
    if (b->lines == AR_METHODS)
        return cli_fail(CLI_USAGE, "--methods: at most %d are possible", AR_METHODS);
    char *word = cli_format("%s", text);
    const int code = read_weights(l, word);
    fv_status s = code == CLI_OK ? fv_ar_method_parse(b->ctx, word, &l->mode, &l->expert) : FV_OK;
    free(word);
    if (code != CLI_OK) return code;
    if (s == FV_OK) s = fv_ar_method_text(b->ctx, l->mode, &l->expert, &l->method);
    if (s != FV_OK) return cli_report(b->ctx, s, "--methods");
    l->kind = kind_of(l->mode, &l->expert);
    l->title = title;
    if (b->lines > 0 && l->kind == AR_KIND_PLAIN && !l->has_weights) {
        fv_free(b->ctx, l->method);
        *l = (ar_line){0};
        return CLI_OK;
    }
    l->text = cli_format("%s%s%s", l->method, l->has_weights ? "@" : "",
                         l->has_weights ? fv_weights_name(l->weights) : "");
    b->lines++;
    return CLI_OK;
}

static int add_list(ar_bench *b, const char *const *text)
{
    const char *title = NULL;
    int code = CLI_OK;
    for (; text && *text && code == CLI_OK; text++) {
        if (**text == '#') {
            title = *text + 1;
            continue;
        }
        code = add_method(b, *text, title);
        title = NULL;
    }
    return code;
}

static int add_word(ar_bench *b, const char *word)
{
    int code = CLI_OK;
    for (size_t i = 0; i < LISTS; i++) {
        if (strcmp(word, list[i].name) != 0) continue;
        for (int k = 0; k < 3 && code == CLI_OK; k++) code = add_list(b, list[i].part[k]);
        return code;
    }
    return add_method(b, word, NULL);
}

int ar_read_methods(ar_bench *b, const char *text)
{
    int code = add_method(b, "ar", NULL);
    while (*text && code == CLI_OK) {
        const int n = (int)strcspn(text, ";");
        const int skip = (int)strspn(text, " ");
        if (n > skip) {
            char *word = cli_format("%.*s", n - skip, text + skip);
            for (size_t k = strlen(word); k > 0 && word[k - 1] == ' '; k--) word[k - 1] = 0;
            code = add_word(b, word);
            free(word);
        }
        text += n + (text[n] == ';');
    }
    if (code == CLI_OK && b->lines < 2)
        return cli_fail(CLI_USAGE, "--methods: nothing to compare with plain decoding");
    return code;
}

int ar_list_methods(void)
{
    for (size_t i = 1; i < LISTS; i++) { /* the first one is made of others */
        printf("%s%s\n", i > 1 ? "\n" : "", list[i].name);
        for (const char *const *t = list[i].part[0]; *t; t++)
            printf(**t == '#' ? "  (%s)\n" : "  %s\n", *t + (**t == '#'));
    }
    return CLI_OK;
}
