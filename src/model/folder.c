/* Model folders: tensors of a checkpoint bound to the model's parameters, and the way back (spec/v1-v3.md section 6.1, spec/formats.md section 6.6). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "graph/weights.h"
#include "model/blocks.h"

#define NAMES_BYTES 700   /* of a message, for the names of missing tensors: about 14 of a mixture of experts */
#define MAX_WARNINGS 16

/* ---- matching names, shapes and types before any data is touched ------------------------------------------------------------------- */

static bool loadable(enum dtype dtype) { return dtype == DTYPE_F32 || dtype == DTYPE_BF16 || dtype == DTYPE_F16; }

static enum status match(const struct model *model, const struct safetensors *st, const char *folder, struct error *error) {
    int missing = 0, shown = 0;
    char names[NAMES_BYTES] = "", more[40] = "";
    for (int i = 0; i < model->parameter_count; i++) {
        const struct parameter *p = model->parameters[i];
        const struct safetensors_entry *entry = safetensors_find(st, p->name);
        if (!entry) {
            const size_t used = strlen(names);
            if (shown == missing++ && used + strlen(p->name) + 3 <= sizeof names) shown += snprintf(names + used, sizeof names - used, "%s%s", used ? ", " : "", p->name) > 0;
            continue;
        }
        char found[160];
        safetensors_describe(entry, found, sizeof found);
        bool same = entry->rank == p->rank;
        for (int d = 0; same && d < p->rank; d++) same = entry->shape[d] == p->shape[d];
        if (!same) {
            if (p->rank == 1) return error_set(error, STATUS_INVALID, "%s: tensor %s: found %s, expected shape [%lld] from config.json", safetensors_shard_path(st, entry->shard), p->name, found, (long long)p->shape[0]);
            return error_set(error, STATUS_INVALID, "%s: tensor %s: found %s, expected shape [%lld, %lld] from config.json", safetensors_shard_path(st, entry->shard), p->name, found, (long long)p->shape[0], (long long)p->shape[1]);
        }
        if (!loadable(entry->dtype))
            return error_set(error, STATUS_UNSUPPORTED, "%s: tensor %s: found %s, expected dtype F32, BF16 or F16", safetensors_shard_path(st, entry->shard), p->name, found);
    }
    if (missing > shown) snprintf(more, sizeof more, " and %d more", missing - shown);
    if (missing) return error_set(error, STATUS_NOT_FOUND, "%s: %d tensor%s that config.json asks for %s missing: %s%s", folder, missing, missing == 1 ? "" : "s", missing == 1 ? "is" : "are", names, more);
    return STATUS_OK;
}

static void warn_of_unused(struct model *model, const struct safetensors *st) {
    model->warnings = arena_alloc(&model->arena, MAX_WARNINGS * sizeof *model->warnings);
    if (!model->warnings) return;
    for (int i = 0; i < safetensors_warnings(st) && model->warning_count < MAX_WARNINGS; i++) model->warnings[model->warning_count++] = arena_string(&model->arena, safetensors_warning(st, i));
    int64_t unused = 0;
    const char *first = NULL;
    for (int64_t i = 0; i < safetensors_count(st); i++) {
        const char *name = safetensors_at(st, i)->name;
        if (model_parameter(model, name) || strstr(name, "rotary_emb.inv_freq")) continue;   /* a buffer that old files carry */
        if (!unused++) first = name;
    }
    if (unused && model->warning_count < MAX_WARNINGS)
        model->warnings[model->warning_count++] = arena_printf(&model->arena, "%lld tensor%s of the checkpoint not used by this model, first: %s", (long long)unused, unused == 1 ? "" : "s", first);
}

/* ---- reading ------------------------------------------------------------------------------------------------------------------------- */

static void widen(float *out, const struct safetensors_entry *entry, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        uint32_t u32;
        uint16_t u16;
        if (entry->dtype == DTYPE_F32) {
            memcpy(&u32, entry->data + 4 * i, 4);
            out[i] = float_from_bits(u32);
        } else {
            memcpy(&u16, entry->data + 2 * i, 2);
            out[i] = entry->dtype == DTYPE_BF16 ? bf16_to_float(u16) : f16_to_float(u16);
        }
    }
}

struct widening { float *out; const struct safetensors_entry *entry; int64_t count; };

static void widen_part(void *context, int thread, int threads) {
    const struct widening *w = context;
    int64_t begin, end;
    pool_share(w->count, 64, thread, threads, &begin, &end);
    if (begin >= end) return;
    struct safetensors_entry part = *w->entry;
    part.data += dtype_bytes(part.dtype, (size_t)begin);
    widen(w->out + begin, &part, end - begin);
}

static void widen_all(const struct model *model, float *out, const struct safetensors_entry *entry, int64_t count) {
    struct widening task = {out, entry, count};
    pool_run(model->pool, widen_part, &task);
}

/* Kernels read F32 and BF16 in place where the file has them aligned. */
static bool usable_in_place(const struct safetensors_entry *entry) {
    return entry->dtype != DTYPE_F16 && (uintptr_t)entry->data % (entry->dtype == DTYPE_F32 ? 4 : 2) == 0;
}

/* Inference: norms widened, the embedding read where it lies, matrices packed for the compute type, now or later. */
static enum status bind_for_inference(struct model *model, struct parameter *p, const struct safetensors_entry *entry, struct error *error) {
    float *wide = NULL;
    const bool packed = model_multiplies(model, p);
    if (p->rank == 1 || !usable_in_place(entry)) {
        wide = packed ? malloc((size_t)p->count * sizeof *wide) : arena_alloc(&model->arena, (size_t)p->count * sizeof *wide);
        if (!wide) return error_set(error, STATUS_NO_MEMORY, "%s: no memory for %lld elements", p->name, (long long)p->count);
        widen_all(model, wide, entry, p->count);
    }
    if (p->rank == 1) {
        p->value = wide;
        return STATUS_OK;
    }
    p->stored = wide ? (const void *)wide : entry->data;
    p->stored_dtype = wide ? DTYPE_F32 : entry->dtype;
    if (!packed) return STATUS_OK;
    if (!wide && model->page_bytes[1] > model->pack_at_once) {
        atomic_store(&p->unpacked, true);
        return STATUS_OK;
    }
    model_pack_parameter(model, p);
    p->stored = NULL;
    free(wide);
    return STATUS_OK;
}

enum status model_load(struct model *model, const char *folder, enum model_use use, struct error *error) {
    enum status status = safetensors_open_folder(&model->checkpoint, folder, error);
    if (status) return status;
    if ((status = match(model, model->checkpoint, folder, error))) return status;
    warn_of_unused(model, model->checkpoint);
    if ((status = use == MODEL_TRAINING ? model_allocate_training(model, error) : model_allocate_packed(model, 1, error))) return status;
    for (int i = 0; i < model->parameter_count; i++) {
        struct parameter *p = model->parameters[i];
        const struct safetensors_entry *entry = safetensors_find(model->checkpoint, p->name);
        if (use == MODEL_TRAINING) widen_all(model, p->value, entry, p->count);
        else if ((status = bind_for_inference(model, p, entry, error))) return status;
    }
    if (use == MODEL_INFERENCE) return model_pack_later(model, error);
    model_repack(model);
    safetensors_close(model->checkpoint);
    model->checkpoint = NULL;
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
        if (has(folder, "model/config.json", file_exists)) return error_set(error, STATUS_INVALID, "%s: the folder of a training run, its model is %s%smodel", folder, folder, folder[length - 1] == '/' ? "" : "/");
        if (has(folder, "lock", file_exists)) return error_set(error, STATUS_INVALID, "%s: the folder of a training run that has not saved a model yet, %s", folder, expected);
        return STATUS_OK;
    }
    if (!file_exists(folder)) return error_set(error, STATUS_NOT_FOUND, "%s: no such folder, %s", folder, expected);
    if (length > 5 && strcmp(folder + length - 5, ".json") == 0) return error_set(error, STATUS_INVALID, "%s: a config and no model folder, %s", folder, expected);
    return error_set(error, STATUS_INVALID, "%s: a file, %s", folder, expected);
}

enum status model_open(struct model **out, const char *folder, const struct kernels *kernels, struct pool *pool, const struct model_options *options, struct error *error) {
    struct arena arena = {0};   /* for the config; the model takes it over */
    struct config config;
    enum status status = model_check_folder(folder, error);
    if (!status) status = config_load(&config, folder, &arena, error);
    if (status) {
        arena_free(&arena);
        return status;
    }
    const enum dtype type = options->compute != DTYPE_COUNT ? (enum dtype)options->compute : config.dtype == DTYPE_BF16 ? DTYPE_BF16 : DTYPE_F32;
    struct model *model;
    if ((status = model_create(&model, &config, kernels, pool, type, error))) {
        config_release(&config);
        arena_free(&arena);
        return status;
    }
    model->config_arena = arena;
    if ((options->expanded_prefill && (status = model_set_expanded_prefill(model, true, error))) || (options->cache != DTYPE_COUNT && (status = model_set_cache(model, (enum dtype)options->cache, error))) || (status = model_load(model, folder, options->use, error))) {
        model_destroy(model);
        return status;
    }
    *out = model;
    return STATUS_OK;
}

/* ---- writing --------------------------------------------------------------------------------------------------------------------------- */

static enum status write_json(json_t *root, const char *folder, const char *name, struct error *error) {
    char path[4096];
    enum status status;
    if (!root) return error_set(error, STATUS_NO_MEMORY, "%s/%s: no memory", folder, name);
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path) status = error_set(error, STATUS_INVALID, "%.100s...: the path is too long", folder);
    else status = json_save_path(root, path, error);
    json_decref(root);
    return status;
}

static json_t *generation_config(const struct config *config) {
    json_t *root = json_object();
    json_object_set_new(root, "_from_model_config", json_true());
    if (config->bos_token_id >= 0) json_object_set_new(root, "bos_token_id", json_integer(config->bos_token_id));
    json_t *eos = json_array();
    for (int i = 0; i < config->eos_count; i++) json_array_append_new(eos, json_integer(config->eos_token_id[i]));
    if (config->eos_count == 1) json_object_set_new(root, "eos_token_id", json_integer(config->eos_token_id[0]));
    else if (config->eos_count) json_object_set(root, "eos_token_id", eos);
    json_decref(eos);
    return root;
}

enum status model_export(const struct model *model, const char *folder, enum dtype dtype, struct error *error) {
    if (!model->embedding->value) return error_set(error, STATUS_INVALID, "%s: a model opened for inference has no fp32 values to export", folder);
    enum status status = folder_create(folder, error);
    if (status) return status;
    const int64_t count = model->parameter_count;
    int64_t elements = 0;
    for (int64_t i = 0; i < count; i++) elements += model->parameters[i]->count;
    struct safetensors_source *sources = calloc((size_t)count, sizeof *sources);
    uint16_t *narrow = dtype == DTYPE_BF16 ? malloc((size_t)elements * sizeof *narrow) : NULL;
    if (!sources || (dtype == DTYPE_BF16 && !narrow)) status = error_set(error, STATUS_NO_MEMORY, "%s: no memory to export %lld parameters", folder, (long long)elements);
    uint16_t *at = narrow;
    for (int64_t i = 0; !status && i < count; i++) {
        const struct parameter *p = model->parameters[i];
        sources[i] = (struct safetensors_source){.name = p->name, .dtype = dtype, .rank = p->rank, .shape = {p->shape[0], p->shape[1]}, .data = p->value};
        if (narrow) {
            model->kernels->rows.convert(model->pool, at, DTYPE_BF16, p->value, DTYPE_F32, p->count);
            sources[i].data = at;
            at += p->count;
        }
    }
    if (!status) status = safetensors_write_sharded(folder, sources, count, 0, NULL, error);
    free(sources);
    free(narrow);
    if (!status) status = write_json(generation_config(&model->config), folder, "generation_config.json", error);
    return status ? status : write_json(config_to_json(&model->config, dtype), folder, "config.json", error);
}
