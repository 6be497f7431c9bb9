/* The backward of the grouped core.
 *
 * A unit is a key/value head of a sequence; its heads are taken one after the other, and for each the blocks of keys,
 * and for each the blocks of queries from the diagonal on. So every element of dq, dk and dv has one accumulator with
 * one order. Everything is computed transposed, keys in rows and queries in lanes, because then lse and D are vectors,
 * and what the weights must be next is what they are: rows of A in dv and dk, and B in dq.
 *   S^T = K Q^T      P^T = 2^(S^T - lse)          dv += P^T dO
 *   dP^T = V dO^T    dS^T = P^T (dP^T - D)        dk += dS^T Q        dq^T += K^T dS^T
 * with D = dO . O, and dq and dk scaled at the end. */
#ifndef DEEPSEEK_KERNELS_ATTENTION_GROUPED_BACKWARD_SIMD_H
#define DEEPSEEK_KERNELS_ATTENTION_GROUPED_BACKWARD_SIMD_H

#include "kernels/attention_simd.h"

struct backward_sizes {
    bool bf16, pairs;
    enum form form;
    int64_t queries;                /* padded to blocks */
    int64_t q_words, v_words;       /* of a row of q or k, of dO or v */
    int64_t q_stride, v_stride;     /* the same padded to 16 */
    int64_t q_cols, v_cols;         /* numbers padded to panels */
    int64_t block_words;            /* of 64 rows in the B of a sum over rows, per column: 64, or 32 pairs */
};
static struct backward_sizes backward_sizes(const struct attention_shape *shape, int64_t max_count, enum dtype dtype) {
    struct backward_sizes sizes = {.bf16 = dtype == DTYPE_BF16, .queries = round_up(max_count, BLOCK)};
    sizes.pairs = sizes.bf16 && ATTENTION_PAIRS;
    sizes.form = sizes.pairs ? FORM_PAIRS : FORM_FP32;   /* what is loaded needs no rounding */
    sizes.q_words = sizes.pairs ? pair_words(shape->qk_dim) : shape->qk_dim;
    sizes.v_words = sizes.pairs ? pair_words(shape->v_dim) : shape->v_dim;
    sizes.q_stride = round_up(sizes.q_words, 16);
    sizes.v_stride = round_up(sizes.v_words, 16);
    sizes.q_cols = round_up(shape->qk_dim, PANEL);
    sizes.v_cols = round_up(shape->v_dim, PANEL);
    sizes.block_words = sizes.pairs ? BLOCK / 2 : BLOCK;
    return sizes;
}

struct backward_scratch {
    /* of one head's queries */
    float *q_t;            /* [blocks][q_stride][64] */
    float *q_b;            /* [blocks][block_words][q_cols] */
    float *do_t;           /* [blocks][v_stride][64] */
    float *do_b;           /* [blocks][block_words][v_cols] */
    float *lse, *delta;    /* [queries]; lse / ln 2. Queries past the end add nothing: their q and dO are zeros */
    float *dq_t;           /* [blocks][q_cols][64] */
    /* of the key/value head: all keys where heads share it, otherwise one block */
    float *dk, *dv;        /* [keys][q_cols], [keys][v_cols] */
    /* of one block of keys */
    float *k_a, *k_t, *v_a;   /* [64][q_stride], [q_cols][block_words], [64][v_stride] */
    float *s, *dp;         /* [64][64]; in rows of pairs they fill the first half */
    float *ds_b;           /* [32][64], only with pairs: otherwise dp is it */
    float *rows;           /* [64][the widest of the above], for transpositions */
};
static int64_t backward_scratch_cut(struct backward_scratch *scratch, float *base, const struct attention_shape *shape,
                                    const struct backward_sizes *sizes) {
    struct cutter cutter = {base, 0};
    int64_t keys = shape->heads == shape->kv_heads ? BLOCK : sizes->queries, blocks = sizes->queries / BLOCK;
    int64_t widest = sizes->q_cols > sizes->v_cols ? sizes->q_cols : sizes->v_cols;
    if (sizes->q_stride > widest) widest = sizes->q_stride;   /* tiles may round a small row up beyond its panels */
    if (sizes->v_stride > widest) widest = sizes->v_stride;
    scratch->q_t = cut(&cutter, sizes->queries * sizes->q_stride);
    scratch->q_b = cut(&cutter, blocks * sizes->block_words * sizes->q_cols);
    scratch->do_t = cut(&cutter, sizes->queries * sizes->v_stride);
    scratch->do_b = cut(&cutter, blocks * sizes->block_words * sizes->v_cols);
    scratch->lse = cut(&cutter, sizes->queries);
    scratch->delta = cut(&cutter, sizes->queries);
    scratch->dq_t = cut(&cutter, sizes->queries * sizes->q_cols);
    scratch->dk = cut(&cutter, keys * sizes->q_cols);
    scratch->dv = cut(&cutter, keys * sizes->v_cols);
    scratch->k_a = cut(&cutter, BLOCK * sizes->q_stride);
    scratch->k_t = cut(&cutter, sizes->q_cols * sizes->block_words);
    scratch->v_a = cut(&cutter, BLOCK * sizes->v_stride);
    scratch->s = cut(&cutter, BLOCK * BLOCK);
    scratch->dp = cut(&cutter, BLOCK * BLOCK);
    scratch->ds_b = cut(&cutter, sizes->pairs ? BLOCK / 2 * BLOCK : 0);
    scratch->rows = cut(&cutter, BLOCK * widest);
    return cutter.used;
}
static size_t grouped_backward_scratch_bytes(const struct attention_shape *shape, int64_t max_count, int threads) {
    struct backward_scratch scratch;
    int64_t most = 0;
    for (int bf16 = 0; bf16 < 2; bf16++) {
        struct backward_sizes sizes = backward_sizes(shape, max_count, bf16 ? DTYPE_BF16 : DTYPE_F32);
        int64_t words = backward_scratch_cut(&scratch, NULL, shape, &sizes);
        if (words > most) most = words;
    }
    return 64 + (size_t)threads * (size_t)most * sizeof(float);
}

struct backward_call {
    const struct attention_shape *shape;
    const struct attention_job *jobs;
    int count;
    struct source q, k, v, o, d_o;
    const float *lse;
    int64_t rows;
    void *dq, *dk, *dv;
    void *scratch;
    struct backward_sizes sizes;
    _Atomic int64_t next;
};

/* dO . o of a row, lanes first */
static float backward_delta(const struct source *d_o, const struct source *o, int64_t row) {
    vf sum = vf_zero();
    for (int c = 0; c < o->dim; c += VF) sum = vf_fma(source_load(d_o, row, c), source_load(o, row, c), sum);
    return vf_sum(sum);
}

/* The forms of 64 rows from `first` on, of which `rows` exist: [stride][64] for sums along a row, and for sums over
 * rows. */
static void backward_load_queries(float *along, float *over, const struct source *source, int64_t first, int64_t rows,
                                  int64_t words, int64_t stride, int64_t cols, enum form form, float *tmp) {
    load_rows(tmp, stride, source, first, rows, BLOCK, form);
    transpose(along, BLOCK, tmp, stride, BLOCK, words);
    load_row_pairs(over, cols, source, first, rows, BLOCK, form);
}

/* Stores 64 rows of fp32 [64][cols] times a factor, of which `rows` exist. */
static void backward_store(void *to, const struct source *like, int64_t first, int64_t rows, const float *from,
                           int64_t cols, float factor) {
    for (int64_t r = 0; r < rows; r++) {
        int64_t at = like->offset + (first + r) * like->stride;
        for (int c = 0; c < like->dim; c += VF) {
            store_some(to, like->dtype, at + c, vf_mul(vf_load(from + r * cols + c), vf_set(factor)), like->dim - c);
        }
    }
}

/* Scores s and dp of 64 keys and 64 queries become P and dS in the forms of the next products. On the diagonal, key r
 * counts for queries r and later. */
ATTENTION_INLINE void backward_weights(const struct backward_scratch *scratch, const float *lse, const float *delta,
                                       float scale, const bool diagonal, const bool bf16) {
    const bool pairs = bf16 && ATTENTION_PAIRS;
    for (int r = 0; r < BLOCK; r += 2) {
        for (int c = 0; c < BLOCK; c += 2 * VF) {
            vf p[2][2], ds[2][2];
            for (int i = 0; i < 2; i++) {
                for (int j = 0; j < 2; j++) {
                    int at = (r + i) * BLOCK + c + j * VF, masked = r + i - c - j * VF;
                    p[i][j] = exp2_or_zero(vf_fms(vf_load(scratch->s + at), vf_set(scale), vf_load(lse + c + j * VF)));
                    if (diagonal)
                        p[i][j] = vf_select(vm_first(masked < 0 ? 0 : masked > VF ? VF : masked), vf_zero(), p[i][j]);
                    ds[i][j] = vf_mul(p[i][j], vf_sub(vf_load(scratch->dp + at), vf_load(delta + c + j * VF)));
                }
            }
            if (pairs) {
#if ATTENTION_PAIRS
                /* Rows of pairs are written into the halves of a row that are read before: the first into columns c / 2
                 * .. c / 2 + VF. */
                for (int i = 0; i < 2; i++) {
                    store_rounded_pairs(scratch->s + (r + i) * BLOCK + c / 2, p[i][0], p[i][1]);
                    store_rounded_pairs(scratch->dp + (r + i) * BLOCK + c / 2, ds[i][0], ds[i][1]);
                }
                const __m512i interleave = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                                            8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
                for (int j = 0; j < 2; j++) {
                    __m512i codes = (__m512i)_mm512_cvtne2ps_pbh(ds[1][j], ds[0][j]);
                    _mm512_storeu_si512(scratch->ds_b + r / 2 * BLOCK + c + j * VF,
                                        _mm512_permutexvar_epi16(interleave, codes));
                }
#endif
            } else {
                for (int i = 0; i < 2; i++) {
                    for (int j = 0; j < 2; j++) {
                        int at = (r + i) * BLOCK + c + j * VF;
                        vf_store(scratch->s + at, bf16 ? vf_round_to_bf16(p[i][j]) : p[i][j]);
                        vf_store(scratch->dp + at, bf16 ? vf_round_to_bf16(ds[i][j]) : ds[i][j]);
                    }
                }
            }
        }
    }
}

/* One head: adds to dk and dv of its key/value head (or begins them), and writes dq. */
ATTENTION_INLINE void backward_head(const struct backward_call *call, const struct attention_job *job, int head,
                                    const struct backward_scratch *scratch, const bool bf16) {
    const struct attention_shape *shape = call->shape;
    const struct backward_sizes *sizes = &call->sizes;
    const bool pairs = bf16 && ATTENTION_PAIRS;
    const enum form form = pairs ? FORM_PAIRS : FORM_FP32;
    int group = shape->heads / shape->kv_heads, kv_head = head / group;
    bool first_head = head % group == 0, last_head = head % group == group - 1;
    int q_panels = (int)(sizes->q_cols / PANEL), v_panels = (int)(sizes->v_cols / PANEL);
    int64_t blocks = round_up(job->count, BLOCK) / BLOCK, part = sizes->block_words;
    float scale = (float)((double)shape->scale * LOG2_E);
    struct source q = call->q, k = call->k, v = call->v, o = call->o, d_o = call->d_o;
    q.offset = (int64_t)head * shape->qk_dim;
    k.offset = (int64_t)kv_head * shape->qk_dim;
    v.offset = (int64_t)kv_head * shape->v_dim;
    o.offset = d_o.offset = (int64_t)head * shape->v_dim;

    for (int64_t i = 0; i < blocks; i++) {
        int64_t row = job->row + i * BLOCK, rows = least(job->count - i * BLOCK, BLOCK);
        backward_load_queries(scratch->q_t + i * BLOCK * sizes->q_stride, scratch->q_b + i * part * sizes->q_cols, &q,
                              row, rows, sizes->q_words, sizes->q_stride, sizes->q_cols, form, scratch->rows);
        backward_load_queries(scratch->do_t + i * BLOCK * sizes->v_stride, scratch->do_b + i * part * sizes->v_cols,
                              &d_o, row, rows, sizes->v_words, sizes->v_stride, sizes->v_cols, form, scratch->rows);
        for (int64_t t = 0; t < BLOCK; t++) {
            scratch->lse[i * BLOCK + t] = t < rows ? (float)(call->lse[head * call->rows + row + t] * LOG2_E) : 0.0f;
            scratch->delta[i * BLOCK + t] = t < rows ? backward_delta(&d_o, &o, row + t) : 0.0f;
        }
    }

    for (int64_t j = 0; j < blocks; j++) {
        int64_t row = job->row + j * BLOCK, rows = least(job->count - j * BLOCK, BLOCK),
                keys_at = group == 1 ? 0 : j * BLOCK;
        float *dk = scratch->dk + keys_at * sizes->q_cols, *dv = scratch->dv + keys_at * sizes->v_cols;
        load_rows(scratch->k_a, sizes->q_stride, &k, row, rows, BLOCK, form);
        load_rows(scratch->v_a, sizes->v_stride, &v, row, rows, BLOCK, form);
        load_row_pairs(scratch->rows, sizes->q_cols, &k, row, rows, BLOCK, form);
        transpose(scratch->k_t, part, scratch->rows, sizes->q_cols, part, sizes->q_cols);
        for (int64_t i = j; i < blocks; i++) {
            bool add = i > j || !first_head;
            const float *ds_b = pairs ? scratch->ds_b : scratch->dp;
            product(scratch->s, BLOCK, scratch->k_a, sizes->q_stride, scratch->q_t + i * BLOCK * sizes->q_stride, BLOCK,
                    BLOCK, PANELS, sizes->q_words, false, pairs);
            product(scratch->dp, BLOCK, scratch->v_a, sizes->v_stride, scratch->do_t + i * BLOCK * sizes->v_stride,
                    BLOCK, BLOCK, PANELS, sizes->v_words, false, pairs);
            if (i == j)
                backward_weights(scratch, scratch->lse + i * BLOCK, scratch->delta + i * BLOCK, scale, true, bf16);
            else backward_weights(scratch, scratch->lse + i * BLOCK, scratch->delta + i * BLOCK, scale, false, bf16);
            product(dv, sizes->v_cols, scratch->s, BLOCK, scratch->do_b + i * part * sizes->v_cols, sizes->v_cols,
                    BLOCK, v_panels, part, add, pairs);
            product(dk, sizes->q_cols, scratch->dp, BLOCK, scratch->q_b + i * part * sizes->q_cols, sizes->q_cols,
                    BLOCK, q_panels, part, add, pairs);
            product(scratch->dq_t + i * BLOCK * sizes->q_cols, BLOCK, scratch->k_t, part, ds_b, BLOCK, sizes->q_cols,
                    PANELS, part, j > 0, pairs);
        }
        if (last_head) {
            backward_store(call->dk, &k, row, rows, dk, sizes->q_cols, shape->scale);
            backward_store(call->dv, &v, row, rows, dv, sizes->v_cols, 1.0f);
        }
    }
    for (int64_t i = 0; i < blocks; i++) {
        int64_t rows = least(job->count - i * BLOCK, BLOCK);
        transpose(scratch->rows, sizes->q_cols, scratch->dq_t + i * BLOCK * sizes->q_cols, BLOCK, sizes->q_cols, BLOCK);
        backward_store(call->dq, &q, job->row + i * BLOCK, rows, scratch->rows, sizes->q_cols, shape->scale);
    }
}
static void backward_head_of_floats(const struct backward_call *call, const struct attention_job *job, int head,
                                    const struct backward_scratch *scratch) {
    backward_head(call, job, head, scratch, false);
}
static void backward_head_of_bf16(const struct backward_call *call, const struct attention_job *job, int head,
                                  const struct backward_scratch *scratch) {
    backward_head(call, job, head, scratch, true);
}

static void backward_task(void *context, int thread, int threads) {
    struct backward_call *call = context;
    (void)threads;
    int kv_heads = call->shape->kv_heads, group = call->shape->heads / kv_heads;
    struct backward_scratch scratch;
    int64_t words = backward_scratch_cut(&scratch, NULL, call->shape, &call->sizes), u;
    backward_scratch_cut(&scratch, scratch_of_thread(call->scratch, words, thread), call->shape, &call->sizes);
    tiles_begin();
    while ((u = atomic_fetch_add_explicit(&call->next, 1, memory_order_relaxed)) < (int64_t)call->count * kv_heads) {
        const struct attention_job *job = &call->jobs[u / kv_heads];
        for (int head = (int)(u % kv_heads) * group, i = 0; i < group; i++) {
            if (call->sizes.bf16) backward_head_of_bf16(call, job, head + i, &scratch);
            else backward_head_of_floats(call, job, head + i, &scratch);
        }
    }
    tiles_end();
}

static void grouped_backward(struct pool *pool, const struct attention_shape *shape, const struct attention_job *jobs,
                          int count, const void *q, const void *k, const void *v, const void *o, const void *d_o,
                          enum dtype dtype, int64_t q_stride, int64_t k_stride, int64_t v_stride, int64_t o_stride,
                          const float *lse, int64_t rows, void *dq, void *dk, void *dv, void *scratch) {
    int64_t max_count = 0;
    for (int j = 0; j < count; j++) {
        if (jobs[j].count > max_count) max_count = jobs[j].count;
    }
    struct backward_call call = {.shape = shape,
                                 .jobs = jobs,
                                 .count = count,
                                 .lse = lse,
                                 .rows = rows,
                                 .dq = dq,
                                 .dk = dk,
                                 .dv = dv,
                                 .scratch = scratch,
                                 .q = {.data = q, .dtype = dtype, .stride = q_stride, .dim = shape->qk_dim},
                                 .k = {.data = k, .dtype = dtype, .stride = k_stride, .dim = shape->qk_dim},
                                 .v = {.data = v, .dtype = dtype, .stride = v_stride, .dim = shape->v_dim},
                                 .o = {.data = o, .dtype = dtype, .stride = o_stride, .dim = shape->v_dim},
                                 .d_o = {.data = d_o, .dtype = dtype, .stride = o_stride, .dim = shape->v_dim},
                                 .sizes = backward_sizes(shape, max_count, dtype)};
    pool_run(pool, backward_task, &call);
}

#endif
