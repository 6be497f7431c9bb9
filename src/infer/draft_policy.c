/* Does drafting pay? (draft_policy.h) */
#include "infer/draft_policy.h"

#include <string.h>

#define LEAST_PLAIN 3        /* plain rounds before the first drafts */
#define LEAST_TRIALS 16      /* drafts before the formula counts */
#define PLAIN_EVERY 64       /* rounds with drafts between plain ones: texts grow, and so does the time of a pass */
#define MOST_DUE 2.0          /* plain passes that the first drafting counts for at most, beside what it always costs */
#define RATE_WINDOW 32       /* drafts that a rate remembers */
#define IDLE_ROUNDS 64       /* after so many a text that does not take part tries again */

/* ---- measurements ------------------------------------------------------------------------------------------------ */

static void times_add(struct draft_times *times, double seconds) {
    times->seconds[times->next] = seconds;
    times->next = (times->next + 1) % DRAFT_WINDOW;
    if (times->count < DRAFT_WINDOW) times->count++;
}

static double times_median(const struct draft_times *times) {
    double sorted[DRAFT_WINDOW];
    int count = 0;
    for (; count < times->count; count++) {
        int at = count;
        for (; at > 0 && sorted[at - 1] > times->seconds[count]; at--) sorted[at] = sorted[at - 1];
        sorted[at] = times->seconds[count];
    }
    return count == 0 ? 0 : count % 2 ? sorted[count / 2] : (sorted[count / 2 - 1] + sorted[count / 2]) / 2;
}

static void forget_times(struct draft_policy *policy) {
    policy->plain = (struct draft_times){ 0 };
    memset(policy->verify, 0, sizeof policy->verify);
    memset(policy->draft, 0, sizeof policy->draft);
    policy->since_plain = 0;
}

/* ---- the formula ------------------------------------------------------------------------------------------------- */

double draft_policy_cost(const struct draft_policy *policy, int depths) {
    const double plain = times_median(&policy->plain);
    if (depths < 1 || !(plain > 0)) return 0;
    if (policy->verify[depths - 1].count)
        return (times_median(&policy->verify[depths - 1]) + times_median(&policy->draft[depths - 1])) / plain;
    for (int more = depths + 1; more <= policy->depths; more++)   /* not measured: in proportion to a deeper one */
        if (policy->verify[more - 1].count) return 1 + (draft_policy_cost(policy, more) - 1) * depths / more;
    return 0;
}

double draft_policy_predicted(const struct draft_policy *policy, int depths) {
    const double cost = draft_policy_cost(policy, depths);
    double tokens = 1;
    for (int i = 0; i < depths; i++) tokens += policy->rate[i];
    return cost > 0 ? tokens / cost : 0;
}

double draft_policy_reached(const struct draft_policy *policy) {
    return policy->drafted_seconds > 0 ? policy->expected_seconds / policy->drafted_seconds : 0;
}

static int best_depths(const struct draft_policy *policy) {
    int best = policy->depths;
    for (int depths = policy->depths - 1; depths > 0; depths--)
        if (draft_policy_predicted(policy, depths) > draft_policy_predicted(policy, best)) best = depths;
    return best;
}

/* ---- decisions --------------------------------------------------------------------------------------------------- */

void draft_policy_begin(struct draft_policy *policy, enum draft_mode mode, int depths) {
    *policy = (struct draft_policy){ .mode = mode, .depths = depths, .credit = DRAFT_CREDIT };
}

int draft_policy_depths(struct draft_policy *policy, int texts) {
    if (policy->mode == DRAFT_OFF || texts < 1) return 0;
    if (policy->decide) return policy->decide(policy->decide_context);
    if (policy->mode == DRAFT_ALWAYS) return policy->depths;
    if (4 * texts < 3 * policy->texts || 4 * texts > 5 * policy->texts) {   /* passes of another size */
        forget_times(policy);
        policy->texts = texts;
    }
    if (policy->plain.count < LEAST_PLAIN) return 0;
    if (policy->paused) {
        if (policy->credit < DRAFT_CREDIT) return 0;
        policy->paused = policy->warm = false;
        policy->trials = 0;
    }
    if (policy->since_plain >= PLAIN_EVERY) return 0;
    return policy->trials < LEAST_TRIALS ? policy->depths : best_depths(policy);
}

bool draft_policy_takes(const struct draft_policy *policy, struct draft_text *text, int depths, int texts) {
    if (texts < 2 || policy->mode != DRAFT_AUTO || policy->decide || text->seen < LEAST_TRIALS) return true;
    if (text->rate >= draft_policy_cost(policy, depths) - 1 || ++text->idle >= IDLE_ROUNDS) {
        text->idle = 0;
        return true;
    }
    return false;
}

static void rate_add(double *rate, int64_t seen, double value) {
    *rate += (value - *rate) / (double)(seen < RATE_WINDOW ? seen : RATE_WINDOW);
}

void draft_policy_count(struct draft_policy *policy, struct draft_text *text, struct draft_counts *counts, int offered,
                        int accepted) {
    if (!offered) return;
    policy->trials++;
    policy->rated++;
    rate_add(&text->rate, ++text->seen, accepted);
    for (int i = 0; i < offered; i++) {
        policy->counts.offered[i]++;
        policy->counts.accepted[i] += i < accepted;
        counts->offered[i]++;
        counts->accepted[i] += i < accepted;
        rate_add(&policy->rate[i], policy->rated, i < accepted);
    }
}

void draft_policy_round(struct draft_policy *policy, int depths, int texts, int64_t tokens, double model_seconds,
                        double draft_seconds) {
    const double each = texts ? (double)tokens / texts : 0;
    double credit = policy->credit + DRAFT_REFILL * each;
    if (depths == 0) {
        times_add(&policy->plain, model_seconds);
        policy->since_plain = 0;
    } else {
        times_add(&policy->verify[depths - 1], model_seconds);
        times_add(&policy->draft[depths - 1], draft_seconds);
        policy->since_plain++;
        if (policy->plain.count) {
            policy->expected_seconds += each * times_median(&policy->plain);
            policy->drafted_seconds += model_seconds + draft_seconds;
            credit += each - draft_policy_cost(policy, depths);
            const double plain_seconds = times_median(&policy->plain),
                         due = draft_seconds - times_median(&policy->draft[depths - 1]);
            /* the median forgets it */
            if (!policy->warm && due > 0) credit -= due < MOST_DUE * plain_seconds ? due / plain_seconds : MOST_DUE;
            policy->warm = true;
        }
        if (credit < 0 || (policy->trials >= LEAST_TRIALS && draft_policy_predicted(policy, best_depths(policy)) < 1))
            policy->paused = true;
    }
    policy->credit = credit < DRAFT_CREDIT ? credit : DRAFT_CREDIT;
}
