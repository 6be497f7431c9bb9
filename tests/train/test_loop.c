/* The training loop as a library: threads, resumption from any step, evaluation, gradient accumulation, what the callbacks are told. */
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

static const char *const config_text =
    "{\"model_type\": \"llama\", \"hidden_size\": 24, \"intermediate_size\": 40, \"num_hidden_layers\": 2, \"num_attention_heads\": 2, \"train\": {\"steps\": 8, \"sequence_length\": 17,"
    "\"batch_size\": 4, \"micro_batch_size\": 2, \"tokenizer\": \"characters\", \"eval_every\": 3, \"eval_batches\": 1, \"sample_every\": 4, \"save_every\": 3,"
    "\"optimizer\": {\"learning_rate\": 1e-2}}}";

struct told { int64_t stop_after, steps, evaluations, samples, last_targets, tokens, seen; double first_loss, last_loss; };

static bool stop(void *context) {
    const struct told *told = context;
    return told->stop_after < 0 || (told->stop_after > 0 && told->steps >= told->stop_after);   /* -1: at once */
}

static void step_taken(void *context, const struct training_step *step) {
    struct told *told = context;
    if (told->steps++ == 0) told->first_loss = step->result->loss;
    told->last_loss = step->result->loss;
    assert_true(step->flops > 0 && step->tokens % (2 * 17) == 0 && step->tokens <= 4 * 17 && step->steps == 8);
    told->tokens += step->tokens;
    told->seen = step->seen;
}

static void evaluated(void *context, int64_t step, double loss, int64_t targets, bool whole) {
    struct told *told = context;
    told->evaluations++;
    told->last_targets = targets;
    assert_true(whole == (step == 8) && loss > 0);
}

static enum status sample(void *context, struct model *model, int64_t step, char **text, size_t *size, struct error *unused) {
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
    struct training_options options = { .config = config, .origin = "c.json", .data = text_path, .run = run, .resume = resume, .kernels = kernels_for(isa), .pool = pool };
    struct training_callbacks callbacks = { .context = told, .stop = stop, .step = step_taken, .evaluated = evaluated, .sample = sample };
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

static void a_run_is_told_and_logged(void **state) {
    (void)state;
    struct told told = {0};
    assert_int_equal(train("reference", false, 1, NULL, &told), STATUS_OK);
    assert_int_equal(told.steps, 8);
    assert_int_equal(told.evaluations, 3);   /* 3, 6, 8 */
    assert_int_equal(told.samples, 3);       /* 0, 4, 8 */
    assert_int_equal(told.last_targets, 299);   /* every held-out token but the first */
    assert_true(told.last_loss < told.first_loss);
    char path[128], *text;
    size_t size;
    snprintf(path, sizeof path, "%s/reference/metrics.jsonl", folder);
    assert_int_equal(file_read(path, 1 << 20, &text, &size, &error), STATUS_OK);
    int lines = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        json_t *object = json_loads(line, JSON_ALLOW_NUL, NULL);
        assert_non_null(object);
        assert_true(json_is_integer(json_object_get(object, "step")));
        const json_t *text_found = json_object_get(object, "sample");
        if (text_found && json_integer_value(json_object_get(object, "step")) == 4) {
            assert_int_equal(json_string_length(text_found), 7);
            assert_memory_equal(json_string_value(text_found), "\"4\"\n\0\xC3\xA9", 7);
        }
        if (lines == 0) assert_true(text_found && json_integer_value(json_object_get(object, "step")) == 0);   /* before the first step */
        json_decref(object);
        lines++;
    }
    assert_int_equal(lines, 8 + 3 + 3);
    free(text);
}

static void threads_do_not_matter(void **state) {
    (void)state;
    struct told told = {0};
    assert_int_equal(train("threads", false, 3, NULL, &told), STATUS_OK);
    check_same_run("threads", "reference");
}

/* Stopped after every step that can be, continued on another number of threads. */
static void every_interruption_resumes(void **state) {
    (void)state;
    for (int64_t after = 0; after < 8; after++) {
        char name[32];
        snprintf(name, sizeof name, "stopped-%lld", (long long)after);
        struct told told = { .stop_after = after ? after : -1 };
        assert_int_equal(train(name, false, 1, NULL, &told), STATUS_INTERRUPTED);
        assert_int_equal(told.steps, after);
        struct told rest = {0};
        assert_int_equal(train(name, true, 2, NULL, &rest), STATUS_OK);
        assert_int_equal(rest.steps, 8 - after);
        assert_int_equal(told.samples + rest.samples, 3);   /* that of step 0 once */
        check_same_run(name, "reference");
    }
    /* Once more on the finished run. */
    struct told told = {0};
    assert_int_equal(train("stopped-3", true, 1, NULL, &told), STATUS_OK);
    assert_int_equal(told.steps + told.evaluations + told.samples, 0);
    check_same_run("stopped-3", "reference");
}

/* A batch of 2 that grows to 4: stopped on either side of the step where it does. */
static void a_growing_batch_resumes(void **state) {
    (void)state;
    static const char ramp[] = "train.schedule.batch_start=2 train.schedule.batch_ramp_tokens=300 train.schedule.name=constant train.schedule.warmup_steps=0";
    struct told whole = {0};
    assert_int_equal(train("ramp", false, 1, ramp, &whole), STATUS_OK);
    /* In multiples of 2, so full only when 300 tokens are seen: after 9 steps of 2 x 17, which the run does not reach; with 200 it is after 6. */
    assert_int_equal(whole.tokens, 8 * 2 * 17);
    assert_int_equal(whole.seen, whole.tokens);
    static const char short_ramp[] = "train.schedule.batch_start=2 train.schedule.batch_ramp_tokens=200 train.schedule.name=constant train.schedule.warmup_steps=0";
    whole = (struct told){0};
    assert_int_equal(train("short-ramp", false, 1, short_ramp, &whole), STATUS_OK);
    assert_int_equal(whole.tokens, (6 * 2 + 2 * 4) * 17);
    assert_int_equal(whole.seen, whole.tokens);
    for (int64_t after = 5; after < 8; after++) {
        char name[32];
        snprintf(name, sizeof name, "ramp-%lld", (long long)after);
        struct told told = { .stop_after = after }, rest = {0};
        assert_int_equal(train(name, false, 2, short_ramp, &told), STATUS_INTERRUPTED);
        assert_int_equal(train(name, true, 1, short_ramp, &rest), STATUS_OK);
        assert_int_equal(told.tokens + rest.tokens, whole.tokens);
        assert_int_equal(rest.seen, whole.tokens);
        check_same_run(name, "short-ramp");
    }
    struct told told = {0};
    assert_int_equal(train("ramp", true, 1, short_ramp, &told), STATUS_INVALID);
    assert_non_null(strstr(error.message, "train.schedule.batch_ramp_tokens = 300, the config now says 200"));
}

/* What is kept for the backward does not change a bit; how the batch is cut changes only rounding. */
static void recomputation_and_micro_batches(void **state) {
    (void)state;
    struct told base = {0}, none = {0}, blocks = {0}, whole = {0}, single = {0};
    assert_int_equal(train("base", false, 1, NULL, &base), STATUS_OK);
    assert_int_equal(train("none", false, 1, "train.recompute=none", &none), STATUS_OK);
    assert_int_equal(train("blocks", false, 1, "train.recompute=blocks", &blocks), STATUS_OK);
    assert_int_equal(train("whole", false, 1, "train.micro_batch_size=4", &whole), STATUS_OK);
    assert_int_equal(train("single", false, 1, "train.micro_batch_size=1", &single), STATUS_OK);
    check_same_file("none", "base", "model/model.safetensors");
    check_same_file("blocks", "base", "model/model.safetensors");
    /* Eight steps of Adam at 1e-2: a relative error of a few 2^-24 in each gradient moves the loss by less than 1e-4. */
    assert_true(fabs(whole.last_loss - base.last_loss) < 1e-4 && fabs(single.last_loss - base.last_loss) < 1e-4);
    assert_true(fabs(whole.first_loss - base.first_loss) < 1e-6 && fabs(single.first_loss - base.first_loss) < 1e-6);
}

static void refusals_change_nothing(void **state) {
    (void)state;
    struct told told = {0};
    assert_int_equal(train("reference", false, 1, NULL, &told), STATUS_INVALID);
    assert_non_null(strstr(error.message, "exists and is not empty"));
    assert_int_equal(train("reference", true, 1, "train.seed=2", &told), STATUS_INVALID);
    assert_non_null(strstr(error.message, "train.seed = 1, the config now says 2"));
    assert_int_equal(train("none-such", false, 1, "train.sequence_length=4000", &told), STATUS_INVALID);
    assert_non_null(strstr(error.message, "the data is too short"));
    assert_int_equal(train("none-such", false, 1, "hidden_act=gelu", &told), STATUS_UNSUPPORTED);
    assert_int_equal(told.steps, 0);
    char path[128];
    snprintf(path, sizeof path, "%s/none-such", folder);
    assert_false(file_exists(path));
    check_same_run("threads", "reference");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_run_is_told_and_logged),
        cmocka_unit_test(threads_do_not_matter),
        cmocka_unit_test(every_interruption_resumes),
        cmocka_unit_test(a_growing_batch_resumes),
        cmocka_unit_test(recomputation_and_micro_batches),
        cmocka_unit_test(refusals_change_nothing),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
