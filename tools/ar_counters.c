/* ar_counters.c - what decoding counted, as JSON and as text. */
#include "ar_counters.h"

/* Rows and columns in use: behind them all is 0. */
static void used(const fv_ar_stats *s, int *depths, int *ranks)
{
    *depths = *ranks = 0;
    for (int d = 0; d < FV_AR_STATS_DEPTH; d++)
        for (int r = 0; r < FV_AR_STATS_RANK; r++) {
            if (!s->tried[d][r]) continue;
            *depths = d + 1;
            if (r >= *ranks) *ranks = r + 1;
        }
}

static void json_table(cli_json *j, const char *key, const int64_t table[][FV_AR_STATS_RANK],
                       int depths, int ranks)
{
    cli_json_key(j, key);
    fputc('[', j->to);
    for (int d = 0; d < depths; d++) {
        fputs(d ? ", [" : "[", j->to);
        for (int r = 0; r < ranks; r++)
            fprintf(j->to, "%s%lld", r ? ", " : "", (long long)table[d][r]);
        fputc(']', j->to);
    }
    fputc(']', j->to);
}

void ar_json_counters(cli_json *j, const fv_ar_stats *s)
{
    const struct {
        const char *key;
        int64_t value;
    } counter[] = {
        {"tokens", s->tokens},
        {"prefills", s->prefills},
        {"verifies", s->verifies},
        {"skips", s->skips},
        {"draft_passes", s->draft_passes},
        {"target_rows", s->target_rows},
        {"draft_rows", s->draft_rows},
        {"substitutions", s->substitutions},
        {"chain_tokens", s->chain_tokens},
        {"chain_cuts", s->chain_cuts},
        {"plain_steps", s->plain_steps},
    };
    int depths, ranks;
    for (size_t i = 0; i < sizeof counter / sizeof *counter; i++)
        cli_json_u64(j, counter[i].key, (uint64_t)counter[i].value);
    cli_json_key(j, "accepted");
    for (int i = 0; i <= FV_AR_STATS_DEPTH; i++)
        fprintf(j->to, "%s%lld", i ? ", " : "[", (long long)s->accepted[i]);
    fputc(']', j->to);
    used(s, &depths, &ranks);
    json_table(j, "tried", s->tried, depths, ranks);
    json_table(j, "hit", s->hit, depths, ranks);
}

void ar_talk_of_guesses(const fv_ar_stats *s, const char *indent)
{
    char text[1024] = "";
    size_t n = 0;
    int depths, ranks;
    used(s, &depths, &ranks);
    for (int d = 0; d < depths; d++)
        for (int r = 0; r < ranks && n < sizeof text; r++) {
            const char *split = r ? " " : d ? "; " : "";
            if (!s->tried[d][r]) continue;
            n += (size_t)snprintf(text + n, sizeof text - n, "%s%lld/%lld", split,
                                  (long long)s->hit[d][r], (long long)s->tried[d][r]);
        }
    if (n) cli_detail("%sguesses accepted of those tried, by depth and place: %s", indent, text);
}
