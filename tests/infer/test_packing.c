/* Products from the file's pages: a model that is not packed yet, or half, gives the bits of one that is; packing comes
 * to its end while the model is in use; what cannot be multiplied where it lies is packed at once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <math.h>

#include "base/file.h"
#include "base/random.h"
#include "infer/infer.h"
#include "io/json.h"

#define HIDDEN 48
#define VOCAB 97
#define TOKENS 90
#define PROMPT 33   /* more than a tile of any variant */

static int32_t ids[TOKENS];
static char folder[] = "/tmp/test_packing_XXXXXX";

/* V1, and latent attention, whose W_kvb is packed in slices: of more than one piece, and of parts of one. */
enum architecture { V1, LATENT, ARCHITECTURES };
static enum architecture architecture;
#define COMMON                                                                                                         \
    "\"hidden_act\": \"silu\", \"hidden_size\": %d, \"intermediate_size\": 577, \"num_hidden_layers\": 2, "            \
    "\"vocab_size\": %d, \"max_position_embeddings\": 512,"                                                            \
    " \"rms_norm_eps\": 1e-6, \"rope_theta\": 10000.0, \"initializer_range\": 0.2, \"tie_word_embeddings\": false, "   \
    "\"attention_bias\": false, \"torch_dtype\": \"float32\"}"
static const char *const config_formats[ARCHITECTURES] = {
    "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"num_attention_heads\": 6, "
    "\"num_key_value_heads\": 2, " COMMON,
    "{\"architectures\": [\"DeepseekV2ForCausalLM\"], \"model_type\": \"deepseek_v2\", \"num_attention_heads\": 3, "
    "\"q_lora_rank\": 32, \"kv_lora_rank\": 150, \"qk_nope_head_dim\": 20,"
    " \"qk_rope_head_dim\": 6, \"v_head_dim\": 68, " COMMON,
};

/* FOLDER/0f32, 0bf16, 0f16, and `0odd`: bf16 at odd addresses; 1f32 and so on. */
enum kind { KIND_F32, KIND_BF16, KIND_F16, KIND_ODD, KINDS };
static const char *const kind_names[] = { "f32", "bf16", "f16", "odd" };

static const char *path_of(enum kind kind, const char *file) {
    static char path[200];
    snprintf(path, sizeof path, "%s/%d%s%s", folder, (int)architecture, kind_names[kind], file);
    return path;
}

static struct model *create_model(enum isa isa, struct pool *pool, enum compute compute, int hidden, int vocab) {
    struct error error;
    struct config config;
    struct model *model = NULL;
    json_t *root = NULL;
    char text[800];
    const int length = snprintf(text, sizeof text, config_formats[architecture], hidden, vocab);
    struct arena arena = { 0 };
    if (json_parse(&root, text, (size_t)length, "test", &error) ||
        config_parse(&config, root, "test", &arena, &error) ||
        model_create(&model, &config, kernels_for(isa), pool, compute, &error))
        fail_msg("%s", error.message);
    model->config_arena = arena;
    json_decref(root);
    return model;
}

static bool export_f16(const struct model *model) {
    struct error error;
    struct safetensors_source *sources = calloc((size_t)model->parameter_count, sizeof *sources);
    for (int i = 0; i < model->parameter_count; i++) {
        const struct parameter *p = model->parameters[i];
        uint16_t *codes = malloc((size_t)p->count * sizeof *codes);
        for (int64_t j = 0; j < p->count; j++) codes[j] = f16_from_float(p->value[j]);
        sources[i] = (struct safetensors_source){
            .name = p->name, .dtype = DTYPE_F16, .rank = p->shape[1] ? 2 : 1, .shape = {p->shape[0], p->shape[1]},
            .data = codes};
    }
    bool done = !folder_create(path_of(KIND_F16, ""), &error) &&
                !safetensors_write(path_of(KIND_F16, "/model.safetensors"), sources, model->parameter_count, NULL, NULL,
                                   &error);
    for (int i = 0; i < model->parameter_count; i++) free((void *)(uintptr_t)sources[i].data);
    free(sources);
    return done;
}

/* The bf16 file with one more blank at the end of its header. */
static bool shift_by_one(void) {
    struct error error;
    char *data;
    size_t size;
    uint64_t header;
    if (file_read(path_of(KIND_BF16, "/model.safetensors"), SIZE_MAX, &data, &size, &error) ||
        folder_create(path_of(KIND_ODD, ""), &error))
        return false;
    memcpy(&header, data, 8);
    char *shifted = malloc(size + 1);
    memcpy(shifted, data, 8 + header);
    shifted[8 + header] = ' ';
    memcpy(shifted + 8 + header + 1, data + 8 + header, size - 8 - header);
    header++;
    memcpy(shifted, &header, 8);
    bool done = !file_replace(path_of(KIND_ODD, "/model.safetensors"), shifted, size + 1, &error);
    free(shifted);
    free(data);
    return done;
}

static int make_folders(void **state) {
    (void)state;
    struct error error;
    if (!mkdtemp(folder)) return 1;
    for (architecture = V1; architecture < ARCHITECTURES; architecture++) {
        struct model *model = create_model(ISA_REFERENCE, NULL, COMPUTE_F32, HIDDEN, VOCAB);
        if (model_allocate_training(model, &error)) return 1;
        model_initialise(model, 1);
        if (model_export(model, path_of(KIND_F32, ""), DTYPE_F32, &error) ||
            model_export(model, path_of(KIND_BF16, ""), DTYPE_BF16, &error))
            return 1;
        if (!export_f16(model) || !shift_by_one()) return 1;
        model_destroy(model);
    }
    architecture = V1;
    for (int t = 0; t < TOKENS; t++) ids[t] = (int32_t)random_below(3, 0, (uint64_t)t, VOCAB);
    return 0;
}

static int remove_folders(void **state) {
    (void)state;
    return folder_remove(folder, NULL);
}

static bool expanded_prefill;   /* with it W_kvb has one more slice for each head */

static struct model *open_model(enum kind kind, enum isa isa, struct pool *pool, enum compute compute,
                                size_t pack_at_once) {
    struct error error;
    struct model *model = create_model(isa, pool, compute, HIDDEN, VOCAB);
    model->pack_at_once = pack_at_once;
    if (expanded_prefill && model_set_expanded_prefill(model, true, &error)) fail_msg("%s", error.message);
    if (model_load(model, path_of(kind, ""), MODEL_INFERENCE, &error)) fail_msg("%s", error.message);
    return model;
}

/* Every logit of a prompt and of the tokens that follow it one by one. */
static void feed_tokens(struct model *model, float *logits) {
    struct error error;
    struct engine *engine;
    struct sequence *sequence;
    assert_int_equal(engine_create(&engine, model, 0, &error), STATUS_OK);
    assert_int_equal(sequence_create(&sequence, model, TOKENS, &error), STATUS_OK);
    memset(logits, 0xFF, TOKENS * VOCAB * sizeof *logits);
    for (int t = 0; t < TOKENS;) {
        const int count = t ? 1 : PROMPT;
        const struct feed feed = {
            .sequence = sequence, .ids = ids + t, .count = count, .logits = logits + t * VOCAB, .every_logit = true};
        if (engine_feed(engine, &feed, 1, 0, &error)) fail_msg("%s", error.message);
        t += count;
    }
    sequence_destroy(sequence);
    engine_destroy(engine);
}

/* As while another thread packs: this one does not. */
static void hold_packing(struct model *model) { assert_false(atomic_flag_test_and_set(&model->packing.busy)); }

static void check_bits(void) {
    static float expected[TOKENS * VOCAB], found[TOKENS * VOCAB];
    struct error error;
    struct pool *pools[2] = { NULL, NULL };
    assert_int_equal(pool_create(&pools[1], 2, &error), STATUS_OK);
    for (int isa = 0; isa < ISA_COUNT; isa++) {
        if (!isa_available((enum isa)isa)) continue;
        for (int type = 0; type < 2; type++) {
            const enum compute compute = type ? COMPUTE_BF16 : COMPUTE_F32;
            for (int kind = 0; kind < KINDS; kind++) {
                /* V1 shows the others, on the fast variants */
                if ((architecture == LATENT || isa == ISA_REFERENCE) && kind != KIND_BF16) continue;
                if (expanded_prefill && isa == ISA_REFERENCE && type) continue;
                struct model *model = open_model((enum kind)kind, (enum isa)isa, NULL, compute, SIZE_MAX);
                assert_true(model_packed(model));
                feed_tokens(model, expected);
                model_destroy(model);
                for (int p = architecture == LATENT; p < 2; p++) {
                    model = open_model((enum kind)kind, (enum isa)isa, pools[p], compute, 0);
                    const bool lies_well = kind == KIND_F32 || kind == KIND_BF16;
                    assert_int_equal(model_packed(model), !lies_well);
                    hold_packing(model);   /* none is packed */
                    feed_tokens(model, found);
                    assert_int_equal(model->packing.ready, 0);
                    assert_memory_equal(found, expected, sizeof found);
                    if (lies_well) {
                        atomic_flag_clear(&model->packing.busy);
                        while (model->packing.ready < model->packing.count / 2) model_pack(model, 0);
                        assert_false(model_packed(model));
                        hold_packing(model);   /* half of them are */
                        feed_tokens(model, found);
                        assert_memory_equal(found, expected, sizeof found);
                        atomic_flag_clear(&model->packing.busy);
                        model_pack(model, INFINITY);
                    }
                    assert_true(model_packed(model));
                    feed_tokens(model, found);
                    assert_memory_equal(found, expected, sizeof found);
                    model_destroy(model);

                    /* packed between the passes */
                    model = open_model((enum kind)kind, (enum isa)isa, pools[p], compute, 0);
                    feed_tokens(model, found);
                    assert_memory_equal(found, expected, sizeof found);
                    assert_true(model_packed(model) || atomic_load(&model->packing.next) > 0);
                    model_destroy(model);
                }
            }
        }
    }
    pool_destroy(pools[1]);
}

static void packing_changes_no_bit(void **state) {
    (void)state;
    check_bits();
    architecture = LATENT;
    for (int expanded = 0; expanded < 2; expanded++) {
        expanded_prefill = expanded == 1;
        check_bits();
    }
    architecture = V1;
    expanded_prefill = false;
}

/* Nothing is packed after the first pass, something after the second, in the order of the forward; who takes too long
 * waits. */
static void check_order(void) {
    struct model *model = open_model(KIND_BF16, ISA_REFERENCE, NULL, COMPUTE_BF16, 0);
    model_pack_behind(model, 1e9);
    assert_int_equal(atomic_load(&model->packing.next), 0);
    int64_t before = 0;
    while (!model_packed(model)) {
        if (before) model_pack(model, 0);
        else model_pack_behind(model, 1e-9);
        if (before == 0) {
            assert_true(model->packing.debt > 0);   /* no piece takes a nanosecond */
            assert_int_equal(atomic_load(&model->packing.next), 1);
            model_pack_behind(model, 1e-9);
        }
        const int64_t next = atomic_load(&model->packing.next);
        assert_int_equal(next, before + 1);
        for (int i = 0; i < model->packing.count; i++) {
            const int64_t end = i + 1 < model->packing.count ? model->packing.items[i + 1].first
                                                             : model->packing.pieces;
            assert_int_equal(atomic_load(&model->packing.items[i].parameter->unpacked), next < end);
        }
        before = next;
    }
    assert_int_equal(before, model->packing.pieces);
    assert_ptr_equal(model->packing.items[model->packing.count - 1].parameter, model->head);
    model_destroy(model);
    /* enough time: all at once */
    model = open_model(KIND_BF16, ISA_REFERENCE, NULL, COMPUTE_BF16, 0);
    model_pack_behind(model, 1e9);
    model_pack_behind(model, 1e9);
    assert_true(model_packed(model));
    model_destroy(model);
}

static void packing_follows_the_passes(void **state) {
    (void)state;
    check_order();
    architecture = LATENT;
    check_order();
    architecture = V1;
}

/* A small checkpoint is packed while it is loaded. */
static void small_models_are_packed_at_once(void **state) {
    (void)state;
    struct error error;
    struct model *model;
    assert_int_equal(
        model_open(&model, path_of(KIND_BF16, ""), kernels_for(ISA_REFERENCE), NULL,
                   &(struct model_options){.use = MODEL_INFERENCE, .compute = COMPUTE_BF16, .cache = CACHE_COUNT},
                   &error),
        STATUS_OK);
    assert_true(model_packed(model));
    assert_int_equal(model->packing.count, 0);
    model_destroy(model);
}

/* A file that ends too early is refused, whatever would be read from it first. */
static void truncated_files_are_refused(void **state) {
    (void)state;
    struct error error;
    char *data;
    size_t size;
    char target[200];
    snprintf(target, sizeof target, "%s/cut", folder);
    assert_int_equal(folder_create(target, &error), STATUS_OK);
    assert_int_equal(file_read(path_of(KIND_BF16, "/model.safetensors"), SIZE_MAX, &data, &size, &error), STATUS_OK);
    snprintf(target, sizeof target, "%s/cut/model.safetensors", folder);
    assert_int_equal(file_replace(target, data, size - 1, &error), STATUS_OK);
    free(data);
    struct model *model = create_model(ISA_REFERENCE, NULL, COMPUTE_BF16, HIDDEN, VOCAB);
    model->pack_at_once = 0;
    snprintf(target, sizeof target, "%s/cut", folder);
    assert_int_equal(model_load(model, target, MODEL_INFERENCE, &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "cut/model.safetensors"));
    model_destroy(model);
}

/* Copies that the machine has no memory for are refused at loading, before anything is computed: a sparse file with an
 * output head of 2^24 x 3072. */
static void no_memory_for_the_copies(void **state) {
    (void)state;
    struct error error;
    const int hidden = 3072, vocab = 1 << 24;
    char path[200];
    snprintf(path, sizeof path, "%s/huge", folder);
    assert_int_equal(folder_create(path, &error), STATUS_OK);
    struct model *model = create_model(ISA_REFERENCE, NULL, COMPUTE_F32, hidden, vocab);
    char *header = malloc(65536);
    size_t used = 8;
    uint64_t at = 0;
    for (int i = 0; i < model->parameter_count; i++) {
        const struct parameter *p = model->parameters[i];
        char shape[60];
        snprintf(shape, sizeof shape, p->shape[1] ? "%lld, %lld" : "%lld", (long long)p->shape[0],
                 (long long)p->shape[1]);
        used += (size_t)sprintf(
            header + used, "%c\"%s\":{\"dtype\":\"BF16\",\"shape\":[%s],\"data_offsets\":[%llu,%llu]}", i ? ',' : '{',
            p->name, shape, (unsigned long long)at, (unsigned long long)(at + 2 * (uint64_t)p->count));
        at += 2 * (uint64_t)p->count;
    }
    header[used++] = '}';
    const uint64_t length = used - 8;
    memcpy(header, &length, 8);
    snprintf(path, sizeof path, "%s/huge/model.safetensors", folder);
    assert_int_equal(file_replace(path, header, used, &error), STATUS_OK);
    free(header);
    if (truncate(path, (off_t)(used + at)) == 0) {   /* not every file system has room for 200 GB of nothing */
        snprintf(path, sizeof path, "%s/huge", folder);
        assert_int_equal(model_load(model, path, MODEL_INFERENCE, &error), STATUS_NO_MEMORY);
        assert_non_null(strstr(error.message, "packed weights need 206."));
        assert_int_equal(model->packing.count, 0);
    }
    model_destroy(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packing_changes_no_bit),
        cmocka_unit_test(packing_follows_the_passes),
        cmocka_unit_test(small_models_are_packed_at_once),
        cmocka_unit_test(truncated_files_are_refused),
        cmocka_unit_test(no_memory_for_the_copies),
    };
    return cmocka_run_group_tests(tests, make_folders, remove_folders);
}
