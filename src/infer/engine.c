/* The engine: feeds many sequences through the model in ragged passes (infer.h). */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "infer/draft.h"

/* What a pass takes from one feed: tokens [start, start + count) of it. */
struct feed_piece { int feed; int64_t start, count; };

/* Rows of logits that go through staging at a time. So many rows read the output head once, as one row would. */
#define STAGING_ROWS 64

enum status engine_create(struct engine **out, struct model *model, int64_t max_rows, struct error *error) {
    struct engine *engine = calloc(1, sizeof *engine);
    if (!engine) return error_set(error, STATUS_NO_MEMORY, "no memory for an engine");
    engine->model = model;
    engine->max_rows = max_rows > 0 ? max_rows : model->expanded_prefill ? ENGINE_EXPANDED_ROWS : ENGINE_DEFAULT_ROWS;
    size_t rows = (size_t)engine->max_rows;
    engine->spans = calloc(rows, sizeof *engine->spans);
    engine->pieces = calloc(rows, sizeof *engine->pieces);
    engine->ids = calloc(rows, sizeof *engine->ids);
    engine->logit_rows = calloc(rows + STAGING_ROWS, sizeof *engine->logit_rows);
    graph_init(&engine->graph, model->kernels, model->pool, &engine->memory, model->compute, false, false);
    if (!engine->spans || !engine->pieces || !engine->ids || !engine->logit_rows) {
        engine_destroy(engine);
        return error_set(error, STATUS_NO_MEMORY, "no memory for an engine of %lld rows", (long long)max_rows);
    }
    *out = engine;
    return STATUS_OK;
}

void engine_destroy(struct engine *engine) {
    if (!engine) return;
    draft_destroy(engine);
    graph_destroy(&engine->graph);
    memory_destroy(&engine->memory);
    arena_free(&engine->arena);
    free(engine->spans);
    free(engine->pieces);
    free(engine->ids);
    free(engine->logit_rows);
    free(engine->staging);
    free(engine);
}

static int compare_addresses(const void *a, const void *b) {
    uintptr_t x = (uintptr_t)*(struct sequence *const *)a, y = (uintptr_t)*(struct sequence *const *)b;
    return (x > y) - (x < y);
}

/* A sequence grows at one end only, so it may stand in one feed only. */
static enum status check_distinct(struct engine *engine, const struct feed *feeds, int count, struct error *error) {
    if (count < 2) return STATUS_OK;
    struct sequence **sorted = arena_alloc(&engine->arena, (size_t)count * sizeof *sorted);
    if (!sorted) return error_set(error, STATUS_NO_MEMORY, "no memory for %d feeds", count);
    for (int i = 0; i < count; i++) sorted[i] = feeds[i].sequence;
    qsort(sorted, (size_t)count, sizeof *sorted, compare_addresses);
    for (int i = 1; i < count; i++)
        if (sorted[i] == sorted[i - 1])
            return error_set(error, STATUS_INVALID, "two of the %d feeds have the same sequence", count);
    return STATUS_OK;
}

static enum status check_feeds(struct engine *engine, const struct feed *feeds, int count, struct error *error) {
    int64_t vocab = engine->model->config.vocab_size;
    for (int i = 0; i < count; i++) {
        const struct feed *feed = &feeds[i];
        if (!feed->sequence || feed->sequence->model != engine->model)
            return error_set(error, STATUS_INVALID, "feed %d: its sequence belongs to another model", i);
        if (feed->sequence->written != feed->sequence->length)
            return error_set(error, STATUS_INVALID, "feed %d: its sequence is in a pass that has not ended", i);
        if (feed->count < 0 || feed->count > feed->sequence->capacity - feed->sequence->length)
            return error_set(
                error, STATUS_INVALID,
                "feed %d: %lld new tokens after %lld, expected at most %lld in all (the sequence's capacity)", i,
                (long long)feed->count, (long long)feed->sequence->length, (long long)feed->sequence->capacity);
        for (int64_t t = 0; t < feed->count; t++)
            if (feed->ids[t] < 0 || feed->ids[t] >= vocab)
                return error_set(error, STATUS_INVALID, "feed %d: token %lld has id %d, expected 0 to %lld", i,
                                 (long long)t, feed->ids[t], (long long)vocab - 1);
    }
    return check_distinct(engine, feeds, count, error);
}

/* How many logits rows of this piece are wanted, and from which token of the piece on. */
static int64_t wanted_logits(const struct feed *feed, const struct feed_piece *piece, int64_t *first) {
    *first = 0;
    if (!feed->logits) return 0;
    if (feed->every_logit) return piece->count;
    *first = piece->count - 1;
    return piece->start + piece->count == feed->count;
}

static float *logit_destination(const struct feed *feed, int64_t token, int64_t vocab) {
    return feed->every_logit ? feed->logits + token * vocab : feed->logits;
}

/* Step memory for a pass with this many rows and logits whose tokens end at `position`. A later pass that needs more
 * makes it grow. */
static enum status ensure_memory(struct engine *engine, int64_t rows, int64_t position, int64_t logits,
                                 struct error *error) {
    int64_t vocab = engine->model->config.vocab_size;
    if (rows > engine->planned_rows || position > engine->planned_position || logits > engine->planned_logits) {
        int64_t until = 1024;   /* doubling, so that decoding does not plan anew at every token */
        while (until < position) until *= 2;
        if (rows > engine->planned_rows) engine->planned_rows = rows;
        if (until > engine->planned_position) engine->planned_position = until;
        if (logits > engine->planned_logits) engine->planned_logits = logits;
        size_t bytes = model_plan_inference(engine->model, engine->planned_rows, engine->planned_rows,
                                            engine->planned_position, engine->planned_logits);
        if (bytes > engine->memory.capacity || !engine->memory.base) {
            graph_reset(&engine->graph);
            memory_destroy(&engine->memory);
            enum status status = bytes ? memory_create(&engine->memory, bytes, error)
                                       : error_set(error, STATUS_NO_MEMORY, "no memory to plan a pass");
            if (status) {
                engine->planned_rows = engine->planned_position = engine->planned_logits = 0;
                return status;
            }
        }
    }
    int64_t staged = logits < STAGING_ROWS ? logits : STAGING_ROWS;
    if (staged <= engine->staging_rows) return STATUS_OK;
    float *staging = realloc(engine->staging, (size_t)(staged * vocab) * sizeof *staging);
    if (!staging) return error_set(error, STATUS_NO_MEMORY, "no memory for %lld rows of logits", (long long)staged);
    engine->staging = staging;
    engine->staging_rows = staged;
    return STATUS_OK;
}

static void staged_logits(struct engine *engine, struct tensor *h, int64_t count, float *const *destinations) {
    int64_t vocab = engine->model->config.vocab_size;
    op_logits(&engine->graph, h, engine->model->head, engine->logit_rows, count, engine->staging);
    if (engine->graph.status) return;
    for (int64_t r = 0; r < count; r++)
        memcpy(destinations[r], engine->staging + r * vocab, (size_t)vocab * sizeof(float));
}

/* The logits that the pass owes its feeds. Long rows of one feed go straight to their place; the others are computed
 * together and copied, so that a batch of decoding sequences reads the output head once. */
static void pass_logits(struct engine *engine, const struct feed *feeds, int piece_count, struct tensor *h) {
    int64_t vocab = engine->model->config.vocab_size, first;
    int32_t *rows = engine->logit_rows;
    float *destinations[STAGING_ROWS];
    int64_t staged = 0;
    for (int i = 0; i <= piece_count; i++) {
        const struct feed_piece *piece = &engine->pieces[i];
        int64_t wanted = i < piece_count ? wanted_logits(&feeds[piece->feed], piece, &first) : 0;
        if (wanted >= STAGING_ROWS) {
            for (int64_t t = 0; t < wanted; t++) rows[STAGING_ROWS + t] = (int32_t)(engine->spans[i].row + first + t);
            op_logits(&engine->graph, h, engine->model->head, rows + STAGING_ROWS, wanted,
                      logit_destination(&feeds[piece->feed], piece->start + first, vocab));
            wanted = 0;
        }
        for (int64_t t = 0; t < wanted; t++) {
            rows[staged] = (int32_t)(engine->spans[i].row + first + t);
            destinations[staged++] = logit_destination(&feeds[piece->feed], piece->start + first + t, vocab);
            if (staged < STAGING_ROWS) continue;
            staged_logits(engine, h, staged, destinations);
            staged = 0;
        }
    }
    if (staged) staged_logits(engine, h, staged, destinations);
}

static enum status run_pass(struct engine *engine, const struct feed *feeds, int piece_count, struct error *error) {
    int64_t rows = 0, position = 0, logits = 0, first;
    for (int i = 0; i < piece_count; i++) {
        const struct feed_piece *piece = &engine->pieces[i];
        const struct feed *feed = &feeds[piece->feed];
        engine->spans[i] = (struct span){ feed->sequence, rows, piece->count, feed->sequence->length };
        memcpy(engine->ids + rows, feed->ids + piece->start, (size_t)piece->count * sizeof *engine->ids);
        rows += piece->count;
        if (feed->sequence->length + piece->count > position) position = feed->sequence->length + piece->count;
        logits += wanted_logits(feed, piece, &first);
    }
    enum status status = model_sound(engine->model, error);
    if (!status) status = ensure_memory(engine, rows, position, logits, error);
    if (status) return status;
    const double began = clock_seconds();
    const struct batch batch = { engine->ids, rows, engine->spans, piece_count };
    graph_reset(&engine->graph);
    struct tensor *h = model_forward(&engine->graph, engine->model, &batch);
    if (!engine->graph.status) pass_logits(engine, feeds, piece_count, h);
    if (!engine->graph.status && (status = draft_keep(engine, piece_count, h, error))) return status;
    if (!engine->graph.status && engine->forwarded)
        engine->forwarded(engine->forwarded_context, &engine->graph, h, &batch);
    status = engine->graph.status;
    const bool told = engine->graph.error.code != STATUS_OK;   /* an expert could not be read */
    if (told && error) *error = engine->graph.error;
    graph_reset(&engine->graph);
    if (told) return status;
    if (status)
        return error_set(error, status, "no memory for a pass of %lld tokens beyond the %zu bytes that were planned",
                         (long long)rows, engine->memory.capacity);
    model_pack_behind(engine->model, clock_seconds() - began);
    if ((status = draft_fill(engine, error))) return status;
    if (engine->watch && !engine->watch(engine->watch_context, rows))
        return error_set(error, STATUS_INTERRUPTED, "interrupted");
    return STATUS_OK;
}

enum status engine_feed(struct engine *engine, const struct feed *feeds, int count, int64_t chunk,
                        struct error *error) {
    arena_reset(&engine->arena);
    enum status status = check_feeds(engine, feeds, count, error);
    if (status || count == 0) return status;
    struct progress {
        int64_t start, done, goal;
    } *progress = arena_alloc(&engine->arena, (size_t)count * sizeof *progress);
    if (!progress) return error_set(error, STATUS_NO_MEMORY, "no memory for %d feeds", count);
    for (int i = 0; i < count; i++) progress[i].start = feeds[i].sequence->length;

    for (bool more = true; more && !status;) {
        /* a round: each sequence up to its next multiple of `chunk` */
        more = false;
        for (int i = 0; i < count; i++) {
            int64_t position = progress[i].start + progress[i].done, left = feeds[i].count - progress[i].done;
            int64_t piece = chunk > 0 && chunk - position % chunk < left ? chunk - position % chunk : left;
            progress[i].goal = progress[i].done + piece;
            if (piece < left) more = true;
        }
        /* in passes of at most max_rows */
        int pieces = 0;
        int64_t rows = 0;
        for (int i = 0; i < count && !status;) {
            int64_t room = engine->max_rows - rows, left = progress[i].goal - progress[i].done,
                    taken = left < room ? left : room;
            if (taken > 0) {
                engine->pieces[pieces++] = (struct feed_piece){ i, progress[i].done, taken };
                progress[i].done += taken;
                rows += taken;
            }
            bool finished = progress[i].done == progress[i].goal;
            if (finished) i++;
            if (rows == engine->max_rows || (i == count && pieces)) {
                status = run_pass(engine, feeds, pieces, error);
                pieces = 0, rows = 0;
            }
        }
    }
    if (status)   /* nothing half done */
        for (int i = 0; i < count; i++) sequence_rewind(feeds[i].sequence, progress[i].start);
    return status;
}

enum status engine_rewind(struct engine *engine, struct sequence *sequence, int64_t length, struct error *error) {
    const int64_t reach = sequence_rewind(sequence, length);
    const struct feed again = {.sequence = sequence, .ids = sequence->ids + reach, .count = length - reach};
    return reach < length ? engine_feed(engine, &again, 1, 0, error) : STATUS_OK;
}
