/* Memory of the parameters (values, gradients and packed copies in training, packed copies at inference), their initial
 * values, and how files have them. */
#include "model/model.h"

#include <math.h>

#include "base/random.h"
#include "graph/weights.h"
#include "model/blocks.h"

/* ---- memory for training ----------------------------------------------------------------------------------------- */

static size_t view_bytes(const struct model *model, const struct parameter *p, const struct parameter_view *view) {
    const int64_t in = p->shape[1];
    return bytes_aligned(model->kernels->matmul.packed_bytes(view->transposed ? in : view->rows,
                                                           view->transposed ? view->rows : in, view_compute(p)));
}

/* Bytes of the copy or copies of side 0 or 1. At inference a matrix with views has theirs. */
static size_t packed_bytes(const struct model *model, const struct parameter *p, int side, bool views) {
    const int64_t out = p->shape[0], in = p->shape[1];
    if (views && p->view_count) {
        const struct parameter_view *last = &p->views[p->view_count - 1];
        return last->offset + view_bytes(model, p, last);
    }
    return bytes_aligned(
        model->kernels->matmul.packed_bytes(side == 0 ? in : out, side == 0 ? out : in, parameter_packed_type(p)));
}

void model_place_views(const struct model *model, const struct parameter *p, struct parameter_view *views, int count) {
    size_t offset = 0;
    for (int i = 0; i < count; i++) {
        views[i].offset = offset;
        offset += view_bytes(model, p, &views[i]);
    }
}

size_t model_packed_bytes(const struct model *model, int sides) {
    size_t bytes = 0;
    for (int i = 0; i < model->parameter_count; i++)
        for (int side = 0; side < sides; side++)
            if (model->parameters[i]->kind == PARAMETER_MATRIX && !model->parameters[i]->absent)
                bytes += packed_bytes(model, model->parameters[i], side, sides == 1);
    return bytes;
}

enum status model_allocate_packed(struct model *model, int sides, struct error *error) {
    const bool views = sides == 1;
    const size_t bytes = model_packed_bytes(model, sides);
    if (!bytes) return STATUS_OK;
    uint8_t *at = model->pages[1] = pages_alloc(bytes);
    if (!at)
        return error_set(error, STATUS_NO_MEMORY, "packed weights need %.2f GB, the system has no more memory",
                         (double)bytes / 1e9);
    model->page_bytes[1] = bytes;
    for (int i = 0; i < model->parameter_count; i++)
        for (int side = 0; side < sides; side++)
            if (model->parameters[i]->kind == PARAMETER_MATRIX && !model->parameters[i]->absent) {
                model->parameters[i]->packed[side] = at;
                at += packed_bytes(model, model->parameters[i], side, views);
            }
    return STATUS_OK;
}

enum status model_allocate_training(struct model *model, struct error *error) {
    size_t bytes = 0;
    for (int i = 0; i < model->parameter_count; i++)
        bytes += 2 * bytes_aligned((size_t)model->parameters[i]->count * sizeof(float));
    uint8_t *at = model->pages[0] = pages_alloc(bytes);
    if (!at)
        return error_set(error, STATUS_NO_MEMORY,
                         "parameters and gradients need %.2f GB, the system has no more memory", (double)bytes / 1e9);
    model->page_bytes[0] = bytes;
    for (int half = 0; half < 2; half++)   /* all values, then all gradients */
        for (int i = 0; i < model->parameter_count; i++) {
            struct parameter *p = model->parameters[i];
            if (p->kind == PARAMETER_INTEGERS) p->integers = (int32_t *)(void *)at;
            else *(half ? &p->grad : &p->value) = (float *)(void *)at;
            at += bytes_aligned((size_t)p->count * sizeof(float));
        }
    /* In fp32 a packed copy saves little; in bf16 it halves what a product reads, in fp8
     * it is what is quantised once. */
    return model->compute != COMPUTE_F32 ? model_allocate_packed(model, 2, error) : STATUS_OK;
}

void parameter_repack(const struct model *model, const struct parameter *p, int64_t r0, int64_t r1) {
    const struct matmul_kernels *matmul = &model->kernels->matmul;
    const struct matrix transposed = matrix_of_parameter(p, true), plain = matrix_of_parameter(p, false);
    const enum compute type = parameter_packed_type(p);
    if (p->packed[0]) matmul->pack_part(p->packed[0], &transposed, type, 0, p->shape[1], r0, r1);
    if (p->packed[1]) matmul->pack_part(p->packed[1], &plain, type, r0, r1, 0, p->shape[1]);
}

void model_repack(struct model *model) {
    for (int i = 0; i < model->parameter_count; i++) {
        const struct parameter *p = model->parameters[i];
        for (int side = 0; side < 2; side++)
            if (p->packed[side] && p->value) {
                const struct matrix b = matrix_of_parameter(p, side == 0);
                matmul_pack(model->pool, &model->kernels->matmul, p->packed[side], &b, parameter_packed_type(p));
            }
    }
}

/* ---- as files have them ------------------------------------------------------------------------------------------ */

struct safetensors_source parameter_tensor(const struct parameter *p, const struct parameter_name *name) {
    struct safetensors_source tensor = {.name = p->name};
    if (name) tensor.name = name->name;
    if (name && name->stack) tensor.shape[tensor.rank++] = name->stack;
    tensor.shape[tensor.rank++] = name && name->rows ? name->rows : p->shape[0];
    if (p->shape[1]) tensor.shape[tensor.rank++] = p->shape[1];
    return tensor;
}

struct safetensors_source parameter_values(const struct parameter *p) {
    struct safetensors_source tensor = parameter_tensor(p, NULL);
    tensor.dtype = p->kind == PARAMETER_INTEGERS ? DTYPE_I32 : DTYPE_F32;
    tensor.data = p->kind == PARAMETER_INTEGERS ? (const void *)p->integers : p->value;
    return tensor;
}

bool tensor_fits(const struct safetensors_source *tensor, const struct safetensors_entry *entry) {
    return tensor->rank == entry->rank &&
           memcmp(tensor->shape, entry->shape, (size_t)entry->rank * sizeof *entry->shape) == 0;
}

void model_expect_codes(struct model *model) {
    if (!model->config.quantization.fp8 || model->compute == COMPUTE_F32) return;
    for (int i = 0; i < model->parameter_count; i++) {
        struct parameter *p = model->parameters[i];
        if (p->kind == PARAMETER_MATRIX && p->products == PRODUCTS_MODEL) p->format = &number_formats[FORMAT_FP8];
    }
}

/* ---- initial values ---------------------------------------------------------------------------------------------- */

struct initialise { struct parameter *parameter; uint64_t seed; float deviation; };

/* Four normals from one counter (Box-Muller on two pairs of 32-bit words): element i is
 * number i % 4 of counter i / 4. */
static void normals(uint64_t seed, uint64_t stream, uint64_t counter, float out[4]) {
    uint32_t words[4];
    random_words(seed, stream, counter, words);
    for (int pair = 0; pair < 2; pair++) {
        const double radius = sqrt(-2.0 * log(((double)words[2 * pair] + 0.5) * 0x1p-32)),
                     angle = 6.283185307179586 * 0x1p-32 * (double)words[2 * pair + 1];
        out[2 * pair] = (float)(radius * cos(angle));
        out[2 * pair + 1] = (float)(radius * sin(angle));
    }
}

static void initialise_part(void *context, int thread, int threads) {
    const struct initialise *task = context;
    struct parameter *p = task->parameter;
    const uint64_t stream = random_stream(p->name);
    int64_t begin, end;
    pool_share(p->count, 4, thread, threads, &begin, &end);
    for (int64_t i = begin; i < end; i += 4) {
        float x[4];
        normals(task->seed, stream, (uint64_t)(i / 4), x);
        for (int64_t j = 0; j < 4 && i + j < end; j++)
            p->value[i + j] = p->initial == INITIAL_CONSTANT ? p->constant : task->deviation * x[j];
    }
}

void model_initialise(struct model *model, uint64_t seed) {
    for (int i = 0; i < model->parameter_count; i++) {
        struct initialise task = {model->parameters[i], seed, (float)model->config.initializer_range};
        if (task.parameter->kind != PARAMETER_INTEGERS) pool_run(model->pool, initialise_part, &task);
    }
    model_repack(model);
}
