/* The parts of the loss. */
#include "model/objective.h"

#include <string.h>

static const char *lacks_experts(const struct config *config) {
    return config_router(config) ? NULL : ": it has no routed experts";
}

/* With one device the losses over devices and over communication are the number 1 in every layer, whatever the router
 * does. */
static const char *lacks_devices(const struct config *config) {
    const char *reason = lacks_experts(config);
    return reason || config->n_group > 1 ? reason
                                         : ": its experts are one group (n_group 1), for which it is a constant";
}

static const char *lacks_sequence(const struct config *config) {
    const char *reason = lacks_experts(config);
    return reason || config_router(config)->gate.scoring == SCORING_SIGMOID ? reason
                                                             : ": scores that are a softmax have loss.balance_expert";
}

static const char *lacks_modules(const struct config *config) {
    return config->num_nextn_predict_layers > 0 ? NULL : ": it has no such modules (num_nextn_predict_layers 0)";
}

static const char *lacks_indexer(const struct config *config) {
    (void)config;
    return "";
}

const struct loss_kind loss_kinds[LOSS_PARTS] = {
    [LOSS_BALANCE_EXPERT] = {"balance_expert", lacks_experts},
    [LOSS_BALANCE_DEVICE] = {"balance_device", lacks_devices},
    [LOSS_BALANCE_COMMUNICATION] = {"balance_communication", lacks_devices},
    [LOSS_BALANCE_SEQUENCE] = {"balance_sequence", lacks_sequence},
    [LOSS_MTP] = {"mtp", lacks_modules},
    [LOSS_INDEXER] = {"indexer", lacks_indexer},
};

void objective_count(struct objective *o, const int32_t *inputs, const int32_t *targets, int64_t sequences,
                     int64_t length) {
    o->predicted = 0;
    memset(o->predicted_mtp, 0, sizeof o->predicted_mtp);
    for (int64_t s = 0; s < sequences; s++, inputs += length, targets += length)
        for (int64_t i = 0, begin = 0; i < length; i++) { /* begin: of the document */
            o->predicted += targets[i] >= 0;
            for (int d = 1; d <= CONFIG_MAX_NEXTN && d <= i - begin; d++) o->predicted_mtp[d - 1] += targets[i] >= 0;
            if (o->separate && inputs[i] == o->document_end) begin = i + 1;
        }
}

void loss_sums_add(struct loss_sums *sums, const struct loss_sums *more) {
    sums->main += more->main;
    for (int p = 0; p < LOSS_PARTS; p++) sums->parts[p] += more->parts[p];
    for (int d = 0; d < CONFIG_MAX_NEXTN; d++) {
        sums->mtp[d] += more->mtp[d];
        sums->mtp_compared[d] += more->mtp_compared[d];
        sums->mtp_agreed[d] += more->mtp_agreed[d];
    }
}
