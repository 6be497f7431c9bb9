/* What changes over the steps: the formulas stand in the header. */
#include "train/schedule.h"

#include <math.h>

#define PI 3.14159265358979323846

/* The factor of the maximum in a schedule of pieces. */
static double factor_of_piece(const struct schedule *s, double step) {
    double before = 1, factor = 1;
    for (int i = 0; i < s->milestone_count; i++) {
        const double begin = s->milestones[i] * (double)s->steps,
                     end = (i + 1 < s->milestone_count ? s->milestones[i + 1] : 1) * (double)s->steps;
        if (!(step > begin)) break;
        const double x = step < end ? (step - begin) / (end - begin) : 1,
                     rest = s->shapes[i] == SCHEDULE_SHAPE_LINEAR   ? 1 - x
                            : s->shapes[i] == SCHEDULE_SHAPE_COSINE ? 0.5 * (1 + cos(PI * x))
                                                                    : 0;
        factor = s->factors[i] + (before - s->factors[i]) * rest;
        before = s->factors[i];
    }
    return factor;
}

double schedule_rate(const struct schedule *schedule, int64_t step) {
    double max = schedule->learning_rate;
    if (step <= schedule->warmup_steps) return max * (double)step / (double)schedule->warmup_steps;
    switch (schedule->kind) {
    case SCHEDULE_COSINE: {
        if (step >= schedule->steps) return max * schedule->min_ratio;
        double done = (double)(step - schedule->warmup_steps) / (double)(schedule->steps - schedule->warmup_steps);
        return max * (schedule->min_ratio + (1 - schedule->min_ratio) * 0.5 * (1 + cos(PI * done)));
    }
    case SCHEDULE_MULTI_STEP: return max * factor_of_piece(schedule, (double)step);
    default: return max;
    }
}

double schedule_mtp(const struct schedule *s, int64_t step) {
    return s->mtp > 0 && (double)step > s->mtp_milestone * (double)s->steps ? s->mtp_late : s->mtp;
}

double schedule_bias_speed(const struct schedule *s, int64_t step) {
    return (double)step > s->bias_milestone * (double)s->steps ? 0 : s->bias_update_speed;
}

int64_t schedule_batch(const struct schedule *s, int64_t tokens) {
    if (!s->batch_start || tokens >= s->ramp_tokens) return s->batch_size;
    /* In integers of 128 bits: the product of the batch and the tokens may have 77. */
    const unsigned __int128 risen = (unsigned __int128)(s->batch_size - s->batch_start) * (unsigned __int128)tokens /
                                    (unsigned __int128)s->ramp_tokens;
    return s->batch_start + (int64_t)risen / s->grain * s->grain;
}

/* The phase of the length at a position: length_count after the last. */
static int phase_at(const struct schedule *s, int64_t tokens) {
    int phase = 0;
    while (phase < s->length_count && tokens >= s->length_tokens[phase]) phase++;
    return phase;
}

int64_t schedule_length(const struct schedule *s, int64_t tokens) {
    const int phase = phase_at(s, tokens);
    return phase < s->length_count ? s->lengths[phase] : s->length;
}

int64_t schedule_tokens(const struct schedule *s, int64_t steps) {
    int64_t tokens = 0;
    while (steps > 0) {
        const int phase = phase_at(s, tokens);
        const int64_t each = schedule_batch(s, tokens) * schedule_length(s, tokens);
        int64_t alike = steps; /* steps that are as this one */
        if (phase < s->length_count) alike = (s->length_tokens[phase] - tokens + each - 1) / each;
        if (s->batch_start && tokens < s->ramp_tokens) alike = 1;
        if (alike > steps) alike = steps;
        tokens += alike * each;
        steps -= alike;
    }
    return tokens;
}
