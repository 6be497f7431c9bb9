/* What moves numbers without computing, or adds a few: rows, and the heads of latent attention. The same for every
 * variant. */
#ifndef DEEPSEEK_KERNELS_ROWS_MOVE_H
#define DEEPSEEK_KERNELS_ROWS_MOVE_H

#include <string.h>

#include "kernels/rows_split.h"

struct move_rows { char *y; const char *x; size_t y_stride, x_stride, bytes; int64_t rows; bool add; };

static void move_rows_task(void *context, int thread, int threads) {
    const struct move_rows *c = context;
    int64_t begin, end;
    pool_share(c->rows, 1, thread, threads, &begin, &end);
    for (int64_t row = begin; row < end; row++) {
        char *y = c->y + (size_t)row * c->y_stride;
        const char *x = c->x + (size_t)row * c->x_stride;
        if (!c->add) memcpy(y, x, c->bytes);
        for (size_t i = 0; c->add && i < c->bytes / sizeof(float); i++)
            ((float *)(void *)y)[i] += ((const float *)(const void *)x)[i];
    }
}
static inline void rows_move(struct pool *pool, void *y, int64_t y_stride, const void *x, int64_t x_stride,
                             enum dtype dtype, int64_t rows, int64_t width, bool add) {
    const size_t size = dtype_bytes(dtype, 1);
    struct move_rows call = {y, x, (size_t)y_stride * size, (size_t)x_stride * size, (size_t)width * size, rows, add};
    rows_run(pool, move_rows_task, &call, rows * (int64_t)(call.bytes / 4));
}

struct zero_call { char *y; size_t bytes; };
static void zero_task(void *context, int thread, int threads) {
    const struct zero_call *c = context;
    int64_t begin, end;
    pool_share((int64_t)c->bytes, ROWS_GRAIN, thread, threads, &begin, &end);
    memset(c->y + begin, 0, (size_t)(end - begin));
}
static inline void rows_zero(struct pool *pool, void *y, size_t bytes) {
    struct zero_call call = {y, bytes};
    rows_run(pool, zero_task, &call, (int64_t)(bytes / 4));
}

/* Per row and head: [nope | value] of kvu, [nope | rotary] of k, [value] of v; of all heads [rotary] of k_r. */
struct latent_keys {
    const struct latent_heads *heads;
    char *k, *v, *kvu;
    const char *k_r;
    float *dk_r;
    int64_t rows;
};

static void latent_keys_forward_task(void *context, int thread, int threads) {
    const struct latent_keys *c = context;
    const struct latent_heads *s = c->heads;
    const size_t size = dtype_bytes(s->dtype, 1), nope = size * (size_t)s->nope, rotary = size * (size_t)s->rotary,
                 value = size * (size_t)s->value;
    int64_t begin, end;
    pool_share(c->rows, 1, thread, threads, &begin, &end);
    for (int64_t row = begin; row < end; row++)
        for (int h = 0; h < s->heads; h++) {
            const size_t at = (size_t)row * (size_t)s->heads + (size_t)h;
            const char *from = c->kvu + at * (nope + value);
            char *k = c->k + at * (nope + rotary);
            memcpy(k, from, nope);
            memcpy(k + nope, c->k_r + (size_t)row * rotary, rotary);
            memcpy(c->v + at * value, from + nope, value);
        }
}
static void latent_keys_backward_task(void *context, int thread, int threads) {
    const struct latent_keys *c = context;
    const struct latent_heads *s = c->heads;
    const size_t size = dtype_bytes(s->dtype, 1), nope = size * (size_t)s->nope, rotary = size * (size_t)s->rotary,
                 value = size * (size_t)s->value;
    int64_t begin, end;
    pool_share(c->rows, 1, thread, threads, &begin, &end);
    for (int64_t row = begin; row < end; row++) {
        float *dk_r = c->dk_r + row * s->rotary;
        for (int h = 0; h < s->heads; h++) {
            const size_t at = (size_t)row * (size_t)s->heads + (size_t)h;
            const char *dk = c->k + at * (nope + rotary);
            char *dkvu = c->kvu + at * (nope + value);
            memcpy(dkvu, dk, nope);
            memcpy(dkvu + nope, c->v + at * value, value);
            for (int64_t i = 0; i < s->rotary; i++) {
                const float x = s->dtype == DTYPE_BF16 ? bf16_to_float(((const uint16_t *)(const void *)(dk + nope))[i])
                                                       : ((const float *)(const void *)(dk + nope))[i];
                dk_r[i] = h ? dk_r[i] + x : x;
            }
        }
    }
}
static inline void rows_latent_keys_forward(struct pool *pool, const struct latent_heads *heads, void *k, void *v,
                                            const void *kvu, const void *k_r, int64_t rows) {
    struct latent_keys call = {.heads = heads, .k = k, .v = v, .kvu = (char *)kvu, .k_r = k_r, .rows = rows};
    pool_run(pool, latent_keys_forward_task, &call);
}
static inline void rows_latent_keys_backward(struct pool *pool, const struct latent_heads *heads, void *dkvu,
                                             float *dk_r, const void *dk, const void *dv, int64_t rows) {
    struct latent_keys call = {
        .heads = heads, .k = (char *)dk, .v = (char *)dv, .kvu = dkvu, .dk_r = dk_r, .rows = rows};
    pool_run(pool, latent_keys_backward_task, &call);
}

#endif
