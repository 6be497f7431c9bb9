/* The table of formats (format.h; spec/v1-v3.md section 6.3, spec/v4.md sections 4.4 and 4.5). */
#include "base/format.h"

const char *const precision_names[] = {"fp32", "bf16", "fp8", NULL};

const struct format number_formats[FORMAT_COUNT] = {
    [FORMAT_F32] = {.name = "F32", .dtype = DTYPE_F32, .carrier = DTYPE_F32},
    [FORMAT_BF16] = {.name = "BF16", .dtype = DTYPE_BF16, .carrier = DTYPE_BF16},
    [FORMAT_F16] = {.name = "F16", .dtype = DTYPE_F16, .carrier = DTYPE_F16},
    [FORMAT_FP8] = {"FP8", DTYPE_F8_E4M3, DTYPE_F8_E4M3, true, DTYPE_F32, 7, 7, "_scale_inv", "", true},
    [FORMAT_FP8_E8M0] = {"FP8/E8M0", DTYPE_F8_E4M3, DTYPE_F8_E4M3, true, DTYPE_F8_E8M0, 7, 7, ".scale", ".weight",
                         false},
    [FORMAT_FP4] = {"FP4", DTYPE_F4, DTYPE_I8, true, DTYPE_F8_E8M0, 0, 5, ".scale", ".weight", false},
};

void format_decode(float *out, const struct format *f, const void *elements, const void *scales, int64_t columns,
                   int64_t begin, int64_t end) {
    dtype_decode(out, f->dtype, elements, begin, end - begin);
    if (!f->scaled) return;
    const int64_t block = (int64_t)1 << f->block_columns, across = format_scale_columns(f, columns);
    for (int64_t i = begin, stop; i < end; i = stop) {
        const int64_t row = i / columns, column = i % columns;
        stop = i - column + (column / block + 1) * block;
        if (stop > i - column + columns) stop = i - column + columns;
        if (stop > end) stop = end;
        const float scale = format_scale(f, scales, (row >> f->block_rows) * across + column / block);
        for (int64_t j = i; j < stop; j++) out[j - begin] *= scale;
    }
}

int64_t format_find_bad_scale(const struct format *f, const void *scales, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        const float scale = format_scale(f, scales, i);
        if (!(scale > 0 && bits_from_float(scale) < 0x7F800000u)) return i;
    }
    return -1;
}
