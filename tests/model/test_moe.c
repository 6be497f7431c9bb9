/* Mixture-of-experts layers: block and operations against a plain fp64 layer written from the formulas, with shared
 * experts, groups, dropping and balance losses; recomputation, threads and planning change no bit; micro-batches add
 * up; experts without tokens are left alone; a token's result does not depend on its batch. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "model/blocks.h"

enum {
    SEQUENCES = 3,
    LENGTH = 21,
    ROWS = SEQUENCES * LENGTH,
    VOCAB = 29,
    HIDDEN = 8,
    WIDTH = 5,
    EXPERTS = 8,
    CHOSEN = 3,
    SHARED = 2
};

#define COMMON                                                                                                         \
    "\"hidden_size\":8,\"intermediate_size\":12,\"num_hidden_layers\":2,\"vocab_size\":29,\"initializer_range\":0.5,"  \
    "\"num_attention_heads\":2,\"num_key_value_heads\":2,"                                                             \
    "\"moe_intermediate_size\":5,\"n_routed_experts\":8,\"num_experts_per_tok\":3,\"first_k_dense_replace\":1,\"moe_"  \
    "layer_freq\":1,\"scoring_func\":\"softmax\""
#define LATENT "\"kv_lora_rank\":6,\"q_lora_rank\":null,\"qk_nope_head_dim\":4,\"qk_rope_head_dim\":4,\"v_head_dim\":4"
#define GROUPS "\"topk_method\":\"group_limited_greedy\",\"n_group\":4,\"topk_group\":2"
enum { GREEDY, NORMALISED, GROUPED, ALONE, KINDS };
static const char *const config_texts[KINDS] = {
    "{\"model_type\":\"deepseek\",\"n_shared_experts\":2,\"norm_topk_prob\":false," COMMON "}",
    "{\"model_type\":\"deepseek_v2\",\"n_shared_experts\":2,\"norm_topk_prob\":true,\"routed_scaling_factor\":1.0,"
    "\"topk_method\":\"greedy\",\"n_group\":1,\"topk_group\":1," LATENT "," COMMON "}",
    "{\"model_type\":\"deepseek_v2\",\"n_shared_experts\":2,\"norm_topk_prob\":false,\"routed_scaling_factor\":4."
    "0," GROUPS "," LATENT "," COMMON "}",
    "{\"model_type\":\"deepseek_v2\",\"n_shared_experts\":0,\"norm_topk_prob\":false,\"routed_scaling_factor\":2."
    "0," GROUPS "," LATENT "," COMMON "}",
};

struct fixture {
    struct model *model;
    struct pool *pool;
    struct arena arena;
    struct memory memory;
    struct graph graph;
    int32_t tokens[ROWS], targets[ROWS];
    struct objective objective;
    int64_t counts[EXPERTS];
    struct expert_load loads[2];
};

static struct objective objective_of(double capacity_factor, double balance) {
    return (struct objective){
        .weights = {[LOSS_BALANCE_EXPERT] = balance,
                    [LOSS_BALANCE_DEVICE] = 2 * balance,
                    [LOSS_BALANCE_COMMUNICATION] = balance / 2},
        .predicted = ROWS,
        .sequences = SEQUENCES,
        .capacity_factor = capacity_factor,
        .undropped = 0.4,
        .seed = 5,
        .step = 3,
    };
}

static void set_up(struct fixture *f, int kind, enum compute compute, int threads, enum recompute recompute,
                   struct objective objective) {
    memset(f, 0, sizeof *f);
    struct error error;
    struct config config;
    enum isa isa;
    json_t *root = json_loads(config_texts[kind], 0, NULL);
    if (isa_select(&isa, &error) || pool_create(&f->pool, threads, &error) ||
        config_parse(&config, root, "test", &f->arena, &error) ||
        model_create(&f->model, &config, kernels_for(isa), f->pool, compute, &error) ||
        model_allocate_training(f->model, &error))
        fail_msg("%s", error.message);
    json_decref(root);
    f->model->recompute = recompute;
    model_initialise(f->model, 7);
    f->objective = objective;
    assert_int_equal(
        memory_create(&f->memory, model_plan_training(f->model, SEQUENCES, LENGTH, &f->objective, NULL), &error),
        STATUS_OK);
    graph_init(&f->graph, f->model->kernels, f->pool, &f->memory, compute, true, false);
    for (int i = 0; i < ROWS; i++) {
        f->tokens[i] = (int32_t)random_below(3, 1, (uint64_t)i, VOCAB);
        f->targets[i] = (int32_t)random_below(3, 2, (uint64_t)i, VOCAB);
    }
}

static void tear_down(struct fixture *f) {
    graph_destroy(&f->graph);
    memory_destroy(&f->memory);
    model_destroy(f->model);
    pool_destroy(f->pool);
    arena_free(&f->arena);
}

/* A step's gradients, in micro-batches of so many sequences. Losses and loads are in the objective afterwards. */
static void step(struct fixture *f, int64_t together) {
    struct error error;
    struct loss_sums sums = {0};
    memset(f->counts, 0, sizeof f->counts);
    f->loads[1] = (struct expert_load){.counts = f->counts};
    f->objective.loads = f->loads;
    for (int i = 0; i < f->model->parameter_count; i++) {
        parameter_gradient_clear(f->model->parameters[i]);
        memset(f->model->parameters[i]->grad, 0xFF, (size_t)f->model->parameters[i]->count * sizeof(float));   /* NaN */
    }
    for (int64_t i = 0; i < SEQUENCES; i += together) {
        f->objective.first_sequence = i;
        if (model_train_micro_batch(&f->graph, f->model, f->tokens + i * LENGTH, f->targets + i * LENGTH, together,
                                    LENGTH, &f->objective, NULL, &error))
            fail_msg("%s", error.message);
        loss_sums_add(&sums, &f->objective.sums);
    }
    f->objective.sums = sums;
}

/* ---- the layer in fp64 ------------------------------------------------------------------------------------------- */

/* Everything the loss depends on, and what counts as constant for the gradient: the
 * choice and what is dropped of it. */
struct plain {
    const struct config *config;
    struct objective *objective;
    const int32_t *tokens, *targets;
    double *table, *router, *experts, *shared, *head;
    int chosen[ROWS][CHOSEN];
    bool dropped[ROWS][CHOSEN];
    double parts[3];
};

static double dot(const double *a, const double *b, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; i++) sum += a[i] * b[i];
    return sum;
}

/* y += weight W_down (silu(W_gate u) W_up u); gate, up and down follow each other in `w` */
static void plain_expert(const double *w, int64_t width, const double *u, double weight, double *y) {
    for (int64_t i = 0; i < width; i++) {
        const double a = dot(w + i * HIDDEN, u, HIDDEN),
                     h = weight * a / (1 + exp(-a)) * dot(w + (width + i) * HIDDEN, u, HIDDEN);
        for (int j = 0; j < HIDDEN; j++) y[j] += h * w[2 * width * HIDDEN + j * width + i];
    }
}

static void plain_scores(const struct plain *p, int row, double *s) {
    double sum = 0;
    for (int i = 0; i < EXPERTS; i++)
        sum += s[i] = exp(dot(p->router + i * HIDDEN, p->table + p->tokens[row] * HIDDEN, HIDDEN));
    for (int i = 0; i < EXPERTS; i++) s[i] /= sum;
}

/* The choice and the dropping (sections 2.8 and 3.2), by counting what goes before each. */
static void plain_choose(struct plain *p) {
    const int devices = (int)p->config->n_group, own = EXPERTS / devices;
    const bool grouped = p->config->topk_method == TOPK_GROUP_LIMITED_GREEDY;
    double s[ROWS][EXPERTS];
    bool spared[SEQUENCES];
    for (int row = 0; row < ROWS; row++) {
        plain_scores(p, row, s[row]);
        double masked[EXPERTS], best[EXPERTS] = {0};
        for (int i = 0; i < EXPERTS; i++) best[i / own] = fmax(best[i / own], s[row][i]);
        for (int i = 0; i < EXPERTS; i++) {
            int ahead = 0;
            for (int d = 0; d < devices; d++) ahead += best[d] > best[i / own];
            masked[i] = grouped && ahead >= p->config->topk_group ? -1 : s[row][i];
        }
        for (int i = 0; i < EXPERTS; i++) {
            int ahead = 0;
            for (int j = 0; j < EXPERTS; j++) ahead += masked[j] > masked[i];
            if (ahead < CHOSEN) p->chosen[row][ahead] = i;
        }
    }
    for (int i = 0; i < SEQUENCES; i++)
        spared[i] = random_uniform(p->objective->seed, random_stream("undropped") + p->objective->step, (uint64_t)i) <
                    p->objective->undropped;
    const double budget = floor(p->objective->capacity_factor * ROWS * CHOSEN / devices);
    for (int slot = 0; slot < ROWS * CHOSEN; slot++) {
        const int e = p->chosen[slot / CHOSEN][slot % CHOSEN];
        double ahead = 0;
        for (int other = 0; other < ROWS * CHOSEN; other++) {
            const int o = p->chosen[other / CHOSEN][other % CHOSEN];
            const double a = s[other / CHOSEN][o], b = s[slot / CHOSEN][e];
            ahead += other != slot && o / own == e / own &&
                     (spared[other / CHOSEN / LENGTH] || a > b || (a == b && other < slot));
        }
        p->dropped[slot / CHOSEN][slot % CHOSEN] = p->objective->capacity_factor > 0 &&
                                                   !spared[slot / CHOSEN / LENGTH] && ahead >= budget;
    }
}

/* Mean cross entropy of head y, y the layer's result, and the weighted balance losses (section 3.1), means over the
 * sequences. */
static double plain_loss(struct plain *p) {
    const int devices = (int)p->config->n_group, own = EXPERTS / devices;
    double loss = 0;
    memset(p->parts, 0, sizeof p->parts);
    for (int i = 0; i < SEQUENCES; i++) {
        double mean[EXPERTS] = {0}, f[EXPERTS] = {0}, sent[EXPERTS] = {0};
        for (int row = i * LENGTH; row < (i + 1) * LENGTH; row++) {
            const double *u = p->table + p->tokens[row] * HIDDEN;
            double s[EXPERTS], y[HIDDEN] = {0}, sum = 0, total = 0;
            bool to[EXPERTS] = {false};
            plain_scores(p, row, s);
            for (int k = 0; k < CHOSEN; k++) sum += s[p->chosen[row][k]];
            for (int k = 0; k < CHOSEN; k++) {
                const int e = p->chosen[row][k];
                f[e] += (double)EXPERTS / (CHOSEN * LENGTH);
                to[e / own] = true;
                if (!p->dropped[row][k])
                    plain_expert(p->experts + e * 3 * WIDTH * HIDDEN, WIDTH, u,
                                 p->config->norm_topk_prob ? s[e] / sum : s[e] * p->config->routed_scaling_factor, y);
            }
            if (p->shared) plain_expert(p->shared, SHARED * WIDTH, u, 1, y);
            for (int e = 0; e < EXPERTS; e++) mean[e] += s[e] / LENGTH;
            for (int d = 0; d < devices; d++)
                sent[d] += to[d] ? (double)devices / ((double)p->config->topk_group * LENGTH) : 0;
            for (int v = 0; v < VOCAB; v++) total += exp(dot(p->head + v * HIDDEN, y, HIDDEN));
            loss += (log(total) - dot(p->head + p->targets[row] * HIDDEN, y, HIDDEN)) / ROWS;
        }
        for (int d = 0; d < devices; d++) {
            double device_f = 0, device_mean = 0;
            for (int e = d * own; e < (d + 1) * own; e++)
                device_f += f[e] / own, device_mean += mean[e], p->parts[0] += f[e] * mean[e] / SEQUENCES;
            p->parts[1] += device_f * device_mean / SEQUENCES;
            p->parts[2] += sent[d] * device_mean / SEQUENCES;
        }
    }
    for (int part = 0; part < 3; part++) loss += p->objective->weights[LOSS_BALANCE_EXPERT + part] * p->parts[part];
    return loss;
}

static double *widen(const struct parameter *parameter, double *to) {
    for (int64_t i = 0; i < parameter->count; i++) to[i] = (double)parameter->value[i];
    return to + parameter->count;
}

/* The gradient that the operations left, against central differences in fp64. `noise`: what fp32 may cost, relative to
 * the norm. */
static void check_parameter(struct plain *p, const struct parameter *parameter, double *values, double noise) {
    double distance = 0, norm = 0;
    for (int64_t i = 0; i < parameter->count; i++) {
        const double saved = values[i], h = 1e-5;
        values[i] = saved + h;
        const double above = plain_loss(p);
        values[i] = saved - h;
        const double slope = (above - plain_loss(p)) / (2 * h);
        values[i] = saved;
        const double got = parameter->grad_written ? (double)parameter->grad[i] : 0;
        distance += (got - slope) * (got - slope), norm += slope * slope;
    }
    if (!(sqrt(distance) <= noise * sqrt(norm) + 1e-9))
        fail_msg("%s: gradient off by %.3g of %.3g", parameter->name, sqrt(distance), sqrt(norm));
}

static void check_layer(int kind, double capacity_factor, double balance) {
    struct fixture f;
    set_up(&f, kind, COMPUTE_F32, 2, RECOMPUTE_CHEAP, objective_of(capacity_factor, balance));
    f.loads[1] = (struct expert_load){.counts = f.counts};
    f.objective.loads = f.loads;
    const struct layer *layer = &f.model->layers[1];
    struct span spans[SEQUENCES];
    float weights[ROWS], losses[ROWS];
    for (int i = 0; i < SEQUENCES; i++)
        spans[i] = (struct span){.row = i * LENGTH, .count = LENGTH, .number = i, .weight = 1.0 / SEQUENCES};
    for (int i = 0; i < ROWS; i++) weights[i] = 1.0f / ROWS;
    const struct batch batch = {f.tokens, ROWS, spans, SEQUENCES};
    struct forward pass = {.graph = &f.graph, .model = f.model, .batch = &batch, .objective = &f.objective};
    struct tensor *y = layer->ffn->forward(&pass, layer, op_embedding(&f.graph, f.model->embedding, f.tokens, ROWS));
    op_cross_entropy(&f.graph, y, f.model->head, f.targets, weights, losses, NULL);
    graph_backward(&f.graph);
    assert_int_equal(f.graph.status, STATUS_OK);

    double *values = malloc(20000 * sizeof *values), *at = values, loss = 0;
    struct plain p = {.config = &f.model->config, .objective = &f.objective, .tokens = f.tokens, .targets = f.targets};
    p.table = at, at = widen(f.model->embedding, at);
    p.head = at, at = widen(f.model->head, at);
    p.router = at, at = widen(model_parameter(f.model, "model.layers.1.mlp.gate.weight"), at);
    const char *const names[] = {"gate", "up", "down"};
    char name[80];
    p.experts = at;
    for (int e = 0; e < EXPERTS; e++)
        for (int i = 0; i < 3; i++)
            snprintf(name, sizeof name, "model.layers.1.mlp.experts.%d.%s_proj.weight", e, names[i]),
                at = widen(model_parameter(f.model, name), at);
    p.shared = kind == ALONE ? NULL : at;
    for (int i = 0; i < 3 && p.shared; i++)
        snprintf(name, sizeof name, "model.layers.1.mlp.shared_experts.%s_proj.weight", names[i]),
            at = widen(model_parameter(f.model, name), at);
    plain_choose(&p);
    const double want = plain_loss(&p);
    int64_t counts[EXPERTS] = {0}, dropped = 0;
    for (int slot = 0; slot < ROWS * CHOSEN; slot++) {
        if (p.dropped[slot / CHOSEN][slot % CHOSEN]) dropped++;
        else counts[p.chosen[slot / CHOSEN][slot % CHOSEN]]++;
    }
    assert_memory_equal(f.counts, counts, sizeof counts);
    assert_int_equal(f.loads[1].dropped, dropped);
    assert_int_equal(dropped > 0, capacity_factor > 0);
    assert_true(dropped < ROWS * CHOSEN);
    const double *parts = &f.objective.sums.parts[LOSS_BALANCE_EXPERT];
    for (int i = 0; i < 3; i++)
        assert_true(balance == 0 ? parts[i] == 0 : fabs(parts[i] - p.parts[i]) < 1e-6 * p.parts[i]);
    for (int i = 0; i < ROWS; i++) loss += (double)losses[i] / ROWS;
    if (balance != 0) loss += balance * parts[0] + 2 * balance * parts[1] + balance / 2 * parts[2];
    assert_true(fabs(loss - want) < 1e-6 * want);

    const double noise = 2e-6;   /* chains of some 30 roundings */
    check_parameter(&p, f.model->embedding, p.table, noise);
    check_parameter(&p, model_parameter(f.model, "model.layers.1.mlp.gate.weight"), p.router, noise);
    at = p.experts;
    for (int e = 0; e < EXPERTS; e++)
        for (int i = 0; i < 3; i++) {
            snprintf(name, sizeof name, "model.layers.1.mlp.experts.%d.%s_proj.weight", e, names[i]);
            const struct parameter *w = model_parameter(f.model, name);
            check_parameter(&p, w, at, 2 * noise);
            at += w->count;
        }
    for (int i = 0; i < 3 && p.shared; i++) {
        snprintf(name, sizeof name, "model.layers.1.mlp.shared_experts.%s_proj.weight", names[i]);
        const struct parameter *w = model_parameter(f.model, name);
        check_parameter(&p, w, at, noise);
        at += w->count;
    }
    free(values);
    tear_down(&f);
}

static void a_layer_has_the_gradients_of_its_formulas(void **state) {
    (void)state;
    for (int kind = 0; kind < KINDS; kind++) {
        check_layer(kind, 0, 0);
        check_layer(kind, 0, 0.1);
        check_layer(kind, kind == GREEDY || kind == NORMALISED ? 0.8 : 0.9, 0.1);
    }
}

/* ---- promises about bits, memory and counts ---------------------------------------------------------------------- */

static void assert_same_gradients(const struct fixture *a, const struct fixture *b) {
    for (int i = 0; i < a->model->parameter_count; i++) {
        const struct parameter *p = a->model->parameters[i], *q = b->model->parameters[i];
        assert_int_equal(p->grad_written, q->grad_written);
        if (p->grad_written && memcmp(p->grad, q->grad, (size_t)p->count * sizeof(float)))
            fail_msg("gradient of %s differs", p->name);
    }
}

static void recomputation_and_threads_change_nothing(void **state) {
    (void)state;
    static const enum compute types[] = {COMPUTE_F32, COMPUTE_BF16};
    for (int kind = GREEDY; kind < KINDS; kind += GROUPED - GREEDY)
        for (int t = 0; t < 2; t++) {
            struct fixture first;
            set_up(&first, kind, types[t], 1, RECOMPUTE_NONE, objective_of(0.9, 0.1));
            step(&first, SEQUENCES);
            assert_true(first.loads[1].dropped > 0);
            for (int threads = 1; threads <= 3; threads++)
                for (int r = RECOMPUTE_NONE; r <= RECOMPUTE_BLOCKS; r++) {
                    struct fixture f;
                    set_up(&f, kind, types[t], threads, (enum recompute)r, objective_of(0.9, 0.1));
                    for (int again = 0; again < 2; again++) {   /* in the same memory */
                        step(&f, SEQUENCES);
                        assert_true(f.objective.sums.main == first.objective.sums.main &&
                                    f.objective.sums.parts[LOSS_BALANCE_EXPERT] ==
                                        first.objective.sums.parts[LOSS_BALANCE_EXPERT]);
                        assert_true(f.objective.sums.parts[LOSS_BALANCE_DEVICE] ==
                                        first.objective.sums.parts[LOSS_BALANCE_DEVICE] &&
                                    f.objective.sums.parts[LOSS_BALANCE_COMMUNICATION] ==
                                        first.objective.sums.parts[LOSS_BALANCE_COMMUNICATION]);
                        /* counted once, whatever is computed again */
                        assert_memory_equal(f.counts, first.counts, sizeof f.counts);
                        assert_int_equal(f.loads[1].dropped, first.loads[1].dropped);
                        assert_same_gradients(&first, &f);
                    }
                    assert_null(f.memory.outside);
                    /* the plan is exact */
                    assert_int_equal(f.memory.peak,
                                     model_plan_training(f.model, SEQUENCES, LENGTH, &f.objective, NULL));
                    tear_down(&f);
                }
            tear_down(&first);
        }
}

static void the_plan_counts_flops(void **state) {
    (void)state;
    for (int r = RECOMPUTE_NONE; r <= RECOMPUTE_BLOCKS; r++) {
        struct fixture f;
        double planned;
        set_up(&f, GROUPED, COMPUTE_F32, 1, (enum recompute)r, objective_of(0, 0.1));
        model_plan_training(f.model, SEQUENCES, LENGTH, &f.objective, &planned);
        step(&f, SEQUENCES);
        assert_true(planned > 0 && f.graph.flops == planned);
        const double whole = f.graph.flops;
        f.objective.capacity_factor = 0.5;   /* what is dropped is not computed */
        step(&f, SEQUENCES);
        const int recomputed = r == RECOMPUTE_BLOCKS ? 2 : 0;
        assert_true(f.graph.flops == whole - (double)f.loads[1].dropped * 2 * HIDDEN * WIDTH * (9 + recomputed));
        tear_down(&f);
    }
}

static void micro_batches_add_up(void **state) {
    (void)state;
    struct fixture whole, parts;
    set_up(&whole, GROUPED, COMPUTE_F32, 2, RECOMPUTE_CHEAP, objective_of(0, 0.1));
    set_up(&parts, GROUPED, COMPUTE_F32, 2, RECOMPUTE_CHEAP, objective_of(0, 0.1));
    step(&whole, SEQUENCES);
    step(&parts, 1);
    assert_memory_equal(whole.counts, parts.counts, sizeof whole.counts);
    assert_true(fabs(whole.objective.sums.main - parts.objective.sums.main) < 1e-5 * whole.objective.sums.main);
    assert_true(
        fabs(whole.objective.sums.parts[LOSS_BALANCE_EXPERT] - parts.objective.sums.parts[LOSS_BALANCE_EXPERT]) <
        1e-12 * whole.objective.sums.parts[LOSS_BALANCE_EXPERT]);
    assert_true(fabs(whole.objective.sums.parts[LOSS_BALANCE_COMMUNICATION] -
                     parts.objective.sums.parts[LOSS_BALANCE_COMMUNICATION]) <
                1e-12 * whole.objective.sums.parts[LOSS_BALANCE_COMMUNICATION]);
    for (int i = 0; i < whole.model->parameter_count; i++) {
        const struct parameter *p = whole.model->parameters[i], *q = parts.model->parameters[i];
        double distance = 0, norm = 0;
        assert_int_equal(p->grad_written, q->grad_written);
        for (int64_t j = 0; p->grad_written && j < p->count; j++)
            distance += pow((double)p->grad[j] - (double)q->grad[j], 2), norm += pow((double)p->grad[j], 2);
        if (!(sqrt(distance) <= 1e-5 * sqrt(norm)))
            fail_msg("%s: off by %g of %g", p->name, sqrt(distance), sqrt(norm));
    }
    tear_down(&whole);
    tear_down(&parts);
}

/* Rows that fill several chunks, in which experts run one after the other: every token as if it were computed alone,
 * and gradients as those of small batches. */
static void chunks_change_nothing(void **state) {
    (void)state;
    enum { WIDE = 320, T = 1024, PARTS = 8 };   /* T x CHOSEN rows of 4 WIDE bytes: 3.9 MB */
    static int32_t tokens[T], targets[T];
    static float weights[T], losses[T];
    char text[900];
    snprintf(text, sizeof text,
             "{\"model_type\":\"deepseek\",\"n_shared_experts\":1,\"norm_topk_prob\":false,\"hidden_size\":%d,"
             "\"intermediate_size\":12,\"num_hidden_layers\":1,\"vocab_size\":401,"
             "\"initializer_range\":0.1,\"num_attention_heads\":2,\"num_key_value_heads\":2,\"moe_intermediate_size\":"
             "6,\"n_routed_experts\":8,\"num_experts_per_tok\":3,\"first_k_dense_replace\":0,"
             "\"moe_layer_freq\":1,\"scoring_func\":\"softmax\"}",
             WIDE);
    struct model *models[2];
    struct arena arenas[2] = {{0}, {0}};
    static float results[2][T * WIDE];
    for (int i = 0; i < T; i++)
        tokens[i] = (int32_t)random_below(3, 1, (uint64_t)i, 401),
        targets[i] = (int32_t)random_below(3, 2, (uint64_t)i, 401), weights[i] = 1.0f / T;
    for (int m = 0; m < 2; m++) {   /* whole, in parts */
        struct error error;
        struct config config;
        struct memory memory;
        struct graph graph;
        enum isa isa;
        json_t *root = json_loads(text, 0, NULL);
        assert_non_null(root);
        if (isa_select(&isa, &error) || config_parse(&config, root, "test", &arenas[m], &error) ||
            model_create(&models[m], &config, kernels_for(isa), NULL, COMPUTE_F32, &error) ||
            model_allocate_training(models[m], &error) || memory_create(&memory, (size_t)64 << 20, &error))
            fail_msg("%s", error.message);
        json_decref(root);
        model_initialise(models[m], 7);
        graph_init(&graph, models[m]->kernels, NULL, &memory, COMPUTE_F32, true, false);
        const int64_t together = m ? T / PARTS : T;
        for (int64_t row = 0; row < T; row += together) {
            const struct span span = {.count = together};
            const struct batch batch = {tokens + row, together, &span, 1};
            struct forward pass = {.graph = &graph, .model = models[m], .batch = &batch};
            graph_reset(&graph);
            struct tensor *y = models[m]->layers[0].ffn->forward(
                &pass, &models[m]->layers[0], op_embedding(&graph, models[m]->embedding, batch.ids, together));
            memcpy(results[m] + row * WIDE, y->data, (size_t)(together * WIDE) * sizeof(float));
            op_cross_entropy(&graph, y, models[m]->head, targets + row, weights + row, losses + row, NULL);
            graph_backward(&graph);
            assert_int_equal(graph.status, STATUS_OK);
        }
        graph_destroy(&graph);
        memory_destroy(&memory);
    }
    assert_memory_equal(results[0], results[1], sizeof results[0]);
    for (int i = 0; i < models[0]->parameter_count; i++) {
        const struct parameter *p = models[0]->parameters[i], *q = models[1]->parameters[i];
        double distance = 0, norm = 0;
        assert_int_equal(p->grad_written, q->grad_written);
        for (int64_t j = 0; p->grad_written && j < p->count; j++)
            distance += pow((double)p->grad[j] - (double)q->grad[j], 2), norm += pow((double)p->grad[j], 2);
        if (!(sqrt(distance) <= 1e-5 * sqrt(norm)))
            fail_msg("%s: off by %g of %g", p->name, sqrt(distance), sqrt(norm));
    }
    for (int m = 0; m < 2; m++) model_destroy(models[m]), arena_free(&arenas[m]);
}

/* A router of zeros sends every token to the first experts. The others' gradients are not written, and not read. */
static void experts_without_tokens_are_left_alone(void **state) {
    (void)state;
    for (int kind = GREEDY; kind < KINDS; kind++)
        for (int all = 0; all < 2; all++) {
            struct fixture f;
            set_up(&f, kind, COMPUTE_F32, 2, RECOMPUTE_CHEAP, objective_of(0, 0.1));
            struct parameter *router = model_parameter(f.model, "model.layers.1.mlp.gate.weight");
            memset(router->value, 0, (size_t)router->count * sizeof(float));
            step(&f, all ? SEQUENCES : 1);
            for (int e = 0; e < EXPERTS; e++) {
                char name[80];
                snprintf(name, sizeof name, "model.layers.1.mlp.experts.%d.down_proj.weight", e);
                const struct parameter *w = model_parameter(f.model, name);
                assert_int_equal(f.counts[e], e < CHOSEN ? ROWS : 0);
                assert_int_equal(w->grad_written, e < CHOSEN);
                uint32_t bits;
                memcpy(&bits, w->grad, sizeof bits);
                assert_int_equal(bits == 0xFFFFFFFFu, e >= CHOSEN);
            }
            for (int i = 0; i < f.model->parameter_count; i++)
                for (int64_t j = 0; f.model->parameters[i]->grad_written && j < f.model->parameters[i]->count; j++)
                    assert_true(isfinite(f.model->parameters[i]->grad[j]));
            assert_true(fabs(f.objective.sums.parts[LOSS_BALANCE_EXPERT] - 1) < 1e-6); /* equal scores: sum f P = 1 */
            tear_down(&f);
        }
}

/* Nothing is dropped of spared sequences, nor where the graph does not record. */
static void dropping_spares(void **state) {
    (void)state;
    struct fixture f;
    struct error error;
    set_up(&f, GROUPED, COMPUTE_F32, 1, RECOMPUTE_CHEAP, objective_of(0.9, 0));
    step(&f, SEQUENCES);
    const double with_dropping = f.objective.sums.main;
    assert_true(f.loads[1].dropped > 0);
    f.objective.undropped = 1;
    step(&f, SEQUENCES);
    assert_int_equal(f.loads[1].dropped, 0);
    const double without = f.objective.sums.main;
    assert_true(without != with_dropping);
    f.objective.undropped = 0;
    f.graph.recording = false;
    assert_int_equal(
        model_train_micro_batch(&f.graph, f.model, f.tokens, f.targets, SEQUENCES, LENGTH, &f.objective, NULL, &error),
        STATUS_OK);
    assert_true(f.objective.sums.main == without);
    /* Which sequences are spared changes with the step. */
    bool differs = false;
    for (uint64_t number = 0; number < 20; number++) {
        f.graph.recording = true;
        f.objective.undropped = 0.4;
        f.objective.step = number;
        step(&f, SEQUENCES);
        differs = differs || f.objective.sums.main != with_dropping;
    }
    assert_true(differs);
    /* A budget of nothing drops all but the spared sequences, however they come in micro-batches. */
    f.objective.capacity_factor = 0.001;
    int64_t least = ROWS, most = 0;
    for (f.objective.step = 0; f.objective.step < 6; f.objective.step++) {
        int64_t unspared = 0;
        for (uint64_t i = 0; i < SEQUENCES; i++)
            unspared += !(random_uniform(f.objective.seed, random_stream("undropped") + f.objective.step, i) <
                          f.objective.undropped);
        for (int64_t together = 1; together <= SEQUENCES; together += SEQUENCES - 1) {
            step(&f, together);
            assert_int_equal(f.loads[1].dropped, unspared * LENGTH * CHOSEN);
        }
        least = unspared < least ? unspared : least, most = unspared > most ? unspared : most;
    }
    assert_true(least < most);
    tear_down(&f);
}

/* A token alone, in any company and on any number of threads: the same bits, on graphs that record and on others. */
static void a_token_does_not_see_its_batch(void **state) {
    (void)state;
    for (int type = 0; type < 2; type++)
        for (int kind = 0; kind < KINDS; kind++) {
            static float results[4][ROWS * HIDDEN];
            for (int run = 0; run < 4; run++) {   /* all, recording; all; in parts; one by one */
                struct fixture f;
                struct error error;
                set_up(&f, kind, type ? COMPUTE_BF16 : COMPUTE_F32, 1 + run % 3, RECOMPUTE_CHEAP, objective_of(0, 0));
                memory_destroy(&f.memory);
                assert_int_equal(memory_create(&f.memory, 1 << 20, &error), STATUS_OK);
                f.graph.recording = run == 0;
                const int64_t together = run < 2 ? ROWS : run == 2 ? 10 : 1;
                for (int64_t row = 0; row < ROWS; row += together) {
                    const int64_t rows = ROWS - row < together ? ROWS - row : together;
                    const struct span span = {.count = rows};
                    const struct batch batch = {f.tokens + row, rows, &span, 1};
                    struct forward pass = {.graph = &f.graph, .model = f.model, .batch = &batch};
                    graph_reset(&f.graph);
                    struct tensor *y = f.model->layers[1].ffn->forward(
                        &pass, &f.model->layers[1], op_embedding(&f.graph, f.model->embedding, batch.ids, rows));
                    assert_int_equal(f.graph.status, STATUS_OK);
                    f.model->kernels->rows.convert(NULL, results[run] + row * HIDDEN, DTYPE_F32, y->data, y->dtype,
                                                   rows * HIDDEN);
                }
                assert_memory_equal(results[run], results[0], sizeof results[0]);
                tear_down(&f);
            }
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_layer_has_the_gradients_of_its_formulas),
        cmocka_unit_test(recomputation_and_threads_change_nothing),
        cmocka_unit_test(the_plan_counts_flops),
        cmocka_unit_test(micro_batches_add_up),
        cmocka_unit_test(chunks_change_nothing),
        cmocka_unit_test(experts_without_tokens_are_left_alone),
        cmocka_unit_test(dropping_spares),
        cmocka_unit_test(a_token_does_not_see_its_batch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
