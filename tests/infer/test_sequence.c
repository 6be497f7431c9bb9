/* Sequences: whatever was done to them, they give the bits of plain feeding. Of every kind of attention state, and of a
 * ring that forgets: a block that exists here alone, since no model that is read has one yet. */
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

enum { VOCAB = 61, LONGEST = 170, TEXTS = 4, SEQUENCES = 5, SAVED = 4, LAYERS = 3 };

/* Texts that begin alike: text i is the one before it up to shared[i]. */
static const int64_t shared[TEXTS] = {0, 90, 33, 128}, capacities[SEQUENCES] = {170, 64, 100, 129, 170};
static int32_t texts[TEXTS][LONGEST];
static char folder[] = "/tmp/test_sequence_XXXXXX";

#define COMMON                                                                                                         \
    "\"hidden_act\": \"silu\", \"hidden_size\": 32, \"intermediate_size\": 48, \"num_hidden_layers\": 3, "             \
    "\"vocab_size\": 61, \"max_position_embeddings\": 512, \"rms_norm_eps\": 1e-6, \"rope_theta\": 10000.0, "          \
    "\"initializer_range\": 0.2, \"tie_word_embeddings\": false, \"attention_bias\": false, "                          \
    "\"torch_dtype\": \"float32\"}"
static const char *const configs[] = {
    "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"num_attention_heads\": 4, "
    "\"num_key_value_heads\": 2, " COMMON,
    "{\"architectures\": [\"DeepseekV2ForCausalLM\"], \"model_type\": \"deepseek_v2\", \"num_attention_heads\": 2, "
    "\"kv_lora_rank\": 144, \"qk_nope_head_dim\": 12, \"qk_rope_head_dim\": 10, \"v_head_dim\": 8, " COMMON,
};

static const struct kind {
    const char *name;
    int config;
    enum compute compute;
    enum cache_type cache;
    bool ring;               /* the first two layers' attention */
    bool reference;          /* kernels */
} kinds[] = {
    {"gqa fp32", 0, COMPUTE_F32, CACHE_F32, false, false},
    {"gqa bf16", 0, COMPUTE_BF16, CACHE_BF16, false, false},
    {"gqa bf16, reference", 0, COMPUTE_F32, CACHE_BF16, false, true},
    {"mla fp32", 1, COMPUTE_F32, CACHE_F32, false, false},
    {"mla bf16", 1, COMPUTE_BF16, CACHE_BF16, false, false},
    {"mla fp8", 1, COMPUTE_BF16, CACHE_FP8, false, false},
    {"mla fp8, reference", 1, COMPUTE_F32, CACHE_FP8, false, true},
    {"ring", 0, COMPUTE_F32, CACHE_F32, true, false},
    {"ring, reference", 1, COMPUTE_F32, CACHE_F32, true, true},
};
enum { KINDS = sizeof kinds / sizeof *kinds };

/* ---- a ring ------------------------------------------------------------------------------------------------------ */

/* y[t] = mean of x[t - WINDOW + 1 .. t]. State: the last rows, and which of them there are. */
enum { WINDOW = 12, REACH = 5, SLOTS = WINDOW - 1 + REACH };

/* Positions first..length-1 are held; the second layer's goes back to multiples of 4 alone. */
struct ring { int64_t first, length; float rows[]; };
struct ring_op { const struct batch *batch; const struct layer *layer; };

static int64_t ring_needed(int64_t length) { return length < WINDOW ? 0 : length - WINDOW + 1; }
static size_t ring_row_bytes(const struct model *model) { return (size_t)model->config.hidden_size * sizeof(float); }
static float *ring_row(const struct model *model, struct ring *ring, int64_t position) {
    return ring->rows + position % SLOTS * model->config.hidden_size;
}

static size_t ring_state_bytes(const struct model *model, const struct layer *layer, int64_t capacity) {
    (void)layer, (void)capacity;
    return sizeof(struct ring) + SLOTS * ring_row_bytes(model);
}
static void ring_reset(const struct layer_state *state) {
    memset(state->data, 0xFF, ring_state_bytes(state->model, state->layer, 0));   /* NaN */
    ((struct ring *)state->data)->first = ((struct ring *)state->data)->length = 0;
}
static int64_t ring_rewind(const struct layer_state *state, int64_t length) {
    struct ring *ring = state->data;
    assert_true(ring->length <= state->length && length <= state->length);
    length -= state->layer->index % 2 ? length % 4 : 0;
    ring->length = ring_needed(length) >= ring->first ? length : 0;
    return ring->length;
}
static int64_t ring_from(const struct layer_state *state, int64_t first) {
    return first > ring_needed(state->length) ? first : ring_needed(state->length);
}
static size_t ring_save_bytes(const struct layer_state *state, int64_t first, int64_t count) {
    const int64_t from = ring_from(state, first), end = first + count;
    return from < end ? (size_t)(end - from) * ring_row_bytes(state->model) : 0;
}
static void ring_save(const struct layer_state *state, int64_t first, int64_t count, void *bytes) {
    const size_t size = ring_row_bytes(state->model);
    char *to = bytes;
    for (int64_t p = ring_from(state, first); p < first + count; p++, to += size)
        memcpy(to, ring_row(state->model, state->data, p), size);
}
static void ring_load(const struct layer_state *state, int64_t first, int64_t count, const void *bytes) {
    const size_t size = ring_row_bytes(state->model);
    const char *from = bytes;
    struct ring *ring = state->data;
    assert_int_equal(ring->length, first);
    ring->first = ring_needed(state->length);
    ring->length = first + count;
    for (int64_t p = ring_from(state, first); p < first + count; p++, from += size)
        memcpy(ring_row(state->model, state->data, p), from, size);
}

static void ring_run(struct graph *graph, struct op *op) {
    if (!graph_computes(graph)) return;
    const struct ring_op *extra = op->extra;
    const int64_t width = op->in[0]->width;
    const float *x = op->in[0]->data;
    float *y = op->out[0]->data;
    for (int s = 0; s < extra->batch->span_count; s++) {
        const struct span *span = &extra->batch->spans[s];
        const struct model *model = span->sequence->model;
        struct ring *ring = sequence_state(span->sequence, extra->layer);
        assert_true(ring->length == span->position && ring->first <= ring_needed(span->position));
        for (int64_t t = 0; t < span->count; t++) {
            const int64_t position = span->position + t, from = ring_needed(position + 1);
            float *row = y + (span->row + t) * width;
            memset(row, 0, (size_t)width * sizeof *row);
            for (int64_t p = from; p <= position; p++) {
                const float *one = p < span->position ? ring_row(model, ring, p)
                                                      : x + (span->row + p - span->position) * width;
                for (int64_t c = 0; c < width; c++) row[c] += one[c] / (float)(position + 1 - from);
            }
        }
        for (int64_t t = 0; t < span->count; t++)
            memcpy(ring_row(model, ring, span->position + t), x + (span->row + t) * width, ring_row_bytes(model));
        const int64_t lost = span->position + span->count - SLOTS;
        if (lost > ring->first) ring->first = lost;
        ring->length = span->position + span->count;
    }
}
static const struct op_kind ring_kind = {.name = "ring", .forward = ring_run};

static struct tensor *ring_forward(struct forward *pass, const struct layer *layer, struct tensor *x) {
    struct op *op = op_new(pass->graph, &ring_kind, sizeof(struct ring_op));
    if (!op) return NULL;
    *(struct ring_op *)op->extra = (struct ring_op){pass->batch, layer};
    op_input(op, x);
    struct tensor *y = op_output(pass->graph, op, x->rows, x->width, DTYPE_F32, DTYPE_F32);
    op_run(pass->graph, op);
    return y;
}

static const struct block ring_block = {
    .name = "ring",
    .forward = ring_forward,
    .state_bytes = ring_state_bytes,
    .reset = ring_reset,
    .rewind = ring_rewind,
    .save_bytes = ring_save_bytes,
    .save = ring_save,
    .load = ring_load,
};

/* ---- the machine ------------------------------------------------------------------------------------------------- */

static const char *folder_of(int config) {
    static char path[64];
    snprintf(path, sizeof path, "%s/%d", folder, config);
    return path;
}

static int make_folders(void **state) {
    (void)state;
    struct error error;
    if (!mkdtemp(folder)) return 1;
    for (int c = 0; c < 2; c++) {
        struct arena arena = {0};
        struct config config;
        struct model *model = NULL;
        json_t *root = NULL;
        if (json_parse(&root, configs[c], strlen(configs[c]), "test", &error) ||
            config_parse(&config, root, "test", &arena, &error) ||
            model_create(&model, &config, kernels_for(ISA_REFERENCE), NULL, COMPUTE_F32, &error) ||
            model_allocate_training(model, &error))
            return 1;
        model_initialise(model, 1);
        if (model_export(model, folder_of(c), DTYPE_F32, &error)) return 1;
        model_destroy(model);
        json_decref(root);
        arena_free(&arena);
    }
    for (int i = 0; i < TEXTS; i++)
        for (int t = 0; t < LONGEST; t++)
            texts[i][t] = t < shared[i] ? texts[i - 1][t]
                                        : (int32_t)random_below(3, (uint64_t)i, (uint64_t)t, VOCAB);
    return 0;
}

static int remove_folders(void **state) {
    (void)state;
    return folder_remove(folder, NULL);
}

static struct model *open_kind(const struct kind *kind, struct pool *pool) {
    struct error error = {0};
    struct model *model;
    enum isa isa = ISA_REFERENCE;
    if (!kind->reference) assert_int_equal(isa_select(&isa, &error), STATUS_OK);
    const struct model_options options = {
        .use = MODEL_INFERENCE, .compute = kind->compute, .cache = kind->cache};
    if (model_open(&model, folder_of(kind->config), kernels_for(isa), pool, &options, &error))
        fail_msg("%s", error.message);
    for (int i = 0; i < 2 && kind->ring; i++) model->layers[i].attention = &ring_block;
    return model;
}

static struct engine *new_engine(struct model *model, int64_t rows) {
    struct engine *engine;
    assert_int_equal(engine_create(&engine, model, rows, NULL), STATUS_OK);
    return engine;
}

static struct sequence *new_sequence(const struct model *model, int64_t capacity) {
    struct sequence *sequence;
    assert_int_equal(sequence_create(&sequence, model, capacity, NULL), STATUS_OK);
    return sequence;
}

struct world {
    const struct kind *kind;
    struct model *model;
    struct engine *engine, *other;
    struct held { struct sequence *sequence; int text; int64_t length; } held[SEQUENCES];
    struct kept { void *bytes; size_t size; int text; int64_t length; } kept[SAVED];
    float *expected[TEXTS];          /* [LONGEST, VOCAB] of plain feeding */
    float *logits[SEQUENCES];        /* [LONGEST, VOCAB] */
    uint64_t seed, drawn;
    int passes;                      /* before the watch interrupts; negative: never */
};

static int64_t draw(struct world *world, int64_t below) {
    return (int64_t)random_below(world->seed, 5, world->drawn++, (uint64_t)below);
}

static bool count_passes(void *context, int64_t rows) {
    struct world *world = context;
    (void)rows;
    return world->passes < 0 || world->passes-- > 0;
}

static struct world world_open(const struct kind *kind, struct pool *pool, uint64_t seed) {
    struct world world = {.kind = kind, .seed = seed, .passes = -1, .model = open_kind(kind, pool)};
    struct engine *plain = new_engine(world.model, 0);
    world.engine = new_engine(world.model, 23);
    world.other = new_engine(world.model, 80);
    for (int i = 0; i < TEXTS; i++) {
        struct sequence *sequence = new_sequence(world.model, LONGEST);
        world.expected[i] = malloc(sizeof(float) * LONGEST * VOCAB);
        const struct feed feed = {sequence, texts[i], LONGEST, world.expected[i], true};
        assert_int_equal(engine_feed(plain, &feed, 1, 0, NULL), STATUS_OK);
        sequence_destroy(sequence);
    }
    engine_destroy(plain);
    for (int i = 0; i < SEQUENCES; i++) {
        world.held[i] = (struct held){.sequence = new_sequence(world.model, capacities[i]), .text = i % TEXTS};
        world.logits[i] = malloc(sizeof(float) * LONGEST * VOCAB);
    }
    return world;
}

static void world_close(struct world *world) {
    for (int i = 0; i < SEQUENCES; i++) sequence_destroy(world->held[i].sequence), free(world->logits[i]);
    for (int i = 0; i < SAVED; i++) free(world->kept[i].bytes);
    for (int i = 0; i < TEXTS; i++) free(world->expected[i]);
    engine_destroy(world->engine);
    engine_destroy(world->other);
    model_destroy(world->model);
}

/* ---- what is done ------------------------------------------------------------------------------------------------ */

/* To where it should, or, with a ring, no less than that by 4 or to the beginning. */
static void went_back(const struct world *world, int64_t wanted, int64_t length) {
    assert_true(length == wanted || (world->kind->ring && (length == 0 || length == wanted - wanted % 4)));
}

/* Feeds of so many sequences from `first` on; false where it was interrupted. */
static bool feed_held(struct world *world, int first, int count) {
    struct feed feeds[SEQUENCES];
    struct error error = {0};
    int fed[SEQUENCES], feeding = 0;
    for (int i = 0; i < count; i++) {
        const int at = (first + i) % SEQUENCES;
        struct held *held = &world->held[at];
        const int64_t room = held->sequence->capacity - held->length, wanted = 1 + draw(world, draw(world, 3) ? 4 : 60);
        if (room < 1) continue;
        fed[feeding] = at;
        feeds[feeding++] = (struct feed){held->sequence, texts[held->text] + held->length,
                                         wanted < room ? wanted : room, world->logits[at], true};
    }
    world->engine->watch = count_passes, world->engine->watch_context = world;
    const enum status status = engine_feed(world->engine, feeds, feeding, draw(world, 4) ? 0 : 7, &error);
    if (status && status != STATUS_INTERRUPTED) fail_msg("%s", error.message);
    for (int i = 0; i < feeding; i++) {
        struct held *held = &world->held[fed[i]];
        if (status) {
            went_back(world, held->length, held->sequence->length);
            held->length = held->sequence->length;
            continue;
        }
        assert_memory_equal(world->logits[fed[i]], world->expected[held->text] + held->length * VOCAB,
                            (size_t)(feeds[i].count * VOCAB) * sizeof(float));
        held->length += feeds[i].count;
    }
    return !status;
}

static void rewind_held(struct world *world, struct held *held) {
    const int64_t back = draw(world, 3) ? draw(world, REACH + 1) : draw(world, held->length + 1),
                  to = held->length > back ? held->length - back : 0;
    if (draw(world, 2)) {
        assert_int_equal(engine_rewind(world->engine, held->sequence, to, NULL), STATUS_OK);
        held->length = to;
        return;
    }
    held->length = sequence_rewind(held->sequence, to);
    went_back(world, to, held->length);
}

static void sync_held(struct world *world, struct held *held) {
    const int text = (int)draw(world, TEXTS);
    const int64_t count = 1 + draw(world, held->sequence->capacity);
    int64_t same = 0;
    while (same < held->length && same < count && texts[text][same] == texts[held->text][same]) same++;
    const int64_t from = sequence_sync(held->sequence, texts[text], count);
    went_back(world, same, from);
    const struct feed feed = {held->sequence, texts[text] + from, count - from, world->logits[0], true};
    assert_int_equal(engine_feed(world->engine, &feed, 1, 0, NULL), STATUS_OK);
    assert_memory_equal(world->logits[0], world->expected[text] + from * VOCAB,
                        (size_t)((count - from) * VOCAB) * sizeof(float));
    held->text = text, held->length = count;
}

static void save_held(struct world *world, struct held *held) {
    struct kept *kept = &world->kept[draw(world, SAVED)];
    free(kept->bytes);
    kept->size = sequence_save_bytes(held->sequence);
    kept->bytes = malloc(kept->size);
    assert_int_equal(sequence_save(held->sequence, kept->bytes, NULL), STATUS_OK);
    kept->text = held->text, kept->length = held->length;
    /* bytes know neither the capacity nor the way */
    struct sequence *plain = new_sequence(world->model, held->length + draw(world, 70));
    const struct feed feed = {plain, texts[held->text], held->length, NULL, false};
    assert_int_equal(engine_feed(world->engine, &feed, 1, 0, NULL), STATUS_OK);
    assert_int_equal(sequence_save_bytes(plain), kept->size);
    void *bytes = malloc(kept->size);
    assert_int_equal(sequence_save(plain, bytes, NULL), STATUS_OK);
    assert_memory_equal(bytes, kept->bytes, kept->size);
    free(bytes);
    sequence_destroy(plain);
}

static void load_held(struct world *world, struct held *held) {
    const struct kept *kept = &world->kept[draw(world, SAVED)];
    if (!kept->bytes) return;
    const enum status status = sequence_load(held->sequence, kept->bytes, kept->size, NULL);
    assert_int_equal(status, kept->length > held->sequence->capacity ? STATUS_INVALID : STATUS_OK);
    if (!status) held->text = kept->text, held->length = kept->length;
}

static void copy_held(struct world *world, struct held *from, struct held *to) {
    const enum status status = sequence_copy(to->sequence, from->sequence, NULL);
    assert_int_equal(status, from->length > to->sequence->capacity ? STATUS_INVALID : STATUS_OK);
    if (!status) to->text = from->text, to->length = from->length;
    (void)world;
}

/* A pass of two waits while others are fed; then it ends, or is cancelled. */
static void wait_held(struct world *world, int first) {
    struct feed feeds[2];
    struct held *held[2];
    int count = 0;
    for (int i = 0; i < 2; i++) {
        struct held *one = &world->held[(first + i) % SEQUENCES];
        const int64_t room = one->sequence->capacity - one->length, wanted = 1 + draw(world, 40);
        if (room < 1) continue;
        held[count] = one;
        feeds[count++] = (struct feed){one->sequence, texts[one->text] + one->length, wanted < room ? wanted : room,
                                       world->logits[(first + i) % SEQUENCES], true};
    }
    if (!count) return;
    assert_int_equal(engine_pass_begin(world->other, feeds, count, NULL), STATUS_OK);
    int64_t left = engine_pass_advance(world->other, draw(world, 2 * LAYERS + 1));
    feed_held(world, first + 2, 1 + (int)draw(world, 3));
    const bool cancelled = draw(world, 3) == 0;
    if (left && draw(world, 2)) left = engine_pass_advance(world->other, left);
    if (cancelled) engine_pass_cancel(world->other);
    else assert_int_equal(engine_pass_end(world->other, NULL), STATUS_OK);
    for (int i = 0; i < count; i++) {
        const int64_t before = held[i]->length, now = held[i]->sequence->length;
        held[i]->length = now;
        if (cancelled) went_back(world, before, now);
        else
            assert_memory_equal(feeds[i].logits, world->expected[held[i]->text] + before * VOCAB,
                                (size_t)(feeds[i].count * VOCAB) * sizeof(float));
    }
}

static void check_held(const struct world *world) {
    for (int i = 0; i < SEQUENCES; i++) {
        const struct held *held = &world->held[i];
        assert_int_equal(held->sequence->length, held->length);
        assert_memory_equal(held->sequence->ids, texts[held->text], (size_t)held->length * sizeof(int32_t));
    }
}

static void one_operation(struct world *world) {
    const int at = (int)draw(world, SEQUENCES);
    struct held *held = &world->held[at];
    switch (draw(world, 10)) {
    case 0: case 1: feed_held(world, at, 1); break;
    case 2: feed_held(world, at, 2 + (int)draw(world, SEQUENCES - 1)); break;   /* others join */
    case 3: rewind_held(world, held); break;
    case 4: sync_held(world, held); break;
    case 5: save_held(world, held); break;
    case 6: load_held(world, held); break;
    case 7: copy_held(world, held, &world->held[draw(world, SEQUENCES)]); break;
    case 8:   /* cancelled */
        world->passes = (int)draw(world, 3);
        feed_held(world, at, 1 + (int)draw(world, 3));
        world->passes = -1;
        break;
    case 9: wait_held(world, at); break;
    }
    check_held(world);
}

static void whatever_is_done_the_bits_are_those_of_plain_feeding(void **state) {
    (void)state;
    const char *asked = getenv("TEST_LONG"); /* tests/run.sh sets it, empty where nobody asks */
    const int operations = asked && *asked ? 10000 : 120;
    struct pool *pool;
    assert_int_equal(pool_create(&pool, 2, NULL), STATUS_OK);
    for (int k = 0; k < KINDS; k++) {
        struct world world = world_open(&kinds[k], k % 2 ? pool : NULL, (uint64_t)k);
        for (int n = 0; n < operations; n++) one_operation(&world);
        world_close(&world);
    }
    pool_destroy(pool);
}

/* ---- passes that wait -------------------------------------------------------------------------------------------- */

/* Two passes side by side, each cut after every half-layer, and tokens decoded between. */
static void a_pass_may_wait_after_every_half_layer(void **state) {
    (void)state;
    for (int k = 0; k < KINDS; k++) {
        struct world world = world_open(&kinds[k], NULL, 1);
        struct held *decoded = &world.held[4];
        const struct feed a[] = {{world.held[0].sequence, texts[0], 30, world.logits[0], true},
                                 {world.held[1].sequence, texts[1], 7, world.logits[1], true}},
                          b = {world.held[2].sequence, texts[2], 80, world.logits[2], true};
        struct engine *third = new_engine(world.model, 64);
        int waits = 0;
        assert_int_equal(engine_pass_begin(third, a, 2, NULL), STATUS_OK);
        assert_int_equal(engine_pass_begin(world.other, &b, 1, NULL), STATUS_OK);
        for (int64_t left = 1, other = 1; left || other; waits++) {
            if (left) left = engine_pass_advance(third, 1);
            const struct feed token = {decoded->sequence, texts[0] + waits, 1, world.logits[3], false};
            assert_int_equal(engine_feed(world.engine, &token, 1, 0, NULL), STATUS_OK);
            assert_memory_equal(world.logits[3], world.expected[0] + waits * VOCAB, VOCAB * sizeof(float));
            if (other && waits) other = engine_pass_advance(world.other, 1);
        }
        assert_int_equal(waits, 2 * LAYERS + 1);
        assert_int_equal(engine_pass_end(third, NULL), STATUS_OK);
        assert_int_equal(engine_pass_end(world.other, NULL), STATUS_OK);
        assert_memory_equal(world.logits[0], world.expected[0], 30 * VOCAB * sizeof(float));
        assert_memory_equal(world.logits[1], world.expected[1], 7 * VOCAB * sizeof(float));
        assert_memory_equal(world.logits[2], world.expected[2], 80 * VOCAB * sizeof(float));
        assert_int_equal(world.held[2].sequence->length, 80);
        engine_destroy(third);
        world_close(&world);
    }
}

/* ---- what is refused --------------------------------------------------------------------------------------------- */

static void refused(struct sequence *sequence, const void *bytes, size_t size, const char *part) {
    struct error error = {0};
    const int64_t length = sequence->length;
    assert_int_equal(sequence_load(sequence, bytes, size, &error), STATUS_INVALID);
    if (!strstr(error.message, part)) fail_msg("found: %s", error.message);
    assert_int_equal(sequence->length, length);
}

static void damaged_bytes_change_nothing(void **state) {
    (void)state;
    struct model *model = open_kind(&kinds[0], NULL), *latent = open_kind(&kinds[3], NULL),
                 *coarse = open_kind(&kinds[1], NULL);
    struct engine *engine = new_engine(model, 0);
    struct sequence *a = new_sequence(model, 40), *b = new_sequence(model, 20), *small = new_sequence(model, 10),
                    *other = new_sequence(latent, 40), *rounded = new_sequence(coarse, 40);
    float before[VOCAB], after[VOCAB];
    const struct feed feeds[2] = {{a, texts[0], 12, before, false}, {b, texts[1], 12, NULL, false}};
    assert_int_equal(engine_feed(engine, feeds, 2, 0, NULL), STATUS_OK);
    const size_t size = sequence_save_bytes(a);
    char *bytes = malloc(size + 1);
    assert_int_equal(sequence_save(a, bytes, NULL), STATUS_OK);
    refused(b, bytes, 20, "20 bytes that do not begin as one does, expected DSSTATE1");
    refused(b, bytes, size - 1, "as it says itself");
    refused(b, bytes, size + 1, "as it says itself");
    for (size_t at = 0; at < size; at += at < 300 ? 1 : 97) {
        bytes[at] ^= 4;
        refused(b, bytes, size, at < 8 ? "do not begin" : at >= 16 && at < 24 ? "as it says itself" : "damaged");
        bytes[at] ^= 4;
    }
    refused(small, bytes, size, "found 12 tokens, expected 0 to 10 (the capacity)");
    refused(other, bytes, size, "another model, compute type, cache type or instruction set");
    refused(rounded, bytes, size, "another model, compute type");

    struct error error = {0};
    assert_int_equal(sequence_copy(small, a, &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "copying a sequence of 12 tokens: found room for 10"));
    assert_int_equal(sequence_copy(other, a, &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "another model"));
    /* b has what it had, and takes what is whole */
    assert_int_equal(b->length, 12);
    assert_int_equal(sequence_load(b, bytes, size, NULL), STATUS_OK);
    const struct feed last = {b, texts[0] + 11, 1, after, false};
    assert_int_equal(sequence_rewind(b, 11), 11);
    assert_int_equal(engine_feed(engine, &last, 1, 0, NULL), STATUS_OK);
    assert_memory_equal(before, after, sizeof before);
    free(bytes);
    sequence_destroy(a), sequence_destroy(b), sequence_destroy(small), sequence_destroy(other);
    sequence_destroy(rounded);
    engine_destroy(engine);
    model_destroy(model), model_destroy(latent), model_destroy(coarse);
}

static void while_a_pass_waits_nobody_else_uses_its_sequences(void **state) {
    (void)state;
    struct world world = world_open(&kinds[0], NULL, 1);
    struct sequence *a = world.held[0].sequence, *b = world.held[1].sequence;
    const struct feed feeds[] = {{a, texts[0], 30, NULL, false}, {b, texts[0], 60, NULL, false}};
    const struct feed none = {b, texts[0], 0, NULL, false};
    struct error error = {0};
    char bytes[1 << 16];
    assert_int_equal(engine_pass_begin(world.other, feeds, 2, &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "a pass of 90 rows, expected 1 to 80"));
    assert_int_equal(engine_pass_begin(world.other, &none, 1, &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "a pass of 0 rows"));
    assert_int_equal(engine_pass_begin(world.other, feeds, 1, NULL), STATUS_OK);
    assert_int_equal(engine_pass_advance(world.other, 2), 2 * LAYERS - 2);
    assert_int_equal(a->length, 0);
    assert_int_equal(engine_feed(world.other, feeds + 1, 1, 0, &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "the engine has a pass that has not ended"));
    assert_int_equal(engine_feed(world.engine, feeds, 1, 0, &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "feed 0: the same sequence is in another feed, or in a pass"));
    assert_int_equal(sequence_copy(b, a, &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "copying a sequence: a pass that has not ended computes it from token 0 on"));
    assert_int_equal(sequence_copy(a, b, &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "copying to a sequence"));
    const int64_t known = a->known;
    assert_int_equal(sequence_save_bytes(a), sequence_save_bytes(world.held[2].sequence));   /* of no tokens */
    assert_int_equal(a->known, known);
    assert_int_equal(sequence_save(a, bytes, &error), STATUS_INVALID);
    engine_pass_cancel(world.other);
    engine_pass_cancel(world.other);
    assert_int_equal(engine_feed(world.engine, feeds, 2, 0, NULL), STATUS_OK);
    world_close(&world);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whatever_is_done_the_bits_are_those_of_plain_feeding),
        cmocka_unit_test(a_pass_may_wait_after_every_half_layer),
        cmocka_unit_test(while_a_pass_waits_nobody_else_uses_its_sequences),
        cmocka_unit_test(damaged_bytes_change_nothing),
    };
    return cmocka_run_group_tests(tests, make_folders, remove_folders);
}
