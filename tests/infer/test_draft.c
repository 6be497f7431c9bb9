/* Drafting: texts are the same bits with and without, whatever is drafted, accepted, refused, interrupted and begun
 * anew; modules see what they would see in one piece; the policy keeps to its bounds. */
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
#define DEPTHS 2

static char folder[] = "/tmp/test_draft_XXXXXX";
static struct tokenizer *tokenizer;
static struct sampler *sampler;
static enum isa isa;

static const char config_text[] =
    "{\"architectures\": [\"DeepseekV3ForCausalLM\"], \"model_type\": \"deepseek_v3\", \"hidden_act\": \"silu\", "
    "\"hidden_size\": 48, \"intermediate_size\": 64, \"moe_intermediate_size\": 16, \"num_hidden_layers\": 2,"
    " \"num_attention_heads\": 2, \"num_key_value_heads\": 2, \"n_routed_experts\": 6, \"n_shared_experts\": 1, "
    "\"num_experts_per_tok\": 2, \"first_k_dense_replace\": 1, \"moe_layer_freq\": 1, \"n_group\": 1, \"topk_group\": "
    "1,"
    " \"scoring_func\": \"sigmoid\", \"topk_method\": \"noaux_tc\", \"norm_topk_prob\": true, "
    "\"routed_scaling_factor\": 1.5, \"num_nextn_predict_layers\": 2, \"q_lora_rank\": null, \"kv_lora_rank\": 64,"
    " \"qk_nope_head_dim\": 16, \"qk_rope_head_dim\": 64, \"v_head_dim\": 16, \"vocab_size\": 320, "
    "\"max_position_embeddings\": 512, \"rms_norm_eps\": 1e-6, \"rope_theta\": 10000.0, \"initializer_range\": 0.3,"
    " \"tie_word_embeddings\": false, \"attention_bias\": false, \"torch_dtype\": \"float32\"}";

/* Three models: of random weights, whose modules are hardly ever right; one whose next token depends on the last one
 * alone, as do its modules', so that they always are; and one in between. */
enum kind { RANDOM, MIXED, ECHO, KINDS };
static const float strength[KINDS] = { 1, 0.06f, 0 };

static void weaken(struct model *model, float factor) {
    for (int i = 0; i < model->parameter_count; i++) {
        struct parameter *p = model->parameters[i];
        const bool projection = strstr(p->name, "eh_proj") != NULL;
        if (p->kind == PARAMETER_VECTOR || !strstr(p->name, "layers.")) continue;
        for (int64_t r = 0; r < p->shape[0]; r++)
            for (int64_t c = 0; c < p->shape[1]; c++) {
                float *w = &p->value[r * p->shape[1] + c];
                *w = *w * factor + (projection && r == c ? 1 : 0);
            }
    }
}

static const char *folder_of(enum kind kind) {
    static char path[64];
    snprintf(path, sizeof path, "%s/%d", folder, (int)kind);
    return path;
}

static int make(void **state) {
    (void)state;
    struct error error = { 0 };
    int failed = !mkdtemp(folder) || isa_select(&isa, &error) || tokenizer_create_bytes(&tokenizer, &error) ||
                 sampler_create(&sampler, VOCAB, &error);
    for (int kind = 0; kind < KINDS && !failed; kind++) {
        struct arena arena = { 0 };
        struct config config;
        struct model *model = NULL;
        json_t *root = NULL;
        failed = json_parse(&root, config_text, sizeof config_text - 1, "test", &error) ||
                 config_parse(&config, root, "test", &arena, &error) ||
                 model_create(&model, &config, kernels_for(ISA_REFERENCE), NULL, COMPUTE_F32, &error) ||
                 model_allocate_training(model, &error);
        if (!failed) {
            model_initialise(model, 7);
            if (kind != RANDOM) weaken(model, strength[kind]);
            failed = model_export(model, folder_of((enum kind)kind), DTYPE_F32, &error) != STATUS_OK;
        }
        model_destroy(model);
        json_decref(root);
        arena_free(&arena);
    }
    if (failed) fprintf(stderr, "%s\n", error.message);
    return failed;
}

static int clean(void **state) {
    (void)state;
    sampler_destroy(sampler);
    tokenizer_destroy(tokenizer);
    return folder_remove(folder, NULL);
}

/* ---- a model with its engine ------------------------------------------------------------------------------------- */

struct machine { struct pool *pool; struct model *model; struct engine *engine; };

static struct machine machine_open(enum kind kind, int threads, enum compute compute, enum cache_type cache,
                                   int64_t max_rows) {
    struct machine machine = { 0 };
    struct error error = { 0 };
    const struct model_options options = {
        .use = MODEL_INFERENCE, .compute = compute, .cache = cache, .mtp = true};
    if (threads > 1) assert_int_equal(pool_create(&machine.pool, threads, &error), STATUS_OK);
    if (model_open(&machine.model, folder_of(kind), kernels_for(isa), machine.pool, &options, &error) ||
        engine_create(&machine.engine, machine.model, max_rows, &error))
        fail_msg("%s", error.message);
    return machine;
}

static void machine_close(struct machine *machine) {
    engine_destroy(machine->engine);
    model_destroy(machine->model);
    pool_destroy(machine->pool);
}

static void set_draft(const struct machine *machine, enum draft_mode mode, int depths) {
    struct error error = { 0 };
    if (engine_set_draft(machine->engine, mode, depths, &error)) fail_msg("%s", error.message);
}

/* Decisions that come from nowhere. */
struct whim { uint64_t seed, round; int most; };
static int decide_anything(void *context) {
    struct whim *whim = context;
    return (int)random_below(whim->seed, 1, whim->round++, (uint64_t)whim->most + 1);
}

/* ---- several texts ----------------------------------------------------------------------------------------------- */

#define TEXTS 7
#define STOP(text) { text, sizeof(text) - 1 }

struct options_set { struct generation_options of[TEXTS]; int32_t eos[2]; };

static void fill_options(struct options_set *set, double temperature, uint64_t seed) {
    static const struct logit_bias bias = { 'q', 1 };
    for (int i = 0; i < TEXTS; i++) {
        struct generation_options *options = &set->of[i];
        *options = (struct generation_options){.sampling = sampling_default(),
                                               .max_tokens = i == 6 ? 1 + (int64_t)seed % 5 : 12 + 5 * i,
                                               .logprobs = i % 3 - 1};
        options->sampling.temperature = temperature;
        options->sampling.seed = seed;
    }
    set->of[1].sampling.repetition_penalty = 1.3;
    set->of[1].sampling.top_k = 20;
    set->of[2].sampling.frequency_penalty = 0.5;
    set->of[2].sampling.presence_penalty = 0.2;
    set->of[2].eos = set->eos;
    set->of[2].eos_count = 2;
    set->of[3].sampling.bias = &bias;
    set->of[3].sampling.bias_count = 1;
    set->of[3].stop_count = 2;
    set->of[3].stops[0] = (struct stop_string)STOP("e");
    set->of[3].stops[1] = (struct stop_string)STOP("qq");
    set->of[4].shift = true;
    set->of[4].keep = 2;
    set->of[4].max_tokens = 60;
}

static struct generation start(const struct machine *machine, const struct generation_options *options, int i) {
    struct generation item = { .options = options, .stream = (uint64_t)i % 4 };
    const int64_t count = i == 5 ? 150 : (i * 13 + 1) % 40 + 1;
    for (int64_t t = 0; t < count; t++)
        assert_int_equal(token_list_push(&item.ids, (int32_t)random_below(5, (uint64_t)i, (uint64_t)t, 256), NULL),
                         STATUS_OK);
    /* 4 shifts, 0 has no room to spare */
    assert_int_equal(sequence_create(&item.sequence, machine->model,
                                     count + (i == 4   ? 9
                                              : i == 0 ? 11
                                                       : 60),
                                     NULL),
                     STATUS_OK);
    return item;
}

static void finish(struct generation *item) {
    sequence_destroy(item->sequence);
    generation_release(item);
}

/* All that a caller is told of each text, in order. */
struct log {
    struct {
        int32_t ids[256];
        int tokens;
        char said[1024];
        size_t size;
        int events[512], count;
    } of[TEXTS];
};

static bool log_token(void *context, int index, int32_t id) {
    struct log *log = context;
    log->of[index].ids[log->of[index].tokens++] = id;
    log->of[index].events[log->of[index].count++] = id;
    return true;
}
static bool log_text(void *context, int index, const char *text, size_t size) {
    struct log *log = context;
    assert_true(log->of[index].size + size <= sizeof log->of[index].said);
    memcpy(log->of[index].said + log->of[index].size, text, size);
    log->of[index].size += size;
    log->of[index].events[log->of[index].count++] = -1 - (int)size;
    return true;
}

static void run(const struct machine *machine, struct generation *items, int count,
                const struct generation_watch *watch) {
    struct error error = { 0 };
    if (generate(machine->engine, tokenizer, sampler, items, count, watch, &error)) fail_msg("%s", error.message);
}

static void run_logged(const struct machine *machine, struct generation *items, int count, struct log *log) {
    memset(log, 0, sizeof *log);
    const struct generation_watch watch = { .context = log, .token = log_token, .text = log_text };
    run(machine, items, count, &watch);
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
    assert_int_equal(a->sequence->length, b->sequence->length);
    assert_int_equal(a->logprobs == NULL, b->logprobs == NULL);
    if (a->logprobs)
        assert_memory_equal(a->logprobs, b->logprobs,
                            (size_t)((a->ids.count - a->prompt) * (1 + a->options->logprobs)) * sizeof *a->logprobs);
}

static struct draft_counts compare_texts(enum kind kind, int threads, enum compute compute, enum cache_type cache,
                                         int64_t max_rows, double temperature, uint64_t seed) {
    static struct log expected_log, log;
    struct machine machine = machine_open(kind, threads, compute, cache, max_rows);
    struct options_set set = { .eos = { 'e', 't' } };
    struct generation expected[TEXTS];
    struct draft_counts counts = { 0 };
    fill_options(&set, temperature, seed);
    for (int i = 0; i < TEXTS; i++) expected[i] = start(&machine, &set.of[i], i);
    run_logged(&machine, expected, TEXTS, &expected_log);
    for (int i = 0; i < TEXTS; i++) assert_int_equal(expected[i].drafts.offered[0], 0);
    for (int way = 0; way < 4; way++) {   /* always one depth, two, as it comes, and as it pays */
        struct whim whim = { .seed = seed + (uint64_t)way, .most = DEPTHS };
        set_draft(&machine, way == 3 ? DRAFT_AUTO : DRAFT_ALWAYS, way == 0 ? 1 : 0);
        if (way == 2) machine.engine->policy.decide = decide_anything, machine.engine->policy.decide_context = &whim;
        struct generation items[TEXTS];
        for (int i = 0; i < TEXTS; i++) items[i] = start(&machine, &set.of[i], i);
        run_logged(&machine, items, TEXTS, &log);
        for (int i = 0; i < TEXTS; i++) {
            assert_same_text(&expected[i], &items[i]);
            assert_int_equal(log.of[i].count, expected_log.of[i].count);
            assert_memory_equal(log.of[i].events, expected_log.of[i].events, (size_t)log.of[i].count * sizeof(int));
            assert_int_equal(log.of[i].size, expected_log.of[i].size);
            assert_memory_equal(log.of[i].said, expected_log.of[i].said, log.of[i].size);
            for (int d = 0; d < DEPTHS; d++) {
                counts.offered[d] += items[i].drafts.offered[d];
                counts.accepted[d] += items[i].drafts.accepted[d];
            }
            finish(&items[i]);
        }
    }
    for (int i = 0; i < TEXTS; i++) finish(&expected[i]);
    machine_close(&machine);
    return counts;
}

static void texts_do_not_depend_on_drafting(void **state) {
    (void)state;
    static const struct { int threads; enum compute compute; enum cache_type cache; int64_t max_rows;
    } variants[] = {
        {1, COMPUTE_F32, CACHE_F32, 0},
        {2, COMPUTE_F32, CACHE_BF16, 16},
        {2, COMPUTE_BF16, CACHE_BF16, 0},
        {1, COMPUTE_BF16, CACHE_FP8, 5},
    };
    struct draft_counts total[KINDS] = { 0 };
    for (size_t v = 0; v < sizeof variants / sizeof *variants; v++)
        for (int kind = 0; kind < KINDS; kind++)
            for (uint64_t seed = 0; seed < 4; seed++) {   /* 0 is greedy */
                const struct draft_counts counts = compare_texts(
                    (enum kind)kind, variants[v].threads, variants[v].compute, variants[v].cache, variants[v].max_rows,
                    seed ? 0.5 * (double)seed : 0, seed);
                for (int d = 0; d < DEPTHS; d++) {
                    total[kind].offered[d] += counts.offered[d];
                    total[kind].accepted[d] += counts.accepted[d];
                }
            }
    /* all of it was exercised: hardly any, some, and nearly all drafts are right (but those that the end cut off) */
    for (int d = 0; d < DEPTHS; d++) {
        const double share[KINDS] = {(double)total[0].accepted[d] / (double)total[0].offered[d],
                                     (double)total[1].accepted[d] / (double)total[1].offered[d],
                                     (double)total[2].accepted[d] / (double)total[2].offered[d]};
        assert_true(total[RANDOM].offered[d] > 1000);
        if (!(share[RANDOM] < 0.2 && share[MIXED] > 0.15 && share[MIXED] < 0.95 && share[ECHO] > 0.97))
            fail_msg("depth %d: accepted %g, %g, %g", d + 1, share[0], share[1], share[2]);
    }
}

static void the_context_may_end_anywhere(void **state) {
    (void)state;
    for (int kind = MIXED; kind < KINDS; kind++) {
        struct machine machine = machine_open((enum kind)kind, 1, COMPUTE_F32, CACHE_F32, 0);
        for (int64_t capacity = 1; capacity < 9; capacity++)
            for (int shift = 0; shift < 2; shift++)
                for (int64_t most = 1; most < 13; most += most < 5 ? 1 : 7) {
                    struct generation_options options = {.sampling = sampling_default(),
                                                         .max_tokens = most,
                                                         .logprobs = 0,
                                                         .shift = shift,
                                                         .keep = shift};
                    struct generation items[2] = { { .options = &options }, { .options = &options } };
                    for (int i = 0; i < 2; i++) {
                        set_draft(&machine, i ? DRAFT_ALWAYS : DRAFT_OFF, 0);
                        assert_int_equal(token_list_push(&items[i].ids, 'a', NULL), STATUS_OK);
                        assert_int_equal(sequence_create(&items[i].sequence, machine.model, capacity, NULL), STATUS_OK);
                        run(&machine, &items[i], 1, NULL);
                    }
                    assert_same_text(&items[0], &items[1]);
                    finish(&items[0]), finish(&items[1]);
                }
        machine_close(&machine);
    }
}

/* Drafts of texts that come and go, beside prompts on an engine of their own that wait after every half-layer. */
static void texts_that_draft_join_and_leave(void **state) {
    enum { GUESTS = 3, ROUNDS = 500 };
    (void)state;
    for (int kind = 0; kind < KINDS; kind++) {
        struct machine machine = machine_open((enum kind)kind, 1, COMPUTE_BF16, CACHE_BF16, 0), other = machine;
        struct options_set set = { .eos = { 'e', 't' } };
        struct generation expected[TEXTS], guests[GUESTS] = { 0 };
        struct whim whim = { .seed = 4, .most = DEPTHS };
        struct generator *generator = NULL;
        int numbers[GUESTS], slots[GUESTS], ended = 0;
        int64_t accepted = 0;
        fill_options(&set, 0.5, 3);
        for (int i = 0; i < TEXTS; i++) {
            expected[i] = start(&machine, &set.of[i], i);
            run(&machine, &expected[i], 1, NULL);
        }
        assert_int_equal(engine_create(&other.engine, machine.model, 24, NULL), STATUS_OK);
        set_draft(&machine, DRAFT_ALWAYS, 0);
        set_draft(&other, DRAFT_ALWAYS, 0);
        machine.engine->policy.decide = decide_anything, machine.engine->policy.decide_context = &whim;
        assert_int_equal(generator_create(&generator, machine.engine, other.engine, tokenizer, sampler, GUESTS, NULL,
                                          NULL),
                         STATUS_OK);
        for (uint64_t round = 0; round < ROUNDS || generator_texts(generator); round++) {
            const uint64_t choice = random_below(1, (uint64_t)kind, round, 12);
            const int g = (int)random_below(2, (uint64_t)kind, round, GUESTS);
            enum status status = STATUS_OK;
            if (!guests[g].sequence && round < ROUNDS) {
                numbers[g] = (int)random_below(3, (uint64_t)kind, round, TEXTS);
                guests[g] = start(&machine, &set.of[numbers[g]], numbers[g]);
                status = generator_join(generator, &guests[g], &slots[g], NULL);
            } else if (choice == 0 && guests[g].sequence) {
                status = generator_leave(generator, slots[g], NULL);
            } else {
                status = generator_step(generator, choice > 2, NULL);
            }
            assert_int_equal(status, STATUS_OK);
            for (int i = 0; i < GUESTS; i++) {
                if (!guests[i].sequence || guests[i].finish == FINISH_NONE) continue;
                const struct generation *whole = &expected[numbers[i]];
                if (guests[i].finish != FINISH_INTERRUPTED) assert_same_text(whole, &guests[i]), ended++;
                assert_in_range(guests[i].ids.count, guests[i].prompt, whole->ids.count);
                assert_memory_equal(whole->ids.ids, guests[i].ids.ids, (size_t)guests[i].ids.count * sizeof(int32_t));
                accepted += guests[i].drafts.accepted[0];
                finish(&guests[i]);
                guests[i] = (struct generation){ 0 };
            }
        }
        assert_true(ended >= 10 && accepted > (kind == RANDOM ? -1 : 20));
        generator_destroy(generator);
        engine_destroy(other.engine);
        for (int i = 0; i < TEXTS; i++) finish(&expected[i]);
        machine_close(&machine);
    }
}

/* An engine drafts before it has computed anything itself: what the modules owe finds room. */
static void another_engine_computes_prompts(void **state) {
    (void)state;
    struct machine machine = machine_open(RANDOM, 1, COMPUTE_F32, CACHE_F32, 0), other = machine;
    struct options_set set = { .eos = { 'e', 't' } };
    struct generator *generator = NULL;
    struct error error = { 0 };
    int slot;
    fill_options(&set, 0, 3);
    struct generation item = { .options = &set.of[1] }, expected = item;
    for (int32_t t = 0; t < 14 * 64 + 15; t++)
        if (token_list_push(&item.ids, t % 256, &error) || token_list_push(&expected.ids, t % 256, &error)) fail();
    assert_int_equal(sequence_create(&item.sequence, machine.model, 980, NULL), STATUS_OK);
    assert_int_equal(sequence_create(&expected.sequence, machine.model, 980, NULL), STATUS_OK);
    assert_int_equal(engine_create(&other.engine, machine.model, 64, NULL), STATUS_OK);
    set_draft(&machine, DRAFT_ALWAYS, 0);
    set_draft(&other, DRAFT_ALWAYS, 0);
    assert_int_equal(generator_create(&generator, machine.engine, other.engine, tokenizer, sampler, 1, NULL, NULL),
                     STATUS_OK);
    assert_int_equal(generator_join(generator, &item, &slot, NULL), STATUS_OK);
    while (generator_texts(generator))
        if (generator_step(generator, 0, &error)) fail_msg("%s", error.message);
    run(&other, &expected, 1, NULL);
    assert_same_text(&expected, &item);
    assert_true(item.drafts.offered[0] > 0);
    generator_destroy(generator);
    engine_destroy(other.engine);
    finish(&item);
    finish(&expected);
    machine_close(&machine);
}

/* In parts, rewound, edited, interrupted and gone on with, the same conversation with and without drafts. */
struct stopper { int64_t passes, stop_at; };
static bool stop_pass(void *context, int64_t rows) {
    struct stopper *stopper = context;
    assert_true(rows > 0);
    return ++stopper->passes != stopper->stop_at;
}

static void texts_go_on_where_they_were(void **state) {
    (void)state;
    for (int kind = 0; kind < KINDS; kind++) {
        struct machine machine = machine_open((enum kind)kind, 1, COMPUTE_BF16, CACHE_BF16, 24);
        for (int draft = 0; draft < 3; draft++) {
            struct generation_options part = { .sampling = sampling_default(), .max_tokens = 10, .logprobs = 1 };
            struct generation items[2] = { start(&machine, &part, 1), start(&machine, &part, 1) };
            part.sampling.seed = (uint64_t)draft;
            struct whim whim = { .seed = 9, .most = DEPTHS };
            for (int turn = 0; turn < 6; turn++) {
                for (int i = 0; i < 2; i++) {
                    set_draft(&machine, i && draft ? DRAFT_ALWAYS : DRAFT_OFF, draft == 1 ? 1 : 0);
                    if (i && draft == 2)
                        machine.engine->policy.decide = decide_anything, machine.engine->policy.decide_context = &whim;
                    if (i && turn == 3) set_draft(&machine, DRAFT_OFF, 0);   /* a turn without */
                    /* another past, near or far: what is behind it is refused by the record */
                    if (turn == 2 || turn == 4) {
                        items[i].ids.count -= turn == 2 ? 4 : 30;
                        sequence_rewind(items[i].sequence, items[i].ids.count - (turn == 2));
                        items[i].ids.ids[items[i].ids.count - 1] = 'x';
                        if (turn == 4) sequence_rewind(items[i].sequence, items[i].ids.count - 1);
                    }
                    if (turn == 5) {   /* stopped in the middle: what there is is right, and the rest follows */
                        struct stopper stopper = { .stop_at = 4 };
                        const struct generation_watch watch = { .context = &stopper, .pass = stop_pass };
                        run(&machine, &items[i], 1, &watch);
                        assert_int_equal(items[i].finish, FINISH_INTERRUPTED);
                        assert_int_equal(items[i].sequence->length, items[i].ids.count - 1);
                        const struct generation_options rest = {.sampling = part.sampling,
                                                                .max_tokens = 10 -
                                                                              (items[i].ids.count - items[i].prompt),
                                                                .logprobs = 1};
                        items[i].options = &rest;
                        run(&machine, &items[i], 1, NULL);
                        items[i].options = &part;
                    } else {
                        run(&machine, &items[i], 1, NULL);
                    }
                }
                assert_int_equal(items[0].ids.count, items[1].ids.count);
                assert_memory_equal(items[0].ids.ids, items[1].ids.ids, (size_t)items[0].ids.count * sizeof(int32_t));
                if (turn < 5) assert_same_text(&items[0], &items[1]);
            }
            finish(&items[0]), finish(&items[1]);
        }
        machine_close(&machine);
    }
}

/* ---- what modules see -------------------------------------------------------------------------------------------- */

struct seen { float logits[DEPTHS][VOCAB]; int32_t forced[DEPTHS]; int count; };
static int32_t see(void *context, int index, struct draft *draft, const float *logits) {
    struct seen *seen = context;
    assert_int_equal(index, 0);
    memcpy(seen->logits[draft->count], logits, sizeof seen->logits[0]);
    seen->count++;
    return seen->forced[draft->count];
}

/* Logits of the modules after ids[0..length), ids[length] and the drafts that follow it there. */
static struct seen look(const struct machine *machine, struct sequence *sequence, const int32_t *ids) {
    struct seen seen = { .forced = { ids[sequence->length + 1], ids[sequence->length + 2] } };
    struct draft draft = { .sequence = sequence, .next = ids[sequence->length], .wanted = DEPTHS };
    struct error error = { 0 };
    if (engine_draft(machine->engine, &draft, 1, see, &seen, &error)) fail_msg("%s", error.message);
    assert_int_equal(draft.count, seen.count);
    return seen;
}

static void feed(const struct machine *machine, struct sequence *sequence, const int32_t *ids, int64_t count,
                 int64_t chunk) {
    struct error error = { 0 };
    if (engine_feed(machine->engine, &(struct feed){.sequence = sequence, .ids = ids, .count = count}, 1, chunk,
                    &error))
        fail_msg("%s", error.message);
}

static struct sequence *new_sequence(const struct machine *machine) {
    struct sequence *sequence;
    assert_int_equal(sequence_create(&sequence, machine->model, 400, NULL), STATUS_OK);
    return sequence;
}

#define LONG 300

static void modules_see_what_they_would_see_in_one_piece(void **state) {
    (void)state;
    int32_t ids[LONG + DEPTHS + 1], other[LONG];
    for (int t = 0; t < LONG + DEPTHS + 1; t++) ids[t] = (int32_t)random_below(11, 0, (uint64_t)t, VOCAB);
    for (int t = 0; t < LONG; t++) other[t] = (int32_t)random_below(12, 0, (uint64_t)t, VOCAB);
    for (int threads = 1; threads < 3; threads++) {
        struct machine whole = machine_open(RANDOM, 1, COMPUTE_F32, CACHE_F32, 0),
                       machine = machine_open(RANDOM, threads, COMPUTE_F32, CACHE_F32, 40);
        set_draft(&whole, DRAFT_ALWAYS, 0), set_draft(&machine, DRAFT_ALWAYS, 0);
        for (int64_t length = 1; length <= LONG; length += length < 40 ? 3 : 41) {
            struct sequence *at_once = new_sequence(&whole), *parts = new_sequence(&machine),
                            *copy = new_sequence(&machine);
            feed(&whole, at_once, ids, length, 0);
            const struct seen expected = look(&whole, at_once, ids);
            assert_int_equal(expected.count, DEPTHS);
            for (int way = 0; way < 8; way++) {
                struct sequence *sequence = parts;
                sequence_rewind(parts, 0);
                const int64_t middle = length * 2 / 3;
                if (way == 0) feed(&machine, parts, ids, length, 7);
                if (way == 1) feed(&machine, parts, ids, length, 0);
                if (way == 2) {   /* token by token, drafting now and then; drafts are right or not */
                    for (int64_t t = 0; t < length; t++) {
                        feed(&machine, parts, ids + t, 1, 0);
                        if (t % 3 == 1 && t + 1 < length) look(&machine, parts, t % 2 ? ids : other);
                    }
                }
                if (way == 3) {   /* a rewind of what was fed and drafted */
                    const int64_t back = length - middle < 9 ? length - middle : 9;
                    feed(&machine, parts, ids, length - back, 0);
                    feed(&machine, parts, other, back, 5);
                    look(&machine, parts, other);
                    sequence_rewind(parts, length - back);
                    feed(&machine, parts, ids + length - back, back, 0);
                }
                if (way == 4) {   /* to itself */
                    feed(&machine, parts, ids, length, 0);
                    look(&machine, parts, ids);
                    sequence_rewind(parts, length - (length > 3 ? 3 : 0));
                    feed(&machine, parts, ids + parts->length, length - parts->length, 0);
                }
                if (way == 5) {   /* a copy */
                    feed(&machine, parts, ids, middle, 9);
                    assert_int_equal(sequence_copy(copy, parts, NULL), STATUS_OK);
                    feed(&machine, parts, other, 3, 0);
                    sequence = copy;
                    feed(&machine, copy, ids + middle, length - middle, 0);
                }
                if (way == 6) {   /* drafts that were fed, and refused */
                    feed(&machine, parts, ids, middle, 0);
                    for (int64_t t = middle; t < length;) {
                        if (t) look(&machine, parts, t % 2 ? ids : other);
                        const int32_t rows[3] = { ids[t], t % 2 && t + 1 < length ? ids[t + 1] : other[5], other[6] };
                        const int64_t right = t % 2 && t + 1 < length ? 2 : 1;
                        feed(&machine, parts, rows, 3, 0);
                        t += right;
                        sequence_rewind(parts, t);
                    }
                }
                if (way == 7) {   /* saved and loaded, drafts forgotten */
                    feed(&machine, parts, ids, middle, 9);
                    if (middle) look(&machine, parts, other);
                    const size_t size = sequence_save_bytes(parts);
                    void *bytes = malloc(size);
                    assert_int_equal(sequence_save(parts, bytes, NULL), STATUS_OK);
                    sequence = copy;
                    assert_int_equal(sequence_load(copy, bytes, size, NULL), STATUS_OK);
                    free(bytes);
                    feed(&machine, copy, ids + middle, length - middle, 0);
                }
                assert_int_equal(sequence->length, length);
                const struct seen seen = look(&machine, sequence, ids);
                assert_int_equal(seen.count, DEPTHS);
                assert_memory_equal(seen.logits, expected.logits, sizeof seen.logits);
                /* and again: no row is due, the last one is computed once more */
                assert_int_equal(look(&machine, sequence, ids).count, DEPTHS);
            }
            sequence_destroy(at_once), sequence_destroy(parts), sequence_destroy(copy);
        }
        machine_close(&whole), machine_close(&machine);
    }
}

/* Where inputs are missing a module begins with what there is, and a sequence that nobody fed through an engine with
 * modules gets no drafts. */
static void modules_begin_anew(void **state) {
    (void)state;
    int32_t ids[LONG + DEPTHS + 1];
    for (int t = 0; t < LONG + DEPTHS + 1; t++) ids[t] = (int32_t)random_below(11, 0, (uint64_t)t, VOCAB);
    struct machine machine = machine_open(RANDOM, 1, COMPUTE_F32, CACHE_F32, 0);
    struct sequence *a = new_sequence(&machine), *b = new_sequence(&machine);
    set_draft(&machine, DRAFT_AUTO, 0);
    assert_false(machine.engine->fills_modules);
    feed(&machine, a, ids, 200, 0);
    assert_int_equal(look(&machine, a, ids).count, DEPTHS);
    assert_int_equal(a->mtp[0].base, 200 - MTP_ROWS);
    sequence_rewind(a, 60);
    assert_int_equal(look(&machine, a, ids).count, 0);   /* the input of the last row is gone */
    feed(&machine, a, ids + 60, 1, 0);
    assert_int_equal(look(&machine, a, ids).count, DEPTHS);   /* and comes with the next token */
    assert_int_equal(a->mtp[0].base, 60);
    feed(&machine, a, ids + 61, 1, 0);
    assert_int_equal(look(&machine, a, ids).count, DEPTHS);
    sequence_pretend(b, 50);   /* nobody fed these */
    assert_int_equal(look(&machine, b, ids).count, 0);
    feed(&machine, b, ids + 50, 2, 0);
    assert_int_equal(look(&machine, b, ids).count, DEPTHS);
    assert_int_equal(b->mtp[0].base, 50);
    sequence_destroy(a), sequence_destroy(b);

    struct error error = { 0 };
    assert_int_equal(engine_set_draft(machine.engine, DRAFT_ALWAYS, 3, &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "found 3 depths, expected 0 (all) to 2"));
    machine.model->expanded_prefill = true;
    assert_int_equal(engine_set_draft(machine.engine, DRAFT_ALWAYS, 1, &error), STATUS_UNSUPPORTED);
    assert_int_equal(engine_set_draft(machine.engine, DRAFT_AUTO, 0, &error), STATUS_OK);
    assert_int_equal(machine.engine->policy.mode, DRAFT_OFF);
    machine_close(&machine);
}

/* ---- the policy -------------------------------------------------------------------------------------------------- */

/* A machine on which a plain pass takes 1, one with drafts `cost`, a fourth of what it takes more in the modules;
 * drafts are accepted with probability `a`. */
struct play { double time; int64_t tokens, drafted_rounds; };
static struct play play(struct draft_policy *policy, int64_t tokens, double cost, double a, uint64_t seed,
                        double noise) {
    struct play play = { 0 };
    struct draft_text text = { 0 };
    struct draft_counts counts = { 0 };
    for (uint64_t round = 0; play.tokens < tokens; round++) {
        const int depths = draft_policy_depths(policy, 1);
        int accepted = 0;
        while (accepted < depths && random_uniform(seed, (uint64_t)accepted, round) < a) accepted++;
        const double more = depths ? (cost - 1) * depths : 0,
                     disturbed = random_uniform(seed, 9, round) < noise ? 20 : 0;
        play.time += 1 + more;
        play.tokens += 1 + accepted;
        play.drafted_rounds += depths > 0;
        draft_policy_count(policy, &text, &counts, depths, accepted);
        draft_policy_round(policy, depths, 1, 1 + accepted, 1 + 0.75 * more + disturbed, 0.25 * more);
    }
    return play;
}

static void drafting_never_costs_more_than_two_percent(void **state) {
    (void)state;
    static const double costs[] = { 1.01, 1.05, 1.1, 1.2, 1.5, 2, 3 }, rates[] = { 0, 0.02, 0.1, 0.3, 0.5 };
    for (size_t c = 0; c < sizeof costs / sizeof *costs; c++)
        for (size_t r = 0; r < sizeof rates / sizeof *rates; r++)
            for (uint64_t seed = 0; seed < 20; seed++)
                for (int depths = 1; depths <= 2; depths++) {
                    struct draft_policy policy;
                    draft_policy_begin(&policy, DRAFT_AUTO, depths);
                    const struct play result = play(&policy, 256, costs[c], rates[r], seed, 0.05);
                    /* the round that uses up the credit may be this much too long */
                    const double last = depths * (costs[c] - 1);
                    if (result.time > (double)result.tokens + 1.0001 * (DRAFT_CREDIT + 256 * DRAFT_REFILL + last))
                        fail_msg("cost %g, rate %g: %g", costs[c], rates[r], result.time / (double)result.tokens);
                    if (last <= 1 && result.time > 1.02 * (double)result.tokens + 1e-9)
                        fail_msg("cost %g, rate %g: %g", costs[c], rates[r], result.time / (double)result.tokens);
                }
}

static void drafting_goes_on_where_it_pays(void **state) {
    (void)state;
    static const struct { double cost, rate; } cases[] = { { 1.1, 0.5 }, { 1.2, 0.7 }, { 1.3, 0.85 }, { 1.5, 0.9 } };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
        for (uint64_t seed = 0; seed < 10; seed++) {
            struct draft_policy policy;
            draft_policy_begin(&policy, DRAFT_AUTO, 1);
            const struct play result = play(&policy, 2000, cases[c].cost, cases[c].rate, seed, seed % 2 ? 0.05 : 0);
            const double formula = (1 + cases[c].rate) / cases[c].cost, reached = (double)result.tokens / result.time;
            if (reached - 1 < 0.6 * (formula - 1))
                fail_msg("cost %g, rate %g: %g of %g", cases[c].cost, cases[c].rate, reached, formula);
            if (seed % 2) continue;   /* disturbed: what was measured is near the truth, not it */
            assert_true(fabs(draft_policy_cost(&policy, 1) - cases[c].cost) < 1e-6);
            assert_true(fabs(draft_policy_predicted(&policy, 1) - formula) < 0.35);
            assert_true(fabs(draft_policy_reached(&policy) / formula - 1) < 0.1);
        }
    /* two depths, of which the second never pays: cost 1.3 and 1.6 for a = 0.5 and 0.25 */
    struct draft_policy policy;
    draft_policy_begin(&policy, DRAFT_AUTO, 2);
    play(&policy, 3000, 1.3, 0.5, 1, 0);
    assert_true(policy.counts.offered[0] > 4 * policy.counts.offered[1]);
}

static void probes_are_rare(void **state) {
    (void)state;
    struct draft_policy policy;
    draft_policy_begin(&policy, DRAFT_AUTO, 1);
    const struct play first = play(&policy, 2000, 1.3, 0.05, 3, 0);
    assert_true(first.drafted_rounds > 10 && first.drafted_rounds < 100);
    assert_true(policy.paused);
    /* a text that becomes easy is noticed */
    const struct play second = play(&policy, 2000, 1.3, 0.9, 4, 0);
    assert_true((double)second.tokens / second.time > 1.2);
    assert_false(policy.paused);
    /* and one that becomes hard again, too */
    const struct play third = play(&policy, 2000, 1.3, 0.05, 5, 0);
    assert_true(third.time < 1.02 * (double)third.tokens);
}

static void a_text_takes_part_where_its_drafts_pay(void **state) {
    (void)state;
    struct draft_policy policy;
    draft_policy_begin(&policy, DRAFT_AUTO, 1);
    play(&policy, 200, 1.2, 0.6, 1, 0);
    struct draft_text good = { 0 }, bad = { 0 };
    struct draft_counts counts = { 0 };
    for (int i = 0; i < 40; i++) {
        draft_policy_count(&policy, &good, &counts, 1, i % 2);
        draft_policy_count(&policy, &bad, &counts, 1, i % 20 == 0);
    }
    assert_true(draft_policy_takes(&policy, &good, 1, 2));
    int taken = 0;
    for (int i = 0; i < 640; i++) taken += draft_policy_takes(&policy, &bad, 1, 2);
    assert_in_range(taken, 5, 15);
    assert_true(draft_policy_takes(&policy, &bad, 1, 1));   /* alone it is the whole round's question */
    assert_int_equal(counts.offered[0], 80);
    assert_int_equal(counts.accepted[0], 22);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_do_not_depend_on_drafting),
        cmocka_unit_test(the_context_may_end_anywhere),
        cmocka_unit_test(texts_that_draft_join_and_leave),
        cmocka_unit_test(another_engine_computes_prompts),
        cmocka_unit_test(texts_go_on_where_they_were),
        cmocka_unit_test(modules_see_what_they_would_see_in_one_piece),
        cmocka_unit_test(modules_begin_anew),
        cmocka_unit_test(drafting_never_costs_more_than_two_percent),
        cmocka_unit_test(drafting_goes_on_where_it_pays),
        cmocka_unit_test(probes_are_rare),
        cmocka_unit_test(a_text_takes_part_where_its_drafts_pay),
    };
    return cmocka_run_group_tests(tests, make, clean);
}
