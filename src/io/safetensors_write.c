/* Writing safetensors (spec/formats.md sections 1.1, 1.5 and 6.6): one file, or the shards and index of a model folder.
 * The bytes depend on the tensors and the metadata alone. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/file.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "io/safetensors_name.h"

static enum status no_memory(struct error *error, const char *path) {
    return error_set(error, STATUS_NO_MEMORY, "%s: no memory left to write it", path);
}

/* ---- Checks: nothing is written that the reader would refuse ----------------------------------------------------- */

static enum status check_text(const char *text, const char *what, const char *path, struct error *error) {
    char quoted[SAFETENSORS_QUOTED];
    size_t bad, length = strlen(text);
    if (!utf8_valid((const uint8_t *)text, length, &bad))
        return error_set(error, STATUS_INVALID, "%s: the %s %s is not UTF-8 (at byte %zu)", path, what,
                         safetensors_quote(quoted, text), bad);
    return STATUS_OK;
}

static enum status check_tensor(const struct safetensors_source *tensor, const char *path, struct error *error) {
    char name[SAFETENSORS_QUOTED];
    uint64_t bits;
    if (!tensor->name) return error_set(error, STATUS_INVALID, "%s: a tensor has no name", path);
    safetensors_quote(name, tensor->name);
    enum status status = check_text(tensor->name, "tensor name", path, error);
    if (status != STATUS_OK) return status;
    if (strlen(tensor->name) > SAFETENSORS_MAX_NAME)
        return error_set(error, STATUS_INVALID, "%s: the name of tensor %s has %zu bytes, expected at most %u", path,
                         name, strlen(tensor->name), SAFETENSORS_MAX_NAME);
    if (strcmp(tensor->name, "__metadata__") == 0)
        return error_set(error, STATUS_INVALID, "%s: a tensor cannot be named __metadata__", path);
    if ((int)tensor->dtype < 0 || tensor->dtype >= DTYPE_COUNT)
        return error_set(error, STATUS_INVALID, "%s: tensor %s: found dtype %d, expected one below %d", path, name,
                         (int)tensor->dtype, (int)DTYPE_COUNT);
    if (tensor->rank < 0 || tensor->rank > SAFETENSORS_MAX_RANK)
        return error_set(error, STATUS_INVALID, "%s: tensor %s: found %d dimensions, expected 0 to %d", path, name,
                         tensor->rank, SAFETENSORS_MAX_RANK);
    for (int i = 0; i < tensor->rank; i++) {
        if (tensor->shape[i] < 0)
            return error_set(error, STATUS_INVALID, "%s: tensor %s: found dimension %lld, expected none below 0", path,
                             name, (long long)tensor->shape[i]);
    }
    if (safetensors_bits(tensor->dtype, tensor->rank, tensor->shape, &bits) != STATUS_OK)
        return error_set(error, STATUS_INVALID, "%s: tensor %s: its size overflows 63 bits", path, name);
    if (bits % 8 != 0)
        return error_set(error, STATUS_INVALID, "%s: tensor %s: found %llu bits, expected whole bytes", path, name,
                         (unsigned long long)bits);
    if (bits > 0 && !tensor->data && !tensor->produce)
        return error_set(error, STATUS_INVALID, "%s: tensor %s: has no data", path, name);
    return STATUS_OK;
}

static enum status check_metadata(const char *const *metadata, const char *path, struct error *error) {
    char key[SAFETENSORS_QUOTED];
    if (!metadata) return STATUS_OK;
    for (size_t i = 0; metadata[i]; i += 2) {
        safetensors_quote(key, metadata[i]);
        if (!metadata[i + 1])
            return error_set(error, STATUS_INVALID, "%s: the metadata key %s has no value", path, key);
        enum status status = check_text(metadata[i], "metadata key", path, error);
        if (status == STATUS_OK) status = check_text(metadata[i + 1], "metadata value", path, error);
        if (status != STATUS_OK) return status;
        for (size_t j = 0; j < i; j += 2) {
            if (strcmp(metadata[i], metadata[j]) == 0)
                return error_set(error, STATUS_INVALID, "%s: the metadata key %s occurs twice", path, key);
        }
    }
    return STATUS_OK;
}

/* Of a tensor that has been checked. */
static uint64_t tensor_bytes(const struct safetensors_source *tensor) {
    uint64_t bits = 0;
    (void)safetensors_bits(tensor->dtype, tensor->rank, tensor->shape, &bits);
    return bits / 8;
}

static int compare_names(const void *a, const void *b) {
    const struct safetensors_source *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

/* Widest dtype first, then by name. */
static int compare_layout(const void *a, const void *b) {
    const struct safetensors_source *const *x = a, *const *y = b;
    int wide_x = dtype_bits((*x)->dtype), wide_y = dtype_bits((*y)->dtype);
    return wide_x != wide_y ? (wide_x > wide_y ? -1 : 1) : strcmp((*x)->name, (*y)->name);
}

/* Checks everything; *sorted are the tensors by name, in malloc'ed memory. */
static enum status check_all(const struct safetensors_source ***sorted, const struct safetensors_source *tensors,
                             int64_t count, const char *const *metadata, const char *path, struct error *error) {
    *sorted = NULL;
    if (count < 0 || count > SAFETENSORS_MAX_TENSORS)
        return error_set(error, STATUS_INVALID, "%s: found %lld tensors, expected 0 to %d", path, (long long)count,
                         SAFETENSORS_MAX_TENSORS);
    enum status status = check_metadata(metadata, path, error);
    uint64_t total = 0;
    for (int64_t i = 0; i < count && status == STATUS_OK; i++) {
        status = check_tensor(&tensors[i], path, error);
        if (status == STATUS_OK && (!checked_add(total, tensor_bytes(&tensors[i]), &total) || total > INT64_MAX))
            status = error_set(error, STATUS_INVALID, "%s: the tensors' sizes together overflow 63 bits", path);
    }
    if (status != STATUS_OK) return status;
    const struct safetensors_source **list = malloc(((size_t)count + 1) * sizeof *list);
    if (!list) return no_memory(error, path);
    for (int64_t i = 0; i < count; i++) list[i] = &tensors[i];
    qsort(list, (size_t)count, sizeof *list, compare_names);
    for (int64_t i = 1; i < count; i++) {
        char name[SAFETENSORS_QUOTED];
        if (strcmp(list[i - 1]->name, list[i]->name) != 0) continue;
        status = error_set(error, STATUS_INVALID, "%s: tensor %s occurs twice", path,
                           safetensors_quote(name, list[i]->name));
        free(list);
        return status;
    }
    *sorted = list;
    return STATUS_OK;
}

/* ---- One file ---------------------------------------------------------------------------------------------------- */

static void put_text(FILE *stream, const char *text) { json_put_string(stream, text, strlen(text)); }

/* {"__metadata__":{...},"name":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},...} and spaces up to a multiple of
 * 8 */
static enum status format_header(char **header, size_t *size, const struct safetensors_source *const *tensors,
                                 int64_t count, const char *const *metadata, const char *path, struct error *error) {
    *header = NULL;
    FILE *stream = open_memstream(header, size);
    if (!stream) return no_memory(error, path);
    bool has_format = false;
    for (size_t i = 0; metadata && metadata[i]; i += 2) has_format = has_format || strcmp(metadata[i], "format") == 0;
    fputs("{\"__metadata__\":{", stream);
    if (!has_format) fputs("\"format\":\"pt\"", stream);
    for (size_t i = 0; metadata && metadata[i]; i += 2) {
        if (i > 0 || !has_format) putc(',', stream);
        put_text(stream, metadata[i]);
        putc(':', stream);
        put_text(stream, metadata[i + 1]);
    }
    putc('}', stream);
    uint64_t begin = 0;
    for (int64_t i = 0; i < count; i++) {
        const struct safetensors_source *tensor = tensors[i];
        uint64_t end = begin + tensor_bytes(tensor);
        putc(',', stream);
        put_text(stream, tensor->name);
        fprintf(stream, ":{\"dtype\":\"%s\",\"shape\":[", dtype_name(tensor->dtype));
        for (int k = 0; k < tensor->rank; k++) fprintf(stream, "%s%lld", k > 0 ? "," : "", (long long)tensor->shape[k]);
        fprintf(stream, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)begin, (unsigned long long)end);
        begin = end;
    }
    putc('}', stream);
    long length = ftell(stream);
    for (; length > 0 && length % 8 != 0; length++) putc(' ', stream);
    bool written = length > 0 && !ferror(stream);
    written = fclose(stream) == 0 && written;
    if (!written) return no_memory(error, path);
    if (*size > SAFETENSORS_MAX_HEADER)
        return error_set(error, STATUS_INVALID, "%s: the header has %zu bytes, expected at most %u", path, *size,
                         SAFETENSORS_MAX_HEADER);
    return STATUS_OK;
}

struct safetensors_sink {
    struct file_writer *writer;
    XXH3_state_t *hash;    /* NULL: no checksum is asked for */
    uint64_t put;
};

void safetensors_put(struct safetensors_sink *sink, const void *data, size_t bytes) {
    if (bytes == 0) return;
    file_put(sink->writer, data, bytes);
    if (sink->hash) XXH3_64bits_update(sink->hash, data, bytes);
    sink->put += bytes;
}

static enum status put_tensor(struct safetensors_sink *sink, const struct safetensors_source *tensor, const char *path,
                              struct error *error) {
    char name[SAFETENSORS_QUOTED];
    const uint64_t bytes = tensor_bytes(tensor);
    if (!tensor->produce) {
        safetensors_put(sink, tensor->data, bytes);
        return STATUS_OK;
    }
    sink->put = 0;
    const enum status status = tensor->produce(tensor->context, sink, error);
    if (status != STATUS_OK) return status;
    if (sink->writer->status != STATUS_OK) return STATUS_OK;   /* a full disk, say: the commit reports it */
    if (sink->put != bytes)
        return error_set(error, STATUS_INVALID, "%s: tensor %s: %llu bytes were made, expected %llu", path,
                         safetensors_quote(name, tensor->name), (unsigned long long)sink->put,
                         (unsigned long long)bytes);
    return STATUS_OK;
}

/* All tensors in their order; room is left for those that are late, which are written behind the others' backs. */
static enum status put_tensors(struct safetensors_sink *sink, const struct safetensors_source *const *tensors,
                               int64_t count, uint64_t begin, const char *path, struct error *error) {
    bool any_late = false;
    enum status status = STATUS_OK;
    for (int late = 0; late <= any_late; late++) {
        uint64_t at = begin;
        for (int64_t i = 0; i < count && status == STATUS_OK && sink->writer->status == STATUS_OK; i++) {
            const struct safetensors_source *tensor = tensors[i];
            any_late = any_late || tensor->late;
            const bool passed_over = tensor->late != (late == 1);
            if (late == 1 && !passed_over && fseeko(sink->writer->stream, (off_t)at, SEEK_SET) != 0)
                return error_set(error, STATUS_IO, "%s: cannot seek: %s", path, strerror(errno));
            if (!passed_over) status = put_tensor(sink, tensor, path, error);
            at += tensor_bytes(tensor);
            if (late == 0 && passed_over && fseeko(sink->writer->stream, (off_t)at, SEEK_SET) != 0)
                return error_set(error, STATUS_IO, "%s: cannot seek: %s", path, strerror(errno));
        }
    }
    return status;
}

/* Writes tensors that have been checked; puts `tensors` into the order of the file. */
static enum status write_checked(const char *path, const struct safetensors_source **tensors, int64_t count,
                                 const char *const *metadata, uint64_t *checksum, struct error *error) {
    struct file_writer writer;
    XXH3_state_t *hash = NULL;
    char *header;
    size_t size;
    qsort(tensors, (size_t)count, sizeof *tensors, compare_layout);
    enum status status = format_header(&header, &size, tensors, count, metadata, path, error);
    if (status == STATUS_OK && checksum && (!(hash = XXH3_createState()) || XXH3_64bits_reset(hash) != XXH_OK))
        status = no_memory(error, path);
    if (status == STATUS_OK) status = file_begin(&writer, path, error);
    if (status == STATUS_OK) {
        struct safetensors_sink sink = { .writer = &writer, .hash = hash };
        uint8_t length[8];
        for (int i = 0; i < 8; i++) length[i] = (uint8_t)(size >> 8 * i);
        safetensors_put(&sink, length, sizeof length);
        safetensors_put(&sink, header, size);
        status = put_tensors(&sink, tensors, count, sizeof length + size, path, error);
        if (status == STATUS_OK) status = file_commit(&writer, error);
        else file_abandon(&writer);
    }
    if (status == STATUS_OK && checksum) *checksum = XXH3_64bits_digest(hash);
    XXH3_freeState(hash);
    free(header);
    return status;
}

enum status safetensors_write(const char *path, const struct safetensors_source *tensors, int64_t count,
                              const char *const *metadata, uint64_t *checksum, struct error *error) {
    const struct safetensors_source **sorted;
    enum status status = check_all(&sorted, tensors, count, metadata, path, error);
    for (int64_t i = 0; i < count && status == STATUS_OK && checksum; i++) {
        if (!tensors[i].late) continue;
        status = error_set(error, STATUS_INVALID, "%s: a file with tensors whose content is known late has no checksum",
                           path);
        free(sorted);
    }
    if (status != STATUS_OK) return status;
    status = write_checked(path, sorted, count, metadata, checksum, error);
    free(sorted);
    return status;
}

/* ---- A folder ---------------------------------------------------------------------------------------------------- */

#define SHARD_NAME_SIZE 64

static void shard_name(char name[SHARD_NAME_SIZE], int64_t shard, int64_t shards) {
    snprintf(name, SHARD_NAME_SIZE, "model-%05lld-of-%05lld.safetensors", (long long)shard + 1, (long long)shards);
}

/* Removes folder/name where it exists. */
static enum status remove_old(const char *folder, const char *name, struct error *error) {
    char *path;
    if (asprintf(&path, "%s/%s", folder, name) < 0) return no_memory(error, folder);
    enum status status = STATUS_OK;
    if (unlink(path) == 0) status = folder_sync(folder, error);
    else if (errno != ENOENT) status = error_set(error, STATUS_IO, "%s: cannot remove it: %s", path, strerror(errno));
    free(path);
    return status;
}

/* Cuts the tensors, in their order, into runs of at most `limit` bytes; a larger one is alone. Returns how many. */
static int64_t cut_shards(const struct safetensors_source *tensors, int64_t count, uint64_t limit,
                          int64_t *first_of /* [shards + 1] or NULL */) {
    int64_t shards = 0;
    uint64_t used = 0;
    for (int64_t i = 0; i < count; i++) {
        uint64_t bytes = tensor_bytes(&tensors[i]);
        if (i == 0 || bytes > limit || used > limit - bytes) {
            if (first_of) first_of[shards] = i;
            shards++;
            used = 0;
        }
        used += bytes;
    }
    if (first_of) first_of[shards] = count;
    return shards;
}

static enum status write_index(const char *folder, const struct safetensors_source *const *sorted, int64_t count,
                               const struct safetensors_source *tensors,
                               const int64_t *shard_of /* [count], in the order of `tensors` */, int64_t shards,
                               struct error *error) {
    json_t *root = json_object(), *about = json_object(), *map = json_object();
    char *path = NULL, name[SHARD_NAME_SIZE];
    uint64_t total = 0;
    bool made = root && about && map && asprintf(&path, "%s/" SAFETENSORS_INDEX, folder) >= 0;
    for (int64_t i = 0; i < count && made; i++) {
        shard_name(name, shard_of[sorted[i] - tensors], shards);
        made = json_object_set_new(map, sorted[i]->name, json_string(name)) == 0;
        total += tensor_bytes(sorted[i]);
    }
    made = made && json_object_set_new(about, "total_size", json_integer((json_int_t)total)) == 0;
    made = made && json_object_set(root, "metadata", about) == 0 && json_object_set(root, "weight_map", map) == 0;
    enum status status = made ? json_save_path(root, path, error) : no_memory(error, folder);
    free(path);
    json_decref(about);
    json_decref(map);
    json_decref(root);
    return status;
}

static enum status write_shards(const char *folder, const struct safetensors_source **sorted,
                                const struct safetensors_source *tensors, int64_t count, uint64_t limit, int64_t shards,
                                const char *const *metadata, struct error *error) {
    int64_t written = 0;
    int64_t *first_of = malloc(((size_t)shards + 1) * sizeof *first_of),
            *shard_of = malloc((size_t)count * sizeof *shard_of);
    const struct safetensors_source **members = malloc((size_t)count * sizeof *members);
    enum status status = first_of && shard_of && members ? STATUS_OK : no_memory(error, folder);
    if (status == STATUS_OK) {
        cut_shards(tensors, count, limit, first_of);
        status = remove_old(folder, SAFETENSORS_INDEX, error);   /* it may name shards that are written over now */
    }
    for (int64_t shard = 0; shard < shards && status == STATUS_OK; shard++) {
        int64_t first = first_of[shard], members_count = first_of[shard + 1] - first;
        char name[SHARD_NAME_SIZE], *path;
        shard_name(name, shard, shards);
        for (int64_t i = 0; i < members_count; i++) {
            members[i] = &tensors[first + i];
            shard_of[first + i] = shard;
        }
        if (asprintf(&path, "%s/%s", folder, name) < 0) {
            status = no_memory(error, folder);
            break;
        }
        status = write_checked(path, members, members_count, metadata, NULL, error);
        if (status == STATUS_OK) written++;
        free(path);
    }
    if (status == STATUS_OK) status = write_index(folder, sorted, count, tensors, shard_of, shards, error);
    for (int64_t shard = 0; shard < written && status != STATUS_OK; shard++) {
        char name[SHARD_NAME_SIZE];
        shard_name(name, shard, shards);
        (void)remove_old(folder, name, NULL);
    }
    /* some readers prefer it to the index */
    if (status == STATUS_OK) status = remove_old(folder, SAFETENSORS_SINGLE, error);
    free(first_of);
    free(shard_of);
    free(members);
    return status;
}

enum status safetensors_write_sharded(const char *folder, const struct safetensors_source *tensors, int64_t count,
                                      uint64_t max_shard_bytes, const char *const *metadata, struct error *error) {
    const struct safetensors_source **sorted;
    uint64_t limit = max_shard_bytes > 0 ? max_shard_bytes : SAFETENSORS_SHARD_BYTES;
    enum status status = check_all(&sorted, tensors, count, metadata, folder, error);
    if (status != STATUS_OK) return status;
    status = folder_create(folder, error);
    int64_t shards = cut_shards(tensors, count, limit, NULL);
    if (status == STATUS_OK && shards > 1) {
        status = write_shards(folder, sorted, tensors, count, limit, shards, metadata, error);
    } else if (status == STATUS_OK) {
        char *path;
        if (asprintf(&path, "%s/" SAFETENSORS_SINGLE, folder) < 0) status = no_memory(error, folder);
        else {
            status = write_checked(path, sorted, count, metadata, NULL, error);
            free(path);
        }
        if (status == STATUS_OK) status = remove_old(folder, SAFETENSORS_INDEX, error);
    }
    free(sorted);
    return status;
}
