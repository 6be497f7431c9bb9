/* Training runs in a scratch folder, for the tests of the loop: one process's part of a run, what its callbacks were
 * told, runs that must be the same. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/file.h"
#include "train/loop.h"

static char folder[] = "/tmp/deepseek-loop-XXXXXX", text_path[64];
static struct error error;

static int make_folder(void **state) {
    (void)state;
    if (!mkdtemp(folder)) return -1;
    snprintf(text_path, sizeof text_path, "%s/text.txt", folder);
    char text[3000];
    for (size_t i = 0; i < sizeof text; i++) text[i] = "abcabdacbb "[(i * i + i / 7) % 11];
    return file_replace(text_path, text, sizeof text, &error) == STATUS_OK ? 0 : -1;
}

static int remove_folder(void **state) { (void)state; return folder_remove(folder, &error) == STATUS_OK ? 0 : -1; }

/* the training config, with sequences of 17 in micro-batches of 2, batches of 4, 8 steps */
static const char *config_text;

struct told {
    int64_t stop_after, steps, evaluations, samples, last_targets, tokens, seen;
    double first_loss, last_loss, first_flops, last_flops /* per token */, violation[9] /* by step */;
    struct training_evaluation last;
};

static bool stop(void *context) {
    const struct told *told = context;
    return told->stop_after < 0 || (told->stop_after > 0 && told->steps >= told->stop_after);   /* -1: at once */
}

static void step_taken(void *context, const struct training_step *step) {
    struct told *told = context;
    if (told->steps++ == 0) told->first_loss = step->result.loss;
    told->last_loss = step->result.loss;
    told->violation[step->step] = step->result.max_violation;
    assert_true(step->result.flops > 0 && step->tokens % 2 == 0 && step->tokens <= 4 * 17 && step->steps == 8);
    *(told->steps == 1 ? &told->first_flops : &told->last_flops) = step->result.flops / (double)step->tokens;
    told->tokens += step->tokens;
    told->seen = step->seen;
}

static void evaluated(void *context, const struct training_evaluation *evaluation, bool whole) {
    struct told *told = context;
    told->evaluations++;
    told->last_targets = evaluation->targets;
    told->last = *evaluation;
    assert_true(whole == (evaluation->step == 8) && evaluation->loss > 0);
}

static enum status sample(void *context, struct model *model, int64_t step, char **text, size_t *size,
                          struct error *unused) {
    (void)model;
    (void)unused;
    ((struct told *)context)->samples++;
    int length = asprintf(text, "\"%lld\"\n%c\xC3\xA9", (long long)step, 0);
    *size = (size_t)length;
    return length > 0 ? STATUS_OK : STATUS_NO_MEMORY;
}

/* One process's part of a run. `set`: NULL, or assignments with blanks between. */
static enum status train(const char *name, bool resume, int threads, const char *set, struct told *told) {
    char run[128];
    snprintf(run, sizeof run, "%s/%s", folder, name);
    json_t *config = json_loads(config_text, 0, NULL);
    char assignments[512];
    snprintf(assignments, sizeof assignments, "%s", set ? set : "");
    for (char *rest = assignments, *one; (one = strsep(&rest, " "));)
        if (*one) assert_int_equal(settings_set(config, one, &error), STATUS_OK);
    struct pool *pool = NULL;
    if (threads > 1) assert_int_equal(pool_create(&pool, threads, &error), STATUS_OK);
    enum isa isa;
    assert_int_equal(isa_select(&isa, &error), STATUS_OK);
    struct training_options options = {.config = config,
                                       .origin = "c.json",
                                       .data = text_path,
                                       .run = run,
                                       .resume = resume,
                                       .kernels = kernels_for(isa),
                                       .pool = pool};
    struct training_callbacks callbacks = {
        .context = told, .stop = stop, .step = step_taken, .evaluated = evaluated, .sample = sample};
    struct training *training;
    enum status status = training_open(&training, &options, &callbacks, &error);
    if (status == STATUS_OK) status = training_run(training, &error);
    if (training) training_close(training);
    pool_destroy(pool);
    json_decref(config);
    return status;
}

static void check_same_file(const char *a, const char *b, const char *name) {
    char path[2][256], *data[2];
    size_t size[2];
    for (int i = 0; i < 2; i++) {
        snprintf(path[i], sizeof path[i], "%s/%s/%s", folder, i ? b : a, name);
        if (file_read(path[i], 1 << 24, &data[i], &size[i], &error) != STATUS_OK) fail_msg("%s", error.message);
    }
    if (size[0] != size[1] || memcmp(data[0], data[1], size[0])) fail_msg("%s and %s differ", path[0], path[1]);
    free(data[0]);
    free(data[1]);
}

static void check_same_run(const char *a, const char *b) {
    check_same_file(a, b, "metrics.jsonl");
    check_same_file(a, b, "config.json");
    check_same_file(a, b, "model/model.safetensors");
    check_same_file(a, b, "model/config.json");
    check_same_file(a, b, "model/tokenizer.json");
    check_same_file(a, b, "checkpoints/step-00000008/parameters.safetensors");
    check_same_file(a, b, "checkpoints/step-00000008/moments.safetensors");
}
