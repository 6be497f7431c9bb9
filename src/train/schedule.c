/* Learning rate schedules: the formulas stand in the header. */
#include "train/schedule.h"

#include <math.h>

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
