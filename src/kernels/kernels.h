/* The numerical loops, which know nothing of models, behind one table per instruction set.
 *
 * `reference` is plain C and defines the meaning; the others are variants of it, chosen once at start-up (base/cpu.h).
 * Rules for every kernel:
 *   - it splits its work over `pool` itself (NULL: one thread), by outputs or by fixed-size blocks, so that the result
 *     does not depend on the number of threads, nor on how many rows a call holds: the result of a row depends on that
 *     row alone;
 *   - a buffer has a dtype of F32 or BF16 where its type is a parameter; arithmetic is fp32; BF16 is rounded to nearest
 *     even once, at the store;
 *   - nothing is allocated: scratch memory comes from the caller, its size from a function beside the kernel;
 *   - sizes may be odd; pointers of activations and parameters are at least 4-byte aligned unless said otherwise. */
#ifndef DEEPSEEK_KERNELS_KERNELS_H
#define DEEPSEEK_KERNELS_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cpu.h"
#include "base/format.h"
#include "base/pool.h"

/* ---- matrix products (kernels/matmul_*.c) ------------------------------------------------------------------------ */

/* A matrix in memory: element (i, j) at data[i * stride + j], or at data[j * stride + i] when `transposed`. */
struct matrix {
    const void *data;
    enum dtype dtype;      /* F32 or BF16; of a right-hand side, the codes' where it has a format */
    int64_t rows, cols;    /* of the matrix as it is used, i.e. after transposition */
    int64_t stride;        /* elements */
    bool transposed;
    /* Codes (NULL: none): element (r, c) of the array in memory is its code times the scale of its block, which is
     * number [first_row + r, c] of the format's blocks; scale_stride of them in a row, in the format's type. */
    const struct format *format;
    const void *scales;
    int64_t scale_stride, first_row;
    /* What compute type F8_E4M3 makes of F32 and BF16 numbers: a tile's scale is max(amax, least_amax) / 448 (where
     * that is 0: 1), rounded up to a power of two where asked for. */
    bool power_of_two;
    float least_amax;
    /* a right-hand side that is packed as codes: tiles of 128 rows by 1 column, not of 128 by 128 */
    bool column_scales;
};

/* What becomes of what C held: nothing of it stays; the product's chains begin with it; or the product, whose chains
 * begin with zero, is added to it: C + (A B), the bits of a product into other memory and one addition. */
enum matmul_onto { MATMUL_REPLACE, MATMUL_CONTINUE, MATMUL_ADD };

/* The scale of the code in row r and column c of the array in memory. */
static inline float matrix_scale(const struct matrix *m, int64_t r, int64_t c) {
    const struct format *f = m->format;
    const int64_t row = (m->first_row + r) >> f->block_rows;
    return format_scale(f, m->scales, row * m->scale_stride + (c >> f->block_columns));
}

/* One product C = A B of a call, with B packed or as it lies in memory. */
struct matmul_product {
    const void *packed;    /* B [k, n] as matmul_pack wrote it, 64-byte aligned; NULL: `unpacked` is read */
    int64_t n;
    void *c;               /* [m, n], row stride c_stride */
    int64_t c_stride;
    enum dtype c_dtype;    /* F32, or BF16 that is replaced */
    enum matmul_onto onto;
    /* compute type BF16: B is packed as codes (or to be read as codes from `unpacked`). Otherwise an unpacked F8_E4M3
     * is dequantised: code x scale, rounded to the compute type */
    bool codes;
    bool column_scales;    /* compute type F8_E4M3: B was packed with column_scales */
    /* where packed is NULL: B [k, n] itself, packed piece by piece on the way into the cache. The same bits. */
    struct matrix unpacked;
};

/* One call of a grouped product: C_i = A B_i for `count` right-hand sides that share A. */
struct matmul_group {
    struct matrix a;
    const struct matmul_product *products;
    int count;
};

/* Compute type F32: fp32 products, fused multiply-add. Compute type BF16: both operands rounded to bf16, fp32
 * accumulation. Each output has one accumulator that walks k from 0 upwards; blocking k through memory does not change
 * it.
 *
 * Compute type F8_E4M3 (DeepSeek-V3's recipe, spec/v1-v3.md section 4): A is quantised in tiles of one row by 128 k, B
 * in blocks of 128 k by 128 columns (or by one: column_scales), both to E4M3, which bf16 holds exactly. k is cut at
 * multiples of 128. A part's products are summed as those of compute type BF16 are, from 0, and then promoted:
 *     c = fma(part, scale_a * scale_b, c)
 * in fp32, part after part. Compute type BF16 with B as codes is the same with A rounded to bf16 and scale_a = 1. */
struct matmul_kernels {
    /* Bytes of a packed B [k, n]. Panels of outputs, interleaved so that one sequential stream feeds the product. */
    /* F8_E4M3: codes, and a scale for each 128 x 128 of them */
    size_t (*packed_bytes)(int64_t k, int64_t n, enum compute compute);
    /* Packs rows k0..k1 and columns n0..n1 of B on the calling thread. `compute` F8_E4M3 quantises F32 and BF16 numbers
     * and copies codes as they are; F32 and BF16 dequantise codes. k0 and n0 are multiples of MATMUL_GRAIN, k1 and n1
     * too or the end. Padding is written as zeros. */
    void (*pack_part)(void *packed, const struct matrix *b, enum compute compute, int64_t k0, int64_t k1, int64_t n0,
                      int64_t n1);
    /* Scratch for a call with these sizes (A is packed into it), and the call: `count` products of one A [m, k] with
     * several B. */
    size_t (*scratch_bytes)(int64_t m, int64_t k, enum compute compute, int threads);
    void (*run)(struct pool *pool, const struct matrix *a, enum compute compute, const struct matmul_product *products,
                int count, void *scratch);
    /* Many independent calls in one: experts with the rows that were routed to them, heads with their slices of a
     * matrix. Each group's bits are those of `run` on it alone. Groups of no rows cost nothing; groups with k = 0 write
     * zeros (or add nothing). Outputs of different groups must not overlap. Scratch for any list whose groups have at
     * most max_m rows and k of at most max_k, however many there are. */
    size_t (*grouped_scratch_bytes)(int64_t max_m, int64_t max_k, enum compute compute, int threads);
    void (*run_grouped)(struct pool *pool, enum compute compute, const struct matmul_group *groups, int count,
                        void *scratch);
    /* packed_bytes of codes with column_scales. */
    size_t (*packed_columns_bytes)(int64_t k, int64_t n);
};
#define MATMUL_GRAIN 128   /* a block of scales, and whole panels */

/* Packs a whole B on all threads. */
void matmul_pack(struct pool *pool, const struct matmul_kernels *kernels, void *packed, const struct matrix *b,
                 enum compute compute);

/* ---- attention (kernels/attention_*.c) --------------------------------------------------------------------------- */

/* Causal softmax attention: queries of `heads` heads read the keys and values of one sequence each.
 *   score[t][s] = scale * q[t] . k[s] for s <= t,   o[t] = sum_s softmax(score[t])[s] v[s]
 * No T x T matrix exists. Keys are visited in blocks that start at absolute positions, so that a query's result does
 * not depend on the chunk it came in. Values must be finite: the variants multiply those of later keys of the same call
 * with weights of zero, so that an infinity or a NaN there reaches earlier queries. With kv dtype BF16 the unnormalised
 * softmax is rounded to bf16 for the product with V, and q to bf16 for the product with K; sums are fp32.
 *
 * A core is what a store holds and how it is read. */
enum attention_core {
    /* Head h reads key/value head h / (heads / kv_heads). */
    CORE_GROUPED,
    /* MLA's absorbed form (spec/v1-v3.md section 2.7): one key/value head, whose value is the first v_dim channels of
     * its key. The store holds qk_dim numbers per position, once. kv_write's v is [rows, v_dim] (the latent) and its k
     * the other qk_dim - v_dim channels (the rotated shared key); queries are [v_dim channels | the others], too.
     * F8_E4M3: the v_dim channels are codes with a power-of-two fp32 scale for each 128 of them (the smallest 2^n with
     * amax / 2^n <= 448; spec section 4.2), the others BF16; the products are those of a BF16 store that holds the
     * decoded numbers, which bf16 represents exactly. Bytes of a position, where the dimensions are multiples of 64 and
     * the capacity is one, too:
     *   F32 4 qk_dim     BF16 2 qk_dim     F8_E4M3 v_dim + 4 ceil(v_dim / 128) + 2 (qk_dim - v_dim)
     * All threads share the keys of one query: they are cut at absolute multiples of a fixed number, and the parts are
     * merged in order, in prefill as in decoding. No backward. */
    CORE_LATENT,
    ATTENTION_CORES
};

struct attention_shape {
    int heads, kv_heads;
    int qk_dim, v_dim;     /* per head; they differ in MLA */
    float scale;
    enum dtype kv_dtype;   /* type of the stored keys and values, F32 or BF16; F8_E4M3 too in the latent core */
};

/* A store of keys and values for one sequence of one layer, in the variant's own layout; 64-byte aligned. What it holds
 * past the positions that are in use does not matter. `capacity` positions, each [kv_heads, qk_dim] keys and [kv_heads,
 * v_dim] values. */
struct attention_job {
    void *kv;              /* the store */
    int64_t capacity;      /* it was sized for */
    int64_t row;           /* first row of this job's queries in q and o */
    int64_t position;      /* absolute position of that row; its keys 0..position+count-1 are in the store */
    int64_t count;
};

struct attention_kernels {
    size_t (*kv_bytes)(const struct attention_shape *shape, int64_t capacity);
    /* Writes keys k and values v of each job's rows at its positions. k: [rows, kv_heads, qk_dim] with row stride
     * k_stride, v alike with v_dim. */
    void (*kv_write)(struct pool *pool, const struct attention_shape *shape, const struct attention_job *jobs,
                     int count, const void *k, enum dtype k_dtype, int64_t k_stride, const void *v, enum dtype v_dtype,
                     int64_t v_stride);
    /* Positions first..first+count-1 of a store back into rows, as the products see them: kv_write makes the same
     * numbers of them. The latent core: k [count, qk_dim - v_dim] and v [count, v_dim] of any type; the grouped one:
     * [count, kv_heads, qk_dim] and [count, kv_heads, v_dim] of the store's type. */
    void (*kv_read)(struct pool *pool, const struct attention_shape *shape, const struct attention_job *job,
                    int64_t first, int64_t count, void *k, enum dtype k_dtype, int64_t k_stride, void *v,
                    enum dtype v_dtype, int64_t v_stride);
    size_t (*scratch_bytes)(const struct attention_shape *shape, int64_t max_position, int threads);
    /* o [rows, heads, v_dim], lse [heads, rows] (log-sum-exp, may be NULL). q: [rows, heads, qk_dim]. */
    void (*forward)(struct pool *pool, const struct attention_shape *shape, const struct attention_job *jobs, int count,
                    const void *q, enum dtype q_dtype, int64_t q_stride, void *o, enum dtype o_dtype, int64_t o_stride,
                    float *lse, int64_t rows, void *scratch);
    /* Training, the grouped core: the jobs are whole sequences (position 0), k and v as given to kv_write; `kv` of the
     * jobs is not read. Writes dq, dk, dv (no accumulation). */
    size_t (*backward_scratch_bytes)(const struct attention_shape *shape, int64_t max_count, int threads);
    void (*backward)(struct pool *pool, const struct attention_shape *shape, const struct attention_job *jobs,
                     int count,
                     /* all of one type */
                     const void *q, const void *k, const void *v, const void *o, const void *d_o, enum dtype dtype,
                     /* d_* have their twin's stride */
                     int64_t q_stride, int64_t k_stride, int64_t v_stride, int64_t o_stride, const float *lse,
                     int64_t rows, void *dq, void *dk, void *dv, void *scratch);
};

/* ---- everything by rows (kernels/rows_*.c) ----------------------------------------------------------------------- */

struct adamw_step {
    float learning_rate, beta1, beta2, eps, weight_decay;
    float grad_scale;                    /* clipping and the like, applied to the gradient as it is read */
    float bias_correction1, bias_correction2;   /* 1 - beta1^step, 1 - beta2^step */
};

/* Numbers that quantisation to E4M3 in tiles has made zero though they were not, or has cut at the largest code: beyond
 * 464 times the scale, from where on rounding would not lead to it. NaN counts as cut. */
struct fp8_counts { int64_t numbers, underflows, overflows; };

/* Heads of latent attention: nope + rotary channels of a key, the rotary ones shared by all heads, and those of a
 * value. */
struct latent_heads { enum dtype dtype; int heads; int64_t nope, rotary, value; };

struct row_kernels {
    void (*convert)(struct pool *pool, void *y, enum dtype y_dtype, const void *x, enum dtype x_dtype, int64_t count);
    /* y = a + b, F32 out; b F32 or BF16. y may be a. */
    void (*add)(struct pool *pool, float *y, const float *a, const void *b, enum dtype b_dtype, int64_t count);

    /* `width` numbers of each row, whose rows are y_stride and x_stride apart: y = x, or y += x (F32). */
    void (*move)(struct pool *pool, void *y, int64_t y_stride, const void *x, int64_t x_stride, enum dtype dtype,
                 int64_t rows, int64_t width, bool add);
    void (*zero)(struct pool *pool, void *y, size_t bytes);

    /* kvu [rows, heads, nope + value] and k_r [rows, rotary] to k [rows, heads, nope + rotary] and v [rows, heads,
     * value]. Backward: dkvu = [dk_n | dv];  dk_r = sum over the heads of their dk's last channels, in fp32 and in the
     * order of the heads. */
    void (*latent_keys_forward)(struct pool *pool, const struct latent_heads *heads, void *k, void *v, const void *kvu,
                                const void *k_r, int64_t rows);
    void (*latent_keys_backward)(struct pool *pool, const struct latent_heads *heads, void *dkvu, float *dk_r,
                                 const void *dk, const void *dv, int64_t rows);

    /* y[i] = w[i] x[i] r, r = 1 / sqrt(mean(x^2) + eps); rstd [rows] receives r (may be NULL). */
    void (*rmsnorm_forward)(struct pool *pool, void *y, enum dtype y_dtype, int64_t y_stride, float *rstd,
                            const void *x, enum dtype x_dtype, int64_t x_stride, const float *w, int64_t rows,
                            int64_t width, float eps);
    /* g = w dy;  dx += r g - x r^3 mean(g x);  dw += sum over rows dy x r (in row blocks of fixed size).
     * scratch: rmsnorm_backward_scratch(rows, width) bytes. */
    size_t (*rmsnorm_backward_scratch)(int64_t rows, int64_t width);
    void (*rmsnorm_backward)(struct pool *pool, float *dx, int64_t dx_stride, float *dw, const void *dy,
                             enum dtype dy_dtype, int64_t dy_stride, const void *x, enum dtype x_dtype,
                             int64_t x_stride, const float *w, const float *rstd, int64_t rows, int64_t width,
                             void *scratch);

    /* Rotates `dims` elements from `offset` on in each of `heads` heads of width `head_dim`, in place. angles: cos and
     * sin of row t at table[position[t]][0 .. dims/2) and [dims/2 .. dims). half-split pairs (i, i + dims/2),
     * interleaved pairs (2i, 2i + 1). inverse: by -angle (the backward). */
    void (*rope)(struct pool *pool, void *x, enum dtype dtype, int64_t stride, int64_t rows, int heads, int head_dim,
                 int offset, int dims, const float *table, const int32_t *positions, bool interleaved, bool inverse);

    /* h = silu(gate) up;  silu(a) = a / (1 + exp(-a)). Backward: dup = dh silu(gate), dgate = dh up sigma (1 + gate (1
     * - sigma)). All of one dtype. dgate and dup may be gate and up themselves. */
    void (*swiglu_forward)(struct pool *pool, void *h, const void *gate, const void *up, enum dtype dtype,
                           int64_t count);
    void (*swiglu_backward)(struct pool *pool, void *dgate, void *dup, const void *dh, const void *gate, const void *up,
                            enum dtype dtype, int64_t count);

    /* x[t] = table[ids[t]];  backward dtable[ids[t]] += dx[t], rows in order; those with negative ids are left out. dx
     * may be dtable where no row is both. */
    void (*embedding_forward)(struct pool *pool, float *x, const void *table, enum dtype table_dtype,
                              const int32_t *ids, int64_t rows, int64_t width);
    void (*embedding_backward)(struct pool *pool, float *dtable, const float *dx, const int32_t *ids, int64_t rows,
                               int64_t width);

    /* Per row: loss[t] = log sum_v exp(logits[t][v]) - logits[t][target[t]], 0 where target is negative. With `weights`
     * (may be NULL: loss only) the logits become their own gradient in place: weights[t] (softmax - onehot), zeros
     * where the target is negative. Of gradient_dtype F32, or BF16: then it is the first half of the row. best (may be
     * NULL) receives the first of each row's largest logits; NaN is passed over (0 where all are). */
    void (*cross_entropy)(struct pool *pool, float *loss, int32_t *best, float *logits, int64_t stride,
                          const int32_t *targets, const float *weights, enum dtype gradient_dtype, int64_t rows,
                          int64_t vocab);

    /* One AdamW update of `count` elements on the calling thread: g = gradient * grad_scale; m = beta1 m + (1 - beta1)
     * g; v = beta2 v + (1 - beta2) g^2; p -= lr weight_decay p; p -= lr (m / (1 - beta1^step)) / (sqrt(v / (1 -
     * beta2^step)) + eps). */
    void (*adamw)(float *p, const float *g, float *m, float *v, int64_t count, const struct adamw_step *step);
    /* The same with m and v in bf16: read widened, rounded to nearest even when stored; p is updated with what they
     * were before that. */
    void (*adamw_bf16)(float *p, const float *g, uint16_t *m, uint16_t *v, int64_t count,
                       const struct adamw_step *step);

    /* What a recording graph keeps of a tensor in tiles of one row by 128 (spec/v1-v3.md section 4.1). E4M3: codes
     * [rows, width], then scales [rows, ceil(width / 128)], amax / 448. E5M6 (base/number.h): two numbers in three
     * bytes, a row's begin at a whole byte, then scales, powers of two: amax, rounded to the format's mantissa, is
     * brought to [2^15, 2^16). An all-zero tile has scale 1. x: BF16 or F32; expanding multiplies in fp32 and rounds
     * that to the type. What was expanded to BF16 is compressed to the same bytes again, but for what is below 2^-90 or
     * beyond 2^100. A NaN stays one; an infinity makes NaN of its tile (E4M3), or stays (E5M6). Compressed memory is
     * 4-byte aligned. */
    size_t (*compressed_bytes)(int64_t rows, int64_t width, bool e5m6);
    void (*compress)(struct pool *pool, void *y, const void *x, enum dtype dtype, int64_t rows, int64_t width,
                     bool e5m6);
    void (*expand)(struct pool *pool, void *y, enum dtype dtype, const void *x, int64_t rows, int64_t width, bool e5m6);
    /* Adds what quantising x [rows, width] in tiles of one row by 128 would lose. */
    void (*count_fp8)(struct pool *pool, struct fp8_counts *counts, const void *x, enum dtype dtype, int64_t stride,
                      int64_t rows, int64_t width, float least_amax, bool power_of_two);
    /* The same of a weight [rows, width] in blocks of 128 x 128. */
    void (*count_fp8_blocks)(struct pool *pool, struct fp8_counts *counts, const float *w, int64_t rows, int64_t width);

    /* Sum of squares in double, in blocks of fixed size added in order. */
    double (*sum_of_squares)(struct pool *pool, const float *x, int64_t count);
};

/* ---- mixture of experts (kernels/moe*) --------------------------------------------------------------------------- */

/* The gate (spec/v1-v3.md sections 2.3, 2.8, 2.9): scores, a choice, and weights of what was chosen, however it was.
 * s = softmax(z) over all experts, or sigmoid(z). The choice is `given`, or experts are chosen by c = s + bias, where
 * there is a bias. With groups of experts/groups neighbours, the top_groups groups with the
 * largest sum of their group_best largest c are kept, and no expert of another group can be chosen (its c counts as
 * minus infinity). The top_k largest c of what is left are chosen, in falling order. Ties, of groups and of experts, go
 * to the lowest index; a NaN, and what is smaller than any finite number, is chosen after all others of the kept
 * groups. g = s scale, or, where `normalised`, g = s / (sum of the chosen s + 1e-20) scale: for top_k 1, too (then g
 * does not depend on z but for the 1e-20, and its gradient vanishes). The bias takes part in nothing but the choice.
 * What released models do beyond that is for the caller to say: V2's file does not divide where top_k is 1, and where
 * it divides it does not scale; V3 does both whenever norm_topk_prob is set. */
enum scoring_func { SCORING_SOFTMAX, SCORING_SIGMOID };
struct moe_gate {
    int64_t experts;
    int top_k;
    int groups, top_groups;    /* 1 and 1: no groups */
    int group_best;            /* 1 (0 counts as 1), or 2; a group of one expert has but one */
    enum scoring_func scoring;
    const float *bias;         /* [experts], or NULL; read when the kernel runs */
    bool normalised;
    float scale;
    const int32_t *given;      /* [tokens, top_k], read when the kernel runs; NULL: chosen by the scores */
};

/* Where the tokens went, as 4-byte integers in one piece of memory. A slot is token * top_k + its rank among the
 * token's experts. */
struct moe_routing {
    int32_t *chosen;           /* [tokens, top_k]: the expert of a slot */
    int32_t *place;            /* [tokens, top_k]: its row in the list that is sorted by expert, -1: dropped */
    int32_t *source;           /* [tokens * top_k]: the slot of a row; rows of one expert are in order of tokens */
    int32_t *first;            /* [experts + 1]: the first row of each expert; first[experts] rows are in use */
};
static inline int64_t moe_routing_words(const struct moe_gate *gate, int64_t tokens) {
    return 3 * tokens * gate->top_k + gate->experts + 1;
}
static inline struct moe_routing moe_routing_in(void *words, const struct moe_gate *gate, int64_t tokens) {
    int32_t *at = words;
    const int64_t slots = tokens * gate->top_k;
    return (struct moe_routing){at, at + slots, at + 2 * slots, at + 3 * slots};
}

/* Token dropping (section 3.2). A device holds experts/devices neighbours. Of the assignments to a device beyond its
 * budget, those of the lowest affinity s are dropped (among equals the later slot first), but none of a spared token: a
 * device that has more of these than its budget keeps them. */
struct moe_dropping {
    int devices;
    int64_t budget;            /* assignments of a device */
    const uint8_t *spared;     /* [tokens] */
};

/* The balance losses of one sequence of T tokens (section 3.1), N experts, K = top_k, D devices, M = device_limit of
 * them for a token; f is a constant for the gradient:
 *   f_i = N / (K T) #{t: i chosen}           P_i = mean of s_i over t                expert        = sum_i f_i P_i
 *   f'_d = mean of f_i on device d           P'_d = sum of P_i on device d           device        = sum_d f'_d P'_d
 *   f''_d = D / (M T) #{t: sent to d}                                                communication = sum_d f''_d P'_d
 * and V3's (section 3.4), with P of the normalised scores s'_i = s_i / sum_j s_j:      sequence      = sum_i f_i P_i
 * f counts what `chosen` holds, i.e. the experts that the gate has chosen with its bias and groups. A token whose
 * scores are all 0 has s' = 0. */
#define MOE_LOSSES 4
struct moe_balance {
    int64_t experts;
    int top_k, devices, device_limit;
    double weights[MOE_LOSSES];   /* of expert, device, communication, sequence; 0: not computed */
    const double *shares; /* [sequences]: factors of the weights; NULL: 1 */
};

struct moe_kernels {
    /* z [tokens, experts] -> s alike, chosen and weights g [tokens, top_k]. The backward writes dz; dg and ds (what
     * came to s itself) may be NULL. */
    size_t (*gate_scratch)(const struct moe_gate *gate, int threads);
    void (*gate_forward)(struct pool *pool, const struct moe_gate *gate, float *s, int32_t *chosen, float *g,
                         const float *z, int64_t tokens, void *scratch);
    void (*gate_backward)(struct pool *pool, const struct moe_gate *gate, float *dz, const float *dg, const float *ds,
                          const float *s, const int32_t *chosen, int64_t tokens);

    /* From `chosen` the rest of the routing, on the calling thread. dropping NULL: none; otherwise s [tokens, experts]
     * and scratch of sort_scratch bytes are read. */
    size_t (*sort_scratch)(const struct moe_gate *gate, int64_t tokens);
    void (*sort)(const struct moe_gate *gate, struct moe_routing *routing, int64_t tokens, const float *s,
                 const struct moe_dropping *dropping, void *scratch);
    /* counts[expert] += assignments that were not dropped, and how many were */
    void (*count_load)(const struct moe_gate *gate, const struct moe_routing *routing, int64_t tokens, int64_t *counts,
                       int64_t *dropped);

    /* y[row] = x[source[row] / top_k], rows of `bytes` bytes */
    void (*gather)(struct pool *pool, void *y, const void *x, const int32_t *source, int top_k, int64_t rows,
                   size_t bytes);
    /* y[t] = base[t] + sum over the slots of t, in order, of x[place[slot]]. base of y's type (NULL: zero), and may be
     * y. Sums in fp32. */
    void (*combine)(struct pool *pool, void *y, const void *base, enum dtype y_dtype, const void *x, enum dtype x_dtype,
                    const int32_t *place, int top_k, int64_t tokens, int64_t width);

    /* Rows sorted by expert, gate_up [rows, 2 width] = a | b, and g [tokens, top_k]:  h = g[source[row]] silu(a) b.
     * The backward reads dh in h and leaves there what the forward wrote; gate_up becomes its own gradient;
     * dg[source[row]] = sum dh silu(a) b. */
    void (*swiglu_forward)(struct pool *pool, void *h, const void *gate_up, enum dtype dtype, const float *g,
                           const int32_t *source, int64_t rows, int64_t width);
    void (*swiglu_backward)(struct pool *pool, void *h, void *gate_up, enum dtype dtype, float *dg, const float *g,
                            const int32_t *source, int64_t rows, int64_t width);

    /* Sequence i is rows first[i]..first[i+1]. parts[i] receives its losses without their weights, ds the gradient of
     * the weighted sum of all. */
    size_t (*balance_scratch)(const struct moe_balance *balance, int threads);
    void (*balance)(struct pool *pool, const struct moe_balance *balance, double (*parts)[MOE_LOSSES], float *ds,
                    const float *s, const int32_t *chosen, const int64_t *first, int64_t sequences, void *scratch);
};

struct kernels {
    enum isa isa;
    bool packs_every_row;      /* of a B that is not packed: such products are slow */
    struct matmul_kernels matmul;
    const struct attention_kernels *const *attention;   /* [ATTENTION_CORES] */
    struct row_kernels rows;
    struct moe_kernels moe;
};

/* The table of a variant that the machine has. */
const struct kernels *kernels_for(enum isa isa);

#endif
