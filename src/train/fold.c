/* Gradients of leaves, and their sum. */
#include "train/fold.h"

static bool needs_buffer(const struct parameter *p, bool several_micro_batches) {
    return parameter_trained(p) && p->contributions > !several_micro_batches;
}

size_t fold_bytes(const struct model *model, bool several_micro_batches) {
    size_t bytes = 0;
    for (int i = 0; i < model->parameter_count; i++)
        if (needs_buffer(model->parameters[i], several_micro_batches))
            bytes += bytes_aligned((size_t)model->parameters[i]->count * sizeof(float));
    return bytes;
}

enum status fold_allocate(struct fold *fold, bool several_micro_batches, struct error *error) {
    const size_t bytes = fold_bytes(fold->model, several_micro_batches);
    if (fold->pages || !bytes) return STATUS_OK;
    uint8_t *at = fold->pages = pages_alloc(bytes);
    if (!at)
        return error_set(error, STATUS_NO_MEMORY, "gradients of leaves need %.2f GB, the system has no more memory",
                         (double)bytes / 1e9);
    fold->bytes = bytes;
    for (int i = 0; i < fold->model->parameter_count; i++) {
        struct parameter *p = fold->model->parameters[i];
        if (!needs_buffer(p, several_micro_batches)) continue;
        p->leaf_buffer = (float *)(void *)at;
        at += bytes_aligned((size_t)p->count * sizeof(float));
    }
    return STATUS_OK;
}

void fold_free(struct fold *fold) {
    for (int i = 0; fold->pages && i < fold->model->parameter_count; i++)
        fold->model->parameters[i]->leaf_buffer = NULL;
    if (fold->pages) pages_free(fold->pages, fold->bytes);
    *fold = (struct fold){0};
}

void fold_parameter(void *context, struct parameter *p) {
    const struct model *model = context;
    if (p->leaf && p->leaf == p->leaf_buffer)
        model->kernels->rows.add(model->pool, p->grad, p->grad, p->leaf, DTYPE_F32, p->count);
    p->leaf = NULL;
}
