/* Inference: one engine, many sequences, one ragged forward. */
#ifndef DEEPSEEK_INFER_INFER_H
#define DEEPSEEK_INFER_INFER_H

#include "model/model.h"

/* Runs passes for a model: step memory, chunking. Not tied to particular sequences. */
struct engine {
    struct model *model;
    struct memory memory;
    struct graph graph;
    int64_t max_rows;            /* tokens per pass at most; longer inputs are fed in chunks of this many rows */
    /* Called after each pass with the number of tokens it computed (may be NULL); false ends the feed with STATUS_INTERRUPTED. */
    bool (*watch)(void *context, int64_t rows);
    void *watch_context;
    /* Called in each pass, behind its logits, while the trunk's output h is there (may be NULL). May compute more on the graph. */
    void (*forwarded)(void *context, struct graph *graph, struct tensor *h, const struct batch *batch);
    void *forwarded_context;
    int64_t planned_rows, planned_position, planned_logits;
    struct arena arena;          /* of one feed: used again and again, so that a token asks the system for no memory */
    /* of one pass */
    struct span *spans;          /* [max_rows] */
    struct feed_piece *pieces;   /* [max_rows] */
    int32_t *ids;                /* [max_rows] */
    int32_t *logit_rows;
    float *staging;              /* [staging_rows, vocab]: logits on their way to scattered destinations */
    int64_t staging_rows;
};

#define ENGINE_DEFAULT_ROWS 512
#define ENGINE_EXPANDED_ROWS 2048   /* with expanded prefill: each pass expands the keys and values of all earlier positions */

enum status engine_create(struct engine **engine, struct model *model, int64_t max_rows, struct error *error);
void engine_destroy(struct engine *engine);

/* One sequence's part of a feed: `count` new tokens for it. */
struct feed {
    struct sequence *sequence;
    const int32_t *ids;
    int64_t count;
    float *logits;               /* NULL, or [vocab] for the last token, or [count, vocab] when every_logit */
    bool every_logit;
};

/* Feeds all of them in ragged passes of at most max_rows rows; `chunk` > 0 also cuts every sequence at absolute multiples of `chunk`, all sequences of a round in one
 * pass. A sequence may stand in one feed only. Token ids are checked against the vocabulary and lengths against capacities before anything is computed. The bits of a logit depend on nothing but the
 * model, the tokens of its sequence up to it, the compute type and the kernel variant. After a failure the sequences have the lengths they had before. */
enum status engine_feed(struct engine *engine, const struct feed *feeds, int count, int64_t chunk, struct error *error);

#endif
