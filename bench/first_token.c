/* The claim: from the start of the program to the first token after a prompt of 16, a checkpoint in the page cache
 * takes at most three times as long as reading its bytes from memory does; packing its matrices afterwards delays no
 * token by more than a tenth.
 *
 *   first_token PROGRAM CONFIG.json [FOLDER]
 *
 * Makes a bf16 checkpoint of CONFIG.json's shapes in FOLDER (default: $TMPDIR or /tmp), runs PROGRAM on it, and removes
 * it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "infer/infer.h"
#include "kernels/probe.h"

enum { PROMPT = 16, STARTS = 15, TOKENS = 400 };

static void stop(const char *what) {
    fprintf(stderr, "first_token: %s\n", what);
    exit(1);
}

static void check(enum status status, const struct error *error) {
    if (status) stop(error->message);
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int count) {
    qsort(values, (size_t)count, sizeof *values, compare_doubles);
    return values[count / 2];
}

/* Weights of the right size and shape: one block of noise for all of them. */
static void make_folder(const char *folder, const char *config_path) {
    struct error error;
    struct arena arena = {0};
    struct config config;
    struct model *model;
    check(config_load(&config, config_path, &arena, &error), &error);
    check(model_create(&model, &config, kernels_for(ISA_REFERENCE), NULL, COMPUTE_BF16, &error), &error);
    int64_t largest = 0;
    for (int i = 0; i < model->parameter_count; i++)
        if (model->parameters[i]->count > largest) largest = model->parameters[i]->count;
    uint16_t *noise = malloc((size_t)largest * sizeof *noise);
    struct safetensors_source *sources = calloc((size_t)model->parameter_count, sizeof *sources);
    if (!noise || !sources) stop("no memory for the weights");
    uint64_t state = 1;
    for (int64_t i = 0; i < largest; i++) {   /* both signs, 2^-7 to 2^-5 */
        state = state * 6364136223846793005u + 1442695040888963407u;
        noise[i] = (uint16_t)(0x3C00 + (state >> 33) % 0x100 + (state >> 63) * 0x8000);
    }
    for (int i = 0; i < model->parameter_count; i++) {
        const struct parameter *p = model->parameters[i];
        sources[i] = (struct safetensors_source){
            .name = p->name, .dtype = DTYPE_BF16, .rank = p->shape[1] ? 2 : 1, .shape = {p->shape[0], p->shape[1]},
            .data = noise};
    }
    check(safetensors_write_sharded(folder, sources, model->parameter_count, 0, NULL, &error), &error);
    char *text, path[4096], tokens[16 * PROMPT] = "[[1";
    size_t size;
    check(file_read(config_path, 1 << 20, &text, &size, &error), &error);
    snprintf(path, sizeof path, "%s/config.json", folder);
    check(file_replace(path, text, size, &error), &error);
    for (int t = 1; t < PROMPT; t++)
        snprintf(tokens + strlen(tokens), sizeof tokens - strlen(tokens), ", %d", 1 + 7 * t);
    strcat(tokens, "]]");
    snprintf(path, sizeof path, "%s/tokens.json", folder);
    check(file_replace(path, tokens, strlen(tokens), &error), &error);
    free(text);
    free(noise);
    free(sources);
    model_destroy(model);
    arena_free(&arena);
}

/* The bytes of the folder's weights, and reads them once, so that they are in the page cache. */
static double read_weights(const char *folder) {
    struct error error;
    struct safetensors *st;
    check(safetensors_open_folder(&st, folder, &error), &error);
    double bytes = 0;
    unsigned sum = 0;
    for (int64_t i = 0; i < safetensors_count(st); i++) {
        const struct safetensors_entry *entry = safetensors_at(st, i);
        bytes += (double)entry->bytes;
        for (uint64_t at = 0; at < entry->bytes; at += 4096) sum += entry->data[at];
    }
    volatile unsigned sink = sum;
    (void)sink;
    safetensors_close(st);
    return bytes;
}

/* Seconds from before the program exists to the first byte that it writes, which follows its one token. */
static double start(const char *program, const char *folder) {
    char tokens[4096];
    int ends[2];
    snprintf(tokens, sizeof tokens, "%s/tokens.json", folder);
    if (pipe(ends)) stop("no pipe");
    const double began = clock_seconds();
    const pid_t child = fork();
    if (child < 0) stop("cannot start another process");
    if (child == 0) {
        dup2(ends[1], 1);
        close(ends[0]), close(ends[1]);
        execl(program, program, "generate", folder, "--tokens", tokens, "-n", "1", "--temperature", "0", "--ignore-eos",
              "--compute", "bf16", "--json", "--quiet", (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    char bytes[4096];
    const bool answered = read(ends[0], bytes, 1) == 1;
    const double seconds = clock_seconds() - began;
    while (read(ends[0], bytes, sizeof bytes) > 0) {}
    close(ends[0]);
    int status;
    if (waitpid(child, &status, 0) != child || !answered || !WIFEXITED(status) || WEXITSTATUS(status))
        stop("the program failed");
    return seconds;
}

/* A virtual machine's host may take back memory that nobody uses, and gives it again at milliseconds per huge page;
 * what follows is not to measure that. */
static void warm_memory(size_t bytes) {
    uint8_t *pages = pages_alloc(bytes);
    for (size_t at = 0; pages && at < bytes; at += 4096) pages[at] = 1;
    pages_free(pages, bytes);
}

/* Tokens after a prompt while the matrices are packed behind them, the time of a pass and that of the packing after it
 * taken apart. */
static void measure_delays(const char *folder, struct pool *pool, enum isa isa) {
    struct error error;
    struct model *model;
    struct engine *engine;
    struct sequence *sequence;
    check(model_open(&model, folder, kernels_for(isa), pool,
                     &(struct model_options){.use = MODEL_INFERENCE, .compute = COMPUTE_BF16, .cache = CACHE_COUNT},
                     &error),
          &error);
    check(engine_create(&engine, model, 0, &error), &error);
    check(sequence_create(&sequence, model, PROMPT + TOKENS, &error), &error);
    float *logits = malloc((size_t)model->config.vocab_size * sizeof *logits);
    static double passes[TOKENS], delays[TOKENS], packed[TOKENS];
    int32_t ids[PROMPT] = {0};
    int count = 0, after = 0, worst = 0;
    double total = 0;
    for (int t = 0; t < TOKENS && after < 20; t++) {
        const bool done = model_packed(model);
        const struct feed feed = {.sequence = sequence, .ids = ids, .count = t ? 1 : PROMPT, .logits = logits};
        atomic_flag_test_and_set(&model->packing.busy);   /* the engine does not pack */
        double began = clock_seconds();
        check(engine_feed(engine, &feed, 1, 0, &error), &error);
        const double pass = clock_seconds() - began;
        atomic_flag_clear(&model->packing.busy);
        began = clock_seconds();
        model_pack_behind(model, pass);
        const double delay = clock_seconds() - began;
        if (t == 0) continue;   /* nothing is packed after the first pass */
        if (done) {
            packed[after++] = pass;
            continue;
        }
        passes[count] = pass;
        delays[count] = delay / pass;
        if (delays[count] > delays[worst]) worst = count;
        total += pass + delay;
        count++;
    }
    if (!count || !after) stop("the model was packed at once, or not at all");
    const double longest = delays[worst], of = passes[worst], share = median(delays, count),
                 unpacked = median(passes, count), later = median(packed, after);
    printf("packing behind   %d tokens, %.2f s; a token from the file's pages %.1f ms, from packed copies %.1f ms "
           "(medians)\n",
           count, total, 1e3 * unpacked, 1e3 * later);
    printf("delay by packing median %.1f%%, 19 of 20 below %.1f%%, longest %.1f%% (of a token of %.1f ms); the bar is "
           "10%%\n",
           100 * share, 100 * delays[count * 19 / 20], 100 * longest, 1e3 * of);
    free(logits);
    sequence_destroy(sequence);
    engine_destroy(engine);
    model_destroy(model);
}

int main(int argc, char **argv) {
    if (argc < 3 || argc > 4) {
        fprintf(stderr, "usage: first_token PROGRAM CONFIG.json [FOLDER]\n");
        return 2;
    }
    const char *parent = argc == 4 ? argv[3] : getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
    struct error error;
    struct pool *pool;
    enum isa isa;
    char folder[4000];
    check(isa_select(&isa, &error), &error);
    check(pool_create(&pool, 0, &error), &error);
    snprintf(folder, sizeof folder, "%s/first_token_XXXXXX", parent);
    if (!mkdtemp(folder)) stop("cannot make a folder for the checkpoint");
    make_folder(folder, argv[2]);
    const double bytes = read_weights(folder);

    double seconds[STARTS], memory = probe_memory_read(pool);
    start(argv[1], folder);
    for (int i = 0; i < STARTS; i++) seconds[i] = start(argv[1], folder);
    const double again = probe_memory_read(pool), limit = bytes / ((memory + again) / 2),
                 middle = median(seconds, STARTS);
    printf("%.3f GB of bf16 weights, kernels %s, %d threads; memory reads %.1f GB/s before, %.1f after\n", bytes / 1e9,
           isa_name(isa), pool_threads(pool), memory / 1e9, again / 1e9);
    printf("reading them     %.1f ms\n", 1e3 * limit);
    printf("first token      %.1f ms after the start of the program (median of %d; %.1f to %.1f), prompt of %d: %.2f "
           "times the reading; the bar is 3\n",
           1e3 * middle, STARTS, 1e3 * seconds[0], 1e3 * seconds[STARTS - 1], PROMPT, middle / limit);
    warm_memory((size_t)(2 * bytes));
    measure_delays(folder, pool, isa);
    if (folder_remove(folder, &error)) fprintf(stderr, "first_token: %s\n", error.message);
    pool_destroy(pool);
    return 0;
}
