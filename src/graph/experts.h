/* Where the routed experts of a pass come from when their parameters hold no weights (parameter.absent): a source that
 * has them brought as they are chosen (model/expert_cache.h).
 *
 * An operation walks the experts of its layer from first to last, in steps (its chunks), and in each step takes those
 * that have arrived until none is left:
 *
 *     begin(walk);
 *     for each step: while (take(walk, end of the step) > 0) { multiply by what was taken; give(walk); }
 *     end(walk);
 *
 * Each expert with rows is taken once; in which order they arrive changes no bit, because each has products and rows of
 * its own. What was taken stays where it is until give. */
#ifndef DEEPSEEK_GRAPH_EXPERTS_H
#define DEEPSEEK_GRAPH_EXPERTS_H

#include "graph/graph.h"

enum expert_part { EXPERT_GATE, EXPERT_UP, EXPERT_DOWN, EXPERT_PARTS };

struct expert_walk {
    const struct expert *experts;   /* of the layer */
    const int32_t *first;           /* [count + 1]: expert e has rows where first[e] < first[e + 1] */
    int64_t count;
    unsigned parts;                 /* what the operation multiplies by: bits 1 << enum expert_part */
    /* [count], the caller's memory and the source's content */
    struct expert_state {
        int32_t slot;
        enum { EXPERT_LEFT_OUT, EXPERT_WANTED, EXPERT_RESERVED, EXPERT_TAKEN } state;
    } *states;
    /* The source's: experts before `done` have been given back, or have no rows; parts that are brought together with
     * those that are needed; none has been taken yet. */
    int64_t done;
    bool fresh;
    unsigned brought;
    struct error *error;            /* what failed */
};

struct expert_source {
    /* A hint, as early as it can be given: the experts of a layer that have rows will be walked next. */
    void (*announce)(struct expert_source *source, const struct expert *experts, const int32_t *first, int64_t count);
    void (*begin)(struct expert_source *source, struct expert_walk *walk);
    /* Waits for at least one of the experts before `end` and marks all that are there as EXPERT_TAKEN; their number. 0:
     * all have been taken. Negative: one cannot be read, `error` says why. */
    int64_t (*take)(struct expert_source *source, struct expert_walk *walk, int64_t end);
    /* of one that is taken: where its numbers lie, and their scales, both as the file has them */
    void (*place)(struct expert_source *source, const struct expert_walk *walk, int64_t expert, enum expert_part part,
                  struct matrix *matrix);
    void (*give)(struct expert_source *source, struct expert_walk *walk);   /* all that are taken */
    void (*end)(struct expert_source *source, struct expert_walk *walk);    /* also after a failure */
};

#endif
