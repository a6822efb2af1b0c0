/* vpic_bench_gates.c - what our codec has to reach, against peers of the same run.
 *
 * A: MS-SSIM and GMSD better than JPEG's at 0.10, 0.15 and 0.20 bits per pixel, and than half-size
 *    JPEG's at 0.05.
 * B: WD, and GMSD, which no training looks at, better than WebP's, full and half size, at 0.05 and
 *    0.10.
 * C, an aim: the same against AVIF at 0.05 and 0.10 and JPEG XL at 0.13. Eyes decide: --sheet.
 *
 * What happens where a curve ends before the rate is in vpic_bench_judge.c. */
#include "vpic_bench.h"

#include <math.h>
#include <string.h>

typedef struct gate_line {
    char gate;
    const char *peer; /* its name */
    double bpp;
    int measure[2];
} gate_line;

static const gate_line lines[] = {
    {'A', "jpeg", 0.10, {PIC_MS_SSIM, PIC_GMSD}},  {'A', "jpeg", 0.15, {PIC_MS_SSIM, PIC_GMSD}},
    {'A', "jpeg", 0.20, {PIC_MS_SSIM, PIC_GMSD}},
    {'A', "half-jpeg", 0.05, {PIC_MS_SSIM, PIC_GMSD}},
    {'B', "webp", 0.05, {PIC_WD, PIC_GMSD}},       {'B', "webp", 0.10, {PIC_WD, PIC_GMSD}},
    {'B', "half-webp", 0.05, {PIC_WD, PIC_GMSD}},  {'B', "half-webp", 0.10, {PIC_WD, PIC_GMSD}},
    {'C', "avif", 0.05, {PIC_WD, PIC_GMSD}},       {'C', "avif", 0.10, {PIC_WD, PIC_GMSD}},
    {'C', "jxl", 0.13, {PIC_WD, PIC_GMSD}},
};
#define LINES ((int)(sizeof lines / sizeof *lines))

static const char *const state_name[] = {"yes", "no", "open", "no such file"};

/* -1: it does not take part. */
static int find_peer(const pic_bench *b, const char *name)
{
    for (int i = 0; i < b->coder_count; i++)
        if (b->coder[i].peer && strcmp(b->coder[i].peer->name, name) == 0) return i;
    return -1;
}

static const char *title_of(const char *name)
{
    for (int i = 0; i < pic_peer_count; i++)
        if (strcmp(pic_peers[i].name, name) == 0) return pic_peers[i].title;
    return name;
}

static pic_judged judge(const pic_bench *b, int own, const gate_line *l, int measure)
{
    const int peer = find_peer(b, l->peer);
    return pic_judge(&b->curve[own], peer >= 0 ? &b->curve[peer] : NULL, l->bpp, measure);
}

/* Of all lines of a gate. */
static pic_state verdict(const pic_bench *b, int own, char gate)
{
    bool has_yes = false, has_no = false, has_open = false;
    for (int i = 0; i < LINES; i++)
        for (int k = 0; k < 2 && lines[i].gate == gate; k++) {
            const pic_state s = judge(b, own, &lines[i], lines[i].measure[k]).state;
            has_yes |= s == PIC_YES;
            has_no |= s == PIC_NO;
            has_open |= s == PIC_OPEN;
        }
    return has_no ? PIC_NO : has_open || !has_yes ? PIC_OPEN : PIC_YES;
}

static const char *verdict_name(pic_state s)
{
    return s == PIC_YES ? "passed" : s == PIC_NO ? "not passed" : "open";
}

/* ---- Text ------------------------------------------------------------------------------------ */

static void print_value(double v, const pic_measure *m)
{
    if (isnan(v)) printf("%7s", "-");
    else printf("%7.*f", m->digits, v);
}

/* Whose file stands for one of the rate. */
static void print_end(const char *whose, double bpp, double asked)
{
    if (bpp != asked)
        printf("  %s %s: %.3f bpp", whose, bpp > asked ? "smallest" : "largest", bpp);
}

static void print_line(const pic_bench *b, int own, const gate_line *l)
{
    const int peer = find_peer(b, l->peer);
    double ours_bpp = l->bpp, theirs_bpp = l->bpp;
    printf("  %.2f bpp  %-15s", l->bpp, title_of(l->peer));
    for (int k = 0; k < 2; k++) {
        const pic_measure *m = &pic_measures[l->measure[k]];
        const pic_judged r = judge(b, own, l, l->measure[k]);
        printf("  %-7s ", m->name);
        print_value(r.ours, m);
        fputs(" against ", stdout);
        print_value(r.theirs, m);
        printf(k ? " %s" : " %-4s", state_name[r.state]);
        ours_bpp = r.ours_bpp;
        theirs_bpp = r.theirs_bpp;
    }
    print_end("our", ours_bpp, l->bpp);
    print_end("its", theirs_bpp, l->bpp);
    if (peer < 0) fputs("  not in this run", stdout);
    else if (b->curve[peer].n == 0) printf("  %s", b->coder[peer].why);
    putchar('\n');
}

void pic_print_gates(const pic_bench *b)
{
    for (int own = 0; own < b->coder_count; own++) {
        if (b->coder[own].peer || b->curve[own].n == 0) continue;
        putchar('\n');
        for (char gate = 'A'; gate <= 'C'; gate++) {
            printf("%s, gate %c%s: %s\n", b->coder[own].title, gate, gate == 'C' ? ", an aim" : "",
                   verdict_name(verdict(b, own, gate)));
            for (int i = 0; i < LINES; i++)
                if (lines[i].gate == gate) print_line(b, own, &lines[i]);
        }
    }
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static void json_line(const pic_bench *b, int own, const gate_line *l, int measure)
{
    const pic_judged r = judge(b, own, l, measure);
    cli_json j;
    cli_json_open(&j, stdout);
    cli_json_string(&j, "peer", l->peer);
    cli_json_number(&j, "bpp", l->bpp);
    cli_json_string(&j, "measure", pic_measures[measure].key);
    cli_json_number(&j, "ours", r.ours);
    cli_json_number(&j, "ours_bpp", r.ours_bpp);
    cli_json_number(&j, "theirs", r.theirs);
    cli_json_number(&j, "theirs_bpp", r.theirs_bpp);
    cli_json_string(&j, "state", state_name[r.state]);
    cli_json_close(&j);
}

static void json_gate(const pic_bench *b, int own, char gate)
{
    const char name[2] = {gate, 0};
    bool is_first = true;
    cli_json j;
    cli_json_open(&j, stdout);
    cli_json_string(&j, "coder", b->coder[own].title);
    cli_json_string(&j, "gate", name);
    cli_json_string(&j, "verdict", verdict_name(verdict(b, own, gate)));
    cli_json_key(&j, "lines");
    putchar('[');
    for (int i = 0; i < LINES; i++)
        for (int k = 0; k < 2 && lines[i].gate == gate; k++) {
            if (!is_first) putchar(',');
            is_first = false;
            json_line(b, own, &lines[i], lines[i].measure[k]);
        }
    putchar(']');
    cli_json_close(&j);
}

void pic_json_gates(const pic_bench *b, cli_json *j)
{
    bool is_first = true;
    cli_json_key(j, "gates");
    putchar('[');
    for (int own = 0; own < b->coder_count; own++)
        for (char gate = 'A'; gate <= 'C' && !b->coder[own].peer && b->curve[own].n; gate++) {
            if (!is_first) putchar(',');
            is_first = false;
            json_gate(b, own, gate);
        }
    putchar(']');
}
