/* Rotary position embedding (spec/v1-v3.md sections 2.2, 2.5 and 7.4): the meaning. */
#ifndef DEEPSEEK_KERNELS_ROWS_ROPE_REFERENCE_H
#define DEEPSEEK_KERNELS_ROWS_ROPE_REFERENCE_H

#include "kernels/rows_real.h"
#include "kernels/rows_rope.h"

/* (a, b) = (a cos - b sin, b cos + a sin) of each pair; the inverse has -sin */
static inline void rope_part(const struct rope_call *c, int64_t begin, int64_t end) {
    int half = c->dims / 2;
    for (int64_t t = begin; t < end; t++) {
        const real *cosine = c->table + (int64_t)c->positions[t] * c->dims, *sine = cosine + half;
        for (int head = 0; head < c->heads; head++) {
            int64_t at = t * c->stride + (int64_t)head * c->head_dim + c->offset;
            for (int i = 0; i < half; i++) {
                int64_t first = at + (c->interleaved ? 2 * i : i), second = c->interleaved ? first + 1 : first + half;
                real a = real_load(c->x, c->dtype, first), b = real_load(c->x, c->dtype, second);
                real s = c->inverse ? -sine[i] : sine[i];
                real_store(c->x, c->dtype, first, a * cosine[i] - b * s);
                real_store(c->x, c->dtype, second, b * cosine[i] + a * s);
            }
        }
    }
}

#endif
