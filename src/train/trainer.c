/* One optimizer step: gradient accumulation, clipping, update. */
#include "train/trainer.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "train/fold.h"
#include "train/load.h"

static void repack(void *context, const struct parameter *parameter, int64_t r0, int64_t r1) {
    if (parameter->packed[0] || parameter->packed[1]) parameter_repack(context, parameter, r0, r1);
}

/* What each layer with a router counts: one block, the counts behind the list; NULL where there is none. */
static enum status allocate_loads(struct expert_load **out, const struct config *config, struct error *error) {
    const int64_t layers = config_layers(config);
    int64_t experts = 0;
    for (int64_t i = 0; i < layers; i++) experts += config->layers[i].router.gate.experts;
    if (!experts) return STATUS_OK;
    struct expert_load *loads = calloc(1, (size_t)layers * sizeof *loads + (size_t)experts * sizeof *loads->counts);
    if (!loads) return error_set(error, STATUS_NO_MEMORY, "no memory left for the trainer");
    int64_t *counts = (int64_t *)(void *)(loads + layers);
    for (int64_t i = 0; i < layers; i++) {
        if (!config->layers[i].router.gate.experts) continue;
        loads[i].counts = counts;
        counts += config->layers[i].router.gate.experts;
    }
    *out = loads;
    return STATUS_OK;
}

static void sum_up_loads(const struct trainer *t, struct trainer_result *result) {
    const struct config *config = &t->model->config;
    result->max_violation = 0;
    result->assigned = result->dropped = 0;
    for (int64_t i = 0; t->objective.loads && i < config_layers(config); i++) {
        const struct expert_load *load = &t->objective.loads[i];
        if (!load->counts) continue;
        result->max_violation = fmax(result->max_violation, load_violation(load->counts, config->n_routed_experts));
        result->dropped += load->dropped;
        result->assigned += load_total(load->counts, config->n_routed_experts) + load->dropped;
    }
}

static void clear_loads(struct expert_load *loads, const struct config *config) {
    for (int64_t i = 0; loads && i < config_layers(config); i++) {
        struct expert_load *load = &loads[i];
        load->dropped = 0;
        for (int64_t e = 0; load->counts && e < config->n_routed_experts; e++) load->counts[e] = 0;
    }
}

/* The biases by their layers. */
static enum status find_biases(struct trainer *t, struct error *error) {
    const int64_t layers = config_layers(&t->model->config);
    t->biases = calloc((size_t)layers, sizeof(struct parameter *));
    if (!t->biases) return error_set(error, STATUS_NO_MEMORY, "no memory left for the trainer");
    for (int i = 0; i < t->model->parameter_count; i++)
        if (t->model->parameters[i]->update == UPDATE_LOADS)
            t->biases[t->model->parameters[i]->layer] = t->model->parameters[i];
    return STATUS_OK;
}

/* The mean need not be whole: c_i is compared with it as n c_i with the sum. */
static void move_biases(const struct trainer *t) {
    const struct config *config = &t->model->config;
    const int64_t experts = config->n_routed_experts;
    const float speed = (float)t->bias_update_speed;
    for (int64_t i = 0; speed > 0 && i < config_layers(config); i++) {
        if (!t->biases[i]) continue;
        const int64_t *counts = t->objective.loads[i].counts, total = load_total(counts, experts);
        float *bias = t->biases[i]->value;
        for (int64_t e = 0; e < experts; e++)
            bias[e] += experts * counts[e] < total ? speed : experts * counts[e] > total ? -speed : 0;
    }
}

enum status trainer_create(struct trainer **out, struct model *model, const struct optimizer_settings *settings,
                           const struct objective *objective, int64_t micro_batch_size, int64_t leaf_size,
                           int64_t length, struct error *error) {
    *out = NULL;
    if (objective && objective->separate && objective->document_end < 0)
        return error_set(error, STATUS_UNSUPPORTED,
                         "train.documents: found \"separate\", but the tokenizer has no end-of-document token");
    struct trainer *t = calloc(1, sizeof *t);
    if (!t) return error_set(error, STATUS_NO_MEMORY, "no memory left for the trainer");
    t->model = model;
    t->micro_batch_size = micro_batch_size;
    t->leaf_size = leaf_size;
    t->length = length;
    if (objective) t->objective = *objective;
    t->objective.loads = NULL;
    t->mtp = t->objective.weights[LOSS_MTP] > 0;
    enum status status = allocate_loads(&t->objective.loads, &model->config, error);
    if (status == STATUS_OK) status = allocate_loads(&t->evaluation_loads, &model->config, error);
    if (status == STATUS_OK) status = find_biases(t, error);
    if (status == STATUS_OK)
        status = memory_create(
            &t->memory, model_plan_training(model, micro_batch_size, length, &t->objective, &t->micro_batch_flops),
            error);
    graph_init(&t->training, model->kernels, model->pool, &t->memory, model->compute, true, false);
    t->training.gradient_context = model;
    t->fold.model = model;
    graph_init(&t->evaluation, model->kernels, model->pool, &t->memory, model->compute, false, false);
    if (status == STATUS_OK && settings) {
        t->bias_update_speed = settings->bias_update_speed;
        status = optimizer_create(&t->optimizer, model->parameters, model->parameter_count, model->kernels, model->pool,
                                  settings, error);
    }
    if (status != STATUS_OK) {
        trainer_destroy(t);
        return status;
    }
    if (t->optimizer) t->optimizer->updated = repack, t->optimizer->updated_context = model;
    *out = t;
    return STATUS_OK;
}

void trainer_destroy(struct trainer *trainer) {
    if (!trainer) return;
    optimizer_destroy(trainer->optimizer);
    graph_destroy(&trainer->training);
    graph_destroy(&trainer->evaluation);
    memory_destroy(&trainer->memory);
    fold_free(&trainer->fold);
    free(trainer->biases);
    free(trainer->evaluation_loads);
    free(trainer->objective.loads);
    free(trainer);
}

static void clear_gradients(struct model *model) {
    for (int i = 0; i < model->parameter_count; i++) parameter_gradient_clear(model->parameters[i]);
}

/* Means and the weighted total, from the sums of all micro-batches. */
static void sum_up_losses(const struct config *config, const struct objective *objective, const struct loss_sums *sums,
                          struct trainer_result *result) {
    const int depths = (int)config->num_nextn_predict_layers;
    result->loss = result->main = sums->main / (double)objective->predicted;
    memcpy(result->parts, sums->parts, sizeof result->parts);
    result->mtp_depths = objective->weights[LOSS_MTP] > 0 ? depths : 0;
    for (int d = 0; d < result->mtp_depths; d++) {
        result->mtp_by_depth[d] = objective->predicted_mtp[d] > 0 ? sums->mtp[d] / (double)objective->predicted_mtp[d]
                                                                  : 0;
        result->parts[LOSS_MTP] += result->mtp_by_depth[d] / depths;
    }
    for (int p = 0; p < LOSS_PARTS; p++) result->loss += objective->weights[p] * result->parts[p];
}

/* Sequences begin..end of the step: each micro-batch continues the sums of the one before. */
static enum status add_leaf(struct trainer *trainer, const int32_t *inputs, const int32_t *targets, int64_t begin,
                            int64_t end, int64_t length, struct loss_sums *sums, struct trainer_result *result,
                            struct error *error) {
    struct objective *objective = &trainer->objective;
    struct graph *graph = &trainer->training;
    for (int64_t first = begin, next; first < end; first = next) {
        next = end - first < trainer->micro_batch_size ? end : first + trainer->micro_batch_size;
        objective->first_sequence = first;
        graph->gradient_done = next == end ? fold_parameter : NULL;
        enum status status = model_train_micro_batch(graph, trainer->model, inputs + first * length,
                                                     targets + first * length, next - first, length, objective, NULL,
                                                     error);
        if (status != STATUS_OK) return status;
        loss_sums_add(sums, &objective->sums);
        result->flops += graph->flops;
    }
    return STATUS_OK;
}

enum status trainer_gradients(struct trainer *trainer, const int32_t *inputs, const int32_t *targets, int64_t sequences,
                              int64_t length, struct trainer_result *result, struct error *error) {
    struct objective *objective = &trainer->objective;
    objective_count(objective, inputs, targets, sequences, length);
    if (objective->predicted == 0)
        return error_set(error, STATUS_INVALID, "no position has a target, expected at least one");
    enum status status = STATUS_OK;
    if (sequences > trainer->leaf_size)
        status = fold_allocate(&trainer->fold, trainer->leaf_size > trainer->micro_batch_size, error);
    clear_gradients(trainer->model);
    objective->sequences = sequences;
    objective->step = trainer->optimizer ? (uint64_t)trainer->optimizer->step : 0;
    struct loss_sums sums = {0};
    result->flops = 0;
    clear_loads(objective->loads, &trainer->model->config);
    for (int64_t first = 0, next; first < sequences && status == STATUS_OK; first = next) {
        next = sequences - first < trainer->leaf_size ? sequences : first + trainer->leaf_size;
        status = add_leaf(trainer, inputs, targets, first, next, length, &sums, result, error);
    }
    if (status != STATUS_OK) return status;
    sum_up_losses(&trainer->model->config, objective, &sums, result);
    sum_up_loads(trainer, result);
    return STATUS_OK;
}

/* What changes over the steps: its value at a step, and where the trainer has it. */
static const struct {
    double (*at)(const struct schedule *schedule, int64_t step);
    size_t field;
} scheduled[] = {
    {schedule_rate, offsetof(struct trainer, learning_rate)},
    {schedule_mtp, offsetof(struct trainer, objective.weights[LOSS_MTP])},
    {schedule_bias_speed, offsetof(struct trainer, bias_update_speed)},
};

void trainer_follow(struct trainer *trainer, const struct schedule *schedule, int64_t step) {
    for (size_t i = 0; i < sizeof scheduled / sizeof *scheduled; i++)
        *(double *)(void *)((char *)trainer + scheduled[i].field) = scheduled[i].at(schedule, step);
}

enum status trainer_step(struct trainer *trainer, const int32_t *inputs, const int32_t *targets, int64_t sequences,
                         int64_t length, struct trainer_result *result, struct error *error) {
    enum status status = trainer_gradients(trainer, inputs, targets, sequences, length, result, error);
    if (status != STATUS_OK) return status;
    if (!isfinite(result->loss))
        return error_set(error, STATUS_INVALID, "the loss is %s", isnan(result->loss) ? "not a number" : "infinite");
    result->grad_norm = optimizer_grad_norm(trainer->optimizer);
    if (!isfinite(result->grad_norm))
        return error_set(error, STATUS_INVALID, "the norm of the gradients is %s",
                         isnan(result->grad_norm) ? "not a number" : "infinite");
    optimizer_step(trainer->optimizer, trainer->learning_rate, result->grad_norm);
    move_biases(trainer);
    return STATUS_OK;
}

/* What a pass over so many sequences beside the step is asked for: its main losses. */
static struct objective objective_beside(const struct trainer *trainer, int64_t sequences) {
    return (struct objective){.sequences = sequences,
                              .separate = trainer->objective.separate,
                              .document_end = trainer->objective.document_end};
}

enum status trainer_evaluate(struct trainer *trainer, const int32_t *inputs, const int32_t *targets, int64_t sequences,
                             int64_t length, struct trainer_evaluation *sums, struct error *error) {
    const int depths = (int)trainer->model->config.num_nextn_predict_layers;
    struct objective objective = objective_beside(trainer, sequences);
    /* A sequence that has no position for every depth, as a short last one, says nothing about them. */
    objective.compare_mtp = trainer->mtp && length > depths;
    objective.loads = trainer->evaluation_loads;
    if (sums->targets == 0) clear_loads(trainer->evaluation_loads, &trainer->model->config);
    objective_count(&objective, inputs, targets, sequences, length);
    sums->targets += objective.predicted;
    if (objective.predicted == 0) return STATUS_OK; /* all of it ends documents */
    enum status status = model_train_micro_batch(&trainer->evaluation, trainer->model, inputs, targets, sequences,
                                                 length, &objective, NULL, error);
    if (status != STATUS_OK) return status;
    loss_sums_add(&sums->losses, &objective.sums);
    for (int d = 0; objective.compare_mtp && d < depths; d++) sums->mtp_targets[d] += objective.predicted_mtp[d];
    return STATUS_OK;
}

enum status trainer_fp8_report(struct trainer *trainer, const int32_t *inputs, const int32_t *targets,
                               int64_t sequences, int64_t length, struct fp8_report *report, struct error *error) {
    struct objective objective = objective_beside(trainer, sequences);
    memcpy(objective.weights, trainer->objective.weights, sizeof objective.weights);
    objective_count(&objective, inputs, targets, sequences, length);
    clear_gradients(trainer->model);
    *report = (struct fp8_report){0};
    trainer->training.fp8 = report;
    trainer->training.gradient_done = NULL;
    enum status status = model_train_micro_batch(&trainer->training, trainer->model, inputs, targets, sequences, length,
                                                 &objective, NULL, error);
    trainer->training.fp8 = NULL;
    return status;
}

enum status trainer_loss(struct trainer *trainer, const int32_t *inputs, const int32_t *targets, int64_t sequences,
                         int64_t length, double *loss_sum, struct error *error) {
    struct objective objective = objective_beside(trainer, sequences);
    objective.predicted = sequences * length;
    enum status status = model_train_micro_batch(&trainer->evaluation, trainer->model, inputs, targets, sequences,
                                                 length, &objective, NULL, error);
    *loss_sum = objective.sums.main;
    return status;
}
