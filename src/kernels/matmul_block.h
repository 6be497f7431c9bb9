/* A block of rows of A against panels of B: where the parts of B come from, one tile, and its way to C. */
#ifndef DEEPSEEK_KERNELS_MATMUL_BLOCK_H
#define DEEPSEEK_KERNELS_MATMUL_BLOCK_H

#include <string.h>

#include "kernels/matmul_kind.h"
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

/* ---- the rows of A ----------------------------------------------------------------------------------------------- */

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

/* ---- the source of B --------------------------------------------------------------------------------------------- */

/* How a block meets the panels of one product. */
struct matmul_source {
    const struct matmul_kind *kind;
    const struct matmul_block *block;
    const struct matmul_product *product;
    matmul_tile *multiply;
    bool single;               /* the block is one tile */
    bool unpacked;             /* B is packed part by part, just before its tiles */
    bool expanded;             /* the tiles read what `expand` made */
    bool quantised;            /* which is made of the numbers themselves */
    bool column_scales, stream;
    int64_t step;              /* panels that are taken together through the blocks of k */
    int64_t k_block, header, panel_bytes;
};

static inline struct matmul_source matmul_source_of(const struct matmul_kind *kind, const struct matmul_block *block,
                                                    const struct matmul_product *product, bool stream) {
    struct matmul_source source = {.kind = kind, .block = block, .product = product, .stream = stream};
    source.single = matmul_block_tiles(block) == 1;
    source.unpacked = !product->packed;
    source.column_scales = product->packed ? product->column_scales : product->unpacked.column_scales;
    const bool as_packed = source.single && (!kind->direct_rows || block->height <= kind->direct_rows);
    source.multiply = as_packed ? kind->multiply_single : kind->multiply;
    source.expanded = kind->expand && !as_packed;
    source.quantised = source.unpacked && source.expanded && kind->pack_quantised &&
                       !product->unpacked.format;
    source.step = block->rows <= MATMUL_FEW_ROWS ? 1 : kind->n_block / kind->panel;
    /* a single tile's A lies the same for every k_block */
    source.k_block = source.single && (source.unpacked || source.expanded)
                         ? matmul_min(block->k_block, matmul_unpacked_k(block->height))
                         : block->k_block;
    source.header = matmul_header_bytes(kind, source.unpacked ? source.k_block : block->k, source.column_scales);
    source.panel_bytes = matmul_panel_bytes(kind, block->k, source.column_scales);
    return source;
}

/* A part of a panel, k0 .. k0 + k, as the tiles read it; with it what they read of A, and what follows. */
struct matmul_part {
    int64_t j, k0, k;          /* panel j */
    int columns;
    const void *b;
    struct matmul_scales scales;
    struct matmul_ahead ahead;
};

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

/* A part of a packed panel. What follows it: the same of the next panel, or the next block of k of the first, panel j0
 * of those before j1. */
static inline void matmul_part_packed(const struct matmul_source *source, struct matmul_part *part, int64_t j0,
                                      int64_t j1) {
    const struct matmul_kind *kind = source->kind;
    const char *panel = (const char *)source->product->packed + part->j * source->panel_bytes,
               *packed = panel + source->header + part->k0 * kind->panel * kind->b_bytes;
    const int64_t bytes = part->k * kind->panel * kind->b_bytes, tiles = matmul_block_tiles(source->block),
                  share = (matmul_round_up(bytes, 64) / 64 + tiles - 1) / tiles * 64;
    const bool next_k = source->single || (part->j + 1 == j1 && part->k0 + part->k < source->block->k);
    const char *next = !next_k          ? packed + source->panel_bytes
                       : source->single ? packed + bytes
                                        : packed - (part->j - j0) * source->panel_bytes + bytes;
    part->b = packed;
    part->scales.b = (const float *)(const void *)panel + part->k0 / MATMUL_GRAIN * part->scales.b_stride;
    /* of a single tile, `expand` asks for it */
    part->ahead = (struct matmul_ahead){next, source->single && source->expanded ? 0 : 1, share, share};
}

/* The same of a B as it lies in memory: packed here. */
static inline void matmul_part_unpacked(const struct matmul_source *source, struct matmul_part *part) {
    const struct matmul_kind *kind = source->kind;
    const struct matmul_block *block = source->block;
    const int64_t n = part->j * kind->panel, k1 = part->k0 + part->k, tiles = matmul_block_tiles(block),
                  ahead = source->single
                              ? matmul_ahead_bytes(block, source->product, part->k0, part->k, false, kind->panel)
                              : 0;
    part->b = (const char *)block->panel + source->header;
    (source->quantised ? kind->pack_quantised : kind->pack_b)(
        source->quantised ? block->expanded : (char *)block->panel + source->header, block->panel,
        &source->product->unpacked, part->k0, k1, n, part->columns, ahead);
    if (source->single) return;
    part->ahead = matmul_ahead_part(block, source->product, part->k0, part->k, n, source->step > 1, kind->panel);
    part->ahead.rows = (part->ahead.rows + tiles - 1) / tiles;
}

static inline struct matmul_part matmul_part_of(const struct matmul_source *source, int64_t j, int64_t j0, int64_t j1,
                                                int64_t k0) {
    static const float ones[32] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                   1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    const struct matmul_kind *kind = source->kind;
    const struct matmul_block *block = source->block;
    const int64_t rows = matmul_block_tiles(block) * block->height;
    struct matmul_part part = {.j = j,
                               .k0 = k0,
                               .k = matmul_min(block->k - k0, source->k_block),
                               .columns = (int)matmul_min(kind->panel, source->product->n - j * kind->panel),
                               .scales = {ones, block->panel, 0, source->column_scales ? kind->panel : 1}};
    if (kind->quantised) part.scales.a = block->scales + k0 / MATMUL_GRAIN * rows, part.scales.a_stride = rows;
    if (source->unpacked) matmul_part_unpacked(source, &part);
    else matmul_part_packed(source, &part, j0, j1);
    if (source->expanded && !source->quantised) kind->expand(block->expanded, part.b, part.k);
    if (source->expanded) part.b = block->expanded;
    return part;
}

/* ---- the store: tiles that a kernel cannot read or write in place ------------------------------------------------ */

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

/* ---- one tile ---------------------------------------------------------------------------------------------------- */

/* Tile i of the block over a part: onto the sum that waits in `partial`, or, with the first part, onto what the product
 * asks for; the last part's go to C. a: the tile's packed rows. */
static inline void matmul_block_tile(const struct matmul_source *source, const struct matmul_part *part, int64_t i,
                                     const char *a, float *partial /* [height][panel] */) {
    const struct matmul_kind *kind = source->kind;
    const struct matmul_block *block = source->block;
    const struct matmul_product *product = source->product;
    const int panel = kind->panel, height = block->height, rows = (int)matmul_min(height, block->rows - i * height),
              columns = part->columns;
    const int64_t stride = product->c_stride, at = (block->row + i * height) * stride + part->j * panel;
    const bool whole = columns == panel && rows == height, first = part->k0 == 0,
               last = part->k0 + part->k >= block->k, add = last && product->onto == MATMUL_ADD,
               direct = last && whole && product->c_dtype == DTYPE_F32 && !source->stream && !add;
    _Alignas(64) float edge[32 * 64];
    float *c = (float *)product->c + at, *out = direct ? c : last ? edge : partial;
    const float *in = first ? NULL : partial;
    int64_t in_stride = panel;
    if (first && product->onto == MATMUL_CONTINUE) {
        in = whole ? c : edge;
        if (whole) in_stride = stride;
        else matmul_load_edge(edge, height, panel, c, stride, rows, columns);
    }
    if (add) matmul_fetch_edge(c, stride, rows, columns);
    source->multiply(height, rows, part->k, a, part->b, in, in_stride, out, direct ? stride : panel, &part->ahead,
                     &part->scales);
    if (add) matmul_add_edge(c, stride, edge, panel, rows, columns);
    else if (last && !direct)
        matmul_store_edge(product->c_dtype == DTYPE_BF16 ? (void *)((uint16_t *)product->c + at) : c, product->c_dtype,
                          stride, edge, panel, rows, columns, source->stream);
}

/* ---- panels of one product for one block of rows ----------------------------------------------------------------- */

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
    if (product->codes && kind->with_codes) kind = kind->with_codes;
    if (block->k == 0) {
        matmul_block_nothing(kind, block, product, panel_begin, panel_end);
        return;
    }
    const struct matmul_source source = matmul_source_of(kind, block, product, stream);
    const int64_t tiles = matmul_block_tiles(block), tile_size = (int64_t)block->height * kind->panel;
    for (int64_t j0 = panel_begin; j0 < panel_end; j0 += source.step) {
        const int64_t j1 = matmul_min(j0 + source.step, panel_end);
        for (int64_t k0 = 0; k0 < block->k; k0 += source.k_block) {
            for (int64_t j = j0; j < j1; j++) {
                struct matmul_part part = matmul_part_of(&source, j, j0, j1, k0);
                const int64_t a_tile = matmul_round_up(part.k, kind->a_multiple) * block->height * kind->a_bytes;
                const char *a = block->a +
                                matmul_round_up(k0, kind->a_multiple) * tiles * block->height * kind->a_bytes;
                float *partial = block->partial + (j - j0) * tiles * tile_size;
                for (int64_t i = 0; i < tiles; i++, a += a_tile, partial += tile_size) {
                    matmul_block_tile(&source, &part, i, a, partial);
                    if (kind->quantised) part.scales.a += block->height;
                    part.ahead.at += part.ahead.rows * part.ahead.stride;
                }
            }
        }
    }
}

#endif
