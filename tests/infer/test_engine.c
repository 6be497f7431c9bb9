/* The engine: logits are the same bits however the tokens arrive; bad feeds change nothing. */
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

#define VOCAB 97
#define SEQUENCES 7
#define LONGEST 200

static const int64_t lengths[SEQUENCES] = { 65, 1, 200, 7, 64, 2, 131 };
static int32_t ids[SEQUENCES][LONGEST];
static char folder[] = "/tmp/test_engine_XXXXXX";

/* V1, and latent attention with dimensions that every type of cache has. */
#define COMMON                                                                                                         \
    "\"hidden_act\": \"silu\", \"hidden_size\": 48, \"intermediate_size\": 80, \"num_hidden_layers\": 2, "             \
    "\"vocab_size\": 97, \"max_position_embeddings\": 512,"                                                            \
    " \"rms_norm_eps\": 1e-6, \"rope_theta\": 10000.0, \"initializer_range\": 0.2, \"tie_word_embeddings\": false, "   \
    "\"attention_bias\": false, \"torch_dtype\": \"float32\"}"
enum kind { V1, LATENT, KINDS };
static const char *const kind_names[KINDS] = { "v1", "latent" };
static const char *const config_texts[KINDS] = {
    "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"num_attention_heads\": 6, "
    "\"num_key_value_heads\": 2, " COMMON,
    "{\"architectures\": [\"DeepseekV2ForCausalLM\"], \"model_type\": \"deepseek_v2\", \"num_attention_heads\": 3, "
    "\"kv_lora_rank\": 64, \"qk_nope_head_dim\": 20, \"qk_rope_head_dim\": 64,"
    " \"v_head_dim\": 12, \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4, \"original_max_position_embeddings\": "
    "32, \"mscale\": 0.707, \"mscale_all_dim\": 0.707}, " COMMON,
};

static const char *folder_of(enum kind kind) {
    static char path[64];
    snprintf(path, sizeof path, "%s/%s", folder, kind_names[kind]);
    return path;
}

/* Folders with random weights; every test opens one. */
static int make_folder(void **state) {
    (void)state;
    struct error error;
    if (!mkdtemp(folder)) return 1;
    for (int kind = 0; kind < KINDS; kind++) {
        struct arena arena = { 0 };
        struct config config;
        struct model *model = NULL;
        json_t *root = NULL;
        if (json_parse(&root, config_texts[kind], strlen(config_texts[kind]), "test", &error) ||
            config_parse(&config, root, "test", &arena, &error))
            return 1;
        if (model_create(&model, &config, kernels_for(ISA_REFERENCE), NULL, COMPUTE_F32, &error) ||
            model_allocate_training(model, &error))
            return 1;
        model_initialise(model, 1);
        if (model_export(model, folder_of((enum kind)kind), DTYPE_F32, &error)) return 1;
        model_destroy(model);
        json_decref(root);
        arena_free(&arena);
    }
    for (int s = 0; s < SEQUENCES; s++)
        for (int t = 0; t < LONGEST; t++) ids[s][t] = (int32_t)random_below(3, (uint64_t)s, (uint64_t)t, VOCAB);
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    return folder_remove(folder, NULL);
}

static struct model *open_kind(enum kind kind, enum isa isa, struct pool *pool, enum compute compute,
                               enum cache_type cache) {
    struct error error;
    struct model *model = NULL;
    assert_int_equal(
        model_open(&model, folder_of(kind), kernels_for(isa), pool,
                   &(struct model_options){.use = MODEL_INFERENCE, .compute = compute, .cache = cache}, &error),
        STATUS_OK);
    return model;
}

static struct model *open_model(enum isa isa, struct pool *pool, enum compute compute) {
    return open_kind(V1, isa, pool, compute, CACHE_COUNT);
}

static struct engine *new_engine(struct model *model, int64_t max_rows) {
    struct error error;
    struct engine *engine = NULL;
    assert_int_equal(engine_create(&engine, model, max_rows, &error), STATUS_OK);
    return engine;
}

static struct sequence *new_sequence(const struct model *model, int64_t capacity) {
    struct error error;
    struct sequence *sequence = NULL;
    assert_int_equal(sequence_create(&sequence, model, capacity, &error), STATUS_OK);
    return sequence;
}

static void feed_all(struct engine *engine, const struct feed *feeds, int count, int64_t chunk) {
    struct error error = { 0 };
    if (engine_feed(engine, feeds, count, chunk, &error)) fail_msg("%s", error.message);
}

static float *new_logits(int64_t rows) {
    float *logits = malloc((size_t)(rows * VOCAB) * sizeof *logits);
    assert_non_null(logits);
    memset(logits, 0xFF, (size_t)(rows * VOCAB) * sizeof *logits);   /* NaN: what is not written is seen */
    return logits;
}

static void same_bits(const float *a, const float *b, int64_t rows) {
    assert_memory_equal(a, b, (size_t)(rows * VOCAB) * sizeof *a);
}

/* Every logit of every sequence, each sequence alone, in one pass. */
static void expected_logits(struct model *model, float *expected[SEQUENCES]) {
    struct engine *engine = new_engine(model, 0);
    for (int s = 0; s < SEQUENCES; s++) {
        struct sequence *sequence = new_sequence(model, lengths[s]);
        expected[s] = new_logits(lengths[s]);
        const struct feed feed = {
            .sequence = sequence, .ids = ids[s], .count = lengths[s], .logits = expected[s], .every_logit = true};
        feed_all(engine, &feed, 1, 0);
        assert_int_equal(sequence->length, lengths[s]);
        sequence_destroy(sequence);
    }
    engine_destroy(engine);
}

static void check_batch(struct model *model, float *const expected[SEQUENCES], int64_t chunk, int64_t max_rows,
                        bool every) {
    struct engine *engine = new_engine(model, max_rows);
    struct feed feeds[SEQUENCES];
    for (int s = 0; s < SEQUENCES; s++)
        feeds[s] = (struct feed){new_sequence(model, lengths[s] + s), ids[s], lengths[s],
                                 new_logits(every ? lengths[s] : 1), every};
    feed_all(engine, feeds, SEQUENCES, chunk);
    for (int s = 0; s < SEQUENCES; s++) {
        if (every) same_bits(feeds[s].logits, expected[s], lengths[s]);
        else same_bits(feeds[s].logits, expected[s] + (lengths[s] - 1) * VOCAB, 1);
        assert_int_equal(feeds[s].sequence->length, lengths[s]);
        sequence_destroy(feeds[s].sequence);
        free(feeds[s].logits);
    }
    engine_destroy(engine);
}

/* What a sequence may keep: the compute type, or another one. */
static const struct { enum kind kind; enum compute compute; enum cache_type cache;
} variants[] = {
    {V1, COMPUTE_F32, CACHE_F32},      {V1, COMPUTE_BF16, CACHE_BF16},       {V1, COMPUTE_F32, CACHE_BF16},
    {LATENT, COMPUTE_F32, CACHE_F32},  {LATENT, COMPUTE_BF16, CACHE_BF16},   {LATENT, COMPUTE_F32, CACHE_BF16},
    {LATENT, COMPUTE_BF16, CACHE_F32}, {LATENT, COMPUTE_F32, CACHE_FP8}, {LATENT, COMPUTE_BF16, CACHE_FP8},
};
#define VARIANTS (sizeof variants / sizeof *variants)

static struct model *open_variant(size_t v, enum isa isa, struct pool *pool) {
    return open_kind(variants[v].kind, isa, pool, variants[v].compute, variants[v].cache);
}

static void logits_do_not_depend_on_how_tokens_arrive(void **state) {
    (void)state;
    static const int64_t chunks[] = { 0, 1, 3, 7, 33, 64 };   /* 33: more than 64 rows of short pieces in a pass */
    struct pool *pools[2] = { NULL, NULL };
    struct error error;
    assert_int_equal(pool_create(&pools[1], 2, &error), STATUS_OK);
    for (int isa = 0; isa < ISA_COUNT; isa++) {
        if (!isa_available((enum isa)isa)) continue;
        for (size_t v = 0; v < VARIANTS; v++) {
            float *expected[SEQUENCES];
            const bool slow = isa == ISA_REFERENCE && variants[v].kind == LATENT,
                       few = slow || (int)variants[v].compute != (int)variants[v].cache;
            if (slow && (int)variants[v].compute != (int)variants[v].cache && v + 1 < VARIANTS) continue;
            for (int p = 0; p < 2; p++) {
                struct model *model = open_variant(v, (enum isa)isa, pools[p]);
                if (p == 0) expected_logits(model, expected);
                for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++)
                    if (!few || (slow ? c == 3 && p == 0 : c % 2)) check_batch(model, expected, chunks[c], 0, true);
                if (slow) {
                    model_destroy(model);
                    continue;
                }
                check_batch(model, expected, 0, 5, true);      /* passes that cut sequences where they please */
                check_batch(model, expected, 7, 33, false);
                check_batch(model, expected, 0, 0, false);
                model_destroy(model);
            }
            for (int s = 0; s < SEQUENCES; s++) free(expected[s]);
        }
    }
    pool_destroy(pools[1]);
}

/* The logits say something: they differ between positions, and with another first token. */
static void logits_depend_on_the_tokens(void **state) {
    (void)state;
    struct model *model = open_model(ISA_REFERENCE, NULL, COMPUTE_F32);
    struct engine *engine = new_engine(model, 0);
    int32_t other[64];
    memcpy(other, ids[0], sizeof other);
    other[0] = (other[0] + 1) % VOCAB;
    struct feed feeds[2] = {{new_sequence(model, 64), ids[0], 64, new_logits(64), true},
                            {new_sequence(model, 64), other, 64, new_logits(64), true}};
    feed_all(engine, feeds, 2, 0);
    for (int t = 0; t < 64; t++)
        assert_memory_not_equal(feeds[0].logits + t * VOCAB, feeds[1].logits + t * VOCAB, VOCAB * sizeof(float));
    for (int i = 0; i < 2; i++) sequence_destroy(feeds[i].sequence), free(feeds[i].logits);
    engine_destroy(engine);
    model_destroy(model);
}

/* Continued, rewound and fed again, with a detour through other tokens in between. */
static void rewinding_gives_the_same_bits(void **state) {
    (void)state;
    for (size_t v = 0; v < VARIANTS; v++) {
        enum isa isa;
        struct error error;
        assert_int_equal(isa_select(&isa, &error), STATUS_OK);
        struct model *model = open_variant(v, isa, NULL);
        struct engine *engine = new_engine(model, 0);
        float *expected[SEQUENCES], *logits = new_logits(LONGEST);
        expected_logits(model, expected);
        const int s = 2;
        const int64_t cuts[] = { 0, 1, 63, 64, 65, 127, 199 };
        struct sequence *sequence = new_sequence(model, lengths[s]);
        struct feed feed = { sequence, ids[s], lengths[s], logits, true };
        feed_all(engine, &feed, 1, 0);
        for (size_t c = 0; c < sizeof cuts / sizeof *cuts; c++) {
            assert_int_equal(sequence_rewind(sequence, cuts[c]), cuts[c]);
            assert_int_equal(sequence->length, cuts[c]);
            assert_int_equal(sequence_rewind(sequence, cuts[c] + 1), cuts[c]);   /* nothing to forget */
            assert_int_equal(sequence->length, cuts[c]);
            int64_t detour = lengths[s] - cuts[c] < 5 ? lengths[s] - cuts[c] : 5;
            feed = (struct feed){ sequence, ids[6], detour, NULL, false };
            feed_all(engine, &feed, 1, 0);
            sequence_rewind(sequence, cuts[c]);
            feed = (struct feed){ sequence, ids[s] + cuts[c], lengths[s] - cuts[c], logits, true };
            feed_all(engine, &feed, 1, c % 2 ? 9 : 0);
            same_bits(logits, expected[s] + cuts[c] * VOCAB, lengths[s] - cuts[c]);
        }
        sequence_destroy(sequence);
        for (int i = 0; i < SEQUENCES; i++) free(expected[i]);
        free(logits);
        engine_destroy(engine);
        model_destroy(model);
    }
}

static bool stop_at_second_pass(void *context, int64_t rows) {
    int *passes = context;
    assert_true(rows > 0);
    return ++*passes < 2;
}

static void refused(struct engine *engine, const struct feed *feeds, int count, const char *part) {
    struct error error = { 0 };
    int64_t before[2] = { feeds[0].sequence->length, feeds[count - 1].sequence->length };
    assert_int_equal(engine_feed(engine, feeds, count, 0, &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, part));
    assert_int_equal(feeds[0].sequence->length, before[0]);
    assert_int_equal(feeds[count - 1].sequence->length, before[1]);
}

static void bad_feeds_change_nothing(void **state) {
    (void)state;
    struct model *model = open_model(ISA_REFERENCE, NULL, COMPUTE_F32),
                 *stranger = open_model(ISA_REFERENCE, NULL, COMPUTE_F32);
    struct engine *engine = new_engine(model, 4);
    struct sequence *a = new_sequence(model, 10), *b = new_sequence(model, 10), *foreign = new_sequence(stranger, 10);
    struct feed feeds[2] = { { a, ids[0], 6, NULL, false }, { b, ids[1], 6, NULL, false } };
    int32_t wrong[6] = { 1, 2, 3, 4, VOCAB, 5 };
    feeds[1].ids = wrong;
    refused(engine, feeds, 2, "feed 1: token 4 has id 97, expected 0 to 96");
    wrong[4] = -1;
    refused(engine, feeds, 2, "id -1");
    feeds[1] = (struct feed){ b, ids[1], 11, NULL, false };
    refused(engine, feeds, 2, "feed 1: 11 new tokens after 0, expected at most 10");
    feeds[1] = (struct feed){ a, ids[1], 2, NULL, false };
    refused(engine, feeds, 2, "the same sequence");
    feeds[1] = (struct feed){ foreign, ids[1], 2, NULL, false };
    refused(engine, feeds, 2, "another model");

    /* stopped on request: as before, too */
    struct error error = { 0 };
    int passes = 0;
    feeds[1] = (struct feed){ b, ids[1], 6, NULL, false };
    engine->watch = stop_at_second_pass;
    engine->watch_context = &passes;
    assert_int_equal(engine_feed(engine, feeds, 2, 0, &error), STATUS_INTERRUPTED);
    assert_int_equal(passes, 2);
    assert_int_equal(a->length, 0);
    assert_int_equal(b->length, 0);
    engine->watch = NULL;
    feed_all(engine, feeds, 2, 0);
    assert_int_equal(a->length, 6);

    /* nothing to do */
    feeds[0].count = feeds[1].count = 0;
    feed_all(engine, feeds, 2, 3);
    feed_all(engine, feeds, 0, 0);
    assert_int_equal(a->length, 6);
    sequence_destroy(a), sequence_destroy(b), sequence_destroy(foreign);
    engine_destroy(engine);
    model_destroy(model), model_destroy(stranger);
}

struct passes { int count; int64_t rows[8]; };

static bool record_pass(void *context, int64_t rows) {
    struct passes *passes = context;
    assert_true(passes->count < 8);
    passes->rows[passes->count++] = rows;
    return true;
}

/* Rounds end at multiples of the chunk, wherever a sequence begins; a round that has more rows than a pass goes on in
 * the next one. */
static void rounds_end_at_absolute_multiples(void **state) {
    (void)state;
    struct model *model = open_model(ISA_REFERENCE, NULL, COMPUTE_F32);
    struct engine *engine = new_engine(model, 10);
    struct sequence *a = new_sequence(model, 40), *b = new_sequence(model, 40);
    feed_all(engine, &(struct feed){ a, ids[0], 5, NULL, false }, 1, 0);
    struct passes passes = { 0 };
    engine->watch = record_pass;
    engine->watch_context = &passes;
    const struct feed feeds[2] = { { a, ids[0] + 5, 7, NULL, false }, { b, ids[1], 17, NULL, false } };
    feed_all(engine, feeds, 2, 8);   /* to 8 and 8: 3 + 8 rows; to 12 and 16: 4 + 8; to 17: 1 */
    const int64_t expected[] = { 10, 1, 10, 2, 1 };
    assert_int_equal(passes.count, 5);
    assert_memory_equal(passes.rows, expected, sizeof expected);
    sequence_destroy(a), sequence_destroy(b);
    engine_destroy(engine);
    model_destroy(model);
}

/* Step memory grows with the passes, and the plan covers them. */
static void check_growing(enum kind kind) {
    struct model *model = open_kind(kind, ISA_REFERENCE, NULL, COMPUTE_F32, CACHE_COUNT);
    struct engine *engine = new_engine(model, 0);
    float *expected[SEQUENCES], *logits = new_logits(LONGEST);
    expected_logits(model, expected);
    struct sequence *sequence = new_sequence(model, lengths[2]);
    feed_all(engine, &(struct feed){ sequence, ids[2], 1, NULL, false }, 1, 0);
    size_t small = engine->memory.capacity;
    feed_all(engine, &(struct feed){ sequence, ids[2] + 1, 99, NULL, false }, 1, 0);
    size_t large = engine->memory.capacity;
    assert_true(large > small);

    feed_all(engine, &(struct feed){ sequence, ids[2] + 100, 100, logits, true }, 1, 0);
    same_bits(logits, expected[2] + 100 * VOCAB, 100);
    assert_true(engine->memory.capacity > large);
    assert_true(engine->memory.peak <= engine->memory.capacity);
    assert_null(engine->memory.outside);
    assert_int_equal(sequence->length, 200);
    sequence_destroy(sequence);
    for (int i = 0; i < SEQUENCES; i++) free(expected[i]);
    free(logits);
    engine_destroy(engine);
    model_destroy(model);
}

static void step_memory_grows(void **state) {
    (void)state;
    for (int kind = 0; kind < KINDS; kind++) check_growing((enum kind)kind);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_do_not_depend_on_how_tokens_arrive),
        cmocka_unit_test(logits_depend_on_the_tokens),
        cmocka_unit_test(rewinding_gives_the_same_bits),
        cmocka_unit_test(bad_feeds_change_nothing),
        cmocka_unit_test(rounds_end_at_absolute_multiples),
        cmocka_unit_test(step_memory_grows),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
