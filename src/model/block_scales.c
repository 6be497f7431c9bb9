/* Codes and scales of checkpoints (block_scales.h). */
#include "model/block_scales.h"

#include <stdio.h>
#include <string.h>

/* `name` with `to` in place of its end `from`; "" where it does not end so, or becomes too long. */
static void exchange_end(char out[SAFETENSORS_MAX_NAME + 1], const char *name, const char *from, const char *to) {
    const size_t length = strlen(name), tail = strlen(from);
    const bool ends = length >= tail && strcmp(name + length - tail, from) == 0;
    if (!ends || snprintf(out, SAFETENSORS_MAX_NAME + 1, "%.*s%s", (int)(length - tail), name, to) >
                     (int)SAFETENSORS_MAX_NAME)
        out[0] = 0;
}

void block_scales_name(char out[SAFETENSORS_MAX_NAME + 1], const struct format *f, const char *matrix) {
    exchange_end(out, matrix, f->replaces, f->suffix);
}

const struct format *format_of(const struct safetensors *st, const struct safetensors_entry *entry) {
    const struct format *first = NULL;
    char name[SAFETENSORS_MAX_NAME + 1];
    for (const struct format *f = number_formats; f < number_formats + FORMAT_COUNT; f++) {
        if (f->carrier != entry->dtype || f->scaled != f->multiplied) continue;
        if (!f->scaled) return f;
        block_scales_name(name, f, entry->name);
        if (safetensors_find(st, name)) return f;
        if (!first) first = f;
    }
    return first;
}

enum status block_scales_find(const struct safetensors_entry **scales, const struct safetensors *st,
                              const struct format *f, const struct safetensors_entry *codes, struct error *error) {
    char name[SAFETENSORS_MAX_NAME + 1], found[160];
    safetensors_describe(codes, found, sizeof found);
    if (codes->rank != 2)
        return error_set(error, STATUS_INVALID, "%s: tensor %s: found %s, expected two dimensions of numbers in %s",
                         safetensors_shard_path(st, codes->shard), codes->name, found, f->name);
    const long long rows = (long long)format_scale_rows(f, codes->shape[0]),
                    columns = (long long)format_scale_columns(f, format_columns(f, codes->shape[1]));
    const int down = 1 << f->block_rows, across = 1 << f->block_columns;
    const char *type = dtype_name(f->scale_dtype);
    block_scales_name(name, f, codes->name);
    const struct safetensors_entry *entry = safetensors_find(st, name);
    if (!entry)
        return error_set(error, STATUS_NOT_FOUND,
                         "%s: tensor %s: found %s, but no tensor %s, expected %s [%lld, %lld] with the scales of its "
                         "blocks of %d x %d",
                         safetensors_shard_path(st, codes->shard), codes->name, found, name, type, rows, columns, down,
                         across);
    if (entry->dtype != f->scale_dtype || entry->rank != 2 || entry->shape[0] != rows || entry->shape[1] != columns) {
        safetensors_describe(entry, found, sizeof found);
        return error_set(error, STATUS_INVALID,
                         "%s: tensor %s: found %s, expected %s [%lld, %lld]: a scale for each block of %d x %d of %s",
                         safetensors_shard_path(st, entry->shard), name, found, type, rows, columns, down, across,
                         codes->name);
    }
    *scales = entry;
    return STATUS_OK;
}

enum status block_scales_read(void *out, const struct safetensors *st, const struct format *f,
                              const struct safetensors_entry *scales, struct error *error) {
    memcpy(out, scales->data, scales->bytes);
    const int64_t bad = format_find_bad_scale(f, out, scales->shape[0] * scales->shape[1]);
    if (bad < 0) return STATUS_OK;
    return error_set(error, STATUS_INVALID,
                     "%s: tensor %s: [%lld, %lld]: found %g, expected a scale above 0 that is finite",
                     safetensors_shard_path(st, scales->shard), scales->name, (long long)(bad / scales->shape[1]),
                     (long long)(bad % scales->shape[1]), (double)format_scale(f, out, bad));
}

bool block_scales_named(const struct safetensors *st, const char *name) {
    char matrix[SAFETENSORS_MAX_NAME + 1];
    for (const struct format *f = number_formats; f < number_formats + FORMAT_COUNT; f++) {
        if (!f->multiplied) continue;
        exchange_end(matrix, name, f->suffix, f->replaces);
        const struct safetensors_entry *entry = safetensors_find(st, matrix);
        if (entry && entry->dtype == f->carrier) return true;
    }
    return false;
}
