/* The lines of metrics.jsonl: one table for each kind. */
#include "train/metrics.h"

#include <math.h>
#include <stddef.h>

#include "train/load.h"

struct metric {
    const char *key;
    /* BY_DEPTH: a list of one number per MTP module. BY_LAYER: one per layer with a router, modules last. PARTS: one
     * figure for each part of the loss that has a weight, the key in front of its name. SHARES that are NAN and lists
     * without numbers are left out. */
    enum { COUNT, NUMBER, BY_DEPTH, BY_LAYER, PARTS, SHARES } kind;
    size_t field;
    size_t depths; /* BY_DEPTH: the field of their number */
    bool (*when)(const struct trainer *trainer);
    double (*of_load)(const int64_t *counts, int64_t experts); /* BY_LAYER: of the assignments to each expert */
    double (*of_bias)(const float *bias, int64_t experts); /* or of the routers' biases */
};

static double bias_least(const float *bias, int64_t experts) {
    double least = (double)bias[0];
    for (int64_t i = 1; i < experts; i++) least = fmin(least, (double)bias[i]);
    return least;
}

static double bias_mean(const float *bias, int64_t experts) {
    double sum = 0;
    for (int64_t i = 0; i < experts; i++) sum += (double)bias[i];
    return sum / (double)experts;
}

static double bias_most(const float *bias, int64_t experts) {
    double most = (double)bias[0];
    for (int64_t i = 1; i < experts; i++) most = fmax(most, (double)bias[i]);
    return most;
}

static bool has_parts(const struct trainer *trainer) { return trainer->objective.loads || trainer->mtp; }
static bool drops(const struct trainer *trainer) {
    return trainer->objective.loads && trainer->objective.capacity_factor > 0;
}

#define STEP(name) .field = offsetof(struct training_step, name)
#define EVALUATION(name) .field = offsetof(struct training_evaluation, name)

static const struct metric step_metrics[] = {
    {"step", COUNT, STEP(step)},
    {"loss", NUMBER, STEP(result.loss)},
    {"learning_rate", NUMBER, STEP(learning_rate)},
    {"grad_norm", NUMBER, STEP(result.grad_norm)},
    {"tokens", COUNT, STEP(seen)},
    {"loss_main", NUMBER, STEP(result.main), .when = has_parts},
    {"loss_mtp", BY_DEPTH, STEP(result.mtp_by_depth), .depths = offsetof(struct training_step, result.mtp_depths)},
    {"loss_", PARTS, STEP(result.parts)},
    {"max_violation", BY_LAYER, .of_load = load_violation},
    {"load_entropy", BY_LAYER, .of_load = load_entropy},
    {"bias_min", BY_LAYER, .of_bias = bias_least},
    {"bias_mean", BY_LAYER, .of_bias = bias_mean},
    {"bias_max", BY_LAYER, .of_bias = bias_most},
    {"dropped", COUNT, STEP(result.dropped), .when = drops},
};

static const struct metric evaluation_metrics[] = {
    {"step", COUNT, EVALUATION(step)},
    {"eval_loss", NUMBER, EVALUATION(loss)},
    {"eval_targets", COUNT, EVALUATION(targets)},
    {"eval_max_violation", BY_LAYER, .of_load = load_violation},
    {"eval_loss_mtp", BY_DEPTH, EVALUATION(mtp_loss), .depths = offsetof(struct training_evaluation, mtp_depths)},
    {"mtp_acceptance", BY_DEPTH, EVALUATION(mtp_acceptance),
     .depths = offsetof(struct training_evaluation, mtp_depths)},
    {"fp8_underflow", SHARES, EVALUATION(fp8_underflow)},
    {"fp8_overflow", SHARES, EVALUATION(fp8_overflow)},
};

struct line {
    FILE *log;
    const struct trainer *trainer;
    const struct expert_load *loads;
    const char *told; /* what the rows' fields are in */
    const char *before; /* the next key */
};

static void put_key(struct line *line, const char *key, const char *name) {
    fprintf(line->log, "%s\"%s%s\": ", line->before, key, name);
    line->before = ", ";
}

static void put_layers(struct line *line, const struct metric *m) {
    const struct trainer *t = line->trainer;
    int count = 0;
    for (int64_t i = 0; line->loads && i < config_layers(&t->model->config); i++) {
        const int64_t *counts = line->loads[i].counts, experts = t->model->config.n_routed_experts;
        if (m->of_load ? !counts : !t->biases[i]) continue;
        if (count++ == 0) put_key(line, m->key, "");
        fprintf(line->log, "%s%.6g", count > 1 ? ", " : "[",
                m->of_load ? m->of_load(counts, experts) : m->of_bias(t->biases[i]->value, experts));
    }
    if (count) fputc(']', line->log);
}

static void put_parts(struct line *line, const char *key, const double *parts) {
    for (int p = 0; p < LOSS_PARTS; p++) {
        if (p == LOSS_MTP || line->trainer->objective.weights[p] == 0) continue; /* MTP's are by depth */
        put_key(line, key, loss_kinds[p].name);
        fprintf(line->log, "%.9g", parts[p]);
    }
}

static void put_metric(struct line *line, const struct metric *m) {
    const void *field = line->told + m->field;
    const double *numbers = field;
    const struct fp8_shares *shares = field;
    const int depths = m->kind == BY_DEPTH ? *(const int *)(const void *)(line->told + m->depths) : 1;
    if ((m->when && !m->when(line->trainer)) || depths == 0 || (m->kind == SHARES && isnan(shares->x))) return;
    if (m->kind == BY_LAYER) return put_layers(line, m);
    if (m->kind == PARTS) return put_parts(line, m->key, numbers);
    put_key(line, m->key, "");
    if (m->kind == COUNT) fprintf(line->log, "%lld", (long long)*(const int64_t *)field);
    if (m->kind == NUMBER) fprintf(line->log, "%.9g", *numbers);
    if (m->kind == SHARES)
        fprintf(line->log, "{\"x\": %.6g, \"w\": %.6g, \"dy\": %.6g}", shares->x, shares->w, shares->dy);
    if (m->kind != BY_DEPTH) return;
    for (int d = 0; d < depths; d++) fprintf(line->log, "%s%.9g", d ? ", " : "[", numbers[d]);
    fputc(']', line->log);
}

static void put_line(struct line line, const struct metric *rows, size_t count) {
    line.before = "{";
    for (size_t i = 0; i < count; i++) put_metric(&line, &rows[i]);
}

void metrics_put_step(FILE *log, const struct trainer *trainer, const struct training_step *step) {
    put_line((struct line){log, trainer, trainer->objective.loads, (const char *)step, NULL}, step_metrics,
             sizeof step_metrics / sizeof *step_metrics);
}

void metrics_put_evaluation(FILE *log, const struct trainer *trainer, const struct training_evaluation *evaluation) {
    put_line((struct line){log, trainer, trainer->evaluation_loads, (const char *)evaluation, NULL}, evaluation_metrics,
             sizeof evaluation_metrics / sizeof *evaluation_metrics);
}
