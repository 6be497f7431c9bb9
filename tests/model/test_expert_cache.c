/* Experts that stay in the file: logits are the bits of a model in memory whatever the cache's size and content, in
 * every type, for any threads and batches, from several engines at once; what cannot be read is said, and leaves
 * sequences as they were; memory is not taken twice. */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/random.h"
#include "infer/infer.h"
#include "io/json.h"
#include "model/blocks.h"
#include "model/expert_cache.h"
#include "model/quantize.h"

enum { VOCAB = 67, EXPERTS = 8, MOE_LAYERS = 2, SEQUENCES = 3, LENGTH = 9, STEPS = 4 };

#define COMMON                                                                                                         \
    "\"architectures\":[\"DeepseekV2ForCausalLM\"],\"hidden_act\":\"silu\",\"hidden_size\":160,\"intermediate_size\":" \
    "48,\"num_hidden_layers\":3,\"vocab_size\":67,\"initializer_range\":0.2,"                                          \
    "\"num_attention_heads\":2,\"num_key_value_heads\":2,\"moe_intermediate_size\":56,\"num_experts_per_tok\":3,"      \
    "\"moe_layer_freq\":1,\"scoring_func\":\"softmax\",\"norm_topk_prob\":false,"                                      \
    "\"topk_method\":\"greedy\",\"n_group\":1,\"topk_group\":1,\"routed_scaling_factor\":1.0,\"kv_lora_rank\":64,\"q_" \
    "lora_rank\":null,\"qk_nope_head_dim\":16,\"qk_rope_head_dim\":64,\"v_head_dim\":16,"                              \
    "\"max_position_embeddings\":64,\"rms_norm_eps\":1e-6,\"rope_theta\":10000.0,\"tie_word_embeddings\":false,"       \
    "\"attention_bias\":false"
static const char routed_config[] =
    "{\"model_type\":\"deepseek_v2\",\"n_routed_experts\":8,\"n_shared_experts\":1,\"first_k_dense_replace\":1," COMMON
    "}";
static const char dense_config[] =
    "{\"model_type\":\"deepseek\",\"hidden_act\":\"silu\",\"hidden_size\":16,\"intermediate_size\":16,\"num_hidden_"
    "layers\":1,\"vocab_size\":67,\"num_attention_heads\":1,\"num_key_value_heads\":1,"
    "\"max_position_embeddings\":64,\"rms_norm_eps\":1e-6,\"rope_theta\":10000.0,\"initializer_range\":0.2}";

enum kind { FP32, BF16, FP8, DENSE, KINDS };
static const char *const names[KINDS] = {"fp32", "bf16", "fp8", "dense"};
static char folder[] = "/tmp/test_expert_cache_XXXXXX";
static enum isa isa;
static struct pool *pools[2];   /* one thread, two */

static const char *folder_of(enum kind kind) {
    static char path[4][80];
    static int next;
    char *text = path[next++ % 4];
    snprintf(text, sizeof *path, "%s/%s", folder, names[kind]);
    return text;
}

static enum status export(const char *text, enum kind kind, enum dtype dtype, struct error *error) {
    struct arena arena = {0};
    struct config config;
    struct model *model;
    json_t *root = json_loads(text, 0, NULL);
    enum status status = config_parse(&config, root, "test", &arena, error);
    json_decref(root);
    if (!status && !(status = model_create(&model, &config, kernels_for(isa), NULL, COMPUTE_F32, error))) {
        if (!(status = model_allocate_training(model, error))) {
            model_initialise(model, 3);
            status = model_export(model, folder_of(kind), dtype, error);
        }
        model_destroy(model);
    }
    arena_free(&arena);
    return status;
}

static int make(void **state) {
    (void)state;
    struct error error = {0};
    struct quantize_counts counts;
    const int failed = !mkdtemp(folder) || isa_select(&isa, &error) || pool_create(&pools[0], 1, &error) ||
                       pool_create(&pools[1], 2, &error) || export(routed_config, FP32, DTYPE_F32, &error) ||
                       export(routed_config, BF16, DTYPE_BF16, &error) ||
                       export(dense_config, DENSE, DTYPE_F32, &error) ||
                       model_quantize(folder_of(BF16), folder_of(FP8), &number_formats[FORMAT_FP8], pools[0], NULL,
                                      &counts, &error);
    if (failed) fprintf(stderr, "%s\n", error.message);
    return failed;
}

static int clean(void **state) {
    (void)state;
    pool_destroy(pools[0]);
    pool_destroy(pools[1]);
    return folder_remove(folder, NULL) != STATUS_OK;
}

static enum status open_model(struct model **model, enum kind kind, enum compute compute, int threads, uint64_t cache,
                              struct error *error) {
    const struct model_options options = {
        .use = MODEL_INFERENCE, .compute = compute, .cache = CACHE_COUNT, .expert_cache = cache};
    return model_open(model, folder_of(kind), kernels_for(isa), pools[threads - 1], &options, error);
}

static struct model *opened(enum kind kind, enum compute compute, int threads, uint64_t cache) {
    struct model *model;
    struct error error;
    if (open_model(&model, kind, compute, threads, cache, &error)) fail_msg("%s", error.message);
    return model;
}

static size_t slot_bytes(enum kind kind) {
    struct model *model = opened(kind, COMPUTE_F32, 1, 0);
    const size_t bytes = expert_cache_slot_bytes(model);
    model_destroy(model);
    return bytes;
}

static int32_t token(int sequence, int position) {
    return (int32_t)random_below(5, (uint64_t)sequence, (uint64_t)position, VOCAB);
}

/* Prompts of several sequences together, then some tokens of each: logits [SEQUENCES, LENGTH + STEPS, VOCAB]. */
static enum status run(struct model *model, float *logits, struct error *error) {
    struct engine *engine;
    struct sequence *sequences[SEQUENCES] = {0};
    int32_t ids[SEQUENCES][LENGTH + STEPS];
    struct feed feeds[SEQUENCES];
    enum status status = engine_create(&engine, model, 0, error);
    for (int s = 0; s < SEQUENCES && !status; s++) {
        for (int t = 0; t < LENGTH + STEPS; t++) ids[s][t] = token(s, t);
        status = sequence_create(&sequences[s], model, LENGTH + STEPS, error);
        feeds[s] = (struct feed){sequences[s], ids[s], LENGTH, logits + s * (LENGTH + STEPS) * VOCAB, true};
    }
    if (!status) status = engine_feed(engine, feeds, SEQUENCES, 0, error);
    for (int t = LENGTH; t < LENGTH + STEPS && !status; t++) {
        for (int s = 0; s < SEQUENCES; s++)
            feeds[s] = (struct feed){sequences[s], &ids[s][t], 1, logits + (s * (LENGTH + STEPS) + t) * VOCAB, true};
        status = engine_feed(engine, feeds, t % 2 ? SEQUENCES : 1, 0, error);
        if (!status && t % 2 == 0) status = engine_feed(engine, feeds + 1, SEQUENCES - 1, 0, error);
    }
    for (int s = 0; s < SEQUENCES; s++) sequence_destroy(sequences[s]);
    engine_destroy(engine);
    return status;
}

#define LOGITS (SEQUENCES * (LENGTH + STEPS) * VOCAB)

static void same(const float *a, const float *b, const char *what) {
    for (int i = 0; i < LOGITS; i++)
        if (memcmp(&a[i], &b[i], sizeof *a) != 0 || !isfinite(a[i]))
            fail_msg("%s: logit %d is %.9g with all weights in memory and %.9g with a cache", what, i, (double)a[i],
                     (double)b[i]);
}

static void test_bits(void **state) {
    (void)state;
    static const struct {
        enum kind kind;
        enum compute compute;
    } cases[] = {{FP32, COMPUTE_F32},    {FP32, COMPUTE_BF16}, {BF16, COMPUTE_BF16}, {BF16, COMPUTE_F32},
                 {FP8, COMPUTE_FP8}, {FP8, COMPUTE_BF16},  {FP8, COMPUTE_F32}};
    static const int slots[] = {1, 2, 5, 100};
    static float wanted[LOGITS], found[LOGITS];
    struct error error;
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct model *model = opened(cases[c].kind, cases[c].compute, 1, 0);
        const size_t slot = expert_cache_slot_bytes(model), packed = model_packed_bytes(model, 1);
        assert_null(model->expert_cache);
        if (run(model, wanted, &error)) fail_msg("%s", error.message);
        model_destroy(model);
        for (size_t i = 0; i < sizeof slots / sizeof *slots; i++) {
            const int threads = 1 + (int)(i % 2);
            model = opened(cases[c].kind, cases[c].compute, threads, slot * (size_t)slots[i] + slot / 2);
            assert_int_equal(expert_cache_slots(model->expert_cache),
                             slots[i] < MOE_LAYERS * EXPERTS ? slots[i] : MOE_LAYERS * EXPERTS);
            assert_true(model_packed_bytes(model, 1) < packed);   /* nothing of the experts */
            memset(found, 0, sizeof found);
            for (int again = 0; again < 2; again++) {   /* with an empty cache and with a full one */
                if (run(model, found, &error)) fail_msg("%s", error.message);
                same(wanted, found, names[cases[c].kind]);
            }
            model_destroy(model);
        }
    }
}

/* A header that is longer by spaces puts every number at an odd address. */
static void test_odd_addresses(void **state) {
    (void)state;
    static float wanted[LOGITS], found[LOGITS];
    struct error error;
    for (int kind = FP32; kind <= BF16; kind++)
        for (int spaces = 1; spaces < 4; spaces++) {
            char path[120], *whole, *shifted;
            size_t size;
            uint64_t header;
            snprintf(path, sizeof path, "%s/model.safetensors", folder_of((enum kind)kind));
            if (file_read(path, 1 << 30, &whole, &size, &error)) fail_msg("%s", error.message);
            memcpy(&header, whole, 8);
            assert_non_null(shifted = malloc(size + 4));
            memcpy(shifted, whole, 8 + header);
            memset(shifted + 8 + header, ' ', (size_t)spaces);
            memcpy(shifted + 8 + header + spaces, whole + 8 + header, size - 8 - header);
            header += (uint64_t)spaces;
            memcpy(shifted, &header, 8);
            if (file_replace(path, shifted, size + (size_t)spaces, &error)) fail_msg("%s", error.message);
            for (int cached = 0; cached < 2; cached++) {
                struct model *model = opened((enum kind)kind, COMPUTE_BF16, 2,
                                             cached ? 5 * slot_bytes((enum kind)kind) : 0);
                if (run(model, cached ? found : wanted, &error)) fail_msg("%s", error.message);
                model_destroy(model);
            }
            same(wanted, found, "odd addresses");
            if (file_replace(path, whole, size, &error)) fail_msg("%s", error.message);
            free(shifted);
            free(whole);
        }
}

/* What fits is read once; what does not, once for every layer of a pass. */
static void test_bytes(void **state) {
    (void)state;
    static float logits[LOGITS];
    struct error error;
    const size_t slot = slot_bytes(BF16), expert = 3 * 160 * 56 * 2;
    struct model *model = opened(BF16, COMPUTE_BF16, 1, 100 * slot);
    if (run(model, logits, &error)) fail_msg("%s", error.message);
    const struct expert_cache_counts first = expert_cache_counts(model->expert_cache);
    assert_true(first.asked > 0 && first.found > 0 && first.found < first.asked);
    assert_true(first.bytes_read >= (uint64_t)(first.asked - first.found) * expert &&
                first.bytes_read <= MOE_LAYERS * EXPERTS * slot);
    assert_true(first.asked - first.found <= MOE_LAYERS * EXPERTS);
    if (run(model, logits, &error)) fail_msg("%s", error.message);
    const struct expert_cache_counts second = expert_cache_counts(model->expert_cache);
    assert_int_equal(second.bytes_read, first.bytes_read);
    assert_int_equal(second.asked, 2 * first.asked);
    assert_int_equal(second.found - first.found, first.asked);
    model_destroy(model);

    model = opened(BF16, COMPUTE_BF16, 1, slot);
    struct engine *engine;
    struct sequence *sequence = NULL;
    int32_t ids[LENGTH];
    for (int t = 0; t < LENGTH; t++) ids[t] = token(0, t);
    if (engine_create(&engine, model, 0, &error) || sequence_create(&sequence, model, LENGTH, &error))
        fail_msg("%s", error.message);
    const struct feed feed = {sequence, ids, LENGTH, NULL, false};
    if (engine_feed(engine, &feed, 1, 0, &error)) fail_msg("%s", error.message);
    const struct expert_cache_counts one = expert_cache_counts(model->expert_cache);
    assert_true(one.asked > MOE_LAYERS);
    /* each part of an expert once, though there is one slot */
    assert_true(one.bytes_read <= (uint64_t)one.asked * slot);
    sequence_destroy(sequence);
    engine_destroy(engine);
    double speed = 0;
    if (expert_cache_measure(model->expert_cache, 0.01, &speed, &error)) fail_msg("%s", error.message);
    assert_true(speed > 0);
    if (run(model, logits, &error)) fail_msg("%s", error.message);
    model_destroy(model);
}

struct job { struct model *model; float logits[LOGITS]; enum status status; struct error error; };

static void *run_job(void *context) {
    struct job *job = context;
    for (int again = 0; again < 3 && !job->status; again++) job->status = run(job->model, job->logits, &job->error);
    return NULL;
}

static void test_engines(void **state) {
    (void)state;
    static float wanted[LOGITS];
    static struct job jobs[3];
    struct error error;
    struct model *model = opened(BF16, COMPUTE_BF16, 1, 0);
    if (run(model, wanted, &error)) fail_msg("%s", error.message);
    model_destroy(model);
    for (int slots = 1; slots <= 4; slots += 3) {
        model = opened(BF16, COMPUTE_BF16, 2, slot_bytes(BF16) * (size_t)slots);
        pthread_t threads[3];
        for (int i = 0; i < 3; i++) {
            jobs[i] = (struct job){.model = model};
            assert_int_equal(pthread_create(&threads[i], NULL, run_job, &jobs[i]), 0);
        }
        for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
        for (int i = 0; i < 3; i++) {
            if (jobs[i].status) fail_msg("%s", jobs[i].error.message);
            same(wanted, jobs[i].logits, "three engines");
        }
        model_destroy(model);
    }
}

/* An expert of the last layer that the prompt of sequence 0 is sent to is not known: all of that layer are damaged, one
 * after the other. */
static void test_failures(void **state) {
    (void)state;
    struct error error;
    char path[120], *whole;
    size_t size;
    snprintf(path, sizeof path, "%s/model.safetensors", folder_of(FP8));
    if (file_read(path, 1 << 30, &whole, &size, &error)) fail_msg("%s", error.message);
    enum { CODE, SCALE, END };
    static const char *const found[] = {"found a code that is NaN", "_scale_inv: [0, 0]: found -",
                                        "the file ended"};
    for (int damage = CODE; damage <= END; damage++) {
        struct model *model = opened(FP8, COMPUTE_BF16, 2, 4 * slot_bytes(FP8));
        struct engine *engine;
        struct sequence *sequence = NULL;
        float logits[VOCAB];
        int32_t ids[LENGTH];
        for (int t = 0; t < LENGTH; t++) ids[t] = token(0, t);
        if (engine_create(&engine, model, 0, &error) || sequence_create(&sequence, model, 64, &error))
            fail_msg("%s", error.message);
        struct feed feed = {sequence, ids, 4, logits, false};
        if (engine_feed(engine, &feed, 1, 0, &error)) fail_msg("%s", error.message);

        FILE *file = fopen(path, "r+b");
        assert_non_null(file);
        uint64_t least = UINT64_MAX;
        for (int e = 0; e < EXPERTS; e++) {
            char name[80];
            snprintf(name, sizeof name, "model.layers.2.mlp.experts.%d.up_proj.weight%s", e,
                     damage == SCALE ? "_scale_inv" : "");
            const uint64_t offset = safetensors_offset(model->checkpoint, safetensors_find(model->checkpoint, name));
            if (offset < least) least = offset;
            if (damage == CODE) fseek(file, (long)offset + 37, SEEK_SET), fputc(0x7F, file);
            if (damage == SCALE) fseek(file, (long)offset + 3, SEEK_SET), fputc(0xBF, file);   /* negative */
        }
        fclose(file);
        if (damage == END) assert_int_equal(truncate(path, (off_t)least + 10), 0);
        memset(&error, 0, sizeof error);
        feed = (struct feed){sequence, ids, LENGTH, logits, false};
        for (int again = 0; again < 2; again++) {
            double speed;
            if (expert_cache_measure(model->expert_cache, 0.001, &speed, NULL) == STATUS_OK && damage == END)
                fail_msg("a file without its end was measured");
            assert_int_equal(engine_feed(engine, &feed, 1, 0, &error), damage == END ? STATUS_IO : STATUS_INVALID);
            if (!strstr(error.message, path) || !strstr(error.message, "model.layers.2.mlp.experts.") ||
                !strstr(error.message, found[damage]))
                fail_msg("%s", error.message);
            assert_int_equal(sequence->length, 4);
        }
        file = fopen(path, "r+b");
        assert_non_null(file);
        assert_int_equal(fwrite(whole, 1, size, file), size);
        fclose(file);
        if (engine_feed(engine, &feed, 1, 0, &error)) fail_msg("%s", error.message);   /* nothing of it is left */
        assert_int_equal(sequence->length, 4 + LENGTH);
        sequence_destroy(sequence);
        engine_destroy(engine);
        model_destroy(model);
    }
    free(whole);
}

static void test_refused(void **state) {
    (void)state;
    struct model *model;
    struct error error;
    char least[32];
    assert_int_equal(open_model(&model, BF16, COMPUTE_BF16, 1, 1000, &error), STATUS_INVALID);
    snprintf(least, sizeof least, "%zu", slot_bytes(BF16));
    assert_non_null(strstr(error.message, least));
    assert_int_equal(open_model(&model, DENSE, COMPUTE_F32, 1, 1 << 20, &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "no routed experts"));
}

static void test_automatic(void **state) {
    (void)state;
    struct model *model = opened(BF16, COMPUTE_BF16, 1, 0);
    const uint64_t all = model_packed_bytes(model, 1), slot = expert_cache_slot_bytes(model);
    assert_int_equal(expert_cache_automatic(model, UINT64_MAX), 0);
    assert_int_equal(expert_cache_automatic(model, 2 * all), 0);
    assert_int_equal(expert_cache_automatic(model, all / 8), 3 * slot);   /* the experts of one token */
    const uint64_t some = expert_cache_automatic(model, all);
    assert_true(some >= 3 * slot && some < all && some <= MOE_LAYERS * EXPERTS * slot);
    model_destroy(model);
    model = opened(DENSE, COMPUTE_F32, 1, 0);
    assert_int_equal(expert_cache_automatic(model, 1), 0);
    model_destroy(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_bits),     cmocka_unit_test(test_odd_addresses),
                                       cmocka_unit_test(test_bytes),    cmocka_unit_test(test_engines),
                                       cmocka_unit_test(test_failures), cmocka_unit_test(test_refused),
                                       cmocka_unit_test(test_automatic)};
    return cmocka_run_group_tests(tests, make, clean);
}
