/* Folders into FP8 and back (quantize.h). */
#include "model/quantize.h"

#include <dirent.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/file.h"
#include "io/safetensors.h"
#include "kernels/fp8.h"
#include "model/block_scales.h"
#include "model/model.h"

#define SCALE_BLOCK 128   /* of FP8, the format with scales that is written */
#define STRIP_ELEMENTS ((int64_t)4 << 20)   /* made before they are written; one row of blocks at least */
#define COPIED_FILE_LIMIT ((size_t)256 << 20)

/* ---- what becomes of a tensor ------------------------------------------------------------------------------------ */

enum action { COPY, ROUND, WIDEN, QUANTISE, DEQUANTISE };   /* as it is; to BF16; to F32; to FP8; FP8 to BF16 */

struct job {                   /* of the whole folder */
    struct model *model;       /* its description */
    struct safetensors *st;
    struct pool *pool;
    const struct quantize_watch *watch;
    uint8_t *strip;
    double done, total;
};

/* By what the model declares under the tensor's name; V3's checkpoints have in FP8 what is multiplied in it. */
static enum action action_for(const struct job *job, const struct safetensors_entry *entry, const struct format *to) {
    const struct parameter_name *name = model_name(job->model, entry->name);
    const struct parameter *p = name ? name->parameter : NULL;
    const struct format *from = format_of(job->st, entry);
    if (from && from->scaled) return DEQUANTISE;
    if (!from || (name && !p)) return COPY;
    if (p && p->wide) return entry->dtype == DTYPE_F32 ? COPY : WIDEN;
    if (to->scaled && p && p->kind == PARAMETER_MATRIX && p->products == PRODUCTS_MODEL) return QUANTISE;
    return entry->dtype == DTYPE_BF16 ? COPY : ROUND;
}

/* ---- one tensor -------------------------------------------------------------------------------------------------- */

struct making {                /* of one tensor of the new folder */
    struct job *job;
    const struct safetensors_entry *entry;
    enum action action;
    enum dtype dtype;          /* what it becomes */
    int64_t rows, columns;     /* blocks are cut from them; what has no blocks is one row */
    const struct format *format;   /* of the codes that are made or read */
    void *scales;              /* theirs: [blocks of rows, blocks of columns] */
    char *scale_name;
    int64_t row0, row1;        /* the strip: rows, or, of a tensor of one row, columns */
    atomic_int_fast64_t bad;   /* first element of the strip that is not a number or infinite; INT64_MAX: none */
};

static void note_bad(struct making *m, int64_t element) {
    int_fast64_t known = atomic_load(&m->bad);
    while (element < known && !atomic_compare_exchange_weak(&m->bad, &known, element)) {}
}

/* scale = amax / 448 of what the matrix has of the block, code = e4m3(w / scale) */
static void quantise_block(struct making *m, int64_t block_row, int64_t block_column) {
    const int64_t r0 = block_row * SCALE_BLOCK, r1 = r0 + SCALE_BLOCK < m->rows ? r0 + SCALE_BLOCK : m->rows;
    const int64_t c0 = block_column * SCALE_BLOCK,
                  width = c0 + SCALE_BLOCK < m->columns ? SCALE_BLOCK : m->columns - c0;
    float x[SCALE_BLOCK][SCALE_BLOCK];
    int32_t largest = 0;
    for (int64_t r = r0; r < r1; r++) {
        float *row = x[r - r0];
        dtype_decode(row, m->entry->dtype, m->entry->data, r * m->columns + c0, width);
        memset(row + width, 0, (size_t)(SCALE_BLOCK - width) * sizeof *row);
        int32_t row_largest = 0;   /* magnitudes are ordered as their bits are */
        for (int c = 0; c < SCALE_BLOCK; c++) {
            const int32_t magnitude = (int32_t)(bits_from_float(row[c]) & 0x7FFFFFFFu);
            row_largest = magnitude > row_largest ? magnitude : row_largest;
        }
        for (int64_t c = 0; row_largest >= 0x7F800000 && c < width; c++)
            if ((bits_from_float(row[c]) & 0x7FFFFFFFu) >= 0x7F800000u) {
                note_bad(m, r * m->columns + c0 + c);
                break;
            }
        largest = row_largest > largest ? row_largest : largest;
    }
    const float scale = fp8_scale(float_from_bits((uint32_t)largest), 0, false);
    ((float *)m->scales)[block_row * format_scale_columns(m->format, m->columns) + block_column] = scale;
    for (int64_t r = r0; r < r1; r++) {
        uint8_t codes[SCALE_BLOCK];
        for (int c = 0; c < SCALE_BLOCK; c++) codes[c] = e4m3_from_float(x[r - r0][c] / scale);
        memcpy(m->job->strip + (r - m->row0) * m->columns + c0, codes, (size_t)width);
    }
}

static void dequantise_row(struct making *m, int64_t row) {
    enum { STRETCH = 8192 };   /* the decoding begins with a table */
    uint16_t *out = (uint16_t *)(void *)m->job->strip + (row - m->row0) * m->columns;
    const int64_t first = row * m->columns, nan = dtype_find_nan(m->format->dtype, m->entry->data + first, m->columns);
    float x[STRETCH];
    if (nan >= 0) note_bad(m, first + nan);
    for (int64_t c = 0; c < m->columns; c += STRETCH) {
        const int64_t count = m->columns - c < STRETCH ? m->columns - c : STRETCH;
        format_decode(x, m->format, m->entry->data, m->scales, m->columns, first + c, first + c + count);
        for (int64_t i = 0; i < count; i++) out[c + i] = bf16_from_float(x[i]);
    }
}

static void make_part(void *context, int thread, int threads) {
    struct making *m = context;
    int64_t begin, end;
    if (m->action == QUANTISE) {
        const int64_t across = format_scale_columns(m->format, m->columns), first = m->row0 / SCALE_BLOCK;
        pool_share((format_scale_rows(m->format, m->row1) - first) * across, 1, thread, threads, &begin, &end);
        for (int64_t i = begin; i < end; i++) quantise_block(m, first + i / across, i % across);
    } else if (m->action == DEQUANTISE) {
        pool_share(m->row1 - m->row0, 1, thread, threads, &begin, &end);
        for (int64_t i = begin; i < end; i++) dequantise_row(m, m->row0 + i);
    } else {   /* numbers one after the other */
        float x[256];
        pool_share(m->row1 - m->row0, 256, thread, threads, &begin, &end);
        for (int64_t i = begin; i < end; i += 256) {
            const int64_t count = end - i < 256 ? end - i : 256;
            dtype_decode(x, m->entry->dtype, m->entry->data, m->row0 + i, count);
            if (m->action == WIDEN) memcpy(m->job->strip + 4 * i, x, (size_t)count * 4);
            for (int64_t j = 0; m->action == ROUND && j < count; j++) {
                const uint16_t code = bf16_from_float(x[j]);
                memcpy(m->job->strip + 2 * (i + j), &code, 2);
            }
        }
    }
}

static enum status told(struct job *job, uint64_t bytes, struct error *error) {
    job->done += (double)bytes;
    if (job->watch && job->watch->progress && !job->watch->progress(job->watch->context, job->done, job->total))
        return error_set(error, STATUS_INTERRUPTED, "stopped");
    return STATUS_OK;
}

static enum status copy(const struct making *m, struct safetensors_sink *sink, struct error *error) {
    enum status status = STATUS_OK;
    for (uint64_t at = 0; at < m->entry->bytes && !status;) {
        const uint64_t left = m->entry->bytes - at,
                       part = left < (uint64_t)STRIP_ELEMENTS ? left : (uint64_t)STRIP_ELEMENTS;
        safetensors_put(sink, m->entry->data + at, part);
        file_map_release(m->entry->data + at, part);
        status = told(m->job, part, error);
        at += part;
    }
    return status;
}

/* Rows (or elements of what has no blocks) of a strip. */
static int64_t strip_of(const struct making *m) {
    const int64_t unit = m->action == QUANTISE ? SCALE_BLOCK : 1,
                  wide = m->action == QUANTISE || m->action == DEQUANTISE ? m->columns : 1,
                  strip = STRIP_ELEMENTS / (wide > 0 ? wide : 1) / unit * unit;
    return strip > 0 ? strip : unit;
}

static enum status produce(void *context, struct safetensors_sink *sink, struct error *error) {
    struct making *m = context;
    if (m->action == COPY) return copy(m, sink, error);
    const bool blocks = m->action == QUANTISE || m->action == DEQUANTISE;
    const int64_t wide = blocks ? m->columns : 1, count = blocks ? m->rows : m->rows * m->columns, strip = strip_of(m);
    enum status status = STATUS_OK;
    for (m->row0 = 0; m->row0 < count && !status; m->row0 = m->row1) {
        m->row1 = m->row0 + strip < count ? m->row0 + strip : count;
        atomic_store(&m->bad, INT64_MAX);
        pool_run(m->job->pool, make_part, m);
        const int64_t bad = atomic_load(&m->bad);
        if (bad != INT64_MAX)
            return error_set(error, STATUS_INVALID, "%s: tensor %s: [%lld, %lld]: found %s, expected finite numbers",
                             safetensors_shard_path(m->job->st, m->entry->shard), m->entry->name,
                             (long long)(bad / wide), (long long)(bad % wide),
                             m->action == DEQUANTISE ? "the code of NaN" : "NaN or an infinity");
        safetensors_put(sink, m->job->strip, dtype_bytes(m->dtype, (size_t)((m->row1 - m->row0) * wide)));
        const uint8_t *from = m->entry->data + dtype_bytes(m->entry->dtype, (size_t)(m->row0 * wide));
        const size_t bytes = dtype_bytes(m->entry->dtype, (size_t)((m->row1 - m->row0) * wide));
        file_map_release(from, bytes);
        status = told(m->job, bytes, error);
    }
    return status;
}

/* ---- the folder's tensors ---------------------------------------------------------------------------------------- */

/* In the order of the old files, so that they are read from their beginning to their end. */
static int by_place(const void *a, const void *b) {
    const struct making *x = a, *y = b;
    if (x->entry->shard != y->entry->shard) return x->entry->shard < y->entry->shard ? -1 : 1;
    if (x->entry->data != y->entry->data) return x->entry->data < y->entry->data ? -1 : 1;
    return strcmp(x->entry->name, y->entry->name);   /* without bytes */
}

static size_t scale_bytes(const struct making *m) {
    return dtype_bytes(m->format->scale_dtype,
                       (size_t)(format_scale_rows(m->format, m->rows) * format_scale_columns(m->format, m->columns)));
}

static enum status prepare(struct making *m, const struct format *to, struct error *error) {
    const struct safetensors_entry *entry = m->entry;
    char found[160];
    safetensors_describe(entry, found, sizeof found);
    m->action = action_for(m->job, entry, to);
    m->rows = entry->rank == 2 ? entry->shape[0] : 1;
    m->columns = 1;
    for (int d = entry->rank == 2; d < entry->rank; d++) m->columns *= entry->shape[d];
    if (m->action == DEQUANTISE && to->scaled)
        return error_set(error, STATUS_INVALID,
                         "%s: tensor %s: found %s, expected a folder in BF16, F16 or F32: this one is in FP8 already",
                         safetensors_shard_path(m->job->st, entry->shard), entry->name, found);
    m->dtype = m->action == COPY       ? entry->dtype
               : m->action == WIDEN    ? DTYPE_F32
               : m->action == QUANTISE ? to->dtype
                                       : DTYPE_BF16;
    m->format = m->action == DEQUANTISE ? format_of(m->job->st, entry) : to;
    if (m->action != QUANTISE && m->action != DEQUANTISE) return STATUS_OK;
    if (m->action == QUANTISE && entry->rank != 2)
        return error_set(error, STATUS_UNSUPPORTED, "%s: tensor %s: found %s, expected a tensor for each matrix",
                         safetensors_shard_path(m->job->st, entry->shard), entry->name, found);
    const struct safetensors_entry *scales = NULL;
    const enum status status = m->action == DEQUANTISE ? block_scales_find(&scales, m->job->st, m->format, entry, error)
                                                       : STATUS_OK;
    if (status) return status;
    if (!(m->scales = malloc(scale_bytes(m) + 1)) ||
        (m->action == QUANTISE && !(m->scale_name = malloc(SAFETENSORS_MAX_NAME + 1))))
        return error_set(error, STATUS_NO_MEMORY, "no memory for the scales of %s", entry->name);
    if (m->action == QUANTISE) block_scales_name(m->scale_name, to, entry->name);
    return scales ? block_scales_read(m->scales, m->job->st, m->format, scales, error) : STATUS_OK;
}

static enum status convert_tensors(struct job *job, const char *out, const struct format *to,
                                   struct quantize_counts *counts, struct error *error) {
    const int64_t all = safetensors_count(job->st);
    struct making *makings = calloc((size_t)all + 1, sizeof *makings);
    struct safetensors_source *sources = calloc(2 * (size_t)all + 1, sizeof *sources);
    enum status status = makings && sources
                             ? STATUS_OK
                             : error_set(error, STATUS_NO_MEMORY, "%s: no memory for the list of %lld tensors", out,
                                         (long long)all);
    int64_t count = 0, made = 0;
    size_t strip = (size_t)STRIP_ELEMENTS;
    for (int64_t i = 0; i < all && !status; i++) {
        const struct safetensors_entry *entry = safetensors_at(job->st, i);
        counts->old_bytes += entry->bytes;
        if (!to->scaled && block_scales_named(job->st, entry->name)) continue;
        makings[count++] = (struct making){ .job = job, .entry = entry };
    }
    qsort(makings, (size_t)count, sizeof *makings, by_place);
    for (int64_t i = 0; i < count && !status; i++) {
        struct making *m = &makings[i];
        if ((status = prepare(m, to, error))) break;
        struct safetensors_source *source = &sources[made++];
        *source = (struct safetensors_source){
            .name = m->entry->name, .dtype = m->dtype, .rank = m->entry->rank, .produce = produce, .context = m};
        memcpy(source->shape, m->entry->shape, sizeof source->shape);
        if (m->action == QUANTISE)
            sources[made++] = (struct safetensors_source){.name = m->scale_name,
                                                          .dtype = to->scale_dtype,
                                                          .rank = 2,
                                                          .shape = {format_scale_rows(to, m->rows),
                                                                    format_scale_columns(to, m->columns)},
                                                          .data = m->scales,
                                                          .late = true};
        const bool blocks = m->action == QUANTISE || m->action == DEQUANTISE;
        const size_t bytes = m->action == COPY
                                 ? 0
                                 : dtype_bytes(m->dtype, (size_t)strip_of(m) * (size_t)(blocks ? m->columns : 1));
        if (bytes > strip) strip = bytes;
        counts->matrices += blocks;
        counts->new_bytes += dtype_bytes(m->dtype, (size_t)(m->rows * m->columns)) +
                             (m->action == QUANTISE ? scale_bytes(m) : 0);
        job->total += (double)m->entry->bytes;
    }
    counts->tensors = made;
    if (!status && !(job->strip = malloc(strip)))
        status = error_set(error, STATUS_NO_MEMORY, "no memory for %zu bytes of a matrix", strip);
    if (!status) status = safetensors_write_sharded(out, sources, made, 0, NULL, error);
    for (int64_t i = 0; i < count; i++) {
        free(makings[i].scales);
        free(makings[i].scale_name);
    }
    free(job->strip);
    free(sources);
    free(makings);
    return status;
}

/* ---- the other files --------------------------------------------------------------------------------------------- */

static enum status write_config(json_t *root, const char *out, const struct format *to, bool softmax_gate,
                                struct error *error) {
    char *path;
    json_t *about = NULL;
    if (asprintf(&path, "%s/config.json", out) < 0) return error_set(error, STATUS_NO_MEMORY, "%s: no memory", out);
    json_object_del(root, "quantization_config");
    json_object_set_new(root, json_object_get(root, "dtype") ? "dtype" : "torch_dtype", json_string("bfloat16"));
    if (to->scaled) {
        about = config_fp8_json();
        /* In transformers the gate of V2 is a linear layer like any other, that of V3 is not. */
        if (about && softmax_gate)
            json_object_set_new(about, "modules_to_not_convert", json_pack("[s,s]", "lm_head", "mlp.gate"));
        json_object_set(root, "quantization_config", about);
    }
    const enum status status = to->scaled && !about ? error_set(error, STATUS_NO_MEMORY, "%s: no memory", path)
                                                             : json_save_path(root, path, error);
    json_decref(about);
    free(path);
    return status;
}

/* What belongs to a model beside its config and its weights. */
static bool goes_along(const char *name) {
    static const char *const begins[] = {
        "tokenizer", "special_tokens_map", "added_tokens", "generation_config", "chat_template", "vocab.", "merges.",
        "LICENSE"};
    for (size_t i = 0; i < sizeof begins / sizeof *begins; i++)
        if (strncmp(name, begins[i], strlen(begins[i])) == 0) return true;
    const size_t length = strlen(name);
    return length >= 6 && strcmp(name + length - 6, ".jinja") == 0;
}

static enum status copy_files(const char *folder, const char *out, struct error *error) {
    DIR *directory = opendir(folder);
    if (!directory) return error_set(error, STATUS_IO, "%s: cannot list the folder: %s", folder, strerror(errno));
    enum status status = STATUS_OK;
    for (struct dirent *entry; !status && (entry = readdir(directory));) {
        char *from = NULL, *to = NULL, *data;
        size_t size;
        if (!goes_along(entry->d_name)) continue;
        if (asprintf(&from, "%s/%s", folder, entry->d_name) < 0) from = NULL;
        if (asprintf(&to, "%s/%s", out, entry->d_name) < 0) to = NULL;
        if (!from || !to) status = error_set(error, STATUS_NO_MEMORY, "%s: no memory", folder);
        else if (!file_is_folder(from) && !(status = file_read_regular(from, COPIED_FILE_LIMIT, &data, &size, error))) {
            status = file_replace(to, data, size, error);
            free(data);
        }
        free(from);
        free(to);
    }
    closedir(directory);
    return status;
}

/* ---- all of it --------------------------------------------------------------------------------------------------- */

static enum status check_out(const char *out, struct error *error) {
    if (!file_exists(out)) return STATUS_OK;
    if (!file_is_folder(out))
        return error_set(error, STATUS_INVALID, "%s: a file, expected a new or an empty folder", out);
    DIR *directory = opendir(out);
    if (!directory) return error_set(error, STATUS_IO, "%s: cannot list the folder: %s", out, strerror(errno));
    const struct dirent *entry;
    while ((entry = readdir(directory)) && (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)) {}
    closedir(directory);
    return entry ? error_set(error, STATUS_INVALID, "%s: the folder is not empty, expected a new or an empty one", out)
                 : STATUS_OK;
}

/* Is there anything to do? What counts is how the tensors are stored; where config.json says FP8 and none is, the new
 * one says what is true. */
static enum status check_formats(const struct job *job, const char *folder, const struct format *to,
                                 struct error *error) {
    const struct safetensors *st = job->st;
    bool fp8 = false, others = false;
    for (int64_t i = 0; i < safetensors_count(st); i++) {
        const struct safetensors_entry *entry = safetensors_at(st, i);
        const enum action action = action_for(job, entry, to);
        fp8 = fp8 || action == DEQUANTISE;
        others = others || action == ROUND || action == WIDEN || action == QUANTISE;
    }
    if (to->scaled && fp8) return error_set(error, STATUS_INVALID, "%s: the model is in FP8 already", folder);
    if (!to->scaled && !fp8 && !others && !job->model->config.quantization.fp8)
        return error_set(error, STATUS_INVALID, "%s: the model is in BF16 already", folder);
    return STATUS_OK;
}

enum status model_quantize(const char *folder, const char *out, const struct format *to, struct pool *pool,
                           const struct quantize_watch *watch, struct quantize_counts *counts, struct error *error) {
    struct arena arena = { 0 };
    struct config config = { 0 };
    struct job job = { .pool = pool, .watch = watch };
    json_t *root = NULL;
    char *aside = NULL;
    size_t length = strlen(out);
    *counts = (struct quantize_counts){ 0 };
    while (length > 1 && out[length - 1] == '/') length--;
    enum status status = config_load(&config, folder, &arena, error);
    if (!status) status = model_create(&job.model, &config, kernels_for(ISA_REFERENCE), pool, COMPUTE_F32, error);
    if (!status) status = config_read(&root, folder, error);
    if (!status) status = safetensors_open_folder(&job.st, folder, error);
    if (!status) status = check_formats(&job, folder, to, error);
    if (!status) status = check_out(out, error);
    if (!status && asprintf(&aside, "%.*s.%ld.tmp", (int)length, out, (long)getpid()) < 0) {
        aside = NULL;
        status = error_set(error, STATUS_NO_MEMORY, "%s: no memory", out);
    }
    if (!status) {
        status = convert_tensors(&job, aside, to, counts, error);
        if (!status) status = copy_files(folder, aside, error);
        if (!status)
            status = write_config(root, aside, to,
                                  config.n_routed_experts > 0 && config.scoring_func == SCORING_SOFTMAX, error);
        if (!status) status = folder_rename(aside, out, error);
        if (status) (void)folder_remove(aside, NULL);
    }
    free(aside);
    safetensors_close(job.st);
    json_decref(root);
    model_destroy(job.model);
    config_release(&config);   /* what the model has not taken over */
    arena_free(&arena);
    return status;
}
