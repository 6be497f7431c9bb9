/* Bounded reading of bytes, checked arithmetic, UTF-8 validation (Unicode 16.0, table 3-7). */
#include "base/cursor.h"

bool cursor_take(struct cursor *c, size_t bytes, const uint8_t **data) {
    if (bytes > cursor_left(c)) return false;
    *data = c->data + c->position;
    c->position += bytes;
    return true;
}

/* Little-endian integers of `bytes` bytes; the position moves only on success. */
static bool cursor_integer(struct cursor *c, int bytes, uint64_t *value) {
    const uint8_t *data;
    if (!cursor_take(c, (size_t)bytes, &data)) return false;
    *value = 0;
    for (int i = 0; i < bytes; i++) *value |= (uint64_t)data[i] << (8 * i);
    return true;
}

bool cursor_u8(struct cursor *c, uint8_t *value) {
    uint64_t wide;
    if (!cursor_integer(c, 1, &wide)) return false;
    *value = (uint8_t)wide;
    return true;
}

bool cursor_u32(struct cursor *c, uint32_t *value) {
    uint64_t wide;
    if (!cursor_integer(c, 4, &wide)) return false;
    *value = (uint32_t)wide;
    return true;
}

bool cursor_u64(struct cursor *c, uint64_t *value) { return cursor_integer(c, 8, value); }

bool checked_add(uint64_t a, uint64_t b, uint64_t *sum) { return !__builtin_add_overflow(a, b, sum); }
bool checked_mul(uint64_t a, uint64_t b, uint64_t *product) { return !__builtin_mul_overflow(a, b, product); }

bool utf8_valid(const uint8_t *data, size_t size, size_t *bad) {
    size_t i = 0;
    while (i < size) {
        uint8_t lead = data[i];
        if (lead < 0x80) {
            i++;
            continue;
        }
        /* How many bytes follow, and which the first of them may be: that range excludes overlong forms, surrogates
         * and what lies beyond U+10FFFF. */
        int follow = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : 1;
        uint8_t low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
        uint8_t high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
        bool good = lead >= 0xC2 && lead <= 0xF4;
        while (good && follow-- > 0) {
            i++;
            good = i < size && data[i] >= low && data[i] <= high;
            low = 0x80, high = 0xBF;
        }
        if (!good) {
            if (bad) *bad = i;   /* `size` where the text ends within a character */
            return false;
        }
        i++;
    }
    return true;
}
