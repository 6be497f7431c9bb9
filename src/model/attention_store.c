/* The state of attention that keeps a key and a value of every position: the store that the attention kernels define,
 * whose layout depends on its capacity. What is saved are rows [key | value] in the store's type (E4M3: bf16, which
 * holds the decoded numbers), position by position. Going back is forgetting a length. */
#include "model/blocks.h"

struct rows {
    const struct attention_kernels *kernels;
    struct attention_shape shape;
    enum dtype dtype;
    int64_t k_width, width;
};

static struct rows saved_rows(const struct model *model, const struct layer *layer) {
    struct rows rows;
    const struct attention_shape *shape = &rows.shape;
    const enum attention_core core = layer->attention->store(model, &rows.shape);
    rows.kernels = model->kernels->attention[core];
    rows.dtype = shape->kv_dtype == DTYPE_F32 ? DTYPE_F32 : DTYPE_BF16;
    rows.k_width = core == CORE_LATENT ? shape->qk_dim - shape->v_dim : (int64_t)shape->kv_heads * shape->qk_dim;
    rows.width = rows.k_width + (int64_t)shape->kv_heads * shape->v_dim;
    return rows;
}

size_t attention_store_bytes(const struct model *model, const struct layer *layer, int64_t capacity) {
    const struct rows rows = saved_rows(model, layer);
    return rows.kernels->kv_bytes(&rows.shape, capacity);
}

size_t attention_store_save_bytes(const struct layer_state *state, int64_t first, int64_t count) {
    (void)first;
    const struct rows rows = saved_rows(state->model, state->layer);
    return dtype_bytes(rows.dtype, (size_t)(count * rows.width));
}

void attention_store_save(const struct layer_state *state, int64_t first, int64_t count, void *bytes) {
    const struct rows rows = saved_rows(state->model, state->layer);
    const struct attention_job job = {.kv = state->data, .capacity = state->capacity};
    void *v = (char *)bytes + dtype_bytes(rows.dtype, (size_t)rows.k_width);
    rows.kernels->kv_read(state->model->pool, &rows.shape, &job, first, count, bytes, rows.dtype, rows.width, v,
                          rows.dtype, rows.width);
}

void attention_store_load(const struct layer_state *state, int64_t first, int64_t count, const void *bytes) {
    const struct rows rows = saved_rows(state->model, state->layer);
    const struct attention_job job = {
        .kv = state->data, .capacity = state->capacity, .position = first, .count = count};
    const void *v = (const char *)bytes + dtype_bytes(rows.dtype, (size_t)rows.k_width);
    rows.kernels->kv_write(state->model->pool, &rows.shape, &job, 1, bytes, rows.dtype, rows.width, v, rows.dtype,
                           rows.width);
}
