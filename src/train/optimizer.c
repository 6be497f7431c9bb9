/* Rules and the walk over parameters; the formulas stand in the header. */
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

static int64_t rows_at_once(const struct parameter *p) {
    return p->kind == PARAMETER_VECTOR ? VECTOR_ROWS : MATMUL_GRAIN;
}
static int64_t blocks_of(const struct parameter *p) {
    return parameter_trained(p) ? (p->shape[0] + rows_at_once(p) - 1) / rows_at_once(p) : 0;
}

/* ---- rules ------------------------------------------------------------------------------------------------------- */

double optimizer_decay(const struct optimizer_settings *settings, const struct parameter *p) {
    return p->undecayed && !settings->decay_vectors ? 0 : settings->weight_decay;
}

static void update_adamw(const struct optimizer *o, const struct parameter *p, void *const *states, int64_t at,
                         int64_t count) {
    const struct optimizer_settings *s = &o->settings;
    const struct row_kernels *rows = &o->kernels->rows;
    const double step = (double)o->step;
    const struct adamw_step constants = {.learning_rate = (float)o->learning_rate,
                                         .beta1 = (float)s->beta1,
                                         .beta2 = (float)s->beta2,
                                         .eps = (float)s->eps,
                                         .weight_decay = (float)optimizer_decay(s, p),
                                         .grad_scale = (float)o->grad_scale,
                                         .bias_correction1 = (float)(1 - pow(s->beta1, step)),
                                         .bias_correction2 = (float)(1 - pow(s->beta2, step))};
    if (s->moments == DTYPE_BF16)
        rows->adamw_bf16(p->value + at, p->grad + at, (uint16_t *)states[0] + at, (uint16_t *)states[1] + at, count,
                         &constants);
    else rows->adamw(p->value + at, p->grad + at, (float *)states[0] + at, (float *)states[1] + at, count, &constants);
}

const struct optimizer_rule optimizer_adamw = {
    .name = "adamw", .states = {{"exp_avg", true}, {"exp_avg_sq", true}}, .update_part = update_adamw};

const struct optimizer_rule *optimizer_rule_of(const struct optimizer_settings *settings, const struct parameter *p) {
    return !parameter_trained(p)                                      ? NULL
           : p->update == UPDATE_MATRIX && settings->matrix_rule ? settings->matrix_rule
                                                                 : &optimizer_adamw;
}

enum dtype optimizer_state_type(const struct optimizer_settings *settings, const struct optimizer_state *state) {
    return state->moment ? settings->moments : DTYPE_F32;
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

/* Of state k of a parameter, 0 where it has none. */
static size_t state_bytes(const struct optimizer_settings *settings, const struct parameter *p, int k) {
    const struct optimizer_rule *rule = optimizer_rule_of(settings, p);
    return rule && rule->states[k].name
               ? bytes_aligned(dtype_bytes(optimizer_state_type(settings, &rule->states[k]), (size_t)p->count))
               : 0;
}

size_t optimizer_bytes(struct parameter *const *parameters, int count, const struct optimizer_settings *settings) {
    size_t bytes = 0;
    for (int i = 0; i < count; i++)
        for (int k = 0; k < OPTIMIZER_STATES; k++) bytes += state_bytes(settings, parameters[i], k);
    return bytes;
}

static void lay_out(struct optimizer *o) {
    char *next = o->pages;
    struct optimizer_block *block = o->blocks;
    int64_t before = 0;
    for (int i = 0; i < o->parameter_count; i++) {
        const struct parameter *p = o->parameters[i];
        if (!parameter_trained(p)) continue;
        for (int k = 0; k < OPTIMIZER_STATES; k++) {
            const size_t bytes = state_bytes(&o->settings, p, k);
            if (bytes) o->states[i][k] = next;
            next += bytes;
        }
        int64_t rows = p->shape[0], step = rows_at_once(p);
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
    size_t bytes = optimizer_bytes(parameters, count, settings);
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
                                .states = calloc(entries, sizeof *o->states),
                                .page_bytes = bytes,
                                .pages = bytes ? pages_alloc(bytes) : NULL,
                                .blocks = calloc((size_t)blocks, sizeof *o->blocks),
                                .block_count = blocks,
                                .first_square = calloc(entries + 1, sizeof *o->first_square),
                                .squares = calloc((size_t)squares, sizeof *o->squares)};
    }
    if (!o || !o->states || !o->blocks || !o->first_square || !o->squares || (bytes && !o->pages)) {
        optimizer_destroy(o);
        return error_set(error, STATUS_NO_MEMORY, "the optimizer's state needs %.2f GB, the system has no more memory",
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
    free(optimizer->states);
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

/* A gradient that was not written counts as zero. */
static void complete_gradient(const struct parameter *p, int64_t at, int64_t count) {
    if (!p->grad_written) memset(p->grad + at, 0, (size_t)count * sizeof *p->grad);
}

/* The rules by parts; and what is done behind an update, whatever the rule. */
static void update_blocks(void *context, int thread, int threads) {
    const struct optimizer *o = context;
    int64_t begin = first_block(o, thread, threads),
            end = thread + 1 < threads ? first_block(o, thread + 1, threads) : o->block_count;
    for (int64_t i = begin; i < end; i++) {
        const struct optimizer_block *block = &o->blocks[i];
        const struct parameter *p = o->parameters[block->parameter];
        const struct optimizer_rule *rule = optimizer_rule_of(&o->settings, p);
        const int64_t width = p->count / p->shape[0], at = block->r0 * width, count = (block->r1 - block->r0) * width;
        if (rule->update_part) {
            complete_gradient(p, at, count);
            rule->update_part(o, p, o->states[block->parameter], at, count);
        }
        if (o->updated) o->updated(o->updated_context, p, block->r0, block->r1);
    }
}

void optimizer_step(struct optimizer *optimizer, double learning_rate, double grad_norm) {
    const double clip = optimizer->settings.clip_grad_norm;
    optimizer->learning_rate = learning_rate;
    optimizer->grad_scale = clip > 0 && clip < grad_norm + 1e-6 ? clip / (grad_norm + 1e-6) : 1;
    optimizer->step++;
    for (int i = 0; i < optimizer->parameter_count; i++) {
        const struct parameter *p = optimizer->parameters[i];
        const struct optimizer_rule *rule = optimizer_rule_of(&optimizer->settings, p);
        if (!rule || !rule->update_whole) continue;
        complete_gradient(p, 0, p->count);
        rule->update_whole(optimizer, p, optimizer->states[i]);
    }
    pool_run(optimizer->pool, update_blocks, optimizer);
}
