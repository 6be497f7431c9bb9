/* Number formats and their exact conversions. Every conversion from float rounds to nearest, ties to even.
 *
 *   bf16     8 exponent bits, 7 mantissa bits; NaN stays NaN (quiet), overflow goes to infinity
 *   f16      IEEE half
 *   e4m3     "FN": bias 7, no infinity, 0x7F and 0xFF are NaN, saturates at 448 (spec/v1-v3.md section 4.4)
 *   e5m6     the half with six bits of mantissa, in the low twelve bits of a code: bias 15, saturates at 65024 = 0x7BF;
 *            exponent 31 is NaN (V3 keeps activations in it, spec section 4.1, which leaves the details open)
 *   e8m0     2^(e-127), 0xFF is NaN, no sign, no zero
 *   e2m1     0 .5 1 1.5 2 3 4 6 and their negatives, saturates at 6 */
#ifndef DEEPSEEK_BASE_NUMBER_H
#define DEEPSEEK_BASE_NUMBER_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Element types, named as in safetensors. */
enum dtype {
    DTYPE_F32,
    DTYPE_BF16,
    DTYPE_F16,
    DTYPE_F64,
    DTYPE_F8_E4M3,
    DTYPE_F8_E5M2,
    DTYPE_F8_E8M0,
    DTYPE_F8_E4M3FNUZ,
    DTYPE_F8_E5M2FNUZ,
    DTYPE_F4,
    DTYPE_F6_E2M3,
    DTYPE_F6_E3M2,
    DTYPE_BOOL,
    DTYPE_U8,
    DTYPE_I8,
    DTYPE_I16,
    DTYPE_U16,
    DTYPE_I32,
    DTYPE_U32,
    DTYPE_I64,
    DTYPE_U64,
    DTYPE_C64,
    DTYPE_COUNT
};

const char *dtype_name(enum dtype dtype);            /* "F32", "BF16", ... */
int dtype_bits(enum dtype dtype);                    /* per element */
int dtype_from_name(const char *name, size_t length); /* an enum dtype, or -1 */
static inline size_t dtype_bytes(enum dtype dtype, size_t count) { return count * (size_t)dtype_bits(dtype) / 8; }
/* Numbers first..first+count-1 of an array at any address, F32, BF16, F16, F8_E4M3, F8_E8M0 or F4 (of the two in a byte
 * the low four bits come first). */
void dtype_decode(float *out, enum dtype dtype, const void *data, int64_t first, int64_t count);
/* Index of the first of these codes of 8 bits that is NaN, or -1; so too where the type has none. */
int64_t dtype_find_nan(enum dtype dtype, const void *codes, int64_t count);

static inline float float_from_bits(uint32_t bits) { float x; memcpy(&x, &bits, 4); return x; }
static inline uint32_t bits_from_float(float x) { uint32_t bits; memcpy(&bits, &x, 4); return bits; }

static inline float bf16_to_float(uint16_t code) { return float_from_bits((uint32_t)code << 16); }
static inline uint16_t bf16_from_float(float x) {
    uint32_t u = bits_from_float(x);
    if ((u & 0x7FFFFFFFu) > 0x7F800000u) return (uint16_t)((u >> 16) | 0x0040u);
    return (uint16_t)((u + 0x7FFFu + ((u >> 16) & 1u)) >> 16);
}

/* Without a branch, so that loops over it become vector instructions. Magnitudes below 2^-6 become multiples of 2^-9 by
 * adding a constant whose unit in the last place that is. */
static inline uint8_t e4m3_from_float(float x) {
    /* signed: baseline x86-64 compares vectors of no others */
    int32_t u = (int32_t)bits_from_float(x), a = u & 0x7FFFFFFF;
    int32_t small = (int32_t)bits_from_float(float_from_bits((uint32_t)a) + 16384.0f) - 0x46800000,
            normal = ((a - (120 << 23) + 0x7FFFF + ((a >> 20) & 1)) >> 20);
    int32_t code = a < 0x3C800000 ? small : normal;
    code = code > 0x7E ? 0x7E : code;
    code = a > 0x7F800000 ? 0x7F : code;
    return (uint8_t)(((u >> 24) & 0x80) | code);
}

float f16_to_float(uint16_t code);
uint16_t f16_from_float(float x);
float e4m3_to_float(uint8_t code);
float e5m6_to_float(uint16_t code);    /* the low twelve bits */
uint16_t e5m6_from_float(float x);
float e8m0_to_float(uint8_t code);
/* smallest power of two not below x > 0, clamped to [2^-126, 2^127]: the scale rule of section 4.2 */
uint8_t e8m0_from_float_up(float x);
float e2m1_to_float(uint8_t code);     /* the low four bits */
uint8_t e2m1_from_float(float x);

#endif
