/* The token cache: files of ids, checked when they are opened. */
#include "train/data_cache.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#define MAGIC "DSTOKENS"
#define VERSION 1
#define ENDING ".tokens"
#define BLOCK_IDS 65536
#define ABANDONED_AFTER 60   /* seconds after which an unlocked temporary file is taken for a killed writer's */

static size_t width_for(uint64_t limit) { return limit <= 65536 ? 2 : 4; }

static uint64_t header_checksum(const struct token_header *header) {
    return XXH3_64bits(header, offsetof(struct token_header, checksum));
}

enum status token_cache_path(char path[TOKEN_CACHE_PATH], const char *folder, const struct token_identity *identity,
                             struct error *error) {
    int length = snprintf(path, TOKEN_CACHE_PATH, "%s/%016" PRIx64 "%016" PRIx64 "-%016" PRIx64 ENDING, folder,
                          identity->source[1], identity->source[0], identity->rules);
    /* room for the names of files that are being written */
    if (length > 0 && length < TOKEN_CACHE_PATH - 64) return STATUS_OK;
    return error_set(error, STATUS_INVALID, "%.100s...: the path is too long", folder);
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static const char *name_of(const struct token_file *file) {
    return file->path[0] ? file->path : "the temporary file of tokens";
}

/* Exactly `wanted` bytes, or an error. */
static enum status read_exactly(const struct token_file *file, void *to, size_t wanted, uint64_t offset,
                                struct error *error) {
    for (size_t got = 0; got < wanted;) {
        ssize_t count = pread(file->descriptor, (char *)to + got, wanted - got, (off_t)(offset + got));
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return error_set(error, STATUS_IO, "cannot read %s: %s", name_of(file), strerror(errno));
        if (count == 0)
            return error_set(error, STATUS_INVALID,
                             "%s: found the end of the file after %llu bytes, expected %llu more", name_of(file),
                             (unsigned long long)(offset + got), (unsigned long long)(wanted - got));
        got += (size_t)count;
    }
    return STATUS_OK;
}

/* Widens u16 or u32 ids that stand at the end of ids[0..count)'s memory, front to back: what is written never passes
 * what is read. */
static void widen(int32_t *ids, const uint8_t *packed, int64_t count, size_t width) {
    for (int64_t i = 0; i < count; i++) {
        uint16_t small;
        uint32_t large;
        if (width == 2) memcpy(&small, packed + 2 * i, 2), ids[i] = small;
        else memcpy(&large, packed + 4 * i, 4), ids[i] = large > INT32_MAX ? -1 : (int32_t)large;
    }
}

enum status token_file_read(const struct token_file *file, int64_t begin, int64_t count, int32_t *ids,
                            struct error *error) {
    size_t width = file->header.width;
    if (begin < 0 || count < 0 || (uint64_t)begin > file->header.count ||
        (uint64_t)count > file->header.count - (uint64_t)begin)
        return error_set(error, STATUS_INVALID, "%s: tokens %lld to %lld, expected at most %llu", name_of(file),
                         (long long)begin, (long long)(begin + count), (unsigned long long)file->header.count);
    uint8_t *packed = (uint8_t *)ids + (size_t)count * (sizeof *ids - width);
    enum status status = read_exactly(file, packed, (size_t)count * width,
                                      sizeof file->header + (uint64_t)begin * width, error);
    if (status != STATUS_OK) return status;
    widen(ids, packed, count, width);
    for (int64_t i = 0; i < count; i++)
        if (ids[i] < 0 || (uint64_t)ids[i] >= file->header.limit)
            return error_set(error, STATUS_INVALID,
                             "%s: token %lld has the id %d, expected ids below %llu; the file is damaged, remove it",
                             name_of(file), (long long)(begin + i), ids[i], (unsigned long long)file->header.limit);
    return STATUS_OK;
}

static enum status check_header(const struct token_file *file, const struct token_identity *identity, uint64_t limit,
                                uint64_t size, bool *stale, struct error *error) {
    const struct token_header *h = &file->header;
    if (memcmp(h->magic, MAGIC, sizeof h->magic) || h->version != VERSION || h->checksum != header_checksum(h))
        return error_set(error, STATUS_INVALID, "%s: its header is damaged or no token file's", file->path);
    *stale = memcmp(&h->identity, identity, sizeof *identity) != 0;
    if (*stale) return error_set(error, STATUS_INVALID, "%s: made from another state of the data", file->path);
    if (h->limit != limit || h->width != width_for(limit) || h->count > (uint64_t)INT64_MAX / 8 ||
        size != sizeof *h + h->count * h->width)
        return error_set(error, STATUS_INVALID, "%s: found %llu bytes, expected %llu tokens of %zu bytes", file->path,
                         (unsigned long long)size, (unsigned long long)h->count, width_for(limit));
    return STATUS_OK;
}

static enum status check_ids(const struct token_file *file, token_progress *progress, void *context,
                             struct error *error) {
    const struct token_header *h = &file->header;
    XXH3_state_t *hash = XXH3_createState();
    int32_t *ids = malloc(BLOCK_IDS * sizeof *ids);
    enum status status = hash && ids ? STATUS_OK
                                     : error_set(error, STATUS_NO_MEMORY, "no memory left to check %s", file->path);
    if (status == STATUS_OK) XXH3_64bits_reset(hash);
    for (uint64_t at = 0; at < h->count && status == STATUS_OK;) {
        uint64_t count = h->count - at < BLOCK_IDS ? h->count - at : BLOCK_IDS;
        status = token_file_read(file, (int64_t)at, (int64_t)count, ids, error);
        if (status != STATUS_OK) break;
        XXH3_64bits_update(hash, ids, (size_t)count * sizeof *ids);
        at += count;
        if (progress && !progress(context, at * h->width, h->count * h->width))
            status = error_set(error, STATUS_INTERRUPTED, "interrupted while checking the tokens in %s", file->path);
    }
    if (status == STATUS_OK) {
        uint64_t found = XXH3_64bits_digest(hash);
        if (found != h->fingerprint)
            status = error_set(error, STATUS_INVALID,
                               "%s: the checksum of its tokens is %016" PRIx64 ", expected %016" PRIx64, file->path,
                               found, h->fingerprint);
    }
    XXH3_freeState(hash);
    free(ids);
    return status;
}

enum status token_file_open(struct token_file *file, const char *path, const struct token_identity *identity,
                            uint64_t limit, bool *stale, token_progress *progress, void *context, struct error *error) {
    *file = (struct token_file){ .descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK) };
    *stale = false;
    snprintf(file->path, sizeof file->path, "%s", path);
    if (file->descriptor < 0)
        return error_set(error, errno == ENOENT ? STATUS_NOT_FOUND : STATUS_IO, "cannot open %s: %s", path,
                         strerror(errno));
    struct stat about;
    enum status status = fstat(file->descriptor, &about) == 0 && S_ISREG(about.st_mode)
                             ? STATUS_OK
                             : error_set(error, STATUS_INVALID, "%s: not a file", path);
    if (status == STATUS_OK) status = read_exactly(file, &file->header, sizeof file->header, 0, error);
    if (status == STATUS_OK) status = check_header(file, identity, limit, (uint64_t)about.st_size, stale, error);
    if (status == STATUS_OK) status = check_ids(file, progress, context, error);
    if (status != STATUS_OK) token_file_close(file);
    return status;
}

void token_file_close(struct token_file *file) {
    if (file->descriptor >= 0) close(file->descriptor);
    file->descriptor = -1;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

static void put(struct token_writer *w, const void *data, size_t bytes) {
    if (w->failed || bytes == 0) return;
    errno = 0;
    if (fwrite(data, 1, bytes, w->stream) != bytes) w->failed = true, w->reason = errno ? errno : EIO;
}

static enum status write_failed(const struct token_writer *w, struct error *error) {
    return error_set(error, STATUS_IO, "cannot write %s: %s; another folder can be given with --cache",
                     w->file.path ? w->file.path : "a temporary file of tokens", strerror(w->reason));
}

enum status token_writer_begin(struct token_writer *writer, const char *path, const struct token_identity *identity,
                               uint64_t limit, struct error *error) {
    *writer = (struct token_writer){0};
    enum status status = STATUS_OK;
    if (path) status = file_begin(&writer->file, path, error);
    if (status != STATUS_OK) return status;
    writer->stream = path ? writer->file.stream : tmpfile();
    if (!writer->stream)
        return error_set(error, STATUS_IO,
                         "cannot make a temporary file for the tokens: %s; a folder for them can be given with --cache",
                         strerror(errno));
    if (path) flock(fileno(writer->stream), LOCK_EX | LOCK_NB);   /* tells token_cache_clean that the writer lives */
    memcpy(writer->header.magic, MAGIC, sizeof writer->header.magic);
    writer->header.version = VERSION;
    writer->header.width = (uint32_t)width_for(limit);
    writer->header.identity = *identity;
    writer->header.limit = limit;
    writer->hash = XXH3_createState();
    writer->block = malloc(BLOCK_IDS * sizeof(int32_t));
    if (!writer->hash || !writer->block) {
        token_writer_abandon(writer);
        return error_set(error, STATUS_NO_MEMORY, "no memory left to write the tokens");
    }
    XXH3_64bits_reset(writer->hash);
    static const struct token_header none;   /* its place; no reader takes it for a header */
    put(writer, &none, sizeof none);
    return STATUS_OK;
}

enum status token_writer_put(struct token_writer *w, const int32_t *ids, int64_t count, struct error *error) {
    for (int64_t i = 0; i < count; i++)
        if (ids[i] < 0 || (uint64_t)ids[i] >= w->header.limit)
            return error_set(error, STATUS_INVALID, "the tokenizer gave the id %d, expected ids below %llu", ids[i],
                             (unsigned long long)w->header.limit);
    if (count > 0) XXH3_64bits_update(w->hash, ids, (size_t)count * sizeof *ids);
    w->header.count += (uint64_t)count;
    if (w->header.width == 4) put(w, ids, (size_t)count * sizeof *ids);
    for (int64_t at = 0; w->header.width == 2 && at < count;) {
        int64_t part = count - at < BLOCK_IDS ? count - at : BLOCK_IDS;
        for (int64_t i = 0; i < part; i++) {
            uint16_t id = (uint16_t)ids[at + i];
            memcpy(w->block + 2 * i, &id, 2);
        }
        put(w, w->block, (size_t)part * 2);
        at += part;
    }
    return w->failed ? write_failed(w, error) : STATUS_OK;
}

void token_writer_abandon(struct token_writer *w) {
    if (w->file.stream) file_abandon(&w->file);
    else if (w->stream) fclose(w->stream);
    XXH3_freeState(w->hash);
    free(w->block);
    *w = (struct token_writer){0};
}

enum status token_writer_commit(struct token_writer *w, struct token_file *file, struct error *error) {
    w->header.fingerprint = XXH3_64bits_digest(w->hash);
    w->header.checksum = header_checksum(&w->header);
    errno = 0;
    if (!w->failed && fseek(w->stream, 0, SEEK_SET) != 0) w->failed = true, w->reason = errno;
    put(w, &w->header, sizeof w->header);
    errno = 0;
    if (!w->failed && fflush(w->stream) != 0) w->failed = true, w->reason = errno ? errno : EIO;
    enum status status = w->failed ? write_failed(w, error) : STATUS_OK;
    *file = (struct token_file){ .header = w->header, .descriptor = -1 };
    if (status == STATUS_OK) {
        /* Opened before it gets its name: whoever replaces or removes that, this file stays. */
        if (w->file.path) snprintf(file->path, sizeof file->path, "%s", w->file.path);
        file->descriptor = w->file.path ? open(w->file.temporary, O_RDONLY | O_CLOEXEC) : dup(fileno(w->stream));
        if (file->descriptor < 0)
            status = error_set(error, STATUS_IO, "cannot open %s: %s", name_of(file), strerror(errno));
    }
    if (status == STATUS_OK && w->file.path) {
        status = file_commit(&w->file, error);
        w->file.stream = NULL;
        w->stream = NULL;
        if (status != STATUS_OK) token_file_close(file);
    }
    token_writer_abandon(w);
    return status;
}

/* ---- cleaning ---------------------------------------------------------------------------------------------------- */

static bool ends_in(const char *name, const char *ending) {
    size_t length = strlen(name), tail = strlen(ending);
    return length > tail && strcmp(name + length - tail, ending) == 0;
}

/* NAME.tokens.PID-SERIAL.tmp that nobody holds locked any more. */
static bool is_abandoned(int folder, const char *name) {
    struct stat about;
    int file = openat(folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (file < 0) return false;
    bool abandoned = fstat(file, &about) == 0 && S_ISREG(about.st_mode) &&
                     about.st_mtime + ABANDONED_AFTER < time(NULL) && flock(file, LOCK_EX | LOCK_NB) == 0;
    close(file);
    return abandoned;
}

static bool is_stale(int folder, const char *name, const struct token_identity *identity) {
    struct token_header header;
    int file = openat(folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (file < 0) return false;
    bool read = pread(file, &header, sizeof header, 0) == (ssize_t)sizeof header &&
                memcmp(header.magic, MAGIC, sizeof header.magic) == 0 && header.version == VERSION &&
                header.checksum == header_checksum(&header);
    close(file);
    return !read || (memcmp(header.identity.source, identity->source, sizeof identity->source) == 0 &&
                     header.identity.state != identity->state);
}

void token_cache_clean(const char *folder, const struct token_identity *identity) {
    char source[64];
    snprintf(source, sizeof source, "%016" PRIx64 "%016" PRIx64 "-", identity->source[1], identity->source[0]);
    DIR *stream = opendir(folder);
    if (!stream) return;
    for (const struct dirent *entry; (entry = readdir(stream));) {
        const char *name = entry->d_name;
        bool ours = strncmp(name, source, strlen(source)) == 0 && ends_in(name, ENDING);
        bool unfinished = strstr(name, ENDING ".") && ends_in(name, ".tmp");
        if ((ours && is_stale(dirfd(stream), name, identity)) || (unfinished && is_abandoned(dirfd(stream), name)))
            unlinkat(dirfd(stream), name, 0);
    }
    closedir(stream);
}
