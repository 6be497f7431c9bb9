/* Does drafting pay? Decided from what is measured on the way: how often drafts are accepted, and what passes with and
 * without them take.
 *
 *   cost     = (seconds of a pass with drafts + seconds of drafting) / seconds of a plain pass
 *   speed-up = (1 + sum over depths of the share of drafts that are accepted) / cost
 *
 * Time is counted in plain passes. Drafting lives on a credit: what a round loses goes off it, what it gains comes
 * back, up to the CREDIT it began with, and every token adds REFILL. So n tokens never cost more than n + CREDIT +
 * REFILL n and a last round: 1.3 percent more at 256. Where the credit is used up, or the formula says less than 1,
 * drafting pauses, and begins anew when the credit is full. A text does not depend on any of this. */
#ifndef DEEPSEEK_INFER_DRAFT_POLICY_H
#define DEEPSEEK_INFER_DRAFT_POLICY_H

#include <stdbool.h>
#include <stdint.h>

#include "model/config.h"

enum draft_mode { DRAFT_OFF, DRAFT_AUTO, DRAFT_ALWAYS };

#define DRAFT_CREDIT 2.0
#define DRAFT_REFILL 0.005
#define DRAFT_WINDOW 9

/* The last few measurements, of which the median counts: one that something else disturbed does not. */
struct draft_times { double seconds[DRAFT_WINDOW]; int count, next; };

/* by depth; a draft behind one that was refused counts as refused */
struct draft_counts { int64_t offered[CONFIG_MAX_NEXTN], accepted[CONFIG_MAX_NEXTN]; };

struct draft_policy {
    enum draft_mode mode;
    int depths;
    /* NULL, or how many depths the next round drafts, in place of everything here (tests, bench) */
    int (*decide)(void *context);
    void *decide_context;
    struct draft_times plain, verify[CONFIG_MAX_NEXTN], draft[CONFIG_MAX_NEXTN];   /* [i]: rounds of i + 1 depths */
    double rate[CONFIG_MAX_NEXTN];             /* accepted lately, by depth */
    int64_t rated, trials;                     /* drafts that `rate` has seen; those since drafting began anew */
    double credit;
    bool paused;
    /* has drafted since it began anew? The first time modules also compute what is due */
    bool warm;
    int texts;                                 /* of the rounds that were measured */
    int64_t since_plain;
    struct draft_counts counts;                /* of all rounds so far */
    /* of rounds with drafts: what their tokens take without, and what they took */
    double expected_seconds, drafted_seconds;
};

void draft_policy_begin(struct draft_policy *policy, enum draft_mode mode, int depths);
/* How many depths shall the next round of `texts` texts draft? */
int draft_policy_depths(struct draft_policy *policy, int texts);

/* What a text's own drafts were worth. In a round of several a text takes part where its drafts pay for their share of
 * what the round costs more. */
struct draft_text { int64_t seen, idle; double rate; };
bool draft_policy_takes(const struct draft_policy *policy, struct draft_text *text, int depths, int texts);

/* A text was offered so many drafts, and the first `accepted` of them were chosen by the model: in all counts. */
void draft_policy_count(struct draft_policy *policy, struct draft_text *text, struct draft_counts *counts, int offered,
                        int accepted);
/* A round with drafts of `depths` (0: without) gave `tokens` tokens to `texts` texts. */
void draft_policy_round(struct draft_policy *policy, int depths, int texts, int64_t tokens, double model_seconds,
                        double draft_seconds);

/* As far as measured; 0: not yet. */
double draft_policy_cost(const struct draft_policy *policy, int depths);
/* speed-up by the formula, with what is accepted lately */
double draft_policy_predicted(const struct draft_policy *policy, int depths);
/* speed-up of the rounds with drafts, so far */
double draft_policy_reached(const struct draft_policy *policy);

#endif
