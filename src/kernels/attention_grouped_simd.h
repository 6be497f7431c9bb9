/* The grouped core in vectors (kernels.h has the contract): heads share key/value heads.
 *
 * The store holds, for each key/value head, blocks of 64 positions that begin at absolute multiples of 64, each a block
 * of keys and then one of values:
 *   keys    F32 [qk_dim][64]                       BF16 [pairs of qk_dim][64][2]
 *   values  F32 [64][v_dim padded to panels]       BF16 [32][v_dim padded to panels][2], pairs of neighbouring keys
 * so that decoding reads it as one stream, in the product's own order.
 *
 * Forward (online softmax): a unit is some queries of the heads that share a key/value head; they are the rows of two
 * small products per block:
 *   S = Q K^T      largest' = max(largest, max S)      P = 2^(S - largest')
 *   O = O 2^(largest - largest') + P V                 sum likewise
 * with scale / ln 2 folded into S. What a row computes does not depend on its neighbours, and a masked key adds an
 * exact zero to sum and O. */
#ifndef DEEPSEEK_KERNELS_ATTENTION_GROUPED_SIMD_H
#define DEEPSEEK_KERNELS_ATTENTION_GROUPED_SIMD_H

#include "kernels/attention_grouped_backward_simd.h"

enum {
    ROWS = 64, /* queries times heads of a unit, at most */
    /* of which so many go through a block of keys together: with tiles so few that another product can begin during the
       softmax */
    STEP = ATTENTION_TILES ? 16 : ROWS
};

/* ---- the store --------------------------------------------------------------------------------------------------- */

struct store_layout {
    bool pairs;            /* stored as bf16 */
    int key_words;         /* rows of a block of keys */
    int value_cols, value_rows;
    int64_t block_words;   /* of keys and values */
};

static struct store_layout store_layout(const struct attention_shape *shape) {
    struct store_layout layout = {.pairs = shape->kv_dtype == DTYPE_BF16};
    layout.key_words = layout.pairs ? pair_words(shape->qk_dim) : shape->qk_dim;
    layout.value_cols = (int)round_up(shape->v_dim, PANEL);
    layout.value_rows = layout.pairs ? BLOCK / 2 : BLOCK;
    layout.block_words = (int64_t)layout.key_words * BLOCK + (int64_t)layout.value_rows * layout.value_cols;
    return layout;
}
static inline float *store_block(const struct store_layout *layout, const struct attention_job *job, int kv_head,
                                 int64_t block) {
    return (float *)job->kv + (kv_head * (round_up(job->capacity, BLOCK) / BLOCK) + block) * layout->block_words;
}

static size_t grouped_kv_bytes(const struct attention_shape *shape, int64_t capacity) {
    struct store_layout layout = store_layout(shape);
    return (size_t)shape->kv_heads * (size_t)(round_up(capacity, BLOCK) / BLOCK) * (size_t)layout.block_words *
           sizeof(float);
}

/* Positions p0..p1 of one block; `row` is that of p0. */
static void store_write_keys(float *keys, const struct store_layout *layout, const struct source *k, int64_t row,
                             int p0, int p1) {
    _Alignas(64) float words[PANEL * 16];
    enum form form = layout->pairs ? FORM_PAIRS : FORM_FP32;
    for (int panel = p0 / PANEL * PANEL; panel < p1; panel += PANEL) {
        int first = panel < p0 ? p0 : panel, last = panel + PANEL > p1 ? p1 : panel + PANEL;
        for (int w = 0; w < layout->key_words; w += 16) {
            int n = least(layout->key_words - w, 16);
            for (int p = first; p < last; p++) load_words(words + (p - panel) * 16, k, row + p - p0, w, 16, form);
            float *to = keys + (int64_t)w * BLOCK + panel;
            if (last - first == PANEL) {
                transpose_square(to, BLOCK, words, 16, n);
            } else {
                for (int i = 0; i < n; i++) {
                    for (int p = first; p < last; p++)
                        memcpy(to + i * BLOCK + p - panel, words + (p - panel) * 16 + i, sizeof(float));
                }
            }
        }
    }
}
static void store_write_values(float *values, const struct store_layout *layout, const struct source *v, int64_t row,
                               int p0, int p1) {
    int64_t cols = layout->value_cols;
    for (int p = p0; p < p1;) {
        bool both = layout->pairs && p % 2 == 0 && p + 1 < p1;
        float *to = values + (layout->pairs ? p / 2 : p) * cols;
        for (int c = 0; c < cols; c += VF) {
            vf x = source_load_form(v, row + p - p0, c, layout->pairs ? FORM_ROUNDED : FORM_FP32);
            if (both) x = word_pair(x, source_load_form(v, row + p + 1 - p0, c, FORM_ROUNDED));
            else if (layout->pairs) x = p % 2 == 0 ? word_pair(x, vf_zero()) : word_pair(word_low(vf_load(to + c)), x);
            vf_store(to + c, x);
        }
        p += both ? 2 : 1;
    }
    /* Products of pairs go on to a whole step past the last key, with weights of zero: what lies there must be finite,
     * and a sequence that was rewound may have left NaN. */
    int64_t written = (p1 + 1) / 2;
    if (layout->pairs) zero_words(values + written * cols, (round_up(written, WORD_GRAIN) - written) * cols);
}

struct write_call {
    const struct attention_shape *shape;
    const struct attention_job *jobs;
    int count;
    struct source k, v;
    struct store_layout layout;
};
static void write_task(void *context, int thread, int threads) {
    const struct write_call *call = context;
    int64_t turn = 0;
    for (int j = 0; j < call->count; j++) {
        const struct attention_job *job = &call->jobs[j];
        int64_t end = job->position + job->count;
        for (int kv_head = 0; kv_head < call->shape->kv_heads; kv_head++) {
            struct source k = call->k, v = call->v;
            k.offset = (int64_t)kv_head * k.dim;
            v.offset = (int64_t)kv_head * v.dim;
            for (int64_t block = job->position / BLOCK; block * BLOCK < end; block++) {
                if (turn++ % threads != thread) continue;
                int64_t base = block * BLOCK, first = base < job->position ? job->position : base;
                int p0 = (int)(first - base), p1 = least(end - base, BLOCK);
                float *keys = store_block(&call->layout, job, kv_head, block),
                      *values = keys + (int64_t)call->layout.key_words * BLOCK;
                store_write_keys(keys, &call->layout, &k, job->row + first - job->position, p0, p1);
                store_write_values(values, &call->layout, &v, job->row + first - job->position, p0, p1);
            }
        }
    }
}
static void grouped_kv_write(struct pool *pool, const struct attention_shape *shape, const struct attention_job *jobs,
                             int count, const void *k, enum dtype k_dtype, int64_t k_stride, const void *v,
                             enum dtype v_dtype, int64_t v_stride) {
    struct write_call call = {.shape = shape, .jobs = jobs, .count = count, .layout = store_layout(shape),
                              .k = {.data = k, .dtype = k_dtype, .stride = k_stride, .dim = shape->qk_dim},
                              .v = {.data = v, .dtype = v_dtype, .stride = v_stride, .dim = shape->v_dim}};
    pool_run(pool, write_task, &call);
}

struct read_call {
    const struct attention_shape *shape;
    const struct attention_job *job;
    int64_t first, k_stride, v_stride, rows;   /* rows: positions times heads */
    char *k, *v;
    struct store_layout layout;
};
/* A number of the store's type, as its bits. */
static inline void move_number(char *to, const float *words, int64_t from, bool half) {
    if (half) memcpy(to, (const char *)words + 2 * from, 2);
    else memcpy(to, words + from, 4);
}
static void read_task(void *context, int thread, int threads) {
    const struct read_call *call = context;
    const struct attention_shape *shape = call->shape;
    const bool half = call->layout.pairs;
    const int in_word = half ? 2 : 1, size = half ? 2 : 4;
    const int64_t cols = call->layout.value_cols;
    int64_t begin, end;
    pool_share(call->rows, 1, thread, threads, &begin, &end);
    for (int64_t n = begin; n < end; n++) {
        int64_t t = n / shape->kv_heads, p = (call->first + t) % BLOCK, kv_head = n % shape->kv_heads;
        const float *keys = store_block(&call->layout, call->job, (int)kv_head, (call->first + t) / BLOCK),
                    *values = keys + (int64_t)call->layout.key_words * BLOCK;
        char *k = call->k + (t * call->k_stride + kv_head * shape->qk_dim) * size,
             *v = call->v + (t * call->v_stride + kv_head * shape->v_dim) * size;
        for (int i = 0; i < shape->qk_dim; i++)
            move_number(k + i * size, keys, (i / in_word * BLOCK + p) * in_word + i % in_word, half);
        for (int i = 0; i < shape->v_dim; i++)
            move_number(v + i * size, values, (p / in_word * cols + i) * in_word + p % in_word, half);
    }
}
static void grouped_kv_read(struct pool *pool, const struct attention_shape *shape, const struct attention_job *job,
                            int64_t first, int64_t count, void *k, enum dtype k_dtype, int64_t k_stride, void *v,
                            enum dtype v_dtype, int64_t v_stride) {
    (void)k_dtype, (void)v_dtype;   /* the store's */
    struct read_call call = {shape, job, first, k_stride, v_stride, count * shape->kv_heads, k, v, store_layout(shape)};
    pool_run(pool, read_task, &call);
}

/* ---- scratch ----------------------------------------------------------------------------------------------------- */

struct forward_scratch {
    float *q;              /* [ROWS][q_stride] words */
    float *s;              /* [STEP][BLOCK], scores and then weights: fp32, or pairs in the first half of a row */
    float *o;              /* [ROWS][value_cols] */
    float *sum;            /* [ROWS][VF], a sum per lane */
    float *largest;        /* [ROWS], of the scores times scale / ln 2 */
    float *keys, *values;  /* a block as fp32 words, where products of pairs do not exist */
};
static int64_t forward_words(const struct attention_shape *shape) {
    return shape->kv_dtype == DTYPE_BF16 && !ATTENTION_PAIRS ? 2 * pair_words(shape->qk_dim)
                                                             : store_layout(shape).key_words;
}

static int64_t forward_scratch_cut(struct forward_scratch *scratch, float *base, const struct attention_shape *shape) {
    struct cutter cutter = {base, 0};
    int64_t words = forward_words(shape), cols = round_up(shape->v_dim, PANEL);
    bool widen = shape->kv_dtype == DTYPE_BF16 && !ATTENTION_PAIRS;
    scratch->q = cut(&cutter, ROWS * round_up(words, 16));
    scratch->s = cut(&cutter, STEP * BLOCK);
    scratch->o = cut(&cutter, ROWS * cols);
    scratch->sum = cut(&cutter, ROWS * VF);
    scratch->largest = cut(&cutter, ROWS);
    scratch->keys = cut(&cutter, widen ? words * BLOCK : 0);
    scratch->values = cut(&cutter, widen ? BLOCK * cols : 0);
    return cutter.used;
}
static size_t grouped_scratch_bytes(const struct attention_shape *shape, int64_t max_position, int threads) {
    (void)max_position;
    struct forward_scratch scratch;
    return 64 + (size_t)threads * (size_t)forward_scratch_cut(&scratch, NULL, shape) * sizeof(float);
}

/* ---- forward ----------------------------------------------------------------------------------------------------- */

struct forward_call {
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
    struct store_layout layout;
    int unit_heads, unit_tokens, parts;   /* a unit's heads and tokens; units side by side in a group of heads */
    _Atomic int64_t next;                 /* unit to be taken; which thread takes it does not matter to its result */
};

/* VF scores of which the first n - at count. */
ATTENTION_INLINE vf load_scores(const float *s, int at, const bool whole, int n) {
    vf x = vf_load(s + at);
    n -= at;
    return whole ? x : vf_select(vm_first(n < 0 ? 0 : n > VF ? VF : n), x, vf_set(-INFINITY));
}
/* The largest of a row's scores. */
ATTENTION_INLINE float largest_score(const float *s, const bool whole, int n) {
    vf top = load_scores(s, 0, whole, n);
    for (int i = 1; i < VECTORS; i++) top = vf_max(top, load_scores(s, i * VF, whole, n));
    return vf_largest(top);
}
/* Turns a row of scores into weights 2^(scale s - largest) in place and adds them to the sums, which first take a
 * factor. */
ATTENTION_INLINE void weigh_scores(float *s, float *sum, float largest, float factor, float scale, const bool whole,
                                   int n, enum form form) {
    vf p[VECTORS], total = vf_mul(vf_load(sum), vf_set(factor));
    for (int i = 0; i < VECTORS; i++)
        p[i] = exp2_or_zero(vf_fms(load_scores(s, i * VF, whole, n), vf_set(scale), vf_set(largest)));
    for (int i = 0; i < VECTORS; i++) total = vf_add(total, p[i]);
    vf_store(sum, total);
    if (form == FORM_PAIRS) {
        for (int i = 0; i < VECTORS; i += 2) store_rounded_pairs(s + i / 2 * VF, p[i], p[i + 1]);
    } else {
        for (int i = 0; i < VECTORS; i++) vf_store(s + i * VF, form == FORM_ROUNDED ? vf_round_to_bf16(p[i]) : p[i]);
    }
}

/* The softmax of rows r0..r1 of a unit over the keys from `base` on. */
ATTENTION_INLINE void softmax_rows(const struct unit *unit, const struct forward_scratch *scratch, int r0, int r1,
                                   int64_t base, int cols, float scale, enum form form) {
    int heads = unit->h1 - unit->h0, rows = r1 - r0;
    float *scores = scratch->s, *sums = scratch->sum + r0 * VF, *largest = scratch->largest + r0,
          *o = scratch->o + (int64_t)r0 * cols;
    int64_t first = unit->job->position + unit->t0 + 1 - base;   /* keys from `base` to the first token's own */
    bool whole = first + r0 / heads >= BLOCK;
    _Alignas(64) float highest[STEP], factors[STEP];
    for (int r = 0; r < STEP; r++) highest[r] = -INFINITY;
    if (whole) {
        for (int r = 0; r < rows; r++) highest[r] = largest_score(scores + r * BLOCK, true, BLOCK);
    } else {
        for (int r = 0; r < rows; r++) {
            int64_t n = first + (r0 + r) / heads;
            if (n > 0) highest[r] = largest_score(scores + r * BLOCK, false, least(n, BLOCK));
        }
    }
    for (int r = 0; r < rows; r += VF) {   /* rows in lanes */
        vf before = vf_load(largest + r), now = vf_max(vf_mul(vf_load(highest + r), vf_set(scale)), before);
        vf_store(largest + r, now);
        vf_store(factors + r, exp2_or_zero(vf_sub(before, now)));
    }
    if (whole) {
        for (int r = 0; r < rows; r++)
            weigh_scores(scores + r * BLOCK, sums + r * VF, largest[r], factors[r], scale, true, BLOCK, form);
    } else {
        for (int r = 0; r < rows; r++) {
            int64_t n = first + (r0 + r) / heads;
            if (n > 0)
                weigh_scores(scores + r * BLOCK, sums + r * VF, largest[r], factors[r], scale, false, least(n, BLOCK),
                             form);
            else zero_words(scores + r * BLOCK, BLOCK);
        }
    }
    for (int r = 0; base > 0 && r < rows; r++) {
        float *row = o + (int64_t)r * cols;
        if (factors[r] == 1.0f) continue;
        for (int c = 0; c < cols; c += VF) vf_store(row + c, vf_mul(vf_load(row + c), vf_set(factors[r])));
    }
}

/* O, sum and largest of a unit whose queries are in scratch. */
ATTENTION_INLINE void forward_blocks(const struct forward_call *call, const struct unit *unit,
                                     const struct forward_scratch *scratch, const bool bf16) {
    const struct store_layout *layout = &call->layout;
    const bool pairs = bf16 && ATTENTION_PAIRS, widen = bf16 && !ATTENTION_PAIRS;
    int rows = (int)(unit->t1 - unit->t0) * (unit->h1 - unit->h0);
    int64_t keys = unit->job->position + unit->t1, words = forward_words(call->shape), stride = round_up(words, 16),
            cols = layout->value_cols;
    float scale = (float)((double)call->shape->scale * LOG2_E);
    for (int64_t base = 0; base < keys; base += BLOCK) {
        const float *k = store_block(layout, unit->job, unit->kv_head, base / BLOCK),
                    *v = k + (int64_t)layout->key_words * BLOCK;
        int n = least(keys - base, BLOCK);
        if (widen) {
            unpack_pairs(scratch->keys, k, layout->key_words, BLOCK);
            unpack_pairs(scratch->values, v, (n + 1) / 2, cols);
            k = scratch->keys;
            v = scratch->values;
        }
        for (int r0 = 0; r0 < rows; r0 += STEP) {
            int r1 = rows - r0 > STEP ? r0 + STEP : rows;
            product(scratch->s, BLOCK, scratch->q + r0 * stride, stride, k, BLOCK, r1 - r0, (n + PANEL - 1) / PANEL,
                    words, false, pairs);
            softmax_rows(unit, scratch, r0, r1, base, (int)cols, scale,
                         pairs   ? FORM_PAIRS
                         : widen ? FORM_ROUNDED
                                 : FORM_FP32);
            product(scratch->o + r0 * cols, cols, scratch->s, BLOCK, v, cols, r1 - r0, (int)(cols / PANEL),
                    pairs ? (n + 1) / 2 : n, base > 0, pairs);
        }
    }
}

static void forward_unit(const struct forward_call *call, const struct unit *unit,
                         const struct forward_scratch *scratch) {
    const struct attention_shape *shape = call->shape;
    int heads = unit->h1 - unit->h0;
    int64_t rows = (unit->t1 - unit->t0) * heads, words = forward_words(shape), stride = round_up(words, 16),
            cols = call->layout.value_cols;
    bool bf16 = call->layout.pairs;
    enum form form = !bf16 ? FORM_FP32 : ATTENTION_PAIRS ? FORM_PAIRS : FORM_ROUNDED;
    for (int64_t r = 0; r < rows; r++) {
        struct source q = call->q;
        q.offset = (int64_t)(unit->h0 + r % heads) * shape->qk_dim;
        load_words(scratch->q + r * stride, &q, unit->job->row + unit->t0 + r / heads, 0, (int)stride, form);
    }
    for (int r = 0; r < ROWS; r++) scratch->largest[r] = -INFINITY;
    if (ATTENTION_TILES) zero_words(scratch->q + rows * stride, (round_up(rows, 16) - rows) * stride);
    zero_words(scratch->sum, rows * VF);

    if (bf16) forward_blocks(call, unit, scratch, true);
    else forward_blocks(call, unit, scratch, false);

    for (int64_t r = 0; r < rows; r++) {
        int head = unit->h0 + (int)(r % heads);
        int64_t row = unit->job->row + unit->t0 + r / heads, at = row * call->o_stride + (int64_t)head * shape->v_dim;
        float sum = vf_sum(vf_load(scratch->sum + r * VF));
        vf inverse = vf_set(1.0f / sum);
        for (int c = 0; c < shape->v_dim; c += VF) {
            /* + 0: the sign of a zero may depend on masked keys */
            vf x = vf_add(vf_mul(vf_load(scratch->o + r * cols + c), inverse), vf_zero());
            store_some(call->o, call->o_dtype, at + c, x, shape->v_dim - c);
        }
        if (call->lse) call->lse[head * call->rows + row] = (float)(scratch->largest[r] * LN_2 + simd_log(sum));
    }
}

static inline int64_t unit_blocks(const struct forward_call *call, const struct attention_job *job) {
    return (job->count + call->unit_tokens - 1) / call->unit_tokens;
}
static int64_t units_of_job(const struct forward_call *call, const struct attention_job *job) {
    return call->shape->kv_heads * unit_blocks(call, job) * call->parts;
}

static void forward_task(void *context, int thread, int threads) {
    struct forward_call *call = context;
    (void)threads;
    int group = call->shape->heads / call->shape->kv_heads, j = 0;
    struct forward_scratch scratch;
    int64_t words = forward_scratch_cut(&scratch, NULL, call->shape), first = 0;   /* first unit of job j */
    forward_scratch_cut(&scratch, scratch_of_thread(call->scratch, words, thread), call->shape);
    tiles_begin();
    for (;;) {
        int64_t u = atomic_fetch_add_explicit(&call->next, 1, memory_order_relaxed);
        while (j < call->count && u - first >= units_of_job(call, &call->jobs[j]))
            first += units_of_job(call, &call->jobs[j++]);
        if (j == call->count) break;
        const struct attention_job *job = &call->jobs[j];
        int64_t blocks = unit_blocks(call, job), in_head = (u - first) % (blocks * call->parts);
        struct unit unit = {.job = job, .kv_head = (int)((u - first) / (blocks * call->parts))};
        unit.t0 = (blocks - 1 - in_head / call->parts) * call->unit_tokens;   /* the longest first */
        unit.t1 = unit.t0 + least(job->count - unit.t0, call->unit_tokens);
        unit.h0 = (int)(in_head % call->parts) * call->unit_heads;
        unit.h1 = unit.h0 + least(group - unit.h0, call->unit_heads);
        unit.h0 += unit.kv_head * group;
        unit.h1 += unit.kv_head * group;
        forward_unit(call, &unit, &scratch);
    }
    tiles_end();
}

static void grouped_forward(struct pool *pool, const struct attention_shape *shape, const struct attention_job *jobs,
                            int count, const void *q, enum dtype q_dtype, int64_t q_stride, void *o, enum dtype o_dtype,
                            int64_t o_stride, float *lse, int64_t rows, void *scratch) {
    struct forward_call call = {.shape = shape,
                                .jobs = jobs,
                                .count = count,
                                .q = {.data = q, .dtype = q_dtype, .stride = q_stride, .dim = shape->qk_dim},
                                .o = o,
                                .o_dtype = o_dtype,
                                .o_stride = o_stride,
                                .lse = lse,
                                .rows = rows,
                                .scratch = scratch,
                                .layout = store_layout(shape)};
    pool = forward_pool(pool, shape, jobs, count);
    int group = shape->heads / shape->kv_heads, threads = pool_threads(pool);
    /* Units of as many rows as fit, fewer where there would be too few units for the threads. */
    for (int limit = ROWS; limit; limit /= 2) {
        call.unit_heads = group < limit ? group : limit;
        call.unit_tokens = limit / call.unit_heads;
        call.parts = (group + call.unit_heads - 1) / call.unit_heads;
        int64_t units = 0;
        for (int j = 0; j < count; j++) units += units_of_job(&call, &jobs[j]);
        if (units >= threads) break;
    }
    pool_run(pool, forward_task, &call);
}

static const struct attention_kernels grouped_core = {
    .kv_bytes = grouped_kv_bytes,
    .kv_write = grouped_kv_write,
    .kv_read = grouped_kv_read,
    .scratch_bytes = grouped_scratch_bytes,
    .forward = grouped_forward,
    .backward_scratch_bytes = grouped_backward_scratch_bytes,
    .backward = grouped_backward,
};

#endif
