/* The training loop: from a config and a text to a model folder, with evaluation, samples, checkpoints and resumption.
 *
 *     struct training *training;
 *     training_open(&training, &options, &callbacks, &error)    config, tokenizer, data, model, when resuming
 *                                                               the last checkpoint
 *     training_run(training, &error)                            until `steps`, or until callbacks.stop:
 *                                                               STATUS_INTERRUPTED, saved
 *     training_close(training)
 *
 * It prints nothing: what happens is told through callbacks. */
#ifndef DEEPSEEK_TRAIN_LOOP_H
#define DEEPSEEK_TRAIN_LOOP_H

#include "train/checkpoint.h"
#include "train/data.h"
#include "train/from.h"
#include "train/metrics.h"
#include "train/run.h"
#include "train/settings.h"

struct training_options {
    /* the training config, --set applied; completed in place (vocab_size, token ids); stays the caller's */
    json_t *config;
    const char *origin;       /* its name in messages */
    const char *data;         /* a text file, a .jsonl file or a folder */
    const char *cache;        /* folder of the token cache; NULL: the tokens go into the run's folder */
    const char *run;          /* the run's folder */
    bool resume;
    const char *from;         /* a model folder to start from, or NULL; what the config leaves to it: train/from.h */
    const struct kernels *kernels;
    struct pool *pool;
};

struct training_callbacks {          /* any may be NULL */
    void *context;
    bool (*stop)(void *context);     /* asked after every step and between the batches of an evaluation */
    void (*warn)(void *context, const char *message);
    /* while the data is read, in training_open; false ends it with STATUS_INTERRUPTED */
    bool (*reading)(void *context, enum data_work work, uint64_t done, uint64_t total);
    void (*step)(void *context, const struct training_step *step);
    void (*evaluated)(void *context, const struct training_evaluation *evaluation, bool whole);
    /* A sample of text from the model as it is, malloc'ed UTF-8 of *size bytes; *text NULL: none. */
    enum status (*sample)(void *context, struct model *model, int64_t step, char **text, size_t *size,
                          struct error *error);
    void (*saved)(void *context, int64_t step, const char *path);
};

struct training {
    struct training_options options;
    struct training_callbacks callbacks;
    struct settings settings;
    struct schedule schedule;
    struct tokenizer *tokenizer;
    struct data data;
    struct run run;
    struct model *model;
    struct trainer *trainer;
    struct checkpoint_state state;   /* of the run now */
    int64_t first_step;              /* updates made before this process; 0 for a fresh run */
    int64_t saved_step;              /* of the last checkpoint, -1: none */
    double last_eval;                /* mean loss of the last evaluation, NAN before one */
    bool told_fp8;                   /* a warning about what FP8 loses has been given */
    int32_t *inputs, *targets;       /* [batch_size, sequence_length] */
    char changed[FROM_CHANGED];      /* keys of the model that `from` has otherwise */
};

enum status training_open(struct training **training, const struct training_options *options,
                          const struct training_callbacks *callbacks, struct error *error);
enum status training_run(struct training *training, struct error *error);
void training_close(struct training *training);

/* Means over the held-out data in windows that do not overlap, every target once; `batches` > 0: over so many batches
 * of windows spread evenly. */
enum status training_evaluate(struct training *training, int64_t batches, struct training_evaluation *evaluation,
                              struct error *error);

#endif
