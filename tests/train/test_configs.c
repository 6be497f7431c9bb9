/* Every file of configs/ is read without a warning, its keys of `train` fit to its model, and its training can be
 * planned. */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "train/settings.h"

static struct error error;

static void check_config(const char *path) {
    struct settings settings;
    struct config config;
    struct arena arena = {0};
    struct model *model;
    json_t *root;
    enum isa isa;
    double flops = 0;
    if (json_load_path(&root, path, &error) != STATUS_OK) fail_msg("%s", error.message);
    const bool trains = json_object_get(root, "train") != NULL;
    /* left to the data */
    if (!json_object_get(root, "vocab_size")) json_object_set_new(root, "vocab_size", json_integer(512));
    if (settings_parse(&settings, root, path, &error) != STATUS_OK) fail_msg("%s", error.message);
    if (config_parse(&config, root, path, &arena, &error) != STATUS_OK) fail_msg("%s", error.message);
    if (config.warning_count) fail_msg("%s", config.warnings[0]);
    settings_settle_model(&settings, &config);
    if (settings_check_model(&settings, &config, path, "train.", &error) != STATUS_OK) fail_msg("%s", error.message);
    assert_true(settings.sequence_length <= config.max_position_embeddings);
    const struct schedule schedule = settings_schedule(&settings);
    /* a batch that grows has grown */
    if (trains)
        assert_int_equal(schedule_batch(&schedule, schedule_tokens(&schedule, settings.steps)), settings.batch_size);
    const struct objective objective = settings_objective(&settings);
    assert_int_equal(isa_select(&isa, &error), STATUS_OK);
    if (model_create(&model, &config, kernels_for(isa), NULL, settings_compute(&settings), &error) != STATUS_OK)
        fail_msg("%s", error.message);
    model->config_arena = arena;
    assert_true(model_plan_training(model, trains ? settings.micro_batch_size : 1, settings.sequence_length, &objective,
                                    &flops) > 0);
    assert_true(flops > 0);
    model_destroy(model);
    json_decref(root);
}

static void configs_are_read_and_planned(void **state) {
    (void)state;
    DIR *folder = opendir("configs");
    int count = 0;
    if (!folder) fail_msg("no folder configs: run from the project's root");
    for (const struct dirent *entry; (entry = readdir(folder));) {
        const size_t length = strlen(entry->d_name);
        char path[300];
        if (length < 5 || strcmp(entry->d_name + length - 5, ".json") != 0) continue;
        snprintf(path, sizeof path, "configs/%s", entry->d_name);
        check_config(path);
        count++;
    }
    closedir(folder);
    assert_true(count >= 12);
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(configs_are_read_and_planned) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
