/* Peak of AMX tile products: four tiles of C, two of A, two of B, as the matrix product uses them, without loads. */
#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels/probe.h"

void probe_rounds_amx(int64_t rounds) {
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } configuration = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) configuration.row_bytes[tile] = 64, configuration.rows[tile] = 16;
    __asm__ volatile("" : : "r"(&configuration) : "memory");   /* the intrinsic does not say how much it reads */
    _tile_loadconfig(&configuration);
    _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
    _tile_zero(4); _tile_zero(5); _tile_zero(6); _tile_zero(7);
    for (int64_t i = 0; i < rounds; i++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_release();
}
#endif
