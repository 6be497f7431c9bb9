/* The public API, through include/deepseek.h alone: every function, every error path, and that its results are those of
 * the program. */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "deepseek.h"

#define GQA "tests/golden/v1-gqa"
#define MHA "tests/golden/v1-mha"
#define CHARACTERS "tests/cli/data/characters"
enum { V = 131, CONTEXT = 64 };   /* of GQA: its vocabulary; of the model below: its context */

static char folder[] = "/tmp/test_api_XXXXXX";
static char text_model[64];   /* a folder with GQA's weights, a tokenizer, and a context of 64 tokens */
static ds_error error;

static void run(const char *format, ...) {
    char command[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(command, sizeof command, format, arguments);
    va_end(arguments);
    if (system(command)) fail_msg("failed: %s", command);
}

static void fine(ds_status status) {
    if (status) fail_msg("%s: %s", ds_status_name(status), error.message);
    assert_int_equal(error.code, DS_OK);
    assert_string_equal(error.message, "");
}

/* The call must fail with this status, and the message hold `part`. */
static void refused(ds_status status, ds_status expected, const char *part) {
    if (status != expected || error.code != expected || !strstr(error.message, part))
        fail_msg("found %s, \"%s\"; expected %s, \"...%s...\"", ds_status_name(status), error.message,
                 ds_status_name(expected), part);
    memset(&error, 0x55, sizeof error);   /* nothing of it may show in the next message */
}

static ds_model *load(const char *path, int threads) {
    ds_model_options options = { .size = sizeof options, .threads = threads };
    ds_model *model = NULL;
    fine(ds_model_load(&model, path, &options, &error));
    return model;
}

/* ---- what needs no object ---------------------------------------------------------------------------------------- */

static void test_version(void **state) {
    (void)state;
    char text[32];
    assert_int_equal(ds_version(), DS_VERSION);
    snprintf(text, sizeof text, "%d.%d.%d", DS_VERSION_MAJOR, DS_VERSION_MINOR, DS_VERSION_PATCH);
    assert_string_equal(ds_version_string(), text);
    assert_string_equal(DS_VERSION_STRING, text);
    assert_string_equal(ds_status_name(DS_OK), "ok");
    assert_string_equal(ds_status_name(DS_NOT_FOUND), "not found");
    assert_string_equal(ds_status_name(DS_INTERRUPTED), "interrupted");
    assert_string_equal(ds_status_name((ds_status)7), "unknown");
    assert_string_equal(ds_status_name((ds_status)-1), "unknown");
}

static void test_null(void **state) {
    (void)state;
    ds_tokenizer *tokenizer = (void *)1;
    ds_model *model = (void *)1;
    ds_sequence *sequence = (void *)1;
    ds_trainer *trainer = (void *)1;
    int32_t id = 7, *ids = &id;
    int64_t count = 7;
    size_t size = 7;
    char *text = NULL;
    float logits[V] = { 0 };
    double loss;
    ds_model_info info = { .size = sizeof info };
    ds_trainer_info trainer_info = { .size = sizeof trainer_info };
    ds_sampling sampling = { .size = sizeof sampling };
    ds_free(NULL);
    ds_tokenizer_free(NULL);
    ds_model_free(NULL);
    ds_sequence_free(NULL);
    ds_trainer_free(NULL);
    assert_int_equal(ds_tokenizer_size(NULL), 0);
    assert_int_equal(ds_tokenizer_find(NULL, "x"), -1);
    assert_int_equal(ds_tokenizer_bos(NULL), -1);
    assert_int_equal(ds_tokenizer_eos(NULL), -1);
    assert_null(ds_tokenizer_piece(NULL, 0, &size, NULL));
    assert_int_equal(size, 0);
    size = 7;
    assert_int_equal(ds_model_is_eos(NULL, 0), 0);
    assert_int_equal(ds_sequence_length(NULL), 0);
    assert_int_equal(ds_sequence_capacity(NULL), 0);
    assert_null(ds_model_tokenizer(NULL));
    assert_null(ds_model_warning(NULL, 0));
    assert_true(isnan(ds_learning_rate(NULL, 1)));

    refused(ds_tokenizer_load(NULL, "x", &error), DS_INVALID, "ds_tokenizer_load: tokenizer is NULL");
    refused(ds_tokenizer_load(&tokenizer, NULL, &error), DS_INVALID, "path is NULL");
    assert_null(tokenizer);
    refused(ds_tokenizer_bytes(NULL, &error), DS_INVALID, "tokenizer is NULL");
    refused(ds_tokenize(NULL, "x", 1, 0, &ids, &count, &error), DS_INVALID, "ds_tokenize: tokenizer is NULL");
    assert_null(ids);
    assert_int_equal(count, 0);
    refused(ds_detokenize(NULL, &id, 1, 0, &text, &size, &error), DS_INVALID, "ds_detokenize: tokenizer is NULL");
    assert_int_equal(size, 0);
    refused(ds_model_load(NULL, GQA, NULL, &error), DS_INVALID, "model is NULL");
    refused(ds_model_load(&model, NULL, NULL, &error), DS_INVALID, "folder is NULL");
    assert_null(model);
    refused(ds_model_get_info(NULL, &info, &error), DS_INVALID, "model is NULL");
    refused(ds_sequence_create(NULL, model, 0, &error), DS_INVALID, "sequence is NULL");
    refused(ds_sequence_create(&sequence, NULL, 0, &error), DS_INVALID, "model is NULL");
    assert_null(sequence);
    refused(ds_sequence_rewind(NULL, 0, &error), DS_INVALID, "sequence is NULL");
    refused(ds_feed(NULL, NULL, 0, &error), DS_INVALID, "model is NULL");
    refused(ds_model_sampling(NULL, &sampling, &error), DS_INVALID, "model is NULL");
    refused(ds_sample(NULL, logits, NULL, NULL, 0, 0, 0, &id, NULL, &error), DS_INVALID, "model is NULL");
    refused(ds_generate(NULL, "", 0, NULL, NULL, &error), DS_INVALID, "model is NULL");
    char left_over[] = "x";
    ds_generated result = { .size = sizeof result, .text = left_over, .count = 3 };   /* as if left over from before */
    refused(ds_generate(NULL, "", 0, NULL, &result, &error), DS_INVALID, "model is NULL");
    assert_true(!result.text && result.count == 0);
    refused(ds_trainer_create(NULL, "{}", 2, NULL, &error), DS_INVALID, "trainer is NULL");
    refused(ds_trainer_create(&trainer, NULL, 2, NULL, &error), DS_INVALID, "config_json is NULL");
    assert_null(trainer);
    refused(ds_trainer_create_from_file(NULL, "x", NULL, &error), DS_INVALID, "trainer is NULL");
    refused(ds_trainer_create_from_file(&trainer, NULL, NULL, &error), DS_INVALID, "config_path is NULL");
    refused(ds_trainer_get_info(NULL, &trainer_info, &error), DS_INVALID, "trainer is NULL");
    refused(ds_train_step(NULL, &id, &id, 1, 1, 0.1, NULL, &error), DS_INVALID, "trainer is NULL");
    refused(ds_train_loss(NULL, &id, &id, 1, 1, &loss, NULL, &error), DS_INVALID, "trainer is NULL");
    refused(ds_save(NULL, "x", &error), DS_INVALID, "trainer is NULL");

    /* without a record */
    assert_int_equal(ds_model_load(&model, "nowhere", NULL, NULL), DS_NOT_FOUND);
    assert_int_equal(ds_feed(NULL, NULL, 0, NULL), DS_INVALID);
}

/* ---- tokenizers -------------------------------------------------------------------------------------------------- */

static void test_tokenizer(void **state) {
    (void)state;
    ds_tokenizer *bytes, *characters;
    int32_t *ids;
    int64_t count;
    char *text;
    size_t size;
    fine(ds_tokenizer_bytes(&bytes, &error));
    assert_int_equal(ds_tokenizer_size(bytes), 257);
    assert_int_equal(ds_tokenizer_eos(bytes), 256);
    assert_int_equal(ds_tokenizer_bos(bytes), -1);
    static const char every[] = "a\0b \xC3\xA9 \xF0\x9F\x90\x8B";
    fine(ds_tokenize(bytes, every, sizeof every - 1, 0, &ids, &count, &error));
    assert_int_equal(count, sizeof every - 1);
    fine(ds_detokenize(bytes, ids, count, 0, &text, &size, &error));
    assert_int_equal(size, sizeof every - 1);
    assert_memory_equal(text, every, sizeof every);   /* and the NUL beyond */
    ds_free(text);
    fine(ds_detokenize(bytes, ids, count - 1, 0, &text, &size, &error));   /* cuts the last character */
    assert_memory_equal(text + size - 3, "\xEF\xBF\xBD", 4);
    ds_free(text);
    ds_free(ids);
    fine(ds_tokenize(bytes, NULL, 0, DS_TOKENIZE_SPECIAL, &ids, &count, &error));
    assert_non_null(ids);
    assert_int_equal(count, 0);
    fine(ds_detokenize(bytes, NULL, 0, DS_DETOKENIZE_SKIP_SPECIAL, &text, &size, &error));
    assert_int_equal(size, 0);
    assert_string_equal(text, "");
    ds_free(text);
    ds_free(ids);

    int special = -1;
    fine(ds_tokenize(bytes, "\xC3\xA9", 2, 0, &ids, &count, &error));
    for (int i = 0; i < 2; i++) {   /* a token that is a part of a character */
        const char *piece = ds_tokenizer_piece(bytes, ids[i], &size, &special);
        assert_true(size == 1 && *piece == "\xC3\xA9"[i] && special == 0);
    }
    ds_free(ids);
    assert_non_null(ds_tokenizer_piece(bytes, 256, NULL, &special));
    assert_int_equal(special, 1);
    const int32_t undefined[] = { -1, 257, INT32_MAX, INT32_MIN };
    for (int i = 0; i < 4; i++) {
        assert_null(ds_tokenizer_piece(bytes, undefined[i], &size, &special));
        assert_true(size == 0 && special == 0);
    }

    const int32_t wrong[] = { 65, -1 }, beyond[] = { 300 };
    refused(ds_tokenize(bytes, NULL, 1, 0, &ids, &count, &error), DS_INVALID, "text is NULL");
    refused(ds_tokenize(bytes, "a", 1, 4, &ids, &count, &error), DS_INVALID, "flags: found 0x4");
    refused(ds_tokenize(bytes, "a", 1, 0, NULL, &count, &error), DS_INVALID, "ids is NULL");
    refused(ds_tokenize(bytes, "a", 1, 0, &ids, NULL, &error), DS_INVALID, "count is NULL");
    refused(ds_detokenize(bytes, NULL, 1, 0, &text, &size, &error), DS_INVALID, "ids is NULL");
    refused(ds_detokenize(bytes, wrong, -1, 0, &text, &size, &error), DS_INVALID, "count: found -1");
    refused(ds_detokenize(bytes, wrong, 2, 0, &text, &size, &error), DS_INVALID, "token 1 has id -1");
    refused(ds_detokenize(bytes, wrong, 1, 2, &text, &size, &error), DS_INVALID, "flags: found 0x2");
    refused(ds_detokenize(bytes, wrong, 1, 0, NULL, &size, &error), DS_INVALID, "text is NULL");
    refused(ds_detokenize(bytes, wrong, 1, 0, &text, NULL, &error), DS_INVALID, "size is NULL");
    fine(ds_detokenize(bytes, beyond, 1, 0, &text, &size, &error));   /* not defined: nothing */
    assert_int_equal(size, 0);
    ds_free(text);
    ds_tokenizer_free(bytes);

    fine(ds_tokenizer_load(&characters, CHARACTERS, &error));
    assert_in_range(ds_tokenizer_size(characters), 20, V);
    assert_int_equal(ds_tokenizer_find(characters, "no such token"), -1);
    assert_int_equal(ds_tokenizer_find(characters, NULL), -1);
    refused(ds_tokenize(characters, "\xF0\x9F\x90\x8B", 4, 0, &ids, &count, &error), DS_INVALID, "");
    assert_null(ids);
    ds_tokenizer_free(characters);
    refused(ds_tokenizer_load(&characters, "nowhere/at/all", &error), DS_NOT_FOUND, "nowhere/at/all");
    assert_null(characters);
    refused(ds_tokenizer_load(&characters, GQA "/config.json", &error), DS_INVALID, "config.json");
    refused(ds_tokenizer_load(&characters, "no\x1B[31m\xFFwhere", &error), DS_NOT_FOUND, "no?[31m\xEF\xBF\xBDwhere");
}

/* ---- models and sequences ---------------------------------------------------------------------------------------- */

static void test_model(void **state) {
    (void)state;
    struct {
        ds_model_options options;
        int64_t later[2];
    } large = {{.size = sizeof large, .compute = DS_COMPUTE_FP32, .threads = 2}, {0}};
    ds_model_options options = { .size = 3 };
    ds_model *model = NULL;
    refused(ds_model_load(&model, GQA, &options, &error), DS_INVALID, "options->size: found 3");
    options = (ds_model_options){ .size = sizeof options, .compute = 4 };
    refused(ds_model_load(&model, GQA, &options, &error), DS_INVALID, "compute: found 4");
    options = (ds_model_options){ .size = sizeof options, .threads = 1025 };
    refused(ds_model_load(&model, GQA, &options, &error), DS_INVALID, "threads: found 1025");
    options.threads = -1;
    refused(ds_model_load(&model, GQA, &options, &error), DS_INVALID, "threads: found -1");
    refused(ds_model_load(&model, "", NULL, &error), DS_INVALID, "folder is empty");
    refused(ds_model_load(&model, "nowhere", NULL, &error), DS_NOT_FOUND, "nowhere");
    refused(ds_model_load(&model, GQA "/config.json", NULL, &error), DS_INVALID, "config.json");
    large.later[1] = 1;
    refused(ds_model_load(&model, GQA, &large.options, &error), DS_UNSUPPORTED, "does not know");
    assert_null(model);
    large.later[1] = 0;
    fine(ds_model_load(&model, GQA, &large.options, &error));

    ds_model_info info = { .size = sizeof info };
    fine(ds_model_get_info(model, &info, &error));
    assert_string_equal(info.model_type, "llama");
    assert_int_equal(info.size, sizeof info);
    assert_int_equal(info.vocab_size, V);
    assert_int_equal(info.max_position_embeddings, 4096);
    assert_int_equal(info.hidden_size, 64);
    assert_int_equal(info.num_hidden_layers, 2);
    assert_int_equal(info.num_attention_heads, 8);
    assert_int_equal(info.num_key_value_heads, 2);
    /* embedding, head, per layer q, o, k, v, three of the FFN and two norms, the last norm */
    assert_int_equal(info.parameters, 2 * V * 64 + 2 * (2 * 64 * 64 + 2 * 64 * 16 + 3 * 64 * 170 + 2 * 64) + 64);
    assert_int_equal(info.active_parameters, info.parameters);
    assert_int_equal(info.cache_bytes_per_token, 2 * 2 * 16 * 4);
    assert_int_equal(info.compute, DS_COMPUTE_FP32);
    assert_int_equal(info.threads, 2);
    refused(ds_model_get_info(model, NULL, &error), DS_INVALID, "info is NULL");
    info.size = 0;
    refused(ds_model_get_info(model, &info, &error), DS_INVALID, "info->size: found 0");
    assert_null(ds_model_tokenizer(model));
    assert_null(ds_model_warning(model, -1));
    assert_null(ds_model_warning(model, 0));
    ds_generated result = { .size = sizeof result };
    refused(ds_generate(model, "a", 1, NULL, &result, &error), DS_NOT_FOUND, "no tokenizer.json");

    ds_sequence *sequence = NULL;
    refused(ds_sequence_create(&sequence, model, 4097, &error), DS_INVALID,
            "capacity: found 4097, expected 0 (the context) to 4096");
    refused(ds_sequence_create(&sequence, model, -1, &error), DS_INVALID, "capacity: found -1");
    fine(ds_sequence_create(&sequence, model, 0, &error));
    assert_int_equal(ds_sequence_capacity(sequence), 4096);
    assert_int_equal(ds_sequence_length(sequence), 0);
    ds_sequence_free(sequence);
    ds_model_free(model);

    fine(ds_model_load(&model, GQA, NULL, &error));   /* the folder's weights are bf16 */
    info = (ds_model_info){ .size = sizeof info };
    fine(ds_model_get_info(model, &info, &error));
    assert_int_equal(info.compute, DS_COMPUTE_BF16);
    assert_int_equal(info.cache_bytes_per_token, 2 * 2 * 16 * 2);
    assert_int_equal(info.cache, DS_CACHE_BF16);
    ds_model_free(model);

    /* The type of the cache. */
    options = (ds_model_options){ .size = sizeof options, .compute = DS_COMPUTE_FP32, .cache = DS_CACHE_BF16 };
    fine(ds_model_load(&model, GQA, &options, &error));
    info = (ds_model_info){ .size = sizeof info };
    fine(ds_model_get_info(model, &info, &error));
    assert_int_equal(info.compute, DS_COMPUTE_FP32);
    assert_int_equal(info.cache, DS_CACHE_BF16);
    assert_int_equal(info.cache_bytes_per_token, 2 * 2 * 16 * 2);
    ds_model_free(model);
    options.cache = DS_CACHE_FP8;
    refused(ds_model_load(&model, GQA, &options, &error), DS_UNSUPPORTED,
            "cannot keep its cache in fp8, expected fp32 or bf16");
    options.cache = 4;
    refused(ds_model_load(&model, GQA, &options, &error), DS_INVALID,
            "cache: found 4, expected DS_CACHE_DEFAULT, _FP32, _BF16 or _FP8");
    options.cache = -1;
    refused(ds_model_load(&model, GQA, &options, &error), DS_INVALID, "cache: found -1");
    /* Drafting, of a model without modules. */
    options = (ds_model_options){ .size = sizeof options, .draft = DS_DRAFT_ALWAYS };
    refused(ds_model_load(&model, GQA, &options, &error), DS_UNSUPPORTED, "the model has no MTP modules");
    options.draft = 3;
    refused(ds_model_load(&model, GQA, &options, &error), DS_INVALID,
            "draft: found 3, expected DS_DRAFT_AUTO, _OFF or _ALWAYS (0 to 2)");
    options.draft = DS_DRAFT_OFF;
    fine(ds_model_load(&model, GQA, &options, &error));
    info = (ds_model_info){ .size = sizeof info, .draft_modules = 5 };
    fine(ds_model_get_info(model, &info, &error));
    assert_int_equal(info.draft_modules, 0);
    assert_int_equal(info.drafted, 0);
    ds_model_free(model);
    /* A program that was compiled before there was such an option sets what there was. */
    options = (ds_model_options){
        .size = offsetof(ds_model_options, cache), .compute = DS_COMPUTE_FP32, .cache = DS_CACHE_BF16};
    fine(ds_model_load(&model, GQA, &options, &error));
    info = (ds_model_info){ .size = offsetof(ds_model_info, cache), .cache = 77 };
    fine(ds_model_get_info(model, &info, &error));
    assert_int_equal(info.cache_bytes_per_token, 2 * 2 * 16 * 4);
    assert_int_equal(info.cache, 77);
    ds_model_free(model);
#define LITE "tests/golden/v2-lite"
    static const struct {
        int cache;
        int64_t bytes;
    } types[] = {{DS_CACHE_FP32, 4}, {DS_CACHE_BF16, 2}, {DS_CACHE_FP8, 0}};
    int64_t elements = 0;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        options = (ds_model_options){ .size = sizeof options, .compute = DS_COMPUTE_FP32, .cache = types[i].cache };
        fine(ds_model_load(&model, LITE, &options, &error));
        info = (ds_model_info){ .size = sizeof info };
        fine(ds_model_get_info(model, &info, &error));
        assert_int_equal(info.cache, types[i].cache);
        if (i == 0) elements = info.cache_bytes_per_token / 4;
        if (types[i].bytes) assert_int_equal(info.cache_bytes_per_token, elements * types[i].bytes);
        else assert_true(info.cache_bytes_per_token > elements && info.cache_bytes_per_token < 2 * elements);
        ds_sequence *sequence_of_type;
        float logits[512], reference[512];
        fine(ds_sequence_create(&sequence_of_type, model, 16, &error));
        assert_true(info.vocab_size <= 512);
        const ds_input input = {
            .sequence = sequence_of_type, .ids = (const int32_t[]){1, 2, 3, 4, 5}, .count = 5, .logits = logits};
        fine(ds_feed(model, &input, 1, &error));
        if (i == 0) memcpy(reference, logits, sizeof logits);
        else assert_true(memcmp(reference, logits, (size_t)info.vocab_size * sizeof *logits) != 0);   /* it rounds */
        ds_sequence_free(sequence_of_type);
        ds_model_free(model);
    }
    assert_int_equal(access(text_model, R_OK), 0);
}

static const int32_t tokens[12] = { 5, 17, 0, 130, 42, 42, 7, 99, 1, 64, 3, 88 };

static void test_feed(void **state) {
    (void)state;
    ds_model *model = load(GQA, 2), *other = load(GQA, 1);
    ds_sequence *a, *b, *foreign;
    static float whole[12][V], parts[12][V], alone[V], batch[2][V];
    fine(ds_sequence_create(&a, model, 12, &error));
    fine(ds_sequence_create(&b, model, 8, &error));
    fine(ds_sequence_create(&foreign, other, 8, &error));

    const ds_input all = { a, tokens, 12, whole[0], 1 };
    fine(ds_feed(model, &all, 1, &error));
    assert_int_equal(ds_sequence_length(a), 12);

    /* cut into calls, after rewinding */
    fine(ds_sequence_rewind(a, 0, &error));
    for (int at = 0; at < 12; at += at == 0 ? 5 : at == 5 ? 6 : 1) {
        const int64_t count = at == 0 ? 5 : at == 5 ? 6 : 1;
        const ds_input part = { a, tokens + at, count, parts[at], 1 };
        fine(ds_feed(model, &part, 1, &error));
    }
    assert_memory_equal(parts, whole, sizeof whole);

    /* rewound into the middle: the tokens after it had never been */
    fine(ds_sequence_rewind(a, 7, &error));
    const ds_input rest = { a, tokens + 7, 5, parts[7], 1 };
    fine(ds_feed(model, &rest, 1, &error));
    assert_memory_equal(parts, whole, sizeof whole);

    /* in a batch with another one, as alone; another model of one thread */
    const ds_input single = { foreign, tokens + 4, 8, alone, 0 };
    fine(ds_feed(other, &single, 1, &error));
    fine(ds_sequence_rewind(a, 11, &error));
    const ds_input together[] = { { b, tokens + 4, 8, batch[0], 0 }, { a, tokens + 11, 1, batch[1], 0 } };
    fine(ds_feed(model, together, 2, &error));
    assert_memory_equal(batch[0], alone, sizeof alone);
    assert_memory_equal(batch[1], whole[11], sizeof alone);

    /* nothing to do */
    fine(ds_feed(model, NULL, 0, &error));
    const ds_input nothing = { a, NULL, 0, NULL, 0 };
    fine(ds_feed(model, &nothing, 1, &error));

    /* what is refused leaves everything as it was */
    fine(ds_sequence_rewind(a, 6, &error));
    fine(ds_sequence_rewind(b, 6, &error));
    const int32_t beyond[] = { 0, V }, negative[] = { -1 };
    struct { ds_input inputs[2]; const char *part; } wrong[] = {
        { { { a, tokens, 7, NULL, 0 }, { b, tokens, 1, NULL, 0 } }, "expected at most 12" },
        { { { b, tokens, 1, NULL, 0 }, { a, tokens, INT64_MAX, NULL, 0 } }, "expected at most 12" },
        { { { b, tokens, 1, NULL, 0 }, { a, beyond, 2, NULL, 0 } }, "token 1 has id 131, expected 0 to 130" },
        { { { b, tokens, 1, NULL, 0 }, { a, negative, 1, NULL, 0 } }, "token 0 has id -1" },
        { { { b, tokens, 1, NULL, 0 }, { a, tokens, -1, NULL, 0 } }, "-1 new tokens" },
        { { { b, tokens, 1, NULL, 0 }, { a, NULL, 1, NULL, 0 } }, "input 1: ids is NULL" },
        { { { b, tokens, 1, NULL, 0 }, { NULL, tokens, 1, NULL, 0 } }, "input 1: sequence is NULL" },
        { { { b, tokens, 1, NULL, 0 }, { foreign, tokens, 1, NULL, 0 } }, "another model" },
        { { { b, tokens, 1, NULL, 0 }, { b, tokens, 1, NULL, 0 } }, "the same sequence" },
        { { { b, tokens, 1, NULL, 0 }, { a, tokens, 0, alone, 0 } }, "input 1: logits of its last token are wanted" },
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        refused(ds_feed(model, wrong[i].inputs, 2, &error), DS_INVALID, wrong[i].part);
        assert_int_equal(ds_feed(model, wrong[i].inputs, 2, &error), DS_INVALID);
        assert_int_equal(strncmp(error.message, "ds_feed: ", 9), 0);
        assert_int_equal(ds_sequence_length(a), 6);
        assert_int_equal(ds_sequence_length(b), 6);
    }
    refused(ds_feed(model, NULL, 1, &error), DS_INVALID, "inputs is NULL");
    refused(ds_feed(model, &nothing, -1, &error), DS_INVALID, "count: found -1");
    refused(ds_sequence_rewind(a, 7, &error), DS_INVALID, "length: found 7, expected 0 to 6");
    refused(ds_sequence_rewind(a, -1, &error), DS_INVALID, "length: found -1");
    const ds_input after = { a, tokens + 6, 6, parts[6], 1 };
    fine(ds_feed(model, &after, 1, &error));
    assert_memory_equal(parts, whole, sizeof whole);

    ds_sequence_free(a);
    ds_sequence_free(b);
    ds_sequence_free(foreign);
    ds_model_free(model);
    ds_model_free(other);
}

/* Two threads, each with a model and a trainer of its own. */
struct worker { const char *path; int64_t rounds; float logits[V]; double loss; bool failed; };

static void *work(void *context) {
    struct worker *w = context;
    ds_error e;
    ds_model_options options = { .size = sizeof options, .threads = 2 };
    for (int64_t i = 0; i < w->rounds && !w->failed; i++) {
        ds_model *model = NULL;
        ds_sequence *sequence = NULL;
        int64_t length = 12;
        w->failed = ds_model_load(&model, w->path, &options, &e) || ds_sequence_create(&sequence, model, 12, &e);
        for (int64_t t = 0; t < length && !w->failed; t += 4) {
            const ds_input input = { sequence, tokens + t, 4, w->logits, 0 };
            w->failed = ds_feed(model, &input, 1, &e) != DS_OK;
        }
        ds_sequence_free(sequence);
        ds_model_free(model);
        static const char config[] =
            "{\"model_type\": \"llama\", \"hidden_size\": 32, \"intermediate_size\": 64, \"num_hidden_layers\": 1, "
            "\"num_attention_heads\": 2, \"num_key_value_heads\": 2,"
            " \"rms_norm_eps\": 1e-6, \"vocab_size\": 131, \"train\": {\"sequence_length\": 11, \"batch_size\": 1}}";
        ds_trainer *trainer = NULL;
        ds_step_result result = { .size = sizeof result };
        w->failed = w->failed || ds_trainer_create(&trainer, config, sizeof config - 1, NULL, &e);
        for (int s = 0; s < 3 && !w->failed; s++)
            w->failed = ds_train_step(trainer, tokens, tokens + 1, 1, 11, 1e-2, &result, &e) != DS_OK;
        w->loss = result.loss;
        ds_trainer_free(trainer);
    }
    return NULL;
}

static void test_threads(void **state) {
    (void)state;
    static struct worker alone[2] = {{.path = GQA, .rounds = 1}, {.path = text_model, .rounds = 1}},
                         together[2] = {{.path = GQA, .rounds = 3}, {.path = text_model, .rounds = 3}};
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) work(&alone[i]);
    for (int i = 0; i < 2; i++) assert_int_equal(pthread_create(&threads[i], NULL, work, &together[i]), 0);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < 2; i++) {
        assert_false(alone[i].failed || together[i].failed);
        assert_memory_equal(alone[i].logits, together[i].logits, sizeof alone[i].logits);
        assert_true(alone[i].loss == together[i].loss && alone[i].loss > 0);
    }
}

/* ---- sampling ---------------------------------------------------------------------------------------------------- */

static void test_sample(void **state) {
    (void)state;
    ds_model *model = load(GQA, 1);
    ds_sampling sampling = { .size = sizeof sampling };
    float logits[V], logprob;
    int32_t id, again;
    double sum = 0;
    for (int i = 0; i < V; i++) logits[i] = (float)((i * 37) % 101) / 20;
    logits[77] = 9;
    for (int i = 0; i < V; i++) sum += exp((double)logits[i]);

    refused(ds_model_sampling(model, NULL, &error), DS_INVALID, "sampling is NULL");
    fine(ds_model_sampling(model, &sampling, &error));
    assert_int_equal(sampling.size, sizeof sampling);
    assert_true(sampling.temperature == 0.8 && sampling.top_p == 0.95 && sampling.top_k == 0 && sampling.min_p == 0 &&
                sampling.repetition_penalty == 1);
    sampling.temperature = 0;
    fine(ds_sample(model, logits, &sampling, tokens, 12, 12, 0, &id, &logprob, &error));
    assert_int_equal(id, 77);
    assert_true(fabs((double)logprob - (9 - log(sum))) < 1e-5);
    const ds_logit_bias ban[] = { { 77, -INFINITY }, { 3, 100 } };
    sampling.bias = ban;
    sampling.bias_count = 2;
    fine(ds_sample(model, logits, &sampling, NULL, 0, 0, 0, &id, NULL, &error));
    assert_int_equal(id, 3);
    sampling.bias_count = 0;
    sampling.temperature = 1;
    sampling.top_k = 1;
    fine(ds_sample(model, logits, &sampling, tokens, 12, 3, 0, &id, NULL, &error));
    assert_int_equal(id, 77);

    /* (seed, stream, position) alone */
    sampling = (ds_sampling){ .size = sizeof sampling };
    fine(ds_model_sampling(model, &sampling, &error));
    sampling.temperature = 3;
    int others = 0;
    for (uint64_t stream = 0; stream < 50; stream++) {
        fine(ds_sample(model, logits, &sampling, tokens, 12, 12, stream, &id, NULL, &error));
        fine(ds_sample(model, logits, &sampling, tokens, 12, 12, stream, &again, NULL, &error));
        assert_int_equal(id, again);
        fine(ds_sample(model, logits, &sampling, tokens, 11, 11, stream, &again, NULL, &error));
        others += id != again;
    }
    assert_true(others > 10);
    fine(ds_sample(model, logits, NULL, tokens, 12, 12, 0, &id, NULL, &error));

    refused(ds_sample(model, NULL, NULL, tokens, 12, 12, 0, &id, NULL, &error), DS_INVALID, "logits is NULL");
    refused(ds_sample(model, logits, NULL, tokens, 12, 12, 0, NULL, NULL, &error), DS_INVALID, "id is NULL");
    refused(ds_sample(model, logits, NULL, NULL, 1, 0, 0, &id, NULL, &error), DS_INVALID, "ids is NULL");
    refused(ds_sample(model, logits, NULL, tokens, -1, 0, 0, &id, NULL, &error), DS_INVALID, "count: found -1");
    refused(ds_sample(model, logits, NULL, tokens, 3, 4, 0, &id, NULL, &error), DS_INVALID,
            "prompt: found 4, expected 0 to count, 3");
    const int32_t beyond[] = { V };
    refused(ds_sample(model, logits, NULL, beyond, 1, 1, 0, &id, NULL, &error), DS_INVALID, "token 0 has id 131");
    struct { ds_sampling sampling; const char *part;
    } wrong[] = {
        {{.size = sizeof sampling, .temperature = -1, .top_p = 1, .repetition_penalty = 1}, "temperature: found -1"},
        {{.size = sizeof sampling, .temperature = NAN, .top_p = 1, .repetition_penalty = 1}, "temperature: found"},
        {{.size = sizeof sampling, .top_k = -1, .top_p = 1, .repetition_penalty = 1}, "top_k: found -1"},
        {{.size = sizeof sampling, .top_p = 1.5, .repetition_penalty = 1}, "top_p: found 1.5"},
        {{.size = sizeof sampling, .top_p = 1, .min_p = -0.5, .repetition_penalty = 1}, "min_p: found -0.5"},
        {{.size = sizeof sampling, .top_p = 1}, "repetition_penalty: found 0"},
        {{.size = sizeof sampling, .top_p = 1, .repetition_penalty = 1, .presence_penalty = INFINITY},
         "presence_penalty: found inf"},
        {{.size = sizeof sampling, .top_p = 1, .repetition_penalty = 1, .bias_count = -1}, "bias_count: found -1"},
        {{.size = sizeof sampling, .top_p = 1, .repetition_penalty = 1, .bias_count = 1}, "bias is NULL"},
        {{.size = 8}, "size: found 8"},
        {{.size = sizeof sampling, .temperature = 1},
         "sampling: found a zeroed one, expected one that ds_model_sampling has filled"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        refused(ds_sample(model, logits, &wrong[i].sampling, tokens, 12, 12, 0, &id, NULL, &error), DS_INVALID,
                wrong[i].part);
    const ds_logit_bias twice[] = { { 3, 50 }, { 3, 50 }, { 4, 99 } }, outside[] = { { V, 1 } };
    sampling.bias = twice;
    sampling.bias_count = 3;
    sampling.temperature = 0;
    fine(ds_sample(model, logits, &sampling, tokens, 12, 12, 0, &id, NULL, &error));
    assert_int_equal(id, logits[3] + 1 > logits[4] ? 3 : 4);
    sampling.bias = outside;
    sampling.bias_count = 1;
    refused(ds_sample(model, logits, &sampling, tokens, 12, 12, 0, &id, NULL, &error), DS_INVALID, "131");
    ds_model_free(model);
}

/* ---- generation -------------------------------------------------------------------------------------------------- */

struct collected { char text[4096]; size_t size; int calls, end_after; };

static int collect(void *context, const char *text, size_t size) {
    struct collected *c = context;
    assert_true(size > 0 && c->size + size < sizeof c->text);
    memcpy(c->text + c->size, text, size);
    c->size += size;
    return ++c->calls != c->end_after;
}

static void release(ds_generated *result) {
    ds_free(result->text);
    ds_free(result->ids);
    *result = (ds_generated){ .size = sizeof *result };
}

static void test_generate(void **state) {
    (void)state;
    ds_model *model = load(text_model, 2);
    const ds_tokenizer *tokenizer = ds_model_tokenizer(model);
    assert_non_null(tokenizer);
    ds_sampling sampling = { .size = sizeof sampling };
    fine(ds_model_sampling(model, &sampling, &error));
    sampling.temperature = 2;
    sampling.seed = 9;
    struct collected seen = { .end_after = -1 };
    ds_generate_options options = { .size = sizeof options };
    options.sampling = &sampling;
    options.stream = 3;
    options.max_tokens = 20;
    options.ignore_eos = 1;
    options.on_text = collect;
    options.context = &seen;
    ds_generated result = { .size = sizeof result };
    fine(ds_generate(model, "the end", 7, &options, &result, &error));
    assert_int_equal(result.finish, DS_FINISH_LENGTH);
    assert_int_equal(result.count, 20);
    assert_int_equal(seen.size, result.text_size);
    assert_memory_equal(seen.text, result.text, result.text_size);

    /* by hand: the same ids and the same text */
    int32_t *ids, all[64];
    int64_t count;
    char *text;
    size_t size;
    fine(ds_tokenize(tokenizer, "the end", 7, DS_TOKENIZE_BEGIN, &ids, &count, &error));
    assert_int_equal(count, result.prompt_count);
    memcpy(all, ids, (size_t)count * sizeof *all);
    ds_free(ids);
    ds_sequence *sequence;
    static float logits[V];
    fine(ds_sequence_create(&sequence, model, 0, &error));
    assert_int_equal(ds_sequence_capacity(sequence), CONTEXT);
    for (int i = 0; i < 20; i++) {
        const int64_t fed = ds_sequence_length(sequence);
        const ds_input input = { sequence, all + fed, count - fed, logits, 0 };
        fine(ds_feed(model, &input, 1, &error));
        fine(ds_sample(model, logits, &sampling, all, count, result.prompt_count, 3, &all[count], NULL, &error));
        count++;
    }
    assert_memory_equal(all, result.ids, (size_t)count * sizeof *all);
    fine(ds_detokenize(tokenizer, all + result.prompt_count, 20, DS_DETOKENIZE_SKIP_SPECIAL, &text, &size, &error));
    assert_int_equal(size, result.text_size);
    assert_memory_equal(text, result.text, size);
    ds_sequence_free(sequence);

    /* a stop string of two of its characters */
    char stop[3] = { result.text[5], result.text[6], 0 };
    const char *stops[] = { stop };
    const size_t place = (size_t)(strstr(result.text, stop) - result.text);
    release(&result);
    options.stops = stops;
    options.stop_count = 1;
    seen = (struct collected){ .end_after = -1 };
    fine(ds_generate(model, "the end", 7, &options, &result, &error));
    assert_int_equal(result.finish, DS_FINISH_STOP);
    assert_int_equal(result.text_size, place);
    assert_memory_equal(result.text, text, place);
    assert_int_equal(seen.size, place);
    ds_free(text);
    release(&result);

    /* ended by the callback; without one; without a result; with defaults */
    options.stop_count = 0;
    seen = (struct collected){ .end_after = 3 };
    fine(ds_generate(model, "the end", 7, &options, &result, &error));
    assert_int_equal(result.finish, DS_FINISH_INTERRUPTED);
    assert_int_equal(seen.calls, 3);
    release(&result);
    options.on_text = NULL;
    fine(ds_generate(model, "the end", 7, &options, NULL, &error));
    fine(ds_generate(model, "the end", 7, NULL, &result, &error));
    assert_true(result.finish == DS_FINISH_LENGTH || result.finish == DS_FINISH_EOS);
    assert_true(result.prompt_count + result.count <= CONTEXT + 1);
    release(&result);

    /* what is refused */
    char long_prompt[2 * CONTEXT + 1];
    memset(long_prompt, 'e', sizeof long_prompt);
    refused(ds_generate(model, long_prompt, sizeof long_prompt, &options, &result, &error), DS_INVALID,
            "expected at most 64");
    assert_null(result.text);
    assert_null(result.ids);
    refused(ds_generate(model, NULL, 3, &options, &result, &error), DS_INVALID, "prompt is NULL");
    options.max_tokens = -1;
    refused(ds_generate(model, "a", 1, &options, &result, &error), DS_INVALID, "max_tokens: found -1");
    options.max_tokens = 5;
    options.stop_count = 17;
    refused(ds_generate(model, "a", 1, &options, &result, &error), DS_INVALID, "stop_count: found 17");
    options.stop_count = 1;
    options.stops = NULL;
    refused(ds_generate(model, "a", 1, &options, &result, &error), DS_INVALID, "stops is NULL");
    const char *missing[] = { NULL }, *empty[] = { "" };
    options.stops = missing;
    refused(ds_generate(model, "a", 1, &options, &result, &error), DS_INVALID, "stop string 0 is NULL");
    options.stops = empty;
    refused(ds_generate(model, "a", 1, &options, &result, &error), DS_INVALID, "stop");
    options.stop_count = 0;
    sampling.top_p = 2;
    refused(ds_generate(model, "a", 1, &options, &result, &error), DS_INVALID, "top_p: found 2");
    sampling.top_p = 1;
    result.size = 1;
    refused(ds_generate(model, "a", 1, &options, &result, &error), DS_INVALID, "result->size: found 1");
    options.size = 1;
    refused(ds_generate(model, "a", 1, &options, NULL, &error), DS_INVALID, "options->size: found 1");
    ds_model_free(model);
}

/* A callback that generates with the same model, and with more biases than the text that called it. */
struct nested { ds_model *model; int depth, calls; };

static int generate_again(void *context, const char *text, size_t size) {
    (void)text;
    (void)size;
    struct nested *n = context;
    static ds_logit_bias biases[5000];
    ds_sampling sampling = { .size = sizeof sampling };
    ds_generate_options options = { .size = sizeof options };
    ds_error e;
    n->calls++;
    if (n->depth > 1) return 1;
    n->depth++;
    assert_int_equal(ds_model_sampling(n->model, &sampling, &e), DS_OK);
    sampling.bias = biases;
    sampling.bias_count = 1000 * n->depth;
    options.sampling = &sampling;
    options.max_tokens = 3;
    options.ignore_eos = 1;
    options.on_text = generate_again;
    options.context = n;
    assert_int_equal(ds_generate(n->model, "again", 5, &options, NULL, &e), DS_OK);
    n->depth--;
    return 1;
}

static void test_nested(void **state) {
    (void)state;
    ds_model *model = load(text_model, 1);
    struct nested nested = { .model = model };
    const ds_logit_bias bias = { 7, 1 };
    ds_sampling sampling = { .size = sizeof sampling };
    fine(ds_model_sampling(model, &sampling, &error));
    sampling.bias = &bias;
    sampling.bias_count = 1;
    sampling.temperature = 2;
    ds_generate_options options = { .size = sizeof options };
    options.sampling = &sampling;
    options.max_tokens = 12;
    options.ignore_eos = 1;
    ds_generated plain = { .size = sizeof plain }, result = { .size = sizeof result };
    fine(ds_generate(model, "the end", 7, &options, &plain, &error));
    options.on_text = generate_again;
    options.context = &nested;
    fine(ds_generate(model, "the end", 7, &options, &result, &error));
    assert_true(nested.calls > 12);
    assert_int_equal(result.text_size, plain.text_size);
    assert_memory_equal(result.text, plain.text, plain.text_size);
    release(&plain);
    release(&result);
    ds_model_free(model);
}

/* A tokenizer with an added token that begins and ends texts, below a larger vocabulary. */
static void test_special(void **state) {
    (void)state;
    static const char text[] = "a<|endoftext|>b";
    enum { LENGTH = sizeof text - 1, END = 256, PADDED = 300 };
    ds_tokenizer *tokenizer;
    char path[128], *out;
    int32_t *ids;
    int64_t count;
    size_t size;
    snprintf(path, sizeof path, "%s/special", folder);
    run("mkdir %s && cp tests/cli/data/bytes/tokenizer.json %s && "
        "echo '{\"add_bos_token\": true, \"bos_token\": \"<|endoftext|>\", \"eos_token\": \"<|endoftext|>\"}' "
        ">%s/tokenizer_config.json",
        path, path, path);
    fine(ds_tokenizer_load(&tokenizer, path, &error));
    assert_int_equal(ds_tokenizer_find(tokenizer, "<|endoftext|>"), END);
    assert_int_equal(ds_tokenizer_bos(tokenizer), END);
    assert_int_equal(ds_tokenizer_eos(tokenizer), END);
    const struct {
        unsigned flags;
        int64_t count;
        bool begins;
    } cases[] = {{0, LENGTH, false},
                 {DS_TOKENIZE_SPECIAL, 3, false},
                 {DS_TOKENIZE_BEGIN, LENGTH + 1, true},
                 {DS_TOKENIZE_BEGIN | DS_TOKENIZE_SPECIAL, 4, true}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fine(ds_tokenize(tokenizer, text, LENGTH, cases[i].flags, &ids, &count, &error));
        assert_int_equal(count, cases[i].count);
        assert_int_equal(ids[0] == END, cases[i].begins);
        ds_free(ids);
    }
    fine(ds_tokenize(tokenizer, text + 1, LENGTH - 1, DS_TOKENIZE_BEGIN | DS_TOKENIZE_SPECIAL, &ids, &count, &error));
    assert_int_equal(count, 2);   /* begins with it already */
    fine(ds_detokenize(tokenizer, ids, count, 0, &out, &size, &error));
    assert_string_equal(out, "<|endoftext|>b");
    ds_free(out);
    fine(ds_detokenize(tokenizer, ids, count, DS_DETOKENIZE_SKIP_SPECIAL, &out, &size, &error));
    assert_string_equal(out, "b");
    ds_free(out);
    ds_free(ids);

    static const char config[] = "{\"model_type\": \"llama\", \"hidden_size\": 32, \"intermediate_size\": 64, "
                                 "\"num_hidden_layers\": 1, \"num_attention_heads\": 2, \"vocab_size\": 300,"
                                 " \"train\": {\"sequence_length\": 48}}";
    ds_trainer_options training = { .size = sizeof training };
    ds_trainer *trainer;
    training.tokenizer = tokenizer;
    fine(ds_trainer_create(&trainer, config, sizeof config - 1, &training, &error));
    fine(ds_save(trainer, path, &error));
    ds_trainer_free(trainer);
    ds_tokenizer_free(tokenizer);
    run("grep -q '\"eos_token_id\": 256' %s/config.json && grep -q '\"bos_token_id\": 256' %s/config.json", path, path);

    ds_model *model = load(path, 1);
    static float logits[PADDED];
    logits[290] = 50;
    logits[77] = 20;
    ds_sampling sampling = { .size = sizeof sampling };
    int32_t id;
    fine(ds_model_sampling(model, &sampling, &error));
    fine(ds_sample(model, logits, &sampling, NULL, 0, 0, 0, &id, NULL, &error));
    assert_int_equal(id, 77);   /* 290 is padding of the vocabulary */
    assert_int_equal(ds_model_is_eos(model, END), 1);
    assert_int_equal(ds_model_is_eos(model, 77), 0);
    assert_int_equal(ds_model_is_eos(model, -1), 0);
    const ds_logit_bias end = { END, 1000 };
    sampling.bias = &end;
    sampling.bias_count = 1;
    ds_generate_options options = { .size = sizeof options };
    options.sampling = &sampling;
    options.max_tokens = 5;
    ds_generated result = { .size = sizeof result };
    fine(ds_generate(model, "a<|endoftext|>", 14, &options, &result, &error));
    assert_int_equal(result.finish, DS_FINISH_EOS);
    assert_int_equal(result.prompt_count, 1 + 14);
    assert_int_equal(result.count, 1);
    assert_int_equal(result.ids[15], END);
    assert_int_equal(result.text_size, 0);
    release(&result);
    options.ignore_eos = 1;
    options.special = 1;
    fine(ds_generate(model, "a<|endoftext|>", 14, &options, &result, &error));
    assert_int_equal(result.finish, DS_FINISH_LENGTH);
    assert_int_equal(result.prompt_count, 1 + 2);
    assert_int_equal(result.count, 5);
    release(&result);
    fine(ds_generate(model, NULL, 0, &options, &result, &error));   /* nothing but the token that begins texts */
    assert_int_equal(result.prompt_count, 1);
    release(&result);
    ds_model_free(model);
}

/* ---- training ---------------------------------------------------------------------------------------------------- */

static const char tiny[] = "{\"model_type\": \"llama\", \"hidden_size\": 32, \"intermediate_size\": 64, "
                           "\"num_hidden_layers\": 1, \"num_attention_heads\": 2, \"num_key_value_heads\": 2,"
                           " \"rms_norm_eps\": 1e-6, \"vocab_size\": 131, \"train\": {\"steps\": 20, "
                           "\"sequence_length\": 11, \"batch_size\": 4, \"micro_batch_size\": 2,"
                           " \"schedule\": {\"warmup_steps\": 4}, \"optimizer\": {\"learning_rate\": 0.01}}}";

static void test_trainer(void **state) {
    (void)state;
    ds_trainer *trainer;
    ds_trainer_info info = { .size = sizeof info };
    fine(ds_trainer_create(&trainer, tiny, sizeof tiny - 1, NULL, &error));
    fine(ds_trainer_get_info(trainer, &info, &error));
    assert_int_equal(info.vocab_size, V);
    assert_int_equal(info.parameters, 2 * V * 32 + 4 * 32 * 32 + 3 * 32 * 64 + 3 * 32);
    assert_int_equal(info.steps, 20);
    assert_int_equal(info.sequence_length, 11);
    assert_int_equal(info.batch_size, 4);
    assert_int_equal(info.micro_batch_size, 2);
    assert_int_equal(info.steps_done, 0);
    assert_int_equal(info.compute, DS_COMPUTE_FP32);
    assert_true(fabs(ds_learning_rate(trainer, 2) - 0.005) < 1e-12 &&
                fabs(ds_learning_rate(trainer, 4) - 0.01) < 1e-12);
    assert_true(fabs(ds_learning_rate(trainer, 20) - 0.001) < 1e-12);
    assert_true(isnan(ds_learning_rate(trainer, 0)));

    int32_t inputs[3 * 11], targets[3 * 11];
    for (int b = 0; b < 3; b++)
        for (int t = 0; t < 11; t++)
            inputs[11 * b + t] = (tokens[t] + b) % V,
                            targets[11 * b + t] = t % 5 == 3 ? DS_IGNORE : (tokens[t + 1] + b) % V;
    double before, loss;
    int64_t predicted;
    fine(ds_train_loss(trainer, inputs, targets, 3, 11, &before, &predicted, &error));
    assert_int_equal(predicted, 3 * 9);
    assert_true(fabs(before - log(V)) < 0.2);   /* has learned nothing: uniform */
    ds_step_result result = { .size = sizeof result };
    for (int s = 1; s <= 20; s++) {
        fine(ds_train_step(trainer, inputs, targets, 3, 11, DS_SCHEDULED_RATE, &result, &error));
        if (s == 1) assert_true(fabs(result.loss - before) < 1e-6);
        assert_true(result.learning_rate == ds_learning_rate(trainer, s) && result.grad_norm > 0);
        assert_true(result.main_loss == result.loss && result.max_violation == 0 && result.assigned == 0 &&
                    result.dropped == 0);
    }
    fine(ds_train_step(trainer, inputs, targets, 1, 3, 0.0, NULL, &error));
    fine(ds_trainer_get_info(trainer, &info, &error));
    assert_int_equal(info.steps_done, 21);
    fine(ds_train_loss(trainer, inputs, targets, 3, 11, &loss, NULL, &error));
    assert_true(loss < before - 1);
    double now;
    ds_trainer *other;   /* another seed, other weights */
    char seeded[sizeof tiny + 64];
    snprintf(seeded, sizeof seeded, "%.*s, \"seed\": 2}}", (int)(sizeof tiny - 3), tiny);
    fine(ds_trainer_create(&other, seeded, strlen(seeded), NULL, &error));
    fine(ds_train_loss(other, inputs, targets, 3, 11, &now, NULL, &error));
    assert_true(now != before && fabs(now - log(V)) < 0.2);
    ds_trainer_free(other);
    /* documents of their own, in a loss as in a step */
    snprintf(seeded, sizeof seeded, "%.*s, \"documents\": \"separate\"}, \"eos_token_id\": %d}",
             (int)(sizeof tiny - 3), tiny, tokens[4]);
    fine(ds_trainer_create(&other, seeded, strlen(seeded), NULL, &error));
    fine(ds_train_loss(other, inputs, targets, 3, 11, &now, NULL, &error));
    fine(ds_train_step(other, inputs, targets, 3, 11, 0.0, &result, &error));
    assert_true(now != before && fabs(now - result.loss) < 1e-6 && fabs(before - result.loss) > 1e-5);
    ds_trainer_free(other);
    refused(ds_train_step(trainer, inputs, NULL, 3, 11, 0.1, &result, &error), DS_INVALID, "targets is NULL");
    refused(ds_train_step(trainer, NULL, targets, 3, 11, 0.1, &result, &error), DS_INVALID, "inputs is NULL");
    refused(ds_train_step(trainer, inputs, targets, 0, 11, 0.1, &result, &error), DS_INVALID, "sequences: found 0");
    refused(ds_train_step(trainer, inputs, targets, INT64_MAX, 11, 0.1, &result, &error), DS_INVALID,
            "sequences: found");
    refused(ds_train_step(trainer, inputs, targets, 3, 0, 0.1, &result, &error), DS_INVALID, "length: found 0");
    refused(ds_train_step(trainer, inputs, targets, 1, 12, 0.1, &result, &error), DS_INVALID,
            "length: found 12, expected 1 to 11");
    refused(ds_train_step(trainer, inputs, targets, 3, 11, -0.5, &result, &error), DS_INVALID,
            "learning_rate: found -0.5");
    refused(ds_train_step(trainer, inputs, targets, 3, 11, NAN, &result, &error), DS_INVALID, "learning_rate: found");
    refused(ds_train_step(trainer, inputs, targets, 3, 11, INFINITY, &result, &error), DS_INVALID,
            "learning_rate: found inf");
    result.size = 2;
    refused(ds_train_step(trainer, inputs, targets, 3, 11, 0.1, &result, &error), DS_INVALID, "result->size: found 2");
    int32_t odd[11];
    memcpy(odd, inputs, sizeof odd);
    for (int k = 0; k < 2; k++) {
        odd[10] = k ? -1 : V;
        refused(ds_train_step(trainer, odd, targets, 1, 11, 0.1, NULL, &error), DS_INVALID, "position 10: found input");
    }
    memcpy(odd, targets, sizeof odd);
    for (int k = 0; k < 2; k++) {
        odd[10] = k ? -2 : V;
        refused(ds_train_step(trainer, inputs, odd, 1, 11, 0.1, NULL, &error), DS_INVALID, "targets: or DS_IGNORE");
    }
    for (int t = 0; t < 11; t++) odd[t] = DS_IGNORE;
    refused(ds_train_loss(trainer, inputs, odd, 1, 11, &now, NULL, &error), DS_INVALID, "every one is DS_IGNORE");
    refused(ds_train_loss(trainer, inputs, targets, 3, 11, NULL, NULL, &error), DS_INVALID, "loss is NULL");
    refused(ds_trainer_get_info(trainer, NULL, &error), DS_INVALID, "info is NULL");
    refused(ds_save(trainer, NULL, &error), DS_INVALID, "folder is NULL");
    refused(ds_save(trainer, "", &error), DS_INVALID, "folder is empty");
    refused(ds_save(trainer, GQA "/config.json/below", &error), DS_IO, "config.json");
    fine(ds_train_loss(trainer, inputs, targets, 3, 11, &now, NULL, &error));
    assert_true(now == loss);   /* nothing that was refused changed anything */
    fine(ds_trainer_get_info(trainer, &info, &error));
    assert_int_equal(info.steps_done, 21);
    ds_trainer_free(trainer);
}

static void test_trainer_config(void **state) {
    (void)state;
    ds_trainer *trainer;
    ds_tokenizer *tokenizer;
    struct { const char *config, *part; ds_status status;
    } wrong[] = {
        {"", "config", DS_INVALID},
        {"[1]", "not a JSON object", DS_INVALID},
        {"{\"model_type\": \"alpaca\"}", "alpaca", DS_UNSUPPORTED},
        {"{\"model_type\": \"llama\", \"hidden_size\": 32, \"intermediate_size\": 64, \"num_hidden_layers\": 1, "
         "\"num_attention_heads\": 2, \"train\": {}}",
         "vocab_size", DS_INVALID},
        {"{\"train\": {\"stepz\": 1}}", "stepz", DS_INVALID},
        {"{\"train\": {\"steps\": 0}}", "steps: found 0", DS_INVALID},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        refused(ds_trainer_create(&trainer, wrong[i].config, strlen(wrong[i].config), NULL, &error), wrong[i].status,
                wrong[i].part);
    assert_null(trainer);
    refused(ds_trainer_create_from_file(&trainer, "nowhere.json", NULL, &error), DS_NOT_FOUND, "nowhere.json");
    ds_trainer_options options = { .size = sizeof options };
    options.from = "nowhere";
    refused(ds_trainer_create(&trainer, tiny, sizeof tiny - 1, &options, &error), DS_NOT_FOUND, "nowhere");
    options.from = GQA;   /* of another shape */
    refused(ds_trainer_create(&trainer, tiny, sizeof tiny - 1, &options, &error), DS_INVALID,
            "whose weights it begins with");
    options.from = NULL;
    options.compute = -1;
    refused(ds_trainer_create(&trainer, tiny, sizeof tiny - 1, &options, &error), DS_INVALID, "compute: found -1");
    options.compute = 0;
    options.threads = 5000;
    refused(ds_trainer_create(&trainer, tiny, sizeof tiny - 1, &options, &error), DS_INVALID, "threads: found 5000");
    options.threads = 1;
    fine(ds_tokenizer_bytes(&tokenizer, &error));
    options.tokenizer = tokenizer;
    refused(ds_trainer_create(&trainer, tiny, sizeof tiny - 1, &options, &error), DS_INVALID,
            "vocab_size: found 131, expected at least 257");
    options.size = 4;
    refused(ds_trainer_create(&trainer, tiny, sizeof tiny - 1, &options, &error), DS_INVALID, "options->size: found 4");
    options.size = sizeof options;

    /* the vocabulary of a tokenizer, the context of the sequences; bf16 by option */
    static const char open[] =
        "{\"model_type\": \"llama\", \"hidden_size\": 32, \"intermediate_size\": 64, \"num_hidden_layers\": 1, "
        "\"num_attention_heads\": 2, \"train\": {\"sequence_length\": 24}}";
    options.compute = DS_COMPUTE_BF16;
    fine(ds_trainer_create(&trainer, open, sizeof open - 1, &options, &error));
    ds_trainer_info info = { .size = sizeof info };
    fine(ds_trainer_get_info(trainer, &info, &error));
    assert_int_equal(info.vocab_size, 257);
    assert_int_equal(info.compute, DS_COMPUTE_BF16);
    assert_int_equal(info.threads, 1);
    char path[128];
    snprintf(path, sizeof path, "%s/open", folder);
    fine(ds_save(trainer, path, &error));
    ds_trainer_free(trainer);
    ds_model *model = load(path, 1);
    ds_model_info facts = { .size = sizeof facts };
    fine(ds_model_get_info(model, &facts, &error));
    assert_int_equal(facts.max_position_embeddings, 24);
    assert_int_equal(ds_tokenizer_size(ds_model_tokenizer(model)), 257);
    ds_model_free(model);
    ds_tokenizer_free(tokenizer);

    /* the vocabulary of a model to begin with, which has more rows than its tokenizer has tokens */
    static const char padded[] = "{\"model_type\": \"llama\", \"hidden_size\": 64, \"intermediate_size\": 170, "
                                 "\"num_hidden_layers\": 2, \"num_attention_heads\": 8, \"num_key_value_heads\": 2, "
                                 "\"train\": {\"sequence_length\": 24}}";
    fine(ds_tokenizer_load(&tokenizer, CHARACTERS, &error));
    assert_true(ds_tokenizer_size(tokenizer) < V);
    options.tokenizer = tokenizer;
    options.from = GQA;
    fine(ds_trainer_create(&trainer, padded, sizeof padded - 1, &options, &error));
    fine(ds_trainer_get_info(trainer, &info, &error));
    assert_int_equal(info.vocab_size, V);
    ds_trainer_free(trainer);
    ds_tokenizer_free(tokenizer);
}

/* The bytes of a tensor in a safetensors file that was read whole. */
struct file { char *data; size_t size; json_t *header; size_t begin; };

static struct file open_file(const char *path) {
    struct file f = { 0 };
    FILE *stream = fopen(path, "rb");
    uint64_t length;
    assert_non_null(stream);
    fseek(stream, 0, SEEK_END);
    f.size = (size_t)ftell(stream);
    rewind(stream);
    f.data = malloc(f.size);
    assert_non_null(f.data);
    assert_int_equal(fread(f.data, 1, f.size, stream), f.size);
    fclose(stream);
    memcpy(&length, f.data, 8);
    f.header = json_loadb(f.data + 8, length, 0, NULL);
    assert_non_null(f.header);
    f.begin = 8 + length;
    return f;
}

static const char *tensor(const struct file *f, const char *name, size_t *bytes) {
    const json_t *at = json_object_get(json_object_get(f->header, name), "data_offsets");
    if (!at) fail_msg("no tensor %s", name);
    const size_t first = (size_t)json_integer_value(json_array_get(at, 0));
    *bytes = (size_t)json_integer_value(json_array_get(at, 1)) - first;
    return f->data + f->begin + first;
}

static void close_file(struct file *f) {
    json_decref(f->header);
    free(f->data);
}

/* V3: multi-token prediction in the loss, with a weight that changes; the products in fp8. */
static void test_trainer_of_v3(void **state) {
    (void)state;
    static const char v3[] =
        "{\"model_type\": \"deepseek_v3\", \"hidden_size\": 32, \"intermediate_size\": 64, \"num_hidden_layers\": 2, "
        "\"num_nextn_predict_layers\": 1, \"num_attention_heads\": 2, \"vocab_size\": 131,"
        " \"q_lora_rank\": 16, \"kv_lora_rank\": 16, \"qk_nope_head_dim\": 8, \"qk_rope_head_dim\": 8, \"v_head_dim\": "
        "8, \"n_routed_experts\": 8, \"n_shared_experts\": 1, \"num_experts_per_tok\": 3,"
        " \"moe_intermediate_size\": 16, \"first_k_dense_replace\": 1, \"n_group\": 4, \"topk_group\": 2, "
        "\"norm_topk_prob\": true, \"routed_scaling_factor\": 2.5,"
        " \"train\": {\"steps\": 4, \"sequence_length\": 16, \"batch_size\": 2, \"schedule\": {\"mtp_milestone\": "
        "0.5}}}";
    int32_t inputs[2 * 16], targets[2 * 16];
    for (int i = 0; i < 32; i++) inputs[i] = i * i % V, targets[i] = (i + 1) * (i + 1) % V;
    for (int compute = DS_COMPUTE_FP32; compute <= DS_COMPUTE_FP8; compute++) {
        ds_trainer *trainer;
        const ds_trainer_options options = { .size = sizeof options, .compute = compute };
        fine(ds_trainer_create(&trainer, v3, sizeof v3 - 1, &options, &error));
        ds_trainer_info info = { .size = sizeof info };
        fine(ds_trainer_get_info(trainer, &info, &error));
        assert_int_equal(info.compute, compute);
        for (int step = 1; step <= 4; step++) {
            ds_step_result result = { .size = sizeof result };
            fine(ds_train_step(trainer, inputs, targets, 2, 16, DS_SCHEDULED_RATE, &result, &error));
            /* 1e-4 in each of two layers where the load is even */
            const double weight = step <= 2 ? 0.3 : 0.1,
                         balance = result.loss - result.main_loss - weight * result.mtp_loss;
            assert_true(result.mtp_loss > 1 && balance > 1e-4 && balance < 1e-3);
            assert_int_equal(result.assigned, (2 * 16 + 2 * 15) * 3);   /* the module has no last position */
        }
        ds_trainer_free(trainer);
    }
}

/* A model with routed experts: parts of the loss and the load; a caller of before these fields gets what it knows. */
static void test_trainer_of_experts(void **state) {
    (void)state;
    static const char experts[] = "{\"model_type\": \"deepseek\", \"hidden_size\": 32, \"intermediate_size\": 64, "
                                  "\"num_hidden_layers\": 2, \"num_attention_heads\": 2, \"vocab_size\": 131,"
                                  " \"n_routed_experts\": 8, \"n_shared_experts\": 1, \"num_experts_per_tok\": 3, "
                                  "\"moe_intermediate_size\": 16, \"first_k_dense_replace\": 1,"
                                  " \"train\": {\"steps\": 20, \"sequence_length\": 16, \"batch_size\": 2, \"loss\": "
                                  "{\"balance_expert\": 0.5}, \"capacity_factor\": 0.75, \"undropped\": 0}}";
    ds_trainer *trainer;
    fine(ds_trainer_create(&trainer, experts, sizeof experts - 1, NULL, &error));
    int32_t inputs[2 * 16], targets[2 * 16];
    for (int i = 0; i < 32; i++) inputs[i] = i * i % V, targets[i] = (i + 1) * (i + 1) % V;
    ds_step_result result = { .size = sizeof result };
    fine(ds_train_step(trainer, inputs, targets, 2, 16, 1e-3, &result, &error));
    /* 0.5 x (1 where the load is even) */
    assert_true(result.loss > result.main_loss + 0.4 && result.loss < result.main_loss + 0.5 * 8);
    assert_int_equal(result.assigned, 2 * 16 * 3);
    assert_int_equal(result.dropped, 2 * 16 * 3 / 4);   /* one device: all but three quarters of the mean */
    assert_true(result.max_violation > 0 && result.max_violation <= 7);
    struct {
        size_t size;
        double loss, grad_norm, learning_rate, untouched;
    } old = {.size = offsetof(ds_step_result, main_loss), .untouched = 42};
    fine(ds_train_step(trainer, inputs, targets, 2, 16, 1e-3, (ds_step_result *)(void *)&old, &error));
    assert_true(old.loss > 0 && old.learning_rate == 1e-3 && old.untouched == 42);
    ds_trainer_free(trainer);
    static const char dense[] = "{\"model_type\": \"llama\", \"hidden_size\": 32, \"intermediate_size\": 64, "
                                "\"num_hidden_layers\": 1, \"num_attention_heads\": 2, \"vocab_size\": 131,"
                                " \"train\": {\"capacity_factor\": 1}}";
    refused(ds_trainer_create(&trainer, dense, sizeof dense - 1, NULL, &error), DS_UNSUPPORTED,
            "train.capacity_factor: found 1, but a model of type llama");
}

/* The steps of the door `deepseek steps`: losses and parameters after them, bit for bit. */
static void test_steps_door(void **state) {
    (void)state;
    const char *program = getenv("DEEPSEEK");
    if (!program) skip();
    run("'%s' steps " MHA " --tokens " MHA "/steps_adamw.tokens.json --settings " MHA
        "/steps_adamw.json -o %s/door.safetensors -q --threads 1",
        program, folder);

    json_t *steps = json_load_file(MHA "/steps_adamw.tokens.json", 0, NULL),
           *settings = json_load_file(MHA "/steps_adamw.json", 0, NULL),
           *config = json_load_file(MHA "/config.json", 0, NULL);
    json_t *optimizer = json_object_get(settings, "optimizer"), *train = json_object();
    const size_t batch = json_array_size(json_array_get(steps, 0)),
                 length = json_array_size(json_array_get(json_array_get(steps, 0), 0));
    json_object_set(train, "clip_grad_norm", json_object_get(optimizer, "clip_grad_norm"));
    json_object_del(optimizer, "clip_grad_norm");
    json_object_set(train, "optimizer", optimizer);
    json_object_set_new(train, "batch_size", json_integer((json_int_t)batch));
    json_object_set_new(train, "sequence_length", json_integer((json_int_t)length));
    json_object_set_new(config, "train", train);
    char *text = json_dumps(config, 0), path[128];
    ds_trainer_options options = { .size = sizeof options };
    options.from = MHA;
    options.threads = 2;
    ds_trainer *trainer;
    fine(ds_trainer_create(&trainer, text, strlen(text), &options, &error));
    snprintf(path, sizeof path, "%s/door.safetensors", folder);
    struct file door = open_file(path);
    size_t bytes;
    const float *losses = (const float *)(const void *)tensor(&door, "losses", &bytes);
    assert_int_equal(bytes, json_array_size(steps) * sizeof *losses);
    int32_t *inputs = malloc(batch * length * sizeof *inputs), *targets = malloc(batch * length * sizeof *targets);
    for (size_t s = 0; s < json_array_size(steps); s++) {
        for (size_t b = 0; b < batch; b++)
            for (size_t t = 0; t < length; t++) {
                const json_t *row = json_array_get(json_array_get(steps, s), b);
                inputs[b * length + t] = (int32_t)json_integer_value(json_array_get(row, t));
                targets[b * length + t] = t + 1 < length ? (int32_t)json_integer_value(json_array_get(row, t + 1))
                                                         : DS_IGNORE;
            }
        ds_step_result result = { .size = sizeof result };
        fine(ds_train_step(trainer, inputs, targets, (int64_t)batch, (int64_t)length,
                           json_number_value(json_object_get(optimizer, "learning_rate")), &result, &error));
        float loss, expected;
        loss = (float)result.loss;
        memcpy(&expected, (const char *)losses + s * sizeof expected, sizeof expected);
        assert_memory_equal(&loss, &expected, sizeof loss);
    }
    snprintf(path, sizeof path, "%s/stepped", folder);
    fine(ds_save(trainer, path, &error));
    snprintf(path, sizeof path, "%s/stepped/model.safetensors", folder);
    struct file saved = open_file(path);
    const char *name;
    const json_t *entry;
    int compared = 0;
    json_object_foreach(saved.header, name, entry) {
        if (strcmp(name, "__metadata__") == 0) continue;
        size_t other;
        const char *found = tensor(&saved, name, &bytes), *expected = tensor(&door, name, &other);
        assert_int_equal(bytes, other);
        if (memcmp(found, expected, bytes)) fail_msg("%s differs", name);
        compared++;
    }
    assert_true(compared > 10);
    close_file(&door);
    close_file(&saved);
    ds_trainer_free(trainer);
    json_decref(steps);
    json_decref(settings);
    json_decref(config);
    free(text);
    free(inputs);
    free(targets);
}

/* Saved, loaded, saved again: the same bytes and the same logits; and their loss is what the trainer says. */
static void test_save(void **state) {
    (void)state;
    ds_trainer *trainer;
    ds_trainer_options options = { .size = sizeof options };
    char path[128];
    double loss;
    fine(ds_trainer_create(&trainer, tiny, sizeof tiny - 1, &options, &error));
    for (int s = 0; s < 5; s++) fine(ds_train_step(trainer, tokens, tokens + 1, 1, 11, 0.01, NULL, &error));
    fine(ds_train_loss(trainer, tokens, tokens + 1, 1, 11, &loss, NULL, &error));
    snprintf(path, sizeof path, "%s/first", folder);
    fine(ds_save(trainer, path, &error));
    ds_trainer_free(trainer);

    static float logits[2][11][V];
    for (int round = 0; round < 2; round++) {
        ds_model *model = load(path, 1 + round);
        ds_sequence *sequence;
        fine(ds_sequence_create(&sequence, model, 11, &error));
        const ds_input input = { sequence, tokens, 11, logits[round][0], 1 };
        fine(ds_feed(model, &input, 1, &error));
        ds_sequence_free(sequence);
        ds_model_free(model);
        if (round) break;
        options.from = path;
        fine(ds_trainer_create(&trainer, tiny, sizeof tiny - 1, &options, &error));
        snprintf(path, sizeof path, "%s/first", folder);
        char again[128];
        snprintf(again, sizeof again, "%s/second", folder);
        fine(ds_save(trainer, again, &error));
        ds_trainer_free(trainer);
        run("cmp '%s/model.safetensors' '%s/model.safetensors' && cmp '%s/config.json' '%s/config.json'", path, again,
            path, again);
        strcpy(path, again);
    }
    assert_memory_equal(logits[0], logits[1], sizeof logits[0]);
    double mean = 0;
    for (int t = 0; t < 11; t++) {
        double sum = 0;
        for (int v = 0; v < V; v++) sum += exp((double)logits[0][t][v]);
        mean += (log(sum) - (double)logits[0][t][tokens[t + 1]]) / 11;
    }
    assert_true(fabs(mean - loss) < 1e-5);
}

/* ------------------------------------------------------------------------------------------------------------------ */
static int set_up(void **state) {
    (void)state;
    if (!mkdtemp(folder)) return -1;
    snprintf(text_model, sizeof text_model, "%s/text", folder);
    run("mkdir %s && cp " GQA "/model.safetensors " CHARACTERS
        "/* %s && sed 's/\"max_position_embeddings\": [0-9]*/\"max_position_embeddings\": %d/' " GQA
        "/config.json >%s/config.json",
        text_model, text_model, CONTEXT, text_model);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    run("rm -rf %s", folder);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_version),        cmocka_unit_test(test_null),
        cmocka_unit_test(test_tokenizer),      cmocka_unit_test(test_model),
        cmocka_unit_test(test_feed),           cmocka_unit_test(test_threads),
        cmocka_unit_test(test_sample),         cmocka_unit_test(test_generate),
        cmocka_unit_test(test_nested),         cmocka_unit_test(test_special),
        cmocka_unit_test(test_trainer),        cmocka_unit_test(test_trainer_of_experts),
        cmocka_unit_test(test_trainer_config), cmocka_unit_test(test_trainer_of_v3),
        cmocka_unit_test(test_steps_door),     cmocka_unit_test(test_save),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
