/* The gradient of a step is folded from those of its leaves (spec/distributed.md sections 3.2 and 3.6).
 *
 * A leaf is `leaf_size` sequences that follow each other, whole micro-batches (the last one what is left). Its gradient
 * g_l begins with zero; inside it each micro-batch continues the chains of the one before. Then, element by element in
 * fp32, in order of the leaves that wrote the parameter at all,
 *
 *     G = ((g_0 + g_1) + g_2) + ...
 *
 * so that leaves may be computed anywhere, in any order: micro_batch_size and leaf_size decide bits, and nothing else
 * does. How a leaf's contributions find their place: parameter_gradient (graph/graph.h). */
#ifndef DEEPSEEK_TRAIN_FOLD_H
#define DEEPSEEK_TRAIN_FOLD_H

#include "model/model.h"

/* The parameters' leaf_buffer: zeros: nothing is allocated. */
struct fold { struct model *model; void *pages; size_t bytes; };

/* Bytes of the buffers that steps of several leaves need, of a model whose passes have been planned: for parameters
 * with several contributions to a leaf; for all of them where leaves have several micro-batches. */
size_t fold_bytes(const struct model *model, bool several_micro_batches);
/* Allocates them, once. */
enum status fold_allocate(struct fold *fold, bool several_micro_batches, struct error *error);
void fold_free(struct fold *fold);
/* G = G + g_l, when nothing more of leaf l comes: graph.gradient_done of its last pass. */
void fold_parameter(void *model, struct parameter *parameter);

#endif
