/* The blocked matrix product around a register tile, shared by every variant with packed panels.
 *
 * C [m, n] is cut into tiles of `height` rows and one panel of columns. A kernel computes one tile over one block of k:
 *
 *     for each block of rows            (its A is packed, for all of k: it stays in the second-level cache block of k
 * by block of k) for each block of columns       (its partial sums stay in the second-level cache) for each block of k
 *           for each panel of columns   (this part of B stays in the first-level cache)
 *             for each tile of rows     (A streams from the second level)
 *
 * Between two blocks of k a partial sum waits in scratch memory as fp32, which is exact, so blocking changes no bit.
 * Threads split the rows when there are many, with private packed A; otherwise the panels, with one packed A.
 * A block of a single tile needs no blocks of k: every panel is read once from begin to end, as decoding wants it.
 *
 * A B that is not packed goes the same way: each part of a panel is packed into a private scratch that stays in the
 * caches, just before it is used.
 *
 * Panels of E4M3 codes begin with their scales: of a panel of 128-row parts p, one number for each part, or one for
 * each part and column. `expand` makes of a part of such a panel what the tiles read, once for all tiles of a block.
 * The scales of A lie behind its packed rows.
 *
 * A list of independent products (experts, heads) is cut into units of blocks of rows and ranges of panels, which the
 * threads take as they come. */
#ifndef DEEPSEEK_KERNELS_MATMUL_DRIVER_H
#define DEEPSEEK_KERNELS_MATMUL_DRIVER_H

#include <stdatomic.h>
#include <string.h>

#include "kernels/kernels.h"
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

/* c_out[height][panel] = (c_in or 0) + A B for one tile over k values of k; of its rows, `rows` count. a: packed rows
 * of one tile, b: part of a panel. `ahead`: what will be needed next and is worth a prefetch. */
/* memory: so many rows, `stride` bytes apart */
struct matmul_ahead { const char *at; int64_t rows, row_bytes, stride; };
/* Scales of an E4M3 product's parts of 128 k: of row r in part p at a[p * a_stride + r]; of column j at b[p * b_stride
 * + j], or of all columns at b[p] where b_stride is 1. */
struct matmul_scales { const float *a, *b; int64_t a_stride, b_stride; };
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

/* ---- edges: tiles that a kernel cannot read or write in place ---------------------------------------------------- */

static inline void matmul_load_edge(float *tile, int height, int panel, const float *c, int64_t stride, int rows,
                                    int columns) {
    memset(tile, 0, (size_t)height * (size_t)panel * sizeof(float));
    for (int r = 0; r < rows; r++) memcpy(tile + (int64_t)r * panel, c + r * stride, (size_t)columns * sizeof(float));
}

/* Asks for the part of C that a tile will be added to. */
static inline void matmul_fetch_edge(const float *c, int64_t stride, int rows, int columns) {
    for (int r = 0; r < rows; r++, c += stride)
        for (int j = 0; j < columns; j += 16) __builtin_prefetch(c + j, 1);
}

static inline void matmul_add_edge(float *c, int64_t stride, const float *tile, int panel, int rows, int columns) {
    for (int r = 0; r < rows; r++, c += stride, tile += panel)
        for (int j = 0; j < columns; j++) c[j] += tile[j];
}

static inline void matmul_store_edge(void *c, enum dtype dtype, int64_t stride, const float *tile, int panel, int rows,
                                     int columns, bool stream) {
    for (int r = 0; r < rows; r++) {
        const float *from = tile + (int64_t)r * panel;
        if (dtype == DTYPE_BF16) {
            uint16_t *to = (uint16_t *)c + r * stride;
            for (int j = 0; j < columns; j++) to[j] = bf16_from_float(from[j]);
            continue;
        }
        float *to = (float *)c + r * stride;
#if defined(__SSE2__)
        if (stream && ((uintptr_t)to & 15) == 0) {
            int j = 0;
            for (; j + 4 <= columns; j += 4) _mm_stream_ps(to + j, _mm_loadu_ps(from + j));
            for (; j < columns; j++) to[j] = from[j];
            continue;
        }
#endif
        (void)stream;
        memcpy(to, from, (size_t)columns * sizeof(float));
    }
}

/* ---- the product ------------------------------------------------------------------------------------------------- */

struct matmul_call {
    const struct matmul_kind *kind;
    struct pool *pool;
    const struct matrix *a;
    const struct matmul_product *products;
    int count;
    char *scratch;
};

/* One block of rows: `a` packed in tiles of `height`, in blocks of `k_block`. */
struct matmul_block {
    int64_t row, rows, k, k_block;
    int height;
    char *a;
    float *scales;             /* of A */
    float *partial;
    void *expanded, *panel;
};

static inline int64_t matmul_block_tiles(const struct matmul_block *block) {
    return (block->rows + block->height - 1) / block->height;
}

/* Height and k_block of a block whose rows and k are known. */
static inline void matmul_block_cut(const struct matmul_kind *kind, struct matmul_block *block) {
    block->height = kind->height(block->rows);
    block->k_block = block->k;
    if (matmul_block_tiles(block) > 1 && block->k > kind->k_block && block->k > kind->k_whole) {
        int64_t blocks = (block->k + kind->k_block - 1) / kind->k_block;
        block->k_block = matmul_round_up((block->k + blocks - 1) / blocks, MATMUL_GRAIN);
    }
}

/* The scratch of a thread: its A, unless that is shared, and what lies behind it. */
static inline void matmul_block_place(struct matmul_block *block, const struct matmul_area *area, char *private) {
    block->partial = (float *)private;
    block->expanded = private + area->partial;
    block->panel = private + area->partial + area->expanded;
}

/* Packs the tiles of a block over the blocks of k, split over threads by pieces of k. */
static inline void matmul_pack_block(const struct matmul_kind *kind, const struct matmul_block *block,
                                     const struct matrix *a, int thread, int threads) {
    int64_t begin, end, tiles = matmul_block_tiles(block);
    pool_share(block->k, MATMUL_GRAIN, thread, threads, &begin, &end);
    /* Short pieces of k keep the rows of a transposed A in the cache from one tile to the next. */
    int64_t piece = a->transposed ? MATMUL_GRAIN : block->k_block;
    for (int64_t k0 = begin; k0 < end;) {
        int64_t in_block = k0 % block->k_block, first = k0 - in_block;
        int64_t length = matmul_min(block->k - first, block->k_block),
                k1 = matmul_min(matmul_min(k0 + piece, first + length), end);
        int64_t padded = matmul_round_up(length, kind->a_multiple);
        char *to = block->a +
                   (matmul_round_up(first, kind->a_multiple) * tiles * block->height + in_block * block->height) *
                       kind->a_bytes;
        for (int64_t tile = 0; tile < tiles; tile++) {
            int64_t row = tile * block->height;
            kind->pack_a(to, block->scales + k0 / MATMUL_GRAIN * tiles * block->height + row, tiles * block->height,
                         block->height, a, block->row + row, (int)matmul_min(block->height, block->rows - row), k0, k1);
            to += padded * block->height * kind->a_bytes;
        }
        k0 = k1;
    }
}

static inline int64_t matmul_number_bytes(enum dtype dtype) {
    return dtype == DTYPE_F8_E4M3 ? 1 : dtype == DTYPE_BF16 ? 2 : 4;
}

/* From a part of an unpacked panel to the part that follows: the next k of the same columns, or the first k of the next
 * panel. */
static inline int64_t matmul_ahead_bytes(const struct matmul_block *block, const struct matmul_product *product,
                                         int64_t k0, int64_t k_length, bool by_blocks, int panel) {
    const struct matrix *b = &product->unpacked;
    int64_t along_k = b->transposed ? 1 : b->stride, along_n = b->transposed ? b->stride : 1, elements;
    if (by_blocks) elements = panel * along_n;
    else elements = k0 + k_length < block->k ? k_length * along_k : panel * along_n - k0 * along_k;
    return elements * matmul_number_bytes(b->dtype);
}

/* That part where it lies. */
static inline struct matmul_ahead matmul_ahead_part(const struct matmul_block *block,
                                                    const struct matmul_product *product, int64_t k0, int64_t k_length,
                                                    int64_t n, bool by_blocks, int panel) {
    const struct matrix *b = &product->unpacked;
    const int64_t bytes = matmul_number_bytes(b->dtype);
    const char *part = (const char *)b->data + (b->transposed ? n * b->stride + k0 : k0 * b->stride + n) * bytes;
    return (struct matmul_ahead){part + matmul_ahead_bytes(block, product, k0, k_length, by_blocks, panel),
                                 b->transposed ? panel : k_length, (b->transposed ? k_length : panel) * bytes,
                                 b->stride * bytes};
}

/* The product over no k: zeros, or what is there. */
static inline void matmul_block_nothing(const struct matmul_kind *kind, const struct matmul_block *block,
                                        const struct matmul_product *product, int64_t panel_begin, int64_t panel_end) {
    if (product->onto != MATMUL_REPLACE) return;
    const size_t bytes = product->c_dtype == DTYPE_BF16 ? 2 : 4;
    int64_t begin = panel_begin * kind->panel, end = matmul_min(panel_end * kind->panel, product->n);
    for (int64_t row = block->row; row < block->row + block->rows; row++)
        memset((char *)product->c + (size_t)(row * product->c_stride + begin) * bytes, 0,
               (size_t)(end - begin) * bytes);
}

/* Panels panel_begin..panel_end of one product for one block of rows. */
static inline void matmul_block_product(const struct matmul_kind *kind, const struct matmul_block *block,
                                        const struct matmul_product *product, int64_t panel_begin, int64_t panel_end,
                                        bool stream) {
    static const float ones[32] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                   1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    if (product->codes && kind->with_codes) kind = kind->with_codes;
    int panel = kind->panel, height = block->height;
    int64_t tiles = matmul_block_tiles(block), tile_size = (int64_t)height * panel;
    bool column_scales = product->packed ? product->column_scales : product->unpacked.column_scales;
    int64_t panel_bytes = matmul_panel_bytes(kind, block->k, column_scales),
            header = matmul_header_bytes(kind, block->k, column_scales);
    int64_t step = block->rows <= MATMUL_FEW_ROWS ? 1 : kind->n_block / panel;   /* panels at a time */
    bool single = tiles == 1, unpacked = !product->packed,
         as_packed = single && (!kind->direct_rows || height <= kind->direct_rows),
         expanded = kind->expand && !as_packed;
    /* a single tile's A lies the same for every k_block */
    int64_t k_block = single && (unpacked || expanded) ? matmul_min(block->k_block, matmul_unpacked_k(height))
                                                       : block->k_block;
    if (unpacked) header = matmul_header_bytes(kind, k_block, column_scales);
    matmul_tile *multiply = as_packed ? kind->multiply_single : kind->multiply;
    _Alignas(64) float edge[32 * 64];

    if (block->k == 0) {
        matmul_block_nothing(kind, block, product, panel_begin, panel_end);
        return;
    }
    for (int64_t j0 = panel_begin; j0 < panel_end; j0 += step) {
        int64_t j1 = matmul_min(j0 + step, panel_end);
        int64_t k0 = 0;
        do {
            int64_t k_length = matmul_min(block->k - k0, k_block);
            bool first = k0 == 0, last = k0 + k_length >= block->k;
            int64_t a_tile = matmul_round_up(k_length, kind->a_multiple) * height * kind->a_bytes;
            for (int64_t j = j0; j < j1; j++) {
                const char *a = block->a + matmul_round_up(k0, kind->a_multiple) * tiles * height * kind->a_bytes;
                int columns = (int)matmul_min(panel, product->n - j * panel);
                const char *packed = (const char *)block->panel + header;
                struct matmul_scales scales = {ones, block->panel, 0, column_scales ? panel : 1};
                if (kind->quantised)
                    scales.a = block->scales + k0 / MATMUL_GRAIN * tiles * height, scales.a_stride = tiles * height;
                const bool quantised = unpacked && expanded && kind->pack_quantised &&
                                       product->unpacked.dtype != DTYPE_F8_E4M3;
                if (quantised)
                    kind->pack_quantised(block->expanded, block->panel, &product->unpacked, k0, k0 + k_length,
                                         j * panel, columns,
                                         single ? matmul_ahead_bytes(block, product, k0, k_length, false, panel) : 0);
                else if (unpacked)
                    kind->pack_b((char *)block->panel + header, block->panel, &product->unpacked, k0, k0 + k_length,
                                 j * panel, columns,
                                 single ? matmul_ahead_bytes(block, product, k0, k_length, false, panel) : 0);
                else {
                    packed = (const char *)product->packed + j * panel_bytes + header + k0 * panel * kind->b_bytes;
                    scales.b = (const float *)(const void *)((const char *)product->packed + j * panel_bytes) +
                               k0 / MATMUL_GRAIN * scales.b_stride;
                }
                const void *b = packed;
                if (expanded) {
                    if (!quantised) kind->expand(block->expanded, b, k_length);
                    b = block->expanded;
                }
                /* What follows this part of the panel: the same of the next panel, or the
                 * next block of k of the first. */
                int64_t part = k_length * panel * kind->b_bytes;
                const char *next = single       ? packed + part
                                   : j + 1 < j1 ? packed + panel_bytes
                                   : !last      ? packed - (j - j0) * panel_bytes + part
                                                : packed + panel_bytes;
                int64_t share = (matmul_round_up(part, 64) / 64 + tiles - 1) / tiles * 64;
                struct matmul_ahead ahead = {next, 1, share, share}, source = {0};
                if (unpacked) {
                    if (!single) source = matmul_ahead_part(block, product, k0, k_length, j * panel, step > 1, panel);
                    ahead = (struct matmul_ahead){source.at, (source.rows + tiles - 1) / tiles, source.row_bytes,
                                                  source.stride};
                } else if (single && expanded) {
                    ahead.rows = 0;   /* `expand` asked for it */
                }
                for (int64_t i = 0; i < tiles; i++, a += a_tile) {
                    int rows = (int)matmul_min(height, block->rows - i * height);
                    int64_t offset = (block->row + i * height) * product->c_stride + j * panel;
                    bool whole = columns == panel && rows == height;
                    float *partial = block->partial + ((j - j0) * tiles + i) * tile_size;
                    float *c = (float *)product->c + offset;
                    const float *in = partial;
                    float *out = partial;
                    int64_t in_stride = panel, out_stride = panel;
                    if (first) {
                        in = NULL;
                        if (product->onto == MATMUL_CONTINUE) {
                            in = c;
                            in_stride = product->c_stride;
                            if (!whole) {
                                matmul_load_edge(edge, height, panel, c, product->c_stride, rows, columns);
                                in = edge;
                                in_stride = panel;
                            }
                        }
                    }
                    bool add = last && product->onto == MATMUL_ADD;
                    bool direct = last && whole && product->c_dtype == DTYPE_F32 && !stream && !add;
                    if (direct) {
                        out = c;
                        out_stride = product->c_stride;
                    } else if (last) {
                        out = edge;
                        if (add) matmul_fetch_edge(c, product->c_stride, rows, columns);
                    }
                    multiply(height, rows, k_length, a, b, in, in_stride, out, out_stride, &ahead, &scales);
                    if (kind->quantised) scales.a += height;
                    ahead.at += ahead.rows * ahead.stride;
                    if (add) matmul_add_edge(c, product->c_stride, edge, panel, rows, columns);
                    else if (last && !direct)
                        matmul_store_edge((char *)product->c +
                                              (size_t)offset * (product->c_dtype == DTYPE_BF16 ? 2 : 4),
                                          product->c_dtype, product->c_stride, edge, panel, rows, columns, stream);
                }
            }
            k0 += k_length;
        } while (k0 < block->k);
    }
}

static inline int64_t matmul_panels(const struct matmul_kind *kind, const struct matmul_product *product) {
    return (product->n + kind->panel - 1) / kind->panel;
}

static inline void matmul_task(void *context, int thread, int threads) {
    const struct matmul_call *call = context;
    const struct matmul_kind *kind = call->kind;
    int64_t m = call->a->rows, k = call->a->cols, panels = 0;
    for (int i = 0; i < call->count; i++) panels += matmul_panels(kind, &call->products[i]);

    /* Rows for each thread while that leaves every thread a full block, or when there
     * are too few panels to go round. */
    bool by_rows = m >= (int64_t)threads * kind->m_block || panels < threads;
    int64_t row_begin = 0, row_end = m, panel_begin = 0, panel_end = panels;
    int pack_thread = 0, pack_threads = 1;
    if (by_rows) {
        pool_share(m, kind->tile_rows, thread, threads, &row_begin, &row_end);
    } else {
        pool_share(panels, 1, thread, threads, &panel_begin, &panel_end);
        pack_thread = thread;
        pack_threads = threads;
    }

    int64_t share = by_rows
                        ? matmul_min(m, matmul_round_up((m + threads - 1) / threads, kind->tile_rows) + kind->tile_rows)
                        : m;
    struct matmul_area area = matmul_block_area(kind, matmul_min(share, kind->m_block + kind->tile_rows), k);
    char *scratch = (char *)(((uintptr_t)call->scratch + 63) / 64 * 64);
    char *private = by_rows ? scratch + (size_t)thread * (area.a + matmul_area_private(&area))
                            : scratch + area.a + (size_t)thread * matmul_area_private(&area);
    struct matmul_block block = {.k = k};
    block.a = by_rows ? private : scratch;
    block.scales = (float *)(void *)(block.a + area.scales);
    matmul_block_place(&block, &area, by_rows ? private + area.a : private);

    int64_t block_rows = matmul_block_rows(kind, row_end - row_begin);
    for (block.row = row_begin; block.row < row_end; block.row += block_rows) {
        block.rows = matmul_min(block_rows, row_end - block.row);
        matmul_block_cut(kind, &block);
        /* the others may still read the block before */
        if (pack_threads > 1 && block.row > row_begin) pool_barrier(call->pool);
        matmul_pack_block(kind, &block, call->a, pack_thread, pack_threads);
        if (pack_threads > 1) pool_barrier(call->pool);

        if (kind->begin) kind->begin(block.height);
        int64_t before = 0;
        for (int i = 0; i < call->count; i++) {
            const struct matmul_product *product = &call->products[i];
            int64_t own = matmul_panels(kind, product), j0 = panel_begin > before ? panel_begin - before : 0,
                    j1 = matmul_min(panel_end - before, own);
            bool stream = kind->stream_c && product->onto == MATMUL_REPLACE && product->c_dtype == DTYPE_F32 &&
                          m * product->n >= 1 << 20;
            if (j0 < j1) matmul_block_product(kind, &block, product, j0, j1, stream);
            before += own;
        }
        if (kind->end) kind->end();
    }
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

/* Multiplications that take one thread about as long as handing work to another. Threads change no bit, so this may
 * look at the size of a call. */
#define MATMUL_ALONE (1 << 18)

static inline void matmul_kind_run(const struct matmul_kind *kind, struct pool *pool, const struct matrix *a,
                                   const struct matmul_product *products, int count, void *scratch) {
    int64_t columns = 0;
    for (int i = 0; i < count; i++) columns += products[i].n;
    if (a->rows * a->cols * columns < MATMUL_ALONE) pool = NULL;
    struct matmul_call call = {kind, pool, a, products, count, scratch};
    pool_run(pool, matmul_task, &call);
}

/* ---- many products in one call ----------------------------------------------------------------------------------- */

/* Each group has blocks of rows, and each block the panels of all the group's products. A block whose cost is above
 * that of a unit is cut into pieces of its panels. A thread takes the next unit from a counter, and packs the rows of A
 * itself unless it has packed them for the unit before: no thread waits for another. */
struct matmul_list {
    const struct matmul_kind *kind;
    const struct matmul_group *groups;
    int count;
    int64_t unit_cost;
    bool stream;               /* the call writes more than the caches should hold */
    struct matmul_area area;   /* of one thread, enough for every group */
    char *scratch;
    _Alignas(64) atomic_llong next;
};

/* Units for each thread, so that the last one to finish is not far behind; what reading B costs, in rows; the least
 * cost of a unit. */
enum { MATMUL_UNITS = 16, MATMUL_READ_ROWS = 8, MATMUL_UNIT_COST = 1 << 19 };

/* Results of so many bytes are written around the caches: what reads gradients reads them later, and a line that is
 * written whole need not be read first. */
#define MATMUL_STREAM_BYTES (16 << 20)

/* A result that is most of what its product moves, in whole cache lines. */
static inline bool matmul_is_streamed(const struct matrix *a, const struct matmul_product *product) {
    return product->onto == MATMUL_REPLACE && product->c_dtype == DTYPE_F32 && product->c_stride % 16 == 0 &&
           (uintptr_t)product->c % 64 == 0 && 2 * a->rows * product->n > (a->rows + product->n) * a->cols;
}

struct matmul_cut { int64_t panels, block_rows, pieces, units; };   /* of a group; `pieces` of each block */

static inline struct matmul_cut matmul_group_cut(const struct matmul_kind *kind, const struct matmul_group *group,
                                                 int64_t unit_cost) {
    struct matmul_cut cut = {0};
    int64_t m = group->a.rows;
    for (int i = 0; i < group->count; i++) cut.panels += matmul_panels(kind, &group->products[i]);
    if (m == 0 || cut.panels == 0) return cut;
    cut.block_rows = matmul_block_rows(kind, m);
    int64_t cost = (cut.block_rows + MATMUL_READ_ROWS) * group->a.cols * cut.panels * kind->panel;
    cut.pieces = matmul_min((cost + unit_cost / 2) / unit_cost, cut.panels);
    if (cut.pieces < 1) cut.pieces = 1;
    cut.units = (m + cut.block_rows - 1) / cut.block_rows * cut.pieces;
    return cut;
}

static inline void matmul_list_task(void *context, int thread, int threads) {
    struct matmul_list *list = context;
    const struct matmul_kind *kind = list->kind;
    char *scratch = list->scratch + (size_t)thread * (list->area.a + matmul_area_private(&list->area));
    struct matmul_block block = {.a = scratch, .scales = (float *)(void *)(scratch + list->area.scales)};
    matmul_block_place(&block, &list->area, scratch + list->area.a);
    (void)threads;

    int at = 0, packed_group = -1, height = 0;
    int64_t first = 0, packed_row = -1;   /* the first unit of group `at` */
    struct matmul_cut cut = matmul_group_cut(kind, &list->groups[0], list->unit_cost);
    for (;;) {
        int64_t unit = atomic_fetch_add_explicit(&list->next, 1, memory_order_relaxed);
        while (unit - first >= cut.units) {
            if (++at == list->count) goto done;
            first += cut.units;
            cut = matmul_group_cut(kind, &list->groups[at], list->unit_cost);
        }
        const struct matmul_group *group = &list->groups[at];
        block.k = group->a.cols;
        block.row = (unit - first) / cut.pieces * cut.block_rows;
        block.rows = matmul_min(cut.block_rows, group->a.rows - block.row);
        matmul_block_cut(kind, &block);
        if (packed_group != at || packed_row != block.row) {
            matmul_pack_block(kind, &block, &group->a, 0, 1);
            packed_group = at;
            packed_row = block.row;
        }
        if (kind->begin && height != block.height) kind->begin(block.height);
        height = block.height;
        int64_t begin, end, before = 0;
        pool_share(cut.panels, 1, (int)((unit - first) % cut.pieces), (int)cut.pieces, &begin, &end);
        for (int i = 0; i < group->count; i++) {
            const struct matmul_product *product = &group->products[i];
            int64_t own = matmul_panels(kind, product), j0 = begin > before ? begin - before : 0,
                    j1 = matmul_min(end - before, own);
            if (j0 < j1)
                matmul_block_product(kind, &block, product, j0, j1,
                                     list->stream && matmul_is_streamed(&group->a, product));
            before += own;
        }
    }
done:
    if (kind->end && height) kind->end();
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

static inline size_t matmul_kind_grouped_scratch_bytes(const struct matmul_kind *kind, int64_t max_m, int64_t max_k,
                                                       int threads) {
    struct matmul_area area = matmul_block_area(kind, matmul_min(max_m, kind->m_block + kind->tile_rows), max_k);
    return (size_t)threads * (area.a + matmul_area_private(&area)) + 64;
}

static inline void matmul_kind_run_grouped(const struct matmul_kind *kind, struct pool *pool,
                                           const struct matmul_group *groups, int count, void *scratch) {
    int64_t max_m = 0, max_k = 0, products = 0, cost = 0, streamed = 0;
    for (int i = 0; i < count; i++) {
        int64_t m = groups[i].a.rows, k = groups[i].a.cols, n = 0;
        for (int j = 0; j < groups[i].count; j++) {
            const struct matmul_product *product = &groups[i].products[j];
            n += product->n;
            if (matmul_is_streamed(&groups[i].a, product)) streamed += m * product->n * 4;
        }
        if (m == 0 || n == 0) continue;
        if (m > max_m) max_m = m;
        if (k > max_k) max_k = k;
        products += m * k * n;
        cost += (m + MATMUL_READ_ROWS) * k * n;
    }
    if (max_m == 0) return;
    if (products < MATMUL_ALONE) pool = NULL;
    struct matmul_list list = {.kind = kind,
                               .groups = groups,
                               .count = count,
                               .unit_cost = cost / (MATMUL_UNITS * (int64_t)pool_threads(pool))};
    if (list.unit_cost < MATMUL_UNIT_COST) list.unit_cost = MATMUL_UNIT_COST;
    list.stream = streamed >= MATMUL_STREAM_BYTES;
    list.area = matmul_block_area(kind, matmul_min(max_m, kind->m_block + kind->tile_rows), max_k);
    list.scratch = (char *)(((uintptr_t)scratch + 63) / 64 * 64);
    atomic_init(&list.next, 0);
    pool_run(pool, matmul_list_task, &list);
}

#endif
