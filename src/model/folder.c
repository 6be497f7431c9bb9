/* Model folders: tensors of a checkpoint bound to the model's parameters, and the way back (spec/v1-v3.md section 6,
 * spec/formats.md section 6.6).
 *
 * FP8 checkpoints are seen from their tensors: a matrix of codes has scales beside it (model/block_scales.h). At
 * inference it stays in codes, one byte for each weight; in training it is dequantised. A matrix that is not in FP8 is
 * multiplied in bf16, as the released code does. What config.json says of quantization chooses the compute type and how
 * activations are rounded. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/available.h"
#include "base/file.h"
#include "graph/weights.h"
#include "model/block_scales.h"
#include "model/blocks.h"
#include "model/expert_cache.h"

#define NAMES_BYTES 700   /* of a message, for the names of missing tensors: about 14 of a mixture of experts */
#define MAX_WARNINGS 16
#define COMPARED_BYTES ((uint64_t)1 << 20)   /* of the copies of embedding and head that MTP modules have */

/* ---- matching names, shapes and types before any data is touched ------------------------------------------------- */

/* Can a parameter be read from its tensor, or its part of one? Codes are not read in parts. */
static enum status check_type(const struct safetensors *st, struct parameter *p, const struct safetensors_entry *entry,
                              struct error *error) {
    const struct safetensors_entry *scales;
    const struct format *format = p->format = format_of(st, entry);
    const bool whole = p->kind == PARAMETER_INTEGERS, coded = p->kind == PARAMETER_MATRIX && p->entry == entry;
    if (coded && format && format->scaled) return block_scales_find(&scales, st, format, entry, error);
    if (whole ? entry->dtype == DTYPE_I32 || entry->dtype == DTYPE_I64 : format && !format->scaled) return STATUS_OK;
    char found[160];
    safetensors_describe(entry, found, sizeof found);
    return error_set(error, STATUS_UNSUPPORTED, "%s: tensor %s: found %s, expected dtype %s",
                     safetensors_shard_path(st, entry->shard), entry->name, found,
                     whole   ? "I32 or I64"
                     : coded ? "F32, BF16, F16 or F8_E4M3"
                             : "F32, BF16 or F16");
}

/* Its tensor, under the first of its names that the files have: p->entry, NULL where there is none. */
static enum status find(struct model *model, struct parameter *p, struct error *error) {
    const struct safetensors *st = model->checkpoint;
    const struct parameter_name *name = p->names;
    p->entry = NULL;
    for (; name && !(p->entry = name->copy ? NULL : safetensors_find(st, name->name)); name = name->next) {}
    if (!p->entry) return STATUS_OK;
    const struct safetensors_entry *whole = p->entry;
    const struct safetensors_source expected = parameter_tensor(p, name);
    if (!tensor_fits(&expected, whole)) {
        char found[160], shape[80] = "";
        safetensors_describe(whole, found, sizeof found);
        for (int d = 0; d < expected.rank; d++) {
            const size_t used = strlen(shape);
            snprintf(shape + used, sizeof shape - used, "%s%lld", d ? ", " : "", (long long)expected.shape[d]);
        }
        return error_set(error, STATUS_INVALID, "%s: tensor %s: found %s, expected shape [%s] from config.json",
                         safetensors_shard_path(st, whole->shard), whole->name, found, shape);
    }
    if (name->stack || name->rows) {
        struct safetensors_entry *part = arena_alloc(&model->arena, sizeof *part);
        if (!part) return error_set(error, STATUS_NO_MEMORY, "%s: no memory for its description", p->name);
        const int64_t rows = expected.shape[name->stack != 0], columns = p->count / p->shape[0];
        *part = *whole;
        part->rank = parameter_tensor(p, NULL).rank;
        memcpy(part->shape, p->shape, sizeof p->shape);
        part->data += dtype_bytes(part->dtype, (size_t)((name->index * rows + name->row) * columns));
        part->bytes = dtype_bytes(part->dtype, (size_t)p->count);
        p->entry = part;
    }
    return check_type(st, p, whole, error);
}

static enum status match(struct model *model, const char *folder, struct error *error) {
    int missing = 0, shown = 0;
    char names[NAMES_BYTES] = "", more[40] = "";
    for (int i = 0; i < model->parameter_count; i++) {
        struct parameter *p = model->parameters[i];
        const enum status status = find(model, p, error);
        if (status) return status;
        if (p->entry) continue;
        const size_t used = strlen(names);
        if (shown == missing++ && used + strlen(p->name) + 3 <= sizeof names)
            shown += snprintf(names + used, sizeof names - used, "%s%s", used ? ", " : "", p->name) > 0;
    }
    if (missing > shown) snprintf(more, sizeof more, " and %d more", missing - shown);
    if (missing)
        return error_set(error, STATUS_NOT_FOUND, "%s: %d tensor%s that config.json asks for %s missing: %s%s", folder,
                         missing, missing == 1 ? "" : "s", missing == 1 ? "is" : "are", names, more);
    return STATUS_OK;
}

static void warn(struct model *model, const char *text) {
    if (text && model->warning_count < MAX_WARNINGS) model->warnings[model->warning_count++] = text;
}

/* N of "model.layers.N.", or -1. */
static int64_t layer_of(const char *name) {
    static const char begin[] = "model.layers.";
    char *end;
    if (strncmp(name, begin, sizeof begin - 1) != 0) return -1;
    const long layer = strtol(name + sizeof begin - 1, &end, 10);
    return end > name + sizeof begin - 1 && *end == '.' && layer >= 0 && layer < INT_MAX ? layer : -1;
}

/* MTP modules of which config.json knows, whether they are loaded or not. */
static int64_t declared_modules(const struct model *model) {
    const json_t *next = json_object_get(model->config.source, "num_nextn_predict_layers");
    if (!next) next = json_object_get(model->config.source, "num_mtp_layers");
    return json_is_integer(next) ? json_integer_value(next) : 0;
}

/* What counts is read under the first name; MTP modules have copies of the trunk's embedding and head. */
static void warn_of_copies(struct model *model, const struct safetensors *st) {
    for (int i = 0; i < model->name_count; i++) {
        const struct parameter_name *name = model->names[i];
        const struct safetensors_entry *copy = name->copy ? safetensors_find(st, name->name) : NULL, *main;
        if (!copy || ((main = name->parameter->entry)->dtype == copy->dtype && copy->bytes == main->bytes &&
                      memcmp(copy->data, main->data, copy->bytes < COMPARED_BYTES ? copy->bytes : COMPARED_BYTES) == 0))
            continue;
        warn(model, arena_printf(&model->arena, "tensor %s is not a copy of %s, which is used in its place", name->name,
                                 main->name));
    }
}

static void warn_of_unused(struct model *model, const struct safetensors *st) {
    model->warnings = arena_alloc(&model->arena, MAX_WARNINGS * sizeof *model->warnings);
    if (!model->warnings) return;
    for (int i = 0; i < safetensors_warnings(st); i++)
        warn(model, arena_string(&model->arena, safetensors_warning(st, i)));
    const int64_t modules = declared_modules(model);
    int64_t unused = 0, of_modules = 0;
    const char *first = NULL;
    for (int64_t i = 0; i < safetensors_count(st); i++) {
        const char *name = safetensors_at(st, i)->name;
        const int64_t module = layer_of(name) - model->config.num_hidden_layers;   /* negative: of the trunk */
        if (model_name(model, name) || block_scales_named(st, name)) continue;
        /* of a module that is not loaded */
        if (module >= model->config.num_nextn_predict_layers && module < modules) continue;
        if (module >= modules) of_modules++;
        else if (!unused++) first = name;
    }
    if (of_modules)
        warn(model, arena_printf(&model->arena,
                                 "%lld tensor%s of layers from %lld on %s not used: config.json has %lld layers and "
                                 "%lld modules of multi-token prediction (num_nextn_predict_layers)",
                                 (long long)of_modules, of_modules == 1 ? "" : "s",
                                 (long long)(model->config.num_hidden_layers + modules), of_modules == 1 ? "is" : "are",
                                 (long long)model->config.num_hidden_layers, (long long)modules));
    if (unused)
        warn(model, arena_printf(&model->arena, "%lld tensor%s of the checkpoint not used by this model, first: %s",
                                 (long long)unused, unused == 1 ? "" : "s", first));
    warn_of_copies(model, st);
}

/* What config.json says against what is there. Both work: codes and scales mean what they mean. */
static void warn_of_formats(struct model *model, enum model_use use) {
    int codes = 0;
    if (!model->warnings) return;
    for (int i = 0; i < model->parameter_count; i++)
        codes += parameter_codes(model->parameters[i]);
    if (codes && !model->config.quantization.fp8)
        warn(model,
             arena_printf(&model->arena, "%d matrices are in FP8, but config.json has no quantization_config", codes));
    if (!codes && model->config.quantization.fp8)
        warn(model, "config.json has a quantization_config, but no matrix is in FP8");
    else if (!codes && use == MODEL_INFERENCE && model->compute == COMPUTE_FP8)
        warn(model,
             "compute type fp8: no matrix is in FP8, products are those of bf16 (`deepseek quantize` writes FP8)");
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

struct widening { float *out; const struct parameter *parameter; };

static void widen_part(void *context, int thread, int threads) {
    const struct widening *w = context;
    const struct parameter *p = w->parameter;
    int64_t begin, end;
    pool_share(p->count, 64, thread, threads, &begin, &end);
    format_decode(w->out + begin, p->format, p->entry->data, p->scales, p->count / p->shape[0], begin, end);
}

/* As fp32 numbers. */
static void widen(const struct model *model, float *out, const struct parameter *p) {
    struct widening task = {out, p};
    pool_run(model->pool, widen_part, &task);
}

/* The scales of a matrix of codes, as the file has them, in the arena. */
static enum status read_scales(struct model *model, struct parameter *p, struct error *error) {
    const struct safetensors_entry *scales;
    const enum status status = block_scales_find(&scales, model->checkpoint, p->format, p->entry, error);
    if (status) return status;
    void *values = arena_alloc(&model->arena, scales->bytes);
    if (!values) return error_set(error, STATUS_NO_MEMORY, "%s: no memory for its scales", p->name);
    p->scales = values;
    return block_scales_read(values, model->checkpoint, p->format, scales, error);
}

struct scan { const uint8_t *codes; enum dtype dtype; int64_t count; atomic_bool nan; };

static void scan_part(void *context, int thread, int threads) {
    struct scan *scan = context;
    int64_t begin, end;
    pool_share(scan->count, 4096, thread, threads, &begin, &end);
    if (begin < end && dtype_find_nan(scan->dtype, scan->codes + begin, end - begin) >= 0)
        atomic_store(&scan->nan, true);
}

static enum status check_codes(const struct model *model, const struct parameter *p, struct error *error) {
    const struct safetensors_entry *entry = p->entry;
    struct scan scan = {.codes = entry->data, .dtype = p->format->dtype, .count = p->count};
    pool_run(model->pool, scan_part, &scan);
    if (!atomic_load(&scan.nan)) return STATUS_OK;
    const int64_t first = dtype_find_nan(scan.dtype, scan.codes, scan.count);
    return error_set(error, STATUS_INVALID,
                     "%s: tensor %s: [%lld, %lld]: found code 0x%02x, which is NaN, expected numbers",
                     safetensors_shard_path(model->checkpoint, entry->shard), entry->name,
                     (long long)(first / entry->shape[1]), (long long)(first % entry->shape[1]), scan.codes[first]);
}

/* Norms, and the biases of the gates: all of them pass through here. */
static enum status check_finite(const struct model *model, const struct safetensors_entry *entry, const float *values,
                                int64_t count, struct error *error) {
    for (int64_t i = 0; i < count; i++)
        if ((bits_from_float(values[i]) & 0x7FFFFFFFu) >= 0x7F800000u)
            return error_set(error, STATUS_INVALID, "%s: tensor %s: [%lld]: found %g, expected finite numbers",
                             safetensors_shard_path(model->checkpoint, entry->shard), entry->name, (long long)i,
                             (double)values[i]);
    return STATUS_OK;
}

/* Kernels read F32 and BF16 in place where the file has them aligned. */
static bool usable_in_place(const struct safetensors_entry *entry) {
    return entry->dtype != DTYPE_F16 && (uintptr_t)entry->data % (entry->dtype == DTYPE_F32 ? 4 : 2) == 0;
}

/* Matrices that share an input are multiplied in one compute type. So a block that has a matrix outside of FP8 (or a
 * checkpoint without any) has products in bf16, where those in FP8 still stay in codes. */
static enum status choose_compute(struct model *model, struct error *error) {
    if (model->compute != COMPUTE_FP8) return STATUS_OK;
    const size_t layers = (size_t)config_layers(&model->config);
    bool *plain = arena_alloc(&model->arena, 2 * layers * sizeof *plain);   /* of attention, of FFN */
    if (!plain) return error_set(error, STATUS_NO_MEMORY, "no memory for %zu layers", layers);
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; i < model->parameter_count; i++) {
            struct parameter *p = model->parameters[i];
            if (p->compute != COMPUTE_FP8 || p->kind != PARAMETER_MATRIX) continue;
            bool *block = p->layer >= 0 ? plain + 2 * p->layer + (p->owner != OWNER_ATTENTION) : NULL;
            if (pass == 0 && block && !parameter_codes(p)) *block = true;
            if (pass == 1 && (!parameter_codes(p) || (block && *block))) p->compute = COMPUTE_BF16;
        }
    return STATUS_OK;
}

static enum status bind_integers(struct model *model, struct parameter *p, struct error *error) {
    const struct safetensors_entry *entry = p->entry;
    const int64_t columns = p->count / p->shape[0];
    if (!p->integers && !(p->integers = arena_alloc(&model->arena, (size_t)p->count * sizeof *p->integers)))
        return error_set(error, STATUS_NO_MEMORY, "%s: no memory for %lld integers", p->name, (long long)p->count);
    for (int64_t i = 0; i < p->count; i++) {
        int64_t x;
        if (entry->dtype == DTYPE_I64) memcpy(&x, entry->data + 8 * i, 8);
        else memcpy(&p->integers[i], entry->data + 4 * i, 4), x = p->integers[i];
        if (x < 0 || x >= p->limit)
            return error_set(error, STATUS_INVALID, "%s: tensor %s: [%lld, %lld]: found %lld, expected 0 to %d",
                             safetensors_shard_path(model->checkpoint, entry->shard), entry->name,
                             (long long)(i / columns), (long long)(i % columns), (long long)x, p->limit - 1);
        p->integers[i] = (int32_t)x;
    }
    return STATUS_OK;
}

/* Inference: norms widened, the embedding read where it lies, matrices packed for the compute type, now or later. */
static enum status bind_for_inference(struct model *model, struct parameter *p, struct error *error) {
    const struct safetensors_entry *entry = p->entry;
    float *wide = NULL;
    enum status status = STATUS_OK;
    const bool packed = p->kind == PARAMETER_MATRIX, later = model->page_bytes[1] > model->pack_at_once;
    if (p->format->scaled) {
        if ((status = read_scales(model, p, error))) return status;
        /* those that are packed later are looked at then */
        if ((!later || p->view_count) && (status = check_codes(model, p, error))) return status;
    } else if (p->kind == PARAMETER_VECTOR || !usable_in_place(entry)) {
        wide = packed ? malloc((size_t)p->count * sizeof *wide)
                      : arena_alloc(&model->arena, (size_t)p->count * sizeof *wide);
        if (!wide)
            return error_set(error, STATUS_NO_MEMORY, "%s: no memory for %lld elements", p->name, (long long)p->count);
        widen(model, wide, p);
    }
    if (p->kind == PARAMETER_VECTOR) {
        p->value = wide;
        return check_finite(model, entry, wide, p->count, error);
    }
    p->stored = wide ? (const void *)wide : entry->data;
    if (wide) p->format = &number_formats[FORMAT_F32];
    if (!packed) return STATUS_OK;
    if (!wide && later) {
        atomic_store(&p->unpacked, true);
        return STATUS_OK;
    }
    model_pack_parameter(model, p);
    p->stored = NULL;
    free(wide);
    return STATUS_OK;
}

static enum status bind_for_training(struct model *model, struct parameter *p, struct error *error) {
    enum status status = STATUS_OK;
    if (p->format->scaled && ((status = read_scales(model, p, error)) || (status = check_codes(model, p, error))))
        return status;
    widen(model, p->value, p);
    return p->kind == PARAMETER_VECTOR ? check_finite(model, p->entry, p->value, p->count, error) : STATUS_OK;
}

enum status model_load(struct model *model, const char *folder, enum model_use use, struct error *error) {
    enum status status = safetensors_open_folder(&model->checkpoint, folder, error);
    if (status) return status;
    if ((status = match(model, folder, error))) return status;
    warn_of_unused(model, model->checkpoint);
    warn_of_formats(model, use);
    if (use == MODEL_INFERENCE && (status = choose_compute(model, error))) return status;
    if (use == MODEL_INFERENCE) {
        const uint64_t bytes = model->expert_cache_bytes ? model->expert_cache_bytes
                               : model_packed_bytes(model, 1) > model->pack_at_once
                                   ? expert_cache_automatic(model, memory_available(""))
                                   : 0;
        if (bytes && (status = expert_cache_create(&model->expert_cache, model, bytes, error))) return status;
    }
    if ((status = use == MODEL_TRAINING ? model_allocate_training(model, error)
                                        : model_allocate_packed(model, 1, error)))
        return status;
    for (int i = 0; i < model->parameter_count; i++) {
        struct parameter *p = model->parameters[i];
        if (p->absent) continue;   /* looked at when it comes */
        if ((status = (p->kind == PARAMETER_INTEGERS ? bind_integers
                       : use == MODEL_TRAINING       ? bind_for_training
                                                     : bind_for_inference)(model, p, error)))
            return status;
    }
    if (use == MODEL_INFERENCE) return model_pack_later(model, error);
    model_repack(model);
    safetensors_close(model->checkpoint);
    model->checkpoint = NULL;
    for (int i = 0; i < model->parameter_count; i++) model->parameters[i]->entry = NULL;
    return STATUS_OK;
}

static bool has(const char *folder, const char *name, bool (*is)(const char *path)) {
    char path[4096];
    return snprintf(path, sizeof path, "%s/%s", folder, name) < (int)sizeof path && is(path);
}

enum status model_check_folder(const char *folder, struct error *error) {
    static const char *const expected = "expected a model folder (config.json, *.safetensors)";
    const size_t length = strlen(folder);
    if (file_is_folder(folder)) {
        if (!has(folder, "checkpoints", file_is_folder)) return STATUS_OK;
        if (has(folder, "model/config.json", file_exists))
            return error_set(error, STATUS_INVALID, "%s: the folder of a training run, its model is %s%smodel", folder,
                             folder, folder[length - 1] == '/' ? "" : "/");
        if (has(folder, "lock", file_exists))
            return error_set(error, STATUS_INVALID,
                             "%s: the folder of a training run that has not saved a model yet, %s", folder, expected);
        return STATUS_OK;
    }
    if (!file_exists(folder)) return error_set(error, STATUS_NOT_FOUND, "%s: no such folder, %s", folder, expected);
    if (length > 5 && strcmp(folder + length - 5, ".json") == 0)
        return error_set(error, STATUS_INVALID, "%s: a config and no model folder, %s", folder, expected);
    return error_set(error, STATUS_INVALID, "%s: a file, %s", folder, expected);
}

enum status model_open(struct model **out, const char *folder, const struct kernels *kernels, struct pool *pool,
                       const struct model_options *options, struct error *error) {
    struct arena arena = {0};   /* for the config; the model takes it over */
    struct config config;
    enum status status = model_check_folder(folder, error);
    if (!status) status = config_load(&config, folder, &arena, error);
    if (status) {
        arena_free(&arena);
        return status;
    }
    const enum compute compute = options->compute != COMPUTE_COUNT ? options->compute : config_compute(&config);
    if (options->use == MODEL_INFERENCE && !options->mtp) config.num_nextn_predict_layers = 0;
    struct model *model;
    if ((status = model_create(&model, &config, kernels, pool, compute, error))) {
        config_release(&config);
        arena_free(&arena);
        return status;
    }
    model->config_arena = arena;
    model->expert_cache_bytes = options->use == MODEL_INFERENCE ? options->expert_cache : 0;
    if ((options->expanded_prefill && (status = model_set_expanded_prefill(model, true, error))) ||
        (options->cache != CACHE_COUNT && (status = model_set_cache(model, options->cache, error))) ||
        (status = model_load(model, folder, options->use, error))) {
        model_destroy(model);
        return status;
    }
    *out = model;
    return STATUS_OK;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

static enum status write_json(json_t *root, const char *folder, const char *name, struct error *error) {
    char path[4096];
    enum status status;
    if (!root) return error_set(error, STATUS_NO_MEMORY, "%s/%s: no memory", folder, name);
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path)
        status = error_set(error, STATUS_INVALID, "%.100s...: the path is too long", folder);
    else status = json_save_path(root, path, error);
    json_decref(root);
    return status;
}

static json_t *generation_config(const struct config *config) {
    json_t *root = json_object();
    json_object_set_new(root, "_from_model_config", json_true());
    if (config->bos_token_id >= 0) json_object_set_new(root, "bos_token_id", json_integer(config->bos_token_id));
    if (config->eos_count) json_object_set_new(root, "eos_token_id", config_eos_json(config));
    return root;
}

enum status model_export(const struct model *model, const char *folder, enum dtype dtype, struct error *error) {
    if (!model->embedding->value)
        return error_set(error, STATUS_INVALID, "%s: a model opened for inference has no fp32 values to export",
                         folder);
    enum status status = folder_create(folder, error);
    if (status) return status;
    int64_t elements = 0, count = 0;
    for (int i = 0; i < model->parameter_count; i++) elements += model->parameters[i]->count;
    struct safetensors_source *sources = calloc((size_t)model->name_count, sizeof *sources);
    uint16_t *narrow = dtype == DTYPE_BF16 ? malloc((size_t)elements * sizeof *narrow) : NULL;
    if (!sources || (dtype == DTYPE_BF16 && !narrow))
        status = error_set(error, STATUS_NO_MEMORY, "%s: no memory to export %lld parameters", folder,
                           (long long)elements);
    uint16_t *at = narrow;
    for (int i = 0; !status && i < model->parameter_count; i++) {
        const struct parameter *p = model->parameters[i];
        struct safetensors_source source = parameter_values(p);
        if (narrow && p->kind != PARAMETER_INTEGERS && !p->wide) {
            model->kernels->rows.convert(model->pool, at, DTYPE_BF16, p->value, DTYPE_F32, p->count);
            source.dtype = DTYPE_BF16;
            source.data = at;
            at += p->count;
        }
        for (const struct parameter_name *name = p->names; name; name = name->next)
            if (name == p->names || name->copy) sources[count] = source, sources[count++].name = name->name;
    }
    if (!status) status = safetensors_write_sharded(folder, sources, count, 0, NULL, error);
    free(sources);
    free(narrow);
    if (!status) status = write_json(generation_config(&model->config), folder, "generation_config.json", error);
    return status ? status : write_json(config_to_json(&model->config, dtype), folder, "config.json", error);
}
