/* Every folder beside this file against the program's doors (logits, grads, steps, generate): what PyTorch computes for
 * tiny models.
 *
 * logits and grads: each tensor's distance, relative to its norm, at most max(1e-5, 8 x the noise that plain fp32 costs
 * PyTorch itself). steps: the same for the change that ten optimizer steps made, at most max(2e-4, 8 x noise). greedy:
 * the same ids. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <math.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "io/json.h"
#include "io/safetensors.h"

extern char **environ;

#define FOLDERS "tests/golden"
#define PATH 512

static char scratch[64];

/* Runs the program; its standard output goes to scratch/stdout. Exit status. */
static int run(char *const arguments[]) {
    char out[PATH];
    snprintf(out, sizeof out, "%s/stdout", scratch);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", 0, 0);
    posix_spawn_file_actions_addopen(&actions, 1, out, 0x241 /* O_WRONLY | O_CREAT | O_TRUNC */, 0600);
    pid_t child;
    int status = -1;
    if (posix_spawn(&child, arguments[0], &actions, NULL, arguments, environ) == 0) waitpid(child, &status, 0);
    posix_spawn_file_actions_destroy(&actions);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

static char *program(void) {
    char *path = getenv("DEEPSEEK");
    return path ? path : (char *)"./deepseek";
}

static double value_at(const struct safetensors_entry *e, uint64_t i) {
    float f;
    uint16_t u;
    if (e->dtype == DTYPE_F32) return memcpy(&f, e->data + 4 * i, 4), (double)f;
    assert_int_equal(e->dtype, DTYPE_BF16);
    return memcpy(&u, e->data + 2 * i, 2), (double)bf16_to_float(u);
}

static uint64_t count_of(const struct safetensors_entry *e) {
    uint64_t n = 1;
    for (int i = 0; i < e->rank; i++) n *= (uint64_t)e->shape[i];
    return n;
}

/* Distance of every expected tensor, in multiples of what is allowed; `start` (may be NULL): where the steps began. */
static void compare(const char *what, const char *expected_path, const char *got_path, const struct safetensors *start,
                    const json_t *noise, double least) {
    struct safetensors *expected, *got;
    struct error error;
    if (safetensors_open_file(&expected, expected_path, &error) || safetensors_open_file(&got, got_path, &error))
        fail_msg("%s: %s", what, error.message);
    for (int64_t i = 0; i < safetensors_count(expected); i++) {
        const struct safetensors_entry *e = safetensors_at(expected, i), *g = safetensors_find(got, e->name),
                                       *s = start ? safetensors_find(start, e->name) : NULL;
        if (!g) fail_msg("%s: %s is missing", what, e->name);
        assert_int_equal(g->rank, e->rank);
        for (int d = 0; d < e->rank; d++) assert_int_equal(g->shape[d], e->shape[d]);
        double norm = 0, change = 0, distance = 0;
        for (uint64_t j = 0; j < count_of(e); j++) {
            const double x = value_at(e, j), y = value_at(g, j), from = s ? value_at(s, j) : 0;
            norm += x * x;
            change += (x - from) * (x - from);
            distance += (x - y) * (x - y);
        }
        const double size = sqrt(s ? change : norm), scale = sqrt(norm);
        const double allowed = fmax(least, 8 * json_number_value(json_object_get(noise, e->name)) *
                                               (size > 0 ? scale / size : 1));
        const double off = size > 0 ? sqrt(distance) / size : sqrt(distance);
        if (!(off <= allowed)) fail_msg("%s: %s is off by %.2e, %.2e allowed", what, e->name, off, allowed);
    }
    safetensors_close(expected);
    safetensors_close(got);
    unlink(got_path);
}

static json_t *load(const char *folder, const char *name) {
    char path[PATH];
    json_t *root;
    struct error error;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    if (json_load_path(&root, path, &error)) fail_msg("%s", error.message);
    return root;
}

static bool has_tensor(const char *path, const char *name) {
    struct safetensors *st;
    struct error error;
    if (safetensors_open_file(&st, path, &error)) fail_msg("%s", error.message);
    const bool found = safetensors_find(st, name) != NULL;
    safetensors_close(st);
    return found;
}

static void check_same_file(const char *a, const char *b) {
    char *texts[2];
    size_t sizes[2];
    struct error error;
    for (int i = 0; i < 2; i++)
        if (file_read(i ? b : a, SIZE_MAX, &texts[i], &sizes[i], &error)) fail_msg("%s", error.message);
    assert_int_equal(sizes[0], sizes[1]);
    assert_memory_equal(texts[0], texts[1], sizes[0]);
    for (int i = 0; i < 2; i++) free(texts[i]);
    unlink(b);
}

/* Of all positions at once, and through the cache in pieces: the same bytes, those of the first MTP module too where
 * the folder has them. */
static void check_logits(const char *folder, const json_t *noise) {
    char tokens[PATH], out[PATH], pieces[PATH], expected[PATH];
    snprintf(tokens, sizeof tokens, "%s/tokens.json", folder);
    snprintf(expected, sizeof expected, "%s/logits.safetensors", folder);
    snprintf(out, sizeof out, "%s/out.safetensors", scratch);
    snprintf(pieces, sizeof pieces, "%s/pieces.safetensors", scratch);
    char *mtp = has_tensor(expected, "mtp_logits") ? (char *)"--with-mtp" : NULL;
    assert_int_equal(run((char *[]){program(), "logits", (char *)folder, "--tokens", tokens, "-o", out, mtp, NULL}), 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(run((char *[]){program(), "logits", (char *)folder, "--tokens", tokens, "-o", pieces,
                                        "--chunk", i ? "1" : "5", mtp, NULL}),
                         0);
        check_same_file(out, pieces);
    }
    compare("logits", expected, out, NULL, json_object_get(noise, "logits"), 1e-5);
}

static void check_door(const char *folder, const char *door, const char *label, const json_t *noise) {
    char tokens[PATH], settings[PATH], out[PATH], expected[PATH];
    const int steps = strcmp(door, "steps") == 0;
    snprintf(tokens, sizeof tokens, steps ? "%s/%s.tokens.json" : "%s/tokens.json", folder, label);
    snprintf(settings, sizeof settings, "%s/%s.json", folder, label);
    snprintf(expected, sizeof expected, "%s/%s.safetensors", folder, label);
    snprintf(out, sizeof out, "%s/out.safetensors", scratch);
    assert_int_equal(run((char *[]){program(), (char *)door, (char *)folder, "--tokens", tokens, "--settings", settings,
                                    "-o", out, NULL}),
                     0);
    struct safetensors *start = NULL;
    struct error error;
    if (steps && safetensors_open_folder(&start, folder, &error)) fail_msg("%s", error.message);
    compare(label, expected, out, start, json_object_get(noise, label), steps ? 2e-4 : 1e-5);
    safetensors_close(start);
}

static void check_greedy(const char *folder) {
    json_t *greedy = load(folder, "greedy.json");
    const json_t *continuations = json_object_get(greedy, "continuations");
    char prompts[PATH], count[24];
    struct error error;
    snprintf(prompts, sizeof prompts, "%s/prompts.json", scratch);
    snprintf(count, sizeof count, "%zu", json_array_size(json_array_get(continuations, 0)));
    assert_int_equal(json_save_path(json_object_get(greedy, "prompts"), prompts, &error), STATUS_OK);
    assert_int_equal(run((char *[]){program(), "generate", (char *)folder, "--tokens", prompts, "-n", count,
                                    "--temperature", "0", "--ignore-eos", "--json", NULL}),
                     0);
    json_t *got = load(scratch, "stdout");
    assert_true(json_equal(got, continuations));
    json_decref(got);
    json_decref(greedy);
}

static void check_folder(const char *folder) {
    json_t *noise = load(folder, "noise.json");
    check_logits(folder, noise);
    struct dirent **names;
    const int count = scandir(folder, &names, NULL, alphasort);
    assert_true(count > 0);
    for (int i = 0; i < count; i++) {
        char label[256];
        snprintf(label, sizeof label, "%s", names[i]->d_name);
        char *suffix = strstr(label, ".safetensors");
        free(names[i]);
        if (!suffix) continue;
        *suffix = 0;
        if (strncmp(label, "grads_", 6) == 0) check_door(folder, "grads", label, noise);
        if (strncmp(label, "steps_", 6) == 0) check_door(folder, "steps", label, noise);
    }
    free(names);
    check_greedy(folder);
    json_decref(noise);
}

static void test_folder(void **state) { check_folder(*state); }

int main(void) {
    snprintf(scratch, sizeof scratch, "/tmp/deepseek-golden-XXXXXX");
    if (!mkdtemp(scratch)) return 1;
    static char folders[64][PATH];
    struct CMUnitTest tests[64];
    int count = 0;
    DIR *directory = opendir(FOLDERS);
    for (struct dirent *entry; directory && count < 64 && (entry = readdir(directory));) {
        if (entry->d_name[0] == '.') continue;
        snprintf(folders[count], PATH, "%s/%s", FOLDERS, entry->d_name);
        if (!file_is_folder(folders[count])) continue;
        tests[count] = (struct CMUnitTest){folders[count], test_folder, NULL, NULL, folders[count]};
        count++;
    }
    if (directory) closedir(directory);
    if (count == 0) {
        fprintf(stderr, "no folders in %s: run from the project's root\n", FOLDERS);
        return 1;
    }
    const int failed = _cmocka_run_group_tests("golden", tests, (size_t)count, NULL, NULL);
    struct error error;
    folder_remove(scratch, &error);
    return failed;
}
