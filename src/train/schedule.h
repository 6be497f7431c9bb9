/* Learning rate schedules (spec/v1-v3.md section 5.1 for multi_step). Steps count from 1: step s is the s-th update.
 *
 *   warm-up     lr = max s / warmup_steps                                             for s <= warmup_steps, all schedules; a run of fewer steps ends within it
 *   constant    lr = max
 *   cosine      lr = max (min_ratio + (1 - min_ratio) (1 + cos(pi (s - w) / (steps - w))) / 2),   w = warmup_steps; min_ratio max at the last step
 *   multi_step  lr = max factors[i] for the last i with s > milestones[i] steps, max before the first
 *
 * V1: multi_step, warm-up 2000 steps, milestones 0.8 and 0.9, factors 0.316 and 0.1. */
#ifndef DEEPSEEK_TRAIN_SCHEDULE_H
#define DEEPSEEK_TRAIN_SCHEDULE_H

#include <stdint.h>

enum schedule_kind { SCHEDULE_CONSTANT, SCHEDULE_COSINE, SCHEDULE_MULTI_STEP };

#define SCHEDULE_MAX_MILESTONES 8

struct schedule {
    int kind;
    int64_t steps, warmup_steps;
    double learning_rate;                                                   /* the maximum */
    double min_ratio;                                                       /* cosine */
    double milestones[SCHEDULE_MAX_MILESTONES], factors[SCHEDULE_MAX_MILESTONES];   /* multi_step: shares of `steps`, ascending; factors of the maximum */
    int milestone_count;
};

double schedule_rate(const struct schedule *schedule, int64_t step);

#endif
