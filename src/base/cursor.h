/* A bounded cursor over bytes that somebody else wrote: no read goes past the end, no sum overflows. */
#ifndef DEEPSEEK_BASE_CURSOR_H
#define DEEPSEEK_BASE_CURSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cursor { const uint8_t *data; size_t size, position; };

static inline size_t cursor_left(const struct cursor *c) { return c->size - c->position; }
bool cursor_take(struct cursor *c, size_t bytes, const uint8_t **data);
bool cursor_u8(struct cursor *c, uint8_t *value);
bool cursor_u32(struct cursor *c, uint32_t *value);   /* little-endian */
bool cursor_u64(struct cursor *c, uint64_t *value);

/* Checked arithmetic: false on overflow. */
bool checked_add(uint64_t a, uint64_t b, uint64_t *sum);
bool checked_mul(uint64_t a, uint64_t b, uint64_t *product);

/* Is this valid UTF-8 (no overlong forms, no surrogates, at most U+10FFFF)? *bad is the
 * offset of the first wrong byte. */
bool utf8_valid(const uint8_t *data, size_t size, size_t *bad);

#endif
