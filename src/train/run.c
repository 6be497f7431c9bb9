/* The folder of a training run. */
#include "train/run.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

/* left for names below the run, the longest being those of files that are being written,
 * so that no save fails for it */
#define RUN_INNER_PATH 128

static enum status join(char path[RUN_PATH], const char *folder, const char *name, struct error *error) {
    int length = snprintf(path, RUN_PATH, "%s/%s", folder, name);
    if (length > 0 && length < RUN_PATH) return STATUS_OK;
    return error_set(error, STATUS_INVALID, "%.100s...: the path is too long", folder);
}

/* Entries that a run leaves which ended before its first step. */
static bool is_trace(const char *path, const char *name) {
    char inner[RUN_PATH];
    struct error ignored;
    /* tokens, where the cache could not be written */
    if (strcmp(name, "lock") == 0 || strstr(name, ".tokens")) return true;
    if (strcmp(name, "checkpoints") || join(inner, path, name, &ignored) != STATUS_OK) return false;
    DIR *stream = opendir(inner);
    if (!stream) return false;
    bool empty = true;
    for (const struct dirent *entry; (entry = readdir(stream));)
        empty = empty && (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0);
    closedir(stream);
    return empty;
}

/* Is the folder free for a new run: absent, empty, or left by a run that ended before its first step? */
static enum status check_unused(const char *path, struct error *error) {
    DIR *stream = opendir(path);
    if (!stream) {
        if (errno == ENOENT) return STATUS_OK;
        return error_set(error, STATUS_IO, "cannot use %s for the run: %s", path, strerror(errno));
    }
    enum status status = STATUS_OK;
    for (const struct dirent *entry; status == STATUS_OK && (entry = readdir(stream));) {
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..") && !is_trace(path, entry->d_name))
            status = error_set(
                error, STATUS_INVALID,
                "%s exists and is not empty; continue that run with --resume, or choose another folder with --out",
                path);
    }
    closedir(stream);
    return status;
}

/* A folder to go on in: a run's (its lock or its checkpoints are there), or one that is free. Anything else has files
 * of the same names that are not ours. */
static enum status check_resumable(const char *path, struct error *error) {
    char lock[RUN_PATH], checkpoints[RUN_PATH];
    enum status status = join(lock, path, "lock", error);
    if (status == STATUS_OK) status = join(checkpoints, path, "checkpoints", error);
    if (status != STATUS_OK || file_exists(lock) || file_is_folder(checkpoints)) return status;
    status = check_unused(path, error);
    return status == STATUS_INVALID
               ? error_set(error, STATUS_INVALID, "%s holds other files and no run; choose another folder with --out",
                           path)
               : status;
}

static enum status take_lock(struct run *run, struct error *error) {
    char path[RUN_PATH];
    enum status status = join(path, run->path, "lock", error);
    if (status != STATUS_OK) return status;
    run->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (run->lock < 0) return error_set(error, STATUS_IO, "cannot open %s: %s", path, strerror(errno));
    if (flock(run->lock, LOCK_EX | LOCK_NB) == 0) return STATUS_OK;
    int reason = errno;
    close(run->lock);
    run->lock = -1;
    if (reason == EWOULDBLOCK)
        return error_set(error, STATUS_INVALID, "%s: another process is training in this folder", run->path);
    return error_set(error, STATUS_IO, "cannot lock %s: %s", path, strerror(reason));
}

enum status run_open(struct run *run, const char *path, bool resume, struct error *error) {
    *run = (struct run){ .lock = -1 };
    int length = snprintf(run->path, RUN_PATH, "%s", path);
    if (length <= 0) return error_set(error, STATUS_INVALID, "the run's path is empty");
    if (length > RUN_PATH - RUN_INNER_PATH)
        return error_set(error, STATUS_INVALID, "%.100s...: the run's path has %d bytes, expected at most %d", path,
                         length, RUN_PATH - RUN_INNER_PATH);
    while (length > 1 && run->path[length - 1] == '/') run->path[--length] = '\0';
    enum status status = join(run->checkpoints, run->path, "checkpoints", error);
    if (status == STATUS_OK) status = join(run->model, run->path, "model", error);
    if (status == STATUS_OK) status = join(run->config, run->path, "config.json", error);
    if (status == STATUS_OK) status = resume ? check_resumable(run->path, error) : check_unused(run->path, error);
    if (status == STATUS_OK) run->made = !file_exists(run->path);
    if (status == STATUS_OK) status = folder_create(run->path, error);
    if (status == STATUS_OK) status = take_lock(run, error);
    if (status == STATUS_OK) status = folder_create(run->checkpoints, error);
    if (status != STATUS_OK) run_abandon(run);
    return status;
}

static bool ends_in(const char *name, const char *end) {
    size_t length = strlen(name), tail = strlen(end);
    return length > tail && strcmp(name + length - tail, end) == 0;
}

/* Files with `part` in their names and `end` at the end. Those that an interrupted replacement left are
 * NAME.PID-SERIAL.tmp. */
static void remove_named(const char *folder, const char *part, const char *end) {
    DIR *stream = opendir(folder);
    if (!stream) return;
    for (const struct dirent *entry; (entry = readdir(stream));) {
        if (entry->d_name[0] == '.' || !strstr(entry->d_name, part) || !ends_in(entry->d_name, end)) continue;
        unlinkat(dirfd(stream), entry->d_name, 0);   /* what cannot be removed does no harm */
    }
    closedir(stream);
}

static enum status open_log(FILE **log, const char *folder, const char *name, uint64_t bytes, bool *lost,
                            struct error *error) {
    char path[RUN_PATH];
    struct stat about;
    enum status status = join(path, folder, name, error);
    if (status != STATUS_OK) return status;
    int file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (file < 0) return error_set(error, STATUS_IO, "cannot open %s: %s", path, strerror(errno));
    if (fstat(file, &about) == 0 && (uint64_t)about.st_size < bytes) *lost = true;
    else if (ftruncate(file, (off_t)bytes) != 0) {
        status = error_set(error, STATUS_IO, "cannot cut %s back: %s", path, strerror(errno));
        close(file);
        return status;
    }
    *log = fdopen(file, "a");
    if (*log) return STATUS_OK;
    close(file);
    return error_set(error, STATUS_NO_MEMORY, "no memory left to open %s", path);
}

enum status run_start(struct run *run, uint64_t metrics_bytes, uint64_t timing_bytes, bool *lost, struct error *error) {
    *lost = false;
    bool ignored;
    remove_named(run->path, "config.json.", ".tmp");
    remove_named(run->path, ".tokens.", ".tmp");
    remove_named(run->model, "", ".tmp");
    enum status status = open_log(&run->metrics, run->path, "metrics.jsonl", metrics_bytes, lost, error);
    return status == STATUS_OK ? open_log(&run->timing, run->path, "timing.jsonl", timing_bytes, &ignored, error)
                               : status;
}

void run_close(struct run *run) {
    if (run->metrics) fclose(run->metrics);
    if (run->timing) fclose(run->timing);
    if (run->lock >= 0) close(run->lock);
    run->metrics = run->timing = NULL;
    run->lock = -1;
}

void run_abandon(struct run *run) {
    static const char *const names[] = { "metrics.jsonl", "timing.jsonl", "config.json", "lock" };
    char path[RUN_PATH];
    struct error ignored;
    if (run->made && run->lock >= 0) {   /* the lock last: until then no other process begins here */
        rmdir(run->checkpoints);
        remove_named(run->path, ".tokens", "");
        for (size_t i = 0; i < sizeof names / sizeof *names; i++)
            if (join(path, run->path, names[i], &ignored) == STATUS_OK) unlink(path);
        rmdir(run->path);
    }
    run_close(run);
}

static const char *log_name(const struct run *run, const FILE *log) {
    return log == run->metrics ? "metrics.jsonl" : "timing.jsonl";
}

enum status run_log(const struct run *run, FILE *log, struct error *error, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int written = vfprintf(log, format, arguments);
    va_end(arguments);
    if (written >= 0 && fputc('\n', log) != EOF && fflush(log) == 0 && !ferror(log)) return STATUS_OK;
    return error_set(error, STATUS_IO, "cannot write %s/%s: %s", run->path, log_name(run, log), strerror(errno));
}

static enum status sync_log(const struct run *run, FILE *log, uint64_t *bytes, struct error *error) {
    struct stat about;
    if (fflush(log) != 0 || (fsync(fileno(log)) != 0 && errno != EINVAL) || fstat(fileno(log), &about) != 0)
        return error_set(error, STATUS_IO, "cannot write %s/%s: %s", run->path, log_name(run, log), strerror(errno));
    *bytes = (uint64_t)about.st_size;
    return STATUS_OK;
}

enum status run_sync(struct run *run, uint64_t *metrics_bytes, uint64_t *timing_bytes, struct error *error) {
    enum status status = sync_log(run, run->metrics, metrics_bytes, error);
    return status == STATUS_OK ? sync_log(run, run->timing, timing_bytes, error) : status;
}
