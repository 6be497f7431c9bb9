/* The engine: feeds many sequences through the model in ragged passes (infer.h). */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "infer/draft.h"

enum status engine_create(struct engine **out, struct model *model, int64_t max_rows, struct error *error) {
    struct engine *engine = calloc(1, sizeof *engine);
    if (!engine) return error_set(error, STATUS_NO_MEMORY, "no memory for an engine");
    engine->model = model;
    engine->max_rows = max_rows > 0 ? max_rows : model->expanded_prefill ? ENGINE_EXPANDED_ROWS : ENGINE_DEFAULT_ROWS;
    size_t rows = (size_t)engine->max_rows;
    engine->spans = calloc(rows, sizeof *engine->spans);
    engine->feeds = calloc(rows, sizeof *engine->feeds);
    engine->ids = calloc(rows, sizeof *engine->ids);
    engine->logit_rows = calloc(rows + STAGING_ROWS, sizeof *engine->logit_rows);
    graph_init(&engine->graph, model->kernels, model->pool, &engine->memory, model->compute, false, false);
    if (!engine->spans || !engine->feeds || !engine->ids || !engine->logit_rows) {
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
    free(engine->feeds);
    free(engine->ids);
    free(engine->logit_rows);
    free(engine->staging);
    free(engine);
}

static enum status check_feed(const struct engine *engine, const struct feed *feed, int i, struct error *error) {
    const struct sequence *sequence = feed->sequence;
    const int64_t vocab = engine->model->config.vocab_size;
    if (!sequence || sequence->model != engine->model)
        return error_set(error, STATUS_INVALID, "feed %d: its sequence belongs to another model", i);
    if (sequence->written != sequence->length)
        return error_set(error, STATUS_INVALID,
                         "feed %d: the same sequence is in another feed, or in a pass that has not ended", i);
    if (feed->count < 0 || feed->count > sequence->capacity - sequence->length)
        return error_set(error, STATUS_INVALID,
                         "feed %d: %lld new tokens after %lld, expected at most %lld in all (the sequence's capacity)",
                         i, (long long)feed->count, (long long)sequence->length, (long long)sequence->capacity);
    for (int64_t t = 0; t < feed->count; t++)
        if (feed->ids[t] < 0 || feed->ids[t] >= vocab)
            return error_set(error, STATUS_INVALID, "feed %d: token %lld has id %d, expected 0 to %lld", i,
                             (long long)t, feed->ids[t], (long long)vocab - 1);
    return STATUS_OK;
}

/* A sequence grows at one end only, so it may stand in one feed only: marked as in a pass meanwhile. */
static enum status check_feeds(struct engine *engine, const struct feed *feeds, int count, struct error *error) {
    enum status status = STATUS_OK;
    int checked = 0;
    if (engine->pass.graph) return error_set(error, STATUS_INVALID, "the engine has a pass that has not ended");
    for (; checked < count && !(status = check_feed(engine, &feeds[checked], checked, error)); checked++)
        feeds[checked].sequence->written++;
    while (checked > 0) feeds[--checked].sequence->written--;
    return status;
}

/* How many rows of logits a feed wants of its pass, and from which token on. */
static int64_t wanted_logits(const struct feed *feed, int64_t *first) {
    *first = feed->every_logit ? 0 : feed->count - 1;
    return feed->logits ? feed->count - *first : 0;
}

/* Step memory for a pass with this many rows and logits whose tokens end at `position`. A later pass that needs more
 * makes it grow. */
static enum status ensure_memory(struct engine *engine, int64_t rows, int64_t position, int64_t logits,
                                 struct error *error) {
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
    return engine_stage(engine, logits, error);
}

enum status engine_stage(struct engine *engine, int64_t rows, struct error *error) {
    const int64_t staged = rows < STAGING_ROWS ? rows : STAGING_ROWS;
    if (staged <= engine->staging_rows) return STATUS_OK;
    float *staging = realloc(engine->staging,
                             (size_t)(staged * engine->model->config.vocab_size) * sizeof *staging);
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
static void pass_logits(struct engine *engine, struct tensor *h) {
    int64_t vocab = engine->model->config.vocab_size, first = 0, staged = 0;
    int32_t *rows = engine->logit_rows;
    float *destinations[STAGING_ROWS];
    for (int i = 0; i < engine->batch.span_count; i++) {
        const struct feed *feed = &engine->feeds[i];
        int64_t wanted = wanted_logits(feed, &first), row = engine->spans[i].row + first;
        if (wanted >= STAGING_ROWS) {
            for (int64_t t = 0; t < wanted; t++) rows[STAGING_ROWS + t] = (int32_t)(row + t);
            op_logits(&engine->graph, h, engine->model->head, rows + STAGING_ROWS, wanted, feed->logits);
            wanted = 0;
        }
        for (int64_t t = 0; t < wanted; t++) {
            rows[staged] = (int32_t)(row + t);
            destinations[staged++] = feed->logits + t * vocab;
            if (staged < STAGING_ROWS) continue;
            staged_logits(engine, h, staged, destinations);
            staged = 0;
        }
    }
    if (staged) staged_logits(engine, h, staged, destinations);
}

/* ---- a pass ------------------------------------------------------------------------------------------------------ */

/* Over the first `count` of engine->feeds, each with a row at least. */
static enum status begin_pass(struct engine *engine, int count, struct error *error) {
    int64_t rows = 0, position = 0, logits = 0, first;
    for (int i = 0; i < count; i++) {
        const struct feed *feed = &engine->feeds[i];
        const int64_t length = feed->sequence->length;
        engine->spans[i] = (struct span){
            .sequence = feed->sequence, .row = rows, .count = feed->count, .position = length};
        memcpy(engine->ids + rows, feed->ids, (size_t)feed->count * sizeof *engine->ids);
        rows += feed->count;
        if (length + feed->count > position) position = length + feed->count;
        logits += wanted_logits(feed, &first);
    }
    enum status status = model_sound(engine->model, error);
    if (!status) status = ensure_memory(engine, rows, position, logits, error);
    if (status) return status;
    const double began = clock_seconds();
    engine->batch = (struct batch){ engine->ids, rows, engine->spans, count };
    graph_reset(&engine->graph);
    model_begin(&engine->pass, &engine->graph, engine->model, &engine->batch, NULL);
    engine->seconds = clock_seconds() - began;
    return STATUS_OK;
}

enum status engine_pass_begin(struct engine *engine, const struct feed *feeds, int count, struct error *error) {
    enum status status = check_feeds(engine, feeds, count, error);
    int64_t rows = 0;
    int begun = 0;
    for (int i = 0; i < count && !status; i++) {
        rows += feeds[i].count;
        if (rows <= engine->max_rows && feeds[i].count) engine->feeds[begun++] = feeds[i];
    }
    if (!status && (rows < 1 || rows > engine->max_rows))
        status = error_set(error, STATUS_INVALID, "a pass of %lld rows, expected 1 to %lld", (long long)rows,
                           (long long)engine->max_rows);
    return status ? status : begin_pass(engine, begun, error);
}

int64_t engine_pass_advance(struct engine *engine, int64_t half_layers) {
    const double began = clock_seconds();
    const int64_t left = model_advance(&engine->pass, half_layers);
    engine->seconds += clock_seconds() - began;
    return left;
}

void engine_pass_cancel(struct engine *engine) {
    if (!engine->pass.graph) return;
    graph_reset(&engine->graph);
    engine->pass.graph = NULL;
    for (int i = 0; i < engine->batch.span_count; i++)
        sequence_rewind(engine->spans[i].sequence, engine->spans[i].position);
}

enum status engine_pass_end(struct engine *engine, struct error *error) {
    struct graph *graph = &engine->graph;
    enum status status = STATUS_OK;
    engine_pass_advance(engine, INT64_MAX);
    const double began = clock_seconds();
    struct tensor *h = model_end(&engine->pass);
    if (!graph->status) pass_logits(engine, h);
    if (!graph->status) status = draft_keep(engine, h, error);
    if (!graph->status && !status && engine->forwarded)
        engine->forwarded(engine->forwarded_context, graph, h, &engine->batch);
    if (graph->status) {
        status = graph->status;
        if (graph->error.code == STATUS_OK)
            error_set(error, status, "no memory for a pass of %lld tokens beyond the %zu bytes that were planned",
                      (long long)engine->batch.rows, engine->memory.capacity);
        else if (error) *error = graph->error;   /* an expert could not be read */
    }
    if (!status) {
        graph_reset(graph);
        model_pack_behind(engine->model, engine->seconds + clock_seconds() - began);
        status = draft_fill(engine, error);
    }
    if (status) engine_pass_cancel(engine);
    engine->pass.graph = NULL;
    return status;
}

/* ---- feeds ------------------------------------------------------------------------------------------------------- */

/* Tokens [start, start + count) of a feed, as a feed of one pass. */
static struct feed part_of(const struct feed *feed, int64_t start, int64_t count, int64_t vocab) {
    struct feed part = { feed->sequence, feed->ids + start, count, feed->logits, feed->every_logit };
    if (feed->logits && feed->every_logit) part.logits += start * vocab;
    else if (start + count < feed->count) part.logits = NULL;
    return part;
}

static enum status run_pass(struct engine *engine, int count, struct error *error) {
    enum status status = begin_pass(engine, count, error);
    if (!status) status = engine_pass_end(engine, error);
    if (!status && engine->watch && !engine->watch(engine->watch_context, engine->batch.rows))
        status = error_set(error, STATUS_INTERRUPTED, "interrupted");
    return status;
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
        int parts = 0;
        int64_t rows = 0;
        for (int i = 0; i < count && !status;) {
            int64_t room = engine->max_rows - rows, left = progress[i].goal - progress[i].done,
                    taken = left < room ? left : room;
            if (taken > 0) {
                engine->feeds[parts++] = part_of(&feeds[i], progress[i].done, taken, engine->model->config.vocab_size);
                progress[i].done += taken;
                rows += taken;
            }
            bool finished = progress[i].done == progress[i].goal;
            if (finished) i++;
            if (rows == engine->max_rows || (i == count && parts)) {
                status = run_pass(engine, parts, error);
                parts = 0, rows = 0;
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
