/* Number formats: exact conversions to and from fp32, and the table of element types. */
#include "base/number.h"

/* ---- Conversions ----
 * Magnitudes below the smallest normal number become multiples of the smallest subnormal by adding a constant whose
 * unit in the last place is that subnormal: the addition itself then rounds to nearest even. */

static inline uint32_t round_to_multiple(float magnitude, float constant) {
    return bits_from_float(magnitude + constant) - bits_from_float(constant);
}

/* Drops `bits` bits, rounding to nearest even; a carry runs into the exponent, as it should. */
static inline uint32_t round_off(uint32_t u, int bits) {
    return (u + (1u << (bits - 1)) - 1 + ((u >> bits) & 1)) >> bits;
}

float f16_to_float(uint16_t code) {
    uint32_t sign = (uint32_t)(code & 0x8000) << 16, exponent = (code >> 10) & 31, mantissa = code & 0x3FF;
    if (exponent == 0) return float_from_bits(sign | bits_from_float((float)mantissa * 0x1p-24f));
    /* NaN made quiet */
    if (exponent == 31) return float_from_bits(sign | 0x7F800000u | mantissa << 13 | (mantissa ? 0x00400000u : 0));
    return float_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
}

uint16_t f16_from_float(float x) {
    uint32_t u = bits_from_float(x), sign = (u >> 16) & 0x8000, a = u & 0x7FFFFFFFu;
    if (a > 0x7F800000u) return (uint16_t)(sign | 0x7E00 | ((a >> 13) & 0x1FF));
    if (a < 0x38800000u) return (uint16_t)(sign | round_to_multiple(float_from_bits(a), 0.5f));   /* below 2^-14 */
    if (a >= 0x47800000u) return (uint16_t)(sign | 0x7C00);                                       /* 2^16 and above */
    return (uint16_t)(sign | (round_off(a, 13) - (112 << 10)));
}

float e4m3_to_float(uint8_t code) {
    uint32_t sign = (uint32_t)(code & 0x80) << 24, exponent = (code >> 3) & 15, mantissa = code & 7;
    if (exponent == 0) return float_from_bits(sign | bits_from_float((float)mantissa * 0x1p-9f));
    if ((code & 0x7F) == 0x7F) return float_from_bits(sign | 0x7FC00000u);
    return float_from_bits(sign | (exponent + 120) << 23 | mantissa << 20);
}

float e5m6_to_float(uint16_t code) {
    uint32_t sign = (uint32_t)(code & 0x800) << 20, exponent = (code >> 6) & 31, mantissa = code & 63;
    if (exponent == 0) return float_from_bits(sign | bits_from_float((float)mantissa * 0x1p-20f));
    if (exponent == 31) return float_from_bits(sign | 0x7FC00000u);
    return float_from_bits(sign | (exponent + 112) << 23 | mantissa << 17);
}

uint16_t e5m6_from_float(float x) {
    uint32_t u = bits_from_float(x), sign = (u >> 20) & 0x800, a = u & 0x7FFFFFFFu;
    if (a > 0x7F800000u) return (uint16_t)(sign | 0x7FF);
    if (a < 0x38800000u) return (uint16_t)(sign | round_to_multiple(float_from_bits(a), 8.0f));   /* below 2^-14 */
    uint32_t code = round_off(a, 17) - (112 << 6);
    return (uint16_t)(sign | (code > 0x7BF ? 0x7BF : code));
}

float e8m0_to_float(uint8_t code) {
    if (code == 0xFF) return float_from_bits(0x7FC00000u);
    return float_from_bits(code ? (uint32_t)code << 23 : 0x00400000u);   /* 2^-127 is subnormal in fp32 */
}

uint8_t e8m0_from_float_up(float x) {
    if (x != x) return 0xFF;
    if (!(x > 0)) return 1;
    uint32_t u = bits_from_float(x), exponent = (u >> 23) + ((u & 0x7FFFFF) != 0);
    return (uint8_t)(exponent > 254 ? 254 : exponent);   /* never 0: all that is below 2^-126 has a mantissa */
}

float e2m1_to_float(uint8_t code) {
    static const float values[8] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
    return code & 8 ? -values[code & 7] : values[code & 7];
}

/* The format has no NaN: NaN becomes 6, so that it cannot pass for a small number. */
uint8_t e2m1_from_float(float x) {
    uint32_t u = bits_from_float(x);
    if (x != x) return 7;
    float a = float_from_bits(u & 0x7FFFFFFFu);
    /* Each midpoint belongs to the neighbour with the even code. */
    int code = (a > 0.25f) + (a >= 0.75f) + (a > 1.25f) + (a >= 1.75f) + (a > 2.5f) + (a >= 3.5f) + (a > 5.0f);
    return (uint8_t)((u >> 28 & 8) | (uint32_t)code);
}

/* ---- Element types ---- */

static const struct { const char *name; int bits;
} dtypes[DTYPE_COUNT] = {
    [DTYPE_F32] = {"F32", 32},
    [DTYPE_BF16] = {"BF16", 16},
    [DTYPE_F16] = {"F16", 16},
    [DTYPE_F64] = {"F64", 64},
    [DTYPE_F8_E4M3] = {"F8_E4M3", 8},
    [DTYPE_F8_E5M2] = {"F8_E5M2", 8},
    [DTYPE_F8_E8M0] = {"F8_E8M0", 8},
    [DTYPE_F8_E4M3FNUZ] = {"F8_E4M3FNUZ", 8},
    [DTYPE_F8_E5M2FNUZ] = {"F8_E5M2FNUZ", 8},
    [DTYPE_F4] = {"F4", 4},
    [DTYPE_F6_E2M3] = {"F6_E2M3", 6},
    [DTYPE_F6_E3M2] = {"F6_E3M2", 6},
    [DTYPE_BOOL] = {"BOOL", 8},
    [DTYPE_U8] = {"U8", 8},
    [DTYPE_I8] = {"I8", 8},
    [DTYPE_I16] = {"I16", 16},
    [DTYPE_U16] = {"U16", 16},
    [DTYPE_I32] = {"I32", 32},
    [DTYPE_U32] = {"U32", 32},
    [DTYPE_I64] = {"I64", 64},
    [DTYPE_U64] = {"U64", 64},
    [DTYPE_C64] = {"C64", 64},
};

const char *dtype_name(enum dtype dtype) { return dtypes[dtype].name; }
int dtype_bits(enum dtype dtype) { return dtypes[dtype].bits; }

int dtype_from_name(const char *name, size_t length) {
    for (int i = 0; i < DTYPE_COUNT; i++) {
        if (strlen(dtypes[i].name) == length && memcmp(dtypes[i].name, name, length) == 0) return i;
    }
    return -1;
}

/* Types whose codes have 8 bits or less: the number of a code, and which are NaN: (code & mask) == nan. */
static const struct { float (*decode)(uint8_t code); uint8_t mask, nan;
} codes_of[DTYPE_COUNT] = {
    [DTYPE_F8_E4M3] = {e4m3_to_float, 0x7F, 0x7F},
    [DTYPE_F8_E8M0] = {e8m0_to_float, 0xFF, 0xFF},
    [DTYPE_F4] = {e2m1_to_float, 0, 1},
};

void dtype_decode(float *out, enum dtype dtype, const void *data, int64_t first, int64_t count) {
    const uint8_t *bytes = data;
    uint16_t code;
    switch (dtype) {
    case DTYPE_F32: memcpy(out, bytes + 4 * first, (size_t)count * 4); break;
    case DTYPE_BF16:
        for (int64_t i = 0; i < count; i++) memcpy(&code, bytes + 2 * (first + i), 2), out[i] = bf16_to_float(code);
        break;
    case DTYPE_F16:
        for (int64_t i = 0; i < count; i++) memcpy(&code, bytes + 2 * (first + i), 2), out[i] = f16_to_float(code);
        break;
    default: {
        float values[256];
        for (int i = 0; i < 256; i++) values[i] = codes_of[dtype].decode((uint8_t)i);
        if (dtypes[dtype].bits == 4)   /* decode looks at the low four bits */
            for (int64_t i = 0; i < count; i++) out[i] = values[bytes[(first + i) / 2] >> (first + i) % 2 * 4];
        else
            for (int64_t i = 0; i < count; i++) out[i] = values[bytes[first + i]];
    }
    }
}

int64_t dtype_find_nan(enum dtype dtype, const void *data, int64_t count) {
    enum { STRETCH = 4096 };   /* looked at as a whole, which vectorises */
    const uint8_t *codes = data, mask = codes_of[dtype].mask, nan = codes_of[dtype].nan;
    for (int64_t begin = 0; begin < count; begin += STRETCH) {
        const int64_t end = begin + STRETCH < count ? begin + STRETCH : count;
        uint8_t any = 0;
        for (int64_t i = begin; i < end; i++) any |= (uint8_t)((codes[i] & mask) == nan);
        for (int64_t i = begin; any && i < end; i++)
            if ((codes[i] & mask) == nan) return i;
    }
    return -1;
}
