/* Models of the third generation with modules of multi-token prediction: pieces and batches change no bit, the training
 * pass is the composition of its parts, its gradient the slope of the loss, and without a weight the modules leave no
 * trace. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <math.h>

#include "base/file.h"
#include "base/random.h"
#include "model/quantize.h"
#include "model/sequence.h"

enum {
    VOCAB = 61,
    DEPTHS = 2,
    SEQUENCES = 3,
    LENGTH = 9,
    ROWS = SEQUENCES * LENGTH,
    LAYERS = 3,
    EXPERTS = 6,
    ACTIVE = 2
};

#define CONFIG(modules)                                                                                                \
    "{\"model_type\":\"deepseek_v3\",\"hidden_size\":48,\"intermediate_size\":80,\"num_hidden_layers\":3,\"num_"       \
    "attention_heads\":2,\"q_lora_rank\":20,\"kv_lora_rank\":32,\"qk_nope_head_dim\":12,"                              \
    "\"qk_rope_head_dim\":8,\"v_head_dim\":10,\"vocab_size\":61,\"n_routed_experts\":6,\"num_experts_per_tok\":2,\"n_" \
    "shared_experts\":1,\"moe_intermediate_size\":16,\"first_k_dense_replace\":1,"                                     \
    "\"n_group\":3,\"topk_group\":2,\"norm_topk_prob\":true,\"routed_scaling_factor\":2.5,\"max_position_"             \
    "embeddings\":64,\"initializer_range\":0.2,\"num_nextn_predict_layers\":" #modules "}"

/* Ragged tiles of 128; every token goes to every expert, so that no rounding sends one elsewhere. */
#define FP8_CONFIG                                                                                                     \
    "{\"model_type\":\"deepseek_v3\",\"hidden_size\":160,\"intermediate_size\":200,\"num_hidden_layers\":2,\"num_"     \
    "attention_heads\":2,\"q_lora_rank\":96,\"kv_lora_rank\":132,\"qk_nope_head_dim\":32,"                             \
    "\"qk_rope_head_dim\":16,\"v_head_dim\":40,\"vocab_size\":61,\"n_routed_experts\":4,\"num_experts_per_tok\":4,"    \
    "\"n_shared_experts\":1,\"moe_intermediate_size\":136,\"first_k_dense_replace\":1,"                                \
    "\"max_position_embeddings\":64,\"initializer_range\":0.06,\"num_nextn_predict_layers\":2}"

static char folder[] = "/tmp/test_mtp_XXXXXX";
static int32_t tokens[ROWS], targets[ROWS];

/* Biases that decide some choices. */
static struct model *training_model(const char *text, enum isa isa, struct pool *pool, enum compute compute) {
    struct error error;
    struct arena arena = {0};
    struct config config;
    struct model *model = NULL;
    json_t *root = json_loads(text, 0, NULL);
    if (config_parse(&config, root, "test", &arena, &error) ||
        model_create(&model, &config, kernels_for(isa), pool, compute, &error) ||
        model_allocate_training(model, &error))
        fail_msg("%s", error.message);
    model->config_arena = arena;
    model_initialise(model, 5);
    json_decref(root);
    for (int i = 0; i < model->parameter_count; i++) {
        struct parameter *p = model->parameters[i];
        if (p->kind != PARAMETER_VECTOR) continue;
        for (int64_t e = 0; e < p->count; e++) {
            const double u = random_uniform(7, random_stream(p->name), (uint64_t)e);
            assert_true(p->value[e] == (parameter_trained(p) ? 1.0f : 0.0f));
            p->value[e] = (float)(parameter_trained(p) ? 0.7 + 0.6 * u : 0.3 * (u - 0.5));
        }
    }
    return model;
}

static int prepare(void **state) {
    (void)state;
    struct error error;
    if (!mkdtemp(folder)) return 1;
    struct model *model = training_model(CONFIG(2), ISA_REFERENCE, NULL, COMPUTE_F32);
    if (model_export(model, folder, DTYPE_F32, &error)) return 1;
    model_destroy(model);
    for (int row = 0; row < ROWS; row++) {
        tokens[row] = (int32_t)random_below(3, 0, (uint64_t)row, VOCAB);
        targets[row] = row % LENGTH == LENGTH - 1 ? (int32_t)(row % VOCAB)
                                                  : (int32_t)random_below(3, 0, (uint64_t)row + 1, VOCAB);
    }
    targets[4] = -1;
    return 0;
}

static int finish(void **state) {
    (void)state;
    return folder_remove(folder, NULL);
}

/* ---- pieces ------------------------------------------------------------------------------------------------------ */

static float logits[4][1 + DEPTHS][ROWS][VOCAB];

static void begin(struct graph *graph, struct memory *memory, const struct model *model) {
    struct error error;
    assert_int_equal(memory_create(memory, (size_t)32 << 20, &error), STATUS_OK);
    graph_init(graph, model->kernels, model->pool, memory, model->compute, false, false);
}

static void end(struct graph *graph, struct memory *memory) {
    assert_int_equal(graph->status, STATUS_OK);
    assert_null(memory->outside);
    graph_destroy(graph);
    memory_destroy(memory);
}

/* Trunk and modules over texts first..last, in rounds of `chunk` positions of each; with sequences, or (chunk LENGTH)
 * without. Row s * LENGTH + i of depth k holds the logits of position i, from 0 to LENGTH - 1 - k. */
static void run_pieces(struct model *model, int first, int last, int chunk, bool states,
                       float out[1 + DEPTHS][ROWS][VOCAB]) {
    struct graph graph;
    struct memory memory;
    struct error error;
    struct sequence *sequences[SEQUENCES];
    begin(&graph, &memory, model);
    for (int s = first; s < last && states; s++)
        assert_int_equal(sequence_create(&sequences[s], model, LENGTH, &error), STATUS_OK);
    for (int p = 0; p < LENGTH; p += chunk) {
        struct tensor *h = NULL;
        int width = 0;   /* positions of each text in h */
        graph_reset(&graph);
        for (int k = 0; k <= DEPTHS; k++) {
            const int to = p + chunk < LENGTH - k ? p + chunk : LENGTH - k, count = to - p;
            struct span spans[SEQUENCES];
            int32_t ids[ROWS], rows[ROWS];
            int used = 0;
            if (count <= 0) break;
            for (int s = first; s < last; s++) {
                spans[s - first] = (struct span){
                    .sequence = states ? sequences[s] : NULL, .row = used, .count = count, .position = p};
                for (int i = 0; i < count; i++, used++) {
                    ids[used] = tokens[s * LENGTH + p + i + k];
                    rows[used] = (s - first) * width + i;
                }
            }
            const struct batch batch = {ids, used, spans, last - first};
            h = k == 0 ? model_forward(&graph, model, &batch)
                       : model_forward_mtp(&graph, model, k, op_rows(&graph, h, rows, used), &batch);
            assert_int_equal(graph.status, STATUS_OK);
            float *got = malloc((size_t)used * VOCAB * sizeof *got);
            op_logits(&graph, h, model->head, NULL, used, got);
            for (int s = first, row = 0; s < last; s++, row += count)
                memcpy(out[k][s * LENGTH + p], got + row * VOCAB, (size_t)count * VOCAB * sizeof *got);
            free(got);
            width = count;
            /* the trunk's, whatever the modules do */
            for (int s = first; s < last && states; s++)
                assert_int_equal(sequences[s]->length, p + chunk < LENGTH ? p + chunk : LENGTH);
        }
    }
    for (int s = first; s < last && states; s++) sequence_destroy(sequences[s]);
    end(&graph, &memory);
}

static struct model *open_folder(const char *path, enum isa isa, struct pool *pool, enum compute compute,
                                 enum cache_type cache, bool mtp) {
    struct error error;
    struct model *model = NULL;
    const struct model_options options = {
        .use = MODEL_INFERENCE, .compute = compute, .cache = cache, .mtp = mtp};
    if (model_open(&model, path, kernels_for(isa), pool, &options, &error)) fail_msg("%s", error.message);
    assert_int_equal(model->warning_count, 0);
    return model;
}

static struct model *open_model(enum isa isa, struct pool *pool, enum compute compute, enum cache_type cache,
                                bool mtp) {
    return open_folder(folder, isa, pool, compute, cache, mtp);
}

static double distance(const float *a, const float *b, size_t count) {
    double sum = 0, norm = 0;
    for (size_t i = 0; i < count; i++) sum += pow((double)a[i] - (double)b[i], 2), norm += pow((double)b[i], 2);
    return sqrt(sum / norm);
}

/* All at once, by fives, token by token; every text alone: the same bits, on one thread and on two. What training
 * computes (expanded attention) is near. */
static void pieces_change_nothing(void **state) {
    (void)state;
    struct error error;
    struct pool *pool;
    assert_int_equal(pool_create(&pool, 2, &error), STATUS_OK);
    static const struct {
        enum compute compute;
        enum cache_type cache;
    } types[] = {{COMPUTE_F32, CACHE_F32}, {COMPUTE_BF16, CACHE_BF16}};
    for (int isa = 0; isa < ISA_COUNT; isa++)
        for (size_t t = 0; t < sizeof types / sizeof *types && isa_available((enum isa)isa); t++) {
            memset(logits, 0, sizeof logits);
            struct model *model = open_model((enum isa)isa, pool, types[t].compute, types[t].cache, true);
            run_pieces(model, 0, SEQUENCES, LENGTH, true, logits[0]);
            run_pieces(model, 0, SEQUENCES, 5, true, logits[1]);
            run_pieces(model, 0, SEQUENCES, 1, true, logits[2]);
            model_destroy(model);
            model = open_model((enum isa)isa, NULL, types[t].compute, types[t].cache, true);
            for (int s = 0; s < SEQUENCES; s++) run_pieces(model, s, s + 1, 4, true, logits[3]);
            for (int i = 1; i < 4; i++) assert_memory_equal(logits[i], logits[0], sizeof logits[0]);
            model_destroy(model);
            model = training_model(CONFIG(2), (enum isa)isa, pool, types[t].compute);
            model_repack(model);
            run_pieces(model, 0, SEQUENCES, LENGTH, false, logits[1]);
            for (int k = 0; k <= DEPTHS; k++) {
                const double off = distance(logits[1][k][0], logits[0][k][0], ROWS * VOCAB);
                if (!(off < (types[t].compute == COMPUTE_F32 ? 1e-5 : 0.2)))
                    fail_msg("depth %d in %s: off by %g", k, precision_names[types[t].compute], off);
            }
            model_destroy(model);
            /* without modules the trunk is the same, and sequences keep nothing of them */
            struct sequence *with, *without;
            model = open_model((enum isa)isa, pool, types[t].compute, types[t].cache, true);
            struct model *trunk = open_model((enum isa)isa, pool, types[t].compute, types[t].cache, false);
            assert_true(model->config.num_nextn_predict_layers == DEPTHS && model->mtp &&
                        trunk->config.num_nextn_predict_layers == 0 && !trunk->mtp);
            assert_int_equal(sequence_create(&with, model, 64, &error), STATUS_OK);
            assert_int_equal(sequence_create(&without, trunk, 64, &error), STATUS_OK);
            assert_true(with->state_bytes >= without->state_bytes / LAYERS * (LAYERS + DEPTHS));
            sequence_destroy(with);
            sequence_destroy(without);
            model_destroy(model);
            model_destroy(trunk);
        }
    pool_destroy(pool);
}

/* The same over an FP8 checkpoint, whatever its codes are multiplied by. Types of compute are near one another, and not
 * the same. */
static void pieces_of_codes_change_nothing(void **state) {
    (void)state;
    struct error error;
    struct pool *pool;
    struct quantize_counts counts;
    char plain[64], fp8[64];
    snprintf(plain, sizeof plain, "%s/plain", folder);
    snprintf(fp8, sizeof fp8, "%s/fp8", folder);
    assert_int_equal(pool_create(&pool, 2, &error), STATUS_OK);
    struct model *model = training_model(FP8_CONFIG, ISA_REFERENCE, NULL, COMPUTE_F32);
    if (model_export(model, plain, DTYPE_BF16, &error) ||
        model_quantize(plain, fp8, &number_formats[FORMAT_FP8], pool, NULL, &counts, &error))
        fail_msg("%s", error.message);
    model_destroy(model);
    static const struct {
        enum compute compute; enum cache_type cache;
    } types[] = {
        {COMPUTE_F32, CACHE_F32}, {COMPUTE_BF16, CACHE_BF16}, {COMPUTE_FP8, CACHE_BF16}, {COMPUTE_FP8, CACHE_FP8}};
    static float first[1 + DEPTHS][ROWS][VOCAB];
    for (int isa = 0; isa < ISA_COUNT; isa++)
        for (size_t t = 0; t < sizeof types / sizeof *types && isa_available((enum isa)isa); t++) {
            if (isa == ISA_REFERENCE && types[t].cache == CACHE_FP8) continue;   /* plain C is slow */
            memset(logits, 0, sizeof logits);
            model = open_folder(fp8, (enum isa)isa, pool, types[t].compute, types[t].cache, true);
            run_pieces(model, 0, SEQUENCES, LENGTH, true, logits[0]);
            run_pieces(model, 0, SEQUENCES, 1, true, logits[1]);
            model_destroy(model);
            model = open_folder(fp8, (enum isa)isa, NULL, types[t].compute, types[t].cache, true);
            for (int s = 0; s < SEQUENCES; s++) run_pieces(model, s, s + 1, 4, true, logits[2]);
            for (int i = 1; i < 3; i++) assert_memory_equal(logits[i], logits[0], sizeof logits[0]);
            model_destroy(model);
            if (t == 0) memcpy(first, logits[0], sizeof first);
            for (int k = 0; k <= DEPTHS && t > 0; k++) {
                const double off = distance(logits[0][k][0], first[k][0], ROWS * VOCAB);
                if (!(off > 1e-4 && off < (t == 1 ? 0.03 : 0.2)))
                    fail_msg("depth %d in %s: off by %g", k, precision_names[types[t].compute], off);
            }
        }
    pool_destroy(pool);
}

/* ---- training ---------------------------------------------------------------------------------------------------- */

static struct objective objective_of(double mtp, double balance) {
    struct objective objective = {.weights = {[LOSS_MTP] = mtp, [LOSS_BALANCE_SEQUENCE] = balance},
                                  .sequences = SEQUENCES};
    for (int row = 0; row < ROWS; row++) {
        objective.predicted += targets[row] >= 0;
        for (int k = 1; k <= DEPTHS; k++) objective.predicted_mtp[k - 1] += row % LENGTH >= k && targets[row] >= 0;
    }
    return objective;
}

/* The whole step in micro-batches of `together` sequences. Returns the weighted loss. */
static double train(struct model *model, struct objective *objective, int together) {
    struct graph graph;
    struct memory memory;
    struct error error;
    for (int i = 0; i < model->parameter_count; i++) parameter_gradient_clear(model->parameters[i]);
    const size_t bytes = model_plan_training(model, together, LENGTH, objective, NULL);
    assert_int_equal(memory_create(&memory, bytes, &error), STATUS_OK);
    graph_init(&graph, model->kernels, model->pool, &memory, model->compute, true, false);
    struct loss_sums sums = {0};
    for (int s = 0; s < SEQUENCES; s += together) {
        objective->first_sequence = s;
        if (model_train_micro_batch(&graph, model, tokens + s * LENGTH, targets + s * LENGTH, together, LENGTH,
                                    objective, NULL, &error))
            fail_msg("%s", error.message);
        loss_sums_add(&sums, &objective->sums);
    }
    objective->sums = sums;
    assert_int_equal(memory.peak, bytes);   /* what was planned, to the byte */
    end(&graph, &memory);
    double loss = sums.main / (double)objective->predicted +
                  objective->weights[LOSS_BALANCE_SEQUENCE] * sums.parts[LOSS_BALANCE_SEQUENCE];
    for (int k = 0; k < DEPTHS; k++)
        loss += objective->weights[LOSS_MTP] / DEPTHS * sums.mtp[k] / (double)objective->predicted_mtp[k];
    return loss;
}

static double row_loss(const float *row, int32_t target) {
    double sum = 0;
    for (int v = 0; v < VOCAB; v++) sum += exp((double)row[v]);
    return log(sum) - (double)row[target];
}

static int best_of(const float *row) {
    int best = 0;
    for (int v = 1; v < VOCAB; v++)
        if (row[v] > row[best]) best = v;
    return best;
}

/* Loads of every router, and the objective that fills them. */
struct loads { struct expert_load list[LAYERS + DEPTHS]; int64_t counts[LAYERS + DEPTHS][EXPERTS]; };

static void attach_loads(struct objective *objective, struct loads *loads) {
    *loads = (struct loads){0};
    for (int l = 1; l < LAYERS + DEPTHS; l++) loads->list[l].counts = loads->counts[l];
    objective->loads = loads->list;
}

/* sums.mtp is the cross-entropy of depth k at position i against the target k positions on, from the outputs of the
 * modules called one by one; evaluation counts where both guesses are the same. */
static void training_is_the_composition_of_its_parts(void **state) {
    (void)state;
    enum isa isa;
    struct error error;
    assert_int_equal(isa_select(&isa, &error), STATUS_OK);
    struct model *model = training_model(CONFIG(2), isa, NULL, COMPUTE_F32);
    memset(logits[0], 0, sizeof logits[0]);
    run_pieces(model, 0, SEQUENCES, LENGTH, false, logits[0]);
    struct objective objective = objective_of(0.3, 0),
                     evaluated = {.predicted = objective.predicted, .sequences = SEQUENCES, .compare_mtp = true};
    memcpy(evaluated.predicted_mtp, objective.predicted_mtp, sizeof objective.predicted_mtp);
    struct loads loads;
    attach_loads(&objective, &loads);
    train(model, &objective, 1);
    struct graph graph;
    struct memory memory;
    begin(&graph, &memory, model);
    if (model_train_micro_batch(&graph, model, tokens, targets, SEQUENCES, LENGTH, &evaluated, NULL, &error))
        fail_msg("%s", error.message);
    end(&graph, &memory);
    double main_sum = 0;
    for (int row = 0; row < ROWS; row++) main_sum += targets[row] < 0 ? 0 : row_loss(logits[0][0][row], targets[row]);
    assert_true(fabs(objective.sums.main - main_sum) < 1e-5 * main_sum &&
                fabs(evaluated.sums.main - main_sum) < 1e-5 * main_sum);
    for (int k = 1; k <= DEPTHS; k++) {
        double sum = 0;
        int64_t compared = 0, agreed = 0;
        for (int row = 0; row < ROWS; row++) {
            if (row % LENGTH >= LENGTH - k || targets[row + k] < 0) continue;
            sum += row_loss(logits[0][k][row], targets[row + k]);
            compared++;
            agreed += best_of(logits[0][k][row]) == best_of(logits[0][0][row + k]);
        }
        assert_int_equal(objective.predicted_mtp[k - 1], compared);
        assert_true(fabs(objective.sums.mtp[k - 1] - sum) < 1e-5 * sum);
        assert_true(fabs(evaluated.sums.mtp[k - 1] - sum) < 1e-5 * sum);
        assert_int_equal(evaluated.sums.mtp_compared[k - 1], compared);
        assert_int_equal(evaluated.sums.mtp_agreed[k - 1], agreed);
    }
    /* every position of a module counts in its router's load, targets or not */
    for (int l = 1; l < LAYERS + DEPTHS; l++) {
        int64_t total = 0;
        for (int e = 0; e < EXPERTS; e++) total += loads.counts[l][e];
        assert_int_equal(total, SEQUENCES * (LENGTH - (l < LAYERS ? 0 : l - LAYERS + 1)) * ACTIVE);
    }
    assert_true(objective.sums.mtp_compared[0] == 0); /* not asked for */
    model_destroy(model);
}

/* Each parameter along its own gradient: the slope of the loss is the gradient's norm. fp32 rounds the loss to about
 * 1e-7 of it, and steps change it by about 1e-3. Where a step moves a token to another expert the loss jumps, and
 * nothing is compared. */
static void gradients_are_slopes(void **state) {
    (void)state;
    enum isa isa;
    struct error error;
    assert_int_equal(isa_select(&isa, &error), STATUS_OK);
    struct model *model = training_model(CONFIG(2), isa, NULL, COMPUTE_F32);
    struct objective objective = objective_of(0.5, 0.01);
    struct loads base, other;
    attach_loads(&objective, &base);
    train(model, &objective, SEQUENCES);
    float **gradients = calloc((size_t)model->parameter_count, sizeof *gradients);
    int checked = 0;
    for (int i = 0; i < model->parameter_count; i++) {
        const struct parameter *p = model->parameters[i];
        gradients[i] = calloc((size_t)p->count, sizeof(float));
        if (p->grad_written) memcpy(gradients[i], p->grad, (size_t)p->count * sizeof(float));
        /* an expert may have no token */
        assert_true(p->grad_written == parameter_trained(p) || strstr(p->name, ".experts."));
    }
    for (int i = 0; i < model->parameter_count; i++) {
        struct parameter *p = model->parameters[i];
        double norm = 0, values[2];
        for (int64_t e = 0; e < p->count; e++) norm += (double)gradients[i][e] * (double)gradients[i][e];
        norm = sqrt(norm);
        if (norm == 0) continue;
        float *saved = malloc((size_t)p->count * sizeof *saved);
        memcpy(saved, p->value, (size_t)p->count * sizeof *saved);
        const double step = fmin(1e-3 / norm, 0.01);
        bool jumped = false;
        for (int side = 0; side < 2; side++) {
            for (int64_t e = 0; e < p->count; e++)
                p->value[e] = (float)((double)saved[e] + (side ? -step : step) * (double)gradients[i][e] / norm);
            struct objective moved = objective_of(0.5, 0.01);
            attach_loads(&moved, &other);
            values[side] = train(model, &moved, SEQUENCES);
            jumped |= memcmp(base.counts, other.counts, sizeof base.counts) != 0;
        }
        memcpy(p->value, saved, (size_t)p->count * sizeof *saved);
        free(saved);
        if (jumped) continue;
        const double slope = (values[0] - values[1]) / (2 * step);
        const double allowed = 0.01 * norm + 2e-6 / step;
        if (fabs(slope - norm) > allowed)
            fail_msg("%s: slope %g, gradient %g, off by more than %g", p->name, slope, norm, allowed);
        checked += allowed < 0.1 * norm;
    }
    assert_true(checked > model->parameter_count * 9 / 10);
    for (int i = 0; i < model->parameter_count; i++) free(gradients[i]);
    free(gradients);
    model_destroy(model);
}

static void same_gradients(const struct model *a, const struct model *b) {
    for (int i = 0; i < b->parameter_count; i++) {
        const struct parameter *q = b->parameters[i], *p = model_parameter(a, q->name);
        assert_int_equal(p->grad_written, q->grad_written);
        if (q->grad_written && memcmp(p->grad, q->grad, (size_t)q->count * sizeof(float)))
            fail_msg("%s: other gradients", q->name);
    }
}

/* Weight 0: the modules are not run, and the trunk's gradients are those of a model that has none. */
static void no_weight_leaves_no_trace(void **state) {
    (void)state;
    enum isa isa;
    struct error error;
    assert_int_equal(isa_select(&isa, &error), STATUS_OK);
    for (int type = 0; type < 2; type++) {
        struct model *with = training_model(CONFIG(2), isa, NULL, type ? COMPUTE_BF16 : COMPUTE_F32),
                     *without = training_model(CONFIG(0), isa, NULL, type ? COMPUTE_BF16 : COMPUTE_F32);
        struct objective a = objective_of(0, 0.01), b = objective_of(0, 0.01), weighted = objective_of(0.3, 0.01);
        train(with, &a, SEQUENCES);
        train(without, &b, SEQUENCES);
        assert_true(a.sums.main == b.sums.main &&
                    a.sums.parts[LOSS_BALANCE_SEQUENCE] == b.sums.parts[LOSS_BALANCE_SEQUENCE] && a.sums.mtp[0] == 0);
        same_gradients(with, without);
        for (int i = without->parameter_count; i < with->parameter_count; i++)
            assert_false(with->parameters[i]->grad_written);
        /* with a weight the trunk's loss is the same, and the trunk learns from both */
        train(with, &weighted, SEQUENCES);
        assert_true(weighted.sums.main == b.sums.main &&
                    weighted.sums.parts[LOSS_BALANCE_SEQUENCE] > b.sums.parts[LOSS_BALANCE_SEQUENCE] &&
                    weighted.sums.mtp[1] > 0);
        assert_memory_not_equal(with->parameters[1]->grad, without->parameters[1]->grad,
                                (size_t)without->parameters[1]->count * sizeof(float));
        model_destroy(with);
        model_destroy(without);
    }
}

/* What is computed twice has the same bits; micro-batches have the same sums. In bf16, and in fp8 as far as it keeps
 * the same tensors. */
static void recomputing_changes_nothing(void **state) {
    (void)state;
    enum isa isa;
    struct error error;
    struct pool *pool;
    assert_int_equal(isa_select(&isa, &error), STATUS_OK);
    assert_int_equal(pool_create(&pool, 2, &error), STATUS_OK);
    static const enum compute types[] = {COMPUTE_F32, COMPUTE_BF16};
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        struct model *models[3];
        double losses[3];
        for (int mode = 0; mode < 3; mode++) {
            struct objective objective = objective_of(0.3, 0.01);
            models[mode] = training_model(CONFIG(2), isa, mode == 1 ? pool : NULL, types[t]);
            models[mode]->recompute = (enum recompute)mode;
            losses[mode] = train(models[mode], &objective, SEQUENCES);
            if (mode) same_gradients(models[mode], models[0]);
        }
        assert_true(losses[1] == losses[0] && losses[2] == losses[0]);
        struct objective split = objective_of(0.3, 0.01);
        assert_true(fabs(train(models[0], &split, 1) - losses[0]) < 1e-12 * losses[0]);
        for (int mode = 0; mode < 3; mode++) model_destroy(models[mode]);
    }
    pool_destroy(pool);
}

/* In fp8 the loss and the gradients stay near those of fp32 (E4M3 has steps of 2^-3: some percent for each product on
 * the way, a tenth of that in bf16), what stays in a higher precision is not quantised, and the bits depend neither on
 * threads nor on what is computed twice. */
static void fp8_trains(void **state) {
    (void)state;
    struct error error;
    struct pool *pool;
    assert_int_equal(pool_create(&pool, 2, &error), STATUS_OK);
    enum isa isa;
    assert_int_equal(isa_select(&isa, &error), STATUS_OK);
    struct model *exact = training_model(FP8_CONFIG, isa, NULL, COMPUTE_F32), *models[2];
    struct objective objective = objective_of(0.3, 0.01);
    const double loss = train(exact, &objective, SEQUENCES);
    double losses[2];
    for (int i = 0; i < 2; i++) {
        objective = objective_of(0.3, 0.01);
        models[i] = training_model(FP8_CONFIG, isa, i ? pool : NULL, COMPUTE_FP8);
        model_repack(models[i]);
        if (i) models[i]->recompute = RECOMPUTE_BLOCKS;
        losses[i] = train(models[i], &objective, SEQUENCES);
        assert_true(fabs(losses[i] - loss) < 0.02 * loss && losses[i] != loss);
    }
    assert_true(losses[0] == losses[1]);
    same_gradients(models[1], models[0]);
    for (int i = 0; i < exact->parameter_count; i++) {
        const struct parameter *p = models[0]->parameters[i], *q = exact->parameters[i];
        const bool higher = p == models[0]->head || strstr(p->name, "eh_proj") != NULL,
                   router = strstr(p->name, "mlp.gate.weight") != NULL;
        if (p->kind == PARAMETER_MATRIX)
            assert_int_equal(p->compute, router ? COMPUTE_F32 : higher ? COMPUTE_BF16 : COMPUTE_FP8);
        const bool routed = strstr(p->name, ".experts.") != NULL;
        assert_true(p->x_power_of_two == (strstr(p->name, "o_proj") || (routed && !strstr(p->name, "down_proj"))));
        assert_true(p->dy_power_of_two == (routed && strstr(p->name, "down_proj")));
        if (!q->grad_written) continue;
        const double off = distance(p->grad, q->grad, (size_t)p->count);
        if (!(off > 0.02 && off < 0.35)) fail_msg("%s: gradients off by %g", p->name, off);
    }
    model_destroy(exact);
    for (int i = 0; i < 2; i++) model_destroy(models[i]);
    pool_destroy(pool);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_change_nothing),
        cmocka_unit_test(pieces_of_codes_change_nothing),
        cmocka_unit_test(training_is_the_composition_of_its_parts),
        cmocka_unit_test(gradients_are_slopes),
        cmocka_unit_test(no_weight_leaves_no_trace),
        cmocka_unit_test(recomputing_changes_nothing),
        cmocka_unit_test(fp8_trains),
    };
    return cmocka_run_group_tests(tests, prepare, finish);
}
