/* Files and folders: mapping, reading, atomic replacement. Every message names the path and what the system said. */
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* What could not be done to which path, and why: the reason decides the code. */
static enum status file_fail(struct error *error, const char *what, const char *path, int reason) {
    char buffer[128];
    enum status code = reason == ENOENT ? STATUS_NOT_FOUND : reason == ENOMEM ? STATUS_NO_MEMORY : STATUS_IO;
    return error_set(error, code, "cannot %s %s: %s", what, path, strerror_r(reason, buffer, sizeof buffer));
}

/* The folder that holds `path`, in malloc'ed memory. */
static char *parent_of(const char *path) {
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/') length--;
    while (length > 0 && path[length - 1] != '/') length--;
    if (length == 0) return strdup(".");
    while (length > 1 && path[length - 1] == '/') length--;
    return strndup(path, length);
}

/* ---- Reading ---- */

/* Opens a regular file; its descriptor, or -1 with *status. Not blocking, lest a pipe without a writer hold us here. */
static int open_regular(const char *path, struct stat *about, enum status *status, struct error *error) {
    *status = STATUS_OK;
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0) {
        *status = file_fail(error, "open", path, errno);
        return -1;
    }
    if (fstat(file, about) != 0) *status = file_fail(error, "examine", path, errno);
    else if (!S_ISREG(about->st_mode))
        *status = error_set(error, STATUS_INVALID, "%s: found %s, expected a file", path,
                            S_ISDIR(about->st_mode) ? "a folder" : "a device or pipe");
    if (!*status) return file;
    close(file);
    return -1;
}

enum status file_map_open(struct file_map *map, const char *path, struct error *error) {
    *map = (struct file_map){0};
    struct stat about, now;
    enum status status;
    int file = open_regular(path, &about, &status, error);
    if (file < 0) return status;
    if (about.st_size > 0) {
        void *data = mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_SHARED, file, 0);
        if (data == MAP_FAILED) status = file_fail(error, "map", path, errno);
        else *map = (struct file_map){.data = data, .size = (size_t)about.st_size};
    }
    /* A read beyond the end of a file that shrank meanwhile would kill the process. */
    if (!status && fstat(file, &now) != 0) status = file_fail(error, "examine", path, errno);
    else if (!status && now.st_size != about.st_size)
        status = error_set(error, STATUS_IO, "%s: had %lld bytes and has %lld now: it is being changed", path,
                           (long long)about.st_size, (long long)now.st_size);
    close(file);
    if (status) file_map_close(map);
    return status;
}

void file_map_close(struct file_map *map) {
    if (map->data) munmap((void *)(uintptr_t)map->data, map->size);
    *map = (struct file_map){0};
}

void file_map_release(const void *data, size_t bytes) {
    const uintptr_t page = 4096, begin = ((uintptr_t)data + page - 1) / page * page,
                    end = ((uintptr_t)data + bytes) / page * page;
    if (begin < end) madvise((void *)begin, end - begin, MADV_DONTNEED);
}

/* Reads what is open, and closes it. */
static enum status read_whole(int file, const char *path, size_t limit, char **data, size_t *size,
                              struct error *error) {
    struct stat about;
    /* One byte more than the file has, so that its end is seen without growing. Pipes
     * have no size: they begin small. */
    size_t capacity = 4096;
    if (fstat(file, &about) == 0 && S_ISREG(about.st_mode) && about.st_size >= 0) capacity = (size_t)about.st_size;
    if (limit > SIZE_MAX - 2) limit = SIZE_MAX - 2;
    if (capacity > limit) capacity = limit;
    capacity += 1;

    enum status status = STATUS_OK;
    size_t used = 0;
    char *buffer = malloc(capacity + 1);
    while (buffer) {
        if (used > limit) {
            status = error_set(error, STATUS_INVALID, "%s: longer than the limit of %zu bytes", path, limit);
            break;
        }
        if (used == capacity) {
            capacity = capacity > limit / 2 ? limit + 1 : capacity * 2;
            char *larger = realloc(buffer, capacity + 1);
            if (!larger) free(buffer);
            buffer = larger;
            continue;
        }
        ssize_t got = read(file, buffer + used, capacity - used);
        if (got == 0) break;
        if (got > 0) used += (size_t)got;
        else if (errno != EINTR) {
            status = file_fail(error, "read", path, errno);
            break;
        }
    }
    if (!buffer) status = error_set(error, STATUS_NO_MEMORY, "no memory to read %s", path);
    close(file);
    if (status) {
        free(buffer);
        return status;
    }
    buffer[used] = 0;
    *data = buffer;
    *size = used;
    return STATUS_OK;
}

enum status file_read(const char *path, size_t limit, char **data, size_t *size, struct error *error) {
    int file = open(path, O_RDONLY | O_CLOEXEC);
    return file < 0 ? file_fail(error, "open", path, errno) : read_whole(file, path, limit, data, size, error);
}

enum status file_read_regular(const char *path, size_t limit, char **data, size_t *size, struct error *error) {
    struct stat about;
    enum status status;
    int file = open_regular(path, &about, &status, error);
    return file < 0 ? status : read_whole(file, path, limit, data, size, error);
}

bool file_exists(const char *path) { return access(path, F_OK) == 0; }

bool file_is_folder(const char *path) {
    struct stat about;
    return stat(path, &about) == 0 && S_ISDIR(about.st_mode);
}

/* ---- Folders ---- */

enum status folder_create(const char *path, struct error *error) {
    char *prefix = strdup(path);
    if (!prefix) return error_set(error, STATUS_NO_MEMORY, "no memory to create %s", path);
    enum status status = STATUS_OK;
    size_t length = strlen(path);
    for (size_t i = 1; i <= length && !status; i++) {
        if (i < length && path[i] != '/') continue;
        prefix[i] = 0;
        if (mkdir(prefix, 0777) != 0) {
            int reason = errno;
            /* A parent may be refused (EACCES, EROFS) although it is there. */
            if (!file_is_folder(prefix))
                status = file_fail(error, "create folder", prefix, reason == EEXIST ? ENOTDIR : reason);
        }
        prefix[i] = path[i];
    }
    if (!length) status = file_fail(error, "create folder", "\"\"", ENOENT);
    free(prefix);
    return status;
}

/* Removes what is in an open folder, which it closes; 0 or the reason why not. Links are removed, never followed. */
static int folder_empty(int folder) {
    DIR *entries = fdopendir(folder);
    if (!entries) {
        int reason = errno;
        close(folder);
        return reason;
    }
    int reason = 0;
    while (!reason) {
        errno = 0;
        const struct dirent *entry = readdir(entries);
        if (!entry) {
            reason = errno;
            break;
        }
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        int inner = openat(folder, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        bool is_folder = inner >= 0;
        if (is_folder) reason = folder_empty(inner);
        else if (errno != ENOTDIR && errno != ELOOP && errno != ENOENT) reason = errno;
        if (!reason && unlinkat(folder, entry->d_name, is_folder ? AT_REMOVEDIR : 0) != 0 && errno != ENOENT)
            reason = errno;
    }
    closedir(entries);
    return reason;
}

enum status folder_remove(const char *path, struct error *error) {
    int folder = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (folder < 0) return errno == ENOENT ? STATUS_OK : file_fail(error, "remove folder", path, errno);
    int reason = folder_empty(folder);
    if (!reason && rmdir(path) != 0 && errno != ENOENT) reason = errno;
    return reason ? file_fail(error, "remove folder", path, reason) : STATUS_OK;
}

/* 0 or the reason why not. Some file systems know no fsync of a folder (EINVAL): there is nothing more to do there. */
static int descriptor_sync(int folder) { return fsync(folder) == 0 || errno == EINVAL ? 0 : errno; }

enum status folder_sync(const char *path, struct error *error) {
    int folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0) return file_fail(error, "open folder", path, errno);
    int reason = descriptor_sync(folder);
    close(folder);
    return reason ? file_fail(error, "sync folder", path, reason) : STATUS_OK;
}

/* rename(2) with the folder of the new name opened before, so that only the fsync itself can fail after the rename. */
static enum status rename_durably(const char *from, const char *to, struct error *error) {
    char *parent = parent_of(to);
    if (!parent) return error_set(error, STATUS_NO_MEMORY, "no memory to rename %s", from);
    enum status status = STATUS_OK;
    int reason, folder = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0) status = file_fail(error, "open folder", parent, errno);
    else if (rename(from, to) != 0) {
        char what[PATH_MAX + 32];
        reason = errno;
        snprintf(what, sizeof what, "rename %s to", from);
        status = file_fail(error, what, to, reason);
    } else if ((reason = descriptor_sync(folder)) != 0) {
        status = file_fail(error, "sync folder", parent, reason);
    }
    if (folder >= 0) close(folder);
    free(parent);
    return status;
}

enum status folder_rename(const char *from, const char *to, struct error *error) {
    enum status status = rename_durably(from, to, error);
    if (status) return status;
    char *source = parent_of(from), *target = parent_of(to);
    if (!source || !target) status = error_set(error, STATUS_NO_MEMORY, "no memory to rename %s", from);
    else if (strcmp(source, target) != 0) status = folder_sync(source, error);
    free(source);
    free(target);
    return status;
}

/* ---- Replacement ---- */

/* The first failure is the one that is reported. */
static void writer_fail(struct file_writer *writer, const char *what, int reason) {
    if (!writer->status) writer->status = file_fail(&writer->error, what, writer->path, reason);
}

enum status file_begin(struct file_writer *writer, const char *path, struct error *error) {
    static atomic_uint serial;   /* several writers of one process get different names */
    *writer = (struct file_writer){.path = strdup(path)};
    int file = -1;
    while (writer->path && file < 0) {
        free(writer->temporary);
        if (asprintf(&writer->temporary, "%s.%ld-%u.tmp", path, (long)getpid(), atomic_fetch_add(&serial, 1)) < 0)
            writer->temporary = NULL;
        if (!writer->temporary) break;
        file = open(writer->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (file < 0 && errno != EEXIST) {
            writer_fail(writer, "create", errno);
            free(writer->temporary);
            writer->temporary = NULL;
            break;
        }
    }
    if (file >= 0) {
        writer->stream = fdopen(file, "wb");
        if (!writer->stream) close(file);
    }
    if (!writer->stream && !writer->status) {
        writer->status = error_set(&writer->error, STATUS_NO_MEMORY, "no memory to write %s", path);
    }
    if (!writer->status) return STATUS_OK;
    if (error) *error = writer->error;
    enum status status = writer->status;
    struct error kept = writer->error;
    file_abandon(writer);
    writer->status = status;   /* for a caller that checks at the commit alone */
    writer->error = kept;
    return status;
}

void file_put(struct file_writer *writer, const void *data, size_t bytes) {
    if (writer->status || bytes == 0) return;
    errno = 0;
    if (fwrite(data, 1, bytes, writer->stream) != bytes) writer_fail(writer, "write", errno ? errno : EIO);
}

void file_abandon(struct file_writer *writer) {
    if (writer->stream) fclose(writer->stream);
    if (writer->temporary) unlink(writer->temporary);
    free(writer->temporary);
    free(writer->path);
    *writer = (struct file_writer){0};
}

enum status file_commit(struct file_writer *writer, struct error *error) {
    if (!writer->status) {
        errno = 0;
        bool broken = ferror(writer->stream);   /* a write straight to the stream failed; the reason is gone */
        if (fflush(writer->stream) != 0) writer_fail(writer, "write", errno ? errno : EIO);
        else if (broken) writer_fail(writer, "write", EIO);
        else if (fsync(fileno(writer->stream)) != 0 && errno != EINVAL) writer_fail(writer, "sync", errno);
    }
    if (writer->stream) {
        errno = 0;
        if (fclose(writer->stream) != 0) writer_fail(writer, "close", errno ? errno : EIO);
        writer->stream = NULL;
    }
    if (!writer->status) {
        writer->status = rename_durably(writer->temporary, writer->path, &writer->error);
        if (!writer->status) {
            free(writer->temporary);
            writer->temporary = NULL;   /* it has become the target */
        }
    }
    enum status status = writer->status;
    if (status && error) *error = writer->error;
    file_abandon(writer);
    return status;
}

enum status file_replace(const char *path, const void *data, size_t size, struct error *error) {
    struct file_writer writer;
    file_begin(&writer, path, error);
    file_put(&writer, data, size);
    return file_commit(&writer, error);
}
