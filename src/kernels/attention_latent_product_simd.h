/* The products of the latent core: small ones over rows as they lie in the store, which fetch ahead meanwhile. */
#ifndef DEEPSEEK_KERNELS_ATTENTION_LATENT_PRODUCT_SIMD_H
#define DEEPSEEK_KERNELS_ATTENTION_LATENT_PRODUCT_SIMD_H

#include "kernels/attention_product_simd.h"

/* What will be read next: the stores are larger than the caches, and the products leave the memory time to bring it. */
struct latent_ahead {
    const char *at, *end;
    int64_t stride;        /* bytes for each word of a product in registers, at most a line */
    int lines;             /* for each step of a product in tiles */
};
/* The bytes that are fetched meanwhile by a loop of so many words. */
ATTENTION_INLINE const char *ahead_take(struct latent_ahead *ahead, int64_t words) {
    const char *at = ahead->at;
    if (at < ahead->end) ahead->at += words * ahead->stride;
    return at;
}
ATTENTION_INLINE void ahead_fetch(struct latent_ahead *ahead, int lines) {
    const char *at = ahead->at;
    if (at >= ahead->end) return;
    for (int i = 0; i < lines; i++) _mm_prefetch(at + 64 * i, _MM_HINT_T1);
    ahead->at = at + 64 * lines;
}

#define ATTENTION_UNROLL _Pragma("GCC unroll 16")

/* m rows by `panels` panels in registers: C (+)= A B with element (i, w) of A at a[i a_row + w a_word]. */
ATTENTION_INLINE void latent_tile(float *c, int64_t c_stride, const float *a, int64_t a_row, int64_t a_word,
                                  const float *b, int64_t b_stride, const int m, const int panels, int64_t words,
                                  bool accumulate, const bool pairs, struct latent_ahead *ahead) {
    const char *fetch = ahead_take(ahead, words);
    const int64_t fetch_stride = ahead->stride;
    const int vectors = panels * (PANEL / VF);
    vf sum[16][4];
    ATTENTION_UNROLL for (int i = 0; i < m; i++) {
        ATTENTION_UNROLL for (int j = 0; j < vectors; j++) sum[i][j] = accumulate ? vf_load(c + i * c_stride + j * VF)
                                                                                  : vf_zero();
    }
    for (int64_t w = 0; w < words; w++) {
        vf row[4];
        _mm_prefetch(fetch + w * fetch_stride, _MM_HINT_T1);
        ATTENTION_UNROLL for (int j = 0; j < vectors; j++) row[j] = vf_load(b + w * b_stride + j * VF);
        ATTENTION_UNROLL for (int i = 0; i < m; i++) {
            vf x = vf_set(a[i * a_row + w * a_word]);
            ATTENTION_UNROLL for (int j = 0; j < vectors; j++) sum[i][j] = product_step(sum[i][j], x, row[j], pairs);
        }
    }
    ATTENTION_UNROLL for (int i = 0; i < m; i++) {
        ATTENTION_UNROLL for (int j = 0; j < vectors; j++) vf_store(c + i * c_stride + j * VF, sum[i][j]);
    }
}

/* S^T of one group of queries: `keys` rows (a multiple of 16), `panels` panels of queries. The words are taken in parts
 * whose Q^T stays in the cache. */
ATTENTION_INLINE void latent_scores_in_registers(float *s, const float *k, int64_t k_stride, const float *q, int keys,
                                                 int panels, int64_t words, const bool pairs,
                                                 struct latent_ahead *ahead) {
    int64_t lanes = panels * PANEL, part = 6144 / lanes / 16 * 16;
    for (int64_t w = 0; w < words; w += part) {
        int64_t n = words - w < part ? words - w : part;
        const float *b = q + w * lanes;
        for (int i = 0; i < keys;) {
            float *c = s + i * lanes;
            const float *a = k + i * k_stride + w;
#if VF == 16
            switch (panels) {
            case 1: latent_tile(c, lanes, a, k_stride, 1, b, lanes, 16, 1, n, w > 0, pairs, ahead); i += 16; break;
            case 2: latent_tile(c, lanes, a, k_stride, 1, b, lanes, 8, 2, n, w > 0, pairs, ahead); i += 8; break;
            case 3: latent_tile(c, lanes, a, k_stride, 1, b, lanes, 4, 3, n, w > 0, pairs, ahead); i += 4; break;
            default: latent_tile(c, lanes, a, k_stride, 1, b, lanes, 4, 4, n, w > 0, pairs, ahead); i += 4;
            }
#else
            for (int j = 0; j < panels; j++)
                latent_tile(c + j * PANEL, lanes, a, k_stride, 1, b + j * PANEL, lanes, 4, 1, n, w > 0, pairs, ahead);
            i += 4;
#endif
        }
    }
}
/* One group of channels of O: `rows` rows (a multiple of 4) of which A holds the weights transposed. */
ATTENTION_INLINE void latent_output_in_registers(float *o, int64_t lanes_of_o, const float *p, int64_t lanes,
                                                 const float *v, int64_t v_stride, int rows, int panels, int64_t words,
                                                 bool accumulate, const bool pairs, struct latent_ahead *ahead) {
    for (int i = 0; i < rows; i += 4) {
        float *c = o + i * lanes_of_o;
#if VF == 16
        switch (panels) {
        case 1: latent_tile(c, lanes_of_o, p + i, 1, lanes, v, v_stride, 4, 1, words, accumulate, pairs, ahead); break;
        case 2: latent_tile(c, lanes_of_o, p + i, 1, lanes, v, v_stride, 4, 2, words, accumulate, pairs, ahead); break;
        case 3: latent_tile(c, lanes_of_o, p + i, 1, lanes, v, v_stride, 4, 3, words, accumulate, pairs, ahead); break;
        default: latent_tile(c, lanes_of_o, p + i, 1, lanes, v, v_stride, 4, 4, words, accumulate, pairs, ahead);
        }
#else
        for (int j = 0; j < panels; j++)
            latent_tile(c + j * PANEL, lanes_of_o, p + i, 1, lanes, v + j * PANEL, v_stride, 4, 1, words, accumulate,
                        pairs, ahead);
#endif
    }
}

static __attribute__((noinline)) void latent_scores_of_floats(float *s, const float *k, int64_t k_stride,
                                                              const float *q, int keys, int panels, int64_t words,
                                                              struct latent_ahead *ahead) {
    latent_scores_in_registers(s, k, k_stride, q, keys, panels, words, false, ahead);
}
static __attribute__((noinline)) void latent_output_of_floats(float *o, int64_t lanes_of_o, const float *p,
                                                              int64_t lanes, const float *v, int64_t v_stride, int rows,
                                                              int panels, int64_t words, bool accumulate,
                                                              struct latent_ahead *ahead) {
    latent_output_in_registers(o, lanes_of_o, p, lanes, v, v_stride, rows, panels, words, accumulate, false, ahead);
}
#if ATTENTION_PAIRS && !ATTENTION_TILES
static __attribute__((noinline)) void latent_scores_of_pairs(float *s, const float *k, int64_t k_stride, const float *q,
                                                             int keys, int panels, int64_t words,
                                                             struct latent_ahead *ahead) {
    latent_scores_in_registers(s, k, k_stride, q, keys, panels, words, true, ahead);
}
static __attribute__((noinline)) void latent_output_of_pairs(float *o, int64_t lanes_of_o, const float *p,
                                                             int64_t lanes, const float *v, int64_t v_stride, int rows,
                                                             int panels, int64_t words, bool accumulate,
                                                             struct latent_ahead *ahead) {
    latent_output_in_registers(o, lanes_of_o, p, lanes, v, v_stride, rows, panels, words, accumulate, true, ahead);
}
#endif

#if ATTENTION_TILES
/* Up to four row tiles by one panel, or one row tile by up to four panels: four accumulators, so that none waits for
 * itself. */
ATTENTION_INLINE void latent_tile_column(float *c, int64_t c_stride, const float *a, int64_t a_stride, const float *b,
                                         int64_t b_stride, const int tiles, int64_t words, struct latent_ahead *ahead) {
    int64_t c_bytes = c_stride * 4, a_bytes = a_stride * 4, b_bytes = b_stride * 4;
    _tile_zero(0);
    if (tiles > 1) _tile_zero(1);
    if (tiles > 2) _tile_zero(2);
    if (tiles > 3) _tile_zero(3);
    for (int64_t w = 0; w < words; w += 16) {
        ahead_fetch(ahead, ahead->lines);
        _tile_loadd(7, b + w * b_stride, b_bytes);
        _tile_loadd(4, a + w, a_bytes);
        _tile_dpbf16ps(0, 4, 7);
        if (tiles > 1) _tile_loadd(5, a + 16 * a_stride + w, a_bytes);
        if (tiles > 1) _tile_dpbf16ps(1, 5, 7);
        if (tiles > 2) _tile_loadd(6, a + 32 * a_stride + w, a_bytes);
        if (tiles > 2) _tile_dpbf16ps(2, 6, 7);
        if (tiles > 3) _tile_loadd(4, a + 48 * a_stride + w, a_bytes);
        if (tiles > 3) _tile_dpbf16ps(3, 4, 7);
    }
    _tile_stored(0, c, c_bytes);
    if (tiles > 1) _tile_stored(1, c + 16 * c_stride, c_bytes);
    if (tiles > 2) _tile_stored(2, c + 32 * c_stride, c_bytes);
    if (tiles > 3) _tile_stored(3, c + 48 * c_stride, c_bytes);
}
ATTENTION_INLINE void latent_tile_row(float *c, int64_t c_stride, const float *a, int64_t a_stride, const float *b,
                                      int64_t b_stride, const int tiles, int64_t words, bool accumulate,
                                      struct latent_ahead *ahead) {
    int64_t c_bytes = c_stride * 4, a_bytes = a_stride * 4, b_bytes = b_stride * 4;
    if (accumulate) {
        _tile_loadd(0, c, c_bytes);
        if (tiles > 1) _tile_loadd(1, c + 16, c_bytes);
        if (tiles > 2) _tile_loadd(2, c + 32, c_bytes);
        if (tiles > 3) _tile_loadd(3, c + 48, c_bytes);
    } else {
        _tile_zero(0);
        if (tiles > 1) _tile_zero(1);
        if (tiles > 2) _tile_zero(2);
        if (tiles > 3) _tile_zero(3);
    }
    for (int64_t w = 0; w < words; w += 16) {
        ahead_fetch(ahead, ahead->lines);
        _tile_loadd(7, a + w, a_bytes);
        _tile_loadd(4, b + w * b_stride, b_bytes);
        _tile_dpbf16ps(0, 7, 4);
        if (tiles > 1) _tile_loadd(5, b + w * b_stride + 16, b_bytes);
        if (tiles > 1) _tile_dpbf16ps(1, 7, 5);
        if (tiles > 2) _tile_loadd(6, b + w * b_stride + 32, b_bytes);
        if (tiles > 2) _tile_dpbf16ps(2, 7, 6);
        if (tiles > 3) _tile_loadd(4, b + w * b_stride + 48, b_bytes);
        if (tiles > 3) _tile_dpbf16ps(3, 7, 4);
    }
    _tile_stored(0, c, c_bytes);
    if (tiles > 1) _tile_stored(1, c + 16, c_bytes);
    if (tiles > 2) _tile_stored(2, c + 32, c_bytes);
    if (tiles > 3) _tile_stored(3, c + 48, c_bytes);
}
static __attribute__((noinline)) void latent_scores_of_pairs(float *s, const float *k, int64_t k_stride, const float *q,
                                                             int keys, int panels, int64_t words,
                                                             struct latent_ahead *ahead) {
    if (panels > 1) {
        product_in_tiles(s, panels * PANEL, k, k_stride, q, panels * PANEL, keys, panels, words, false);
        return;
    }
    __asm__ volatile("" ::: "memory");
    int i = 0;
    for (; i + 64 <= keys; i += 64)
        latent_tile_column(s + i * PANEL, PANEL, k + i * k_stride, k_stride, q, PANEL, 4, words, ahead);
    for (; i < keys; i += 16)
        latent_tile_column(s + i * PANEL, PANEL, k + i * k_stride, k_stride, q, PANEL, 1, words, ahead);
    __asm__ volatile("" ::: "memory");
}
static __attribute__((noinline)) void latent_output_of_tiles(float *o, int64_t columns, const float *p,
                                                             int64_t p_stride, const float *v, int rows, int panels,
                                                             int64_t words, bool accumulate,
                                                             struct latent_ahead *ahead) {
    if (rows > PANEL) {
        product_in_tiles(o, columns, p, p_stride, v, columns, rows, panels, words, accumulate);
        return;
    }
    __asm__ volatile("" ::: "memory");
    switch (panels) {
    case 4: latent_tile_row(o, columns, p, p_stride, v, columns, 4, words, accumulate, ahead); break;
    case 3: latent_tile_row(o, columns, p, p_stride, v, columns, 3, words, accumulate, ahead); break;
    case 2: latent_tile_row(o, columns, p, p_stride, v, columns, 2, words, accumulate, ahead); break;
    default: latent_tile_row(o, columns, p, p_stride, v, columns, 1, words, accumulate, ahead);
    }
    __asm__ volatile("" ::: "memory");
}
#endif

#endif
