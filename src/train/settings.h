/* The `train` key of a training config: every key with its default, range and meaning in one table, which also prints
 * the help. An unknown key is an error that names it and the keys that exist. */
#ifndef DEEPSEEK_TRAIN_SETTINGS_H
#define DEEPSEEK_TRAIN_SETTINGS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/number.h"
#include "io/json.h"
#include "model/model.h"
#include "train/optimizer.h"
#include "train/schedule.h"

struct settings_numbers { double values[SCHEDULE_MAX_MILESTONES]; int count; };
struct settings_words { int values[SCHEDULE_MAX_MILESTONES]; int count; };

#define SETTINGS_TEXT 1024
#define SETTINGS_VOCABULARY_LEAST 259            /* 256 bytes, bos, eos, pad */
#define SETTINGS_VOCABULARY_MOST 1048576

struct settings {
    int64_t steps, sequence_length, batch_size;
    int64_t micro_batch_size, leaf_size;         /* a divisor of batch_size; a multiple of the other */
    int64_t seed;
    int compute_choice;                          /* 0 fp32, 1 bf16, 2 fp8; see settings_compute */
    int recompute;                               /* 0 none, 1 cheap, 2 blocks */
    char tokenizer[SETTINGS_TEXT];               /* "bytes", "characters", a path, or the digits of a vocabulary size */
    char text_key[SETTINGS_TEXT];
    int bad_lines_choice;                        /* 0 error, 1 skip */
    bool special_tokens;
    int documents; /* 0 joined, 1 separate */

    struct {
        int name;
        double learning_rate, weight_decay, beta1, beta2, eps;
        bool decay_vectors;
        int moments; /* 0 float32, 1 bfloat16 */
    } optimizer;
    struct {
        int name;
        int64_t warmup_steps;
        double min_ratio;
        struct settings_numbers milestones, factors;
        struct settings_words shapes;
        int64_t batch_start, batch_ramp_tokens;
        struct settings_numbers lengths, length_tokens; /* whole numbers */
        double mtp_milestone, mtp_late, bias_milestone;
    } schedule;
    double loss[LOSS_PARTS];
    double bias_update_speed;                    /* of the routers' biases */
    double capacity_factor, undropped;           /* of token dropping; 0: nothing is dropped */
    double clip_grad_norm;                       /* 0: no clipping */

    int64_t eval_every, eval_batches;            /* 0: never; 0: the whole split */
    double eval_fraction;
    int64_t sample_every, sample_tokens;
    double sample_temperature;
    char sample_prompt[SETTINGS_TEXT];

    int64_t save_every, keep;
    int dtype_choice;                            /* of the exported model: 0 float32, 1 bfloat16; see settings_dtype */
};

/* Defaults, then what the key `train` of a training config says (without one: nothing). `origin` begins the messages.
 * Keys whose default depends on the model (loss.mtp, loss.balance_sequence, bias_update_speed) that it does not give
 * are NAN until settings_settle_model. */
enum status settings_parse(struct settings *settings, const json_t *config, const char *origin, struct error *error);
/* The settings of the doors `grads` and `steps`: {"loss":{}, "optimizer":{..., "clip_grad_norm":},
 * "bias_update_speed":, "micro_batch_size":, "leaf_size":}. NULL: all defaults; the micro-batch then is all there is.
 */
#define SETTINGS_ALL (1 << 22)   /* sequences */
enum status settings_parse_door(struct settings *settings, const json_t *root, const char *origin, struct error *error);

/* Gives the keys whose default depends on the model their values: V3's where the model has the part, else 0. */
void settings_settle_model(struct settings *settings, const struct config *config);

static inline enum compute settings_compute(const struct settings *s) {
    return (enum compute)s->compute_choice;
}
static inline enum dtype settings_dtype(const struct settings *s) {
    return s->dtype_choice == 1 ? DTYPE_BF16 : DTYPE_F32;
}
struct schedule settings_schedule(const struct settings *settings);
struct optimizer_settings settings_optimizer(const struct settings *settings);
/* What a trainer is asked for: weights, of those that change over the run the largest, dropping, seed. */
struct objective settings_objective(const struct settings *settings);
/* Asks for nothing that the model does not have: a weight for a part of the loss that it lacks, a capacity of experts
 * or a speed of biases that are not there, is an error that names the key and the model. */
enum status settings_check_model(const struct settings *settings, const struct config *config, const char *origin,
                                 const char *prefix, struct error *error);

/* The model of a training config, without memory yet: what depends on the model is settled and checked. `from`: NULL,
 * or the folder whose weights it will begin with; then it passes from_check, to which `changed` goes. */
enum status settings_make_model(struct model **model, struct settings *settings, const json_t *root, const char *origin,
                                const char *from, char *changed, const struct kernels *kernels, struct pool *pool,
                                struct error *error);

/* All keys with the values in force. New reference. */
json_t *settings_to_json(const struct settings *settings);

/* Compares the configs (model keys and `train`) of a run and of its resumption. Keys that may change are skipped: those
 * that do not enter the results (save_every, keep, sample_*, dtype), and steps, so that a run can be made longer.
 * False: `error` names the first key that differs and both values. */
enum status settings_same_run(const json_t *saved, const json_t *now, const char *origin, struct error *error);

/* `--set a.b=value`: changes a config in memory. The value is JSON, or, where it does not parse, a string. Objects on
 * the way are made. */
enum status settings_set(json_t *root, const char *assignment, struct error *error);

/* One line per key for `train --help`. */
#define SETTINGS_RANGE 160
struct settings_help { const char *key, *fallback, *range, *help; };
int settings_help_count(void);
struct settings_help settings_help_at(int index, char range[SETTINGS_RANGE]);

#endif
