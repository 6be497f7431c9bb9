/* Drafting: the state of the MTP modules beside the trunk's (infer.h; spec/v1-v3.md section 2.10).
 *
 * Records (struct mtp_rows, model/sequence.h) describe the ids that a sequence knows, its own and perhaps some behind
 * them that were only drafted. Module k's row i belongs to the ids up to i + k. A new id is compared with the one in
 * its place: where they differ, all that belongs to the old one is forgotten. So a refused draft, a rewind and another
 * turn of a conversation need no code of their own, and what a module attends to is always what it would have seen in
 * one piece. Where inputs are missing (the sequence was rewound far, or fed by others) a module begins anew with the
 * first row whose input is there; positions are relative, so its rows stand from slot 0 on again. */
#include "infer/draft.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "model/blocks.h"

#define FILL_ROWS (MTP_ROWS / 2)   /* more due rows than this are computed behind the pass that made them due */
/* so many rows of all texts at least, before a module that need not be complete leaves some out */
#define DUE_ROWS 64

/* One sequence's part of a module's pass: rows first..first+count-1, which stand at `row` of the pass. */
struct module_span { struct sequence *sequence; int index; int64_t first, count, row; };

struct draft_buffers {
    uint8_t *rows[2];                /* [capacity] inputs of a module's pass; outputs of the one before */
    int64_t capacity, spans_capacity;
    struct module_span *work[2];     /* the same two */
    struct span *spans;
    int32_t *ids;                    /* [capacity] */
    int pending;                     /* spans of work[0] that draft_fill computes */
};

/* ---- settings ---------------------------------------------------------------------------------------------------- */

enum status engine_set_draft(struct engine *engine, enum draft_mode mode, int depths, struct error *error) {
    const struct model *model = engine->model;
    const int modules = model->mtp ? (int)model->config.num_nextn_predict_layers : 0;
    const bool able = modules > 0 && !model->expanded_prefill;
    if (mode == DRAFT_ALWAYS && !modules)
        return error_set(error, STATUS_UNSUPPORTED,
                         "drafting: the model has no MTP modules (num_nextn_predict_layers)");
    if (mode == DRAFT_ALWAYS && !able)
        return error_set(error, STATUS_UNSUPPORTED,
                         "drafting: with expanded prefill, passes of several tokens have other bits than those of one");
    if (depths < 0 || (able && depths > modules))
        return error_set(error, STATUS_INVALID,
                         "drafting: found %d depths, expected 0 (all) to %d (num_nextn_predict_layers)", depths,
                         modules);
    draft_policy_begin(&engine->policy, able ? mode : DRAFT_OFF, depths ? depths : modules);
    struct config_sizes sizes;
    config_sizes(&model->config, &sizes);
    /* A prompt's rows of the modules cost as much of its time as they are of the weights. */
    engine->fills_modules = engine->policy.mode != DRAFT_OFF &&
                            (mode == DRAFT_ALWAYS || 50 * sizes.mtp_parameters <= sizes.parameters);
    return STATUS_OK;
}

void draft_destroy(struct engine *engine) {
    struct draft_buffers *buffers = engine->buffers;
    if (!buffers) return;
    for (int i = 0; i < 2; i++) {
        free(buffers->rows[i]);
        free(buffers->work[i]);
    }
    free(buffers->spans);
    free(buffers->ids);
    free(buffers);
    engine->buffers = NULL;
}

static bool grow(void *pointer, size_t bytes) {
    void *larger = realloc(*(void **)pointer, bytes);
    if (larger) *(void **)pointer = larger;
    return larger != NULL;
}

static enum status reserve(struct engine *engine, int64_t spans, int64_t rows, struct error *error) {
    struct draft_buffers *buffers = engine->buffers ? engine->buffers : (engine->buffers = calloc(1, sizeof *buffers));
    bool complete = buffers != NULL;
    if (complete && spans > buffers->spans_capacity) {
        for (int i = 0; i < 2; i++)
            complete = complete && grow(&buffers->work[i], (size_t)spans * sizeof *buffers->work[i]);
        complete = complete && grow(&buffers->spans, (size_t)spans * sizeof *buffers->spans);
        if (complete) buffers->spans_capacity = spans;
    }
    if (complete && rows > buffers->capacity) {
        for (int i = 0; i < 2; i++)
            complete = complete && grow(&buffers->rows[i], (size_t)rows * mtp_row_bytes(engine->model));
        complete = complete && grow(&buffers->ids, (size_t)rows * sizeof *buffers->ids);
        if (complete) buffers->capacity = rows;
    }
    return complete ? STATUS_OK
                    : error_set(error, STATUS_NO_MEMORY, "no memory for %lld rows of drafting", (long long)rows);
}

/* ---- the record of a sequence ------------------------------------------------------------------------------------ */

/* The input h^{depth-1} of row `row`, in memory that the caller fills. */
static void *put_input(struct sequence *sequence, int depth, int64_t row) {
    struct mtp_rows *rows = &sequence->mtp[depth - 1];
    if (row < rows->first || row > rows->end) rows->first = rows->end = row;
    if (row == rows->end) rows->end = row + 1;
    if (rows->end - rows->first > MTP_ROWS) rows->first = rows->end - MTP_ROWS;
    return sequence_mtp_input(sequence, depth, row);
}

/* Copies the last of `span`'s rows, which `source` has, to the record as inputs of a
 * depth, if there is such a module. */
static void put_inputs(const struct model *model, const struct module_span *span, int depth, const uint8_t *source) {
    const size_t bytes = mtp_row_bytes(model);
    if (depth > model->config.num_nextn_predict_layers) return;
    for (int64_t i = span->count > MTP_ROWS ? span->count - MTP_ROWS : 0; i < span->count; i++)
        memcpy(put_input(span->sequence, depth, span->first + i), source + (size_t)(span->row + i) * bytes, bytes);
}

/* The rows of a depth that are due up to `goal`: from which one on? Inputs come from `fresh` (rows that a pass just
 * made; count 0: none) and the record; more than `most` rows are not waited for. -1: none can be computed. */
static int64_t first_due(struct sequence *sequence, int depth, int64_t goal, const struct module_span *fresh,
                         int64_t most) {
    struct mtp_rows *rows = &sequence->mtp[depth - 1];
    int64_t first = rows->first, end = rows->end;   /* of the inputs there are */
    if (fresh->count) {
        if (first == end || first > fresh->first || end < fresh->first) first = fresh->first;
        end = fresh->first + fresh->count;
    }
    if (first >= goal || end < goal) return -1;
    if (first < goal - most) first = goal - most;
    /* the last row is what drafts */
    if (rows->length >= goal) sequence_mtp_rewind(sequence, depth, goal - 1);
    if (rows->length < first || rows->length == rows->base) sequence_mtp_begin(sequence, depth, first);   /* anew */
    return rows->length;
}

/* Puts a span's rows behind the others of a module's pass: inputs and ids. */
static void gather(struct engine *engine, struct module_span *span, int depth, const struct module_span *fresh,
                   const uint8_t *source, uint8_t *inputs) {
    const size_t bytes = mtp_row_bytes(engine->model);
    for (int64_t i = 0; i < span->count; i++) {
        const int64_t row = span->first + i;
        const void *input = fresh->count && row >= fresh->first
                                ? source + (size_t)(fresh->row + row - fresh->first) * bytes
                                : sequence_mtp_input(span->sequence, depth, row);
        memcpy(inputs + (size_t)(span->row + i) * bytes, input, bytes);
        engine->buffers->ids[span->row + i] = span->sequence->ids[row + depth];
    }
}

/* ---- a module's pass --------------------------------------------------------------------------------------------- */

struct chooser {
    struct draft *drafts;
    int32_t (*choose)(void *context, int index, struct draft *draft, const float *logits);
    void *context;
};

/* The logits of each span's last row, to whoever chooses. */
static enum status choose_drafts(struct engine *engine, const struct module_span *work, int count, struct tensor *h,
                                 const struct chooser *chooser, struct error *error) {
    const int64_t vocab = engine->model->config.vocab_size;
    enum status status = engine_stage(engine, count, error);
    for (int from = 0; from < count && !status; from += STAGING_ROWS) {
        const int part = count - from < STAGING_ROWS ? count - from : STAGING_ROWS;
        for (int i = 0; i < part; i++)
            engine->logit_rows[i] = (int32_t)(work[from + i].row + work[from + i].count - 1);
        op_logits(&engine->graph, h, engine->model->head, engine->logit_rows, part, engine->staging);
        for (int i = 0; i < part && !engine->graph.status; i++) {
            struct draft *draft = &chooser->drafts[work[from + i].index];
            const int32_t id = chooser->choose(chooser->context, work[from + i].index, draft,
                                               engine->staging + i * vocab);
            draft->ids[draft->count++] = id;
            sequence_note(draft->sequence, draft->sequence->length + draft->count, id);
        }
    }
    return status;
}

/* Rows of one module, those of all spans together: inputs are replaced by outputs. `chooser` NULL: only the state is
 * wanted. */
static enum status run_module(struct engine *engine, int depth, const struct module_span *work, int count,
                              uint8_t *rows, const struct chooser *chooser, struct error *error) {
    struct draft_buffers *buffers = engine->buffers;
    struct model *model = engine->model;
    const int64_t total = work[count - 1].row + work[count - 1].count;
    for (int i = 0; i < count; i++) {
        struct mtp_rows *own = &work[i].sequence->mtp[depth - 1];
        buffers->spans[i] = (struct span){.sequence = work[i].sequence,
                                          .row = work[i].row,
                                          .count = work[i].count,
                                          .position = work[i].first - own->base};
        own->length = work[i].first + work[i].count;
    }
    const double began = clock_seconds();
    const struct batch batch = { buffers->ids, total, buffers->spans, count };
    enum status status = STATUS_OK;
    graph_reset(&engine->graph);
    struct tensor *inputs = mtp_rows(&engine->graph, engine->model, rows, total);
    struct tensor *h = engine->graph.status ? NULL : model_forward_mtp(&engine->graph, model, depth, inputs, &batch);
    if (!engine->graph.status) {
        memcpy(rows, h->data, (size_t)total * mtp_row_bytes(model));
        if (chooser) status = choose_drafts(engine, work, count, h, chooser, error);
    }
    if (engine->graph.status) {
        status = engine->graph.status;
        if (engine->graph.error.code == STATUS_OK)
            error_set(error, status, "no memory for a pass of %lld rows of an MTP module", (long long)total);
        else if (error) *error = engine->graph.error;   /* an expert could not be read */
        for (int i = 0; i < count; i++) work[i].sequence->mtp[depth - 1].length = work[i].first;
    }
    graph_reset(&engine->graph);
    if (!status) model_pack_behind(model, clock_seconds() - began);
    return status;
}

/* ---- behind a pass of the trunk ---------------------------------------------------------------------------------- */

enum status draft_keep(struct engine *engine, const struct tensor *h, struct error *error) {
    const uint8_t *source = h->data;
    const int span_count = engine->batch.span_count;
    if (!engine->model->mtp) return STATUS_OK;
    if (engine->buffers) engine->buffers->pending = 0;
    enum status status = STATUS_OK;
    int64_t rows = 0;
    for (int s = 0; s < span_count; s++) rows += engine->spans[s].count + CONFIG_MAX_NEXTN * MTP_ROWS;
    if (engine->fills_modules) status = reserve(engine, span_count, rows, error);
    rows = 0;
    for (int s = 0; s < span_count && !status; s++) {
        const struct span *span = &engine->spans[s];
        const struct module_span fresh = { span->sequence, 0, span->position, span->count, span->row };
        const int64_t goal = span->position + span->count - 1,
                      first = engine->fills_modules && goal > 0 ? first_due(span->sequence, 1, goal, &fresh, INT64_MAX)
                                                                : -1;
        if (first >= 0 && goal - first > FILL_ROWS) {
            struct module_span *work = &engine->buffers->work[0][engine->buffers->pending++];
            *work = (struct module_span){ span->sequence, 0, first, goal - first, rows };
            gather(engine, work, 1, &fresh, source, engine->buffers->rows[0]);
            rows += work->count;
        }
        put_inputs(engine->model, &fresh, 1, source);
    }
    return status;
}

enum status draft_fill(struct engine *engine, struct error *error) {
    struct draft_buffers *buffers = engine->buffers;
    int count = buffers ? buffers->pending : 0, from = 0;
    enum status status = STATUS_OK;
    for (int depth = 1; depth <= engine->policy.depths && count && !status; depth++, from = 1 - from) {
        const struct module_span *work = buffers->work[from];
        struct module_span *next = buffers->work[1 - from];
        int kept = 0;
        int64_t rows = 0;
        status = run_module(engine, depth, work, count, buffers->rows[from], NULL, error);
        for (int i = 0; i < count && !status; i++) {   /* its rows are the next one's inputs */
            const int64_t goal = work[i].first + work[i].count - 1,
                          first = depth < engine->policy.depths && goal > 0
                                      ? first_due(work[i].sequence, depth + 1, goal, &work[i], INT64_MAX)
                                      : -1;
            if (first >= 0) {
                next[kept] = (struct module_span){ work[i].sequence, 0, first, goal - first, rows };
                gather(engine, &next[kept], depth + 1, &work[i], buffers->rows[from], buffers->rows[1 - from]);
                rows += next[kept++].count;
            }
            put_inputs(engine->model, &work[i], depth + 1, buffers->rows[from]);
        }
        count = kept;
    }
    if (buffers) buffers->pending = 0;
    return status;
}

/* ---- drafts ------------------------------------------------------------------------------------------------------ */

enum status engine_draft(struct engine *engine, struct draft *drafts, int count,
                         int32_t (*choose)(void *context, int index, struct draft *draft, const float *logits),
                         void *context, struct error *error) {
    const struct chooser chooser = { drafts, choose, context };
    const int64_t share = count ? DUE_ROWS / count : 0, most = engine->fills_modules      ? MTP_ROWS
                                                               : share > CONFIG_MAX_NEXTN ? share
                                                                                          : CONFIG_MAX_NEXTN + 1;
    if (engine->pass.graph)
        return error_set(error, STATUS_INVALID, "drafting: the engine has a pass that has not ended");
    enum status status = reserve(engine, count, (int64_t)count * (MTP_ROWS + CONFIG_MAX_NEXTN), error);
    for (int i = 0; i < count && !status; i++) {
        drafts[i].count = 0;
        sequence_note(drafts[i].sequence, drafts[i].sequence->length, drafts[i].next);
    }
    for (int depth = 1; depth <= engine->policy.depths && !status; depth++) {
        struct module_span *work = engine->buffers->work[0];
        int spans = 0;
        int64_t rows = 0;
        for (int i = 0; i < count; i++) {
            struct sequence *sequence = drafts[i].sequence;
            if (drafts[i].wanted < depth || drafts[i].count < depth - 1) continue;
            const int64_t first = first_due(sequence, depth, sequence->length, &(struct module_span){ 0 }, most);
            if (first < 0) continue;
            work[spans] = (struct module_span){ sequence, i, first, sequence->length - first, rows };
            gather(engine, &work[spans], depth, &(struct module_span){ 0 }, NULL, engine->buffers->rows[0]);
            rows += work[spans++].count;
        }
        if (!spans) break;
        status = run_module(engine, depth, work, spans, engine->buffers->rows[0], &chooser, error);
        for (int i = 0; i < spans && !status; i++)
            put_inputs(engine->model, &work[i], depth + 1, engine->buffers->rows[0]);
    }
    return status;
}
