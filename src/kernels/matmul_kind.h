/* What a variant gives to the blocked matrix product: one arithmetic, its tiles and its packing; and the sizes of
 * blocks that follow from them.
 *
 * Panels of E4M3 codes begin with their scales: of a panel of 128-row parts p, one number for each part, or one for
 * each part and column. `expand` makes of a part of such a panel what the tiles read, once for all tiles of a block.
 * The scales of A lie behind its packed rows. */
#ifndef DEEPSEEK_KERNELS_MATMUL_KIND_H
#define DEEPSEEK_KERNELS_MATMUL_KIND_H

#include "kernels/kernels.h"

/* Memory: so many rows, `stride` bytes apart. */
struct matmul_ahead { const char *at; int64_t rows, row_bytes, stride; };
/* Scales of an E4M3 product's parts of 128 k: of row r in part p at a[p * a_stride + r]; of column j at b[p * b_stride
 * + j], or of all columns at b[p] where b_stride is 1. */
struct matmul_scales { const float *a, *b; int64_t a_stride, b_stride; };
/* c_out[height][panel] = (c_in or 0) + A B for one tile over k values of k; of its rows, `rows` count. a: packed rows
 * of one tile, b: part of a panel. `ahead`: what will be needed next and is worth a prefetch. */
typedef void matmul_tile(int height, int rows, int64_t k, const void *a, const void *b, const float *c_in,
                         int64_t in_stride, float *c_out, int64_t out_stride, const struct matmul_ahead *ahead,
                         const struct matmul_scales *scales);

/* One arithmetic of one variant. */
struct matmul_kind {
    int tile_rows;          /* largest height of a tile */
    int panel;              /* columns of a panel, a divisor of MATMUL_GRAIN */
    int a_multiple;         /* k of a packed tile of A is padded with zeros to a multiple of this */
    int b_multiple;         /* the same of B */
    int a_bytes, b_bytes;   /* per packed element */
    int m_block, n_block, k_block;
    int k_whole;            /* k up to which a block is not cut into blocks of k_block; 0: k_block */
    bool stream_c;          /* write a large C around the caches */
    int (*height)(int64_t rows);   /* of the tiles of a block with so many rows */
    bool codes;             /* B is E4M3 codes with scales */
    /* A, too, has scales: pack_a writes that of row r in part p to scales[p * scale_stride + r] */
    bool quantised;
    /* a single tile of so many rows reads B as packed, a higher one what `expand` made; 0: all read it as packed */
    int direct_rows;
    const struct matmul_kind *with_codes;   /* for products of the same packed A with B as codes; NULL: none */
    void (*pack_a)(void *packed, float *scales, int64_t scale_stride, int height, const struct matrix *a, int64_t row,
                   int rows, int64_t k0, int64_t k1);
    /* Rows k0..k1 of one panel of B, which begins at column n and has `columns` of them, padded as a packed B is.
     * `ahead`: bytes from there to what will be packed next, along the rows of memory. Codes: the scales of the parts,
     * as matmul_scales has them. */
    void (*pack_b)(void *packed, float *scales, const struct matrix *b, int64_t k0, int64_t k1, int64_t n, int columns,
                   int64_t ahead);
    /* What `expand` would make of what pack_b makes of numbers that are to be quantised, with the same scales. */
    void (*pack_quantised)(void *expanded, float *scales, const struct matrix *b, int64_t k0, int64_t k1, int64_t n,
                           int columns, int64_t ahead);
    matmul_tile *multiply;
    matmul_tile *multiply_single;  /* of a block that is one tile; reads B as packed even where there is `expand` */
    /* makes of a part of a panel what `multiply` reads; NULL: nothing to do */
    void (*expand)(void *expanded, const void *b, int64_t k);
    void (*begin)(int height);     /* thread state around a block's tiles; may be NULL */
    void (*end)(void);
};

static inline int64_t matmul_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t matmul_round_up(int64_t a, int64_t multiple) { return (a + multiple - 1) / multiple * multiple; }

/* Bytes of a panel and of the scales it begins with. */
static inline int64_t matmul_header_bytes(const struct matmul_kind *kind, int64_t k, bool column_scales) {
    return kind->codes ? matmul_round_up((k + MATMUL_GRAIN - 1) / MATMUL_GRAIN * (column_scales ? kind->panel : 1) *
                                             (int64_t)sizeof(float),
                                         64)
                       : 0;
}
static inline int64_t matmul_panel_bytes(const struct matmul_kind *kind, int64_t k, bool column_scales) {
    return matmul_header_bytes(kind, k, column_scales) +
           matmul_round_up(k, kind->b_multiple) * kind->panel * kind->b_bytes;
}
static inline size_t matmul_kind_packed_bytes(const struct matmul_kind *kind, int64_t k, int64_t n,
                                              bool column_scales) {
    return (size_t)((n + kind->panel - 1) / kind->panel * matmul_panel_bytes(kind, k, column_scales));
}

/* Height of tiles no higher than the kind's, as even as possible. */
static inline int matmul_even_height(int64_t rows, int tile_rows) {
    int64_t tiles = (rows + tile_rows - 1) / tile_rows;
    return tiles ? (int)((rows + tiles - 1) / tiles) : 1;
}

/* ---- sizes ------------------------------------------------------------------------------------------------------- */

/* A block with no more rows takes the panels one by one, in the order they have in memory. */
#define MATMUL_FEW_ROWS 64

/* k of a part of a panel that is packed on the way, where one tile uses it: the part stays in the first-level cache.
 * The fewer rows, the more often the next part should be asked for; the more rows, the less often a tile should be
 * begun. */
#define MATMUL_UNPACKED_K 512
static inline int64_t matmul_unpacked_k(int height) { return height <= 2 ? 128 : MATMUL_UNPACKED_K; }

/* bytes, multiples of 64; scales: where those of A begin in it */
struct matmul_area { size_t a, partial, expanded, panel, scales; };

static inline struct matmul_area matmul_block_area(const struct matmul_kind *kind, int64_t rows, int64_t k) {
    int64_t padded_rows = rows <= kind->tile_rows / 2 ? rows : matmul_round_up(rows, kind->tile_rows);
    bool blocked = rows > kind->tile_rows && k > kind->k_block;
    int64_t columns = rows <= MATMUL_FEW_ROWS ? kind->panel : kind->n_block;
    int64_t part = kind->k_block > MATMUL_UNPACKED_K ? kind->k_block : MATMUL_UNPACKED_K;
    struct matmul_area area;
    area.scales = (size_t)(padded_rows * matmul_round_up(k, kind->a_multiple) * kind->a_bytes + 63) / 64 * 64;
    area.a = area.scales +
             (kind->quantised ? (size_t)matmul_round_up(
                                    padded_rows * ((k + MATMUL_GRAIN - 1) / MATMUL_GRAIN) * (int64_t)sizeof(float), 64)
                              : 0);
    area.partial = (size_t)(blocked                    ? padded_rows * columns
                            : k > matmul_unpacked_k(1) ? kind->tile_rows * kind->panel
                                                       : 0) *
                   sizeof(float);
    area.expanded = 0;
    area.partial = (area.partial + 63) / 64 * 64;
    area.panel = ((size_t)(matmul_round_up(matmul_min(k, part), kind->b_multiple) * kind->panel * kind->b_bytes) + 63) /
                 64 * 64;
    for (; kind; kind = kind->with_codes) {
        const size_t panel = (size_t)matmul_panel_bytes(kind, matmul_min(k, part), true);
        if (panel > area.panel) area.panel = panel;
        if (kind->expand && (rows > kind->tile_rows || kind->direct_rows))
            area.expanded = (size_t)matmul_round_up(
                matmul_min(matmul_round_up(k, kind->b_multiple), part) * kind->panel * (int64_t)sizeof(float), 64);
    }
    return area;
}

static inline size_t matmul_area_private(const struct matmul_area *area) {
    return area->partial + area->expanded + area->panel;
}

static inline int64_t matmul_block_rows(const struct matmul_kind *kind, int64_t rows) {
    int64_t blocks = (rows + kind->m_block - 1) / kind->m_block;
    return blocks > 1 ? matmul_round_up((rows + blocks - 1) / blocks, kind->tile_rows) : rows;
}

/* Enough for both ways to split the work: a shared A with one block of rows, or an A for each thread. */
static inline size_t matmul_kind_scratch_bytes(const struct matmul_kind *kind, int64_t m, int64_t k, int threads) {
    int64_t share = matmul_min(m, matmul_round_up((m + threads - 1) / threads, kind->tile_rows) + kind->tile_rows);
    struct matmul_area whole = matmul_block_area(kind, matmul_min(m, kind->m_block + kind->tile_rows), k);
    struct matmul_area part = matmul_block_area(kind, matmul_min(share, kind->m_block + kind->tile_rows), k);
    size_t by_columns = whole.a + (size_t)threads * matmul_area_private(&whole);
    size_t by_rows = (size_t)threads * (part.a + matmul_area_private(&part));
    return (by_columns > by_rows ? by_columns : by_rows) + 64;
}

static inline int64_t matmul_number_bytes(enum dtype dtype) {
    return dtype == DTYPE_F32 ? 4 : dtype == DTYPE_BF16 ? 2 : 1;
}

#endif
