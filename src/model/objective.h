/* What a training step is asked to minimise, and what a micro-batch reports of it.
 *
 *   loss = main + sum over the parts p of weights[p] x p          (spec/v1-v3.md section 3.1)
 *
 * A part is a row of a table: its name is that of its weight under `loss` in the settings, and of its figure in the
 * door `grads` (loss.NAME) and in metrics.jsonl (loss_NAME). The block that has it adds to its sum and its gradient. */
#ifndef DEEPSEEK_MODEL_OBJECTIVE_H
#define DEEPSEEK_MODEL_OBJECTIVE_H

#include "model/config.h"

/* In the order in which they are added; those of struct moe_balance first, as there. */
enum loss_part {
    LOSS_BALANCE_EXPERT,
    LOSS_BALANCE_DEVICE,
    LOSS_BALANCE_COMMUNICATION,
    LOSS_BALANCE_SEQUENCE,
    LOSS_MTP,
    LOSS_INDEXER,
    LOSS_PARTS
};

extern const struct loss_kind {
    const char *name;
    /* Why a model has no such part, to follow "a model of type X has no such loss"; NULL: it has it. */
    const char *(*lacking)(const struct config *config);
} loss_kinds[LOSS_PARTS];

/* What one micro-batch reports, from zero; the trainer adds these up in the order of the micro-batches. A part without
 * weight is not computed and stays 0. */
struct loss_sums {
    double main; /* of the losses of all targets */
    double mtp[CONFIG_MAX_NEXTN]; /* the same of each MTP depth */
    double parts[LOSS_PARTS]; /* unweighted shares of the step's; LOSS_MTP's is 0 here, it follows from `mtp` */
    /* Where the graph does not record and `compare_mtp` is set: positions at which both a module's guess and the
     * model's own (their largest logits) are of the same token, and how often they agree. */
    int64_t mtp_compared[CONFIG_MAX_NEXTN], mtp_agreed[CONFIG_MAX_NEXTN];
};

struct objective {
    double weights[LOSS_PARTS]; /* 0 leaves a part out */
    int64_t predicted; /* targets of the whole step: the main loss is their mean */
    /* the same of each MTP depth: positions whose token `depth` places on is of the same document (or sequence) and has
     * a target. The MTP loss is the mean over the depths of their means */
    int64_t predicted_mtp[CONFIG_MAX_NEXTN];
    /* of the whole step: balance losses are means over them, summed over the layers with a router, those of MTP modules
     * with a weight included. A document counts as its share of the tokens, so that separate documents change no scale:
     * its weight is its tokens over those of the micro-batch, times sequences of the micro-batch over these */
    int64_t sequences;
    int64_t first_sequence; /* number of the micro-batch's first sequence in the step */
    /* Token dropping (section 3.2): a micro-batch's assignments beyond capacity_factor times the mean of a device,
     * lowest affinity first; 0: none. `undropped` of the sequences are spared: which ones is a function of (seed, step,
     * number of the sequence in the step). */
    double capacity_factor, undropped;
    uint64_t seed, step;
    bool compare_mtp;
    /* The documents of a sequence are spans of their own, each with the token that ends it: positions begin again,
     * attention and MTP do not look across. The caller masks the targets of ends. False: a sequence is one span. */
    bool separate;
    int32_t document_end;
    struct loss_sums sums; /* of the last micro-batch */
    /* NULL, or [config_layers]: of each layer with a router, how many assignments each expert got (dropped ones not
     * counted), and how many were dropped, added to what is there. A pass that does not record reports them, too, and
     * then asks for no balance loss and no dropping. */
    struct expert_load {
        int64_t *counts; /* [n_routed_experts]; NULL in other layers */
        int64_t dropped;
    } * loads;
};

/* Counts `predicted` and `predicted_mtp`. inputs, targets: [sequences, length] */
void objective_count(struct objective *objective, const int32_t *inputs, const int32_t *targets, int64_t sequences,
                     int64_t length);

/* sums += those of a further micro-batch */
void loss_sums_add(struct loss_sums *sums, const struct loss_sums *more);

#endif
