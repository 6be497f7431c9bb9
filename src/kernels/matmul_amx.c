/* Matrix products with AMX tiles (tdpbf16ps): 32 x 32 outputs in four tiles. Compute type F32 is that of
 * matmul_avx512.c, and B is packed as there: 16 pairs of k by 16 columns of its panels are a tile of B.
 *
 * A tile of A is packed as [k / 32][height][16 pairs], height 32 or, for blocks of up to 16 rows, their number.
 *
 * E4M3 codes become pairs in the vectors where there are few rows, otherwise before the tiles. A part of 128 k is four
 * steps from 0; vectors promote it while the tiles compute the next. */
#if defined(__x86_64__)
#include "kernels/matmul.h"
#include "kernels/matmul_table.h"

/* bytes, except the first two */
enum { AMX_ROWS = 32, AMX_K = 32, A_ROW = 64, B_ROW = 4 * PANEL, STREAM_AHEAD = 2048 };

/* palette 1: bytes per row and rows of the eight tiles */
struct tile_configuration {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

/* The compiler is not told which memory the tile instructions read: this makes it finish the stores before. */
static always_inline void memory_is_read(void) { __asm__ volatile("" ::: "memory"); }

/* For 32 rows tiles 0 1 / 2 3 are C, 4 / 5 A, 6 7 B; for up to 16 rows 0 1 are C, 4 and 5 A, 6 7 and 2 3 B. */
static void configure(int height) {
    _Alignas(64) struct tile_configuration configuration = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) {
        configuration.row_bytes[tile] = 64;
        configuration.rows[tile] = (uint8_t)(height > 16 || tile == 2 || tile == 3 || tile >= 6 ? 16 : height);
    }
    /* the intrinsic does not say how much it reads, and a local's stores may be left out */
    __asm__ volatile("" : : "r"(&configuration) : "memory");
    _tile_loadconfig(&configuration);
}

static void release(void) { _tile_release(); }

static int height_of(int64_t rows) { return rows <= 16 ? (int)rows : AMX_ROWS; }

/* What tdpbf16ps computes, with vector instructions: per tile of 16 pairs of k
 *
 *     e = sum of a[2p] b[2p],  o = sum of a[2p + 1] b[2p + 1]  (chains of fused multiply-adds from 0, p upwards),
 *                              c = c + (e + o)
 *
 * with subnormals as zeros on both sides. The bits are those of the tiles (a test holds them together on machines that
 * have them), and few rows read B as one stream at the full memory speed, which tile loads do not reach. */
enum { FEW = 2, FEW_AHEAD = 768 /* bytes: best by measurement */, FLUSH_SUBNORMALS = 0x8040 };

static always_inline void multiply_few(const int rows, int64_t k, const uint32_t *a, const char *b, const float *c_in,
                                       int64_t in_stride, float *c_out, int64_t out_stride) {
    vf c[FEW][2];
    const unsigned control = _mm_getcsr();
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int j = 0; j < 2; j++)
        c[r][j] = c_in ? vf_load(c_in + r * in_stride + 16 * j) : vf_zero();
    _mm_setcsr(control | FLUSH_SUBNORMALS);
    for (int64_t k0 = 0; k0 < k; k0 += AMX_K, a += rows * 16) {
        vf even[FEW][2], odd[FEW][2];
        UNROLL for (int r = 0; r < rows; r++) UNROLL for (int j = 0; j < 2; j++) even[r][j] = odd[r][j] = vf_zero();
        UNROLL for (int p = 0; p < AMX_K / 2; p++, b += B_ROW) {
            vi b0 = vi_load((const uint32_t *)(const void *)b), b1 = vi_load((const uint32_t *)(const void *)(b + 64));
            __builtin_prefetch(b + FEW_AHEAD);
            __builtin_prefetch(b + FEW_AHEAD + 64);
            UNROLL for (int r = 0; r < rows; r++) {
                vi pair = _mm512_set1_epi32((int)a[r * 16 + p]);
                vf x = vf_even(pair), y = vf_odd(pair);
                even[r][0] = vf_fma(x, vf_even(b0), even[r][0]);
                even[r][1] = vf_fma(x, vf_even(b1), even[r][1]);
                odd[r][0] = vf_fma(y, vf_odd(b0), odd[r][0]);
                odd[r][1] = vf_fma(y, vf_odd(b1), odd[r][1]);
            }
        }
        UNROLL for (int r = 0; r < rows; r++) UNROLL for (int j = 0; j < 2; j++)
            c[r][j] = vf_add(c[r][j], vf_add(even[r][j], odd[r][j]));
    }
    _mm_setcsr(control);
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int j = 0; j < 2; j++)
        vf_store(c_out + r * out_stride + 16 * j, c[r][j]);
}

/* The next lines of what follows; `at` is the position in its first row. */
static inline void prefetch_part(struct matmul_ahead *ahead, int64_t *at, int64_t lines) {
    for (int64_t i = 0; i < lines && ahead->rows > 0; i++) {
        __builtin_prefetch(ahead->at + *at, 0, 2);
        *at += 64;
        if (*at < ahead->row_bytes) continue;
        *at = 0;
        ahead->rows--;
        ahead->at += ahead->stride;
    }
}

/* B of one step into the first-level cache, by ordinary loads: from memory they bring it faster than the loads of tiles
 * do, and faster than prefetches alone. */
static always_inline void fetch_step(const char *b) {
    UNROLL for (int i = 0; i < AMX_K / 2 * B_ROW; i += 64) {
        __builtin_prefetch(b + STREAM_AHEAD + i);
        __asm__ volatile("vmovdqu64 %0, %%zmm16" : : "m"(*(const char (*)[64])(b + i)) : "xmm16");
    }
}

static always_inline void hold_sum(vf *x) { __asm__ volatile("" : "+v"(*x)); }

/* The same with codes, each part promoted onto c. Numbers of A that were quantised cannot make subnormals with codes;
 * others need the flags for the sums, and for them alone. */
static always_inline void multiply_few_codes(const int rows, const bool flush, int64_t k, const uint32_t *a,
                                             const char *b, const float *c_in, int64_t in_stride, float *c_out,
                                             int64_t out_stride, const struct matmul_scales *scales) {
    vf c[FEW][2];
    const unsigned control = _mm_getcsr();
    const struct code_tables tables = code_tables();
    const float *scale_a = scales->a, *scale_b = scales->b;
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int j = 0; j < 2; j++)
        c[r][j] = c_in ? vf_load(c_in + r * in_stride + 16 * j) : vf_zero();
    for (int64_t k0 = 0; k0 < k;) {
        const int64_t end = matmul_min(k0 + FP8_TILE, k);
        vf part[FEW][2];
        UNROLL for (int r = 0; r < rows; r++) UNROLL for (int j = 0; j < 2; j++) part[r][j] = vf_zero();
        _Alignas(64) float x[FEW][FP8_TILE / 2], y[FEW][FP8_TILE / 2];   /* even and odd k of A, once for all columns */
        const int steps = (int)((end - k0 + AMX_K - 1) / AMX_K);
        for (int s = 0; s < steps; s++, a += rows * 16) {
            UNROLL for (int r = 0; r < rows; r++) {
                const vi pairs = vi_load(a + r * 16);
                vf_store(x[r] + 16 * s, vf_even(pairs));
                vf_store(y[r] + 16 * s, vf_odd(pairs));
            }
        }
        k0 = end;
        if (flush) _mm_setcsr(control | FLUSH_SUBNORMALS);
        for (int s = 0; s < steps; s++) {
            vf even[FEW][2], odd[FEW][2];
            UNROLL for (int r = 0; r < rows; r++) UNROLL for (int j = 0; j < 2; j++) even[r][j] = odd[r][j] = vf_zero();
            if (flush)
                UNROLL for (int r = 0; r < rows; r++) UNROLL for (int j = 0; j < 2; j++) hold_sum(&even[r][j]),
                    hold_sum(&odd[r][j]);
            UNROLL for (int p = 0; p < AMX_K / 2; p++, b += 2 * PANEL) {
                vi b0, b1;
                __builtin_prefetch(b + FEW_AHEAD);
                decode_pairs((const uint8_t *)b, &tables, &b0, &b1);
                UNROLL for (int r = 0; r < rows; r++) {
                    const vf even_k = vf_set(x[r][16 * s + p]), odd_k = vf_set(y[r][16 * s + p]);
                    even[r][0] = vf_fma(even_k, vf_even(b0), even[r][0]);
                    even[r][1] = vf_fma(even_k, vf_even(b1), even[r][1]);
                    odd[r][0] = vf_fma(odd_k, vf_odd(b0), odd[r][0]);
                    odd[r][1] = vf_fma(odd_k, vf_odd(b1), odd[r][1]);
                }
            }
            UNROLL for (int r = 0; r < rows; r++) UNROLL for (int j = 0; j < 2; j++)
                part[r][j] = vf_add(part[r][j], vf_add(even[r][j], odd[r][j]));
        }
        if (flush) {
            UNROLL for (int r = 0; r < rows; r++) UNROLL for (int j = 0; j < 2; j++) hold_sum(&part[r][j]);
            _mm_setcsr(control);
            UNROLL for (int r = 0; r < rows; r++) UNROLL for (int j = 0; j < 2; j++) hold_sum(&part[r][j]);
        }
        const bool columns = scales->b_stride > 1;
        const vf b0 = columns ? vf_load(scale_b) : vf_set(*scale_b), b1 = columns ? vf_load(scale_b + VF) : b0;
        UNROLL for (int r = 0; r < rows; r++) {
            c[r][0] = promote(part[r][0], scale_a[r], b0, c[r][0]);
            c[r][1] = promote(part[r][1], scale_a[r], b1, c[r][1]);
            if (flush) hold_sum(&c[r][0]), hold_sum(&c[r][1]);
        }
        scale_a += scales->a_stride;
        scale_b += scales->b_stride;
    }
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int j = 0; j < 2; j++)
        vf_store(c_out + r * out_stride + 16 * j, c[r][j]);
}

static always_inline void few_codes(int height, bool flush, int64_t k, const void *a, const void *b, const float *c_in,
                                    int64_t in_stride, float *c_out, int64_t out_stride,
                                    const struct matmul_scales *scales) {
    if (height == 1) multiply_few_codes(1, flush, k, a, b, c_in, in_stride, c_out, out_stride, scales);
    else multiply_few_codes(FEW, flush, k, a, b, c_in, in_stride, c_out, out_stride, scales);
}
static void few_quantised(TILE_PARAMETERS) {
    (void)rows, (void)ahead;
    few_codes(height, false, k, a, b, c_in, in_stride, c_out, out_stride, scales);
}
static void few_rounded(TILE_PARAMETERS) {
    (void)rows, (void)ahead;
    few_codes(height, true, k, a, b, c_in, in_stride, c_out, out_stride, scales);
}

static void multiply_amx(int height, int rows, int64_t k, const void *a_packed, const void *b_packed, const float *c_in,
                         int64_t in_stride, float *c_out, int64_t out_stride, const struct matmul_ahead *ahead,
                         const struct matmul_scales *scales) {
    const char *a = a_packed, *b = b_packed;
    (void)scales;
    switch (height) {
    case 1: multiply_few(1, k, a_packed, b_packed, c_in, in_stride, c_out, out_stride); return;
    case FEW: multiply_few(FEW, k, a_packed, b_packed, c_in, in_stride, c_out, out_stride); return;
    default: break;
    }
    memory_is_read();
    int64_t in_bytes = in_stride * 4, out_bytes = out_stride * 4;
    if (rows <= 16) {   /* the upper half alone */
        if (c_in) {
            _tile_loadd(0, c_in, in_bytes);
            _tile_loadd(1, c_in + 16, in_bytes);
        } else {
            _tile_zero(0);
            _tile_zero(1);
        }
        /* Two steps at a time on separate registers, so that the loads of one need not wait for the products of the
         * other. */
        int64_t steps = (k + AMX_K - 1) / AMX_K;
        const bool streaming = ahead->rows > 0;   /* otherwise B was packed into the caches a moment ago */
        for (; steps > 0; steps -= 2) {
            if (streaming) fetch_step(b);
            _tile_loadd(4, a, A_ROW);
            _tile_loadd(6, b, B_ROW);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(7, b + 64, B_ROW);
            _tile_dpbf16ps(1, 4, 7);
            a += height * A_ROW;
            b += AMX_K / 2 * B_ROW;
            if (steps == 1) break;
            if (streaming) fetch_step(b);
            _tile_loadd(5, a, A_ROW);
            _tile_loadd(2, b, B_ROW);
            _tile_dpbf16ps(0, 5, 2);
            _tile_loadd(3, b + 64, B_ROW);
            _tile_dpbf16ps(1, 5, 3);
            a += height * A_ROW;
            b += AMX_K / 2 * B_ROW;
        }
        _tile_stored(0, c_out, out_bytes);
        _tile_stored(1, c_out + 16, out_bytes);
        return;
    }
    if (c_in) {
        _tile_loadd(0, c_in, in_bytes);
        _tile_loadd(1, c_in + 16, in_bytes);
        _tile_loadd(2, c_in + 16 * in_stride, in_bytes);
        _tile_loadd(3, c_in + 16 * in_stride + 16, in_bytes);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    /* The part of the panel stays in the first-level cache while the tiles of A pass by it: their loads carry the hint
     * not to stay there. The partial sums of the next tile follow these. */
    const char *sums = c_in ? (const char *)(c_in + AMX_ROWS * PANEL) : NULL;
    int64_t sums_bytes = c_in && in_stride == PANEL ? matmul_round_up((AMX_ROWS * PANEL * 4 * AMX_K + k - 1) / k, 64)
                                                    : 0;
    struct matmul_ahead next = *ahead;
    int64_t at = 0, ahead_lines = ((next.row_bytes + 63) / 64 * next.rows * AMX_K + k - 1) / k;   /* in each step */
    for (int64_t k0 = 0; k0 < k; k0 += AMX_K) {
        prefetch_part(&next, &at, ahead_lines);
        for (int64_t i = 0; i < sums_bytes; i += 64) __builtin_prefetch(sums + i, 1);
        sums += sums_bytes;
        _tile_stream_loadd(4, a, A_ROW);
        _tile_loadd(6, b, B_ROW);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, b + 64, B_ROW);
        _tile_dpbf16ps(1, 4, 7);
        _tile_stream_loadd(5, a + 16 * A_ROW, A_ROW);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        a += AMX_ROWS * A_ROW;
        b += AMX_K / 2 * B_ROW;
    }
    _tile_stored(0, c_out, out_bytes);
    _tile_stored(1, c_out + 16, out_bytes);
    _tile_stored(2, c_out + 16 * out_stride, out_bytes);
    _tile_stored(3, c_out + 16 * out_stride + 16, out_bytes);
}

/* A part of outputs that waits to be promoted, and what it is promoted with. */
struct promotion {
    const float *part, *in, *scale_a;
    float *out;
    int64_t in_stride, out_stride;
    vf b0, b1;
};

/* The next `rows` rows: c = fma(part, scale_a scale_b, c). */
static always_inline void promote_rows(struct promotion *p, const int rows, const bool columns) {
    UNROLL for (int r = 0; r < rows; r++) {
        const vf scale = vf_mul(vf_set(p->scale_a[r]), p->b0),
                 second = columns ? vf_mul(vf_set(p->scale_a[r]), p->b1) : scale;
        vf_store(p->out, vf_fma(vf_load(p->part + r * PANEL), scale, vf_load(p->in)));
        vf_store(p->out + VF, vf_fma(vf_load(p->part + r * PANEL + VF), second, vf_load(p->in + VF)));
        p->in += p->in_stride;
        p->out += p->out_stride;
    }
    p->part += rows * PANEL;
    p->scale_a += rows;
}

enum { STEP_ROWS = AMX_ROWS * AMX_K / FP8_TILE };   /* rows to promote for each step of the next part */

/* B as pairs. Between the steps of a part the part before it is promoted, so that the tiles need not wait for the
 * vectors. */
static always_inline void multiply_codes_as(int height, int rows, int64_t k, const char *a, const char *b,
                                            const float *c_in, int64_t in_stride, float *c_out, int64_t out_stride,
                                            const struct matmul_ahead *ahead, const struct matmul_scales *scales,
                                            const bool lower, const bool columns) {
    static const _Alignas(64) float zeros[PANEL];
    _Alignas(64) float part[AMX_ROWS * PANEL], kept[AMX_ROWS * PANEL];
    const int64_t a_step = (int64_t)height * A_ROW;
    const float *scale_a = scales->a, *scale_b = scales->b;
    struct matmul_ahead next = *ahead;
    int64_t at = 0, ahead_lines = ((next.row_bytes + 63) / 64 * next.rows * AMX_K + k - 1) / k;
    struct promotion before = {.in = c_in ? c_in : zeros, .in_stride = c_in ? in_stride : 0};
    memory_is_read();
    for (int64_t k0 = 0; k0 < k + FP8_TILE; k0 += FP8_TILE) {
        const int64_t steps = k0 < k ? (matmul_min(k - k0, FP8_TILE) + AMX_K - 1) / AMX_K : 0;
        int promoted = k0 ? 0 : AMX_ROWS;
        if (k0) {
            before.part = part;
            before.out = steps ? kept : c_out;
            before.out_stride = steps ? PANEL : out_stride;
        }
        if (steps) {
            _tile_zero(0);
            _tile_zero(1);
            if (lower) {
                _tile_zero(2);
                _tile_zero(3);
            }
        }
        for (int64_t step = 0; step < steps; step++) {
            prefetch_part(&next, &at, ahead_lines);
            if (lower) _tile_stream_loadd(4, a, A_ROW);
            else _tile_loadd(4, a, A_ROW);
            _tile_loadd(6, b, B_ROW);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(7, b + 64, B_ROW);
            _tile_dpbf16ps(1, 4, 7);
            if (lower) {
                _tile_stream_loadd(5, a + 16 * A_ROW, A_ROW);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
            a += a_step;
            b += AMX_K / 2 * B_ROW;
            if (promoted + STEP_ROWS <= rows) {
                promote_rows(&before, STEP_ROWS, columns);
                promoted += STEP_ROWS;
            }
        }
        for (; promoted + STEP_ROWS <= rows; promoted += STEP_ROWS) promote_rows(&before, STEP_ROWS, columns);
        for (; promoted < rows; promoted++) promote_rows(&before, 1, columns);
        if (!steps) break;
        if (k0) before.in = kept, before.in_stride = PANEL;
        memory_is_read();
        _tile_stored(0, part, B_ROW);
        _tile_stored(1, part + 16, B_ROW);
        if (lower) {
            _tile_stored(2, part + 16 * PANEL, B_ROW);
            _tile_stored(3, part + 16 * PANEL + 16, B_ROW);
        }
        memory_is_read();
        before.scale_a = scale_a;
        before.b0 = columns ? vf_load(scale_b) : vf_set(*scale_b);
        before.b1 = columns ? vf_load(scale_b + VF) : before.b0;
        scale_a += scales->a_stride;
        scale_b += scales->b_stride;
    }
}
static void multiply_codes(TILE_PARAMETERS) {
    const bool columns = scales->b_stride > 1;
    if (rows > height) rows = height;
    if (rows > 16) {
        if (columns)
            multiply_codes_as(height, rows, k, a, b, c_in, in_stride, c_out, out_stride, ahead, scales, true, true);
        else multiply_codes_as(height, rows, k, a, b, c_in, in_stride, c_out, out_stride, ahead, scales, true, false);
    } else {
        if (columns)
            multiply_codes_as(height, rows, k, a, b, c_in, in_stride, c_out, out_stride, ahead, scales, false, true);
        else multiply_codes_as(height, rows, k, a, b, c_in, in_stride, c_out, out_stride, ahead, scales, false, false);
    }
}

static always_inline void pack_a_as(uint32_t *to, int height, const struct matrix *a, enum dtype dtype, int64_t row,
                                    int rows, int64_t k0, int64_t k1) {
    if (!a->transposed) {
        for (int r = 0; r < height; r++)
            for (int64_t k = k0; k < k1; k += AMX_K)
                vi_store(to + ((k - k0) / AMX_K * height + r) * 16,
                         r < rows ? load_units(a->data, dtype, (row + r) * a->stride + k, k1 - k, UNIT_PAIR)
                                  : vi_zero());
        return;
    }
    for (int64_t k = k0; k < k1; k += AMX_K, to += height * 16) {
        for (int g = 0; g < height; g += 16) {
            vi x[16];
            int valid = lanes(rows - g, 16);
            UNROLL for (int p = 0; p < 16; p++)
                x[p] = valid && k + 2 * p < k1
                           ? gather_units(a->data, dtype, a->stride, k + 2 * p, k1, row + g, valid, UNIT_PAIR)
                           : vi_zero();
            vi_transpose(x);
            if (height - g >= 16) {
                UNROLL for (int r = 0; r < 16; r++) vi_store(to + (g + r) * 16, x[r]);
            } else {
                for (int r = 0; r < height - g; r++) vi_store(to + (g + r) * 16, x[r]);
            }
        }
    }
}

static void pack_a_amx(void *packed, float *scales, int64_t scale_stride, int height, const struct matrix *a,
                       int64_t row, int rows, int64_t k0, int64_t k1) {
    (void)scales, (void)scale_stride;
    if (a->dtype == DTYPE_BF16) pack_a_as(packed, height, a, DTYPE_BF16, row, rows, k0, k1);
    else pack_a_as(packed, height, a, DTYPE_F32, row, rows, k0, k1);
}

static void pack_a_codes(void *packed, float *scales, int64_t scale_stride, int height, const struct matrix *a,
                         int64_t row, int rows, int64_t k0, int64_t k1) {
    pack_a_quantised(pack_a_amx, true, 2, packed, scales, scale_stride, height, a, row, rows, k0, k1);
}

static void pack_quantised(void *expanded, float *scales, const struct matrix *b, int64_t k0, int64_t k1, int64_t n,
                           int columns, int64_t ahead) {
    pack_quantised_as(expanded, scales, b, k0, k1, n, columns, ahead, UNIT_PAIR);
}

/* The two kinds with codes differ in A: quantised, or rounded. */
#define KIND_CODES(K)                                                                                                  \
    .tile_rows = AMX_ROWS, .panel = PANEL, .a_multiple = AMX_K, .b_multiple = CODES_MULTIPLE, .a_bytes = 2,            \
    .b_bytes = 1, .codes = true, .direct_rows = FEW, .m_block = 512, .n_block = 512, .k_block = K, .stream_c = true,   \
    .height = height_of, .pack_b = pack_b_codes, .pack_quantised = pack_quantised, .multiply = multiply_codes,         \
    .expand = expand_codes_pairs, .begin = configure, .end = release
/* Parts and sums take room in the first-level cache beside B. */
static const struct matmul_kind kind_codes = {KIND_CODES(256), .k_whole = 512, .quantised = true,
                                              .pack_a = pack_a_codes, .multiply_single = few_quantised};
static const struct matmul_kind kind_bf16_codes = {KIND_CODES(512), .pack_a = pack_a_amx,
                                                   .multiply_single = few_rounded};
static const struct matmul_kind kind_bf16 = {
    .tile_rows = AMX_ROWS,
    .panel = PANEL,
    .a_multiple = AMX_K,
    .b_multiple = AMX_K,
    .a_bytes = 2,
    .b_bytes = 2,
    .with_codes = &kind_bf16_codes,
    .m_block = 512,
    .n_block = 512,
    .k_block = 512,
    .stream_c = true,
    .height = height_of,
    .pack_a = pack_a_amx,
    .pack_b = pack_b_pairs,
    .multiply = multiply_amx,
    .multiply_single = multiply_amx,
    .begin = configure,
    .end = release,
};

static const struct matmul_kind *kind_of(enum compute compute) {
    return compute == COMPUTE_FP8 ? &kind_codes : compute == COMPUTE_BF16 ? &kind_bf16 : matmul_avx512_f32;
}

const struct matmul_kernels matmul_amx = {packed_bytes,          pack_part,   scratch_bytes,       run,
                                          grouped_scratch_bytes, run_grouped, packed_columns_bytes};
#endif
