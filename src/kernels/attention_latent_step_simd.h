/* One step of the latent core: some keys of the store against the queries of a unit.
 *
 * Both products take the rows as they lie there, because the scores are computed transposed, keys in rows and queries
 * in lanes: S^T = K Q^T      largest' = max(largest, max S)      P^T = 2^(S^T - largest') O = O 2^(largest - largest')
 * + P V                   sum likewise K is the A of the first product, V the B of the second: fp32 rows serve as both,
 * and products of pairs need neighbouring keys interleaved, which is one pass over a block for all its queries. */
#ifndef DEEPSEEK_KERNELS_ATTENTION_LATENT_STEP_SIMD_H
#define DEEPSEEK_KERNELS_ATTENTION_LATENT_STEP_SIMD_H

#include "kernels/attention_latent_product_simd.h"
#include "kernels/attention_latent_store_simd.h"

enum {
    SEGMENT = 512,                               /* keys */
    KEYS = ATTENTION_TILES ? 128 : 64,           /* that go through a softmax together: it divides SEGMENT */
    QUERIES = 128,                               /* rows of a unit, at most */
    LANES = ATTENTION_TILES ? 32 : 64,           /* queries side by side in a group of Q^T and S^T */
    COLUMNS = 64                                 /* channels side by side in a group of V and O */
};

/* What a unit's queries have made of some keys. */
struct latent_part {
    float *o;              /* groups of COLUMNS channels side by side, each [rows padded][columns of the group] */
    float *largest, *sum;  /* [rows padded] */
};
static int64_t latent_part_words(const struct latent_layout *layout) { return QUERIES * (layout->cols + 2); }
static struct latent_part latent_part_at(float *base, const struct latent_layout *layout) {
    float *largest = base + QUERIES * layout->cols;
    return (struct latent_part){base, largest, largest + QUERIES};
}

struct latent_scratch {
    float *q;              /* groups of LANES queries side by side, each [words][lanes of the group] */
    float *s;              /* likewise [KEYS][lanes]: scores, then weights or pairs of weights */
    float *weights;        /* [QUERIES][KEYS / 2] pairs of weights, for tiles */
    float *tokens;         /* [QUERIES] token of a row, counted from the unit's first */
    float *factors, *factors_of_part;   /* [QUERIES] */
    float *rows;           /* [KEYS][words], where the products cannot use what is stored */
    float *values;         /* [KEYS / 2][COLUMNS] pairs of some channels: small enough to stay in the first cache */
    float *row;            /* [16][words] */
    float *part, *whole;
};
static int64_t latent_scratch_cut(struct latent_scratch *scratch, float *base, const struct latent_layout *layout) {
    struct cutter cutter = {base, 0};
    bool pairs = layout->form == FORM_PAIRS, unpacked = layout->form == FORM_ROUNDED || layout->dtype == DTYPE_F8_E4M3;
    scratch->q = cut(&cutter, QUERIES * layout->words);
    scratch->s = cut(&cutter, KEYS * QUERIES);
    scratch->weights = cut(&cutter, ATTENTION_TILES ? QUERIES * KEYS / 2 : 0);
    scratch->tokens = cut(&cutter, QUERIES);
    scratch->factors = cut(&cutter, QUERIES);
    scratch->factors_of_part = cut(&cutter, QUERIES);
    scratch->rows = cut(&cutter, unpacked ? KEYS * layout->words : 0);
    scratch->values = cut(&cutter, pairs ? KEYS / 2 * COLUMNS : 0);
    scratch->row = cut(&cutter, 16 * layout->words);
    scratch->part = cut(&cutter, latent_part_words(layout));
    scratch->whole = cut(&cutter, latent_part_words(layout));
    return cutter.used;
}
struct latent_call {
    const struct attention_shape *shape;
    const struct attention_job *jobs;
    int count;
    struct source q;
    void *o;
    enum dtype o_dtype;
    int64_t o_stride;
    float *lse;
    int64_t rows;
    void *scratch;
    struct latent_layout layout;
    int unit_heads, unit_tokens, parts;   /* as in forward_call */
    float scale;                          /* scale / ln 2 */
    _Atomic int64_t next;                 /* unit, or item, to be taken */
    /* Where threads share units: an item is a segment of a unit, counted through all units. Its part waits in slot item
     * % slots until all before it are merged. */
    int64_t slots;
    float *slot;                          /* [slots + 1] parts; the last is what is merged of the current unit */
    _Atomic int64_t *done;                /* [slots] item + 1 that lies there complete */
    _Atomic int64_t merged;               /* items */
    atomic_flag merging;
};

static inline int latent_lanes(int64_t width, int group, int most) {
    return least(width - (int64_t)group * most, most);
}
static inline int unit_rows(const struct unit *unit) { return (int)(unit->t1 - unit->t0) * (unit->h1 - unit->h0); }
static inline int unit_padded_rows(const struct unit *unit) { return (int)round_up(unit_rows(unit), PANEL); }

/* Q^T of a unit, and the tokens of its rows. Rows past its end are zeros, of its last token. */
static void latent_load_queries(const struct latent_call *call, const struct unit *unit,
                                const struct latent_scratch *scratch) {
    const struct latent_layout *layout = &call->layout;
    int heads = unit->h1 - unit->h0, rows = unit_rows(unit), padded = unit_padded_rows(unit);
    for (int r0 = 0; r0 < padded; r0 += PANEL) {
        for (int r = r0; r < r0 + PANEL; r++) {
            float *to = scratch->row + (r - r0) * layout->words;
            scratch->tokens[r] = (float)((r < rows ? r : rows - 1) / heads);
            if (r >= rows) {
                zero_words(to, layout->words);
                continue;
            }
            struct source q = call->q;
            int64_t row = unit->job->row + unit->t0 + r / heads;
            q.offset = (int64_t)(unit->h0 + r % heads) * call->shape->qk_dim;
            q.dim = layout->v_dim;
            load_words(to, &q, row, 0, (int)layout->v_product_words, layout->form);
            q.offset += layout->v_dim;
            q.dim = layout->k_dim;
            load_words(to + layout->v_product_words, &q, row, 0, (int)(layout->words - layout->v_product_words),
                       layout->form);
        }
        int group = r0 / LANES, lanes = latent_lanes(padded, group, LANES);
        transpose(scratch->q + (int64_t)group * LANES * layout->words + r0 % LANES, lanes, scratch->row, layout->words,
                  PANEL, layout->words);
    }
}

#if ATTENTION_PAIRS
/* Codes of one group as bf16, 32 at a time: the exponent field of a normal code e, m is e + 120 + n, the mantissa m <<
 * 4; the eight small ones come from a table. */
ATTENTION_INLINE void latent_unpack_codes(float *to, const uint8_t *codes, float scale, int count) {
    const __m512i power = _mm512_set1_epi16((short)((int)(bits_from_float(scale) >> 23 << 7) - (127 << 7))),
                  bias = _mm512_add_epi16(power, _mm512_set1_epi16(120 << 7));
    /* 2^-9 and its multiples */
    static const uint16_t small[8] = {0,        118 << 7,        119 << 7,        (119 << 7) + 64,
                                      120 << 7, (120 << 7) + 32, (120 << 7) + 64, (120 << 7) + 96};
    __m512i table = _mm512_maskz_add_epi16(
        0xFE, _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(const void *)small)), power);
    for (int c = 0; c < count; c += 32) {
        __m512i code = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)(const void *)(codes + c)));
        __m512i size = _mm512_add_epi16(_mm512_slli_epi16(_mm512_and_si512(code, _mm512_set1_epi16(0x7F)), 4), bias);
        size = _mm512_mask_permutexvar_epi16(size, _mm512_testn_epi16_mask(code, _mm512_set1_epi16(0x78)), code, table);
        /* size | (code << 8 & sign) */
        _mm512_storeu_si512(to + c / 2, _mm512_ternarylogic_epi32(size, _mm512_slli_epi16(code, 8),
                                                                  _mm512_set1_epi16((short)0x8000), 0xF8));
    }
}
#endif
/* Rows of words for the products from what is stored. */
static void latent_unpack_row(float *to, const struct latent_row *row, const struct latent_layout *layout) {
    int others = 2 * layout->k_words;
    if (layout->form == FORM_PAIRS) {
#if ATTENTION_PAIRS
        for (int c = 0; c < layout->cols; c += CODES_GROUP)
            latent_unpack_codes(to + c / 2, row->codes + c, row->scales[c / CODES_GROUP],
                                least(layout->cols - c, CODES_GROUP));
#endif
        memcpy(to + layout->v_words, row->others, (size_t)others * 2);
    } else {
        for (int c = 0; c < layout->cols; c += VF) vf_store(to + c, latent_value(row, layout, c));
        for (int c = 0; c < others; c += VF) vf_store(to + layout->cols + c, latent_other(row, layout, c));
    }
}

#if ATTENTION_PAIRS
/* Up to COLUMNS channels of n rows of pairs as pairs of neighbouring keys. Within 32 channels the order is
 * 0..3 8..11 16..19 24..27 4..7 12.. of them: that of the unpacking instructions. Keys n..padded are zeros. */
ATTENTION_INLINE void latent_pack_columns(float *to, const float *rows, int64_t stride, const int columns, int n,
                                          int padded, struct latent_ahead *ahead) {
    for (int p = 0; p < padded; p += 2, rows += 2 * stride, to += columns) {
        if (ATTENTION_TILES) ahead_fetch(ahead, 1);
        for (int c = 0; c < columns; c += 32) {
            __m512i a = p < n ? _mm512_loadu_si512(rows + c / 2) : _mm512_setzero_si512(),
                    b = p + 1 < n ? _mm512_loadu_si512(rows + stride + c / 2) : _mm512_setzero_si512();
            _mm512_storeu_si512(to + c, _mm512_unpacklo_epi16(a, b));
            _mm512_storeu_si512(to + c + 16, _mm512_unpackhi_epi16(a, b));
        }
    }
}
static void latent_pack_values(float *to, const float *rows, int64_t stride, int columns, int n, int padded,
                               struct latent_ahead *ahead) {
    if (columns == COLUMNS) latent_pack_columns(to, rows, stride, COLUMNS, n, padded, ahead);
    else latent_pack_columns(to, rows, stride, COLUMNS / 2, n, padded, ahead);
}
#endif
/* Two vectors of O, of 2 VF channels, in their order. */
static inline void latent_order(enum form form, vf *a, vf *b) {
#if ATTENTION_PAIRS
    if (form == FORM_PAIRS) {
        vf low = *a, high = *b;
        *a = _mm512_permutex2var_ps(low, _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23),
                                    high);
        *b = _mm512_permutex2var_ps(
            low, _mm512_setr_epi32(8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31), high);
    }
#else
    (void)form, (void)a, (void)b;
#endif
}

/* Scores of `n` keys become weights, up to `padded` keys of which those past n weigh nothing. `first` is the number of
 * keys that the unit's first token sees. */
ATTENTION_INLINE void latent_softmax_lanes(float *s, int64_t stride, float *largest, float *sum, float *factors,
                                           vf limit, int n, int padded, float scale, const bool whole,
                                           const enum form form) {
    enum { CHAINS = 4 };
    vf top[CHAINS], total[CHAINS], none = vf_set(-INFINITY), factor = vf_set(scale);
    for (int i = 0; i < CHAINS; i++) {
        top[i] = none;
        total[i] = vf_zero();
    }
    for (int u = 0; u < (whole ? KEYS : n); u += CHAINS) {
        for (int i = 0; i < CHAINS; i++) {
            if (!whole && u + i >= n) break;
            vf x = vf_load(s + (u + i) * stride);
            if (!whole) x = vf_select(vf_less(vf_set((float)(u + i)), limit), x, none);
            top[i] = vf_max(top[i], x);
        }
    }
    vf before = vf_load(largest),
       now = vf_max(vf_mul(vf_max(vf_max(top[0], top[1]), vf_max(top[2], top[3])), factor), before);
    vf kept = exp2_or_zero(vf_sub(before, now));
    vf_store(largest, now);
    vf_store(factors, kept);
    for (int u = 0; u < (whole ? KEYS : padded); u += CHAINS) {
        vf p[CHAINS];
        for (int i = 0; i < CHAINS; i++) {
            vf x = vf_load(s + (u + i) * stride);
            if (!whole) x = vf_select(vf_less(vf_set((float)(u + i)), limit), x, none);
            p[i] = exp2_or_zero(vf_fms(x, factor, now));
            total[i] = vf_add(total[i], p[i]);
        }
        if (form == FORM_PAIRS) {
#if ATTENTION_PAIRS
            const __m512i interleave = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,
                                                        23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
            for (int i = 0; i < CHAINS; i += 2) {   /* a row of pairs is written where scores were read before */
                __m512i codes = (__m512i)_mm512_cvtne2ps_pbh(p[i + 1], p[i]);
                _mm512_storeu_si512(s + (u + i) / 2 * stride, _mm512_permutexvar_epi16(interleave, codes));
            }
#endif
        } else {
            for (int i = 0; i < CHAINS; i++)
                vf_store(s + (u + i) * stride, form == FORM_ROUNDED ? vf_round_to_bf16(p[i]) : p[i]);
        }
    }
    vf_store(sum, vf_fma(vf_load(sum), kept, vf_add(vf_add(total[0], total[1]), vf_add(total[2], total[3]))));
}
static void latent_softmax(const struct latent_scratch *scratch, const struct latent_part *part, int padded_rows,
                           int64_t first, int n, int padded, float scale, enum form form) {
    bool whole = first >= KEYS;
    for (int r = 0; r < padded_rows; r += VF) {
        int group = r / LANES, lanes = latent_lanes(padded_rows, group, LANES);
        float *s = scratch->s + (int64_t)group * LANES * KEYS + r % LANES, *largest = part->largest + r,
              *sum = part->sum + r, *factors = scratch->factors + r;
        vf limit = vf_add(vf_load(scratch->tokens + r), vf_set(whole ? (float)KEYS : (float)first));
        if (form == FORM_FP32) {
            if (whole) latent_softmax_lanes(s, lanes, largest, sum, factors, limit, n, padded, scale, true, FORM_FP32);
            else latent_softmax_lanes(s, lanes, largest, sum, factors, limit, n, padded, scale, false, FORM_FP32);
        } else {
            const enum form rounded = ATTENTION_PAIRS ? FORM_PAIRS : FORM_ROUNDED;
            if (whole) latent_softmax_lanes(s, lanes, largest, sum, factors, limit, n, padded, scale, true, rounded);
            else latent_softmax_lanes(s, lanes, largest, sum, factors, limit, n, padded, scale, false, rounded);
        }
    }
}

/* O of a part times a factor per row. */
static void latent_scale_rows(float *o, int cols, int padded_rows, int rows, const float *factors) {
    for (int r = 0; r < rows; r++) {
        if (factors[r] == 1.0f) continue;
        for (int c = 0; c < cols; c += COLUMNS) {
            int columns = latent_lanes(cols, c / COLUMNS, COLUMNS);
            float *row = o + (int64_t)c * padded_rows + r * columns;
            for (int i = 0; i < columns; i += VF) vf_store(row + i, vf_mul(vf_load(row + i), vf_set(factors[r])));
        }
    }
}

/* Spreads what is to be fetched over the loops of a whole step. */
static void ahead_begin(struct latent_ahead *ahead, const struct latent_layout *layout, int padded_rows) {
    int64_t bytes = ahead->end - ahead->at, words = 0;
    for (int r = 0; r < padded_rows; r += LANES) {
        int panels = latent_lanes(padded_rows, r / LANES, LANES) / PANEL;
        words += layout->words * (VF == 16 ? KEYS / (panels == 1 ? 16 : panels == 2 ? 8 : 4) : KEYS / 4 * panels);
    }
    words += (int64_t)(padded_rows / 4) * (VF == 16 ? (layout->cols + COLUMNS - 1) / COLUMNS : layout->cols / PANEL) *
             (layout->form == FORM_PAIRS ? KEYS / 2 : KEYS);
    ahead->stride = bytes > words * 64 ? 64 : (bytes + words - 1) / words;
    int64_t lines = bytes / 64 - KEYS / 2 * (layout->cols / COLUMNS),
            steps = KEYS / 64 * (layout->words / 16) + layout->cols / COLUMNS * (KEYS / 32);
    ahead->lines = lines > 0 ? (int)((lines + steps - 1) / steps) : 0;
}

/* Keys base..base + n of a unit, which begin its segment or follow others of it. */
static void latent_step(const struct latent_call *call, const struct unit *unit, const struct latent_scratch *scratch,
                        const struct latent_part *part, int64_t base, int n, bool begin, struct latent_ahead *ahead) {
    const struct latent_layout *layout = &call->layout;
    const bool pairs = layout->form == FORM_PAIRS;
    int rows = unit_rows(unit), padded_rows = unit_padded_rows(unit), keys = (int)round_up(n, 16);
    int padded = (int)round_up(n, pairs && ATTENTION_TILES ? 32 : 4);
    int64_t stride = layout->words;
    const float *k = scratch->rows;
    ahead_begin(ahead, layout, padded_rows);
    if (layout->form == FORM_ROUNDED || layout->dtype == DTYPE_F8_E4M3) {
        for (int p = 0; p < n; p++) {
            struct latent_row row = latent_row(layout, unit->job->kv, base + p);
            latent_unpack_row(scratch->rows + p * stride, &row, layout);
        }
    } else {
        k = latent_row(layout, unit->job->kv, base).words;
    }
    for (int r = 0; r < padded_rows; r += LANES) {
        int lanes = latent_lanes(padded_rows, r / LANES, LANES);
        float *s = scratch->s + (int64_t)r * KEYS;
        const float *q = scratch->q + r * layout->words;
#if ATTENTION_PAIRS
        if (pairs) {
            latent_scores_of_pairs(s, k, stride, q, keys, lanes / PANEL, layout->words, ahead);
            continue;
        }
#endif
        latent_scores_of_floats(s, k, stride, q, keys, lanes / PANEL, layout->words, ahead);
    }
    latent_softmax(scratch, part, padded_rows, unit->job->position + unit->t0 + 1 - base, n, padded, call->scale,
                   layout->form);
    if (!begin) latent_scale_rows(part->o, layout->cols, padded_rows, rows, scratch->factors);
#if ATTENTION_TILES
    if (pairs) {
        for (int r = 0; r < padded_rows; r += PANEL) {
            int lanes = latent_lanes(padded_rows, r / LANES, LANES);
            const float *s = scratch->s + (int64_t)(r / LANES) * LANES * KEYS + r % LANES;
            transpose(scratch->weights + r * (KEYS / 2), KEYS / 2, s, lanes, padded / 2, PANEL);
        }
    }
#endif
    for (int c = 0; c < layout->cols; c += COLUMNS) {
        int columns = latent_lanes(layout->cols, c / COLUMNS, COLUMNS);
        float *o = part->o + (int64_t)c * padded_rows;
        const float *v = k + c;
        int64_t v_stride = stride;
#if ATTENTION_PAIRS
        if (pairs) {
            v = scratch->values;
            v_stride = columns;
            latent_pack_values(scratch->values, k + c / 2, stride, columns, n, padded, ahead);
        }
#endif
#if ATTENTION_TILES
        if (pairs) {
            latent_output_of_tiles(o, columns, scratch->weights, KEYS / 2, v, padded_rows, columns / PANEL, padded / 2,
                                   !begin, ahead);
            continue;
        }
#endif
        for (int r = 0; r < rows; r += LANES) {
            int lanes = latent_lanes(padded_rows, r / LANES, LANES), count = (int)round_up(least(rows - r, LANES), 4);
            const float *s = scratch->s + (int64_t)r * KEYS;
#if ATTENTION_PAIRS && !ATTENTION_TILES
            if (pairs) {
                latent_output_of_pairs(o + r * columns, columns, s, lanes, v, v_stride, count, columns / PANEL,
                                       (n + 1) / 2, !begin, ahead);
                continue;
            }
#endif
            latent_output_of_floats(o + r * columns, columns, s, lanes, v, v_stride, count, columns / PANEL, n, !begin,
                                    ahead);
        }
    }
}

#endif
