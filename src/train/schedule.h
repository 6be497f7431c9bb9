/* Learning rate, batch size and what else changes over the steps (spec/v1-v3.md section 5.1 for multi_step, 5.3 for the
 * batch ramp, 5.5 for shapes, MTP and biases). Steps count from 1: step s is the s-th update.
 *
 *   warm-up     lr = max s / warmup_steps             for s <= warmup_steps, all schedules; a run of fewer steps ends
 *                                                     within it
 *   constant    lr = max
 *   cosine      lr = max (min_ratio + (1 - min_ratio) (1 + cos(pi (s - w) / (steps - w))) / 2),   w = warmup_steps;
 *               min_ratio max at the last step
 *   multi_step  lr = max f for the last i with s > m_i, m_i = milestones[i] steps; max before the first. With
 *               x = (s - m_i) / (m_(i+1) - m_i), the piece ending with the run where i is the last, and f_(-1) = 1,
 *               the shape of the piece decides f:
 *                   constant  f_i
 *                   linear    f_i + (f_(i-1) - f_i) (1 - x)
 *                   cosine    f_i + (f_(i-1) - f_i) (1 + cos(pi x)) / 2
 *
 *   batch       b(n) = start + (full - start) min(1, n / ramp_tokens), rounded down to a multiple of `grain`;
 *               n = tokens of the steps before
 *   length      lengths[i] of the first i with n < length_tokens[i]; `length`, the longest, after the last
 *
 *   MTP         its weight is `mtp` up to mtp_milestone steps, mtp_late after it; where `mtp` is 0 it stays 0
 *   biases      of the routers move by bias_update_speed up to bias_milestone steps, and not any more after it
 *
 * Batch and length depend on the position in tokens alone and not on `steps`, so that a run that is made longer goes on
 * as it began. Without a ramp b = full.
 *   V1: multi_step, warm-up 2000 steps, milestones 0.8 and 0.9, factors 0.316 and 0.1.
 *   V2: milestones 0.6 and 0.9, and a batch of 2304 that grows to 9216 sequences over the first 225e9 of 8.1e12 tokens.
 *   V3: milestones 10, 14.3 and 14.633 of 14.8, factors 0.1, 0.1 and 7.3/220, shapes cosine, constant, constant; MTP
 *       0.3, then 0.1 from 10 of 14.8 on; biases 0.001 up to 14.3 of 14.8. */
#ifndef DEEPSEEK_TRAIN_SCHEDULE_H
#define DEEPSEEK_TRAIN_SCHEDULE_H

#include <stdint.h>

enum schedule_kind { SCHEDULE_CONSTANT, SCHEDULE_COSINE, SCHEDULE_MULTI_STEP };

enum schedule_shape { SCHEDULE_SHAPE_CONSTANT, SCHEDULE_SHAPE_LINEAR, SCHEDULE_SHAPE_COSINE };

#define SCHEDULE_MAX_MILESTONES 8

struct schedule {
    int kind;
    int64_t steps, warmup_steps;
    double learning_rate;                                                   /* the maximum */
    double min_ratio;                                                       /* cosine */
    /* multi_step: shares of `steps`, ascending; factors of the maximum */
    double milestones[SCHEDULE_MAX_MILESTONES], factors[SCHEDULE_MAX_MILESTONES];
    int shapes[SCHEDULE_MAX_MILESTONES];
    int milestone_count;
    /* batch_start 0: no ramp; else start and batch_size are multiples of grain */
    int64_t batch_size, batch_start, grain, ramp_tokens;
    int64_t length, lengths[SCHEDULE_MAX_MILESTONES], length_tokens[SCHEDULE_MAX_MILESTONES];
    int length_count;
    double mtp, mtp_late, mtp_milestone, bias_update_speed, bias_milestone;   /* milestones: shares of `steps` */
};

double schedule_rate(const struct schedule *schedule, int64_t step);
double schedule_mtp(const struct schedule *schedule, int64_t step);
double schedule_bias_speed(const struct schedule *schedule, int64_t step);
/* Sequences of the step that begins after so many tokens of the run, and tokens of each of them. */
int64_t schedule_batch(const struct schedule *schedule, int64_t tokens);
int64_t schedule_length(const struct schedule *schedule, int64_t tokens);
/* Tokens of the first `steps` steps together: the position of the run after them. */
int64_t schedule_tokens(const struct schedule *schedule, int64_t steps);

#endif
