/* The forward over one store whose values are the first channels of its keys (attention_shape.value_in_key), included
 * by attention_simd.h.
 *
 * The store holds positions as rows of words: [v_dim channels padded | the others padded], each part to 16 words, fp32
 * numbers or pairs of bf16. With F8_E4M3 64 positions are a block: [64][v_dim padded] codes, [64][groups of 128]
 * scales, [64][words of the others].
 *
 * Both products take the rows as they lie there, because the scores are computed transposed, keys in rows and queries
 * in lanes: S^T = K Q^T      largest' = max(largest, max S)      P^T = 2^(S^T - largest')      O = O 2^(largest -
 * largest') + P V K is the A of the first product, V the B of the second: fp32 rows serve as both, and products of
 * pairs need neighbouring keys interleaved, which is one pass over a block for all its queries.
 *
 * Keys are cut at absolute multiples of SEGMENT. Each segment begins a softmax of its own, and segments are merged in
 * order by one formula, so that it makes no difference whether one thread goes through them or several share them. */
#include <float.h>
#include <sched.h>

#include "kernels/attention_codes.h"

enum {
    SEGMENT = 512,                               /* keys */
    KEYS = ATTENTION_TILES ? 128 : 64,           /* that go through a softmax together: it divides SEGMENT */
    QUERIES = 128,                               /* rows of a unit, at most */
    LANES = ATTENTION_TILES ? 32 : 64,           /* queries side by side in a group of Q^T and S^T */
    COLUMNS = 64                                 /* channels side by side in a group of V and O */
};

/* ---- the store --------------------------------------------------------------------------------------------------- */

struct latent_layout {
    enum dtype dtype;
    enum form form;                /* of the products */
    int v_dim, k_dim;              /* channels of the value, and the others */
    int v_words, k_words;          /* stored words of a row; with codes v_words is what they decode to */
    int groups;                    /* of codes with one scale */
    int cols;                      /* v_dim padded */
    int64_t block_bytes;           /* of 64 positions */
    int64_t words, v_product_words;   /* of a row in the products, and of its first part */
};
static struct latent_layout latent_layout(const struct attention_shape *shape) {
    struct latent_layout layout = {.dtype = shape->kv_dtype,
                                   .v_dim = shape->v_dim,
                                   .k_dim = shape->qk_dim - shape->v_dim,
                                   .groups = codes_groups(shape->v_dim)};
    bool bf16 = shape->kv_dtype != DTYPE_F32;
    layout.form = !bf16 ? FORM_FP32 : ATTENTION_PAIRS ? FORM_PAIRS : FORM_ROUNDED;
    layout.v_words = (int)round_up(bf16 ? (layout.v_dim + 1) / 2 : layout.v_dim, 16);
    layout.k_words = (int)round_up(bf16 ? (layout.k_dim + 1) / 2 : layout.k_dim, 16);
    layout.cols = bf16 ? 2 * layout.v_words : layout.v_words;
    layout.block_bytes = BLOCK * 4 * (int64_t)(layout.v_words + layout.k_words);
    if (shape->kv_dtype == DTYPE_F8_E4M3)
        layout.block_bytes = BLOCK * (layout.cols + 4 * (int64_t)(layout.groups + layout.k_words));
    layout.v_product_words = layout.form == FORM_ROUNDED ? 2 * layout.v_words : layout.v_words;
    layout.words = layout.form == FORM_ROUNDED ? 2 * (layout.v_words + layout.k_words)
                                               : layout.v_words + layout.k_words;
    return layout;
}
static size_t latent_kv_bytes(const struct attention_shape *shape, int64_t capacity) {
    return (size_t)(round_up(capacity, BLOCK) / BLOCK * latent_layout(shape).block_bytes);
}

/* Where the parts of a position lie. */
struct latent_row {
    float *words;          /* of the value, without codes */
    uint8_t *codes;
    float *scales;
    float *others;         /* words of the other channels */
};
static inline struct latent_row latent_row(const struct latent_layout *layout, void *kv, int64_t position) {
    char *block = (char *)kv + position / BLOCK * layout->block_bytes;
    int64_t p = position % BLOCK;
    if (layout->dtype == DTYPE_F8_E4M3) {
        char *scales = block + BLOCK * (int64_t)layout->cols, *others = scales + BLOCK * 4 * (int64_t)layout->groups;
        return (struct latent_row){.codes = (uint8_t *)block + p * layout->cols,
                                   .scales = (float *)(void *)scales + p * layout->groups,
                                   .others = (float *)(void *)others + p * layout->k_words};
    }
    float *words = (float *)(void *)block + p * (layout->v_words + layout->k_words);
    return (struct latent_row){.words = words, .others = words + layout->v_words};
}

/* VF codes of the numbers x, |x| <= 448: to nearest even, below 2^-6 to multiples of 2^-9. */
static inline void codes_store(uint8_t *to, vf x) {
    float lanes[VF];
    vf_store(lanes, x);
    for (int i = 0; i < VF; i++) to[i] = e4m3_from_float(lanes[i]);
}
/* VF numbers of codes, without their scale. */
static inline vf codes_load(const uint8_t *from) {
#if VF == 16
    vi code = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)from)),
       sign = _mm512_slli_epi32(_mm512_and_si512(code, _mm512_set1_epi32(0x80)), 24);
    vi size = _mm512_and_si512(code, _mm512_set1_epi32(0x7F)),
       normal = _mm512_add_epi32(_mm512_slli_epi32(size, 20), _mm512_set1_epi32(120 << 23));
    vf small = _mm512_mul_ps(_mm512_cvtepi32_ps(size), vf_set(0x1p-9f));
    vi magnitude = _mm512_mask_mov_epi32(normal, _mm512_cmplt_epi32_mask(size, _mm512_set1_epi32(8)),
                                         _mm512_castps_si512(small));
    return _mm512_castsi512_ps(_mm512_or_si512(magnitude, sign));
#else
    vi code = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)from)),
       sign = _mm256_slli_epi32(_mm256_and_si256(code, _mm256_set1_epi32(0x80)), 24);
    vi size = _mm256_and_si256(code, _mm256_set1_epi32(0x7F)),
       normal = _mm256_add_epi32(_mm256_slli_epi32(size, 20), _mm256_set1_epi32(120 << 23));
    vf small = _mm256_mul_ps(_mm256_cvtepi32_ps(size), vf_set(0x1p-9f));
    vi magnitude = _mm256_blendv_epi8(normal, _mm256_castps_si256(small),
                                      _mm256_cmpgt_epi32(_mm256_set1_epi32(8), size));
    return _mm256_castsi256_ps(_mm256_or_si256(magnitude, sign));
#endif
}

static void latent_write_codes(const struct latent_row *to, const struct latent_layout *layout, const struct source *v,
                               int64_t row) {
    for (int group = 0; group < layout->groups; group++) {
        int first = group * CODES_GROUP, last = least(layout->cols, first + CODES_GROUP);
        vf largest = vf_zero();
        for (int c = first; c < last; c += VF) largest = vf_max(largest, vf_abs(source_load(v, row, c)));
        int exponent = codes_exponent(vf_largest(largest));
        to->scales[group] = codes_power(exponent);
        for (int c = first; c < last; c += VF)
            codes_store(to->codes + c, vf_mul(source_load(v, row, c), vf_set(codes_power(-exponent))));
    }
}

struct latent_write_call {
    const struct attention_job *jobs;
    int count;
    struct source k, v;
    struct latent_layout layout;
};
static void latent_write_task(void *context, int thread, int threads) {
    const struct latent_write_call *call = context;
    const struct latent_layout *layout = &call->layout;
    enum form form = layout->dtype == DTYPE_F32 ? FORM_FP32 : FORM_PAIRS;
    for (int j = 0; j < call->count; j++) {
        const struct attention_job *job = &call->jobs[j];
        int64_t begin, end;
        pool_share(job->count, 1, thread, threads, &begin, &end);
        for (int64_t t = begin; t < end; t++) {
            struct latent_row to = latent_row(layout, job->kv, job->position + t);
            if (to.codes) latent_write_codes(&to, layout, &call->v, job->row + t);
            else load_words(to.words, &call->v, job->row + t, 0, layout->v_words, form);
            load_words(to.others, &call->k, job->row + t, 0, layout->k_words, form);
        }
    }
}
enum { WRITE_ALONE = 1 << 15 };   /* numbers that take one thread about as long as handing work to another */

static void latent_kv_write(struct pool *pool, const struct attention_shape *shape, const struct attention_job *jobs,
                            int count, const void *k, enum dtype k_dtype, int64_t k_stride, const void *v,
                            enum dtype v_dtype, int64_t v_stride) {
    struct latent_write_call call = {
        .jobs = jobs,
        .count = count,
        .layout = latent_layout(shape),
        .k = {.data = k, .dtype = k_dtype, .stride = k_stride, .dim = shape->qk_dim - shape->v_dim},
        .v = {.data = v, .dtype = v_dtype, .stride = v_stride, .dim = shape->v_dim}};
    int64_t rows = 0;
    for (int j = 0; j < count; j++) rows += jobs[j].count;
    pool_run(rows * shape->qk_dim < WRITE_ALONE ? NULL : pool, latent_write_task, &call);
}

/* A row's numbers in fp32, [cols] of the value. */
static inline vf latent_value(const struct latent_row *row, const struct latent_layout *layout, int c) {
    if (row->codes) return vf_mul(codes_load(row->codes + c), vf_set(row->scales[c / CODES_GROUP]));
    return vf_load_as(row->words, layout->dtype, c);
}
static inline vf latent_other(const struct latent_row *row, const struct latent_layout *layout, int c) {
    return vf_load_as(row->others, layout->dtype == DTYPE_F32 ? DTYPE_F32 : DTYPE_BF16, c);
}
static inline void store_some(void *to, enum dtype dtype, int64_t at, vf x, int n) {
    if (n >= VF) vf_store_as(to, dtype, at, x);
    else vf_store_as_part(to, dtype, at, x, n);
}

struct latent_read_call {
    const struct attention_job *job;
    int64_t first, count;
    void *k, *v;
    enum dtype k_dtype, v_dtype;
    int64_t k_stride, v_stride;
    struct latent_layout layout;
};
static void latent_read_task(void *context, int thread, int threads) {
    const struct latent_read_call *call = context;
    const struct latent_layout *layout = &call->layout;
    int64_t begin, end;
    pool_share(call->count, 1, thread, threads, &begin, &end);
    for (int64_t t = begin; t < end; t++) {
        struct latent_row row = latent_row(layout, call->job->kv, call->first + t);
        for (int c = 0; c < layout->v_dim; c += VF)
            store_some(call->v, call->v_dtype, t * call->v_stride + c, latent_value(&row, layout, c),
                       layout->v_dim - c);
        for (int c = 0; c < layout->k_dim; c += VF)
            store_some(call->k, call->k_dtype, t * call->k_stride + c, latent_other(&row, layout, c),
                       layout->k_dim - c);
    }
}
static void latent_kv_read(struct pool *pool, const struct attention_shape *shape, const struct attention_job *job,
                           int64_t first, int64_t count, void *k, enum dtype k_dtype, int64_t k_stride, void *v,
                           enum dtype v_dtype, int64_t v_stride) {
    struct latent_read_call call = {.job = job,
                                    .first = first,
                                    .count = count,
                                    .k = k,
                                    .v = v,
                                    .k_dtype = k_dtype,
                                    .v_dtype = v_dtype,
                                    .k_stride = k_stride,
                                    .v_stride = v_stride,
                                    .layout = latent_layout(shape)};
    pool_run(pool, latent_read_task, &call);
}

/* ---- scratch ----------------------------------------------------------------------------------------------------- */

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
/* Parts that wait for their turn where threads share a unit's keys, and one more for what was merged. */
static inline int64_t latent_slots(int threads) { return 3 * (int64_t)threads + 1; }

static size_t latent_scratch_bytes(const struct attention_shape *shape, int64_t max_position, int threads) {
    (void)max_position;
    struct latent_layout layout = latent_layout(shape);
    struct latent_scratch scratch;
    int64_t words = threads * latent_scratch_cut(&scratch, NULL, &layout) +
                    (latent_slots(threads) + 1) * round_up(latent_part_words(&layout), 16);
    return 64 + (size_t)words * sizeof(float);
}

/* ---- products ---------------------------------------------------------------------------------------------------- */

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

/* ---- one step of keys -------------------------------------------------------------------------------------------- */

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

/* ---- segments ---------------------------------------------------------------------------------------------------- */

static inline int64_t unit_keys(const struct unit *unit) { return unit->job->position + unit->t1; }
static inline int64_t unit_segments(const struct unit *unit) { return (unit_keys(unit) + SEGMENT - 1) / SEGMENT; }

/* The store of the step that begins at a key, if the unit has it. */
static struct latent_ahead latent_keys_ahead(const struct latent_call *call, const struct unit *unit, int64_t base) {
    int64_t end = base + KEYS < unit_keys(unit) ? base + KEYS : unit_keys(unit), bytes = call->layout.block_bytes;
    const char *store = unit->job->kv;
    if (base >= end) return (struct latent_ahead){store, store, 0, 0};
    return (struct latent_ahead){store + base / BLOCK * bytes, store + round_up(end, BLOCK) / BLOCK * bytes, 0, 0};
}

/* `next`: what is read after this segment. */
static void latent_segment(const struct latent_call *call, const struct unit *unit,
                           const struct latent_scratch *scratch, const struct latent_part *part, int64_t segment,
                           struct latent_ahead next) {
    int64_t begin = segment * SEGMENT, end = begin + SEGMENT < unit_keys(unit) ? begin + SEGMENT : unit_keys(unit);
    /* Smaller than any score, and finite: a row that sees no key of the segment leaves with this and a sum of zero. */
    for (int r = 0; r < unit_padded_rows(unit); r++) part->largest[r] = -FLT_MAX;
    zero_words(part->sum, unit_padded_rows(unit));
    for (int64_t base = begin; base < end; base += KEYS) {
        struct latent_ahead ahead = base + KEYS < end ? latent_keys_ahead(call, unit, base + KEYS) : next;
        latent_step(call, unit, scratch, part, base, least(end - base, KEYS), base == begin, &ahead);
    }
}

/* largest' = max(largest, largest_part)      O = O 2^(largest - largest') + O_part 2^(largest_part - largest')      sum
 * likewise */
static void latent_merge(const struct latent_part *whole, const struct latent_part *part, int cols, int padded_rows,
                         float *factors /* [padded_rows] */, float *factors_of_part) {
    for (int r = 0; r < padded_rows; r += VF) {
        vf a = vf_load(whole->largest + r), b = vf_load(part->largest + r), now = vf_max(a, b);
        vf keep = exp2_or_zero(vf_sub(a, now)), add = exp2_or_zero(vf_sub(b, now));
        vf_store(whole->largest + r, now);
        vf_store(whole->sum + r, vf_fma(vf_load(part->sum + r), add, vf_mul(vf_load(whole->sum + r), keep)));
        vf_store(factors + r, keep);
        vf_store(factors_of_part + r, add);
    }
    for (int c = 0; c < cols; c += COLUMNS) {
        int columns = latent_lanes(cols, c / COLUMNS, COLUMNS);
        for (int r = 0; r < padded_rows; r++) {
            float *to = whole->o + (int64_t)c * padded_rows + r * columns;
            const float *from = part->o + (int64_t)c * padded_rows + r * columns;
            for (int i = 0; i < columns; i += VF)
                vf_store(to + i, vf_fma(vf_load(from + i), vf_set(factors_of_part[r]),
                                        vf_mul(vf_load(to + i), vf_set(factors[r]))));
        }
    }
}

static void latent_finish(const struct latent_call *call, const struct unit *unit, const struct latent_part *whole) {
    const struct latent_layout *layout = &call->layout;
    int heads = unit->h1 - unit->h0, rows = unit_rows(unit), padded_rows = unit_padded_rows(unit);
    for (int r = 0; r < rows; r++) {
        int head = unit->h0 + r % heads;
        int64_t row = unit->job->row + unit->t0 + r / heads, at = row * call->o_stride + (int64_t)head * layout->v_dim;
        vf inverse = vf_set(1.0f / whole->sum[r]);
        for (int c = 0; c < layout->v_dim; c += 2 * VF) {
            int columns = latent_lanes(layout->cols, c / COLUMNS, COLUMNS);
            const float *o = whole->o + (int64_t)(c / COLUMNS) * COLUMNS * padded_rows + r * columns + c % COLUMNS;
            bool both = c + VF < layout->cols;
            vf x[2] = {vf_load(o), both ? vf_load(o + VF) : vf_zero()};
            latent_order(layout->form, &x[0], &x[1]);
            /* + 0: the sign of a zero may depend on masked keys */
            for (int i = 0; i < 2 && c + i * VF < layout->v_dim; i++) {
                store_some(call->o, call->o_dtype, at + c + i * VF, vf_add(vf_mul(x[i], inverse), vf_zero()),
                           layout->v_dim - c - i * VF);
            }
        }
        if (call->lse) call->lse[head * call->rows + row] = (float)(whole->largest[r] * LN_2 + simd_log(whole->sum[r]));
    }
}

/* ---- units, and items that threads share ------------------------------------------------------------------------- */

static inline int64_t latent_units_of_job(const struct latent_call *call, const struct attention_job *job) {
    return (job->count + call->unit_tokens - 1) / call->unit_tokens * call->parts;
}
/* Unit u of a job: the longest first. */
static struct unit latent_unit(const struct latent_call *call, const struct attention_job *job, int64_t u) {
    struct unit unit = {.job = job};
    int64_t blocks = (job->count + call->unit_tokens - 1) / call->unit_tokens;
    unit.t0 = (blocks - 1 - u / call->parts) * call->unit_tokens;
    unit.t1 = unit.t0 + least(job->count - unit.t0, call->unit_tokens);
    unit.h0 = (int)(u % call->parts) * call->unit_heads;
    unit.h1 = unit.h0 + least(call->shape->heads - unit.h0, call->unit_heads);
    return unit;
}

/* Walks units, or the items of all units, upwards. */
struct latent_walk {
    int job;
    int64_t in_job;        /* unit of the job */
    int64_t first;         /* its number, or that of its first item */
};
/* The unit that holds a number not below those asked for before; false past the last. */
static bool latent_walk_to(const struct latent_call *call, struct latent_walk *walk, int64_t number, bool items,
                           struct unit *unit) {
    for (; walk->job < call->count; walk->job++, walk->in_job = 0) {
        const struct attention_job *job = &call->jobs[walk->job];
        int64_t units = latent_units_of_job(call, job);
        if (!items && number - walk->first >= units - walk->in_job) {
            walk->first += units - walk->in_job;
            continue;
        }
        for (; walk->in_job < units; walk->in_job++) {
            *unit = latent_unit(call, job, walk->in_job);
            int64_t size = items ? unit_segments(unit) : 1;
            if (number - walk->first < size) return true;
            walk->first += size;
        }
    }
    return false;
}

static void latent_units_task(void *context, int thread, int threads) {
    struct latent_call *call = context;
    const struct latent_layout *layout = &call->layout;
    (void)threads;
    struct latent_scratch scratch;
    struct latent_walk walk = {0};
    struct unit unit;
    int64_t words = latent_scratch_cut(&scratch, NULL, layout);
    latent_scratch_cut(&scratch, scratch_of_thread(call->scratch, words, thread), layout);
    struct latent_part part = latent_part_at(scratch.part, layout), whole = latent_part_at(scratch.whole, layout);
    tiles_begin();
    while (latent_walk_to(call, &walk, atomic_fetch_add_explicit(&call->next, 1, memory_order_relaxed), false, &unit)) {
        latent_load_queries(call, &unit, &scratch);
        latent_segment(call, &unit, &scratch, &whole, 0, latent_keys_ahead(call, &unit, SEGMENT));
        for (int64_t segment = 1; segment < unit_segments(&unit); segment++) {
            latent_segment(call, &unit, &scratch, &part, segment,
                           latent_keys_ahead(call, &unit, (segment + 1) * SEGMENT));
            latent_merge(&whole, &part, layout->cols, unit_padded_rows(&unit), scratch.factors,
                         scratch.factors_of_part);
        }
        latent_finish(call, &unit, &whole);
    }
    tiles_end();
}

/* Merges what is complete, in order, unless another thread is at it. */
static void latent_merge_done(struct latent_call *call, struct latent_walk *walk,
                              const struct latent_scratch *scratch) {
    const struct latent_layout *layout = &call->layout;
    int64_t size = round_up(latent_part_words(layout), 16);
    struct latent_part whole = latent_part_at(call->slot + call->slots * size, layout);
    for (;;) {
        if (atomic_flag_test_and_set(&call->merging)) return;
        int64_t item = atomic_load(&call->merged);
        for (; atomic_load(&call->done[item % call->slots]) == item + 1; item++) {
            struct unit unit;
            latent_walk_to(call, walk, item, true, &unit);
            struct latent_part part = latent_part_at(call->slot + item % call->slots * size, layout);
            int64_t padded_rows = unit_padded_rows(&unit);
            if (item == walk->first) {
                memcpy(whole.o, part.o, (size_t)(padded_rows * layout->cols) * sizeof(float));
                memcpy(whole.largest, part.largest, (size_t)padded_rows * sizeof(float));
                memcpy(whole.sum, part.sum, (size_t)padded_rows * sizeof(float));
            } else {
                latent_merge(&whole, &part, layout->cols, (int)padded_rows, scratch->factors, scratch->factors_of_part);
            }
            if (item - walk->first + 1 == unit_segments(&unit)) latent_finish(call, &unit, &whole);
            atomic_store(&call->merged, item + 1);
        }
        atomic_flag_clear(&call->merging);
        /* A thread that finished this item meanwhile has found the flag set and gone. */
        if (atomic_load(&call->done[item % call->slots]) != item + 1) return;
    }
}

static void latent_items_task(void *context, int thread, int threads) {
    struct latent_call *call = context;
    const struct latent_layout *layout = &call->layout;
    (void)threads;
    struct latent_scratch scratch;
    struct latent_walk walk = {0}, merge_walk = {0};
    struct unit unit, next, loaded = {0};
    int64_t words = latent_scratch_cut(&scratch, NULL, layout), size = round_up(latent_part_words(layout), 16);
    latent_scratch_cut(&scratch, scratch_of_thread(call->scratch, words, thread), layout);
    tiles_begin();
    int64_t item = atomic_fetch_add_explicit(&call->next, 1, memory_order_relaxed);
    bool more = latent_walk_to(call, &walk, item, true, &next);
    while (more) {
        /* The next item is taken before this one is computed, so that its keys can be fetched. */
        int64_t current = item, segment = item - walk.first;
        struct latent_ahead ahead = {next.job->kv, next.job->kv, 0, 0};
        unit = next;
        item = atomic_fetch_add_explicit(&call->next, 1, memory_order_relaxed);
        more = latent_walk_to(call, &walk, item, true, &next);
        if (more) ahead = latent_keys_ahead(call, &next, (item - walk.first) * SEGMENT);
        while (atomic_load(&call->merged) <= current - call->slots) {
            latent_merge_done(call, &merge_walk, &scratch);
            sched_yield();
        }
        if (loaded.job != unit.job || loaded.t0 != unit.t0 || loaded.h0 != unit.h0)
            latent_load_queries(call, &unit, &scratch);
        loaded = unit;
        struct latent_part part = latent_part_at(call->slot + current % call->slots * size, layout);
        latent_segment(call, &unit, &scratch, &part, segment, ahead);
        atomic_store(&call->done[current % call->slots], current + 1);
        latent_merge_done(call, &merge_walk, &scratch);
    }
    tiles_end();
}

static void latent_forward(struct pool *pool, const struct attention_shape *shape, const struct attention_job *jobs,
                           int count, const void *q, enum dtype q_dtype, int64_t q_stride, void *o, enum dtype o_dtype,
                           int64_t o_stride, float *lse, int64_t rows, void *scratch) {
    struct latent_call call = {.shape = shape,
                               .jobs = jobs,
                               .count = count,
                               .q = {.data = q, .dtype = q_dtype, .stride = q_stride},
                               .o = o,
                               .o_dtype = o_dtype,
                               .o_stride = o_stride,
                               .lse = lse,
                               .rows = rows,
                               .scratch = scratch,
                               .layout = latent_layout(shape),
                               .scale = (float)((double)shape->scale * LOG2_E),
                               .merging = ATOMIC_FLAG_INIT};
    int64_t products = 0;
    for (int j = 0; j < count; j++) products += jobs[j].count * (jobs[j].position + jobs[j].count);
    if (products * shape->heads * (shape->qk_dim + shape->v_dim) < FORWARD_ALONE) pool = NULL;
    int threads = pool_threads(pool);
    /* Large units, since each unpacks its keys; but enough of them, or of their segments. */
    int64_t enough = threads > 1 ? 4 * threads : 1, units = 0, items = 0;
    for (int limit = QUERIES; limit >= PANEL; limit /= 2) {
        call.unit_heads = shape->heads < limit ? shape->heads : limit;
        call.unit_tokens = limit / call.unit_heads;
        call.parts = (shape->heads + call.unit_heads - 1) / call.unit_heads;
        units = items = 0;
        for (int j = 0; j < count; j++) {
            int64_t of_job = latent_units_of_job(&call, &jobs[j]);
            units += of_job;
            for (int64_t u = 0; u < of_job && items < enough; u++) {
                struct unit unit = latent_unit(&call, &jobs[j], u);
                items += unit_segments(&unit);
            }
        }
        if (items >= enough) break;
    }
    if (units >= enough || items == units) {
        pool_run(pool, latent_units_task, &call);
        return;
    }
    struct latent_scratch of_thread;
    int64_t words = latent_scratch_cut(&of_thread, NULL, &call.layout);
    enum { SLOTS_MOST = 64 };
    _Atomic int64_t done[SLOTS_MOST];
    call.slots = latent_slots(threads) < SLOTS_MOST ? latent_slots(threads) : SLOTS_MOST;
    call.slot = scratch_of_thread(scratch, words, threads);
    call.done = done;
    for (int i = 0; i < SLOTS_MOST; i++) atomic_init(&done[i], 0);
    pool_run(pool, latent_items_task, &call);
}
