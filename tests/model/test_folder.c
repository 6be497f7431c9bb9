/* FP8 folders: what is refused and what is only said (scales, codes, biases, MTP modules), bits that depend on nothing
 * but type and variant, and memory: a byte for each weight. */
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
#include "infer/infer.h"
#include "io/json.h"
#include "model/quantize.h"

#define GOLDEN "tests/golden/v3-fp8"   /* V3 with ragged blocks, an MTP module, embedding, head and gates in BF16 */
#define TOKENS 40
#define PROMPT 33                      /* more than a tile of any variant */

static char scratch[] = "/tmp/test_folder_XXXXXX";
static struct pool *pools[3];          /* of 1 and 2 threads */

static int begin(void **state) {
    (void)state;
    return !mkdtemp(scratch) || pool_create(&pools[1], 1, NULL) || pool_create(&pools[2], 2, NULL);
}

static int end(void **state) {
    (void)state;
    pool_destroy(pools[1]);
    pool_destroy(pools[2]);
    return folder_remove(scratch, NULL);
}

/* ---- folders with one thing changed ------------------------------------------------------------------------------ */

#define Q_A "model.layers.1.self_attn.q_a_proj.weight"     /* [96, 160] */
#define SCALES Q_A "_scale_inv"                            /* [1, 2] */
#define KV_A "model.layers.1.self_attn.kv_a_proj_with_mqa.weight"
#define BIAS "model.layers.1.mlp.gate.e_score_correction_bias"
#define COPY_OF_HEAD "model.layers.2.shared_head.head.weight"

struct change {
    /* of a tensor; it is left out where dtype is DTYPE_COUNT, added where it was not there */
    const char *name;
    enum dtype dtype;
    int rank;
    int64_t shape[2];
    const void *data;          /* NULL: zeros */
};

/* The golden folder with a change, and with keys of config.json set. */
static const char *make(const struct change *change, const char *key, json_t *value) {
    static char target[200];
    char path[240];
    struct error error;
    struct safetensors *st;
    json_t *config = NULL;
    snprintf(target, sizeof target, "%s/changed", scratch);
    assert_int_equal(folder_remove(target, &error), STATUS_OK);
    assert_int_equal(folder_create(target, &error), STATUS_OK);
    if (safetensors_open_folder(&st, GOLDEN, &error)) fail_msg("%s", error.message);
    const int64_t count = safetensors_count(st);
    struct safetensors_source *sources = calloc((size_t)count + 1, sizeof *sources);
    void *zeros = calloc(1, 1 << 20);
    int64_t used = 0;
    for (int64_t i = 0; i < count; i++) {
        const struct safetensors_entry *e = safetensors_at(st, i);
        if (change && strcmp(e->name, change->name) == 0) continue;
        sources[used] = (struct safetensors_source){
            .name = e->name, .dtype = e->dtype, .rank = e->rank, .data = e->data};
        memcpy(sources[used++].shape, e->shape, sizeof e->shape);
    }
    if (change && change->dtype != DTYPE_COUNT)
        sources[used++] = (struct safetensors_source){.name = change->name,
                                                      .dtype = change->dtype,
                                                      .rank = change->rank,
                                                      .shape = {change->shape[0], change->shape[1]},
                                                      .data = change->data ? change->data : zeros};
    snprintf(path, sizeof path, "%s/model.safetensors", target);
    if (safetensors_write(path, sources, used, NULL, NULL, &error) ||
        json_load_path(&config, GOLDEN "/config.json", &error))
        fail_msg("%s", error.message);
    if (key) json_object_set(config, key, value);
    json_decref(value);
    snprintf(path, sizeof path, "%s/config.json", target);
    assert_int_equal(json_save_path(config, path, &error), STATUS_OK);
    json_decref(config);
    safetensors_close(st);
    free(sources);
    free(zeros);
    return target;
}

/* The bytes of a tensor of the golden folder, malloc'ed. */
static void *bytes_of(const char *name) {
    struct error error;
    struct safetensors *st;
    if (safetensors_open_folder(&st, GOLDEN, &error)) fail_msg("%s", error.message);
    const struct safetensors_entry *e = safetensors_find(st, name);
    void *data = malloc(e->bytes);
    memcpy(data, e->data, e->bytes);
    safetensors_close(st);
    return data;
}

static enum status open_with(struct model **model, const char *folder, enum model_use use, enum compute compute,
                             bool mtp, struct error *error) {
    return model_open(model, folder, kernels_for(ISA_REFERENCE), pools[2],
                      &(struct model_options){.use = use, .compute = compute, .cache = CACHE_COUNT, .mtp = mtp}, error);
}

/* Refused for training and for inference, with a message that holds all the words. */
static void assert_refused(const struct change *change, enum status code, const char *words, ...) {
    const char *folder = make(change, NULL, NULL);
    for (int use = 0; use < 2; use++) {
        struct model *model;
        struct error error;
        const enum status status = open_with(&model, folder, use ? MODEL_TRAINING : MODEL_INFERENCE,
                                             use ? COMPUTE_F32 : COMPUTE_COUNT, false, &error);
        if (status == STATUS_OK) fail_msg("%s: was opened", change->name);
        va_list list;
        va_start(list, words);
        for (const char *word = words; word; word = va_arg(list, const char *))
            if (!strstr(error.message, word)) fail_msg("\"%s\" does not hold \"%s\"", error.message, word);
        va_end(list);
        assert_int_equal(status, code);
    }
}

static void bad_scales(void **state) {
    (void)state;
    const float good[2] = {0.5f, 0.25f};
    assert_refused(&(struct change){.name = SCALES, .dtype = DTYPE_COUNT}, STATUS_NOT_FOUND,
                   "changed/model.safetensors", Q_A, "F8_E4M3 [96, 160]", "no tensor " SCALES, "expected F32 [1, 2]",
                   NULL);
    assert_refused(&(struct change){SCALES, DTYPE_F32, 2, {2, 1}, good}, STATUS_INVALID, SCALES, "found F32 [2, 1]",
                   "expected F32 [1, 2]", NULL);
    assert_refused(&(struct change){SCALES, DTYPE_F32, 1, {2}, good}, STATUS_INVALID, SCALES, "found F32 [2]",
                   "expected F32 [1, 2]", NULL);
    assert_refused(&(struct change){SCALES, DTYPE_BF16, 2, {1, 2}, good}, STATUS_INVALID, SCALES, "found BF16 [1, 2]",
                   "expected F32 [1, 2]", NULL);
    static const struct {
        float value;
        const char *found;
    } values[] = {{0, "found 0,"}, {-0.0f, "found -0,"},     {-0.5f, "found -0.5,"},
                  {NAN, "nan,"},   {INFINITY, "found inf,"}, {-INFINITY, "found -inf,"}};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        const float bad[2] = {0.5f, values[i].value};
        assert_refused(&(struct change){SCALES, DTYPE_F32, 2, {1, 2}, bad}, STATUS_INVALID, "changed/model.safetensors",
                       SCALES ": [0, 1]:", values[i].found, "expected a scale above 0 that is finite", NULL);
    }
}

static void bad_codes(void **state) {
    (void)state;
    for (int sign = 0; sign < 2; sign++) {
        uint8_t *codes = bytes_of(Q_A);
        codes[95 * 160 + 159] = sign ? 0xFF : 0x7F;
        assert_refused(&(struct change){Q_A, DTYPE_F8_E4M3, 2, {96, 160}, codes}, STATUS_INVALID,
                       "changed/model.safetensors", Q_A ": [95, 159]:", sign ? "0xff" : "0x7f", "NaN", NULL);
        free(codes);
    }
    /* FP8 where no products are */
    assert_refused(&(struct change){"model.norm.weight", DTYPE_F8_E4M3, 1, {160}, NULL}, STATUS_UNSUPPORTED,
                   "model.norm.weight", "F8_E4M3 [160]", "expected dtype F32, BF16 or F16", NULL);
    assert_refused(&(struct change){Q_A, DTYPE_F8_E5M2, 2, {96, 160}, NULL}, STATUS_UNSUPPORTED, Q_A,
                   "F8_E5M2 [96, 160]", "expected dtype F32, BF16, F16 or F8_E4M3", NULL);
}

static void bad_biases(void **state) {
    (void)state;
    float *bias = bytes_of(BIAS);
    static const float values[] = {NAN, INFINITY, -INFINITY};
    static const char *const found[] = {"nan", "found inf", "found -inf"};
    for (int i = 0; i < 3; i++) {
        bias[3] = values[i];
        assert_refused(&(struct change){BIAS, DTYPE_F32, 1, {4}, bias}, STATUS_INVALID, "changed/model.safetensors",
                       BIAS ": [3]:", found[i], "expected finite numbers", NULL);
    }
    free(bias);
}

/* ---- a model larger than what is packed at once: codes are looked at while they are packed ----------------------- */

static void feed_some(struct model *model, float *logits, const int *chunks, enum status expected,
                      struct error *error) {
    static const int32_t ids[TOKENS] = {46, 10, 56, 51, 70, 65, 70, 0,  5,  76, 68, 10, 21, 9,  69, 25, 49, 5, 19, 62,
                                        13, 69, 25, 58, 6,  71, 59, 24, 23, 65, 14, 76, 52, 24, 71, 14, 54, 1, 2,  3};
    const int64_t vocab = model->config.vocab_size;
    struct engine *engine;
    struct sequence *sequence;
    if (engine_create(&engine, model, 0, error) || sequence_create(&sequence, model, TOKENS, error))
        fail_msg("%s", error->message);
    for (int t = 0, i = 0; t < TOKENS; i++) {
        const int left = TOKENS - t, count = chunks[i] && chunks[i] < left ? chunks[i] : chunks[i] ? left : 1;
        if (!chunks[i]) i--;   /* one by one from here on */
        const struct feed feed = {
            .sequence = sequence, .ids = ids + t, .count = count, .logits = logits + t * vocab, .every_logit = true};
        const enum status status = engine_feed(engine, &feed, 1, 0, error);
        if (status != expected) fail_msg("status %d: %s", status, status ? error->message : "");
        if (status) break;
        t += count;
    }
    sequence_destroy(sequence);
    engine_destroy(engine);
}

static struct model *open_unpacked(const char *folder, enum isa isa, struct pool *pool, enum compute compute,
                                   size_t pack_at_once) {
    struct error error;
    struct arena arena = {0};
    struct config config;
    struct model *model;
    if (config_load(&config, folder, &arena, &error)) fail_msg("%s", error.message);
    config.num_nextn_predict_layers = 0;
    if (model_create(&model, &config, kernels_for(isa), pool, compute, &error)) fail_msg("%s", error.message);
    model->config_arena = arena;
    model->pack_at_once = pack_at_once;
    if (model_load(model, folder, MODEL_INFERENCE, &error)) fail_msg("%s", error.message);
    return model;
}

static void bad_codes_found_later(void **state) {
    (void)state;
    static float logits[TOKENS * 128];
    static const int at_once[] = {TOKENS};
    struct error error;
    uint8_t *codes = bytes_of(Q_A);
    codes[7 * 160 + 5] = 0x7F;
    const char *folder = make(&(struct change){Q_A, DTYPE_F8_E4M3, 2, {96, 160}, codes}, NULL, NULL);
    free(codes);
    struct model *model = open_unpacked(folder, ISA_REFERENCE, pools[2], COMPUTE_FP8, 0);
    assert_int_equal(model_sound(model, &error), STATUS_OK);
    model_pack(model, INFINITY);
    assert_int_equal(model_sound(model, &error), STATUS_INVALID);
    feed_some(model, logits, at_once, STATUS_INVALID, &error);
    assert_non_null(strstr(error.message, Q_A ": [7, 5]: found code 0x7f, which is NaN"));
    model_destroy(model);
}

/* ---- what is only said ------------------------------------------------------------------------------------------- */

static void assert_warnings(const char *folder, bool mtp, enum compute compute, int count, const char *words) {
    struct model *model;
    struct error error;
    if (open_with(&model, folder, MODEL_INFERENCE, compute, mtp, &error)) fail_msg("%s", error.message);
    if (model->warning_count != count)
        fail_msg("%d warnings, expected %d: %s", model->warning_count, count,
                 model->warning_count ? model->warnings[0] : "");
    if (count && !strstr(model->warnings[0], words)) fail_msg("\"%s\" does not hold \"%s\"", model->warnings[0], words);
    model_destroy(model);
}

static void rules_for_mtp(void **state) {
    (void)state;
    struct error error;
    struct model *model;
    /* tensors of modules that are not loaded are passed over */
    assert_warnings(GOLDEN, false, COMPUTE_COUNT, 0, NULL);
    assert_warnings(GOLDEN, true, COMPUTE_COUNT, 0, NULL);
    /* tensors, but none in the config */
    assert_warnings(
        make(NULL, "num_nextn_predict_layers", json_integer(0)), true, COMPUTE_COUNT, 1,
        "tensors of layers from 2 on are not used: config.json has 2 layers and 0 modules of multi-token prediction");
    /* a module in the config, but not all of its tensors: said where it is asked for */
    const char *folder = make(&(struct change){.name = "model.layers.2.eh_proj.weight", .dtype = DTYPE_COUNT}, NULL,
                              NULL);
    assert_warnings(folder, false, COMPUTE_COUNT, 0, NULL);
    for (int use = 0; use < 2; use++) {
        assert_int_equal(open_with(&model, folder, use ? MODEL_TRAINING : MODEL_INFERENCE, COMPUTE_F32, true, &error),
                         STATUS_NOT_FOUND);
        assert_non_null(
            strstr(error.message, "1 tensor that config.json asks for is missing: model.layers.2.eh_proj.weight"));
    }
    /* a copy that is none */
    folder = make(&(struct change){COPY_OF_HEAD, DTYPE_BF16, 2, {83, 160}, NULL}, NULL, NULL);
    assert_warnings(folder, false, COMPUTE_COUNT, 0, NULL);
    assert_warnings(folder, true, COMPUTE_COUNT, 1,
                    COPY_OF_HEAD " is not a copy of lm_head.weight, which is used in its place");
    assert_warnings(make(&(struct change){.name = COPY_OF_HEAD, .dtype = DTYPE_COUNT}, NULL, NULL), true, COMPUTE_COUNT,
                    0, NULL);
}

static void rules_for_formats(void **state) {
    (void)state;
    struct error error;
    struct model *model;
    const char *folder = make(NULL, "quantization_config", json_null());   /* codes mean what they mean */
    assert_warnings(folder, false, COMPUTE_COUNT, 1, "matrices are in FP8, but config.json has no quantization_config");
    if (open_with(&model, folder, MODEL_INFERENCE, COMPUTE_COUNT, false, &error)) fail_msg("%s", error.message);
    assert_int_equal(model->compute, COMPUTE_BF16);
    assert_true(parameter_codes(model_parameter(model, Q_A)));
    model_destroy(model);
    if (open_with(&model, GOLDEN, MODEL_INFERENCE, COMPUTE_COUNT, false, &error)) fail_msg("%s", error.message);
    assert_int_equal(model->compute, COMPUTE_FP8);   /* the checkpoint's own type */
    assert_int_equal(model_parameter(model, Q_A)->compute, COMPUTE_FP8);
    assert_int_equal(model->head->compute, COMPUTE_BF16);
    assert_int_equal(model_parameter(model, "model.layers.1.mlp.gate.weight")->compute, COMPUTE_F32);
    model_destroy(model);

    /* the reverse: config.json speaks of FP8, all is BF16 */
    char plain[200], path[240];
    struct quantize_counts counts;
    json_t *config = NULL;
    snprintf(plain, sizeof plain, "%s/bf16", scratch);
    if (model_quantize(GOLDEN, plain, &number_formats[FORMAT_BF16], pools[2], NULL, &counts, &error) ||
        json_load_path(&config, GOLDEN "/config.json", &error))
        fail_msg("%s", error.message);
    assert_int_equal(counts.matrices, 48);
    assert_warnings(plain, true, COMPUTE_COUNT, 0, NULL);
    assert_warnings(plain, true, COMPUTE_FP8, 1, "compute type fp8: no matrix is in FP8");
    snprintf(path, sizeof path, "%s/config.json", plain);
    assert_int_equal(json_save_path(config, path, &error), STATUS_OK);
    json_decref(config);
    assert_warnings(plain, false, COMPUTE_COUNT, 1, "config.json has a quantization_config, but no matrix is in FP8");
}

/* Attention with one matrix in BF16 is multiplied in bf16 as a whole, its codes still as codes; the experts beside it
 * in FP8. */
static void mixed_blocks(void **state) {
    (void)state;
    struct error error;
    struct model *model;
    const char *folder = make(&(struct change){KV_A, DTYPE_BF16, 2, {148, 160}, NULL}, NULL, NULL);
    if (open_with(&model, folder, MODEL_INFERENCE, COMPUTE_COUNT, false, &error)) fail_msg("%s", error.message);
    assert_false(parameter_codes(model_parameter(model, KV_A)));
    assert_true(parameter_codes(model_parameter(model, Q_A)));
    assert_int_equal(model_parameter(model, KV_A)->compute, COMPUTE_BF16);
    assert_int_equal(model_parameter(model, Q_A)->compute, COMPUTE_BF16);
    assert_int_equal(model_parameter(model, "model.layers.0.self_attn.q_a_proj.weight")->compute, COMPUTE_FP8);
    assert_int_equal(model_parameter(model, "model.layers.1.mlp.experts.0.up_proj.weight")->compute, COMPUTE_FP8);
    static float logits[TOKENS * 128];
    feed_some(model, logits, (const int[]){TOKENS}, STATUS_OK, &error);
    for (int64_t i = 0; i < TOKENS * model->config.vocab_size; i++) assert_true(isfinite(logits[i]));
    model_destroy(model);
}

/* ---- numbers ----------------------------------------------------------------------------------------------------- */

/* Training reads code x scale. */
static void dequantised_for_training(void **state) {
    (void)state;
    struct error error;
    struct model *model;
    struct safetensors *st;
    if (open_with(&model, GOLDEN, MODEL_TRAINING, COMPUTE_F32, true, &error) ||
        safetensors_open_folder(&st, GOLDEN, &error))
        fail_msg("%s", error.message);
    int matrices = 0;
    for (int i = 0; i < model->parameter_count; i++) {
        const struct parameter *p = model->parameters[i];
        const struct safetensors_entry *e = safetensors_find(st, p->name);
        char name[200];
        if (e->dtype != DTYPE_F8_E4M3) continue;
        snprintf(name, sizeof name, "%s_scale_inv", p->name);
        const uint8_t *scales = safetensors_find(st, name)->data;
        for (int64_t r = 0; r < p->shape[0]; r++)
            for (int64_t c = 0; c < p->shape[1]; c++) {
                float scale;
                memcpy(&scale, scales + 4 * (r / 128 * ((p->shape[1] + 127) / 128) + c / 128), 4);
                const float expected = e4m3_to_float(e->data[r * p->shape[1] + c]) * scale;
                assert_memory_equal(&p->value[r * p->shape[1] + c], &expected, 4);
            }
        matrices++;
    }
    assert_int_equal(matrices, 48);
    safetensors_close(st);
    model_destroy(model);
}

/* Prefill, chunks and decoding, one thread and two, packed, half packed and not: one set of bits for each type and
 * variant. */
static void same_bits(void **state) {
    (void)state;
    static const int chunks[][4] = {{TOKENS}, {PROMPT, 0}, {0}, {7, 16, 1, 30}};
    static float expected[TOKENS * 128], found[TOKENS * 128];
    const enum compute types[] = {COMPUTE_FP8, COMPUTE_BF16, COMPUTE_F32};
    struct error error;
    for (int isa = 0; isa < ISA_COUNT; isa++)
        for (int t = 0; isa_available((enum isa)isa) && t < 3; t++)
            for (int way = 0; way < 4; way++) {
                if (isa == ISA_REFERENCE && way > 1) continue;   /* plain C is slow */
                struct model *model = open_unpacked(GOLDEN, (enum isa)isa, pools[1 + way % 2], types[t],
                                                    way < 2 ? SIZE_MAX : 0);
                assert_int_equal(model_packed(model), way < 2);
                if (way == 3) model_pack(model, 0);
                /* nobody packs meanwhile */
                if (way > 1) assert_false(atomic_flag_test_and_set(&model->packing.busy));
                const size_t bytes = (size_t)(TOKENS * model->config.vocab_size) * sizeof *found;
                for (int c = 0; c < 4; c++) {
                    feed_some(model, way == 0 && c == 0 ? expected : found, chunks[c], STATUS_OK, &error);
                    if (memcmp(found, expected, bytes) != 0 && !(way == 0 && c == 0))
                        fail_msg("%s, %s, way %d, chunks %d: other bits", isa_name((enum isa)isa),
                                 precision_names[types[t]], way, c);
                }
                model_destroy(model);
            }
}

/* Copies are as large as the codes they come from, whatever products they are for but fp32's: nothing is widened. */
static void a_byte_for_each_weight(void **state) {
    (void)state;
    static const char text[] =
        "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"hidden_size\": 512, "
        "\"intermediate_size\": 1408, \"num_hidden_layers\": 2, \"num_attention_heads\": 4,"
        " \"vocab_size\": 256, \"torch_dtype\": \"bfloat16\"}";
    struct error error;
    struct arena arena = {0};
    struct config config;
    struct model *model = NULL;
    json_t *root;
    char plain[200], fp8[200];
    struct quantize_counts counts;
    snprintf(plain, sizeof plain, "%s/llama", scratch);
    snprintf(fp8, sizeof fp8, "%s/llama-fp8", scratch);
    if (json_parse(&root, text, sizeof text - 1, "test", &error) ||
        config_parse(&config, root, "test", &arena, &error) ||
        model_create(&model, &config, kernels_for(ISA_REFERENCE), pools[2], COMPUTE_F32, &error) ||
        model_allocate_training(model, &error))
        fail_msg("%s", error.message);
    model->config_arena = arena;
    json_decref(root);
    model_initialise(model, 1);
    if (model_export(model, plain, DTYPE_BF16, &error) ||
        model_quantize(plain, fp8, &number_formats[FORMAT_FP8], pools[2], NULL, &counts, &error))
        fail_msg("%s", error.message);
    model_destroy(model);
    assert_int_equal(counts.matrices, 14);
    const double weights = 2.0 * (4 * 512 * 512 + 3 * 512 * 1408), scales = weights / 128 / 128 * 4;
    for (int isa = 0; isa < ISA_COUNT; isa++)
        for (int t = 0; isa_available((enum isa)isa) && t < 2; t++) {
            model = open_unpacked(fp8, (enum isa)isa, pools[2], t ? COMPUTE_BF16 : COMPUTE_FP8, SIZE_MAX);
            /* plain C has bf16 numbers widened */
            const double bytes = (double)model->page_bytes[1], head = 256.0 * 512 * (isa == ISA_REFERENCE ? 4 : 2);
            if (bytes < weights + head || bytes > 1.02 * (weights + head + scales))
                fail_msg("%s, %s: %.0f bytes of copies for %.0f weights in FP8 and a head of %.0f bytes",
                         isa_name((enum isa)isa), t ? "bf16" : "fp8", bytes, weights, head);
            assert_true((double)model->arena.used < 0.02 * weights + 65536);   /* scales and the description */
            model_destroy(model);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_scales),
        cmocka_unit_test(bad_codes),
        cmocka_unit_test(bad_biases),
        cmocka_unit_test(bad_codes_found_later),
        cmocka_unit_test(rules_for_mtp),
        cmocka_unit_test(rules_for_formats),
        cmocka_unit_test(mixed_blocks),
        cmocka_unit_test(dequantised_for_training),
        cmocka_unit_test(same_bits),
        cmocka_unit_test(a_byte_for_each_weight),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
