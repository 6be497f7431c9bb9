/* Learning rate and batch size: the formulas stand in the header. */
#include "train/schedule.h"

#include <math.h>
#include <stdbool.h>

double schedule_rate(const struct schedule *schedule, int64_t step) {
    double max = schedule->learning_rate;
    if (step <= schedule->warmup_steps) return max * (double)step / (double)schedule->warmup_steps;
    switch (schedule->kind) {
    case SCHEDULE_COSINE: {
        if (step >= schedule->steps) return max * schedule->min_ratio;
        double done = (double)(step - schedule->warmup_steps) / (double)(schedule->steps - schedule->warmup_steps);
        return max * (schedule->min_ratio + (1 - schedule->min_ratio) * 0.5 * (1 + cos(3.14159265358979323846 * done)));
    }
    case SCHEDULE_MULTI_STEP: {
        double factor = 1;
        for (int i = 0; i < schedule->milestone_count; i++)
            if ((double)step > schedule->milestones[i] * (double)schedule->steps) factor = schedule->factors[i];
        return max * factor;
    }
    default: return max;
    }
}

static bool ramp_over(const struct schedule *s, int64_t position) { return !s->batch_start || position >= (s->ramp_tokens + s->length - 1) / s->length; }

int64_t schedule_batch(const struct schedule *s, int64_t position) {
    if (ramp_over(s, position)) return s->batch_size;
    /* In integers of 128 bits: the product of the batch and the tokens may have 77. */
    const unsigned __int128 risen = (unsigned __int128)(s->batch_size - s->batch_start) * (unsigned __int128)(position * s->length) / (unsigned __int128)s->ramp_tokens;
    return s->batch_start + (int64_t)risen / s->grain * s->grain;
}

int64_t schedule_position(const struct schedule *s, int64_t steps) {
    int64_t position = 0, step = 0;
    for (; step < steps && !ramp_over(s, position); step++) position += schedule_batch(s, position);
    return position + (steps - step) * s->batch_size;
}
