/* Lines, worked on by every thread (lines.h). */
#include "cli/lines.h"
#include "cli/progress.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BATCH ((size_t)8 << 20)        /* bytes */
#define LONG_LINE ((size_t)1 << 20)    /* bytes: worth all threads */
#define CHUNK 32                       /* lines that a thread takes at once, at most */

/* ---- buffers and input ------------------------------------------------------------------------------------------- */

enum status text_buffer_reserve(struct text_buffer *buffer, size_t more, struct error *error) {
    if (more <= buffer->capacity - buffer->count) return STATUS_OK;
    size_t capacity = buffer->capacity + buffer->capacity / 2 + more;
    char *data = realloc(buffer->data, capacity);
    if (!data) return error_set(error, STATUS_NO_MEMORY, "no memory for %zu bytes of text", capacity);
    buffer->data = data;
    buffer->capacity = capacity;
    return STATUS_OK;
}

void text_buffer_free(struct text_buffer *buffer) {
    free(buffer->data);
    *buffer = (struct text_buffer){ 0 };
}

/* O_NONBLOCK: a FIFO without a writer does not hold up open(), which a signal would not end, but poll(). */
enum status input_open(struct input *input, const char *path, struct error *error) {
    bool standard = !path || strcmp(path, "-") == 0;
    *input = (struct input){.descriptor = standard ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK),
                            .origin = standard ? "standard input" : path};
    if (input->descriptor < 0)
        return error_set(error, errno == ENOENT ? STATUS_NOT_FOUND : STATUS_IO, "cannot open %s: %s", path,
                         strerror(errno));
    struct stat about;
    if (fstat(input->descriptor, &about) == 0 && S_ISREG(about.st_mode)) input->bytes = (uint64_t)about.st_size;
    return STATUS_OK;
}

void input_close(struct input *input) {
    if (input->descriptor > STDIN_FILENO) close(input->descriptor);
    input->descriptor = -1;
}

enum status input_read(struct input *input, struct text_buffer *buffer, size_t most, struct error *error) {
    enum status status = text_buffer_reserve(buffer, most, error);
    for (size_t got = 0; !status && !input->end && got < most;) {
        struct pollfd ready = { .fd = input->descriptor, .events = POLLIN };
        if (poll(&ready, 1, got > 0 ? 0 : -1) == 0) break;   /* unlike read(), never restarted after a signal */
        if (cli_interrupted()) return error_set(error, STATUS_INTERRUPTED, "interrupted");
        ssize_t count = read(input->descriptor, buffer->data + buffer->count, most - got);
        if (count < 0 && (errno == EINTR || errno == EAGAIN)) continue;
        if (count < 0) status = error_set(error, STATUS_IO, "cannot read %s: %s", input->origin, strerror(errno));
        else if (count == 0) input->end = true;
        else got += (size_t)count, buffer->count += (size_t)count;
    }
    return status;
}

/* ---- lines ------------------------------------------------------------------------------------------------------- */

enum status line_fail(const struct line *line, size_t at, struct error *error, const char *format, ...) {
    char what[sizeof error->message];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    return error_set(error, STATUS_INVALID, "%s: line %lld, byte %llu: %s", line->origin, (long long)line->number,
                     (unsigned long long)(line->offset + at), what);
}

/* Lines that one thread works on; its results lie behind each other in that thread's buffer. */
struct chunk { int64_t first, last; int thread; size_t begin, end; enum status status; struct error error; };

struct line_batch {
    line_work *work;
    void *context;
    struct line *lines;
    int64_t line_count, line_capacity;
    struct chunk *chunks;
    int64_t chunk_count, chunk_capacity;
    atomic_llong next;                /* chunk */
    struct text_buffer *outputs;      /* [threads] */
};

static void run_chunks(void *context, int thread, int threads) {
    (void)threads;
    struct line_batch *batch = context;
    struct text_buffer *out = &batch->outputs[thread];
    for (int64_t c; (c = atomic_fetch_add(&batch->next, 1)) < batch->chunk_count;) {
        struct chunk *chunk = &batch->chunks[c];
        chunk->thread = thread;
        chunk->begin = out->count;
        for (int64_t i = chunk->first; i < chunk->last && !chunk->status; i++) {
            size_t before = out->count;
            chunk->status = batch->work(batch->context, thread, &batch->lines[i], out, &chunk->error);
            if (chunk->status) out->count = before;
        }
        chunk->end = out->count;
    }
}

static enum status write_out(const char *data, size_t size, struct error *error) {
    fwrite(data, 1, size, stdout);
    return cli_output_flush() ? STATUS_OK : error_set(error, STATUS_IO, "standard output was closed");
}

/* Runs lines[first, last) on all threads and writes the results. */
static enum status run_lines(struct line_batch *batch, struct pool *pool, int64_t first, int64_t last,
                             struct error *error) {
    int threads = pool_threads(pool);
    int64_t each = (last - first) / (threads * 8), count = 0;
    each = each < 1 ? 1 : each > CHUNK ? CHUNK : each;
    if ((last - first) / each + 1 > batch->chunk_capacity) {
        batch->chunk_capacity = (last - first) / each + 1;
        free(batch->chunks);
        batch->chunks = malloc((size_t)batch->chunk_capacity * sizeof *batch->chunks);
        if (!batch->chunks) {
            batch->chunk_capacity = 0;
            return error_set(error, STATUS_NO_MEMORY, "no memory for %lld lines", (long long)(last - first));
        }
    }
    for (int64_t at = first; at < last; at += each) {
        struct chunk *chunk = &batch->chunks[count++];
        chunk->first = at;
        chunk->last = at + each < last ? at + each : last;
        chunk->status = STATUS_OK;
    }
    batch->chunk_count = count;
    atomic_store(&batch->next, 0);
    for (int t = 0; t < threads; t++) batch->outputs[t].count = 0;
    pool_run(pool, run_chunks, batch);
    enum status status = STATUS_OK;
    for (int64_t c = 0; c < count && !status; c++) {
        const struct chunk *chunk = &batch->chunks[c];
        if (chunk->end > chunk->begin)
            status = write_out(batch->outputs[chunk->thread].data + chunk->begin, chunk->end - chunk->begin, error);
        if (status || !chunk->status) continue;
        *error = chunk->error;
        status = chunk->status;
    }
    return status;
}

static enum status run_batch(struct line_batch *batch, struct pool *pool, struct error *error) {
    enum status status = STATUS_OK;
    for (int64_t first = 0, last; first < batch->line_count && !status; first = last) {
        for (last = first; last < batch->line_count && batch->lines[last].size <= LONG_LINE;) last++;
        if (last > first) {
            status = run_lines(batch, pool, first, last, error);
            continue;
        }
        struct text_buffer *out = &batch->outputs[0];
        out->count = 0;
        status = batch->work(batch->context, -1, &batch->lines[last++], out, error);
        if (!status) status = write_out(out->data, out->count, error);
    }
    return status;
}

static bool is_blank(const char *text, size_t size) {
    for (size_t i = 0; i < size; i++)
        if (text[i] != ' ' && text[i] != '\t' && text[i] != '\r') return false;
    return true;
}

/* The complete lines of text[0..size); *used are their bytes. The last line need not end where the input ends. */
static enum status find_lines(struct line_batch *batch, const struct input *input, const char *text, size_t size,
                              int64_t *number, uint64_t offset, size_t *used, struct error *error) {
    size_t at = 0;
    batch->line_count = 0;
    if (offset == 0 && size >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0) at = 3;   /* a byte order mark */
    for (size_t next; at < size; at = next) {
        const char *end = memchr(text + at, '\n', size - at);
        if (!end && !input->end) break;
        size_t length = end ? (size_t)(end - text) - at : size - at;
        next = end ? at + length + 1 : size;
        ++*number;
        if (is_blank(text + at, length)) continue;
        if (batch->line_count == batch->line_capacity) {
            int64_t capacity = batch->line_capacity ? 2 * batch->line_capacity : 1024;
            struct line *lines = realloc(batch->lines, (size_t)capacity * sizeof *lines);
            if (!lines) return error_set(error, STATUS_NO_MEMORY, "no memory for %lld lines", (long long)capacity);
            batch->lines = lines;
            batch->line_capacity = capacity;
        }
        batch->lines[batch->line_count++] = (struct line){ input->origin, text + at, length, *number, offset + at };
    }
    *used = at;
    return STATUS_OK;
}

enum status lines_run(const char *path, struct pool *pool, bool quiet, line_work *work, void *context,
                      struct error *error) {
    struct input input;
    struct line_batch batch = { .work = work, .context = context };
    struct text_buffer text = { 0 };
    struct cli_progress progress;
    uint64_t offset = 0;
    int64_t number = 0;
    enum status status = input_open(&input, path, error);
    if (status) return status;
    batch.outputs = calloc((size_t)pool_threads(pool), sizeof *batch.outputs);
    if (!batch.outputs) status = error_set(error, STATUS_NO_MEMORY, "no memory for lines");
    cli_progress_begin(&progress, "lines", "bytes", (double)input.bytes, quiet || isatty(STDOUT_FILENO));
    while (!status && !(input.end && text.count == 0)) {
        size_t used = 0;
        /* A line that does not end within the buffer doubles it. */
        status = input_read(&input, &text, text.count > BATCH ? text.count : BATCH, error);
        if (!status && (input.end || memrchr(text.data, '\n', text.count)))
            status = find_lines(&batch, &input, text.data, text.count, &number, offset, &used, error);
        if (!status && used) status = run_batch(&batch, pool, error);
        if (used) memmove(text.data, text.data + used, text.count - used);
        text.count -= used;
        offset += used;
        cli_progress_update(&progress, (double)offset);
    }
    cli_progress_end(&progress);
    for (int t = 0; t < pool_threads(pool) && batch.outputs; t++) text_buffer_free(&batch.outputs[t]);
    free(batch.outputs);
    free(batch.lines);
    free(batch.chunks);
    text_buffer_free(&text);
    input_close(&input);
    return status;
}
