/* AdamW with decoupled weight decay over a model's parameters (Loshchilov and Hutter, "Decoupled weight decay
 * regularization", 2019), and clipping by the global norm.
 *
 *   norm = sqrt(sum of all squared gradients),   scale = min(1, c / (norm + 1e-6))      (no clipping: scale = 1)
 *   g = scale gradient;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
 *   p -= lr weight_decay p                                   (tensors of two or more dimensions)
 *   p -= lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
 *
 * A gradient that was not written counts as zero: the parameter still decays and its moments age. Parameters that are
 * not trained take no part, in the norm neither. The moments are fp32, or bf16 (V3's recipe, spec/v1-v3.md
 * section 4.1): then they are widened for the update and rounded to nearest even when they are stored. */
#ifndef DEEPSEEK_TRAIN_OPTIMIZER_H
#define DEEPSEEK_TRAIN_OPTIMIZER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "graph/graph.h"

struct optimizer_settings {
    double weight_decay, beta1, beta2, eps;
    double clip_grad_norm;    /* 0: no clipping */
    bool decay_vectors;
    enum dtype moments;       /* F32 or BF16 */
    double bias_update_speed; /* of the routers' biases, which the trainer moves; 0: they stay */
};

struct optimizer {
    const struct kernels *kernels;
    struct pool *pool;
    struct parameter *const *parameters;
    int parameter_count;
    struct optimizer_settings settings;
    int64_t step;             /* updates made */
    /* of each trainable parameter (NULL for others), in one mapping; of the type settings.moments */
    void **m, **v;
    void *pages;
    size_t page_bytes;
    struct optimizer_block *blocks;   /* what a thread updates at once */
    int64_t block_count, elements;
    /* [parameter_count + 1]: number of the first block of a parameter's gradient among those that are squared and
     * summed */
    int64_t *first_square;
    double *squares;          /* a sum of each */
    /* Called for each block of rows of a parameter right after its update, on the thread that made it, while the rows
     * are in its cache. May be NULL. */
    void (*updated)(void *context, const struct parameter *parameter, int64_t r0, int64_t r1);
    void *updated_context;
};

/* Moments begin at zero. `parameters` stays the caller's and must outlive the optimizer. */
enum status optimizer_create(struct optimizer **optimizer, struct parameter *const *parameters, int count,
                             const struct kernels *kernels, struct pool *pool,
                             const struct optimizer_settings *settings, struct error *error);
void optimizer_destroy(struct optimizer *optimizer);

/* Bytes of the moments: two numbers per parameter, each array rounded up to 64 bytes. */
size_t optimizer_bytes(struct parameter *const *parameters, int count, enum dtype moments);

/* The global norm of the gradients, in one order whatever the number of threads. */
double optimizer_grad_norm(const struct optimizer *optimizer);
/* One update from gradients of this norm. Gradients are not changed, except that those that were not written become
 * zero. */
void optimizer_step(struct optimizer *optimizer, double learning_rate, double grad_norm);

#endif
