/* ar_counters.h - what decoding counted, as `gen` and `fovea bench ar` both say it. */
#ifndef FOVEA_AR_COUNTERS_H
#define FOVEA_AR_COUNTERS_H

#include "cli.h"
#include "fovea_ar.h"

/* Members of an object: tokens, prefills, verifies, skips, draft_passes, target_rows, draft_rows,
 * substitutions, chain_tokens, chain_cuts, plain_steps; accepted: steps that accepted 0, 1, ...
 * guesses; tried and hit: a row for each depth, of a number for each place among siblings. */
void ar_json_counters(cli_json *j, const fv_ar_stats *s);
/* With -v, a line: of the guesses at each depth and place how many were accepted of how many. */
void ar_talk_of_guesses(const fv_ar_stats *s, const char *indent);

#endif
