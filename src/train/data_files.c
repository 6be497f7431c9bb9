/* Which files a data path stands for. */
#include "train/data_files.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <xxhash.h>

#define CLOCK_STEP 20000000   /* nanoseconds: file systems count time in steps of a few milliseconds */

static int64_t nanoseconds(struct timespec time) { return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec; }

static bool ends_in(const char *name, const char *ending) {
    size_t length = strlen(name), tail = strlen(ending);
    return length > tail && strcmp(name + length - tail, ending) == 0;
}

static enum status refuse_packed(const char *path, struct error *error) {
    static const char *const packed[] = { ".gz", ".zst", ".xz", ".bz2", ".zip", ".parquet", ".arrow" };
    for (size_t i = 0; i < sizeof packed / sizeof *packed; i++)
        if (ends_in(path, packed[i]))
            return error_set(error, STATUS_UNSUPPORTED,
                             "%s: found a %s file, expected text or JSON lines; unpack or convert it first", path,
                             packed[i]);
    return STATUS_OK;
}

static enum status add_file(struct data_files *files, const char *path, const struct stat *about, struct error *error) {
    enum status status = refuse_packed(path, error);
    if (status != STATUS_OK) return status;
    if (!(files->count & (files->count - 1))) {   /* room for the next power of two */
        struct data_file *items = realloc(files->items, (size_t)(files->count ? 2 * files->count : 1) * sizeof *items);
        if (!items) return error_set(error, STATUS_NO_MEMORY, "no memory left for the list of data files");
        files->items = items;
    }
    char *copy = strdup(path);
    if (!copy) return error_set(error, STATUS_NO_MEMORY, "no memory left for the list of data files");
    files->items[files->count++] = (struct data_file){.path = copy,
                                                      .bytes = (uint64_t)about->st_size,
                                                      .modified = nanoseconds(about->st_mtim),
                                                      .changed = nanoseconds(about->st_ctim),
                                                      .json_lines = ends_in(path, ".jsonl")};
    files->bytes += (uint64_t)about->st_size;
    return STATUS_OK;
}

static enum status add_folder(struct data_files *files, const char *folder, bool only_known, struct error *error) {
    DIR *stream = opendir(folder);
    if (!stream) return error_set(error, STATUS_IO, "cannot read folder %s: %s", folder, strerror(errno));
    enum status status = STATUS_OK;
    for (const struct dirent *entry; status == STATUS_OK && (entry = readdir(stream));) {
        if (entry->d_name[0] == '.') continue;
        char *path = NULL;
        struct stat about;
        if (asprintf(&path, "%s/%s", folder, entry->d_name) < 0) {
            status = error_set(error, STATUS_NO_MEMORY, "no memory left for the list of data files");
            break;
        }
        bool known = ends_in(entry->d_name, ".txt") || ends_in(entry->d_name, ".jsonl");
        /* a link to a folder could lead in circles */
        if (lstat(path, &about) == 0 && S_ISDIR(about.st_mode)) status = add_folder(files, path, only_known, error);
        else if (stat(path, &about) == 0 && S_ISREG(about.st_mode) && (!only_known || known))
            status = add_file(files, path, &about, error);
        free(path);
    }
    closedir(stream);
    return status;
}

static int by_path(const void *a, const void *b) {
    return strcmp(((const struct data_file *)a)->path, ((const struct data_file *)b)->path);
}

enum status data_files_list(struct data_files *files, const char *path, struct error *error) {
    *files = (struct data_files){0};
    struct stat about;
    if (stat(path, &about) != 0)
        return error_set(error, errno == ENOENT ? STATUS_NOT_FOUND : STATUS_IO, "cannot read data %s: %s", path,
                         strerror(errno));
    if (!S_ISDIR(about.st_mode) && !S_ISREG(about.st_mode))
        return error_set(error, STATUS_INVALID,
                         "%s: found neither a file nor a folder, expected text that can be read twice", path);
    files->path = realpath(path, NULL);
    files->prefix = strlen(path);
    enum status status = files->path ? STATUS_OK
                                     : error_set(error, STATUS_IO, "cannot read data %s: %s", path, strerror(errno));
    if (status == STATUS_OK && S_ISREG(about.st_mode)) {
        status = add_file(files, path, &about, error);
        if (status == STATUS_OK && files->bytes == 0)
            status = error_set(error, STATUS_INVALID, "%s: the file is empty, expected text", path);
    } else if (status == STATUS_OK) {
        status = add_folder(files, path, true, error);
        if (status == STATUS_OK && files->count == 0) status = add_folder(files, path, false, error);
        if (status == STATUS_OK && files->count == 0)
            status = error_set(error, STATUS_INVALID, "%s: found no file in this folder, expected text files", path);
        if (status == STATUS_OK && files->bytes == 0)
            status = error_set(error, STATUS_INVALID, "%s: all %lld files are empty, expected text", path,
                               (long long)files->count);
        if (status == STATUS_OK) qsort(files->items, (size_t)files->count, sizeof *files->items, by_path);
    }
    if (status != STATUS_OK) data_files_free(files);
    return status;
}

void data_files_free(struct data_files *files) {
    for (int64_t i = 0; i < files->count; i++) free(files->items[i].path);
    free(files->items);
    free(files->path);
    *files = (struct data_files){0};
}

enum status data_file_unchanged(const struct data_file *file, const struct stat *about, struct error *error) {
    if ((uint64_t)about->st_size == file->bytes && nanoseconds(about->st_mtim) == file->modified &&
        nanoseconds(about->st_ctim) == file->changed)
        return STATUS_OK;
    return error_set(
        error, STATUS_INVALID,
        "%s: the file changed while it was being read (found %llu bytes, expected %llu); wait until it is complete",
        file->path, (unsigned long long)about->st_size, (unsigned long long)file->bytes);
}

uint64_t data_files_state(const struct data_files *files) {
    XXH3_state_t *state = XXH3_createState();
    if (!state) return 0;
    XXH3_64bits_reset(state);
    for (int64_t i = 0; i < files->count; i++) {
        const struct data_file *file = &files->items[i];
        const char *name = file->path + files->prefix;   /* below the data path, however that was written */
        const int64_t facts[] = { (int64_t)file->bytes, file->modified, file->changed, file->json_lines };
        XXH3_64bits_update(state, name, strlen(name) + 1);
        XXH3_64bits_update(state, facts, sizeof facts);
    }
    uint64_t hash = XXH3_64bits_digest(state);
    XXH3_freeState(state);
    return hash;
}

void data_files_settle(const struct data_files *files) {
    int64_t newest = 0;
    struct timespec now;
    for (int64_t i = 0; i < files->count; i++)
        if (files->items[i].changed > newest) newest = files->items[i].changed;
    clock_gettime(CLOCK_REALTIME, &now);
    int64_t left = newest + CLOCK_STEP - nanoseconds(now);
    if (left > 0 && left <= CLOCK_STEP) nanosleep(&(struct timespec){ .tv_nsec = left }, NULL);
}
