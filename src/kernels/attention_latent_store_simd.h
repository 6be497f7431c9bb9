/* The store of the latent core.
 *
 * It holds positions as rows of words: [v_dim channels padded | the others padded], each part to 16 words, fp32 numbers
 * or pairs of bf16. With F8_E4M3 64 positions are a block: [64][v_dim padded] codes, [64][groups of 128] scales,
 * [64][words of the others]. */
#ifndef DEEPSEEK_KERNELS_ATTENTION_LATENT_STORE_SIMD_H
#define DEEPSEEK_KERNELS_ATTENTION_LATENT_STORE_SIMD_H

#include "kernels/attention_codes.h"
#include "kernels/attention_simd.h"

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

#endif
