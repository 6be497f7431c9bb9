/* AdamW: the formulas stand in the header. */
#include "train/optimizer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A block of a parameter's rows (of a vector's elements): small enough that value, gradient and moments stay in a
 * core's cache until the packed copies are made. Its rows begin at a multiple of MATMUL_GRAIN, as parameter_repack
 * wants it. */
struct optimizer_block { int parameter; int64_t r0, r1; int64_t before; /* elements of the blocks before this one */ };

#define VECTOR_ROWS 4096
#define SQUARES_BLOCK 8192   /* elements of a gradient whose squares are summed at once, by one thread */

static int64_t rows_of(const struct parameter *p) { return p->shape[0]; }
static int64_t rows_at_once(const struct parameter *p) {
    return p->kind == PARAMETER_VECTOR ? VECTOR_ROWS : MATMUL_GRAIN;
}
static int64_t blocks_of(const struct parameter *p) {
    return parameter_trained(p) ? (rows_of(p) + rows_at_once(p) - 1) / rows_at_once(p) : 0;
}
static size_t moment_bytes(const struct parameter *p, enum dtype moments) {
    return parameter_trained(p) ? bytes_aligned(dtype_bytes(moments, (size_t)p->count)) : 0;
}

size_t optimizer_bytes(struct parameter *const *parameters, int count, enum dtype moments) {
    size_t bytes = 0;
    for (int i = 0; i < count; i++) bytes += 2 * moment_bytes(parameters[i], moments);
    return bytes;
}

static void lay_out(struct optimizer *o) {
    char *next = o->pages;
    struct optimizer_block *block = o->blocks;
    int64_t before = 0;
    for (int i = 0; i < o->parameter_count; i++) {
        const struct parameter *p = o->parameters[i];
        if (!parameter_trained(p)) continue;
        const size_t bytes = moment_bytes(p, o->settings.moments);
        o->m[i] = next;
        o->v[i] = next + bytes;
        next += 2 * bytes;
        int64_t rows = rows_of(p), step = rows_at_once(p);
        for (int64_t r = 0; r < rows; r += step) {
            int64_t end = r + step < rows ? r + step : rows;
            *block++ = (struct optimizer_block){ .parameter = i, .r0 = r, .r1 = end, .before = before };
            before += (end - r) * (p->count / rows);
        }
    }
    o->elements = before;
}

static int64_t square_blocks_of(const struct parameter *p) {
    return parameter_trained(p) ? (p->count + SQUARES_BLOCK - 1) / SQUARES_BLOCK : 0;
}

enum status optimizer_create(struct optimizer **out, struct parameter *const *parameters, int count,
                             const struct kernels *kernels, struct pool *pool,
                             const struct optimizer_settings *settings, struct error *error) {
    *out = NULL;
    size_t bytes = optimizer_bytes(parameters, count, settings->moments);
    int64_t blocks = 0;
    size_t entries = count > 0 ? (size_t)count : 0;
    int64_t squares = 0;
    for (int i = 0; i < count; i++) blocks += blocks_of(parameters[i]), squares += square_blocks_of(parameters[i]);
    struct optimizer *o = calloc(1, sizeof *o);
    if (o) {
        *o = (struct optimizer){.kernels = kernels,
                                .pool = pool,
                                .parameters = parameters,
                                .parameter_count = count,
                                .settings = *settings,
                                .m = calloc(entries, sizeof *o->m),
                                .v = calloc(entries, sizeof *o->v),
                                .page_bytes = bytes,
                                .pages = bytes ? pages_alloc(bytes) : NULL,
                                .blocks = calloc((size_t)blocks, sizeof *o->blocks),
                                .block_count = blocks,
                                .first_square = calloc(entries + 1, sizeof *o->first_square),
                                .squares = calloc((size_t)squares, sizeof *o->squares)};
    }
    if (!o || !o->m || !o->v || !o->blocks || !o->first_square || !o->squares || (bytes && !o->pages)) {
        optimizer_destroy(o);
        return error_set(error, STATUS_NO_MEMORY, "the optimizer's moments need %.2f GB, the system has no more memory",
                         (double)bytes / 1e9);
    }
    lay_out(o);
    for (int i = 0; i < count; i++) o->first_square[i + 1] = o->first_square[i] + square_blocks_of(parameters[i]);
    *out = o;
    return STATUS_OK;
}

void optimizer_destroy(struct optimizer *optimizer) {
    if (!optimizer) return;
    if (optimizer->pages) pages_free(optimizer->pages, optimizer->page_bytes);
    free(optimizer->m);
    free(optimizer->v);
    free(optimizer->blocks);
    free(optimizer->first_square);
    free(optimizer->squares);
    free(optimizer);
}

/* One region for all parameters: a mixture of experts has thousands of small ones, and threads would wait for each
 * other after each. */
static void square_blocks(void *context, int thread, int threads) {
    const struct optimizer *o = context;
    int64_t begin, end;
    int i = 0;
    pool_share(o->first_square[o->parameter_count], 1, thread, threads, &begin, &end);
    for (int64_t block = begin; block < end; block++) {
        while (block >= o->first_square[i + 1]) i++;
        const struct parameter *p = o->parameters[i];
        const int64_t at = (block - o->first_square[i]) * SQUARES_BLOCK, left = p->count - at;
        o->squares[block] = p->grad_written ? o->kernels->rows.sum_of_squares(
                                                  NULL, p->grad + at, left < SQUARES_BLOCK ? left : SQUARES_BLOCK)
                                            : 0;
    }
}

/* Blocks are added in order within a parameter, then parameters in order. */
double optimizer_grad_norm(const struct optimizer *optimizer) {
    double sum = 0;
    pool_run(optimizer->pool, square_blocks, (void *)optimizer);
    for (int i = 0; i < optimizer->parameter_count; i++) {
        double part = 0;
        for (int64_t block = optimizer->first_square[i]; block < optimizer->first_square[i + 1]; block++)
            part += optimizer->squares[block];
        sum += part;
    }
    return sqrt(sum);
}

struct update { const struct optimizer *optimizer; struct adamw_step matrices, vectors; };

/* The first block of a thread's share: shares are equal in elements, because blocks are not. */
static int64_t first_block(const struct optimizer *o, int thread, int threads) {
    int64_t target = o->elements / threads * thread, low = 0, high = o->block_count;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (o->blocks[middle].before < target) low = middle + 1;
        else high = middle;
    }
    return low;
}

/* One block of a parameter's elements, from `at` on. */
static void update_block(const struct optimizer *o, int i, int64_t at, int64_t count, const struct adamw_step *step) {
    const struct row_kernels *rows = &o->kernels->rows;
    const struct parameter *p = o->parameters[i];
    if (o->settings.moments == DTYPE_BF16)
        rows->adamw_bf16(p->value + at, p->grad + at, (uint16_t *)o->m[i] + at, (uint16_t *)o->v[i] + at, count, step);
    else rows->adamw(p->value + at, p->grad + at, (float *)o->m[i] + at, (float *)o->v[i] + at, count, step);
}

static void update_blocks(void *context, int thread, int threads) {
    const struct update *update = context;
    const struct optimizer *o = update->optimizer;
    int64_t begin = first_block(o, thread, threads),
            end = thread + 1 < threads ? first_block(o, thread + 1, threads) : o->block_count;
    for (int64_t i = begin; i < end; i++) {
        const struct optimizer_block *block = &o->blocks[i];
        struct parameter *p = o->parameters[block->parameter];
        int64_t width = p->count / rows_of(p), at = block->r0 * width, count = (block->r1 - block->r0) * width;
        if (!p->grad_written) memset(p->grad + at, 0, (size_t)count * sizeof *p->grad);
        update_block(o, block->parameter, at, count, p->undecayed ? &update->vectors : &update->matrices);
        if (o->updated) o->updated(o->updated_context, p, block->r0, block->r1);
    }
}

void optimizer_step(struct optimizer *optimizer, double learning_rate, double grad_norm) {
    const struct optimizer_settings *s = &optimizer->settings;
    double scale = 1;
    if (s->clip_grad_norm > 0 && s->clip_grad_norm < grad_norm + 1e-6) scale = s->clip_grad_norm / (grad_norm + 1e-6);
    double step = (double)++optimizer->step;
    struct update update = {.optimizer = optimizer,
                            .matrices = {.learning_rate = (float)learning_rate,
                                         .beta1 = (float)s->beta1,
                                         .beta2 = (float)s->beta2,
                                         .eps = (float)s->eps,
                                         .weight_decay = (float)s->weight_decay,
                                         .grad_scale = (float)scale,
                                         .bias_correction1 = (float)(1 - pow(s->beta1, step)),
                                         .bias_correction2 = (float)(1 - pow(s->beta2, step))}};
    update.vectors = update.matrices;
    if (!s->decay_vectors) update.vectors.weight_decay = 0;
    pool_run(optimizer->pool, update_blocks, &update);
}
