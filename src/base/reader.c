/* Threads that read (reader.h). A thread for each read in flight costs nothing but its stack, and works on every file
 * system. */
#include "base/reader.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct reader {
    pthread_mutex_t mutex;
    pthread_cond_t work;
    struct reader_read *first, *last;   /* the queue */
    bool ends;
    int thread_count;
    pthread_t threads[];
};

enum status reader_file_open(struct reader_file *file, const char *path, struct error *error) {
    file->path = path;
    file->descriptor = open(path, O_RDONLY | O_CLOEXEC | O_DIRECT);
    atomic_init(&file->direct, file->descriptor >= 0);
    /* a file system without O_DIRECT, or a failure that shows again */
    if (file->descriptor < 0) file->descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (file->descriptor >= 0) return STATUS_OK;
    char buffer[128];
    const int reason = errno;
    return error_set(error, reason == ENOENT ? STATUS_NOT_FOUND : STATUS_IO, "cannot open %s: %s", path,
                     strerror_r(reason, buffer, sizeof buffer));
}

void reader_file_close(struct reader_file *file) {
    if (file->descriptor >= 0) close(file->descriptor);
    file->descriptor = -1;
}

void reader_file_drop(struct reader_file *file) { posix_fadvise(file->descriptor, 0, 0, POSIX_FADV_DONTNEED); }

static int read_all(const struct reader_read *read) {
    struct reader_file *file = read->file;
    size_t got = 0;
    while (got < read->least) {
        const bool direct = atomic_load(&file->direct);
        const ssize_t now = pread(file->descriptor, (uint8_t *)read->to + got, read->bytes - got,
                                  (off_t)(read->offset + got));
        if (now < 0 && errno == EINTR) continue;
        if (now < 0 && errno == EINVAL && direct) {   /* some file systems take the flag and refuse the reads */
            const int flags = fcntl(file->descriptor, F_GETFL);
            if (flags >= 0) fcntl(file->descriptor, F_SETFL, flags & ~O_DIRECT);
            atomic_store(&file->direct, false);
            continue;
        }
        if (now < 0) return errno;
        got += (size_t)now;
        /* a direct read that stops within a block has come to the end of the file */
        if (got < read->least && (now == 0 || (direct && now % READER_BLOCK))) return READER_ENDED;
    }
    if (!atomic_load(&file->direct))
        posix_fadvise(file->descriptor, (off_t)read->offset, (off_t)read->bytes, POSIX_FADV_DONTNEED);
    return 0;
}

static void *reading_thread(void *context) {
    struct reader *reader = context;
    pthread_mutex_lock(&reader->mutex);
    while (!reader->ends) {
        struct reader_read *read = reader->first;
        if (!read) {
            pthread_cond_wait(&reader->work, &reader->mutex);
            continue;
        }
        reader->first = read->next;
        if (!reader->first) reader->last = NULL;
        pthread_mutex_unlock(&reader->mutex);
        read->done(read, read_all(read));
        pthread_mutex_lock(&reader->mutex);
    }
    pthread_mutex_unlock(&reader->mutex);
    return NULL;
}

enum status reader_create(struct reader **out, int depth, struct error *error) {
    struct reader *reader = calloc(1, sizeof *reader + (size_t)depth * sizeof reader->threads[0]);
    if (!reader) return error_set(error, STATUS_NO_MEMORY, "no memory for %d reading threads", depth);
    pthread_mutex_init(&reader->mutex, NULL);
    pthread_cond_init(&reader->work, NULL);
    while (reader->thread_count < depth &&
           pthread_create(&reader->threads[reader->thread_count], NULL, reading_thread, reader) == 0)
        reader->thread_count++;
    if (reader->thread_count == 0) {
        reader_destroy(reader);
        return error_set(error, STATUS_NO_MEMORY, "the system gives no thread to read with");
    }
    *out = reader;
    return STATUS_OK;
}

void reader_destroy(struct reader *reader) {
    if (!reader) return;
    pthread_mutex_lock(&reader->mutex);
    reader->ends = true;
    pthread_cond_broadcast(&reader->work);
    pthread_mutex_unlock(&reader->mutex);
    for (int i = 0; i < reader->thread_count; i++) pthread_join(reader->threads[i], NULL);
    pthread_cond_destroy(&reader->work);
    pthread_mutex_destroy(&reader->mutex);
    free(reader);
}

void reader_submit(struct reader *reader, struct reader_read *read) {
    pthread_mutex_lock(&reader->mutex);
    read->next = NULL;
    *(reader->last ? &reader->last->next : &reader->first) = read;
    reader->last = read;
    pthread_cond_signal(&reader->work);
    pthread_mutex_unlock(&reader->mutex);
}
