/* Checkpoints: round trip, every kind of damage, the fall-back, what is kept, what an interruption leaves, a failing
 * disk. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <signal.h>
#include <unistd.h>
#include <xxhash.h>
#include <cmocka.h>

#include "base/file.h"
#include "base/random.h"
#include "io/safetensors.h"
#include "train/checkpoint.h"

#define PARAMETERS 3

static char folder[] = "/tmp/deepseek-checkpoint-XXXXXX", checkpoints[64];
static struct error error;

static struct parameter parameters[PARAMETERS], *list[PARAMETERS];

static int make_folder(void **state) {
    (void)state;
    static const int64_t shapes[PARAMETERS][2] = { { 70, 5 }, { 9, 0 }, { 3, 4 } };
    static const char *const names[PARAMETERS] = { "model.a.weight", "model.norm.weight", "model.frozen.weight" };
    for (int i = 0; i < PARAMETERS; i++) {
        struct parameter *p = list[i] = &parameters[i];
        p->name = names[i];
        p->kind = shapes[i][1] ? PARAMETER_MATRIX : PARAMETER_VECTOR;
        p->shape[0] = shapes[i][0];
        p->shape[1] = shapes[i][1];
        p->count = shapes[i][0] * (shapes[i][1] ? shapes[i][1] : 1);
        p->update = i == 2 ? UPDATE_NEVER : i ? UPDATE_ELEMENTS : UPDATE_MATRIX;
        p->value = calloc((size_t)p->count, sizeof(float));
        p->grad = calloc((size_t)p->count, sizeof(float));
    }
    if (!mkdtemp(folder)) return -1;
    snprintf(checkpoints, sizeof checkpoints, "%s/checkpoints", folder);
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    for (int i = 0; i < PARAMETERS; i++) {
        free(parameters[i].value);
        free(parameters[i].grad);
    }
    return folder_remove(folder, &error) == STATUS_OK ? 0 : -1;
}

static int empty_folder(void **state) {
    (void)state;
    return folder_remove(checkpoints, &error) == STATUS_OK && folder_create(checkpoints, &error) == STATUS_OK ? 0 : -1;
}

/* Values that tell the step they belong to. */
static void fill(struct optimizer *o, int64_t step) {
    o->step = step;
    for (int i = 0; i < PARAMETERS; i++) {
        for (int64_t k = 0; k < list[i]->count; k++) {
            list[i]->value[k] = (float)random_normal((uint64_t)step, 1, (uint64_t)(1000 * i + k));
            for (int s = 0; s < OPTIMIZER_STATES; s++)
                if (o->states[i][s])
                    ((float *)o->states[i][s])[k] =
                        (float)random_normal((uint64_t)step, (uint64_t)(2 + s), (uint64_t)(1000 * i + k));
        }
    }
}

static bool holds(struct optimizer *o, int64_t step) {
    bool same = o->step == step;
    for (int i = 0; i < PARAMETERS; i++) {
        for (int64_t k = 0; k < list[i]->count; k++) {
            same = same && list[i]->value[k] == (float)random_normal((uint64_t)step, 1, (uint64_t)(1000 * i + k));
            for (int s = 0; s < OPTIMIZER_STATES; s++)
                same = same && (!o->states[i][s] ||
                                ((float *)o->states[i][s])[k] ==
                                    (float)random_normal((uint64_t)step, (uint64_t)(2 + s), (uint64_t)(1000 * i + k)));
        }
    }
    return same;
}

static struct optimizer *make_optimizer(void) {
    static const struct optimizer_settings settings = { .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8 };
    struct optimizer *o;
    assert_int_equal(optimizer_create(&o, list, PARAMETERS, kernels_for(ISA_REFERENCE), NULL, &settings, &error),
                     STATUS_OK);
    return o;
}

static enum status save(struct optimizer *o, int64_t step, int64_t keep) {
    fill(o, step);
    struct checkpoint_state state = {.step = step,
                                     .tokens = 12 * step,
                                     .evaluated = step % 2 == 0,
                                     .data_fingerprint = 0xFEDCBA9876543210u,
                                     .metrics_bytes = (uint64_t)(100 * step),
                                     .timing_bytes = 7,
                                     .config = json_pack("{s:i, s:f}", "hidden_size", 5, "theta", 0.1)};
    enum status status = checkpoint_save(checkpoints, &state, o, keep, &error);
    json_decref(state.config);
    return status;
}

static const char *in_step(int64_t step, const char *name) {
    static char path[4096];
    snprintf(path, sizeof path, "%s/step-%08lld%s%s", checkpoints, (long long)step, *name ? "/" : "", name);
    return path;
}

/* The step that a resumption would go on from, -1 for none, -2 for an error. */
static int64_t found_step(struct optimizer *o, int *damaged) {
    struct checkpoint c;
    enum status status = checkpoint_find(&c, checkpoints, &error);
    if (status == STATUS_NOT_FOUND) return -1;
    if (status != STATUS_OK) return -2;
    fill(o, 999);
    assert_int_equal(checkpoint_read(&c, o, &error), STATUS_OK);
    int64_t step = c.state.step;
    assert_true(holds(o, step));
    if (damaged) *damaged = c.damaged;
    checkpoint_release(&c);
    return step;
}

/* Moments in bf16 are kept as they are; a checkpoint with moments of the other type is refused, and changes nothing. */
static void moments_in_bf16_come_back(void **state) {
    (void)state;
    static const struct optimizer_settings settings = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .moments = DTYPE_BF16};
    struct optimizer *o, *other = make_optimizer();
    assert_int_equal(optimizer_create(&o, list, PARAMETERS, kernels_for(ISA_REFERENCE), NULL, &settings, &error),
                     STATUS_OK);
    assert_true(optimizer_bytes(list, PARAMETERS, &settings) == 2 * (704 + 64) &&
                optimizer_bytes(list, PARAMETERS, &other->settings) == 2 * (1408 + 64));
    uint16_t *moments = o->pages;
    for (size_t i = 0; i < o->page_bytes / 2; i++) moments[i] = (uint16_t)(i * 40503 % 0x7F00);   /* finite */
    struct checkpoint_state state_of_step = { .step = 5, .config = json_object() };
    assert_int_equal(checkpoint_save(checkpoints, &state_of_step, o, 2, &error), STATUS_OK);
    struct checkpoint c;
    assert_int_equal(checkpoint_find(&c, checkpoints, &error), STATUS_OK);
    memset(o->pages, 0, o->page_bytes);
    assert_int_equal(checkpoint_read(&c, o, &error), STATUS_OK);
    const uint16_t *m[2] = { o->states[0][0], o->states[1][0] }, *v[2] = { o->states[0][1], o->states[1][1] };
    for (int p = 0; p < 2; p++)
        for (int64_t k = 0; k < list[p]->count; k++) {
            assert_int_equal(m[p][k], (size_t)(m[p] - moments + k) * 40503 % 0x7F00);
            assert_int_equal(v[p][k], (size_t)(v[p] - moments + k) * 40503 % 0x7F00);
        }
    fill(other, 77);
    assert_int_equal(checkpoint_read(&c, other, &error), STATUS_INVALID);
    assert_non_null(
        strstr(error.message, "tensor model.a.weight.exp_avg: found BF16 [70, 5], expected F32 with 350 elements"));
    assert_true(holds(other, 77));
    checkpoint_release(&c);
    json_decref(state_of_step.config);
    optimizer_destroy(other);
    optimizer_destroy(o);
}

static void everything_comes_back(void **state) {
    (void)state;
    struct optimizer *o = make_optimizer();
    assert_int_equal(found_step(o, NULL), -1);
    assert_int_equal(save(o, 123, 2), STATUS_OK);
    struct checkpoint c;
    assert_int_equal(checkpoint_find(&c, checkpoints, &error), STATUS_OK);
    assert_string_equal(c.path, in_step(123, ""));
    assert_int_equal(c.state.step, 123);
    assert_int_equal(c.state.tokens, 12 * 123);
    assert_false(c.state.evaluated);
    assert_true(c.state.data_fingerprint == 0xFEDCBA9876543210u);
    assert_int_equal(c.state.metrics_bytes, 12300);
    assert_int_equal(c.state.timing_bytes, 7);
    assert_true(json_real_value(json_object_get(c.state.config, "theta")) == 0.1);
    assert_int_equal(c.damaged, 0);
    checkpoint_release(&c);
    assert_int_equal(found_step(o, NULL), 123);
    /* The state alone can be replaced. */
    struct checkpoint_state later = {
        .step = 123, .tokens = 12 * 123, .evaluated = true, .metrics_bytes = 5, .config = json_object()};
    assert_int_equal(checkpoint_save_state(checkpoints, &later, &error), STATUS_OK);
    json_decref(later.config);
    assert_int_equal(checkpoint_find(&c, checkpoints, &error), STATUS_OK);
    assert_true(c.state.evaluated && c.state.metrics_bytes == 5);
    checkpoint_release(&c);
    assert_int_equal(found_step(o, NULL), 123);
    optimizer_destroy(o);
}

static void no_update(const struct optimizer *o, const struct parameter *p, void *const *states) {
    (void)o, (void)p, (void)states;
}

/* The state has the names of each parameter's rule; a checkpoint of another rule is refused, and changes nothing. */
static void states_have_their_rules_names(void **state) {
    (void)state;
    static const struct optimizer_rule rule = {.states = {{.name = "momentum"}}, .update_whole = no_update};
    static const struct optimizer_settings settings = {.moments = DTYPE_BF16, .matrix_rule = &rule};
    struct optimizer *o, *other = make_optimizer();
    assert_int_equal(optimizer_create(&o, list, PARAMETERS, kernels_for(ISA_REFERENCE), NULL, &settings, &error),
                     STATUS_OK);
    float *momentum = o->states[0][0];
    for (int64_t k = 0; k < list[0]->count; k++) momentum[k] = (float)random_normal(5, 5, (uint64_t)k);
    struct checkpoint_state at = {.step = 6, .config = json_object()};
    assert_int_equal(checkpoint_save(checkpoints, &at, o, 2, &error), STATUS_OK);
    json_decref(at.config);
    struct safetensors *file;
    assert_int_equal(safetensors_open_file(&file, in_step(6, "moments.safetensors"), &error), STATUS_OK);
    static const char *const names[] = {
        "model.a.weight.momentum", "model.norm.weight.exp_avg", "model.norm.weight.exp_avg_sq"};
    assert_int_equal(safetensors_count(file), 3);
    for (int i = 0; i < 3; i++) {
        const struct safetensors_entry *entry = safetensors_find(file, names[i]);
        assert_non_null(entry);
        assert_int_equal(entry->dtype, i ? DTYPE_BF16 : DTYPE_F32);
    }
    safetensors_close(file);
    struct checkpoint c;
    assert_int_equal(checkpoint_find(&c, checkpoints, &error), STATUS_OK);
    memset(momentum, 0, (size_t)list[0]->count * sizeof *momentum);
    assert_int_equal(checkpoint_read(&c, o, &error), STATUS_OK);
    for (int64_t k = 0; k < list[0]->count; k++) assert_true(momentum[k] == (float)random_normal(5, 5, (uint64_t)k));
    fill(other, 77);
    assert_int_equal(checkpoint_read(&c, other, &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "tensor model.a.weight.exp_avg is missing"));
    assert_true(holds(other, 77));
    checkpoint_release(&c);
    optimizer_destroy(other);
    optimizer_destroy(o);
}

static void flip(const char *path, int64_t position) {
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    fseek(file, position >= 0 ? position : 0, position >= 0 ? SEEK_SET : SEEK_END);
    if (position < 0) fseek(file, position, SEEK_END);
    int byte = fgetc(file);
    fseek(file, -1, SEEK_CUR);
    fputc(byte ^ 1, file);
    fclose(file);
}

/* A checkpoint of an older version is no damaged one: it is named, and nothing before it is looked for. */
static void older_formats_are_refused(void **state) {
    (void)state;
    struct optimizer *o = make_optimizer();
    for (int64_t step = 10; step <= 20; step += 10) assert_int_equal(save(o, step, 2), STATUS_OK);
    json_t *root;
    char *text;
    size_t size;
    assert_int_equal(json_load_regular(&root, in_step(20, "state.json"), &error), STATUS_OK);
    json_object_set_new(root, "format", json_integer(1));
    json_object_del(root, "state_xxh3_64");
    assert_int_equal(json_format(root, &text, &size, &error), STATUS_OK);
    json_object_set_new(root, "state_xxh3_64", json_sprintf("%016" PRIx64, XXH3_64bits(text, size)));
    assert_int_equal(json_save_path(root, in_step(20, "state.json"), &error), STATUS_OK);
    free(text);
    json_decref(root);
    struct checkpoint c;
    assert_int_equal(checkpoint_find(&c, checkpoints, &error), STATUS_UNSUPPORTED);
    char expected[4200];
    snprintf(expected, sizeof expected,
             "%s: found format 1 of checkpoints, expected 2: an older version of this program wrote it",
             in_step(20, "state.json"));
    assert_string_equal(error.message, expected);
    checkpoint_release(&c);
    assert_int_equal(save(o, 30, 3), STATUS_OK);   /* and behind one that is damaged */
    flip(in_step(30, "parameters.safetensors"), -1);
    assert_int_equal(checkpoint_find(&c, checkpoints, &error), STATUS_UNSUPPORTED);
    assert_string_equal(error.message, expected);
    checkpoint_release(&c);
    optimizer_destroy(o);
}

static void the_last_ones_are_kept(void **state) {
    (void)state;
    struct optimizer *o = make_optimizer();
    for (int64_t step = 10; step <= 50; step += 10) assert_int_equal(save(o, step, 2), STATUS_OK);
    for (int64_t step = 10; step <= 50; step += 10) assert_int_equal(file_exists(in_step(step, "")), step >= 40);
    assert_int_equal(save(o, 100000000, 1), STATUS_OK);   /* nine digits come after eight */
    assert_int_equal(found_step(o, NULL), 100000000);
    assert_false(file_exists(in_step(50, "")));
    optimizer_destroy(o);
}

/* Each damage to the newest of two checkpoints is noticed, and the older one is taken. */
static void damage_falls_back(void **state) {
    static const char *const names[] = { "parameters.safetensors", "moments.safetensors", "state.json" };
    struct optimizer *o = make_optimizer();
    for (int i = 0; i < 3; i++) {
        for (int kind = 0; kind < 5; kind++) {
            assert_int_equal(empty_folder(state), 0);
            assert_int_equal(save(o, 10, 2), STATUS_OK);
            assert_int_equal(save(o, 20, 2), STATUS_OK);
            const char *path = in_step(20, names[i]);
            struct stat about;
            assert_int_equal(stat(path, &about), 0);
            if (kind == 0) flip(path, about.st_size / 2);
            else if (kind == 1) flip(path, -2);
            else if (kind == 2) assert_int_equal(truncate(path, about.st_size - 3), 0);
            else if (kind == 3) assert_int_equal(truncate(path, 0), 0);
            else assert_int_equal(unlink(path), 0);
            int damaged = 0;
            assert_int_equal(found_step(o, &damaged), 10);
            assert_int_equal(damaged, 1);
            struct checkpoint c;
            assert_int_equal(checkpoint_find(&c, checkpoints, &error), STATUS_OK);
            if (!strstr(c.damage.message, names[i]))
                fail_msg("damage %d of %s: \"%s\"", kind, names[i], c.damage.message);
            checkpoint_release(&c);
            /* With the other one damaged too, nothing is overwritten: an error says so. */
            flip(in_step(10, names[i]), 20);
            assert_int_equal(found_step(o, NULL), -2);
            assert_non_null(strstr(error.message, "none of the 2 checkpoints is complete"));
        }
    }
    optimizer_destroy(o);
}

static void a_renamed_checkpoint_is_not_believed(void **state) {
    (void)state;
    struct optimizer *o = make_optimizer();
    assert_int_equal(save(o, 10, 2), STATUS_OK);
    char from[4096];
    snprintf(from, sizeof from, "%s", in_step(10, ""));
    assert_int_equal(rename(from, in_step(30, "")), 0);
    assert_int_equal(found_step(o, NULL), -2);
    assert_non_null(strstr(error.message, "holds the state of step 10"));
    optimizer_destroy(o);
}

static void another_model_is_refused(void **state) {
    (void)state;
    struct optimizer *o = make_optimizer();
    assert_int_equal(save(o, 10, 2), STATUS_OK);
    struct checkpoint c;
    assert_int_equal(checkpoint_find(&c, checkpoints, &error), STATUS_OK);
    fill(o, 77);
    list[0]->shape[0] = 35;
    list[0]->shape[1] = 10;
    assert_int_equal(checkpoint_read(&c, o, &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "tensor model.a.weight: found F32 [70, 5]"));
    list[0]->shape[0] = 70;
    list[0]->shape[1] = 5;
    list[1]->name = "other";
    assert_int_equal(checkpoint_read(&c, o, &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "tensor other is missing"));
    list[1]->name = "model.norm.weight";
    assert_true(holds(o, 77));   /* nothing was changed */
    checkpoint_release(&c);
    optimizer_destroy(o);
}

static void leftovers_are_cleaned(void **state) {
    (void)state;
    char path[4096];
    struct optimizer *o = make_optimizer();
    assert_int_equal(save(o, 10, 3), STATUS_OK);
    assert_int_equal(save(o, 20, 3), STATUS_OK);
    assert_int_equal(save(o, 30, 3), STATUS_OK);
    flip(in_step(30, "state.json"), 30);
    snprintf(path, sizeof path, "%s/tmp-step-00000040", checkpoints);
    assert_int_equal(folder_create(path, &error), STATUS_OK);
    snprintf(path, sizeof path, "%s/tmp-step-00000040/parameters.safetensors.1-2.tmp", checkpoints);
    assert_int_equal(file_replace(path, "x", 1, &error), STATUS_OK);
    assert_int_equal(checkpoint_clean(checkpoints, 20, &error), STATUS_OK);
    snprintf(path, sizeof path, "%s/tmp-step-00000040", checkpoints);
    assert_false(file_exists(path));
    assert_false(file_exists(in_step(30, "")));
    snprintf(path, sizeof path, "%s/damaged-step-00000030/state.json", checkpoints);
    assert_true(file_exists(path));
    int damaged = 1;
    assert_int_equal(found_step(o, &damaged), 20);
    assert_int_equal(damaged, 0);
    assert_int_equal(save(o, 30, 3), STATUS_OK);
    assert_int_equal(found_step(o, NULL), 30);
    optimizer_destroy(o);
}

/* A limit on file sizes is a full disk: every write can fail. The last checkpoint stays,
 * nothing half-written remains. */
static void a_full_disk_loses_nothing(void **state) {
    (void)state;
    struct optimizer *o = make_optimizer();
    assert_int_equal(save(o, 10, 2), STATUS_OK);
    struct stat about[2];
    assert_int_equal(stat(in_step(10, "moments.safetensors"), &about[0]), 0);
    assert_int_equal(stat(in_step(10, "parameters.safetensors"), &about[1]), 0);
    struct rlimit before;
    getrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, SIG_IGN);
    for (rlim_t limit = 0; limit < (rlim_t)about[0].st_size; limit += (rlim_t)about[0].st_size / 20) {
        struct rlimit small = { .rlim_cur = limit, .rlim_max = before.rlim_max };
        setrlimit(RLIMIT_FSIZE, &small);
        enum status status = save(o, 20, 2);
        setrlimit(RLIMIT_FSIZE, &before);
        assert_int_equal(status, STATUS_IO);
        assert_non_null(
            strstr(error.message, limit < (rlim_t)about[1].st_size ? "parameters.safetensors" : "moments.safetensors"));
        assert_non_null(strstr(error.message, "File too large"));
        assert_false(file_exists(in_step(20, "")));
        char path[4096];
        snprintf(path, sizeof path, "%s/tmp-step-00000020", checkpoints);
        assert_false(file_exists(path));
        assert_int_equal(found_step(o, NULL), 10);
    }
    signal(SIGXFSZ, SIG_DFL);
    assert_int_equal(save(o, 20, 2), STATUS_OK);
    assert_int_equal(found_step(o, NULL), 20);
    optimizer_destroy(o);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(everything_comes_back, empty_folder),
        cmocka_unit_test_setup(moments_in_bf16_come_back, empty_folder),
        cmocka_unit_test_setup(states_have_their_rules_names, empty_folder),
        cmocka_unit_test_setup(older_formats_are_refused, empty_folder),
        cmocka_unit_test_setup(the_last_ones_are_kept, empty_folder),
        cmocka_unit_test_setup(damage_falls_back, empty_folder),
        cmocka_unit_test_setup(a_renamed_checkpoint_is_not_believed, empty_folder),
        cmocka_unit_test_setup(another_model_is_refused, empty_folder),
        cmocka_unit_test_setup(leftovers_are_cleaned, empty_folder),
        cmocka_unit_test_setup(a_full_disk_loses_nothing, empty_folder),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
