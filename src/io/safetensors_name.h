/* What the reader and the writer of safetensors share: names in messages, sizes, and the names of a model folder's
 * files. */
#ifndef DEEPSEEK_IO_SAFETENSORS_NAME_H
#define DEEPSEEK_IO_SAFETENSORS_NAME_H

#include <stdio.h>

#include "base/cursor.h"
#include "io/safetensors.h"

#define SAFETENSORS_SINGLE "model.safetensors"
#define SAFETENSORS_INDEX "model.safetensors.index.json"

#define SAFETENSORS_QUOTED 200   /* bytes that safetensors_quote fills at most */

/* A name from a file, fit for a message: in quotes, control characters as \xNN, a long one cut. Returns `text`. */
static inline const char *safetensors_quote(char text[SAFETENSORS_QUOTED], const char *name) {
    size_t used = 0;
    text[used++] = '\'';
    for (; *name && used < SAFETENSORS_QUOTED - 12; name++) {
        unsigned char c = (unsigned char)*name;
        if (c < 0x20 || c == 0x7F) used += (size_t)snprintf(text + used, 5, "\\x%02x", c);
        else text[used++] = (char)c;
    }
    /* not inside a character */
    while (((unsigned char)*name & 0xC0) == 0x80 && used < SAFETENSORS_QUOTED - 6) text[used++] = *name++;
    if (*name) used += (size_t)snprintf(text + used, 4, "...");
    text[used++] = '\'';
    text[used] = 0;
    return text;
}

/* How many bits a tensor has; STATUS_INVALID where dimensions that are not zero do not multiply to at most 2^63 - 1, so
 * that no partial product overflows either. */
static inline enum status safetensors_bits(enum dtype dtype, int rank, const int64_t *shape, uint64_t *bits) {
    uint64_t product = (uint64_t)dtype_bits(dtype);
    int empty = 0;
    for (int i = 0; i < rank; i++) {
        if (shape[i] == 0) empty = 1;
        else if (!checked_mul(product, (uint64_t)shape[i], &product) || product > INT64_MAX) return STATUS_INVALID;
    }
    *bits = empty ? 0 : product;
    return STATUS_OK;
}

#endif
