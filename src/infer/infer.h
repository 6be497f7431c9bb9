/* Inference: one engine, many sequences, one ragged forward; and drafts of the tokens to come, by the model's MTP
 * modules. */
#ifndef DEEPSEEK_INFER_INFER_H
#define DEEPSEEK_INFER_INFER_H

#include "infer/draft_policy.h"
#include "model/sequence.h"

/* Runs passes for a model: step memory, chunking. Not tied to particular sequences. */
struct engine {
    struct model *model;
    struct memory memory;
    struct graph graph;
    int64_t max_rows;            /* tokens per pass at most; longer inputs are fed in chunks of this many rows */
    /* Called after each pass with the number of tokens it computed (may be NULL); false ends the feed with
     * STATUS_INTERRUPTED. */
    bool (*watch)(void *context, int64_t rows);
    void *watch_context;
    /* Called in each pass, behind its logits, while the trunk's output h is there (may be NULL). May compute more on
     * the graph. */
    void (*forwarded)(void *context, struct graph *graph, struct tensor *h, const struct batch *batch);
    void *forwarded_context;
    int64_t planned_rows, planned_position, planned_logits;
    struct arena arena;          /* of one feed: used again and again, so that a token asks the system for no memory */
    /* of one pass */
    struct forward pass;         /* under way where it has a graph */
    struct batch batch;
    double seconds;              /* that it has taken */
    struct span *spans;          /* [max_rows] */
    struct feed *feeds;          /* [max_rows] */
    int32_t *ids;                /* [max_rows] */
    int32_t *logit_rows;
    float *staging;              /* [staging_rows, vocab]: logits on their way to scattered destinations */
    int64_t staging_rows;
    /* drafting (infer/draft.c) */
    struct draft_policy policy;
    /* are the modules' states kept complete, prompts included? Otherwise drafting begins with the last MTP_ROWS rows */
    bool fills_modules;
    struct draft_buffers *buffers;
};

#define ENGINE_DEFAULT_ROWS 512
/* with expanded prefill: each pass expands the keys and values of all earlier positions */
#define ENGINE_EXPANDED_ROWS 2048

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

/* Feeds all of them in ragged passes of at most max_rows rows; `chunk` > 0 also cuts every sequence at absolute
 * multiples of `chunk`, all sequences of a round in one pass. A sequence may stand in one feed only. Token ids are
 * checked against the vocabulary and lengths against capacities before anything is computed. The bits of a logit depend
 * on nothing but the model, the tokens of its sequence up to it, the compute type and the kernel variant. After a
 * failure the sequences are rewound to the lengths they had, or as near to them as they can (sequence_rewind). */
enum status engine_feed(struct engine *engine, const struct feed *feeds, int count, int64_t chunk, struct error *error);
/* One pass over all of the feeds, at most max_rows rows, that can wait between half-layers (an attention or an FFN)
 * while other engines over the model compute, each with a pass of its own. engine_pass_advance answers how many are
 * left; after a failure none, and engine_pass_end says why. The feeds' sequences grow, and logits are written, in the
 * end; until then no one else may use them. A pass that fails or is cancelled rewinds them as engine_feed does. */
enum status engine_pass_begin(struct engine *engine, const struct feed *feeds, int count, struct error *error);
int64_t engine_pass_advance(struct engine *engine, int64_t half_layers);
enum status engine_pass_end(struct engine *engine, struct error *error);
void engine_pass_cancel(struct engine *engine);   /* where none is under way: nothing */
/* Rewinds a sequence to exactly `length` tokens: what its blocks could not keep is fed again. */
enum status engine_rewind(struct engine *engine, struct sequence *sequence, int64_t length, struct error *error);

/* ---- drafting (infer/draft.c; spec/v1-v3.md section 2.10) -------------------------------------------------------- */

/* Texts never depend on drafting: a draft is fed to the model behind the token that it follows, in the same pass, and
 * stands where the model chooses it too (infer/generate.c). An engine begins with DRAFT_OFF. `depths`: modules that
 * draft, one token each; 0: all. DRAFT_ALWAYS is an error where the model cannot draft, DRAFT_AUTO does not draft
 * there: without modules, and with expanded prefill, whose passes of several rows have other bits. */
enum status engine_set_draft(struct engine *engine, enum draft_mode mode, int depths, struct error *error);

/* What one text is to get. Module k = 1, 2, ... takes the output of the one before and the last token, the chosen one
 * or a draft. */
struct draft {
    struct sequence *sequence;   /* each in one draft only */
    int32_t next;                /* the token after those of the sequence: chosen, and not fed yet */
    int wanted;                  /* drafts; `choose` may lower it to what it has */
    /* drafts that were made: fewer where the sequence was fed by others, none of whose rows are known */
    int count;
    int32_t ids[CONFIG_MAX_NEXTN];
};
/* Computes the modules' rows that are due, those of all texts in one ragged pass for each depth. `choose` is told the
 * logits [vocab] after a text's last token and gives the draft. */
enum status engine_draft(struct engine *engine, struct draft *drafts, int count,
                         int32_t (*choose)(void *context, int index, struct draft *draft, const float *logits),
                         void *context, struct error *error);

#endif
