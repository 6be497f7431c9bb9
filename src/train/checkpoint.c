/* Training checkpoints: complete or absent, verified when read. */
#include "train/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/file.h"
#include "io/safetensors.h"
#include "model/model.h"

#define FORMAT 2
#define PARAMETERS_FILE "parameters.safetensors"
#define STATES_FILE "moments.safetensors"
#define STATE_FILE "state.json"
#define STEP_PREFIX "step-"
#define UNFINISHED_PREFIX "tmp-"
#define DAMAGED_PREFIX "damaged-"

static const char *const data_files[] = { PARAMETERS_FILE, STATES_FILE };
enum { DATA_FILES = 2 };

static enum status join(char path[CHECKPOINT_PATH], const char *folder, const char *prefix, const char *name,
                        struct error *error) {
    int length = snprintf(path, CHECKPOINT_PATH, "%s/%s%s", folder, prefix, name);
    if (length > 0 && length < CHECKPOINT_PATH) return STATUS_OK;
    return error_set(error, STATUS_INVALID, "%.100s...: the path is too long", folder);
}

static void step_name(int64_t step, char name[32]) { snprintf(name, 32, STEP_PREFIX "%08lld", (long long)step); }

/* ---- state.json -------------------------------------------------------------------------------------------------- */

static json_t *hexadecimal(uint64_t value) { return json_sprintf("%016" PRIx64, value); }

static bool read_hexadecimal(const json_t *value, uint64_t *number) {
    const char *text = json_string_value(value);
    if (!text || strlen(text) != 16 || strspn(text, "0123456789abcdef") != 16) return false;
    *number = strtoull(text, NULL, 16);
    return true;
}

/* The checksum of state.json: XXH3-64 of its text without the key that holds it. */
static enum status state_checksum(const json_t *root, uint64_t *checksum, struct error *error) {
    char *text;
    size_t size;
    enum status status = json_format(root, &text, &size, error);
    if (status != STATUS_OK) return status;
    *checksum = XXH3_64bits(text, size);
    free(text);
    return STATUS_OK;
}

struct file_sum { uint64_t bytes, checksum; };

static enum status write_state(const char *path, const struct checkpoint_state *state,
                               const struct file_sum sums[DATA_FILES], struct error *error) {
    json_t *files = json_object();
    for (int i = 0; i < DATA_FILES; i++)
        json_object_set_new(
            files, data_files[i],
            json_pack("{s:I, s:o}", "bytes", (json_int_t)sums[i].bytes, "xxh3_64", hexadecimal(sums[i].checksum)));
    json_t *root = json_pack("{s:i, s:I, s:I, s:b, s:o, s:I, s:I, s:O, s:o}", "format", FORMAT, "step",
                             (json_int_t)state->step, "tokens", (json_int_t)state->tokens, "evaluated",
                             (int)state->evaluated, "data_xxh3_64", hexadecimal(state->data_fingerprint),
                             "metrics_bytes", (json_int_t)state->metrics_bytes, "timing_bytes",
                             (json_int_t)state->timing_bytes, "config", state->config, "files", files);
    if (!root) return error_set(error, STATUS_NO_MEMORY, "%s: no memory left to write it", path);
    uint64_t checksum;
    enum status status = state_checksum(root, &checksum, error);
    if (status == STATUS_OK) {
        json_object_set_new(root, "state_xxh3_64", hexadecimal(checksum));
        status = json_save_path(root, path, error);
    }
    json_decref(root);
    return status;
}

static bool read_count(const json_t *root, const char *key, int64_t *count) {
    const json_t *value = json_object_get(root, key);
    *count = json_integer_value(value);
    return json_is_integer(value) && *count >= 0;
}

static enum status parse_state(json_t *root, const char *path, struct checkpoint_state *state,
                               struct file_sum sums[DATA_FILES], struct error *error) {
    uint64_t stated, found;
    if (!read_hexadecimal(json_object_get(root, "state_xxh3_64"), &stated))
        return error_set(error, STATUS_INVALID, "%s: no checksum state_xxh3_64", path);
    json_object_del(root, "state_xxh3_64");
    enum status status = state_checksum(root, &found, error);
    if (status != STATUS_OK) return status;
    if (found != stated)
        return error_set(error, STATUS_INVALID, "%s: its checksum is %016" PRIx64 ", expected %016" PRIx64, path, found,
                         stated);
    int64_t format, metrics, timing;
    bool complete = read_count(root, "format", &format);
    if (complete && format != FORMAT)
        return error_set(error, STATUS_UNSUPPORTED,
                         "%s: found format %lld of checkpoints, expected %d: %s version of this program wrote it", path,
                         (long long)format, FORMAT, format < FORMAT ? "an older" : "a newer");
    complete = complete && read_count(root, "step", &state->step) && read_count(root, "tokens", &state->tokens) &&
               read_count(root, "metrics_bytes", &metrics) && read_count(root, "timing_bytes", &timing) &&
               json_is_boolean(json_object_get(root, "evaluated")) && json_is_object(json_object_get(root, "config")) &&
               read_hexadecimal(json_object_get(root, "data_xxh3_64"), &state->data_fingerprint);
    for (int i = 0; i < DATA_FILES && complete; i++) {
        const json_t *file = json_object_get(json_object_get(root, "files"), data_files[i]);
        int64_t bytes;
        complete = read_count(file, "bytes", &bytes) &&
                   read_hexadecimal(json_object_get(file, "xxh3_64"), &sums[i].checksum);
        sums[i].bytes = (uint64_t)bytes;
    }
    if (!complete) return error_set(error, STATUS_INVALID, "%s: a key is missing or has the wrong type", path);
    state->metrics_bytes = (uint64_t)metrics;
    state->timing_bytes = (uint64_t)timing;
    state->evaluated = json_is_true(json_object_get(root, "evaluated"));
    state->config = json_incref(json_object_get(root, "config"));
    return STATUS_OK;
}

static enum status read_state(const char *folder, struct checkpoint_state *state, struct file_sum sums[DATA_FILES],
                              struct error *error) {
    char path[CHECKPOINT_PATH];
    json_t *root;
    enum status status = join(path, folder, "", STATE_FILE, error);
    if (status == STATUS_OK) status = json_load_regular(&root, path, error);
    if (status != STATUS_OK) return status;
    status = parse_state(root, path, state, sums, error);
    json_decref(root);
    return status;
}

static enum status verify_file(const char *folder, const char *name, struct file_sum expected, struct error *error) {
    char path[CHECKPOINT_PATH];
    struct file_map map;
    enum status status = join(path, folder, "", name, error);
    if (status == STATUS_OK) status = file_map_open(&map, path, error);
    if (status != STATUS_OK) return status;
    if (map.size != expected.bytes) {
        status = error_set(error, STATUS_INVALID, "%s: found %zu bytes, expected %" PRIu64, path, map.size,
                           expected.bytes);
    } else {
        uint64_t checksum = XXH3_64bits(map.data, map.size);
        if (checksum != expected.checksum)
            status = error_set(error, STATUS_INVALID, "%s: its checksum is %016" PRIx64 ", expected %016" PRIx64, path,
                               checksum, expected.checksum);
    }
    file_map_close(&map);
    return status;
}

/* ---- the list of checkpoints ------------------------------------------------------------------------------------- */

struct step_list { int64_t *steps; int count; };

static int newest_first(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x < y) - (x > y);
}

/* The step of a folder's name, -1 where it is no checkpoint's. */
static int64_t step_of(const char *name) {
    size_t prefix = strlen(STEP_PREFIX), digits = strlen(name) > prefix ? strlen(name) - prefix : 0;
    if (strncmp(name, STEP_PREFIX, prefix) || digits < 8 || digits > 18 ||
        strspn(name + prefix, "0123456789") != digits)
        return -1;
    return strtoll(name + prefix, NULL, 10);
}

/* Calls `visit` for each entry. A folder that does not exist has none. */
static enum status each_entry(const char *folder,
                              enum status (*visit)(void *context, const char *folder, const char *name,
                                                   struct error *error),
                              void *context, struct error *error) {
    DIR *stream = opendir(folder);
    if (!stream)
        return errno == ENOENT ? STATUS_OK
                               : error_set(error, STATUS_IO, "cannot read folder %s: %s", folder, strerror(errno));
    /* The visits rename and remove, so the names are collected first. */
    char **names = NULL;
    size_t count = 0;
    enum status status = STATUS_OK;
    for (const struct dirent *entry; status == STATUS_OK && (entry = readdir(stream));) {
        if (entry->d_name[0] == '.') continue;
        char **more = realloc(names, (count + 1) * sizeof *names);
        if (more) {
            names = more;
            names[count] = strdup(entry->d_name);
        }
        if (!more || !names[count])
            status = error_set(error, STATUS_NO_MEMORY, "no memory left for the list of checkpoints");
        else count++;
    }
    closedir(stream);
    for (size_t i = 0; i < count; i++) {
        if (status == STATUS_OK) status = visit(context, folder, names[i], error);
        free(names[i]);
    }
    free(names);
    return status;
}

static enum status add_step(void *context, const char *folder, const char *name, struct error *error) {
    (void)folder;
    struct step_list *list = context;
    int64_t step = step_of(name), *steps;
    if (step < 0) return STATUS_OK;
    if (!(steps = realloc(list->steps, (size_t)(list->count + 1) * sizeof *steps)))
        return error_set(error, STATUS_NO_MEMORY, "no memory left for the list of checkpoints");
    list->steps = steps;
    steps[list->count++] = step;
    return STATUS_OK;
}

static enum status list_steps(struct step_list *list, const char *folder, struct error *error) {
    *list = (struct step_list){0};
    enum status status = each_entry(folder, add_step, list, error);
    if (status == STATUS_OK && list->count > 0)
        qsort(list->steps, (size_t)list->count, sizeof *list->steps, newest_first);
    if (status != STATUS_OK) free(list->steps);
    return status;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

static enum status write_sources(const char *folder, const char *name, const struct safetensors_source *sources,
                                 int64_t count, struct file_sum *sum, struct error *error) {
    char path[CHECKPOINT_PATH];
    enum status status = join(path, folder, "", name, error);
    if (status == STATUS_OK) status = safetensors_write(path, sources, count, NULL, &sum->checksum, error);
    struct file_map map;
    if (status == STATUS_OK) status = file_map_open(&map, path, error);
    if (status != STATUS_OK) return status;
    sum->bytes = map.size;
    file_map_close(&map);
    return STATUS_OK;
}

#define NAME_BYTES (SAFETENSORS_MAX_NAME + 40)

/* Tensor k of parameter i: its values in the first file, then the state of its rule in the second one. False: there is
 * none. */
static bool tensor_of(const struct optimizer *o, int i, int k, char name[NAME_BYTES],
                      struct safetensors_source *tensor) {
    const struct parameter *p = o->parameters[i];
    *tensor = parameter_values(p);
    if (k == 0) return true;
    if (!o->states[i][k - 1]) return false;
    const struct optimizer_state *state = &optimizer_rule_of(&o->settings, p)->states[k - 1];
    snprintf(name, NAME_BYTES, "%s.%s", p->name, state->name);
    tensor->name = name;
    tensor->dtype = optimizer_state_type(&o->settings, state);
    tensor->data = o->states[i][k - 1];
    return true;
}

static enum status write_tensors(const char *folder, const struct optimizer *o, struct file_sum sums[DATA_FILES],
                                 struct error *error) {
    struct arena names = {0};
    const size_t most = (size_t)o->parameter_count * (1 + OPTIMIZER_STATES) + 1;
    struct safetensors_source *sources = calloc(most, sizeof *sources), tensor;
    bool complete = sources != NULL;
    int64_t count[DATA_FILES] = {0};
    /* the tensors of the second file behind all of the first */
    for (int i = 0; complete && i < o->parameter_count; i++)
        for (int k = 0; k <= OPTIMIZER_STATES; k++) {
            char name[NAME_BYTES];
            if (!tensor_of(o, i, k, name, &tensor)) continue;
            complete = complete && (tensor.name = arena_string(&names, tensor.name));
            sources[k ? o->parameter_count + count[1]++ : count[0]++] = tensor;
        }
    enum status status = complete ? STATUS_OK
                                  : error_set(error, STATUS_NO_MEMORY, "no memory left to write a checkpoint");
    for (int file = 0; file < DATA_FILES && status == STATUS_OK; file++)
        status = write_sources(folder, data_files[file], sources + (file ? o->parameter_count : 0), count[file],
                               &sums[file], error);
    free(sources);
    arena_free(&names);
    return status;
}

/* Removes a folder so that no half-removed checkpoint keeps its name. */
static enum status retire(const char *folder, const char *name, struct error *error) {
    char path[CHECKPOINT_PATH], doomed[CHECKPOINT_PATH];
    enum status status = join(path, folder, "", name, error);
    if (status == STATUS_OK) status = join(doomed, folder, UNFINISHED_PREFIX "old-", name, error);
    if (status == STATUS_OK) status = folder_remove(doomed, error);
    if (status == STATUS_OK) status = folder_rename(path, doomed, error);
    return status == STATUS_OK ? folder_remove(doomed, error) : status;
}

enum status checkpoint_save(const char *folder, const struct checkpoint_state *state, const struct optimizer *optimizer,
                            int64_t keep, struct error *error) {
    char name[32], unfinished[CHECKPOINT_PATH], path[CHECKPOINT_PATH];
    struct file_sum sums[DATA_FILES];
    step_name(state->step, name);
    enum status status = join(unfinished, folder, UNFINISHED_PREFIX, name, error);
    if (status == STATUS_OK) status = join(path, folder, "", name, error);
    if (status == STATUS_OK) status = folder_remove(unfinished, error);
    if (status == STATUS_OK) status = folder_create(unfinished, error);
    if (status != STATUS_OK) return status;
    char state_path[CHECKPOINT_PATH];
    status = write_tensors(unfinished, optimizer, sums, error);
    if (status == STATUS_OK) status = join(state_path, unfinished, "", STATE_FILE, error);
    if (status == STATUS_OK) status = write_state(state_path, state, sums, error);
    if (status == STATUS_OK) status = folder_sync(unfinished, error);
    if (status == STATUS_OK) status = folder_rename(unfinished, path, error);
    if (status != STATUS_OK) {
        struct error ignored;
        folder_remove(unfinished, &ignored);   /* gives the space back, where there was none left */
        return status;
    }
    struct step_list list;
    status = list_steps(&list, folder, error);
    if (status != STATUS_OK) return status;
    for (int64_t i = keep; i < list.count && status == STATUS_OK; i++) {
        step_name(list.steps[i], name);
        status = retire(folder, name, error);
    }
    free(list.steps);
    return status;
}

enum status checkpoint_save_state(const char *folder, const struct checkpoint_state *state, struct error *error) {
    char name[32], path[CHECKPOINT_PATH], state_path[CHECKPOINT_PATH];
    struct checkpoint_state before = {0};
    struct file_sum sums[DATA_FILES];
    step_name(state->step, name);
    enum status status = join(path, folder, "", name, error);
    if (status == STATUS_OK) status = join(state_path, path, "", STATE_FILE, error);
    if (status == STATUS_OK) status = read_state(path, &before, sums, error);
    json_decref(before.config);
    return status == STATUS_OK ? write_state(state_path, state, sums, error) : status;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

enum status checkpoint_find(struct checkpoint *checkpoint, const char *folder, struct error *error) {
    *checkpoint = (struct checkpoint){0};
    struct step_list list;
    enum status status = list_steps(&list, folder, error);
    if (status != STATUS_OK) return status;
    if (list.count == 0) return error_set(error, STATUS_NOT_FOUND, "%s: no checkpoint", folder);
    for (int i = 0; i < list.count; i++) {
        char name[32];
        struct file_sum sums[DATA_FILES];
        struct error damage;
        step_name(list.steps[i], name);
        status = join(checkpoint->path, folder, "", name, &damage);
        if (status == STATUS_OK) status = read_state(checkpoint->path, &checkpoint->state, sums, &damage);
        if (status == STATUS_OK && checkpoint->state.step != list.steps[i])
            status = error_set(&damage, STATUS_INVALID, "%s: holds the state of step %lld", checkpoint->path,
                               (long long)checkpoint->state.step);
        for (int k = 0; k < DATA_FILES && status == STATUS_OK; k++)
            status = verify_file(checkpoint->path, data_files[k], sums[k], &damage);
        if (status == STATUS_OK) break;
        json_decref(checkpoint->state.config);
        checkpoint->state = (struct checkpoint_state){0};
        /* says nothing about the checkpoint; is whole, but not for this version */
        if (status == STATUS_NO_MEMORY || status == STATUS_UNSUPPORTED) {
            error_set(error, status, "%s", damage.message);
            break;
        }
        if (checkpoint->damaged++ == 0) checkpoint->damage = damage;
    }
    int count = list.count;
    free(list.steps);
    if (status == STATUS_OK || status == STATUS_NO_MEMORY || status == STATUS_UNSUPPORTED) return status;
    return error_set(error, STATUS_INVALID, "%s: none of the %d checkpoints is complete; the newest: %s", folder, count,
                     checkpoint->damage.message);
}

void checkpoint_release(struct checkpoint *checkpoint) {
    json_decref(checkpoint->state.config);
    *checkpoint = (struct checkpoint){0};
}

static enum status check_tensor(const struct safetensors_entry *entry, const char *path,
                                const struct safetensors_source *expected, struct error *error) {
    if (!entry) return error_set(error, STATUS_INVALID, "%s: tensor %s is missing", path, expected->name);
    if (entry->dtype == expected->dtype && tensor_fits(expected, entry)) return STATUS_OK;
    char found[128];
    int64_t count = 1;
    safetensors_describe(entry, found, sizeof found);
    for (int d = 0; d < expected->rank; d++) count *= expected->shape[d];
    return error_set(error, STATUS_INVALID, "%s: tensor %s: found %s, expected %s with %lld elements", path,
                     expected->name, found, dtype_name(expected->dtype), (long long)count);
}

/* First all checks (copy false), then all copies. */
static enum status take_tensors(struct safetensors *const files[DATA_FILES], const char *path, struct optimizer *o,
                                bool copy, struct error *error) {
    for (int i = 0; i < o->parameter_count; i++)
        for (int k = 0; k <= OPTIMIZER_STATES; k++) {
            struct safetensors_source tensor;
            char name[NAME_BYTES];
            if (!tensor_of(o, i, k, name, &tensor)) continue;
            const struct safetensors_entry *entry = safetensors_find(files[k > 0], tensor.name);
            const enum status status = check_tensor(entry, path, &tensor, error);
            if (status != STATUS_OK) return status;
            if (copy) memcpy((void *)tensor.data, entry->data, entry->bytes);
        }
    return STATUS_OK;
}

enum status checkpoint_read(const struct checkpoint *checkpoint, struct optimizer *optimizer, struct error *error) {
    char path[CHECKPOINT_PATH];
    struct safetensors *files[DATA_FILES] = {0};
    enum status status = STATUS_OK;
    for (int i = 0; i < DATA_FILES && status == STATUS_OK; i++) {
        status = join(path, checkpoint->path, "", data_files[i], error);
        if (status == STATUS_OK) status = safetensors_open_file(&files[i], path, error);
    }
    for (int copy = 0; copy < 2 && status == STATUS_OK; copy++)
        status = take_tensors(files, checkpoint->path, optimizer, copy, error);
    if (status == STATUS_OK) optimizer->step = checkpoint->state.step;
    for (int i = 0; i < DATA_FILES; i++) safetensors_close(files[i]);
    return status;
}

static enum status clean_entry(void *context, const char *folder, const char *name, struct error *error) {
    const int64_t *newest = context;
    char path[CHECKPOINT_PATH], away[CHECKPOINT_PATH];
    enum status status = join(path, folder, "", name, error);
    if (status != STATUS_OK) return status;
    if (strncmp(name, UNFINISHED_PREFIX, strlen(UNFINISHED_PREFIX)) == 0) return folder_remove(path, error);
    if (step_of(name) <= *newest) return STATUS_OK;
    status = join(away, folder, DAMAGED_PREFIX, name, error);
    if (status == STATUS_OK) status = folder_remove(away, error);
    return status == STATUS_OK ? folder_rename(path, away, error) : status;
}

enum status checkpoint_clean(const char *folder, int64_t step, struct error *error) {
    return each_entry(folder, clean_entry, &step, error);
}
