/* libFuzzer target: a safetensors file (src/io/safetensors_read.c). What is accepted must be consistent and readable to
 * its last byte. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "io/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int condition) { if (!condition) abort(); }

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct error error = { 0 };
    struct safetensors *st;
    enum status status = safetensors_open_memory(&st, data, size, "input", &error);
    if (status != STATUS_OK) {
        require(st == NULL && error.code == status && strncmp(error.message, "input: ", 7) == 0);
        return 0;
    }
    uint64_t total = 0, sum = 0;
    for (int64_t i = 0; i < safetensors_count(st); i++) {
        const struct safetensors_entry *entry = safetensors_at(st, i);
        char text[32];
        require(safetensors_find(st, entry->name) == entry);
        require(i == 0 || strcmp(safetensors_at(st, i - 1)->name, entry->name) < 0);
        uint64_t bits = (uint64_t)dtype_bits(entry->dtype);
        for (int k = 0; k < entry->rank; k++) bits *= (uint64_t)entry->shape[k];
        require(entry->bytes * 8 == bits);
        for (uint64_t b = 0; b < entry->bytes; b++) sum += entry->data[b];
        safetensors_describe(entry, text, sizeof text);
        require(strlen(text) > 0);
        total += entry->bytes;
    }
    /* All data belong to exactly one tensor. */
    uint64_t length = 0, rest = 0;
    for (int i = 7; i >= 0; i--) length = length << 8 | data[i];
    for (uint64_t b = 8 + length; b < size; b++) rest += data[b];
    require(8 + length + total == size && rest == sum);
    const char *format = safetensors_metadata(st, "format");
    require(!format || strlen(format) <= length);
    safetensors_close(st);
    return 0;
}
