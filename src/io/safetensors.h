/* The safetensors container (spec/formats.md section 1): mapped reading of a file, a sharded index or a model folder,
 * and writing.
 *
 * Every rule for untrusted files in section 1.3 is checked before a tensor is handed out. Data may be unaligned: use
 * memcpy or unaligned loads. */
#ifndef DEEPSEEK_IO_SAFETENSORS_H
#define DEEPSEEK_IO_SAFETENSORS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/number.h"

#define SAFETENSORS_MAX_RANK 8
#define SAFETENSORS_MAX_HEADER 100000000u   /* bytes of JSON */
#define SAFETENSORS_MAX_NAME 4096u          /* bytes of a tensor's name */
#define SAFETENSORS_MAX_TENSORS 1000000     /* in a file or folder */
#define SAFETENSORS_SHARD_BYTES 5000000000u /* the customary size of a shard */

struct safetensors_entry {
    const char *name;
    enum dtype dtype;
    int rank;
    int64_t shape[SAFETENSORS_MAX_RANK];
    const uint8_t *data;   /* inside the mapping */
    uint64_t bytes;
    int shard;             /* which file it came from */
};

struct safetensors;        /* one or several mapped files, entries sorted by name */

enum status safetensors_open_file(struct safetensors **out, const char *path, struct error *error);
/* A model folder: the index where there is one, else model.safetensors, else the only *.safetensors. */
enum status safetensors_open_folder(struct safetensors **out, const char *folder, struct error *error);
/* Bytes that stay the caller's and must outlive *out; `origin` names them in messages. */
enum status safetensors_open_memory(struct safetensors **out, const uint8_t *data, size_t size, const char *origin,
                                    struct error *error);
void safetensors_close(struct safetensors *st);

/* What was odd but no error, one text each: tensors that the index does not name and that are therefore left out. */
int safetensors_warnings(const struct safetensors *st);
const char *safetensors_warning(const struct safetensors *st, int index);

int64_t safetensors_count(const struct safetensors *st);
const struct safetensors_entry *safetensors_at(const struct safetensors *st, int64_t index);
/* NULL when absent */
const struct safetensors_entry *safetensors_find(const struct safetensors *st, const char *name);
const char *safetensors_shard_path(const struct safetensors *st, int shard);
/* Where the tensor's bytes begin in its file. */
uint64_t safetensors_offset(const struct safetensors *st, const struct safetensors_entry *entry);
/* The value of a key of __metadata__ (first shard), or NULL. */
const char *safetensors_metadata(const struct safetensors *st, const char *key);

/* "F32 [2, 3]" into text, for messages. */
void safetensors_describe(const struct safetensors_entry *entry, char *text, size_t size);

/* Writing: the tensors are described first, then their bytes are streamed in that order. The file appears complete or
 * not at all. Tensors are laid out widest dtype first, then by name, whatever the order of `tensors`. */
struct safetensors_sink;   /* where the bytes of one tensor go */
struct safetensors_source {
    const char *name;
    enum dtype dtype;
    int rank;
    int64_t shape[SAFETENSORS_MAX_RANK];
    const void *data;      /* contiguous bytes of this dtype */
    /* Instead of `data`: makes the bytes when they are written, from the first to the last, in pieces of any size. A
     * status other than STATUS_OK, with `error` filled, ends the writing. */
    enum status (*produce)(void *context, struct safetensors_sink *sink, struct error *error);
    void *context;
    /* `data` has its content once the others of its file have been written; those before it in a sharded folder's
     * order, if not in the same file, then in an earlier one */
    bool late;
};
void safetensors_put(struct safetensors_sink *sink, const void *data, size_t bytes);

/* `metadata` is a list of key, value, key, value, ..., NULL; {"format","pt"} is added when absent. `checksum` (may be
 * NULL, and is with `late` tensors) receives the XXH3-64 of the whole file. */
enum status safetensors_write(const char *path, const struct safetensors_source *tensors, int64_t count,
                              const char *const *metadata, uint64_t *checksum, struct error *error);

/* A model folder's weights: model.safetensors where the tensors' bytes fit into max_shard_bytes (0:
 * SAFETENSORS_SHARD_BYTES), else model-0000i-of-0000n.safetensors, filled in the order of `tensors`, and the index,
 * written last. Tensors and metadata are checked before anything is written. The folder is made where it is missing.
 * Weights that stand there under other names of this scheme lose their index or their place as model.safetensors once
 * the new ones are complete; where shards must be written over, the old index is removed first, so that no moment shows
 * a mixture, and a failure removes what was written. Tensors may be mapped from the files that are replaced. */
enum status safetensors_write_sharded(const char *folder, const struct safetensors_source *tensors, int64_t count,
                                      uint64_t max_shard_bytes, const char *const *metadata, struct error *error);

#endif
