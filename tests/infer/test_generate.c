/* Generation: stop strings however the text is cut into tokens, whole characters, independent neighbours, resumption,
 * full contexts, interruption, ends, log-probabilities. */
#include <math.h>
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
#include "infer/generate.h"
#include "io/json.h"

#define VOCAB 320
#define BYTES 257            /* ids of the bytes and of <|endoftext|> */
#define STORY "xabababcy"    /* all its parts are tokens */
#define STORY_SIZE 9

static char folder[] = "/tmp/test_generate_XXXXXX";
static struct model *model;
static struct tokenizer *tokenizer;
static struct engine *engine;
static struct sampler *sampler;
static int32_t byte_ids[256];
static int32_t story_ids[STORY_SIZE][STORY_SIZE + 1];   /* the token of story[from..to) */
static int defined;

static const char config_text[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"hidden_act\": \"silu\", \"hidden_size\": "
    "32, \"intermediate_size\": 48,"
    " \"num_hidden_layers\": 2, \"num_attention_heads\": 2, \"num_key_value_heads\": 1, \"vocab_size\": 320, "
    "\"max_position_embeddings\": 256,"
    " \"rms_norm_eps\": 1e-6, \"rope_theta\": 10000.0, \"initializer_range\": 0.3, \"tie_word_embeddings\": false, "
    "\"attention_bias\": false, \"torch_dtype\": \"float32\"}";

/* `bytes`, and one added token for each part of the story that is longer than a byte. */
static int make_tokenizer(struct error *error) {
    struct tokenizer *bytes = NULL;
    json_t *root = NULL;
    char path[256];
    if (tokenizer_create_bytes(&bytes, error) || tokenizer_save(bytes, folder, error)) return 1;
    tokenizer_destroy(bytes);
    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    if (json_load_path(&root, path, error)) return 1;
    json_t *added = json_object_get(root, "added_tokens");
    int next = BYTES;
    for (int from = 0; from < STORY_SIZE; from++)
        for (int to = from + 2; to <= STORY_SIZE; to++) {
            int same = -1;   /* the part may stand further left too */
            for (int f = 0; f < from && same < 0; f++)
                if (memcmp(&STORY[f], &STORY[from], (size_t)(to - from)) == 0) same = story_ids[f][f + to - from];
            story_ids[from][to] = same >= 0 ? same : next;
            if (same >= 0) continue;
            char part[STORY_SIZE + 1] = "";
            memcpy(part, &STORY[from], (size_t)(to - from));
            json_array_append_new(added,
                                  json_pack("{s:i,s:s,s:b,s:b,s:b,s:b,s:b}", "id", next++, "content", part,
                                            "single_word", 0, "lstrip", 0, "rstrip", 0, "normalized", 0, "special", 0));
        }
    defined = next;
    int failed = json_save_path(root, path, error) || tokenizer_load(&tokenizer, folder, error);
    json_decref(root);
    if (failed) return 1;
    for (int b = 0; b < 256; b++) {   /* bytes >= 0x80 are met in UTF-8 alone, so ask for what each id stands for */
        size_t size;
        const char *piece = tokenizer_piece(tokenizer, (int32_t)b, &size, NULL);
        if (!piece || size != 1) return 1;
        byte_ids[(unsigned char)piece[0]] = b;
    }
    for (int from = 0; from < STORY_SIZE; from++) story_ids[from][from + 1] = byte_ids[(unsigned char)STORY[from]];
    return 0;
}

static int make(void **state) {
    (void)state;
    struct error error = { 0 };
    struct arena arena = { 0 };
    struct config config;
    struct model *made = NULL;
    json_t *root = NULL;
    if (!mkdtemp(folder)) return 1;
    if (json_parse(&root, config_text, sizeof config_text - 1, "test", &error) ||
        config_parse(&config, root, "test", &arena, &error))
        return 1;
    if (model_create(&made, &config, kernels_for(ISA_REFERENCE), NULL, COMPUTE_F32, &error) ||
        model_allocate_training(made, &error))
        return 1;
    model_initialise(made, 1);
    if (model_export(made, folder, DTYPE_F32, &error)) return 1;
    model_destroy(made);
    json_decref(root);
    arena_free(&arena);
    int failed = make_tokenizer(&error) ||
                 model_open(&model, folder, kernels_for(ISA_REFERENCE), NULL,
                            &(struct model_options){
                                .use = MODEL_INFERENCE, .compute = COMPUTE_F32, .cache = CACHE_COUNT},
                            &error) ||
                 engine_create(&engine, model, 0, &error) || sampler_create(&sampler, VOCAB, &error);
    if (failed) fprintf(stderr, "%s\n", error.message);
    return failed;
}

static int clean(void **state) {
    (void)state;
    sampler_destroy(sampler);
    engine_destroy(engine);
    model_destroy(model);
    tokenizer_destroy(tokenizer);
    return folder_remove(folder, NULL);
}

static struct generation_options greedy(int64_t max_tokens) {
    struct generation_options options = { .sampling = sampling_default(), .max_tokens = max_tokens, .logprobs = -1 };
    options.sampling.temperature = 0;
    return options;
}

static struct generation start(const struct generation_options *options, const int32_t *ids, int64_t count,
                               int64_t capacity, uint64_t stream) {
    struct generation item = { .options = options, .stream = stream };
    assert_int_equal(token_list_append(&item.ids, ids, count, NULL), STATUS_OK);
    assert_int_equal(sequence_create(&item.sequence, model, capacity, NULL), STATUS_OK);
    return item;
}

static void finish(struct generation *item) {
    sequence_destroy(item->sequence);
    generation_release(item);
}

static void run(struct generation *items, int count, const struct generation_watch *watch) {
    struct error error = { 0 };
    if (generate(engine, tokenizer, sampler, items, count, watch, &error)) fail_msg("%s", error.message);
}

/* ---- a written script: the tokens that a greedy model is made to choose ------------------------------------------ */

struct script {
    const int32_t *ids;
    int count, at;
    struct logit_bias bias;                /* on the token whose turn it is */
    struct generation_options options;
    char said[256];                        /* all that was released */
    size_t size, before[32];               /* [at] bytes released before this token */
    int releases;
};

static bool script_token(void *context, int index, int32_t id) {
    struct script *script = context;
    assert_int_equal(index, 0);
    assert_int_equal(id, script->ids[script->at]);
    script->before[script->at++] = script->size;
    if (script->at < script->count) script->bias.id = script->ids[script->at];
    return true;
}

static bool script_text(void *context, int index, const char *text, size_t size) {
    struct script *script = context;
    assert_int_equal(index, 0);
    assert_true(size > 0 && script->size + size <= sizeof script->said);
    char *sound = utf8_repair(text, size, NULL, NULL);
    assert_memory_equal(sound, text, size);   /* whole characters */
    free(sound);
    memcpy(script->said + script->size, text, size);
    script->size += size;
    script->releases++;
    return true;
}

static struct generation play(struct script *script, const int32_t *ids, int count, struct sequence *sequence) {
    struct generation item = { .sequence = sequence, .options = &script->options };
    script->ids = ids;
    script->count = count;
    script->bias = (struct logit_bias){ ids[0], 1e6f };
    script->options.sampling = sampling_default();
    script->options.sampling.temperature = 0;
    script->options.sampling.bias = &script->bias;
    script->options.sampling.bias_count = 1;
    script->options.max_tokens = count;
    script->options.logprobs = -1;
    sequence_rewind(sequence, 0);
    assert_int_equal(token_list_push(&item.ids, 7, NULL), STATUS_OK);
    const struct generation_watch watch = { .context = script, .text = script_text, .token = script_token };
    run(&item, 1, &watch);
    assert_int_equal(item.text_size, script->size);
    assert_memory_equal(item.text, script->said, script->size);
    return item;
}

/* Where the text ends: at the first byte that completes a stop string, before the longest of those. -1: nowhere. */
static int expected_end(const char *text, int size, const struct stop_string *stops, int count) {
    for (int e = 1; e <= size; e++) {
        int longest = 0;
        for (int s = 0; s < count; s++) {
            int n = (int)stops[s].size;
            if (n <= e && n > longest && memcmp(text + e - n, stops[s].text, (size_t)n) == 0) longest = n;
        }
        if (longest) return e - longest;
    }
    return -1;
}

/* Bytes at the end of text[0..size) with which a stop string may begin. */
static int expected_held(const char *text, int size, const struct stop_string *stops, int count) {
    for (int from = 0; from < size; from++)
        for (int s = 0; s < count; s++)
            if ((int)stops[s].size > size - from && memcmp(text + from, stops[s].text, (size_t)(size - from)) == 0)
                return size - from;
    return 0;
}

#define STOP(text) { text, sizeof(text) - 1 }

static void stop_strings_do_not_depend_on_tokens(void **state) {
    (void)state;
    static const struct stop_string sets[][4] = {
        {STOP("ababc")},
        {STOP("abc"), STOP("ba")},
        {STOP("babc"), STOP("c"), STOP("abc")},
        {STOP("c"), STOP("bc"), STOP("zz")},
        {STOP("abab"), STOP("b")},
        {STOP("xabababcyz")},
        {STOP("y")},
        {STOP("x")},
        {STOP("abababcz"), STOP("babcy")},
        {STOP("zzz")},
    };
    struct sequence *sequence;
    assert_int_equal(sequence_create(&sequence, model, 16, NULL), STATUS_OK);
    for (size_t set = 0; set < sizeof sets / sizeof *sets; set++) {
        const struct stop_string *stops = sets[set];
        int stop_count = 0;
        while (stop_count < 4 && stops[stop_count].size) stop_count++;
        int end = expected_end(STORY, STORY_SIZE, stops, stop_count);
        for (int cut = 0; cut < 1 << (STORY_SIZE - 1); cut++) {   /* bit i: a cut after byte i */
            int32_t ids[STORY_SIZE];
            int starts[STORY_SIZE + 1], count = 0, from = 0;
            for (int to = 1; to <= STORY_SIZE; to++) {
                if (to < STORY_SIZE && !(cut >> (to - 1) & 1)) continue;
                starts[count] = from;
                ids[count++] = story_ids[from][to];
                from = to;
            }
            starts[count] = STORY_SIZE;
            struct script script = { .options.stop_count = stop_count };
            memcpy(script.options.stops, stops, (size_t)stop_count * sizeof *stops);
            struct generation item = play(&script, ids, count, sequence);
            int text_tokens = 0;
            while (text_tokens < count && (end < 0 || starts[text_tokens] < end)) text_tokens++;
            assert_int_equal(item.finish, end < 0 ? FINISH_LENGTH : FINISH_STOP);
            assert_int_equal(item.text_size, end < 0 ? STORY_SIZE : end);
            assert_memory_equal(item.text, STORY, item.text_size);
            assert_int_equal(item.text_tokens, text_tokens);
            for (int t = 1; t < script.at; t++)   /* held back: what may become a stop string, and nothing else */
                assert_int_equal(script.before[t], starts[t] - expected_held(STORY, starts[t], stops, stop_count));
            generation_release(&item);
        }
    }
    sequence_destroy(sequence);
}

static int32_t *ids_of_bytes(const char *text, int size, int32_t *ids) {
    for (int i = 0; i < size; i++) ids[i] = byte_ids[(unsigned char)text[i]];
    return ids;
}

static void text_is_whole_characters(void **state) {
    (void)state;
    struct sequence *sequence;
    int32_t ids[64];
    assert_int_equal(sequence_create(&sequence, model, 64, NULL), STATUS_OK);
    static const struct {
        const char *bytes;
        int size;
        const char *text;
        int text_size;
        struct stop_string stop;
        enum finish finish;
    } cases[] = {
        {"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\0z", 11, "é€😀\0z", 11, {0}, FINISH_LENGTH},
        {"a\0b\0c", 5, "a\0b", 3, {"\0c", 2}, FINISH_STOP},
        {"\0", 1, "", 0, {"\0", 1}, FINISH_STOP},
        {"a\xE2\x82", 3, "a\xEF\xBF\xBD", 4, {0}, FINISH_LENGTH}, /* ends within a character */
        /* and that end is a stop string */
        {"a\xE2\x82", 3, "a", 1, {"\xEF\xBF\xBD", 3}, FINISH_STOP},
        {"\xFF"
         "b\xC3"
         "c",
         4,
         "\xEF\xBF\xBD"
         "b\xEF\xBF\xBD"
         "c",
         8,
         {0},
         FINISH_LENGTH},
        /* \xC3 alone is no part of the stop string */
        {"x\xC3\xA8\xC3\xA9y", 6, "x\xC3\xA8", 3, {"\xC3\xA9", 2}, FINISH_STOP},
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct script script = { .options.stop_count = cases[c].stop.size > 0, .options.stops = { cases[c].stop } };
        struct generation item = play(&script, ids_of_bytes(cases[c].bytes, cases[c].size, ids), cases[c].size,
                                      sequence);
        assert_int_equal(item.finish, cases[c].finish);
        assert_int_equal(item.text_size, cases[c].text_size);
        assert_memory_equal(item.text, cases[c].text, item.text_size);
        assert_int_equal(item.text[item.text_size], 0);
        generation_release(&item);
    }
    /* special tokens are no text */
    const int32_t with_special[] = { byte_ids['a'], 256, byte_ids['b'] };
    struct script script = { 0 };
    struct generation item = play(&script, with_special, 3, sequence);
    assert_string_equal(item.text, "ab");
    assert_int_equal(item.text_tokens, 3);
    generation_release(&item);
    sequence_destroy(sequence);
}

/* ---- watching ---------------------------------------------------------------------------------------------------- */

struct counter { int64_t bytes, rows, passes, stop_at_pass, tokens, stop_at_token, texts, stop_at_text; int stopped; };

static bool count_pass(void *context, int64_t rows) {
    struct counter *counter = context;
    counter->rows += rows;
    return ++counter->passes != counter->stop_at_pass;
}
static bool count_token(void *context, int index, int32_t id) {
    struct counter *counter = context;
    (void)id;
    return index != counter->stopped || ++counter->tokens != counter->stop_at_token;
}
static bool count_text(void *context, int index, const char *text, size_t size) {
    struct counter *counter = context;
    (void)text;
    counter->bytes += (int64_t)size;
    return index != counter->stopped || ++counter->texts != counter->stop_at_text;
}

static const int32_t prompt[5] = { 11, 60, 2, 99, 140 };

/* ---- several texts ----------------------------------------------------------------------------------------------- */

#define TEXTS 6

static void fill_options(struct generation_options options[TEXTS], const int32_t eos[2],
                         const struct logit_bias *bias) {
    for (int i = 0; i < TEXTS; i++) {
        options[i] = (struct generation_options){
            .sampling = sampling_default(), .max_tokens = 10 + 7 * i, .logprobs = i % 3 - 1 + (i == 5 ? 10 : 0)};
        options[i].sampling.seed = (uint64_t)i / 2;
    }
    options[0].sampling.temperature = 0;
    options[1].sampling.top_k = 20;
    options[1].sampling.repetition_penalty = 1.3;
    options[2].sampling.min_p = 0.1;
    options[2].sampling.frequency_penalty = 0.5;
    options[2].eos = eos;
    options[2].eos_count = 2;
    options[3].sampling.bias = bias;
    options[3].sampling.bias_count = 1;
    options[3].stop_count = 2;
    options[3].stops[0] = (struct stop_string)STOP("ab");
    options[3].stops[1] = (struct stop_string)STOP("q");
    options[4].shift = true;
}

static struct generation start_text(const struct generation_options *options, int i) {
    int32_t ids[40];
    int64_t count = (i * 13 + 1) % 40 + 1;
    for (int64_t t = 0; t < count; t++) ids[t] = (int32_t)random_below(5, (uint64_t)i, (uint64_t)t, (uint64_t)defined);
    return start(options, ids, count, count + (i == 4 ? 9 : 60), (uint64_t)i % 4);
}

static void assert_same_text(const struct generation *a, const struct generation *b) {
    assert_int_equal(a->ids.count, b->ids.count);
    assert_memory_equal(a->ids.ids, b->ids.ids, (size_t)a->ids.count * sizeof *a->ids.ids);
    assert_int_equal(a->prompt, b->prompt);
    assert_int_equal(a->finish, b->finish);
    assert_int_equal(a->text_size, b->text_size);
    assert_memory_equal(a->text, b->text, a->text_size);
    assert_int_equal(a->text_tokens, b->text_tokens);
    assert_int_equal(a->shifts, b->shifts);
    assert_int_equal(a->logprobs == NULL, b->logprobs == NULL);
    if (a->logprobs)
        assert_memory_equal(a->logprobs, b->logprobs,
                            (size_t)((a->ids.count - a->prompt) * (1 + a->options->logprobs)) * sizeof *a->logprobs);
}

static void texts_do_not_depend_on_their_neighbours(void **state) {
    (void)state;
    struct generation_options options[TEXTS];
    const int32_t eos[2] = { byte_ids['e'], byte_ids['t'] };
    const struct logit_bias bias = { byte_ids['q'], 2 };
    struct generation alone[TEXTS], together[TEXTS], turned[TEXTS];
    fill_options(options, eos, &bias);
    for (int i = 0; i < TEXTS; i++) {
        alone[i] = start_text(&options[i], i);
        together[i] = start_text(&options[i], i);
        turned[TEXTS - 1 - i] = start_text(&options[i], i);
        run(&alone[i], 1, NULL);
    }
    run(together, TEXTS, NULL);
    run(turned, TEXTS, NULL);
    for (int i = 0; i < TEXTS; i++) {
        assert_same_text(&alone[i], &together[i]);
        assert_same_text(&alone[i], &turned[TEXTS - 1 - i]);
        finish(&alone[i]), finish(&together[i]), finish(&turned[TEXTS - 1 - i]);
    }
    /* of the same prompt and seed, each stream is another text */
    struct generation_options same = greedy(30);
    same.sampling.temperature = 1;
    struct generation streams[2] = { start(&same, eos, 2, 40, 0), start(&same, eos, 2, 40, 1) };
    run(streams, 2, NULL);
    assert_int_equal(streams[0].ids.count, streams[1].ids.count);
    assert_memory_not_equal(streams[0].ids.ids, streams[1].ids.ids, (size_t)streams[0].ids.count * sizeof(int32_t));
    finish(&streams[0]), finish(&streams[1]);
}

static void the_same_prompt_is_computed_once(void **state) {
    (void)state;
    struct generation_options options = greedy(25);
    options.sampling.temperature = 1;
    int32_t other[5];
    memcpy(other, prompt, sizeof prompt);
    other[4]++;
    /* of these 0 to 3 wait for 5, which begins in the middle; 3 has another capacity, 4 another prompt */
    struct generation alone[6], together[6];
    for (int i = 0; i < 6; i++) {
        alone[i] = start(&options, i == 4 ? other : prompt, 5, i == 3 ? 41 : 40, (uint64_t)i);
        together[i] = start(&options, i == 4 ? other : prompt, 5, i == 3 ? 41 : 40, (uint64_t)i);
        run(&alone[i], 1, NULL);
    }
    const struct feed part = { .sequence = together[5].sequence, .ids = prompt, .count = 3 };
    assert_int_equal(engine_feed(engine, &part, 1, 0, NULL), STATUS_OK);
    struct counter counter = { .stopped = -1 };
    const struct generation_watch watch = { .context = &counter, .pass = count_pass };
    run(together, 6, &watch);
    assert_int_equal(counter.rows, 5 + 2 + 6 * 24);
    for (int i = 0; i < 6; i++) {
        assert_same_text(&alone[i], &together[i]);
        finish(&alone[i]), finish(&together[i]);
    }
    /* after an interruption what was computed stays, and the last token is still to be fed */
    struct generation samples[2] = { start(&options, prompt, 5, 40, 0), start(&options, prompt, 5, 40, 1) };
    counter = (struct counter){ .stopped = -1, .stop_at_pass = 1 };
    run(samples, 2, &watch);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(samples[i].finish, FINISH_INTERRUPTED);
        assert_int_equal(samples[i].sequence->length, i == 0 ? 4 : 0);
        assert_int_equal(samples[i].ids.count, 5);
        finish(&samples[i]);
    }
}

/* What a text that left has is the beginning of what it has alone. */
static void assert_begins(const struct generation *whole, const struct generation *part) {
    assert_int_equal(part->finish, FINISH_INTERRUPTED);
    assert_in_range(part->ids.count, part->prompt, whole->ids.count);
    assert_memory_equal(whole->ids.ids, part->ids.ids, (size_t)part->ids.count * sizeof(int32_t));
    assert_true(part->sequence->length <= part->ids.count);
}

/* Texts that come and go at random, prompts in passes of a few rows that wait for decoding after a few half-layers:
 * each is the text that it is alone. */
#define GUESTS 4
static void texts_join_and_leave(void **state) {
    (void)state;
    enum { ROUNDS = 1200 };
    struct generation_options options[TEXTS];
    const int32_t eos[2] = { byte_ids['e'], byte_ids['t'] };
    const struct logit_bias bias = { byte_ids['q'], 2 };
    struct generation alone[TEXTS], guests[GUESTS] = { 0 };
    int kinds[GUESTS] = { 0 }, slots[GUESTS] = { 0 }, ended = 0, left = 0;
    struct engine *prompts = NULL;
    struct generator *generator = NULL;
    struct error error = { 0 };
    fill_options(options, eos, &bias);
    for (int i = 0; i < TEXTS; i++) {
        alone[i] = start_text(&options[i], i);
        run(&alone[i], 1, NULL);
    }
    for (int way = 0; way < 3; way++) {
        if (way) assert_int_equal(engine_create(&prompts, model, way == 1 ? 7 : 100, NULL), STATUS_OK);
        assert_int_equal(generator_create(&generator, engine, prompts, tokenizer, sampler, GUESTS, NULL, NULL),
                         STATUS_OK);
        for (uint64_t round = 0; round < ROUNDS || generator_texts(generator); round++) {
            const uint64_t choice = random_below(3, (uint64_t)way, round, 8);
            const int g = (int)random_below(4, (uint64_t)way, round, GUESTS);
            enum status status = STATUS_OK;
            if (choice < 3 && round < ROUNDS && !guests[g].sequence) {
                kinds[g] = (int)random_below(5, (uint64_t)way, round, TEXTS);
                guests[g] = start_text(&options[kinds[g]], kinds[g]);
                if (choice == 0) {   /* whose prompt was computed before, but for the last token */
                    const struct feed known = {guests[g].sequence, guests[g].ids.ids, guests[g].ids.count - 1, NULL, 0};
                    assert_int_equal(engine_feed(engine, &known, 1, 0, NULL), STATUS_OK);
                }
                status = generator_join(generator, &guests[g], &slots[g], &error);
            } else if (choice == 3 && guests[g].sequence) {
                status = generator_leave(generator, slots[g], &error);
            } else {
                status = generator_step(generator, random_below(6, (uint64_t)way, round, 8) > 0, &error);
            }
            if (status) fail_msg("%s", error.message);
            for (int i = 0; i < GUESTS; i++) {
                if (!guests[i].sequence || guests[i].finish == FINISH_NONE) continue;
                if (guests[i].finish == FINISH_INTERRUPTED) assert_begins(&alone[kinds[i]], &guests[i]), left++;
                else assert_same_text(&alone[kinds[i]], &guests[i]), ended++;
                finish(&guests[i]);
                guests[i] = (struct generation){ 0 };
            }
        }
        generator_destroy(generator);
        engine_destroy(prompts);
    }
    assert_true(ended > 50 && left > 20);
    for (int i = 0; i < TEXTS; i++) finish(&alone[i]);
}

/* Two prompts in passes of eight rows, then both texts in each pass: no pass more. */
static void prompts_come_first(void **state) {
    (void)state;
    struct generation_options options = greedy(4);
    struct generation items[2];
    struct counter counter = { .stopped = -1 };
    const struct generation_watch watch = { .context = &counter, .pass = count_pass };
    struct engine *small = NULL;
    int32_t ids[20];
    for (int t = 0; t < 20; t++) ids[t] = t;
    for (int i = 0; i < 2; i++) ids[0] = i, items[i] = start(&options, ids, 20, 64, 0);
    assert_int_equal(engine_create(&small, model, 8, NULL), STATUS_OK);
    assert_int_equal(generate(small, tokenizer, sampler, items, 2, &watch, NULL), STATUS_OK);
    assert_int_equal(counter.passes, 5 + 3);
    engine_destroy(small);
    for (int i = 0; i < 2; i++) finish(&items[i]);
}

/* The pass of a prompt goes on by a half-layer in each round; one that nobody wants any more ends at once. */
static void a_prompt_waits_for_decoding(void **state) {
    (void)state;
    struct generation_options options = greedy(20);
    struct generation reader = start(&options, prompt, 5, 64, 0), late[2];
    struct counter counter = { .stopped = -1 };
    const struct generation_watch watch = { .context = &counter, .pass = count_pass };
    struct engine *prompts = NULL;
    struct generator *generator = NULL;
    int slots[3];
    assert_int_equal(engine_create(&prompts, model, 0, NULL), STATUS_OK);
    assert_int_equal(generator_create(&generator, engine, prompts, tokenizer, sampler, 3, &watch, NULL), STATUS_OK);
    assert_int_equal(generator_join(generator, &reader, &slots[0], NULL), STATUS_OK);
    assert_int_equal(generator_step(generator, 1, NULL), STATUS_OK);   /* nobody decodes: all of the pass */
    assert_int_equal(reader.ids.count, 6);
    for (int leaving = 0; leaving < 2; leaving++) {
        for (int i = 0; i < 2; i++) {
            late[i] = start(&options, prompt + i, 4, 64, 0);
            assert_int_equal(generator_join(generator, &late[i], &slots[1 + i], NULL), STATUS_OK);
        }
        for (int64_t half = 1; half <= 4; half++) {
            const int64_t before = reader.ids.count, rows = counter.rows;
            assert_int_equal(generator_step(generator, 1, NULL), STATUS_OK);
            assert_int_equal(reader.ids.count, before + 1);
            assert_int_equal(late[0].ids.count, 4 + (half == 4));
            assert_int_equal(counter.rows - rows, half == 4 ? 9 : 1);
            for (int i = 0; leaving && half == 2 && i < 2; i++) {
                assert_int_equal(late[0].finish, FINISH_NONE);   /* until the other one leaves, too */
                assert_int_equal(generator_leave(generator, slots[1 + i], NULL), STATUS_OK);
            }
            if (late[1].finish) break;
        }
        for (int i = 0; i < 2; i++) {
            if (!leaving) assert_int_equal(generator_leave(generator, slots[1 + i], NULL), STATUS_OK);
            assert_int_equal(late[i].finish, FINISH_INTERRUPTED);
            assert_int_equal(late[i].sequence->length, leaving ? 0 : 4);
            finish(&late[i]);
        }
        assert_int_equal(generator_texts(generator), 1);
    }
    generator_destroy(generator);
    engine_destroy(prompts);
    finish(&reader);
}

static void fail_pass(void *context, struct graph *graph, struct tensor *h, const struct batch *batch) {
    (void)context, (void)h, (void)batch;
    graph->status = STATUS_NO_MEMORY;
}

/* Whoever left while the pass was under way is gone with it; the others are where they were, and try again. */
static void a_pass_of_prompts_fails(void **state) {
    (void)state;
    struct generation_options options = greedy(20);
    struct generation reader = start(&options, prompt, 5, 64, 0), late[2];
    struct engine *prompts = NULL;
    struct generator *generator = NULL;
    struct error error = { 0 };
    int slots[3];
    assert_int_equal(engine_create(&prompts, model, 0, NULL), STATUS_OK);
    assert_int_equal(generator_create(&generator, engine, prompts, tokenizer, sampler, 3, NULL, NULL), STATUS_OK);
    assert_int_equal(generator_join(generator, &reader, &slots[0], NULL), STATUS_OK);
    assert_int_equal(generator_step(generator, 1, NULL), STATUS_OK);
    for (int i = 0; i < 2; i++) {
        late[i] = start(&options, prompt + i, 4, 64, 0);
        assert_int_equal(generator_join(generator, &late[i], &slots[1 + i], NULL), STATUS_OK);
    }
    assert_int_equal(generator_step(generator, 1, NULL), STATUS_OK);
    assert_int_equal(generator_leave(generator, slots[1], NULL), STATUS_OK);
    assert_int_equal(late[0].finish, FINISH_NONE);
    prompts->forwarded = fail_pass;
    assert_int_equal(generator_step(generator, 100, &error), STATUS_NO_MEMORY);
    assert_int_equal(late[0].finish, FINISH_INTERRUPTED);
    assert_int_equal(late[1].finish, FINISH_NONE);
    assert_int_equal(generator_texts(generator), 2);
    prompts->forwarded = NULL;
    while (generator_texts(generator)) assert_int_equal(generator_step(generator, 1, NULL), STATUS_OK);
    struct generation alone = start(&options, prompt + 1, 4, 64, 0);
    run(&alone, 1, NULL);
    assert_same_text(&alone, &late[1]);
    generator_destroy(generator);
    engine_destroy(prompts);
    for (int i = 0; i < 2; i++) finish(&late[i]);
    finish(&reader);
    finish(&alone);
}

/* ---- one text, in parts ------------------------------------------------------------------------------------------ */

static void a_text_goes_on_where_it_was(void **state) {
    (void)state;
    struct generation_options all = greedy(30), part = greedy(10);
    all.sampling.temperature = part.sampling.temperature = 1;
    part.logprobs = 1;
    struct generation whole = start(&all, prompt, 5, 64, 3), parts = start(&part, prompt, 5, 64, 3);
    run(&whole, 1, NULL);
    char text[512];
    size_t size = 0;
    for (int i = 0; i < 3; i++) {
        struct counter counter = { 0 };
        const struct generation_watch watch = { .context = &counter, .pass = count_pass, .text = count_text };
        run(&parts, 1, &watch);
        assert_int_equal(counter.bytes, parts.text_size);
        assert_int_equal(parts.prompt, 5 + 10 * i);
        assert_int_equal(counter.rows, i == 0 ? 5 + 9 : 10);   /* only what is new: the last token was never fed */
        memcpy(text + size, parts.text, parts.text_size);
        size += parts.text_size;
    }
    assert_int_equal(whole.ids.count, parts.ids.count);
    assert_memory_equal(whole.ids.ids, parts.ids.ids, (size_t)whole.ids.count * sizeof(int32_t));
    /* a prompt that the sequence holds whole: its last token is fed again */
    sequence_rewind(parts.sequence, 20);
    parts.ids.count = 20;
    run(&parts, 1, NULL);
    assert_memory_equal(whole.ids.ids, parts.ids.ids, (size_t)parts.ids.count * sizeof(int32_t));
    assert_null(engine->watch);
    finish(&whole), finish(&parts);
}

/* The greedy text by hand: logits after each token, the first `keep` ids and the context's last half when it is full,
 * half of it together. */
static void greedy_by_hand(int64_t capacity, int64_t keep, int64_t count, int32_t *ids) {
    struct sequence *sequence;
    float logits[VOCAB];
    int64_t length = 5, fed = 0;
    memcpy(ids, prompt, sizeof prompt);
    assert_int_equal(sequence_create(&sequence, model, capacity, NULL), STATUS_OK);
    for (int64_t n = 0; n < count; n++) {
        if (sequence->length == capacity) {
            const struct feed first = { .sequence = sequence, .ids = ids, .count = keep };
            sequence_rewind(sequence, 0);
            assert_int_equal(engine_feed(engine, &first, 1, 0, NULL), STATUS_OK);
            fed = length - (capacity / 2 - keep);
        }
        const struct feed feed = { .sequence = sequence, .ids = ids + fed, .count = length - fed, .logits = logits };
        assert_int_equal(engine_feed(engine, &feed, 1, 0, NULL), STATUS_OK);
        fed = length;
        int best = 0;
        for (int i = 1; i < defined; i++)
            if (logits[i] > logits[best]) best = i;
        ids[length++] = best;
    }
    sequence_destroy(sequence);
}

static void a_full_context_shifts_or_ends(void **state) {
    (void)state;
    int32_t expected[64];
    struct generation_options options = greedy(40);
    struct generation item;
    options.shift = true;
    for (options.keep = 2; options.keep >= 0; options.keep--) {
        greedy_by_hand(13, options.keep, 40, expected);
        item = start(&options, prompt, 5, 13, 0);
        run(&item, 1, NULL);
        assert_int_equal(item.finish, FINISH_LENGTH);
        assert_int_equal(item.ids.count, 45);
        assert_memory_equal(item.ids.ids, expected, 45 * sizeof(int32_t));
        assert_true(item.shifts >= 4);
        assert_in_range(item.sequence->length, 6, 13);   /* what the model saw */
        finish(&item);
    }

    options.keep = 0;
    options.shift = false;
    item = start(&options, prompt, 5, 13, 0);
    run(&item, 1, NULL);
    assert_int_equal(item.finish, FINISH_LENGTH);
    assert_int_equal(item.ids.count, 14);   /* the last one follows a full context */
    assert_int_equal(item.sequence->length, 13);
    assert_memory_equal(item.ids.ids, expected, 14 * sizeof(int32_t));
    finish(&item);

    options.shift = true;
    options.keep = 1;
    options.max_tokens = 5;
    item = start(&options, prompt, 1, 1, 0);   /* the smallest context there is */
    run(&item, 1, NULL);
    assert_int_equal(item.ids.count, 6);
    finish(&item);
}

/* What the caller puts in the place of a full context: the first two ids and the last four. */
struct replacement { const struct generation *item; int64_t times, most; };

static bool replace_context(void *context, int index, struct token_list *view) {
    struct replacement *replacement = context;
    const struct token_list *ids = &replacement->item[index].ids;
    assert_int_equal(view->count, 0);
    if (replacement->times++ >= replacement->most) return false;
    return !token_list_append(view, ids->ids, 2, NULL) && !token_list_append(view, ids->ids + ids->count - 4, 4, NULL);
}

static void the_caller_says_what_goes_on(void **state) {
    (void)state;
    int32_t expected[64];
    struct generation_options options = greedy(40);
    greedy_by_hand(13, 2, 40, expected);   /* 13 / 2 ids go on, two of them the first */
    struct generation item = start(&options, prompt, 5, 13, 0);
    struct replacement replacement = { .item = &item, .most = 100 };
    const struct generation_watch watch = { .context = &replacement, .full = replace_context };
    run(&item, 1, &watch);   /* options.shift does not count */
    assert_int_equal(item.finish, FINISH_LENGTH);
    assert_int_equal(item.ids.count, 45);
    assert_memory_equal(item.ids.ids, expected, 45 * sizeof(int32_t));
    assert_int_equal(item.shifts, replacement.times);
    assert_true(item.shifts >= 4);
    assert_in_range(item.sequence->length, 6, 13);
    finish(&item);

    /* Two texts, and the end where there is nothing to go on with. */
    struct generation items[2] = { start(&options, prompt, 5, 13, 0), start(&options, prompt, 5, 13, 0) };
    replacement = (struct replacement){ .item = items, .most = 3 };
    run(items, 2, &watch);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(items[i].finish, FINISH_LENGTH);
        assert_true(items[i].ids.count < 45);
        assert_memory_equal(items[i].ids.ids, expected, (size_t)items[i].ids.count * sizeof(int32_t));
        finish(&items[i]);
    }
}

static void interruption_keeps_what_was_said(void **state) {
    (void)state;
    struct generation_options options = greedy(20);
    for (int which = 0; which < 4; which++) {
        struct counter counter = { .stopped = 1 };
        if (which == 0) counter.stop_at_pass = 1;   /* the prompts */
        if (which == 1) counter.stop_at_pass = 6;
        if (which == 2) counter.stop_at_token = 4;
        if (which == 3) counter.stop_at_text = 2;
        struct generation items[2] = { start(&options, prompt, 5, 64, 0), start(&options, prompt, 4, 64, 0) };
        const struct generation_watch watch = {
            .context = &counter, .pass = count_pass, .token = count_token, .text = count_text};
        run(items, 2, &watch);
        assert_int_equal(items[0].finish, which < 2 ? FINISH_INTERRUPTED : FINISH_LENGTH);
        assert_int_equal(items[1].finish, FINISH_INTERRUPTED);
        int64_t generated = items[1].ids.count - 4;
        assert_int_equal(items[1].text_tokens, generated);
        if (which == 0) assert_int_equal(generated, 0);
        if (which == 1) assert_int_equal(generated, 5);
        if (which == 2) assert_int_equal(generated, 4);
        if (which == 3) assert_in_range(generated, 2, 10);
        assert_true(items[1].sequence->length <= items[1].ids.count);
        /* and it goes on as if nothing had happened */
        struct generation_options rest = greedy(24 - items[1].ids.count);
        struct generation whole = start(&options, prompt, 4, 64, 0);
        items[1].options = &rest;
        run(&items[1], 1, NULL);
        run(&whole, 1, NULL);
        assert_int_equal(items[1].ids.count, whole.ids.count);
        assert_memory_equal(items[1].ids.ids, whole.ids.ids, (size_t)whole.ids.count * sizeof(int32_t));
        finish(&items[0]), finish(&items[1]), finish(&whole);
    }
}

static void every_eos_ends_a_text(void **state) {
    (void)state;
    struct generation_options options = greedy(20);
    struct generation whole = start(&options, prompt, 5, 64, 0);
    run(&whole, 1, NULL);
    for (int place = 0; place < 2; place++) {
        int32_t eos[3] = { VOCAB - 1, VOCAB - 1, VOCAB - 1 };
        eos[place] = whole.ids.ids[5 + 6];
        int64_t first = 5;
        while (whole.ids.ids[first] != eos[place]) first++;
        options.eos = eos;
        options.eos_count = 3;
        struct generation item = start(&options, prompt, 5, 64, 0);
        run(&item, 1, NULL);
        assert_int_equal(item.finish, FINISH_EOS);
        assert_int_equal(item.ids.count, first + 1);
        assert_int_equal(item.text_tokens, first - 5);
        assert_true(item.text_size <= whole.text_size);
        options.eos_count = place;   /* those after it do not count */
        finish(&item);
        item = start(&options, prompt, 5, 64, 0);
        run(&item, 1, NULL);
        assert_int_equal(item.finish, FINISH_LENGTH);
        finish(&item);
    }
    finish(&whole);
}

static void padding_is_never_chosen(void **state) {
    (void)state;
    assert_true(defined < VOCAB - 1);
    const struct logit_bias bias[2] = { { VOCAB - 1, 1e6f }, { defined, 1e5f } };
    struct generation_options options = greedy(8);
    options.sampling.bias = bias;
    options.sampling.bias_count = 2;
    for (int temperature = 0; temperature < 2; temperature++) {
        options.sampling.temperature = temperature;
        struct generation item = start(&options, prompt, 5, 64, 0);
        run(&item, 1, NULL);
        for (int64_t t = 5; t < item.ids.count; t++) assert_true(item.ids.ids[t] < defined);
        finish(&item);
    }
    /* without a tokenizer there is no padding, and no text */
    assert_int_equal(sampler_mask(sampler, NULL, NULL), STATUS_OK);
    struct generation item = start(&options, prompt, 5, 64, 0);
    assert_int_equal(generate(engine, NULL, sampler, &item, 1, NULL, NULL), STATUS_OK);
    assert_int_equal(item.ids.ids[5], VOCAB - 1);
    assert_null(item.text);
    assert_int_equal(item.text_size, 0);
    finish(&item);
}

static void log_probabilities_are_those_of_the_logits(void **state) {
    (void)state;
    struct generation_options options = greedy(6);
    options.sampling.temperature = 1.5;
    options.sampling.repetition_penalty = 2;
    options.logprobs = 4;
    struct generation item = start(&options, prompt, 5, 64, 0);
    run(&item, 1, NULL);
    assert_int_equal(item.ids.count, 11);
    float logits[11 * VOCAB];
    struct sequence *sequence;
    assert_int_equal(sequence_create(&sequence, model, 64, NULL), STATUS_OK);
    const struct feed feed = {
        .sequence = sequence, .ids = item.ids.ids, .count = 10, .logits = logits, .every_logit = true};
    assert_int_equal(engine_feed(engine, &feed, 1, 0, NULL), STATUS_OK);
    for (int t = 0; t < 6; t++) {
        const float *l = logits + (4 + t) * VOCAB;
        const struct token_logprob *row = item.logprobs + t * 5;
        double total = 0;
        for (int i = 0; i < VOCAB; i++) total += exp((double)l[i]);
        assert_int_equal(row[0].id, item.ids.ids[5 + t]);
        for (int i = 0; i < 5; i++)
            assert_true(fabs((double)row[i].logprob - ((double)l[row[i].id] - log(total))) < 1e-5);
        for (int i = 1; i < 5; i++) {
            int above = 0;
            for (int j = 0; j < VOCAB; j++) above += l[j] > l[row[i].id];
            assert_int_equal(above, i - 1);
        }
    }
    sequence_destroy(sequence);
    finish(&item);
    options.logprobs = 0;
    item = start(&options, prompt, 5, 64, 0);
    run(&item, 1, NULL);
    for (int t = 0; t < 6; t++) assert_int_equal(item.logprobs[t].id, item.ids.ids[5 + t]);
    finish(&item);
}

/* ---- what is refused --------------------------------------------------------------------------------------------- */

static void refused(struct generation *item, const struct tokenizer *with, const char *message) {
    struct error error = { 0 };
    int64_t length = item->sequence ? item->sequence->length : 0, count = item->ids.count;
    assert_int_equal(generate(engine, with, sampler, item, 1, NULL, &error), STATUS_INVALID);
    if (!strstr(error.message, message)) fail_msg("`%s` does not hold `%s`", error.message, message);
    if (item->sequence) assert_int_equal(item->sequence->length, length);
    assert_int_equal(item->ids.count, count);
}

static void impossible_texts_are_refused(void **state) {
    (void)state;
    static char huge[STOP_STRING_BYTES_MAX + 1];
    memset(huge, 'a', sizeof huge);
    struct generation_options options = greedy(5);
    struct generation item = start(&options, prompt, 5, 4, 0);
    refused(&item, tokenizer, "the prompt has 5 tokens, expected at most 4");
    item.ids.count = 0;
    refused(&item, tokenizer, "the prompt is empty");
    item.ids.count = 3;
    item.ids.ids[1] = VOCAB;
    refused(&item, tokenizer, "token 1 of the prompt has id 320, expected 0 to 319");
    item.ids.ids[1] = 5;
    options.max_tokens = 0;
    refused(&item, tokenizer, "max_tokens: found 0");
    options = greedy(5);
    options.logprobs = LOGPROBS_MAX + 1;
    refused(&item, tokenizer, "logprobs: found 21, expected -1 (none) to 20");
    options = greedy(5);
    options.sampling.top_p = NAN;
    refused(&item, tokenizer, "top_p: found nan");
    options = greedy(5);
    options.stop_count = 1;
    options.stops[0] = (struct stop_string){ "a", 0 };
    refused(&item, tokenizer, "stop string 0: found an empty one");
    options.stops[0] = (struct stop_string){ huge, sizeof huge };
    refused(&item, tokenizer, "stop string 0: found 4097 bytes, expected 1 to 4096");
    options.stops[0] = (struct stop_string){ "\xC3", 1 };
    refused(&item, tokenizer, "stop string 0: found ill-formed UTF-8");
    options.stops[0] = (struct stop_string){ huge, sizeof huge - 1 };
    refused(&item, NULL, "stop strings need a tokenizer");
    run(&item, 1, NULL);   /* the longest one that is allowed */
    assert_int_equal(item.finish, FINISH_LENGTH);
    struct sequence *sequence = item.sequence;
    item.sequence = NULL;
    refused(&item, tokenizer, "another model");
    item.sequence = sequence;
    finish(&item);
    assert_int_equal(generate(engine, tokenizer, sampler, NULL, 0, NULL, NULL), STATUS_OK);
    struct generation twice[2] = { start(&options, prompt, 5, 64, 0), start(&options, prompt + 1, 3, 64, 0) };
    struct error error = { 0 };
    sequence_destroy(twice[1].sequence);
    twice[1].sequence = twice[0].sequence;
    options = greedy(5);
    assert_int_equal(generate(engine, tokenizer, sampler, twice, 2, NULL, &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "text 1: its sequence is that of text 0"));
    finish(&twice[0]);
    generation_release(&twice[1]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stop_strings_do_not_depend_on_tokens),
        cmocka_unit_test(text_is_whole_characters),
        cmocka_unit_test(texts_do_not_depend_on_their_neighbours),
        cmocka_unit_test(the_same_prompt_is_computed_once),
        cmocka_unit_test(texts_join_and_leave),
        cmocka_unit_test(prompts_come_first),
        cmocka_unit_test(a_prompt_waits_for_decoding),
        cmocka_unit_test(a_pass_of_prompts_fails),
        cmocka_unit_test(a_text_goes_on_where_it_was),
        cmocka_unit_test(a_full_context_shifts_or_ends),
        cmocka_unit_test(the_caller_says_what_goes_on),
        cmocka_unit_test(interruption_keeps_what_was_said),
        cmocka_unit_test(every_eos_ends_a_text),
        cmocka_unit_test(padding_is_never_chosen),
        cmocka_unit_test(log_probabilities_are_those_of_the_logits),
        cmocka_unit_test(impossible_texts_are_refused),
    };
    return cmocka_run_group_tests(tests, make, clean);
}
