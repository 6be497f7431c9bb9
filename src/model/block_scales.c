/* Codes and scales of FP8 checkpoints (block_scales.h). */
#include "model/block_scales.h"

#include <stdio.h>
#include <string.h>

enum status block_scales_find(const struct safetensors_entry **scales, const struct safetensors *st,
                              const struct safetensors_entry *codes, struct error *error) {
    char name[SAFETENSORS_MAX_NAME + sizeof SCALE_SUFFIX], found[160];
    snprintf(name, sizeof name, "%s" SCALE_SUFFIX, codes->name);
    safetensors_describe(codes, found, sizeof found);
    if (codes->rank != 2)
        return error_set(error, STATUS_INVALID, "%s: tensor %s: found %s, expected two dimensions of numbers in FP8",
                         safetensors_shard_path(st, codes->shard), codes->name, found);
    const long long rows = (long long)scale_blocks(codes->shape[0]), columns = (long long)scale_blocks(codes->shape[1]);
    const struct safetensors_entry *entry = safetensors_find(st, name);
    if (!entry)
        return error_set(error, STATUS_NOT_FOUND,
                         "%s: tensor %s: found %s, but no tensor %s, expected F32 [%lld, %lld] with the scales of its "
                         "blocks of 128 x 128",
                         safetensors_shard_path(st, codes->shard), codes->name, found, name, rows, columns);
    if (entry->dtype != DTYPE_F32 || entry->rank != 2 || entry->shape[0] != rows || entry->shape[1] != columns) {
        safetensors_describe(entry, found, sizeof found);
        return error_set(
            error, STATUS_INVALID,
            "%s: tensor %s: found %s, expected F32 [%lld, %lld]: a scale for each block of 128 x 128 of %s",
            safetensors_shard_path(st, entry->shard), name, found, rows, columns, codes->name);
    }
    *scales = entry;
    return STATUS_OK;
}

enum status block_scales_read(float *out, const struct safetensors *st, const struct safetensors_entry *scales,
                              struct error *error) {
    const int64_t count = scales->shape[0] * scales->shape[1];
    memcpy(out, scales->data, (size_t)count * sizeof *out);
    for (int64_t i = 0; i < count; i++)
        if (!(out[i] > 0 && bits_from_float(out[i]) < 0x7F800000u))
            return error_set(error, STATUS_INVALID,
                             "%s: tensor %s: [%lld, %lld]: found %g, expected a scale above 0 that is finite",
                             safetensors_shard_path(st, scales->shard), scales->name, (long long)(i / scales->shape[1]),
                             (long long)(i % scales->shape[1]), (double)out[i]);
    return STATUS_OK;
}

bool block_scales_named(const struct safetensors *st, const char *name) {
    char weight[SAFETENSORS_MAX_NAME + 1];
    const size_t length = strlen(name), tail = strlen(SCALE_SUFFIX);
    if (length <= tail || length - tail > SAFETENSORS_MAX_NAME || strcmp(name + length - tail, SCALE_SUFFIX) != 0)
        return false;
    memcpy(weight, name, length - tail);
    weight[length - tail] = 0;
    const struct safetensors_entry *entry = safetensors_find(st, weight);
    return entry && entry->dtype == DTYPE_F8_E4M3;
}

int64_t block_codes_find_nan(const uint8_t *codes, int64_t count) {
    enum { STRETCH = 4096 };   /* looked at as a whole, which vectorises */
    for (int64_t begin = 0; begin < count; begin += STRETCH) {
        const int64_t end = begin + STRETCH < count ? begin + STRETCH : count;
        uint8_t any = 0;
        for (int64_t i = begin; i < end; i++) any |= (uint8_t)((codes[i] & 0x7F) == 0x7F);
        for (int64_t i = begin; any && i < end; i++)
            if ((codes[i] & 0x7F) == 0x7F) return i;
    }
    return -1;
}
