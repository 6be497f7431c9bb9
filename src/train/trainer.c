/* One optimizer step: gradient accumulation, clipping, update. */
#include "train/trainer.h"

#include <math.h>
#include <stdlib.h>

#include "train/load.h"

static void repack(void *context, const struct parameter *parameter, int64_t r0, int64_t r1) {
    if (parameter->packed[0] || parameter->packed[1]) parameter_repack(context, parameter, r0, r1);
}

/* What each layer with a router counts: one block, the counts behind the list. */
static enum status allocate_loads(struct trainer *t, struct error *error) {
    const struct config *config = &t->model->config;
    int64_t routers = 0;
    for (int64_t i = 0; i < config->num_hidden_layers; i++) routers += config->layers[i].ffn == FFN_MOE;
    if (!routers) return STATUS_OK;
    struct expert_load *loads = calloc(1, (size_t)config->num_hidden_layers * sizeof *loads + (size_t)(routers * config->n_routed_experts) * sizeof *loads->counts);
    if (!loads) return error_set(error, STATUS_NO_MEMORY, "no memory left for the trainer");
    int64_t *counts = (int64_t *)(void *)(loads + config->num_hidden_layers);
    for (int64_t i = 0; i < config->num_hidden_layers; i++) {
        if (config->layers[i].ffn != FFN_MOE) continue;
        loads[i].counts = counts;
        counts += config->n_routed_experts;
    }
    t->objective.loads = loads;
    return STATUS_OK;
}

static void sum_up_loads(const struct trainer *t, struct trainer_result *result) {
    const struct config *config = &t->model->config;
    result->max_violation = 0;
    result->assigned = result->dropped = 0;
    for (int64_t i = 0; t->objective.loads && i < config->num_hidden_layers; i++) {
        const struct expert_load *load = &t->objective.loads[i];
        if (!load->counts) continue;
        result->max_violation = fmax(result->max_violation, load_violation(load->counts, config->n_routed_experts));
        result->dropped += load->dropped;
        result->assigned += load_total(load->counts, config->n_routed_experts) + load->dropped;
    }
}

static void clear_loads(struct trainer *t) {
    const struct config *config = &t->model->config;
    for (int64_t i = 0; t->objective.loads && i < config->num_hidden_layers; i++) {
        struct expert_load *load = &t->objective.loads[i];
        load->dropped = 0;
        for (int64_t e = 0; load->counts && e < config->n_routed_experts; e++) load->counts[e] = 0;
    }
}

enum status trainer_create(struct trainer **out, struct model *model, const struct optimizer_settings *settings, const struct objective *objective, int64_t micro_batch_size, int64_t length, struct error *error) {
    *out = NULL;
    struct trainer *t = calloc(1, sizeof *t);
    if (!t) return error_set(error, STATUS_NO_MEMORY, "no memory left for the trainer");
    t->model = model;
    t->micro_batch_size = micro_batch_size;
    t->length = length;
    if (objective) t->objective = *objective;
    t->objective.loads = NULL;
    enum status status = allocate_loads(t, error);
    if (status == STATUS_OK) status = memory_create(&t->memory, model_plan_training(model, micro_batch_size, length, &t->objective, &t->micro_batch_flops), error);
    if (status != STATUS_OK) {
        free(t->objective.loads);
        free(t);
        return status;
    }
    graph_init(&t->training, model->kernels, model->pool, &t->memory, model->compute, true, false);
    graph_init(&t->evaluation, model->kernels, model->pool, &t->memory, model->compute, false, false);
    if (settings) {
        status = optimizer_create(&t->optimizer, model->parameters, model->parameter_count, model->kernels, model->pool, settings, error);
        if (status != STATUS_OK) {
            trainer_destroy(t);
            return status;
        }
        t->optimizer->updated = repack;
        t->optimizer->updated_context = model;
    }
    *out = t;
    return STATUS_OK;
}

void trainer_destroy(struct trainer *trainer) {
    if (!trainer) return;
    optimizer_destroy(trainer->optimizer);
    graph_destroy(&trainer->training);
    graph_destroy(&trainer->evaluation);
    memory_destroy(&trainer->memory);
    free(trainer->objective.loads);
    free(trainer);
}

enum status trainer_gradients(struct trainer *trainer, const int32_t *inputs, const int32_t *targets, int64_t sequences, int64_t length, struct trainer_result *result, struct error *error) {
    int64_t predicted = 0;
    for (int64_t i = 0; i < sequences * length; i++) predicted += targets[i] >= 0;
    if (predicted == 0) return error_set(error, STATUS_INVALID, "no position has a target, expected at least one");
    for (int i = 0; i < trainer->model->parameter_count; i++) trainer->model->parameters[i]->grad_written = false;
    struct objective *objective = &trainer->objective;
    objective->predicted = predicted;
    objective->sequences = sequences;
    objective->step = trainer->optimizer ? (uint64_t)trainer->optimizer->step : 0;
    objective->first_sequence = 0;
    objective->main_sum = objective->balance_expert = objective->balance_device = objective->balance_communication = 0;
    clear_loads(trainer);
    for (int64_t first = 0; first < sequences; first += trainer->micro_batch_size) {
        int64_t count = sequences - first < trainer->micro_batch_size ? sequences - first : trainer->micro_batch_size;
        enum status status = model_train_micro_batch(&trainer->training, trainer->model, inputs + first * length, targets + first * length, count, length, objective, NULL, error);
        if (status != STATUS_OK) return status;
    }
    result->main = objective->main_sum / (double)predicted;
    result->loss = result->main + objective->weights.balance_expert * objective->balance_expert + objective->weights.balance_device * objective->balance_device +
                   objective->weights.balance_communication * objective->balance_communication;
    sum_up_loads(trainer, result);
    return STATUS_OK;
}

enum status trainer_step(struct trainer *trainer, const int32_t *inputs, const int32_t *targets, int64_t sequences, int64_t length, double learning_rate,
                         struct trainer_result *result, struct error *error) {
    enum status status = trainer_gradients(trainer, inputs, targets, sequences, length, result, error);
    if (status != STATUS_OK) return status;
    if (!isfinite(result->loss)) return error_set(error, STATUS_INVALID, "the loss is %s", isnan(result->loss) ? "not a number" : "infinite");
    result->grad_norm = optimizer_grad_norm(trainer->optimizer);
    if (!isfinite(result->grad_norm)) return error_set(error, STATUS_INVALID, "the norm of the gradients is %s", isnan(result->grad_norm) ? "not a number" : "infinite");
    optimizer_step(trainer->optimizer, learning_rate, result->grad_norm);
    return STATUS_OK;
}

enum status trainer_loss(struct trainer *trainer, const int32_t *inputs, const int32_t *targets, int64_t sequences, int64_t length, double *loss_sum, struct error *error) {
    struct objective objective = {.predicted = sequences * length, .sequences = sequences};
    enum status status = model_train_micro_batch(&trainer->evaluation, trainer->model, inputs, targets, sequences, length, &objective, NULL, error);
    *loss_sum = objective.main_sum;
    return status;
}
