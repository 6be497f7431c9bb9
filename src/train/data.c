/* Token data: reading, splitting, and the order of sequences. */
#include "train/data.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "base/file.h"
#include "base/random.h"

/* ---- files ------------------------------------------------------------------------------------------------------------------ */

static enum status add_file(struct data_files *files, const char *path, uint64_t bytes, struct error *error) {
    char **paths = realloc(files->paths, (size_t)(files->count + 1) * sizeof *paths);
    if (paths) {
        files->paths = paths;
        paths[files->count] = strdup(path);
    }
    if (!paths || !paths[files->count]) return error_set(error, STATUS_NO_MEMORY, "no memory left for the list of data files");
    files->count++;
    files->bytes += bytes;
    return STATUS_OK;
}

static bool ends_in_txt(const char *name) {
    size_t length = strlen(name);
    return length > 4 && strcmp(name + length - 4, ".txt") == 0;
}

static enum status add_folder(struct data_files *files, const char *folder, bool only_txt, struct error *error) {
    DIR *stream = opendir(folder);
    if (!stream) return error_set(error, STATUS_IO, "cannot read folder %s: %s", folder, strerror(errno));
    enum status status = STATUS_OK;
    for (const struct dirent *entry; status == STATUS_OK && (entry = readdir(stream));) {
        if (entry->d_name[0] == '.') continue;
        char *path = NULL;
        struct stat about;
        if (asprintf(&path, "%s/%s", folder, entry->d_name) < 0) { status = error_set(error, STATUS_NO_MEMORY, "no memory left for the list of data files"); break; }
        if (lstat(path, &about) == 0 && S_ISDIR(about.st_mode)) status = add_folder(files, path, only_txt, error);   /* a link to a folder could lead in circles */
        else if (stat(path, &about) == 0 && S_ISREG(about.st_mode) && (!only_txt || ends_in_txt(entry->d_name))) status = add_file(files, path, (uint64_t)about.st_size, error);
        free(path);
    }
    closedir(stream);
    return status;
}

static int by_path(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

enum status data_files_list(struct data_files *files, const char *path, struct error *error) {
    *files = (struct data_files){0};
    struct stat about;
    if (stat(path, &about) != 0) return error_set(error, errno == ENOENT ? STATUS_NOT_FOUND : STATUS_IO, "cannot read data %s: %s", path, strerror(errno));
    enum status status = STATUS_OK;
    if (!S_ISDIR(about.st_mode)) {
        status = add_file(files, path, (uint64_t)about.st_size, error);
    } else {
        status = add_folder(files, path, true, error);
        if (status == STATUS_OK && files->count == 0) status = add_folder(files, path, false, error);
        if (status == STATUS_OK && files->count == 0) status = error_set(error, STATUS_INVALID, "%s: found no file in this folder, expected text files", path);
        if (status == STATUS_OK) qsort(files->paths, (size_t)files->count, sizeof *files->paths, by_path);
    }
    if (status == STATUS_OK && S_ISREG(about.st_mode) && about.st_size == 0) status = error_set(error, STATUS_INVALID, "%s: the file is empty, expected text", path);
    if (status == STATUS_OK && S_ISDIR(about.st_mode) && files->bytes == 0)
        status = error_set(error, STATUS_INVALID, "%s: all %lld files are empty, expected text", path, (long long)files->count);
    if (status != STATUS_OK) data_files_free(files);
    return status;
}

void data_files_free(struct data_files *files) {
    for (int64_t i = 0; i < files->count; i++) free(files->paths[i]);
    free(files->paths);
    *files = (struct data_files){0};
}

/* ---- tokenizer and ids ------------------------------------------------------------------------------------------------------ */

static enum status count_characters(struct tokenizer **tokenizer, const struct data_files *files, uint64_t *replaced, struct error *error) {
    struct character_counts counts = {0};
    enum status status = STATUS_OK;
    for (int64_t i = 0; i < files->count && status == STATUS_OK; i++) {
        struct file_map map;
        status = file_map_open(&map, files->paths[i], error);
        if (status != STATUS_OK) break;
        status = character_counts_add(&counts, map.data, map.size, error);
        file_map_close(&map);
    }
    if (status == STATUS_OK) status = tokenizer_create_characters(tokenizer, &counts, error);
    *replaced = counts.replaced;
    character_counts_free(&counts);
    return status;
}

enum status data_make_tokenizer(struct tokenizer **tokenizer, const char *name, const struct data_files *files, uint64_t *replaced, struct error *error) {
    *tokenizer = NULL;
    *replaced = 0;
    if (strcmp(name, "bytes") == 0) return tokenizer_create_bytes(tokenizer, error);
    if (strcmp(name, "characters") == 0) return count_characters(tokenizer, files, replaced, error);
    return tokenizer_load(tokenizer, name, error);
}

enum status data_load(struct data *data, const struct data_files *files, const struct tokenizer *tokenizer, int64_t vocab_size, struct error *error) {
    *data = (struct data){0};
    if (tokenizer_size(tokenizer) > vocab_size)
        return error_set(error, STATUS_INVALID, "vocab_size: found %lld, expected at least the tokenizer's %lld", (long long)vocab_size, (long long)tokenizer_size(tokenizer));
    struct token_list list = {0};
    int32_t eos = tokenizer_eos(tokenizer);
    enum status status = STATUS_OK;
    for (int64_t i = 0; i < files->count && status == STATUS_OK; i++) {
        struct file_map map;
        status = file_map_open(&map, files->paths[i], error);
        if (status != STATUS_OK) break;
        if (map.size > 0 && data->documents > 0 && eos >= 0) status = token_list_push(&list, eos, error);
        if (status == STATUS_OK) {
            status = tokenizer_encode(tokenizer, map.data, map.size, true, &list, &data->replaced, error);
            if (status == STATUS_INVALID) error_prefix(error, "%s", files->paths[i]);
        }
        data->documents += map.size > 0;
        data->bytes += map.size;
        file_map_close(&map);
    }
    if (status == STATUS_OK && list.count == 0) status = error_set(error, STATUS_INVALID, "%s: no text in the data", files->paths[0]);
    if (status != STATUS_OK) {
        token_list_free(&list);
        return status;
    }
    data->ids = list.ids;
    data->count = data->train_count = list.count;
    data->fingerprint = XXH3_64bits(list.ids, (size_t)list.count * sizeof *list.ids);
    return STATUS_OK;
}

void data_hold_out(struct data *data, double fraction) { data->train_count = data->count - (int64_t)((double)data->count * fraction); }

enum status data_split(struct data *data, double eval_fraction, int64_t length, struct error *error) {
    data_hold_out(data, eval_fraction);
    int64_t held_out = data->count - data->train_count;
    if (data->train_count < length + 1) {
        char remedy[64] = "";
        if (data->train_count > 1) snprintf(remedy, sizeof remedy, ", or a train.sequence_length of at most %lld", (long long)data->train_count - 1);
        return error_set(error, STATUS_INVALID, "the data is too short: found %lld tokens, %lld of them for training after train.eval_fraction %g; a sequence of train.sequence_length %lld needs %lld; "
                         "take more text%s", (long long)data->count, (long long)data->train_count, eval_fraction, (long long)length, (long long)length + 1, remedy);
    }
    if (eval_fraction > 0 && held_out < 2)
        return error_set(error, STATUS_INVALID, "the data is too short: train.eval_fraction %g of %lld tokens holds %lld tokens out, evaluation needs 2; set train.eval_fraction=0 to train without",
                         eval_fraction, (long long)data->count, (long long)held_out);
    return STATUS_OK;
}

void data_free(struct data *data) {
    free(data->ids);
    *data = (struct data){0};
}

/* ---- order ------------------------------------------------------------------------------------------------------------------ */

/* A permutation of 0..count-1: four Feistel rounds over an even number of bits, repeated until the value is in range. */
static uint64_t permute(uint64_t seed, uint64_t stream, uint64_t count, uint64_t value) {
    int half = 1;
    while (half < 31 && (uint64_t)1 << 2 * half < count) half++;
    uint64_t mask = ((uint64_t)1 << half) - 1;
    do {
        uint64_t left = value >> half, right = value & mask;
        for (uint64_t round = 0; round < 4; round++) {
            uint64_t next = left ^ (random_u64(seed, stream, right << 2 | round) & mask);
            left = right;
            right = next;
        }
        value = left << half | right;
    } while (value >= count);
    return value;
}

void data_sequence(const struct data *data, uint64_t seed, uint64_t number, int64_t length, int32_t *inputs, int32_t *targets) {
    /* Windows of an epoch: as many as fit behind the largest offset, so that every epoch has the same number. */
    int64_t spare = data->train_count - 1 - length;   /* how far the last window may begin */
    int64_t offsets = spare + 1 < length ? spare + 1 : length;
    uint64_t windows = (uint64_t)((spare - (offsets - 1)) / length + 1);
    uint64_t epoch = number / windows;
    uint64_t stream = random_stream("data") + epoch;
    uint64_t offset = random_below(seed, random_stream("data offset"), epoch, (uint64_t)offsets);
    int64_t begin = (int64_t)(offset + permute(seed, stream, windows, number % windows) * (uint64_t)length);
    memcpy(inputs, data->ids + begin, (size_t)length * sizeof *inputs);
    memcpy(targets, data->ids + begin + 1, (size_t)length * sizeof *targets);
}

int64_t data_eval_windows(const struct data *data, int64_t length) {
    int64_t targets = data->count - data->train_count - 1;
    return targets > 0 ? (targets + length - 1) / length : 0;
}

int64_t data_eval_window(const struct data *data, int64_t length, int64_t window, int32_t *inputs, int32_t *targets) {
    int64_t begin = data->train_count + window * length, count = data->count - 1 - begin;
    if (count > length) count = length;
    memcpy(inputs, data->ids + begin, (size_t)count * sizeof *inputs);
    memcpy(targets, data->ids + begin + 1, (size_t)count * sizeof *targets);
    return count;
}
