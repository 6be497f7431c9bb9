/* What a run tells of a step and of an evaluation. A figure is a field here and a row of a table in metrics.c, which
 * says its key in metrics.jsonl and how it is printed; the progress line reads the same fields. */
#ifndef DEEPSEEK_TRAIN_METRICS_H
#define DEEPSEEK_TRAIN_METRICS_H

#include <stdio.h>

#include "train/trainer.h"

struct training_step {
    int64_t step, steps, tokens; /* tokens: of this step */
    int64_t seen; /* tokens up to here, this step's included */
    struct trainer_result result;
    double learning_rate;
    double seconds; /* of this step */
};

/* Shares of the numbers that E4M3 loses: of activations, weights, gradients of activations. */
struct fp8_shares {
    double x, w, dy;
};

struct training_evaluation {
    int64_t step;
    double loss; /* mean over the targets */
    int64_t targets;
    int mtp_depths; /* 0: there are no MTP modules, or they are not trained */
    /* means; share of the positions at which a module's guess is the model's own */
    double mtp_loss[CONFIG_MAX_NEXTN], mtp_acceptance[CONFIG_MAX_NEXTN];
    /* of the load of experts over all of it, of the layer where it is largest; NAN without routers */
    double max_violation;
    struct fp8_shares fp8_underflow, fp8_overflow; /* NAN: not measured */
};

/* The line but for its last brace. `trainer` has the loads of experts, and says what parts the loss has. */
void metrics_put_step(FILE *log, const struct trainer *trainer, const struct training_step *step);
void metrics_put_evaluation(FILE *log, const struct trainer *trainer, const struct training_evaluation *evaluation);

#endif
