/* One optimizer step of a model: micro batches whose gradients add up, clipping, AdamW, the routers' biases; and the
 * loss alone, for evaluation.
 *
 * Loss-free balancing (spec/v1-v3.md section 3.3). After the update, in each layer whose router has a bias b, MTP
 * modules included, with c_i the assignments to expert i in the whole step:
 *
 *   b_i += speed sign(mean_j c_j - c_i),   sign(0) = 0 */
#ifndef DEEPSEEK_TRAIN_TRAINER_H
#define DEEPSEEK_TRAIN_TRAINER_H

#include "model/model.h"
#include "train/fold.h"
#include "train/optimizer.h"
#include "train/schedule.h"

struct trainer {
    struct model *model;            /* the caller's */
    struct optimizer *optimizer;    /* NULL: gradients only */
    struct memory memory;           /* step memory of one micro batch, shared by both graphs */
    struct graph training, evaluation;
    struct fold fold;
    int64_t micro_batch_size, leaf_size, length;
    double micro_batch_flops;       /* of forward and backward, as run */
    /* what is asked for, and the expert loads of the last step. Weights may be changed between steps, up to those it
     * was created with */
    struct objective objective;
    double learning_rate, bias_update_speed; /* may be changed between steps */
    bool mtp;                       /* the MTP modules are trained, and evaluated */
    struct expert_load *evaluation_loads;   /* as objective.loads, of the last evaluation */
    struct parameter **biases;      /* [config_layers]: of each layer's router, NULL where there is none */
};

struct trainer_result {
    double loss;                    /* the weighted total */
    double main, grad_norm;
    double parts[LOSS_PARTS]; /* unweighted; 0 without weight; of LOSS_MTP the mean over the depths */
    int mtp_depths; /* 0: MTP has no weight */
    double mtp_by_depth[CONFIG_MAX_NEXTN];
    double flops;                   /* of matrix products and attention, as run */
    /* Of models with routed experts, over the layers that have them: the largest MaxVio (train/load.h), the tokens'
     * assignments to experts, and how many of them were dropped. */
    double max_violation;
    int64_t assigned, dropped;
};

/* Room for micro batches of up to micro_batch_size sequences of up to `length` tokens; leaf_size: sequences of a leaf
 * (train/fold.h), a multiple of micro_batch_size. `settings` NULL: no optimizer.
 * `objective`: weights, dropping and seed are taken from it; NULL: the main loss alone. Its `loads` are the trainer's
 * own, where the model has routers. */
enum status trainer_create(struct trainer **trainer, struct model *model, const struct optimizer_settings *settings,
                           const struct objective *objective, int64_t micro_batch_size, int64_t leaf_size,
                           int64_t length, struct error *error);
void trainer_destroy(struct trainer *trainer);

/* Gradients of the objective (its main loss is the mean over the targets that are not negative), and the losses:
 * `result` but for the norm. inputs, targets: [sequences, length], any number of leaves. */
enum status trainer_gradients(struct trainer *trainer, const int32_t *inputs, const int32_t *targets, int64_t sequences,
                              int64_t length, struct trainer_result *result, struct error *error);
/* Sets every value that changes over the run to the schedule's for step number `step` (1, 2, ...). */
void trainer_follow(struct trainer *trainer, const struct schedule *schedule, int64_t step);
/* Gradients, then the update. A loss or a norm that is not finite is STATUS_INVALID, and nothing has changed then but
 * the gradients. */
enum status trainer_step(struct trainer *trainer, const int32_t *inputs, const int32_t *targets, int64_t sequences,
                         int64_t length, struct trainer_result *result, struct error *error);
/* Sums of an evaluation and what they are of; of MTP where its modules are trained. */
struct trainer_evaluation {
    struct loss_sums losses;
    int64_t targets, mtp_targets[CONFIG_MAX_NEXTN];
};
/* Adds what the targets that are not negative give, without gradients. At most micro_batch_size sequences. Sums without
 * targets begin an evaluation. */
enum status trainer_evaluate(struct trainer *trainer, const int32_t *inputs, const int32_t *targets, int64_t sequences,
                             int64_t length, struct trainer_evaluation *sums, struct error *error);
/* What E4M3 loses in the products of a pass forward and backward over these sequences (at most micro_batch_size), which
 * changes nothing but the gradients. */
enum status trainer_fp8_report(struct trainer *trainer, const int32_t *inputs, const int32_t *targets,
                               int64_t sequences, int64_t length, struct fp8_report *report, struct error *error);
/* The sum of the main losses alone. */
enum status trainer_loss(struct trainer *trainer, const int32_t *inputs, const int32_t *targets, int64_t sequences,
                         int64_t length, double *loss_sum, struct error *error);

#endif
